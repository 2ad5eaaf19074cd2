"""Folders -> quiet paths: which files are new or changed, and finished as far as `stat` can tell.

The system's change events are hints that make it quick; scans of its own, compared with what is known, are
the truth (every system loses events under load). It opens nothing: it lists folders and asks for sizes and
times. All waits are on a monotonic clock. The parts that meet here are in `watching`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.config import DEFAULT_INCLUDE
from edge_agent.files import is_our_temporary
from edge_agent.output_places import is_own_output
from edge_agent.watching.change_events import NativeHints
from edge_agent.watching.complaints import Complaints
from edge_agent.watching.folder_listing import ListingRules, entry_rule, name_rule, regular_stamp
from edge_agent.watching.known import is_state
from edge_agent.watching.scan_rota import ScanRota
from edge_agent.watching.scanning import Candidate, FolderScan, ScanRules
from edge_agent.watching.settling import WaitingRoom
from edge_agent.watching.volumes import Volume, volume_of
from edge_agent.watching.watched_root import RootRules, WatchedRoot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from edge_agent.files import FileStamp
    from edge_agent.watching.change_events import Hints
    from edge_agent.watching.known import Known
    from edge_agent.watching.settling import Waiting
    from edge_agent.watching.watched_root import FolderHealth

BATCH: Final = 16
"""How many quiet files are handed out at once; the rest stay here, where they cost little."""
NEWEST_BATCH: Final = 2
"""The same when the newest goes first: what is handed out can no longer be overtaken."""
MOST_PENDING: Final = 20_000
"""Files that are remembered as waiting; beyond that the next scan finds them again."""
_HINTS_AT_ONCE: Final = 500
_ROOT_CHECK_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 1.0
_COALESCE_SECONDS: Final = 0.02
_BLOCKED_SECONDS: Final = 5.0
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class QuietFile:
    """A file whose size and time did not change over the quiet window, and when (UTC) that was found."""

    path: Path
    stamp: FileStamp
    settled: datetime


@dataclass(frozen=True, slots=True)
class WatchHealth:
    """What the watcher is doing; `waiting` counts files not yet quiet or not yet asked for, `ready` those due.

    `oldest_waiting_seconds` is how long the file has been unanswered that was seen first, handed out or not.
    `scanned` is when (UTC) the last scan of everything came to its end.
    """

    folders: tuple[FolderHealth, ...]
    waiting: int
    in_hand: int
    scans: int
    last_scan_seconds: float | None
    ready: int = 0
    oldest_waiting_seconds: float | None = None
    unreadable_folders: int = 0
    scanned: datetime | None = None
    scan_period_seconds: float = 0.0


class Watcher:
    """Watch `folders` with everything below them, for file names that match `include` and not `exclude`.

    A folder whose name matches `exclude` is not entered. With `sidecars_beside` a file is done only while its
    sidecar lies beside it. What a crash of `owner` left in the folders is removed. One thread runs `watch`;
    all else but `step` may be called from any other. A file that was handed out is not handed out again
    before `release` or `rearm` is called for it.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        known: Known,
        *,
        include: Iterable[str] = DEFAULT_INCLUDE,
        exclude: Iterable[str] = (),
        quiet_seconds: float = 1.0,
        share_quiet_seconds: float = 3.0,
        scan_seconds: float = 10.0,
        cold_scan_seconds: float = 600.0,
        newest_first: bool = False,
        sidecars_beside: bool = False,
        owner: str = "",
        hints: Callable[[], Hints] | None = None,
        volume: Callable[[Path], Volume] = volume_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        exclude = tuple(exclude)
        self._known = known
        self._listing = ListingRules(
            name_rule(include, exclude), entry_rule(exclude), sidecars=sidecars_beside, owner=owner
        )
        self._cold_scan_seconds = cold_scan_seconds
        self._batch = NEWEST_BATCH if newest_first else BATCH
        self._clock = clock
        self._complaints = Complaints(clock)
        self._clean: set[str] = set()
        rules = RootRules(
            quiet_seconds=quiet_seconds,
            share_quiet_seconds=share_quiet_seconds,
            new_hints=hints or NativeHints,
            volume_of=volume,
            on_event=self._hint,
            on_overflow=self._events_were_lost,
            new_scan=self._new_scan,
            complaints=self._complaints,
            clock=clock,
        )
        self._roots = [WatchedRoot(folder, rules) for folder in folders]
        self._rota = ScanRota(self._roots, scan_seconds=scan_seconds, clock=clock)
        self._room = WaitingRoom(newest_first=newest_first)
        self._in_hand: dict[str, FileStamp] = {}
        self._wake = threading.Event()
        self._hinted: set[str] = set()
        self._answers: queue.SimpleQueue[tuple[str, float | None]] = queue.SimpleQueue()
        self._next_root_check = float("-inf")
        self._undelivered = 0
        self._oldest_since: float | None = None
        self._next_due = _NEVER

    def watch(self, stop: threading.Event) -> Iterator[QuietFile]:
        """Yield quiet files until `stop` is set."""
        try:
            while not stop.is_set():
                batch = self.step()
                self._undelivered = len(batch)
                for quiet in batch:
                    self._undelivered -= 1
                    yield quiet
                self._wait(stop)
        finally:
            for root in self._roots:
                root.stop_events("off: not watching")

    def release(self, path: Path) -> None:
        """Say that a file handed out is done; if it changed since, it will come again."""
        self._answer(path, None)

    def rearm(self, path: Path, after_seconds: float) -> None:
        """Hand a file out again after so long, or sooner if it changes."""
        self._answer(path, max(0.0, after_seconds))

    def expect_event(self, path: Path) -> None:
        """Say that `path` was just written below a root: without an event, events are not relied on."""
        root = self._root_of(str(path))
        if root is not None and root.has_events:
            root.trust.expect(str(path))

    def look_again(self) -> None:
        """Look at each single file soon: what counts as done may have changed."""
        self._rota.look_at_everything()
        self._wake.set()

    def busy(self) -> bool:
        """Whether a file could be handed out at this moment."""
        return self._undelivered > 0 or self._room.ripe > 0 or self._next_due <= self._clock()

    def gone(self) -> dict[str, frozenset[str]]:
        """Return names that are known and no longer there, by folder, as far as the scans have seen."""
        scans = [scan for root in self._roots if (scan := root.scan)]
        return {folder: names for scan in scans for folder, names in scan.gone().items()}

    def health(self) -> WatchHealth:
        """Return what can be said at this moment."""
        since = self._oldest_since
        return WatchHealth(
            tuple(root.health() for root in self._roots),
            len(self._room),
            len(self._in_hand),
            self._rota.scans,
            self._rota.last_scan_seconds,
            ready=self._room.ripe,
            oldest_waiting_seconds=None if since is None else max(0.0, self._clock() - since),
            unreadable_folders=sum(scan.unreadable_folders for root in self._roots if (scan := root.scan)),
            scanned=self._rota.scanned,
            scan_period_seconds=self._rota.period_seconds,
        )

    def step(self) -> list[QuietFile]:
        """Look once at everything that is due, without waiting; return at most a batch of quiet files."""
        self._take_answers()
        if self._clock() >= self._next_root_check:
            self._next_root_check = self._clock() + _ROOT_CHECK_SECONDS
            for root in self._roots:
                if root.check():
                    self._rota.look_at_everything()
        self._take_hints()
        self._rota.go_on(has_room=self._has_room())
        quiet = self._take_quiet()
        self._oldest_since, self._next_due = self._room.oldest_since, self._room.next_due
        return quiet

    def _answer(self, path: Path, after_seconds: float | None) -> None:
        self._answers.put((str(path), after_seconds))
        self._wake.set()

    def _hint(self, path: str) -> None:
        # Called in the event source's thread, for our own writes as well, which are not worth waking up for.
        if is_own_output(path) or (path.endswith(".tmp") and is_our_temporary(Path(path))):
            return
        # Beyond the limit a scan is cheaper than that many single looks.
        if len(self._hinted) < MOST_PENDING:
            self._hinted.add(path)
            self._wake.set()
        else:
            self._events_were_lost()

    def _events_were_lost(self) -> None:
        for root in self._roots:
            root.trust.events_were_lost()
        self._rota.look_at_everything()
        self._wake.set()

    def _root_of(self, path: str) -> WatchedRoot | None:
        return max(
            (root for root in self._roots if root.holds(path)), key=lambda root: len(root.path), default=None
        )

    def _wait(self, stop: threading.Event) -> None:
        if self._rota.at_work or self._hinted or self._room.ripe:
            return
        next_scan = self._rota.next_scan(has_room=self._has_room())
        pause = min(next_scan, self._next_root_check, self._room.next_due) - self._clock()
        if self._wake.wait(min(max(pause, 0.0), _LONGEST_WAIT_SECONDS)):
            self._wake.clear()
            # A writer causes events by the hundred: gather some before looking.
            stop.wait(_COALESCE_SECONDS)

    def _take_answers(self) -> None:
        while True:
            try:
                path, after_seconds = self._answers.get_nowait()
            except queue.Empty:
                return
            stamp = self._in_hand.pop(path, None)
            if stamp is not None:
                self._take_answer(path, stamp, after_seconds)

    def _take_answer(self, path: str, stamp: FileStamp, after_seconds: float | None) -> None:
        if after_seconds is None:
            self._room.forget(path)
        else:
            self._room.put(path, stamp, self._clock(), self._clock() + after_seconds, again=True)
        # Events that came while the file was in hand were passed over.
        with contextlib.suppress(OSError):
            now = regular_stamp(path)
            if now is not None and now != stamp and not self._is_known(path, now):
                self._offer(Candidate(path, now))

    def _take_hints(self) -> None:
        for path in [self._hinted.pop() for _ in range(min(len(self._hinted), _HINTS_AT_ONCE))]:
            root = self._root_of(path)
            if root is None or root.scan is None:
                continue
            if all(self._listing.entered(name) for name in root.folders_on_the_way(path)):
                self._follow(path, root, root.scan)

    def _follow(self, path: str, root: WatchedRoot, scan: FolderScan) -> None:
        name = os.path.basename(path)  # noqa: PTH119 - a Path for each event costs more
        try:
            stamp = regular_stamp(path)
            is_folder = stamp is None and stat.S_ISDIR(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            scan.look_again(path)
            return
        if is_folder and path != root.path and self._listing.entered(name):
            self._rota.enter(scan, path)
        elif stamp is not None and self._listing.wanted(name):
            root.trust.heard_of_input()
            scan.note_activity(path)
            waiting = self._room.get(path)
            if waiting is not None:
                waiting.unhinted = False
            if not self._is_known(path, stamp) and not self._offer(Candidate(path, stamp)):
                scan.look_again(path)

    def _is_known(self, path: str, stamp: FileStamp) -> bool:
        known = self._known.of(Path(path))
        return known is not None and is_state(stamp, known)

    def _new_scan(self, root: str, volume: Volume) -> FolderScan:
        rules = ScanRules(self._listing, self._cold_scan_seconds, volume.folder_times)
        return FolderScan(
            root,
            self._known,
            rules,
            self._offer,
            clean=self._clean,
            complaints=self._complaints,
            clock=self._clock,
        )

    def _has_room(self) -> bool:
        return len(self._room) < MOST_PENDING // 2

    def _offer(self, candidate: Candidate) -> bool:
        """Have a file wait until it is quiet; return False when there is no room for it."""
        path, stamp, now = candidate.path, candidate.stamp, self._clock()
        root = self._root_of(path)
        if root is None:
            return True
        root.window.looked_at(path, stamp, now)
        if path in self._in_hand:
            return True
        earlier = self._room.get(path)
        if earlier is None and len(self._room) >= MOST_PENDING:
            self._rota.left_out = True
            return False
        if earlier is None or earlier.stamp != stamp:
            self._wait_for_quiet(root, path, stamp, forced=candidate.lacks_sidecar)
            if candidate.is_news and root.has_events:
                self._room.mark_unhinted(path)
        return True

    def _wait_for_quiet(
        self, root: WatchedRoot, path: str, stamp: FileStamp, *, forced: bool = False
    ) -> None:
        now = self._clock()
        window_seconds = root.window.seconds_for(stamp, self._room.waited_seconds(path, now))
        self._room.put(path, stamp, now, now + window_seconds, forced=forced)

    def _take_quiet(self) -> list[QuietFile]:
        quiet: list[QuietFile] = []
        self._room.ripen(self._clock())
        while len(quiet) < self._batch and (path := self._room.next_ripe()) is not None:
            root, waiting = self._root_of(path), self._room.get(path)
            if root is not None and waiting is not None and self._is_quiet(root, path, waiting):
                self._hand_out(root, path, waiting)
                quiet.append(QuietFile(Path(path), waiting.stamp, datetime.now(UTC)))
        return quiet

    def _is_quiet(self, root: WatchedRoot, path: str, waiting: Waiting) -> bool:
        """Compare with the stamp at the start of the window; have the file wait on, or forget it."""
        now = self._clock()
        try:
            stamp, is_readable = regular_stamp(path), True
        except (FileNotFoundError, NotADirectoryError):
            stamp, is_readable = None, root.is_still_there()
        except OSError:
            stamp, is_readable = None, False
        if not is_readable:
            # A share that does not answer says nothing about its files.
            self._room.put(path, waiting.stamp, now, now + _BLOCKED_SECONDS)
        elif stamp is not None and stamp != waiting.stamp:
            root.window.looked_at(path, stamp, now)
            self._wait_for_quiet(root, path, stamp)
        elif waiting.again or (stamp is not None and (waiting.forced or not self._is_known(path, stamp))):
            return True
        else:
            self._room.forget(path)
        return False

    def _hand_out(self, root: WatchedRoot, path: str, waiting: Waiting) -> None:
        if waiting.unhinted:
            root.trust.missed_a_file()
        if root.scan is not None:
            root.scan.clear_leftovers(os.path.dirname(path))  # noqa: PTH120
        root.window.counted_as_quiet(path, waiting.stamp, waiting.seen, self._clock())
        self._room.take(path)
        self._in_hand[path] = waiting.stamp
