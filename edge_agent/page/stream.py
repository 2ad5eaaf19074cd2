"""The live stream: what happened, sent to whoever has the page open, in order, none of them waited for.

The last 256 events are kept with their numbers. A listener that was away, or is slow, gets what it missed from
there; where that is not enough it is told to ask for everything anew (`resync`). Only this module knows the form
of server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

RING: Final = 256
MOST_LISTENERS: Final = 16
HEARTBEAT_SECONDS: Final = 5.0
_SILENT_LOOK_SECONDS: Final = 0.5
"""So often is asked whether an agent that fell silent speaks again."""
_RETRY_MS: Final = 1000
"""So soon a browser comes back after a stream has ended."""
_log = logging.getLogger(__name__)


class Hub:
    """Events by number, of one `epoch`: a start of the agent. Safe for several threads and loops.

    `is_alive` says whether the agent behind it still speaks; while it does not, there is no heartbeat, and the
    page sees that there is no contact.
    """

    def __init__(self, is_alive: Callable[[], bool] = lambda: True) -> None:
        self.epoch = secrets.token_hex(4)
        self.is_alive = is_alive
        self._lock = threading.Lock()
        self._ring: deque[bytes] = deque(maxlen=RING)
        self._number = 0
        self._listeners: set[Listener] = set()

    @property
    def number(self) -> int:
        """The number of the last event, 0 before the first."""
        return self._number

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def publish(self, kind: str, data: object) -> None:
        """Send an event to everybody; neither waits nor raises."""
        try:
            text = json.dumps(data, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            _log.warning("an event of the page was lost (%s): %s", kind, error)
            return
        with self._lock:
            self._number += 1
            self._ring.append(_event(kind, text, self.id_of(self._number)))
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.wake()

    def end_streams(self) -> None:
        """End all streams that are open; those who may come back do."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.end()

    def id_of(self, number: int) -> str:
        """Return the id of an event."""
        return f"{self.epoch}-{number}"

    def join(self, after: str | None) -> Listener | None:
        """Return a listener of this loop, from the event `after` (an id), else from this moment on.

        None where there are too many.
        """
        number = self._number_of(after)
        with self._lock:
            if len(self._listeners) >= MOST_LISTENERS:
                return None
            listener = Listener(self, self._number if number is None else number)
            self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Take a listener off."""
        with self._lock:
            self._listeners.discard(listener)

    def since(self, number: int) -> tuple[list[bytes], int]:
        """Return what came after an event, and the last number; a `resync` where that is not known any more."""
        with self._lock:
            last = self._number
            missed = last - number
            if 0 <= missed <= len(self._ring):
                return (
                    [self._ring[place] for place in range(len(self._ring) - missed, len(self._ring))],
                    last,
                )
        return [_event("resync", "{}", self.id_of(last))], last

    def _number_of(self, after: str | None) -> int | None:
        if not after:
            return None
        epoch, _, digits = after.partition("-")
        is_ours = epoch == self.epoch and digits.isascii() and digits.isdigit() and len(digits) < 20
        return int(digits) if is_ours else -1


class Listener:
    """One open stream; made and read in a loop, woken from anywhere."""

    def __init__(self, hub: Hub, number: int) -> None:
        self._hub = hub
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._is_woken = self._is_ended = False

    def wake(self) -> None:
        """Say that there is something; costs next to nothing while it has not been taken yet."""
        if self._is_woken:
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop has ended, and the listener with it
            self._hub.leave(self)

    def end(self) -> None:
        """End the stream soon."""
        self._is_ended, self._is_woken = True, False
        self.wake()

    async def parts(self) -> AsyncIterator[bytes]:
        """Give what there is to send, until the stream is ended."""
        loop = asyncio.get_running_loop()
        try:
            yield f"retry: {_RETRY_MS}\n\n".encode()
            beat_due = 0.0
            while not self._is_ended:
                self._is_woken = False
                self._news.clear()
                events, self._number = self._hub.since(self._number)
                if loop.time() >= beat_due and self._hub.is_alive():
                    beat_due = loop.time() + HEARTBEAT_SECONDS
                    events.append(
                        _event("heartbeat", json.dumps({"now": _now()}), self._hub.id_of(self._number))
                    )
                if events:
                    yield b"".join(events)
                await self._wait(max(_SILENT_LOOK_SECONDS, beat_due - loop.time()))
        finally:
            self.leave()

    def leave(self) -> None:
        """Be told nothing more."""
        self._hub.leave(self)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass


def _event(kind: str, text: str, event_id: str) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n".encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
