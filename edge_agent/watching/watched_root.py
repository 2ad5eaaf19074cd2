"""One watched folder: whether it is there, on what kind of volume, and whether change events come from it.

The folder may be missing, vanish, return, or be replaced by another mount. It is never made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.watching.change_events import Starting
from edge_agent.watching.event_trust import EventTrust
from edge_agent.watching.settling import QuietWindow
from edge_agent.watching.vanished import folder_identity
from edge_agent.watching.volumes import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.watching.change_events import Hints
    from edge_agent.watching.complaints import Complaints
    from edge_agent.watching.scanning import FolderScan

_START_PATIENCE_SECONDS: Final = 2.0
"""Adding a watch for each folder of a large tree takes longer: then it goes on beside the first scan."""
_RETRY_SECONDS: Final = 60.0
_MISSING: Final = "off: the folder is missing"


@dataclass(frozen=True, slots=True)
class FolderHealth:
    """One watched folder: whether it is there, and whether change events arrive ("on", or why not).

    `share`: it lies on a network share. `quiet_seconds`: for how long nothing may change in a file now.
    """

    path: Path
    present: bool
    events: str
    share: bool = False
    quiet_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RootRules:
    """What is the same for all roots."""

    quiet_seconds: float
    share_quiet_seconds: float
    new_hints: Callable[[], Hints]
    volume_of: Callable[[Path], Volume]
    on_event: Callable[[str], None]
    on_overflow: Callable[[], None]
    new_scan: Callable[[str, Volume], FolderScan]
    complaints: Complaints
    clock: Callable[[], float]


class WatchedRoot:
    """The state of one root. All but the two callbacks of events runs in the watcher's thread."""

    def __init__(self, folder: Path, rules: RootRules) -> None:
        self.path = str(folder)
        self._below = self.path.rstrip(os.sep) + os.sep
        self._rules = rules
        self._identity: tuple[int, int] | None = None
        self._volume = Volume()
        self._hints: Hints | None = None
        self._starting: Starting | None = None
        self._started = self._next_start = float("-inf")
        self._early_ends = 0
        self._events = _MISSING
        self.window = QuietWindow(rules.quiet_seconds)
        self.trust = EventTrust(rules.clock)
        self.scan: FolderScan | None = None
        """None while the folder is missing."""

    def holds(self, path: str) -> bool:
        """Whether `path` is this folder or lies below it."""
        return path == self.path or path.startswith(self._below)

    def folders_on_the_way(self, path: str) -> list[str]:
        """Return the names of the folders between this one and `path`."""
        return path[len(self._below) :].split(os.sep)[:-1]  # noqa: PTH206 - a Path for each event costs more

    def is_still_there(self) -> bool:
        """Whether the folder is there at this very moment, and no other disk in its place."""
        return self._identity is not None and folder_identity(self.path) == self._identity

    @property
    def has_events(self) -> bool:
        """Whether events are to be expected."""
        return self._hints is not None

    def doubt(self) -> str | None:
        """Return why its events are not to be relied on, or None; without events there is nothing to doubt."""
        return self.trust.doubt() if self.has_events else None

    def health(self) -> FolderHealth:
        """Return what can be said at this moment."""
        doubt = self.doubt()
        events = self._events if doubt is None else f"unreliable: {doubt}"
        return FolderHealth(
            Path(self.path), self._identity is not None, events, self._volume.is_share, self.window.seconds
        )

    def check(self) -> bool:
        """Look after the folder and its events; return whether everything in it must be looked at now."""
        identity = folder_identity(self.path)
        has_changed = identity != self._identity
        if has_changed:
            # Appeared, vanished, or another disk is mounted in its place: old watches see nothing of it.
            self._identity = identity
            self.stop_events(_MISSING)
            self._meet(identity)
        if identity is None:
            self._rules.complaints.about(f"root {self.path}", f"folder {self.path} is missing")
            return False
        self._rules.complaints.over(f"root {self.path}")
        return self._look_after_events() or has_changed

    def _meet(self, identity: tuple[int, int] | None) -> None:
        self._next_start = float("-inf")
        self.scan = None
        if identity is None:
            return
        rules = self._rules
        self._volume = rules.volume_of(Path(self.path))
        self.window.base_seconds = rules.share_quiet_seconds if self._volume.is_share else rules.quiet_seconds
        self.scan = rules.new_scan(self.path, self._volume)

    def _look_after_events(self) -> bool:
        """Start the events, or start them again; return whether they came on just now."""
        if self._hints is not None and not self._hints.alive():
            self.stop_events("off: ended, and are started again")
            self._put_off_next_start()
        if self._hints is not None or self._rules.clock() < self._next_start:
            return False
        if self._starting is None:
            self._events = "off: not started yet"
            self._starting = Starting(
                self._rules.new_hints(), Path(self.path), self._take_event, self._rules.on_overflow
            )
            finished = self._starting.finished(_START_PATIENCE_SECONDS)
        else:
            finished = self._starting.finished()
        return finished and self._adopt(self._starting)

    def _put_off_next_start(self) -> None:
        """Start at once what ran for a while, and more and more seldom what ends again and again."""
        now = self._rules.clock()
        self._early_ends = self._early_ends + 1 if now - self._started < _RETRY_SECONDS else 1
        self._next_start = now + min(2.0 ** (self._early_ends - 1) - 1.0, _RETRY_SECONDS)

    def _adopt(self, starting: Starting) -> bool:
        self._starting = None
        thing = f"events {self.path}"
        if starting.trouble is not None:
            # No more watches to be had, for example. A try walks over the whole tree: not every second.
            self._next_start = self._rules.clock() + _RETRY_SECONDS
            self._events = f"off: {starting.trouble}"
            self._rules.complaints.about(
                thing, f"{self.path}: no change events ({starting.trouble}); found by scans only"
            )
            return False
        self._hints, self._events, self._started = starting.hints, "on", self._rules.clock()
        self._rules.complaints.over(thing)
        self.trust.events_were_lost()
        return True

    def stop_events(self, why: str) -> None:
        """Stop the events; harmless when there are none."""
        if self._starting is not None:
            self._starting.abandon()
        if self._hints is not None:
            self._hints.stop()
        self._hints = self._starting = None
        self._events = why

    def _take_event(self, path: str) -> None:
        self.trust.heard(path)
        self._rules.on_event(path)
