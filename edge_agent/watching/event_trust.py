"""Whether change events below one folder can be believed.

Shares and some file systems take a watch and then tell nothing, or nothing of what another PC does. Two things
show it: a sidecar of ours that raised no event, and a file that only a scan found. The next event that proves
the contrary ends the doubt.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from edge_agent.output_places import is_own_output

if TYPE_CHECKING:
    from collections.abc import Callable

COOKIE_SECONDS: Final = 10.0
_MOST_HEARD: Final = 512


class EventTrust:
    """Doubts about the events of one folder. May be used from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[str, float] = {}
        self._heard: dict[str, None] = {}
        self._silent = self._missed = False

    def heard(self, path: str) -> None:
        """Note any event."""
        # By name only: some systems tell events under another spelling of the folder.
        name = os.path.basename(path)  # noqa: PTH119 - for each event
        with self._lock:
            self._silent = False
            if is_own_output(name) and self._expected.pop(name, None) is None:
                # Heard before it was expected: the worker writes, and only then we are told.
                self._heard[name] = None
                if len(self._heard) > _MOST_HEARD:
                    del self._heard[next(iter(self._heard))]

    def heard_of_input(self) -> None:
        """Note an event for a micrograph. Our own sidecars prove nothing about the writes of another PC."""
        self._missed = False

    def expect(self, path: str) -> None:
        """Note that an event for `path` must come, or came a moment ago."""
        name = os.path.basename(path)  # noqa: PTH119
        with self._lock:
            if name in self._heard:
                del self._heard[name]
            elif len(self._expected) < _MOST_HEARD:
                self._expected[name] = self._clock()

    def missed_a_file(self) -> None:
        """Note that a scan found a file which no event told of, though it had the time to."""
        self._missed = True

    def events_were_lost(self) -> None:
        """Wait for no event any more: they are known to be lost, and a scan makes up for it."""
        with self._lock:
            self._expected.clear()

    def doubt(self) -> str | None:
        """Return why events are not to be relied on, or None."""
        with self._lock:
            overdue = next(iter(self._expected.values()), None)
            if overdue is not None and self._clock() - overdue >= COOKIE_SECONDS:
                self._expected.clear()
                self._silent = True
        if self._silent:
            return "a file written here raised no event"
        return "a file was saved without an event" if self._missed else None
