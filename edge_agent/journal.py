"""The journal: which files are done, in which state they were, and with what outcome.

It spares the scan from opening sidecars, and nothing more depends on it: the sidecars hold the truth, so a
journal that is missing, damaged or newer fills itself again. No failure of its file reaches the caller: what
cannot be read is unknown, what cannot be written waits in memory, and a file that turns out damaged while the
agent runs is replaced. One `Journal` may be used from several threads; no call holds the others up for long.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Self, TypeVar

from edge_agent.journaling.attempts import Attempts, Key
from edge_agent.journaling.journal_file import UNUSABLE, JournalFile, JournalState, is_askers_fault, is_damage
from edge_agent.journaling.journal_queries import (
    Row,
    Seen,
    delete_rows,
    is_storable,
    key_of,
    path_of,
    read_counts,
    read_finding,
    read_folder,
    read_folders_below,
    read_state,
    read_trials,
    read_twins,
    row_of,
    write_rows,
    write_trials,
)
from edge_agent.journaling.journal_tables import Unbelievable
from edge_agent.sidecar import RECORDED, Finding, Twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from edge_agent.files import FileStamp

__all__ = ["JOURNALED", "Journal", "JournalBusy", "JournalState", "Seen"]

JOURNALED: Final = RECORDED | {"refused"}
"""Outcomes that stand until the file changes; all others are tried again."""
_BATCH: Final = 2000
_MOST_WAITING: Final = 20_000
"""Rows that wait for a disk that takes none; beyond that the oldest are dropped, and a scan finds them."""
_RETRY_SECONDS: Final = 5.0
_STANDING_FAULT_SECONDS: Final = 60.0
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class JournalBusy(Exception):
    """The journal's file takes no change at the moment; the same may be tried again later."""


class Journal:
    """Open the journal in `folder`, which is created; use as a context manager, or `close` it.

    `model_sha256` is the model that answers, None while that is not known: a file that was quarantined with
    another one counts as not done. After `close` everything is unknown and nothing is kept. Raises OSError
    when the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.model_sha256: str | None = None
        self._lock = threading.RLock()
        self._file = JournalFile(folder)
        self._waiting: dict[Key, Row] = {}
        self._attempts = Attempts()
        self._closed = False
        self._asking_due = self._writing_due = self._complaint_due = self._renewal_due = float("-inf")
        self._counts: Counter[str] = Counter()
        # Counted once: the status is asked for every second, and a count in SQL reads the whole table.
        self._counts = self._ask(read_counts, Counter())
        self._attempts = Attempts(self._ask(read_trials, []))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Where the journal is kept at this moment."""
        return self._file.path

    @property
    def state(self) -> JournalState:
        """Whether the journal is an earlier run's ("kept"), or why it is not."""
        return self._file.state

    def close(self) -> None:
        """Commit and close; calling it twice does no harm."""
        with self._lock:
            if not self._closed:
                self._writing_due = float("-inf")
                self._write_waiting()
            self._closed = True
            self._file.close()

    def of(self, path: Path) -> Seen | None:
        """Return the state in which `path` was done, or None."""
        key = key_of(path)
        with self._lock:
            state = self._state(key)
        if state is None:
            return None
        size_bytes, modified_ns, outcome, model_sha256 = state
        if self._is_another_models(outcome, model_sha256):
            return None
        return Seen(size_bytes, modified_ns, outcome in RECORDED)

    def in_folder(self, folder: Path) -> dict[str, Seen]:
        """Return all files of one folder that are done, by name: one query, however many they are."""
        inside = os.fsencode(folder)
        nothing: dict[str, Seen] = {}
        seen = self._ask_aside(lambda reader: read_folder(reader, inside, self.model_sha256), nothing)
        with self._lock:
            waiting = [(name, row) for (place, name), row in self._waiting.items() if place == inside]
        for name, row in waiting:
            seen.pop(os.fsdecode(name), None)
            if not self._is_another_models(row.outcome, row.model_sha256):
                seen[os.fsdecode(name)] = Seen(row.size_bytes, row.modified_ns, row.outcome in RECORDED)
        return seen

    def folders_below(self, root: Path) -> tuple[Path, ...]:
        """Return the folders in which files are done: `root`, and those below it."""
        inside = os.fsencode(root)
        return self._ask_aside(lambda reader: read_folders_below(reader, inside), ())

    def finding(self, path: Path) -> Finding | None:
        """Return the last finding on `path`, or None."""
        key = key_of(path)
        with self._lock:
            row = self._waiting.get(key)
            text = row.finding if row else self._ask(lambda connection: read_finding(connection, key), None)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return None if text is None else Finding.from_json(text)
        return None

    def twins(self, path: Path, stamp: FileStamp) -> tuple[Twin, ...]:
        """Return other files of the same size and time, nearest in time first: `path` may be one of them.

        A moved file keeps its time, to the nanosecond or, on some disks, to two seconds.
        """
        key = key_of(path)
        if not is_storable(stamp):
            return ()
        with self._lock:
            self._write_waiting()
            return self._ask(lambda connection: read_twins(connection, key, stamp), ())

    def look(self, question: Callable[[sqlite3.Connection], _T], unknown: _T) -> _T:
        """Put a question of somebody else's to the file, beside the agent's own work; `unknown` if it cannot.

        What was recorded until now is in the answer. What else than SQLite's errors the question raises comes out.
        """
        return self._ask_aside(question, unknown, is_others=True)

    def change(self, work: Callable[[sqlite3.Connection], _T], *, durable: bool = True) -> _T:
        """Do somebody else's work in one transaction, which is on the disk when this returns.

        One that is not `durable` a power cut may take, never out of the order of those before it. The desk waits
        meanwhile. Raises JournalBusy where the file takes nothing at the moment, and sqlite3.IntegrityError for
        what a table does not take.
        """
        with self._lock:
            self._write_waiting()
            if self._closed or time.monotonic() < self._writing_due:
                raise JournalBusy("the journal takes nothing at the moment")
            try:
                with self._file.transaction(durable=durable) as connection:
                    return work(connection)
            except sqlite3.IntegrityError:
                raise  # what the work wanted to write is at fault, and not the file
            except (sqlite3.Error, Unbelievable) as error:
                self._writing_due = self._after(error, is_others=True)
                raise JournalBusy(f"the journal takes nothing at the moment: {error}") from None

    def counts(self) -> dict[str, int]:
        """Return how many files there are of each outcome."""
        # A copy of a small dictionary, made in one go: the lock may be held by somebody who waits for a disk.
        return {outcome: count for outcome, count in self._counts.copy().items() if count > 0}

    def record(self, finding: Finding, *, durable: bool = True) -> None:
        """Note a finding that stands, in place of an earlier one of the same path.

        Rows that only repeat a sidecar need not be `durable`: they are written by the hundred, or by `flush`,
        so that taking over 100,000 sidecars is quick. Raises ValueError for a finding that does not stand.
        """
        stamp = finding.stamp
        if finding.outcome not in JOURNALED or stamp is None:
            raise ValueError(f"{finding.path}: {finding.outcome} is no outcome to be kept in the journal")
        key = key_of(finding.path)
        row = row_of(finding, stamp)
        with self._lock:
            if self._closed:
                return
            earlier = self._state(key)
            if earlier is not None:
                self._counts[earlier[2]] -= 1
            self._counts[row.outcome] += 1
            self._waiting[key] = row
            self._attempts.drop(key)
            if durable or len(self._waiting) >= _BATCH:
                self._write_waiting()

    def flush(self) -> None:
        """Write the rows that wait."""
        with self._lock:
            self._write_waiting()

    def forget(self, paths: Iterable[Path]) -> None:
        """Take files off the list: they are gone, and nothing stands for them any more."""
        keys = [key_of(path) for path in paths]
        for start in range(0, len(keys), _BATCH):
            with self._lock:
                self._write_waiting()
                self._forget(keys[start : start + _BATCH])

    def open_attempt(self, path: Path, stamp: FileStamp) -> None:
        """Note, before the worker is asked about a file, that it will be."""
        with self._lock:
            self._attempts.open(key_of(path), stamp)
            self._write_waiting()

    def close_attempt(self, path: Path) -> None:
        """Note that the worker answered. Written with the next row: until then the file is only suspected."""
        with self._lock:
            self._attempts.close(key_of(path))

    def open_attempts(self) -> tuple[Path, ...]:
        """Return the files that an earlier run was cut short in, except for those closed since."""
        with self._lock:
            return tuple(path_of(key) for key in self._attempts.left_open())

    def count_death(self, path: Path, stamp: FileStamp, model_sha256: str | None) -> int:
        """Count a death of the worker over this state of the file with this model; return how many so far."""
        with self._lock:
            deaths = self._attempts.count_death(key_of(path), stamp, model_sha256)
            self._write_waiting()
        return deaths

    def deaths(self, path: Path, stamp: FileStamp, model_sha256: str | None) -> int:
        """Return how many deaths of the worker this state of the file has cost with this model."""
        with self._lock:
            return self._attempts.deaths(key_of(path), stamp, model_sha256)

    def _is_another_models(self, outcome: str, model_sha256: str | None) -> bool:
        return outcome == "quarantined" and self.model_sha256 not in (None, model_sha256)

    def _state(self, key: Key) -> tuple[int, int, str, str | None] | None:
        row = self._waiting.get(key)
        if row is not None:
            return row.size_bytes, row.modified_ns, row.outcome, row.model_sha256
        return self._ask(lambda connection: read_state(connection, key), None)

    def _ask(self, question: Callable[[sqlite3.Connection], _T], unknown: _T) -> _T:
        """Put one question to the file; where it cannot be answered, `unknown` is the answer."""
        for _ in range(2):
            if self._closed or time.monotonic() < self._asking_due:
                break
            try:
                return question(self._file.connection)
            except UNUSABLE as error:
                self._asking_due = self._after(error)
        return unknown

    def _ask_aside(
        self,
        question: Callable[[sqlite3.Connection], _T],
        unknown: _T,
        *,
        is_others: bool = False,
    ) -> _T:
        """The same for what takes long: others go on meanwhile. Rows recorded until now are in the answer."""
        faults = (sqlite3.Error, Unbelievable) if is_others else UNUSABLE
        with self._lock:
            self._write_waiting()
            if self._closed or time.monotonic() < self._asking_due:
                return unknown
            generation = self._file.generation
        try:
            with self._file.reader() as reader:
                return question(reader)
        except faults as error:
            with self._lock:
                # Another thread may have met the same damage first, and the file be another by now.
                if not self._closed and generation == self._file.generation:
                    self._asking_due = self._after(error, is_others=is_others)
        return unknown

    def _write_waiting(self) -> None:
        # The rows that SQLite cannot hold stay where they are.
        rows = [(key, row) for key, row in self._waiting.items() if is_storable(row)]
        while self._write(rows[:_BATCH]):
            for key, _row in rows[:_BATCH]:
                del self._waiting[key]
            del rows[:_BATCH]
        while len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def _write(self, rows: list[tuple[Key, Row]]) -> bool:
        """Write some rows, and what changed of the attempts; return whether something was written."""
        for _ in range(2):
            trials = [
                (key, trial) for key, trial in self._attempts.changes() if not trial or is_storable(trial)
            ]
            nothing_to_do = not rows and not trials
            if nothing_to_do or self._closed or time.monotonic() < self._writing_due:
                break
            try:
                with self._file.transaction() as connection:
                    write_rows(connection, rows)
                    write_trials(connection, trials)
            except UNUSABLE as error:
                self._writing_due = self._after(error)
                continue
            self._attempts.written()
            return True
        return False

    def _forget(self, keys: list[Key]) -> None:
        known = [state for key in keys if (state := self._state(key)) is not None]
        if self._closed or time.monotonic() < self._writing_due:
            return
        try:
            with self._file.transaction() as connection:
                delete_rows(connection, keys)
        except UNUSABLE as error:
            # They stay on the list, and the next listing of their folder finds them gone again.
            self._writing_due = self._after(error)
            return
        self._counts.subtract(state[2] for state in known)
        for key in keys:
            self._waiting.pop(key, None)
            self._attempts.drop(key)

    def _after(self, error: Exception, *, is_others: bool = False) -> float:
        """Replace a damaged file; return when such a thing may be tried again.

        For a statement of somebody else's that is wrong in itself no file is replaced: labels would go with it.

        Faults that pass are not asked about all the time, and a disk that damages every new file as well is
        left alone for a minute, like any standing fault.
        """
        now = time.monotonic()
        if is_others and is_askers_fault(error):
            self._complain(f"what was asked of journal {self._file.path} failed: {error}")
            return float("-inf")
        if is_damage(error) and now >= self._renewal_due:
            self._renewal_due = now + _STANDING_FAULT_SECONDS
            try:
                self._file.renew(error)
            except (OSError, *UNUSABLE) as another:
                error = another
            else:
                self._attempts.nothing_is_written()
                self._counts = Counter(row.outcome for row in self._waiting.values())
                return float("-inf")
        self._complain(
            f"journal {self._file.path} cannot be used now ({error}); the sidecars stand, it catches up later"
        )
        return now + _RETRY_SECONDS

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._complaint_due:
            self._complaint_due = now + _STANDING_FAULT_SECONDS
            _log.warning("%s", text)
