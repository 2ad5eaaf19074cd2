"""What people said, in the journal: the statements that change it, and those of whoever changes it.

An action is a batch. One of many events is staged in pieces: its rows count for nothing (`void` and `written` are
1) until the batch is `complete`, which is one small change, and become effective in pieces again, until it is
`applied`. So no transaction is long, and yet all of it counts or nothing. Every function takes an open connection
and raises what SQLite does.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from edge_agent.journal import JournalBusy
from edge_agent.journaling.journal_queries import microseconds_of
from edge_agent.labelling.label_record import LabelEvent

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

Deed = Literal["confirm", "correct", "not_in_list", "undo", "redo"]
"""What a batch does."""
GivenWord = tuple[int, str | None, str | None, str | None, int | None]
"""An entry's id and what was said of it last: action, label, by, when (microseconds); four times None: nothing."""
_log = logging.getLogger(__name__)
_COUNTS: Final = "void = 0 AND action <> 'undo'"
# The first condition only lets SQLite see that a small index holds them all.
_EFFECTIVE: Final = (
    "batch NOT IN (SELECT batch FROM label_batches WHERE state <> 'applied' AND state = 'staged')"
)
_BATCH: Final = 'SELECT batch, at_us, "by", deed, label, count, skipped, of_batch, state FROM label_batches'


@dataclass(frozen=True, slots=True)
class Batch:
    """One action of one person: `count` events. `of` is the batch that an undo or a redo is about."""

    batch: str
    at_us: int
    by: str
    deed: Deed
    label: str | None
    count: int
    skipped: int = 0
    of: str | None = None


class Subject(NamedTuple):
    """An entry as a label finds it: which file, which bytes, what the agent answered."""

    id: int
    folder: bytes
    name: bytes
    content: str | None
    label: str | None
    probability: float | None
    decision: str | None
    model_sha256: str | None


class Standing(NamedTuple):
    """An event in the journal, as an undo finds it."""

    number: int
    folder: bytes
    name: bytes
    content: str | None
    record: str


class LabelRow(NamedTuple):
    """An event on its way into the journal."""

    event: LabelEvent
    folder: bytes
    name: bytes
    content: str | None


class Waiting(NamedTuple):
    """An event that is to be put into its label file."""

    number: int
    folder: bytes
    name: bytes
    content: str | None


def event_in(record: str) -> LabelEvent | None:
    """Return the event that the journal holds; None, and a word in the log, where its text is damaged."""
    try:
        return LabelEvent.model_validate_json(record)
    except ValueError:
        _log.warning("a label in the journal is damaged and left out: %.80r", record)
        return None


def read_subjects(connection: sqlite3.Connection, ids: Sequence[int]) -> list[Subject]:
    """Return the entries that there are of `ids`, in the order of the ids."""
    rows = connection.execute(
        "SELECT entries.id, path, name, content, label, probability, decision, model_sha256 "
        "FROM entries JOIN folders ON folders.id = entries.folder "
        "WHERE entries.id IN (SELECT value FROM json_each(?)) ORDER BY entries.id",
        (json.dumps(ids),),
    )
    return [Subject(*row) for row in rows]


def read_standing(connection: sqlite3.Connection, batch: str, after: int, limit: int) -> list[Standing]:
    """Return events of a batch with a number above `after`."""
    rows = connection.execute(
        "SELECT number, folder, name, content, record FROM labels WHERE batch = ? AND number > ? "
        "ORDER BY number LIMIT ?",
        (batch, after, limit),
    )
    return [Standing(*row) for row in rows]


def read_batch(connection: sqlite3.Connection, batch: str) -> tuple[Batch, str] | None:
    """Return a batch and its state."""
    row = connection.execute(f"{_BATCH} WHERE batch = ?", (batch,)).fetchone()
    return None if row is None else (Batch(*row[:-1]), row[-1])


def read_unfinished(connection: sqlite3.Connection) -> list[tuple[Batch, str]]:
    """Return the batches that are staged or complete, with their state, the oldest first."""
    rows = connection.execute(f"{_BATCH} WHERE state <> 'applied' ORDER BY number")
    return [(Batch(*row[:-1]), row[-1]) for row in rows]


def read_undoable(connection: sqlite3.Connection, by: str) -> Batch | None:
    """Return the last of a person's batches that counts."""
    return _one(connection, by, "counts", "DESC")


def read_redoable(connection: sqlite3.Connection, by: str) -> Batch | None:
    """Return the batch of a person that was undone last, unless another was given since."""
    # Undone from the newest to the oldest: the oldest of them was the last.
    return _one(connection, by, "undone", "ASC")


def _one(connection: sqlite3.Connection, by: str, standing: str, order: str) -> Batch | None:
    row = connection.execute(
        f'{_BATCH} WHERE "by" = ? AND standing = ? ORDER BY at_us {order}, number {order} LIMIT 1',
        (by, standing),
    ).fetchone()
    return None if row is None else Batch(*row[:-1])


def read_last_undo(connection: sqlite3.Connection, of: str) -> str | None:
    """Return the batch that undid this one last."""
    row = connection.execute(
        "SELECT batch FROM label_batches WHERE of_batch = ? AND deed = 'undo' ORDER BY number DESC LIMIT 1",
        (of,),
    ).fetchone()
    return None if row is None else str(row[0])


def read_latest_us(connection: sqlite3.Connection) -> int:
    """Return when the latest batch was given, in microseconds since 1970; 0 where there is none."""
    (latest,) = connection.execute("SELECT MAX(at_us) FROM label_batches").fetchone()
    return latest or 0


def stage_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Begin a batch that counts for nothing yet."""
    connection.execute(
        'INSERT INTO label_batches (batch, at_us, "by", deed, label, count, skipped, of_batch, state) '
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'staged')",
        (batch.batch, batch.at_us, batch.by, batch.deed, batch.label, batch.count, batch.skipped, batch.of),
    )


def stage_rows(connection: sqlite3.Connection, batch: Batch, rows: Iterable[LabelRow]) -> None:
    """Add events that count for nothing yet. Raises JournalBusy where somebody took their batch away meanwhile."""
    staged = connection.execute(
        "SELECT 1 FROM label_batches WHERE batch = ? AND state = 'staged'", (batch.batch,)
    ).fetchone()
    _require_staged(staged is not None)
    _insert(connection, rows, "1, 1")


def _insert(connection: sqlite3.Connection, rows: Iterable[LabelRow], void_and_written: str) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO labels "  # noqa: S608
        '(event, batch, content, folder, name, at_us, "by", action, label, blind, undoes, record, '
        "shown_label, shown_decision, shown_model, void, written) "
        f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {void_and_written})",
        (
            (
                row.event.id,
                row.event.batch,
                row.content,
                row.folder,
                row.name,
                microseconds_of(row.event.at),
                row.event.by,
                row.event.action,
                row.event.label,
                row.event.blind,
                row.event.undoes,
                row.event.model_dump_json(),
                row.event.shown.label,
                row.event.shown.decision,
                row.event.shown.model_sha256,
            )
            for row in rows
        ),
    )


def _require_staged(is_staged: object) -> None:
    if not is_staged:
        raise JournalBusy("another desk has begun to work on this journal")


def complete_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Make a batch count: from now on it is given, whatever happens. Raises JournalBusy as `stage_rows` does."""
    changed = connection.execute(
        "UPDATE label_batches SET state = 'complete', count = ?, skipped = ?, standing = ? "
        "WHERE batch = ? AND state = 'staged'",
        (batch.count, batch.skipped, None if batch.of is not None else "counts", batch.batch),
    )
    _require_staged(changed.rowcount == 1)
    if batch.of is None:
        # Who says something new has left what was undone behind.
        connection.execute(
            "UPDATE label_batches SET standing = 'dropped' WHERE \"by\" = ? AND standing = 'undone'",
            (batch.by,),
        )
    else:
        standing = "undone" if batch.deed == "undo" else "counts"
        connection.execute("UPDATE label_batches SET standing = ? WHERE batch = ?", (standing, batch.of))


def apply_some(connection: sqlite3.Connection, batch: Batch, after: int, limit: int) -> int | None:
    """Make up to `limit` events of a complete batch effective, of those with a number above `after`.

    Returns the last one's number, None where there are no more: then the batch is applied.
    """
    numbers: list[int] = [
        number
        for (number,) in connection.execute(
            "SELECT number FROM labels WHERE batch = ? AND number > ? AND void = 1 AND written = 1 "
            "ORDER BY number LIMIT ?",
            (batch.batch, after, limit),
        )
    ]
    if not numbers:
        connection.execute("UPDATE label_batches SET state = 'applied' WHERE batch = ?", (batch.batch,))
        return None
    span = (batch.batch, numbers[0], numbers[-1])
    inside = "batch = ? AND number BETWEEN ? AND ?"
    connection.execute(f"UPDATE labels SET void = 0, written = 0 WHERE {inside}", span)  # noqa: S608
    undone = f"SELECT undoes FROM labels WHERE {inside}"  # noqa: S608
    if batch.deed in ("undo", "redo"):
        connection.execute(f"UPDATE labels SET void = 1 WHERE event IN ({undone})", span)  # noqa: S608
    if batch.deed == "redo":
        connection.execute(
            "UPDATE labels SET void = 0 WHERE event IN "  # noqa: S608
            f"(SELECT undoes FROM labels WHERE event IN ({undone}))",
            span,
        )
    refresh_given(connection, f"SELECT content FROM labels WHERE {inside}", span)  # noqa: S608
    return numbers[-1]


def refresh_given(connection: sqlite3.Connection, contents: str, values: Sequence[object]) -> None:
    """Let entries say what was said of their bytes last, by whomever; `contents` is a SELECT with `values`."""
    connection.execute(
        "UPDATE entries SET (given_action, given_label, given_by, given_at_us) = ("  # noqa: S608
        'SELECT action, label, "by", at_us FROM labels '
        f"WHERE labels.content = entries.content AND {_COUNTS} ORDER BY at_us DESC, number DESC LIMIT 1) "
        f"WHERE content IN ({contents})",
        values,
    )


def read_given(connection: sqlite3.Connection, batch: str, limit: int) -> list[GivenWord]:
    """Return what is said now of up to `limit` entries that a batch is about."""
    return connection.execute(
        "SELECT id, given_action, given_label, given_by, given_at_us FROM entries "
        "WHERE content IN (SELECT content FROM labels WHERE batch = ?) ORDER BY id LIMIT ?",
        (batch, limit),
    ).fetchall()


def drop_some(connection: sqlite3.Connection, batch: str, limit: int) -> bool:
    """Take away up to `limit` events of a batch that was never complete; return whether some are left."""
    gone = connection.execute(
        "DELETE FROM labels WHERE number IN (SELECT number FROM labels WHERE batch = ? LIMIT ?)",
        (batch, limit),
    )
    if gone.rowcount == limit:
        return True
    connection.execute("DELETE FROM label_batches WHERE batch = ? AND state = 'staged'", (batch,))
    return False


def read_waiting(connection: sqlite3.Connection, after: int, limit: int) -> list[Waiting]:
    """Return events with a number above `after` that are not in their label files yet."""
    rows = connection.execute(
        "SELECT number, folder, name, content FROM labels WHERE written = 0 AND number > ? ORDER BY number LIMIT ?",
        (after, limit),
    )
    return [Waiting(*row) for row in rows]


def count_waiting(connection: sqlite3.Connection) -> int:
    """Return how many events are not in their label files yet."""
    (count,) = connection.execute("SELECT COUNT(*) FROM labels WHERE written = 0").fetchone()
    return int(count)


def read_records(connection: sqlite3.Connection, content: str) -> list[str]:
    """Return everything that was said of some bytes, wherever they lay, the oldest first."""
    rows = connection.execute(
        f"SELECT record FROM labels WHERE content = ? AND {_EFFECTIVE} ORDER BY at_us, number",  # noqa: S608
        (content,),
    )
    return [record for (record,) in rows]


def read_places(connection: sqlite3.Connection, content: str) -> list[tuple[bytes, bytes]]:
    """Return folder and name of the entries with these bytes, the latest first."""
    return connection.execute(
        "SELECT path, name FROM entries JOIN folders ON folders.id = entries.folder WHERE content = ? "
        "ORDER BY entries.id DESC LIMIT 20",
        (content,),
    ).fetchall()


def is_known_label(connection: sqlite3.Connection, label: str) -> bool:
    """Whether a model of this agent ever answered this, or a person said it."""
    (known,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM entries WHERE label = ?1) OR EXISTS (SELECT 1 FROM labels WHERE label = ?1)",
        (label,),
    ).fetchone()
    return bool(known)


def known_events(connection: sqlite3.Connection, events: Sequence[str]) -> set[str]:
    """Return those of `events` that the journal has."""
    rows = connection.execute(
        "SELECT event FROM labels WHERE event IN (SELECT value FROM json_each(?))",
        (json.dumps(list(events)),),
    )
    return {event for (event,) in rows}


def put_back(
    connection: sqlite3.Connection, row: LabelRow, of: tuple[str, str | None], *, is_void: bool
) -> None:
    """Add an event from its label file, and what can be told from it of its batch: the deed and the batch undone.

    What was undone cannot be done again after that.
    """
    _insert(connection, (row,), f"{int(is_void)}, 1")
    event, (deed, of_batch) = row.event, of
    standing = None if event.undoes is not None else "dropped" if is_void else "counts"
    connection.execute(
        'INSERT INTO label_batches (batch, at_us, "by", deed, label, count, skipped, of_batch, state, standing) '
        "VALUES (?, ?, ?, ?, ?, 1, 0, ?, 'applied', ?) ON CONFLICT (batch) DO UPDATE SET count = count + 1, "
        # Of a batch of corrections some may have confirmed.
        "deed = CASE deed WHEN 'confirm' THEN excluded.deed ELSE deed END, "
        "label = CASE excluded.deed WHEN 'correct' THEN excluded.label ELSE label END, "
        "standing = CASE standing WHEN 'counts' THEN standing ELSE excluded.standing END",
        (
            event.batch,
            microseconds_of(event.at),
            event.by,
            deed,
            event.label if deed == "correct" else None,
            of_batch,
            standing,
        ),
    )


def set_void(connection: sqlite3.Connection, content: str | None, void: Iterable[str]) -> None:
    """Let exactly these events on some bytes no longer count, of those that ever did."""
    connection.execute(
        "UPDATE labels SET void = event IN (SELECT value FROM json_each(?)) WHERE content = ? "
        "AND batch NOT IN (SELECT batch FROM label_batches WHERE state <> 'applied')",
        (json.dumps(list(void)), content),
    )


def mark_written(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Note that events are in their label files."""
    connection.executemany(
        "UPDATE labels SET written = 1 WHERE number = ?", ((number,) for number in numbers)
    )
