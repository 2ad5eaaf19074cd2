"""Folders -> quiet paths: which files are new or changed, and finished as far as `stat` can tell.

The system's change events are hints that make it quick; a scan of its own, compared with what is already
known, is the truth (events are lost by every system under load, often silently). Only this module knows when
a file counts as quiet. It opens nothing: it lists folders and asks for sizes and times. All waits are on a
monotonic clock.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import queue
import stat
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from edge_agent.change_events import Hints, NativeHints
from edge_agent.config import DEFAULT_INCLUDE
from edge_agent.folder_listing import list_folder, name_rule, regular_stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from edge_agent.files import FileStamp

BATCH: Final = 16
"""How many quiet files are handed out at once; the rest stay here, where they cost little."""
MOST_PENDING: Final = 20_000
"""Files that are remembered as waiting; beyond that the next scan finds them again."""
SCAN_DUTY: Final = 0.02
"""At most this share of the time is spent scanning, however large the folders are."""
_ROOT_CHECK_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 0.25
_COALESCE_SECONDS: Final = 0.02
_BLOCKED_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuietFile:
    """A file whose size and time did not change over the quiet window, and when (UTC) that was found."""

    path: Path
    stamp: FileStamp
    settled: datetime


class KnownState(Protocol):
    """The state in which a file was done."""

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""

    @property
    def modified_ns(self) -> int:
        """Modification time in ns since 1970."""


class Known(Protocol):
    """What is already done: the journal, or a test's dictionary."""

    def of(self, path: Path) -> KnownState | None:
        """Return the state in which one file was done."""

    def in_folder(self, folder: Path) -> Mapping[str, KnownState]:
        """Return the files of one folder that are done, by name."""


@dataclass(frozen=True, slots=True)
class FolderHealth:
    """One watched folder: whether it is there, and whether change events arrive ("on", or why not)."""

    path: Path
    present: bool
    events: str


@dataclass(frozen=True, slots=True)
class WatchHealth:
    """What the watcher is doing; `waiting` counts files not yet quiet or not yet asked for."""

    folders: tuple[FolderHealth, ...]
    waiting: int
    in_hand: int
    scans: int
    last_scan_seconds: float | None


@dataclass(slots=True)
class _Root:
    path: str
    identity: tuple[int, int] | None = None
    hints: Hints | None = None
    events: str = "off: the folder is missing"


@dataclass(slots=True)
class _Pending:
    stamp: FileStamp
    due: float
    again: bool
    """Handed out before: whoever has it on a list hears of it even when it is gone by then."""


class Watcher:
    """Watch `folders` with everything below them, for file names that match `include` (case is ignored).

    One thread runs `watch`; `release`, `rearm`, `park` and `health` may be called from any other. A file that
    was handed out is not handed out again before one of the first three is called for it.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        known: Known,
        *,
        include: Iterable[str] = DEFAULT_INCLUDE,
        quiet_seconds: float = 1.0,
        scan_seconds: float = 10.0,
        hints: Callable[[], Hints] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roots = [_Root(str(folder)) for folder in folders]
        self._known = known
        self._wanted = name_rule(include)
        self._quiet_seconds = quiet_seconds
        self._scan_seconds = scan_seconds
        self._new_hints = hints or NativeHints
        self._clock = clock
        self._wake = threading.Event()
        self._hinted: set[str] = set()
        self._answers: queue.SimpleQueue[tuple[str, float | None]] = queue.SimpleQueue()
        self._pending: dict[str, _Pending] = {}
        self._order: list[tuple[float, int, str]] = []
        self._count = itertools.count()
        self._in_hand: dict[str, FileStamp] = {}
        self._parked: dict[str, FileStamp] = {}
        self._left_out = False
        self._next_root_check = self._next_scan = float("-inf")
        self._scans = 0
        self._last_scan_seconds: float | None = None
        self._complained: set[str] = set()

    def watch(self, stop: threading.Event) -> Iterator[QuietFile]:
        """Yield quiet files until `stop` is set."""
        try:
            while not stop.is_set():
                yield from self.step()
                self._wait(stop)
        finally:
            for root in self._roots:
                self._stop_hints(root, "off: not watching")

    def release(self, path: Path) -> None:
        """Say that a file handed out is done; if it changed since, it will come again."""
        self._answer(path, None)

    def rearm(self, path: Path, after_seconds: float) -> None:
        """Hand a file out again after so long, or sooner if it changes."""
        self._answer(path, max(0.0, after_seconds))

    def park(self, path: Path) -> None:
        """Give a file up until it changes."""
        self._answer(path, float("inf"))

    def health(self) -> WatchHealth:
        """Return what can be said at this moment."""
        folders = tuple(
            FolderHealth(Path(root.path), root.identity is not None, root.events) for root in self._roots
        )
        return WatchHealth(
            folders, len(self._pending), len(self._in_hand), self._scans, self._last_scan_seconds
        )

    def step(self) -> list[QuietFile]:
        """Look once at everything that is due, without waiting; return at most `BATCH` quiet files."""
        self._take_answers()
        if self._clock() >= self._next_root_check:
            self._check_roots()
        if self._clock() >= self._next_scan or (self._left_out and len(self._pending) < MOST_PENDING // 2):
            self._scan_all()
        self._take_hints()
        return self._take_quiet()

    def _answer(self, path: Path, after_seconds: float | None) -> None:
        self._answers.put((str(path), after_seconds))
        self._wake.set()

    def _hint(self, path: str) -> None:
        # Called in the event source's thread. Beyond the limit a scan is cheaper than that many single looks.
        if len(self._hinted) < MOST_PENDING:
            self._hinted.add(path)
        else:
            self._next_scan = float("-inf")
        self._wake.set()

    def _wait(self, stop: threading.Event) -> None:
        now = self._clock()
        until = min(
            self._next_scan, self._next_root_check, self._order[0][0] if self._order else float("inf")
        )
        if self._wake.wait(min(max(until - now, 0.0), _LONGEST_WAIT_SECONDS)):
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
            if stamp is not None and after_seconds == float("inf"):
                self._parked[path] = stamp
            elif stamp is not None and after_seconds is not None:
                self._set_due(path, stamp, after_seconds, again=True)
            # Events that came while the file was in hand were passed over: look again now.
            self._hinted.add(path)

    def _take_hints(self) -> None:
        for path in [self._hinted.pop() for _ in range(len(self._hinted))]:
            if os.path.isdir(path):  # noqa: PTH112 - a Path for each event costs more
                self._offer_all(self._candidates(path))
            elif self._wanted(os.path.basename(path)):  # noqa: PTH119
                stamp = _stamp_or_none(path)
                if stamp is not None and not _is_done(stamp, self._known.of(Path(path))):
                    self._offer(path, stamp)

    def _check_roots(self) -> None:
        self._next_root_check = self._clock() + _ROOT_CHECK_SECONDS
        for root in self._roots:
            identity = _identity(root.path)
            if identity != root.identity:
                # Appeared, vanished, or another disk is mounted in its place: old watches see nothing of it.
                _log.info("folder %s %s", root.path, "is missing" if identity is None else "is there")
                root.identity = identity
                self._stop_hints(root, "off: the folder is missing")
                self._next_scan = float("-inf")
            if identity is not None and (root.hints is None or not root.hints.alive()):
                self._start_hints(root)

    def _start_hints(self, root: _Root) -> None:
        self._stop_hints(root, "off: not started")
        hints = self._new_hints()
        try:
            hints.start(Path(root.path), self._hint)
        except OSError as error:
            # No more watches to be had, for example: scans go on, and the next root check tries again.
            hints.stop()
            self._complain_once(
                f"{root.path}: no change events ({error.strerror or error}); found by scans only"
            )
            root.events = f"off: {error.strerror or error}"
            return
        root.hints, root.events = hints, "on"
        # What was saved between the last scan and the first event would else wait for the next scan.
        self._next_scan = float("-inf")

    def _stop_hints(self, root: _Root, why: str) -> None:
        if root.hints is not None:
            root.hints.stop()
        root.hints, root.events = None, why

    def _scan_all(self) -> None:
        started = self._clock()
        self._left_out = False
        for root in self._roots:
            if root.identity is not None:
                self._offer_all(self._candidates(root.path))
        self._look_after_parked()
        self._scans += 1
        self._last_scan_seconds = self._clock() - started
        self._next_scan = self._clock() + max(self._scan_seconds, self._last_scan_seconds / SCAN_DUTY)

    def _look_after_parked(self) -> None:
        """Hand out once more what was given up and is gone, so that it is taken off the lists."""
        for path, stamp in list(self._parked.items()):
            if not os.path.lexists(path):
                del self._parked[path]
                self._set_due(path, stamp, 0.0, again=True)

    def _candidates(self, top: str) -> Iterator[tuple[str, FileStamp]]:
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                names, below = list_folder(folder, self._wanted)
            except OSError as error:
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self._complain_once(f"{folder}: cannot be listed ({error.strerror or error})")
                continue
            folders.extend(below)
            known = self._known.in_folder(Path(folder)) if names else {}
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118 - 10,000 names a scan
                stamp = _stamp_or_none(path)
                if stamp is not None and not _is_done(stamp, known.get(name)):
                    yield path, stamp

    def _offer_all(self, candidates: Iterable[tuple[str, FileStamp]]) -> None:
        # Oldest first, so that a backlog is worked off in the order in which it was saved.
        for path, stamp in sorted(candidates, key=lambda candidate: candidate[1].modified_ns):
            self._offer(path, stamp)

    def _offer(self, path: str, stamp: FileStamp) -> None:
        if path in self._in_hand or self._parked.get(path) == stamp:
            return
        self._parked.pop(path, None)
        pending = self._pending.get(path)
        if pending is None and len(self._pending) >= MOST_PENDING:
            self._left_out = True
        elif pending is None or pending.stamp != stamp:
            self._set_due(path, stamp, self._quiet_seconds)

    def _set_due(self, path: str, stamp: FileStamp, after_seconds: float, *, again: bool = False) -> None:
        due = self._clock() + after_seconds
        earlier = self._pending.get(path)
        self._pending[path] = _Pending(stamp, due, again or (earlier is not None and earlier.again))
        heapq.heappush(self._order, (due, next(self._count), path))

    def _take_quiet(self) -> list[QuietFile]:
        quiet: list[QuietFile] = []
        now = self._clock()
        while self._order and self._order[0][0] <= now and len(quiet) < BATCH:
            due, _, path = heapq.heappop(self._order)
            pending = self._pending.get(path)
            # Entries of the heap that were overtaken by a later change are passed over here.
            if pending is not None and pending.due == due and self._is_quiet(path, pending):
                del self._pending[path]
                self._in_hand[path] = pending.stamp
                quiet.append(QuietFile(Path(path), pending.stamp, datetime.now(UTC)))
        return quiet

    def _is_quiet(self, path: str, pending: _Pending) -> bool:
        """Compare with the stamp at the start of the window; start a new window when it differs."""
        try:
            stamp = regular_stamp(path)
        except (FileNotFoundError, NotADirectoryError):
            stamp = None
        except OSError:
            self._set_due(path, pending.stamp, _BLOCKED_SECONDS)
            return False
        if stamp is None and not pending.again:
            del self._pending[path]
        elif stamp is not None and stamp != pending.stamp:
            self._set_due(path, stamp, self._quiet_seconds)
        return stamp == pending.stamp or (stamp is None and pending.again)

    def _complain_once(self, message: str) -> None:
        if message not in self._complained:
            self._complained.add(message)
            _log.warning("%s", message)


def _identity(folder: str) -> tuple[int, int] | None:
    """Return device and inode of a folder, which a mount in its place changes; None when missing."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _stamp_or_none(path: str) -> FileStamp | None:
    try:
        return regular_stamp(path)
    except OSError:
        return None


def _is_done(stamp: FileStamp, known: KnownState | None) -> bool:
    return known is not None and (known.size_bytes, known.modified_ns) == (
        stamp.size_bytes,
        stamp.modified_ns,
    )
