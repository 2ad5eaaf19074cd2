"""When the roots are scanned: in small pieces, now and then, and at once after events were lost.

Only this module knows what scans may cost in time. A scan of a share takes minutes; in between its pieces the
watcher hands out what is quiet.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edge_agent.watching.scanning import FolderScan
    from edge_agent.watching.watched_root import WatchedRoot

SCAN_DUTY: Final = 0.015
"""At most this share of the time goes into finding what is new; looking at what is done has its own budget."""
FORCED_DUTY: Final = 0.2
"""The same for scans that make up for lost events, one after the other."""
UNRELIABLE_SCAN_SECONDS: Final = 5.0
_SLICE_SECONDS: Final = 0.1


class ScanRota:
    """Scans of `roots`, and of folders that appear in them."""

    def __init__(
        self, roots: Sequence[WatchedRoot], *, scan_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._roots = roots
        self._scan_seconds = scan_seconds
        self._clock = clock
        self._to_enter: deque[tuple[FolderScan, str]] = deque()
        self._entering: Iterator[None] | None = None
        self._scanning: Iterator[None] | None = None
        self._everything = False
        self._ended = self._next_forced = float("-inf")
        self._pass_seconds = 0.0
        self.left_out = False
        """Files were found for which there was no room: scan again as soon as there is."""
        self.scans = 0
        self.last_scan_seconds: float | None = None
        self.scanned: datetime | None = None
        """When (UTC) the last scan of all roots came to its end."""

    @property
    def period_seconds(self) -> float:
        """How long it is from one scan to the next while nothing special happens: large folders rest longer."""
        return max(self._scan_seconds, self._pass_seconds / SCAN_DUTY)

    @property
    def at_work(self) -> bool:
        """Whether a scan waits to go on."""
        return self._scanning is not None or self._entering is not None or bool(self._to_enter)

    def look_at_everything(self) -> None:
        """Scan soon, each single file. May be called from any thread."""
        self._everything = True

    def enter(self, scan: FolderScan, folder: str) -> None:
        """Scan a folder that appeared."""
        self._to_enter.append((scan, folder))

    def next_scan(self, *, has_room: bool = True) -> float:
        """Return when the next scan is due."""
        if self._everything:
            return self._next_forced
        if self.left_out and has_room:
            return self._ended
        pause = self._scan_seconds
        if any(root.doubt() is not None for root in self._roots):
            pause = min(pause, UNRELIABLE_SCAN_SECONDS)
        return self._ended + max(pause, self._pass_seconds / SCAN_DUTY)

    def go_on(self, *, has_room: bool = True) -> bool:
        """Scan for a moment, if there is anything to scan; return whether a scan of all came to its end."""
        until, scans = self._clock() + _SLICE_SECONDS, self.scans
        while True:
            if self._entering is None and self._to_enter:
                scan, folder = self._to_enter.popleft()
                self._entering = scan.below(folder)
            if self._entering is not None:
                self._entering = _advanced(self._entering)
            elif self._scanning is not None:
                self._scanning = _advanced(self._scanning)
            elif scans == self.scans and self._clock() >= self.next_scan(has_room=has_room):
                self._scanning = self._scan_all()
            else:
                return self.scans > scans
            if self._clock() > until:
                return self.scans > scans

    def _scan_all(self) -> Iterator[None]:
        everything, self._everything, self.left_out = self._everything, False, False
        pass_seconds = look_seconds = 0.0
        for root in self._roots:
            scan = root.scan
            if scan is None:
                continue
            for _ in scan.whole_pass(everything=everything):
                yield
                if root.scan is not scan:
                    # The folder went away under the scan; when it returns there is another.
                    break
            pass_seconds += scan.pass_seconds
            look_seconds += scan.look_seconds
        self.scans += 1
        self._pass_seconds, self.last_scan_seconds = pass_seconds, pass_seconds + look_seconds
        self._ended, self.scanned = self._clock(), datetime.now(UTC)
        self._next_forced = self._ended + self.last_scan_seconds / FORCED_DUTY


def _advanced(scan: Iterator[None]) -> Iterator[None] | None:
    try:
        next(scan)
    except StopIteration:
        return None
    return scan
