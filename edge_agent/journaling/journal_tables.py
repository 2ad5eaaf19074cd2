"""The journal's tables, and how those of earlier versions become these.

Only this module knows what SQLite is told about them. `entries` is what the operator's page lists: a row a file,
in the order in which files were finished. `labels` holds what people said, as long as the label files beside
the micrographs do, and `label_batches` what they did in one action, so that they can undo it; `session_marks` the
moments at which somebody ended a session.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

VERSION: Final = 3
# Typed by hand, because tables declared STRICT need an SQLite that Python 3.11 does not promise. With these
# checks `quick_check` sees more than broken pages.
_VERSION_2: Final = (
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
# The two wide indexes hold whatever a filter asks for, so that any filter is one pass along the wanted order,
# some 7 ms for 100,000 entries where nothing matches. An index a filter was quicker only where the planner
# guessed right, which without statistics it does not.
_TABLES: Final = (
    *_VERSION_2,
    """CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, folder INTEGER NOT NULL, name BLOB NOT NULL,
    finished_us INTEGER NOT NULL, outcome TEXT NOT NULL, label TEXT, probability REAL, decision TEXT,
    content TEXT, model_sha256 TEXT,
    given_action TEXT, given_label TEXT, given_by TEXT, given_at_us INTEGER,
    UNIQUE (folder, name),
    CHECK (typeof(folder) = 'integer' AND typeof(name) = 'blob' AND typeof(finished_us) = 'integer'),
    CHECK (outcome IN ('classified', 'not_an_image', 'unreadable', 'quarantined', 'refused')),
    CHECK (probability IS NULL OR typeof(probability) = 'real'),
    CHECK (given_action IS NULL OR given_action IN ('confirm', 'correct', 'not_in_list')),
    CHECK ((given_action IS NULL) = (given_by IS NULL) AND (given_action IS NULL) = (given_at_us IS NULL)),
    CHECK ((given_label IS NULL) = (given_action IS NULL OR given_action = 'not_in_list'))
)""",
    """CREATE INDEX entries_by_time ON entries (
    finished_us, id, outcome, label, decision, given_action, given_label
)""",
    """CREATE INDEX entries_by_doubt ON entries (
    probability, id, finished_us, outcome, label, decision, given_action, given_label
) WHERE probability IS NOT NULL""",
    "CREATE INDEX entries_by_content ON entries (content) WHERE content IS NOT NULL",
    """CREATE TABLE labels (
    number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL UNIQUE, batch TEXT NOT NULL, content TEXT,
    folder BLOB NOT NULL, name BLOB NOT NULL, at_us INTEGER NOT NULL, by TEXT NOT NULL, action TEXT NOT NULL,
    label TEXT, blind INTEGER NOT NULL, undoes TEXT, void INTEGER NOT NULL, written INTEGER NOT NULL,
    record TEXT NOT NULL, shown_label TEXT, shown_decision TEXT, shown_model TEXT,
    CHECK (typeof(folder) = 'blob' AND typeof(name) = 'blob' AND typeof(at_us) = 'integer'),
    CHECK (action IN ('confirm', 'correct', 'not_in_list', 'undo')),
    CHECK (blind IN (0, 1) AND void IN (0, 1) AND written IN (0, 1))
)""",
    "CREATE INDEX labels_by_content ON labels (content, at_us, number)",
    "CREATE INDEX labels_by_batch ON labels (batch)",
    "CREATE INDEX labels_given_blind ON labels (content) WHERE blind = 1",
    "CREATE INDEX labels_to_be_written ON labels (number) WHERE written = 0",
    """CREATE TABLE label_batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, batch TEXT NOT NULL UNIQUE, at_us INTEGER NOT NULL, by TEXT NOT NULL,
    deed TEXT NOT NULL, label TEXT, count INTEGER NOT NULL, skipped INTEGER NOT NULL, of_batch TEXT,
    state TEXT NOT NULL, standing TEXT,
    CHECK (deed IN ('confirm', 'correct', 'not_in_list', 'undo', 'redo')),
    CHECK (state IN ('staged', 'complete', 'applied')),
    CHECK (standing IS NULL OR standing IN ('counts', 'undone', 'dropped')),
    CHECK (typeof(at_us) = 'integer' AND typeof(count) = 'integer' AND typeof(skipped) = 'integer')
)""",
    "CREATE INDEX label_batches_of_a_person ON label_batches (by, standing, at_us, number)",
    "CREATE INDEX label_batches_unfinished ON label_batches (number) WHERE state <> 'applied'",
    "CREATE INDEX label_batches_by_what_they_undo ON label_batches (of_batch) WHERE of_batch IS NOT NULL",
    "CREATE TABLE session_marks (at_us INTEGER PRIMARY KEY)",
)


class Unbelievable(Exception):
    """The file is sound as a database and not a journal of this version."""


def make_tables(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of `version` (0: none yet) to this one, inside the caller's transaction.

    Raises Unbelievable where the tables are others, and what SQLite and the reading of findings raise.
    """
    found = _tables_of(connection)
    if found == _TABLES:
        return
    if version == 1:
        connection.execute("ALTER TABLE files RENAME TO files_1")
        _execute(connection, _TABLES)
        _take_over_version_1(connection)
    elif version == 2 and found == _VERSION_2:
        _execute(connection, _TABLES[len(_VERSION_2) :])
    elif found or version != 0:
        raise Unbelievable(f"its tables are not those of version {VERSION}")
    else:
        _execute(connection, _TABLES)
        return
    _fill_entries(connection)


def _tables_of(connection: sqlite3.Connection) -> tuple[str, ...]:
    # Without those that SQLite makes for itself, for AUTOINCREMENT for example.
    rows = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~' "
        "ORDER BY rowid"
    )
    return tuple(text for (text,) in rows)


def _execute(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)


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


def _fill_entries(connection: sqlite3.Connection) -> None:
    """Versions 1 and 2 had no entries. When a file was finished they did not keep: its own time stands for it.

    On a microscope's PC that is some seconds earlier; for files that were copied there it may be years.
    """
    rows = connection.execute(
        "SELECT folder, name, modified_ns / 1000, outcome, model_sha256, finding "
        "FROM files JOIN findings USING (folder, name) ORDER BY modified_ns"
    )
    connection.executemany(
        "INSERT INTO entries (folder, name, finished_us, outcome, model_sha256, label, probability, decision, "
        "content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((*row[:-1], *_answer_in(row[-1])) for row in rows),
    )


def _answer_in(finding: str) -> Iterator[Any]:
    values = json.loads(finding)
    try:
        content = values["sha256"] or values["fingerprint"]
        return iter((values["label"], values["probability"], values["decision"], content))
    except (KeyError, TypeError):
        raise Unbelievable(f"a finding is none: {finding[:200]}") from None
