"""The journal's file: its tables, whether it can be believed, and what is used in its place when it cannot.

Only this module knows the tables and how SQLite reports damage. A file that is damaged, or of another
version, is moved aside and a new one begun. One that is sound and cannot be used at the moment (locked by
another program, on a disk that lets nobody write) is left alone, and a temporary one serves until the next
start: nothing is lost with it, because the sidecars hold the truth.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL_NAME: Final = "journal.sqlite"
JournalState = Literal["kept", "new", "moved aside", "temporary"]
"""What the journal is: an earlier run's, begun by this run, begun because the earlier one could not be
believed, or one that lasts only as long as this run."""


class Unbelievable(Exception):
    """The file is sound as a database and not a journal of this version."""


UNUSABLE: Final = (sqlite3.Error, Unbelievable, TypeError, ValueError)
"""What opening, reading and writing can raise: damage also shows as a number where a name belongs."""

_VERSION: Final = 2
_KEPT_ASIDE: Final = 3
_LOCK_PATIENCE_SECONDS: Final = 1.0
_IDLE_READERS: Final = 4
_MOVED: Final = 1032  # SQLITE_READONLY_DBMOVED: somebody took the file away under our feet
_PASSING: Final = frozenset({3, 5, 6, 7, 8, 9, 10, 13, 14, 15})
"""SQLite's codes for what is no fault of the file: no permission, busy, locked, no memory, read-only,
interrupted, input/output error, disk full, cannot be opened, lock protocol."""
# Typed by hand, because tables declared STRICT need an SQLite that Python 3.11 does not promise. With these
# checks `quick_check` sees more than broken pages.
_TABLES: Final = (
    """CREATE TABLE folders (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE,
    CHECK (typeof(path) = 'blob')
)""",
    """CREATE TABLE files (
    folder INTEGER NOT NULL, name BLOB NOT NULL, size_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    outcome TEXT NOT NULL, model_sha256 TEXT, sha256 TEXT,
    PRIMARY KEY (folder, name),
    CHECK (typeof(folder) = 'integer' AND typeof(name) = 'blob'),
    CHECK (typeof(size_bytes) = 'integer' AND typeof(modified_ns) = 'integer'),
    CHECK (outcome IN ('classified', 'not_an_image', 'unreadable', 'quarantined', 'refused'))
) WITHOUT ROWID""",
    "CREATE INDEX files_by_state ON files (size_bytes, modified_ns) WHERE sha256 IS NOT NULL",
    """CREATE TABLE findings (
    folder INTEGER NOT NULL, name BLOB NOT NULL, finding TEXT NOT NULL,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID""",
    """CREATE TABLE trials (
    folder BLOB NOT NULL, name BLOB NOT NULL, size_bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    model_sha256 TEXT, deaths INTEGER NOT NULL, open INTEGER NOT NULL,
    PRIMARY KEY (folder, name),
    CHECK (typeof(folder) = 'blob' AND typeof(name) = 'blob'),
    CHECK (typeof(size_bytes) = 'integer' AND typeof(modified_ns) = 'integer'),
    CHECK (typeof(deaths) = 'integer' AND deaths BETWEEN 0 AND 1000 AND open IN (0, 1))
) WITHOUT ROWID""",
)
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
        if version > _VERSION:
            raise Unbelievable(f"written by a later version: schema {version}, this one reads {_VERSION}")
        _require_sound(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # Not FULL: a power cut may then take the last rows, never the file, and their sidecars are on the
        # disk already. It spares the acquisition's disk one forced write for every file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        # Always one small write: a journal that cannot be written is better noticed now.
        connection.execute("BEGIN IMMEDIATE")
        if _tables_of(connection) != _TABLES:
            _make_tables(connection, version)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _require_sound(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise Unbelievable(f"damaged: {verdict}")


def _tables_of(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
    return tuple(text for (text,) in rows)


def _make_tables(connection: sqlite3.Connection, version: int) -> None:
    found = _tables_of(connection)
    if version == 1:
        connection.execute("ALTER TABLE files RENAME TO files_1")
    elif found or version != 0:
        raise Unbelievable(f"its tables are not those of version {_VERSION}")
    for statement in _TABLES:
        connection.execute(statement)
    if version == 1:
        _take_over_version_1(connection)


def _take_over_version_1(connection: sqlite3.Connection) -> None:
    """Version 1 (release 0.1.0) had one table, with the folder's path and the finding in every row."""
    rows = connection.execute(
        "SELECT folder, name, size_bytes, modified_ns, outcome, model_sha256, finding FROM files_1"
    )
    connection.execute("INSERT INTO folders (path) SELECT DISTINCT folder FROM files_1")
    for folder, name, size_bytes, modified_ns, outcome, model_sha256, finding in rows.fetchall():
        row = (folder, name, size_bytes, modified_ns, outcome, model_sha256, json.loads(finding)["sha256"])
        connection.execute(
            "INSERT INTO files SELECT id, ?2, ?3, ?4, ?5, ?6, ?7 FROM folders WHERE path = ?1", row
        )
        connection.execute(
            "INSERT INTO findings SELECT id, ?2, ?3 FROM folders WHERE path = ?1", (folder, name, finding)
        )
    connection.execute("DROP TABLE files_1")


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
