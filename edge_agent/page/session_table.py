"""The files of a session as a table (CSV), which a spreadsheet opens and never computes.

A text that a spreadsheet would take for a formula gets an apostrophe before it; names may be anybody's.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

from edge_agent.page.entry_row import folder_below, iso

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from edge_agent.page.entry_row import EntryRow

BEGINNING: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""Without this mark Excel takes UTF-8 for the PC's own code page."""
_HEAD: Final = (
    "finished", "folder", "name", "outcome", "reason", "label", "probability", "decision", "reasons",
    "given_action", "given_label", "given_by", "given_at", "model_sha256", "content", "id",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def head() -> str:
    """Return the first line."""
    return BEGINNING + _lines([_HEAD])


def lines_of(rows: Iterable[EntryRow], roots: tuple[Path, ...]) -> str:
    """Return a line a row; times are UTC, what is unknown is empty."""
    return _lines(_cells(row, roots) for row in rows)


def safe(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _cells(row: EntryRow, roots: tuple[Path, ...]) -> list[Any]:
    given = row.given
    texts = [
        iso(row.finished), folder_below(row.path.parent, roots), row.name, row.outcome, row.reason,
        row.label, row.probability, row.decision, "; ".join(row.reasons),
        *(("",) * 4 if given is None else (given.action, given.label, given.by, iso(given.at))),
        row.model_sha256, row.content, row.id,
    ]  # fmt: skip
    return [safe(text) if isinstance(text, str) else text for text in texts]


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
