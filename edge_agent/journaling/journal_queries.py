"""The questions that the journal puts to its tables, and how rows are written: the agent's own statements.

Every function takes an open connection and raises what SQLite does. What a damaged table can hold in place of
a name or a number raises TypeError or ValueError.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_agent.journaling.attempts import Key, Trial
from edge_agent.sidecar import Twin, as_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from edge_agent.files import FileStamp
    from edge_agent.finding import Finding

MOST_TWINS: Final = 20
TWIN_TOLERANCE_NS: Final = 2_000_000_000
"""A copy onto FAT, or over some shares, keeps the time to two seconds only."""
_INTEGERS: Final = range(-(2**63) + TWIN_TOLERANCE_NS, 2**63 - TWIN_TOLERANCE_NS)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Who gave a label to the same bytes before gave it to this file: the last one whose word still counts.
_ENTRY: Final = """
INSERT INTO entries (
    folder, name, finished_us, outcome, label, probability, decision, content, model_sha256,
    given_action, given_label, given_by, given_at_us)
SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, word.action, word.label, word."by", word.at_us
FROM folders LEFT JOIN (
    SELECT action, label, "by", at_us FROM labels
    WHERE content = ?8 AND void = 0 AND action <> 'undo' ORDER BY at_us DESC, number DESC LIMIT 1
) AS word WHERE path = ?1
ON CONFLICT (folder, name) DO UPDATE SET
    finished_us = excluded.finished_us, outcome = excluded.outcome, label = excluded.label,
    probability = excluded.probability, decision = excluded.decision, content = excluded.content,
    model_sha256 = excluded.model_sha256, given_action = excluded.given_action,
    given_label = excluded.given_label, given_by = excluded.given_by, given_at_us = excluded.given_at_us
"""
_SEPARATOR: Final = os.fsencode(os.sep)
_AFTER_SEPARATOR: Final = bytes([_SEPARATOR[0] + 1])


class Seen(NamedTuple):
    """The state in which a file was examined. No device and inode: a remounted share changes them.

    `recorded` says whether a sidecar belongs to it. A tuple, because a folder can hold 100,000.
    """

    size_bytes: int
    modified_ns: int
    recorded: bool = True


class Row(NamedTuple):
    """What is kept of one file. `content` is the hash of its bytes, or of some of them where it is too large."""

    size_bytes: int
    modified_ns: int
    outcome: str
    model_sha256: str | None
    sha256: str | None
    finding: str
    finished_us: int
    label: str | None
    probability: float | None
    decision: str | None
    content: str | None


def row_of(finding: Finding, stamp: FileStamp) -> Row:
    """Return what is kept of a finding on a file in the state `stamp`."""
    finished = finding.finished
    return Row(
        stamp.size_bytes,
        stamp.modified_ns,
        finding.outcome,
        finding.model_sha256,
        finding.sha256,
        finding.to_json(times=False),
        stamp.modified_ns // 1000 if finished is None else microseconds_of(finished),
        None if finding.label is None else as_text(finding.label),
        finding.probability,
        finding.decision,
        finding.sha256 or finding.fingerprint,
    )


def microseconds_of(moment: datetime) -> int:
    """Return a moment as the tables hold it: microseconds since 1970 in UTC, without rounding."""
    return (moment - _EPOCH) // _MICROSECOND


def key_of(path: Path) -> Key:
    """Return folder and name as blobs, because a name that is no UTF-8 cannot be stored as text."""
    return os.fsencode(path.parent), os.fsencode(path.name)


def path_of(key: Key) -> Path:
    """Return the path that `key_of` was given."""
    return Path(os.fsdecode(key[0])) / os.fsdecode(key[1])


def is_storable(state: Row | Trial | FileStamp) -> bool:
    """Whether SQLite's integers can hold it: they end in the year 2262, and some file systems' times do not."""
    return state.modified_ns in _INTEGERS and state.size_bytes in _INTEGERS


def read_counts(connection: sqlite3.Connection) -> Counter[str]:
    """Return how many files there are of each outcome; reads the whole table."""
    return Counter(
        dict(connection.execute("SELECT outcome, COUNT(*) FROM files GROUP BY outcome").fetchall())
    )


def read_state(connection: sqlite3.Connection, key: Key) -> tuple[int, int, str, str | None] | None:
    """Return size, time, outcome and model of one file."""
    row: tuple[int, int, str, str | None] | None = connection.execute(
        "SELECT size_bytes, modified_ns, outcome, model_sha256 FROM files "
        "WHERE folder = (SELECT id FROM folders WHERE path = ?) AND name = ?",
        key,
    ).fetchone()
    return row


def read_finding(connection: sqlite3.Connection, key: Key) -> str | None:
    """Return the finding on one file as it was written."""
    row = connection.execute(
        "SELECT finding FROM findings WHERE folder = (SELECT id FROM folders WHERE path = ?) AND name = ?",
        key,
    ).fetchone()
    return None if row is None else str(row[0])


def read_folder(connection: sqlite3.Connection, folder: bytes, model_sha256: str | None) -> dict[str, Seen]:
    """Return what is done in one folder, without what was quarantined with another model."""
    rows = connection.execute(
        "SELECT name, size_bytes, modified_ns, outcome <> 'refused' FROM files "
        "WHERE folder = (SELECT id FROM folders WHERE path = ?1) "
        "AND (outcome <> 'quarantined' OR ?2 IS NULL OR model_sha256 = ?2)",
        (folder, model_sha256),
    )
    return {
        os.fsdecode(name): Seen(size_bytes, modified_ns, bool(recorded))
        for name, size_bytes, modified_ns, recorded in rows
    }


def read_folders_below(connection: sqlite3.Connection, root: bytes) -> tuple[Path, ...]:
    """Return the folders of files that are done: `root`, and those below it."""
    inside = root if root.endswith(_SEPARATOR) else root + _SEPARATOR
    rows = connection.execute(
        "SELECT path FROM folders WHERE (path = ?1 OR (path >= ?2 AND path < ?3)) "
        "AND EXISTS (SELECT 1 FROM files WHERE folder = folders.id) ORDER BY path",
        (root, inside, inside[:-1] + _AFTER_SEPARATOR),
    )
    return tuple(Path(os.fsdecode(path)) for (path,) in rows)


def read_twins(connection: sqlite3.Connection, key: Key, stamp: FileStamp) -> tuple[Twin, ...]:
    """Return other files with a hash, of the same size and time, nearest in time first."""
    size, time = stamp.size_bytes, stamp.modified_ns
    # In two halves, each along the index: among 10,000 files of one second nothing is sorted.
    columns = "SELECT path, name, sha256, modified_ns FROM files JOIN folders ON folders.id = files.folder"
    where = "WHERE sha256 IS NOT NULL AND outcome <> 'refused' AND size_bytes = ? AND modified_ns"
    later = f"{columns} {where} BETWEEN ? AND ? ORDER BY modified_ns LIMIT {MOST_TWINS + 1}"
    earlier = f"{columns} {where} BETWEEN ? AND ? ORDER BY modified_ns DESC LIMIT {MOST_TWINS + 1}"
    found = connection.execute(later, (size, time, time + TWIN_TOLERANCE_NS)).fetchall()
    found += connection.execute(earlier, (size, time - TWIN_TOLERANCE_NS, time - 1)).fetchall()
    others = [row for row in found if (row[0], row[1]) != key]
    nearest = sorted(others, key=lambda row: abs(row[3] - time))[:MOST_TWINS]
    return tuple(Twin(path_of((folder, name)), sha256) for folder, name, sha256, _ in nearest)


def read_trials(connection: sqlite3.Connection) -> list[tuple[Key, Trial]]:
    """Return all attempts and deaths that are kept."""
    rows = connection.execute(
        "SELECT folder, name, size_bytes, modified_ns, model_sha256, deaths, open FROM trials"
    )
    return [
        ((folder, name), Trial(size_bytes, modified_ns, model_sha256, deaths, bool(is_open)))
        for folder, name, size_bytes, modified_ns, model_sha256, deaths, is_open in rows
    ]


def write_rows(connection: sqlite3.Connection, rows: Iterable[tuple[Key, Row]]) -> None:
    """Put rows in place of earlier ones of the same files."""
    rows = list(rows)
    connection.executemany(
        "INSERT OR IGNORE INTO folders (path) VALUES (?)", {(folder,) for (folder, _), _ in rows}
    )
    connection.executemany(
        "INSERT OR REPLACE INTO files SELECT id, ?2, ?3, ?4, ?5, ?6, ?7 FROM folders WHERE path = ?1",
        ((*key, *row[:5]) for key, row in rows),
    )
    connection.executemany(
        "INSERT OR REPLACE INTO findings SELECT id, ?2, ?3 FROM folders WHERE path = ?1",
        ((*key, row.finding) for key, row in rows),
    )
    connection.executemany(
        _ENTRY,
        (
            (
                *key,
                row.finished_us,
                row.outcome,
                row.label,
                row.probability,
                row.decision,
                row.content,
                row.model_sha256,
            )
            for key, row in rows
        ),
    )


def write_trials(connection: sqlite3.Connection, trials: Iterable[tuple[Key, Trial | None]]) -> None:
    """Put trials in place of earlier ones; None takes one away."""
    for key, trial in trials:
        if trial is None:
            connection.execute("DELETE FROM trials WHERE folder = ? AND name = ?", key)
        else:
            state = (trial.size_bytes, trial.modified_ns, trial.model_sha256, trial.deaths, trial.open)
            connection.execute("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, *state))


def delete_rows(connection: sqlite3.Connection, keys: list[Key]) -> None:
    """Take files away, and folders in which none is left."""
    for table in ("files", "findings", "entries"):
        connection.executemany(
            f"DELETE FROM {table} WHERE folder = (SELECT id FROM folders WHERE path = ?) AND name = ?",  # noqa: S608
            keys,
        )
    connection.executemany(
        "DELETE FROM folders WHERE path = ? AND NOT EXISTS (SELECT 1 FROM files WHERE folder = folders.id)",
        {(folder,) for folder, _ in keys},
    )
