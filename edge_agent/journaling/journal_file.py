"""The journal's file: whether it can be believed, and what is used in its place when it cannot.

Only this module knows how SQLite reports damage. A file that is damaged, or of another
version, is moved aside and a new one begun. One that is sound and cannot be used at the moment (locked by
another program, on a disk that lets nobody write) is left alone, and a temporary one serves until the next
start: nothing is lost with it, because the sidecars hold the truth.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.journaling.journal_tables import VERSION, Unbelievable, make_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL_NAME: Final = "journal.sqlite"
UNUSABLE: Final = (sqlite3.Error, Unbelievable, TypeError, ValueError)
"""What opening, reading and writing can raise: damage also shows as a number where a name belongs."""
JournalState = Literal["kept", "new", "moved aside", "temporary"]
"""What the journal is: an earlier run's, begun by this run, begun because the earlier one could not be
believed, or one that lasts only as long as this run."""
_KEPT_ASIDE: Final = 3
_LOCK_PATIENCE_SECONDS: Final = 1.0
_IDLE_READERS: Final = 4
_MOVED: Final = 1032  # SQLITE_READONLY_DBMOVED: somebody took the file away under our feet
_PASSING: Final = frozenset({3, 5, 6, 7, 8, 9, 10, 13, 14, 15})
"""SQLite's codes for what is no fault of the file: no permission, busy, locked, no memory, read-only,
interrupted, input/output error, disk full, cannot be opened, lock protocol."""
_ASKERS: Final = frozenset({1, 17, 18, 20, 21, 25})
"""Those that speak of a statement or of its values: error, schema, too big, mismatch, misuse, range."""
_log = logging.getLogger(__name__)


class JournalFile:
    """The journal in `folder`, which is created. `connection` is the one that writes, for one thread at a time.

    Statements commit by themselves unless they stand inside `transaction`. `generation` counts the files that
    were begun in place of a damaged one. Raises OSError when the folder
    cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL_NAME
        self.state: JournalState = "kept"
        self.generation = 0
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        self.connection = self._open()

    def renew(self, error: BaseException) -> None:
        """Begin a new file in place of one that turned out damaged; what it held is gone."""
        self.generation += 1
        self._let_go()
        self.connection = self._open_another(error)

    def close(self) -> None:
        """Close everything; calling it twice does no harm."""
        self._closed = True
        self._let_go()
        if self._temporary is not None:
            self._temporary.cleanup()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Do everything inside or nothing; `durable` also outlives a power cut. Raises what SQLite raises."""
        self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            # Some failures end the transaction by themselves, and then there is nothing to roll back.
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for a long read that holds nobody up; it sees what is committed."""
        with self._readers_lock:
            path, idle = self.path, self._readers
            connection = idle.pop() if idle else None
        connection = connection or _connect(path)
        try:
            yield connection
        finally:
            with self._readers_lock:
                # `_let_go` began another list: then this connection belongs to a file that is no longer ours.
                kept = idle is self._readers and not self._closed and len(idle) < _IDLE_READERS
                # One that is left inside a transaction would show the next who asks what stood there before.
                kept = kept and not connection.in_transaction
                if kept:
                    idle.append(connection)
            if not kept:
                connection.close()

    def _let_go(self) -> None:
        with self._readers_lock:
            readers, self._readers = self._readers, []
        for connection in (*readers, self.connection):
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self.state = "kept" if self.path.stat().st_size else "new"
        except OSError:
            self.state = "new"
        try:
            return _open_checked(self.path)
        except UNUSABLE as error:
            return self._open_another(error)

    def _open_another(self, error: BaseException) -> sqlite3.Connection:
        if is_damage(error) or self.path.is_dir():
            with contextlib.suppress(OSError, *UNUSABLE):
                aside = _move_aside(self.path)
                connection = _open_checked(self.path)
                self.state = "moved aside"
                _log.warning(
                    "journal %s cannot be used (%s); moved to %s, started anew", self.path, error, aside.name
                )
                return connection
        if self._temporary is not None:
            self._temporary.cleanup()
        self._temporary = tempfile.TemporaryDirectory(
            prefix="scopewatch-journal-", ignore_cleanup_errors=True
        )
        _log.warning(
            "journal %s cannot be used now (%s) and is left as it is; until the next start a temporary one "
            "in %s takes its place",
            self.path,
            error,
            self._temporary.name,
        )
        self.path, self.state = Path(self._temporary.name) / JOURNAL_NAME, "temporary"
        return _open_checked(self.path)


def is_damage(error: BaseException) -> bool:
    """Whether an error speaks against the file, and not against the disk or another program."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code == _MOVED or code & 0xFF not in _PASSING


def is_askers_fault(error: BaseException) -> bool:
    """Whether an error speaks against what was asked, and neither against the file nor against the disk."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.ProgrammingError) or (code is not None and code & 0xFF in _ASKERS)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_LOCK_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _open_checked(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise Unbelievable(f"written by a later version: schema {version}, this one reads {VERSION}")
        _require_sound(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # Not FULL: a power cut may then take the last rows, never the file, and their sidecars are on the
        # disk already. It spares the acquisition's disk one forced write for every file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        # 8 MB: the indexes of 100,000 entries are met in no order, and SQLite's own 2 MB would be turned over
        # with every batch of a take-over.
        connection.execute("PRAGMA cache_size = -8000")
        # Always one small write: a journal that cannot be written is better noticed now.
        connection.execute("BEGIN IMMEDIATE")
        make_tables(connection, version)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _require_sound(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise Unbelievable(f"damaged: {verdict}")


def _move_aside(path: Path) -> Path:
    aside = _free_name(path)
    # The write-ahead log belongs to the damaged file: left behind, SQLite would replay it into the new one.
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    _forget_old_ones(path)
    return aside


def _free_name(path: Path) -> Path:
    base = f"{path.name}.aside-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (base if number == 1 else f"{base}-{number}" for number in itertools.count(1))
    return next(place for name in names if not (place := path.with_name(name)).exists())


def _forget_old_ones(path: Path) -> None:
    """Keep the newest few: a disk that damages the journal again and again must not be filled by it."""
    found = sorted(path.parent.glob(f"{path.name}.aside-*"))
    databases = [file for file in found if not file.name.endswith(("-wal", "-shm"))]
    for file in databases[:-_KEPT_ASIDE]:
        for suffix in ("", "-wal", "-shm"):
            # A folder that stood in the journal's place is somebody's: unlinking it fails, and it stays.
            with contextlib.suppress(OSError):
                file.with_name(file.name + suffix).unlink()
