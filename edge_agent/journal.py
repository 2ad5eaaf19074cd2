"""The journal: which files are done, in which state they were, and with what outcome.

A SQLite file in the local state folder. It spares the scan from opening sidecars, and nothing more depends on
it: the sidecars hold the truth, so a missing, damaged or newer journal is moved aside and fills itself again.
Only this module knows SQL. One `Journal` may be used from several threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from edge_agent.sidecar import RECORDED, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from edge_agent.files import FileStamp

JOURNAL_NAME: Final = "journal.sqlite"
JOURNALED: Final = RECORDED | {"refused"}
"""Outcomes that stand until the file changes; all others are tried again."""
_VERSION: Final = 1
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS files (
    folder BLOB NOT NULL, name BLOB NOT NULL,
    size_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    outcome TEXT NOT NULL, model_sha256 TEXT, finding TEXT NOT NULL,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID
"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """The state in which a file was examined. No device and inode: a remounted share changes them."""

    size_bytes: int
    modified_ns: int


class Journal:
    """Open the journal in `folder`, which is created; use as a context manager, or `close` it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL_NAME
        self._lock = threading.Lock()
        self.rebuilt = False
        try:
            self._connection = _open(self.path)
        except (sqlite3.DatabaseError, _NewerJournal) as error:
            aside = _move_aside(self.path)
            _log.warning(
                "journal %s cannot be used (%s); moved to %s, started anew", self.path, error, aside.name
            )
            self.rebuilt = True
            self._connection = _open(self.path)
        # Counted once: the status is asked for every second, and a count in SQL reads the whole table.
        self._counts = _count(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commit and close; calling it twice does no harm."""
        with self._lock, contextlib.suppress(sqlite3.ProgrammingError):
            self._connection.commit()
            self._connection.close()

    def of(self, path: Path) -> Seen | None:
        """Return the state in which `path` was done, or None."""
        with self._lock:
            row = self._connection.execute(
                "SELECT size_bytes, modified_ns FROM files WHERE folder = ? AND name = ?", _key(path)
            ).fetchone()
        return None if row is None else Seen(*row)

    def in_folder(self, folder: Path) -> dict[str, Seen]:
        """Return all files of one folder that are done, by name: one query, however many they are."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT name, size_bytes, modified_ns FROM files WHERE folder = ?", (os.fsencode(folder),)
            ).fetchall()
        return {os.fsdecode(name): Seen(size_bytes, modified_ns) for name, size_bytes, modified_ns in rows}

    def finding(self, path: Path) -> Finding | None:
        """Return the last finding on `path`, or None."""
        with self._lock:
            row = self._connection.execute(
                "SELECT finding FROM files WHERE folder = ? AND name = ?", _key(path)
            ).fetchone()
        return None if row is None else Finding.from_json(row[0])

    def counts(self) -> dict[str, int]:
        """Return how many files there are of each outcome."""
        with self._lock:
            return dict(
                self._connection.execute("SELECT outcome, COUNT(*) FROM files GROUP BY outcome").fetchall()
            )

    def record(self, finding: Finding, *, durable: bool = True) -> None:
        """Note a finding that stands, in place of an earlier one of the same path.

        Rows that only repeat a sidecar need not be `durable`: they are committed with the next that is, or by
        `flush`, so that taking over 100,000 sidecars does not force the disk 100,000 times. A full disk is
        not fatal: the row is missing, and the next scan finds the sidecar instead.
        """
        if finding.outcome not in JOURNALED or finding.stamp is None:
            raise ValueError(f"{finding.path}: {finding.outcome} is no outcome to be kept in the journal")
        row = (
            *_key(finding.path),
            *_state(finding.stamp),
            finding.outcome,
            finding.model_sha256,
            finding.to_json(),
        )
        with self._lock, self._surviving_a_full_disk():
            earlier = self._connection.execute(
                "SELECT outcome FROM files WHERE folder = ? AND name = ?", _key(finding.path)
            ).fetchone()
            self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._counts[finding.outcome] += 1
            if earlier is not None:
                self._counts[earlier[0]] -= 1
            if durable:
                self._connection.commit()

    def flush(self) -> None:
        """Commit the rows that were not durable."""
        with self._lock, self._surviving_a_full_disk():
            self._connection.commit()

    @contextlib.contextmanager
    def _surviving_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            self._connection.rollback()
            self._counts = _count(self._connection)
            _log.warning(
                "journal %s cannot be written (%s); the sidecars stand, it catches up at a later scan",
                self.path,
                error,
            )


class _NewerJournal(Exception):
    """A later version of the agent wrote this journal."""


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise _NewerJournal(f"written by a later version: schema {version}, this one reads {_VERSION}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_TABLE)
        connection.execute(
            "SELECT folder, name, size_bytes, modified_ns, outcome, model_sha256, finding FROM files LIMIT 0"
        )
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _count(connection: sqlite3.Connection) -> Counter[str]:
    return Counter(
        dict(connection.execute("SELECT outcome, COUNT(*) FROM files GROUP BY outcome").fetchall())
    )


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.aside-{time.strftime('%Y%m%d-%H%M%S')}")
    # The write-ahead log belongs to the damaged file: left behind, SQLite would replay it into the new one.
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    return aside


def _key(path: Path) -> tuple[bytes, bytes]:
    # Blobs, because a name that is no UTF-8 cannot be stored as text.
    return os.fsencode(path.parent), os.fsencode(path.name)


def _state(stamp: FileStamp) -> tuple[int, int]:
    return stamp.size_bytes, stamp.modified_ns
