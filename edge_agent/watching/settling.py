"""When a file counts as quiet, and which of the waiting files is next.

Only this module knows how long nothing may have changed before a file is taken for finished. It asks nothing
of the system: what `stat` said, and when (on a monotonic clock), is told to it.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edge_agent.files import FileStamp

LONGEST_WINDOW_SECONDS: Final = 30.0
_GAP_FACTOR: Final = 1.5
_SHRINK: Final = 0.95
"""What is left of the widening after each file that stayed put."""
_COARSE_SECONDS: Final = 2.1
"""FAT counts in steps of 2 s: within one step an overwrite of the same length changes nothing to be seen."""
_PATIENCE_SECONDS: Final = 60.0
"""A file that somebody keeps writing anew is waited for with the widened window for so long."""
_MOST_REMEMBERED: Final = 1000
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _HandedOut:
    stamp: FileStamp
    seen: float
    handed: float


class QuietWindow:
    """How long nothing may change in one folder's files; grows with the pauses of its writers.

    A file that had counted as quiet and then changed in place shows such a pause. A file put in its place
    (another inode) shows none, and what comes later than the longest window is a new save.
    """

    def __init__(self, base_seconds: float) -> None:
        self.base_seconds = base_seconds
        self._widened_seconds = 0.0
        self._handed_out: dict[str, _HandedOut] = {}

    @property
    def seconds(self) -> float:
        """The window as it is now."""
        return max(self.base_seconds, self._widened_seconds)

    def seconds_for(self, stamp: FileStamp, waited_seconds: float = 0.0) -> float:
        """Return the window for a file that has been waited for so long already."""
        window = self.seconds if waited_seconds < _PATIENCE_SECONDS else self.base_seconds
        return max(window, _COARSE_SECONDS) if stamp.modified_ns % _NS == 0 else window

    def counted_as_quiet(self, path: str, stamp: FileStamp, seen: float, now: float) -> None:
        """Note that a file is handed out; `seen` is when this state of it was first seen."""
        earlier = self._handed_out.pop(path, None)
        if earlier is not None and earlier.stamp == stamp:
            seen = earlier.seen
        self._handed_out[path] = _HandedOut(stamp, seen, now)
        while self._handed_out:
            oldest = next(iter(self._handed_out))
            stayed_put = now - self._handed_out[oldest].handed > LONGEST_WINDOW_SECONDS
            if not stayed_put and len(self._handed_out) <= _MOST_REMEMBERED:
                return
            del self._handed_out[oldest]
            if stayed_put:
                self._widened_seconds *= _SHRINK

    def looked_at(self, path: str, stamp: FileStamp, now: float) -> None:
        """Note how a file looks now: whether it changed after it had counted as quiet."""
        earlier = self._handed_out.get(path)
        if earlier is None or earlier.stamp == stamp:
            return
        del self._handed_out[path]
        if (earlier.stamp.device, earlier.stamp.inode) != (stamp.device, stamp.inode):
            return
        gap = now - earlier.seen
        by_its_times = (stamp.modified_ns - earlier.stamp.modified_ns) / _NS
        if 0 < by_its_times < gap:
            # The change may have been found late; the two writes lie closer together than that.
            gap = by_its_times
        if gap * _GAP_FACTOR <= LONGEST_WINDOW_SECONDS:
            self._widened_seconds = max(self._widened_seconds, gap * _GAP_FACTOR)


@dataclass(slots=True)
class Waiting:
    """One waiting file: its last known state, and since when it has been so."""

    stamp: FileStamp
    seen: float
    ticket: int
    again: bool
    """Handed out before: whoever has it on a list hears of it even when it is gone by then."""
    forced: bool
    """Handed out even if its state is known to be done: its sidecar is missing."""
    unhinted: bool
    """Found by a scan that should have had nothing to find; no event told of it so far."""
    is_ripe: bool = False


class WaitingRoom:
    """Files not yet due, and files that are due, oldest (or newest) modification first."""

    def __init__(self, *, newest_first: bool) -> None:
        self._sign = -1 if newest_first else 1
        self._files: dict[str, Waiting] = {}
        self._since: dict[str, float] = {}
        self._by_due: list[tuple[float, int, str]] = []
        self._by_age: list[tuple[int, int, str]] = []
        self._tickets = itertools.count()
        self.ripe = 0
        """How many files are due."""

    def __len__(self) -> int:
        return len(self._files)

    def get(self, path: str) -> Waiting | None:
        """Return a waiting file, or None."""
        return self._files.get(path)

    def waited_seconds(self, path: str, now: float) -> float:
        """Return for how long a file has been waited for, through all its changes and rests in other hands."""
        return now - self._since.get(path, now)

    @property
    def oldest_since(self) -> float | None:
        """When the file was first seen that has been unanswered for longest."""
        return next(iter(self._since.values()), None)

    @property
    def next_due(self) -> float:
        """When to look again; infinite when nothing waits."""
        return self._by_due[0][0] if self._by_due else float("inf")

    def put(
        self,
        path: str,
        stamp: FileStamp,
        now: float,
        due: float,
        *,
        again: bool = False,
        forced: bool = False,
    ) -> Waiting:
        """Have a file wait until `due`; an earlier entry for it is overtaken."""
        earlier = self._files.get(path)
        if earlier is not None:
            self.ripe -= earlier.is_ripe
            again, forced = again or earlier.again, forced or earlier.forced
        seen = earlier.seen if earlier is not None and earlier.stamp == stamp else now
        unhinted = earlier is not None and earlier.unhinted
        waiting = Waiting(stamp, seen, next(self._tickets), again, forced, unhinted)
        self._files[path] = waiting
        self._since.setdefault(path, now)
        heapq.heappush(self._by_due, (due, waiting.ticket, path))
        return waiting

    def mark_unhinted(self, path: str) -> None:
        """Note that a scan was the first to hear of a file."""
        self._files[path].unhinted = True

    def take(self, path: str) -> None:
        """Take a file out; it is still waited for, by somebody else."""
        waiting = self._files.pop(path, None)
        if waiting is not None:
            self.ripe -= waiting.is_ripe

    def forget(self, path: str) -> None:
        """Take a file out for good."""
        self.take(path)
        self._since.pop(path, None)

    def ripen(self, now: float) -> None:
        """Move what is due to where it is picked by age."""
        while self._by_due and self._by_due[0][0] <= now:
            _, ticket, path = heapq.heappop(self._by_due)
            waiting = self._files.get(path)
            # Entries that were overtaken by a later change are passed over here.
            if waiting is not None and waiting.ticket == ticket:
                waiting.is_ripe = True
                self.ripe += 1
                heapq.heappush(self._by_age, (self._sign * waiting.stamp.modified_ns, ticket, path))

    def next_ripe(self) -> str | None:
        """Return the next file that is due; whoever asks must `put`, `take` or `forget` it."""
        while self._by_age:
            _, ticket, path = heapq.heappop(self._by_age)
            waiting = self._files.get(path)
            if waiting is not None and waiting.ticket == ticket:
                return path
        return None
