"""Events on their way to one receiver: kept, sent one after the other, tried again, and dropped when too many wait.

`put` never waits, whatever the receiver does; a thread of its own sends. What is newest is worth most, so the
oldest goes when there is no room. Only this module knows when something is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from edge_agent.announcing.event_record import Event

MOST_WAITING: Final = 1000
_PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_log = logging.getLogger(__name__)


class NotDelivered(Exception):
    """The receiver cannot be reached, or does not take anything at the moment; the text says how that showed."""


class Undeliverable(Exception):
    """The receiver does not take this very event, now or later."""


class Link(Protocol):
    """How one receiver is reached. `send` may take its time; `abort` makes it end soon, from another thread."""

    def send(self, event: Event) -> None:
        """Deliver. Raises NotDelivered, Undeliverable."""

    def abort(self) -> None:
        """End whatever `send` waits for."""

    def close(self) -> None:
        """Say goodbye; called in the thread that sends, once nothing more will be sent."""


@dataclass(frozen=True, slots=True)
class ChannelNumbers:
    """What became of the events for one receiver; `failures` counts tries."""

    channel: str
    sent: int
    dropped: int
    failures: int
    waiting: int


class Outbox:
    """The events for one receiver, which `channel` names ("webhook", "mqtt") and `place` tells where it is."""

    def __init__(
        self,
        channel: str,
        place: str,
        link: Link,
        *,
        most: int = MOST_WAITING,
        pauses_seconds: tuple[float, ...] = _PAUSES_SECONDS,
    ) -> None:
        self._channel = channel
        self._place = place
        self._link = link
        self._most = most
        self._pauses_seconds = pauses_seconds
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._busy = False
        self._sent = self._dropped = self._failures = self._failures_in_a_row = 0
        self._thread = threading.Thread(target=self._run, name=f"events {channel}", daemon=True)

    def start(self) -> None:
        """Send from now on."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Keep an event to be sent; never waits."""
        with self._changed:
            if len(self._events) >= self._most:
                self._events.popleft()
                self._dropped += 1
            self._events.append(event)
            self._changed.notify()

    def numbers(self) -> ChannelNumbers:
        """Return what can be said at this moment."""
        with self._changed:
            waiting = len(self._events) + self._busy
            return ChannelNumbers(self._channel, self._sent, self._dropped, self._failures, waiting)

    def close(self, until: float) -> None:
        """Send what waits if that works at once, and end; at `until` (monotonic) at the latest."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._link.abort()

    def _run(self) -> None:
        while (event := self._next()) is not None:
            while not self._deliver(event) and self._pause():
                pass
        self._link.close()

    def _next(self) -> Event | None:
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._events or self._closing)
            if self._closing and (not self._events or self._failures_in_a_row):
                return None
            self._busy = True
            return self._events.popleft()

    def _deliver(self, event: Event) -> bool:
        """Try once; return whether the event is dealt with."""
        try:
            self._link.send(event)
        except Undeliverable as error:
            _log.warning("events to %s: one was not taken: %s", self._place, error)
            with self._changed:
                self._dropped += 1
            return True
        except Exception as error:
            self._note_failure(error)
            return False
        with self._changed:
            self._sent += 1
            was_failing, self._failures_in_a_row = self._failures_in_a_row > 0, 0
        if was_failing:
            _log.info("events to %s arrive again", self._place)
        return True

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            self._failures_in_a_row += 1
            is_first = self._failures_in_a_row == 1
        if not isinstance(error, NotDelivered):
            _log.debug("events to %s failed", self._place, exc_info=True)
        if is_first and not self._closing:
            what = str(error) if isinstance(error, NotDelivered) else f"{type(error).__name__}: {error}"
            _log.warning(
                "events to %s do not arrive (%s); at most %d are kept and tried again",
                self._place,
                what,
                self._most,
            )

    def _pause(self) -> bool:
        """Wait before the next try; return whether there is one."""
        pause = self._pauses_seconds[min(self._failures_in_a_row, len(self._pauses_seconds)) - 1]
        with self._changed:
            self._changed.wait_for(lambda: self._closing, pause)
            return not self._closing
