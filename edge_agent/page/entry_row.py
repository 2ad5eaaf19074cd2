"""One row of the history: what became of one file, and what people said of it, as the page is told.

Only this module knows how an entry is read from the journal and what it looks like as JSON.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.journaling.journal_queries import microseconds_of
from edge_agent.output_places import readable_path
from edge_agent.sidecar import as_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: Final = """
SELECT entries.id, path, entries.name, finished_us, outcome, label, probability, decision, content, model_sha256,
    given_action, given_label, given_by, given_at_us, finding
FROM entries JOIN folders ON folders.id = entries.folder
LEFT JOIN findings ON findings.folder = entries.folder AND findings.name = entries.name
"""
_ONE: Final = f"{_COLUMNS} WHERE entries.id = ?"
_ON_FROM: Final = f"""{_COLUMNS}
WHERE (finished_us, entries.id) > (?, ?) AND finished_us < ? ORDER BY finished_us, entries.id LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Given:
    """What a person said last of the bytes of a file; `label` is None for `not_in_list`."""

    action: str
    label: str | None
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EntryRow:
    """What became of one file. `label`, `probability`, `decision` are the network's, whatever people say."""

    id: int
    path: Path
    finished: datetime
    outcome: str
    reason: str | None
    label: str | None
    probability: float | None
    decision: str | None
    reasons: tuple[str, ...]
    model_sha256: str | None
    content: str | None
    given: Given | None

    @property
    def finished_us(self) -> int:
        """When it was finished, as the tables hold it."""
        return microseconds_of(self.finished)

    @property
    def name(self) -> str:
        r"""The file's name for people; bytes that are no UTF-8 are written as \xNN."""
        return os.fsencode(self.path.name).decode("utf-8", "backslashreplace")

    @property
    def is_corrected(self) -> bool:
        """Whether a person said something else than the network."""
        return self.given is not None and (self.given.label is None or self.given.label != self.label)


def read_entry(connection: sqlite3.Connection, number: int) -> EntryRow | None:
    """Return the entry with this id, or None. Raises what SQLite does."""
    row = connection.execute(_ONE, (number,)).fetchone()
    return None if row is None else _entry(row)


def read_entries(connection: sqlite3.Connection, numbers: Iterable[int]) -> tuple[EntryRow, ...]:
    """Return the entries that there are of these ids, in their order. Raises what SQLite does."""
    found = (read_entry(connection, number) for number in numbers)
    return tuple(row for row in found if row is not None)


def entries_after(
    connection: sqlite3.Connection, finished_us: int, number: int, end_us: int, most: int
) -> tuple[EntryRow, ...]:
    """Return entries behind the one of this time and id, and before `end_us`, the earliest first."""
    rows = connection.execute(_ON_FROM, (finished_us, number, end_us, most))
    return tuple(map(_entry, rows))


def row_json(row: EntryRow, roots: Sequence[Path]) -> dict[str, Any]:
    r"""Return a row as the page is told it; names that are no UTF-8 are written with \xNN."""
    return {
        "id": row.id,
        "name": row.name,
        "folder": folder_below(row.path.parent, tuple(roots)),
        "at": iso(row.finished),
        "outcome": row.outcome,
        "reason": row.reason,
        "label": row.label,
        "probability": row.probability,
        "decision": row.decision,
        "reasons": list(row.reasons),
        "model": row.model_sha256,
        "content": row.content,
        "given": None if row.given is None else given_json(row.given),
    }


def given_json(given: Given) -> dict[str, Any]:
    """Return what a person said as the page is told it."""
    return {"action": given.action, "label": given.label, "by": given.by, "at": iso(given.at)}


@functools.lru_cache(maxsize=256)
def folder_below(folder: Path, roots: tuple[Path, ...]) -> str:
    """Return the folder as seen from the watched one; where several are watched, with that one's name before it."""
    for root in roots:
        if folder.is_relative_to(root):
            below = folder.relative_to(root)
            shown = below if len(roots) == 1 else Path(root.name) / below
            return "" if shown == Path() else readable_path(shown).replace(os.sep, "/")
    return readable_path(folder)


def moment_of(microseconds: int) -> datetime:
    """Return the moment that the tables hold (microseconds since 1970); beyond the calendar's end, that end."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return (datetime.max if microseconds > 0 else datetime.min).replace(tzinfo=UTC)


def local_minute(microseconds: int) -> str:
    """Return a moment for people, by this PC's clock, or by UTC where its calendar has no such day."""
    moment = moment_of(microseconds)
    try:
        moment = moment.astimezone()
    except (OverflowError, OSError, ValueError):
        pass
    return f"{moment:%Y-%m-%d %H:%M}"


def iso(moment: datetime) -> str:
    """Return a moment as the page is told it: UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _entry(row: tuple[Any, ...]) -> EntryRow:
    (number, folder, name, finished_us, outcome, label, probability, decision, content, model_sha256) = row[
        :10
    ]
    action, given_label, by, at_us, finding = row[10:]
    reason, reasons = _reasons_in(finding)
    return EntryRow(
        id=number,
        path=Path(os.fsdecode(folder)) / os.fsdecode(name),
        finished=moment_of(finished_us),
        outcome=outcome,
        reason=reason,
        label=label,
        probability=probability,
        decision=decision,
        reasons=reasons,
        model_sha256=model_sha256,
        content=content,
        given=None if action is None else Given(action, given_label, by, moment_of(at_us)),
    )


def _reasons_in(finding: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the finding's reason and reasons; one that is damaged has none."""
    try:
        values = json.loads(finding or "{}")
        reason, reasons = values.get("reason"), values.get("reasons", ())
        return None if reason is None else as_text(reason), tuple(map(as_text, reasons))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None, ()
