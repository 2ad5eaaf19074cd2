"""The history: the files that were examined, listed as the page asks for them, 100,000 as quickly as 100.

Rows are paged by position, never by number: what is finished meanwhile moves no page. All questions are put to
the journal beside the agent's own work. Raises NoArchive where it cannot be read, and BadFilter.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edge_agent.page.entry_filter import (
    LABEL_NOW,
    EntryFilter,
    Order,
    Position,
    Span,
    cursor_text,
    day_of,
    overlap,
    parse_cursor,
    span_of_day,
)
from edge_agent.page.entry_row import EntryRow, entries_after, read_entries, row_json
from edge_agent.page.no_archive import NoArchive
from edge_agent.page.session_spans import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from edge_agent.archive import Archive

CHUNK: Final = 100
"""Rows between two anchors of an index, and in a page unless another number is asked for."""
MOST_ROWS: Final = 200
"""In one page."""
MOST_DAYS: Final = 2000
MOST_SESSIONS: Final = 200
EVERYTHING: Final = EntryFilter()
_NOWHERE: Final = Position(2**63 - 1, 2**63 - 1)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows in the order that was asked for; `next` is the cursor of what follows, None at the end."""

    rows: tuple[EntryRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class HistoryIndex:
    """How many rows a filter has; `anchors[k]` is the cursor of the rows from `CHUNK * k` on."""

    total: int
    anchors: tuple[str | None, ...]
    newest: int
    """The largest id of all entries, 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as filters name it: its id, when its first and last file were finished, how many there are."""

    id: int
    span: Span
    files: int


@dataclass(frozen=True, slots=True)
class Facets:
    """What one can filter by: labels that hold now, days of this PC's calendar and sessions, newest first."""

    labels: tuple[str, ...]
    days: tuple[tuple[date, int], ...]
    sessions: tuple[Session, ...]


class History:
    """The entries of one archive; may be asked from any thread."""

    def __init__(self, archive: Archive) -> None:
        self._journal = archive.journal
        self._roots = archive.folders

    def page(
        self,
        wanted: EntryFilter = EVERYTHING,
        order: Order = "newest",
        after: str = "",
        limit: int = CHUNK,
    ) -> Page:
        """Return up to `limit` rows behind the cursor `after`, from the beginning where that is empty."""
        position = parse_cursor(order, after)

        def read(connection: sqlite3.Connection) -> Page:
            query = _Query(connection, wanted, order)
            found = query.positions(position, limit + 1)
            rows = read_entries(connection, (place.id for place in found[:limit]))
            return Page(rows, cursor_text(order, found[limit - 1]) if len(found) > limit else None)

        return self._ask(read)

    def index(self, wanted: EntryFilter = EVERYTHING, order: Order = "newest") -> HistoryIndex:
        """Return where every hundredth row stands, so that a list can begin anywhere."""

        def read(connection: sqlite3.Connection) -> HistoryIndex:
            query = _Query(connection, wanted, order)
            anchors: list[Position | None] = [None]
            while (place := query.position_after(anchors[-1], CHUNK)) is not None:
                anchors.append(place)
            rest = query.count_after(anchors[-1], CHUNK)
            total = CHUNK * (len(anchors) - 1) + rest
            if rest == 0 and len(anchors) > 1:
                anchors.pop()
            (newest,) = connection.execute("SELECT MAX(id) FROM entries").fetchone()
            texts = (None if place is None else cursor_text(order, place) for place in anchors)
            return HistoryIndex(total, tuple(texts), newest or 0)

        return self._ask(read)

    def facets(self) -> Facets:
        """Return what there is to filter by."""
        return self._ask(
            lambda connection: Facets(
                _labels(connection), tuple(_days(connection)), tuple(_sessions(connection))
            )
        )

    def count(self, wanted: EntryFilter) -> int:
        """Return how many entries a filter has."""
        return self._ask(lambda connection: _Query(connection, wanted, "newest").count())

    def ids(self, wanted: EntryFilter) -> tuple[int, ...]:
        """Return the ids of all entries of a filter, the newest first."""
        return self._ask(
            lambda connection: tuple(
                place.id for place in _Query(connection, wanted, "newest").positions(None, -1)
            )
        )

    def newest(self, count: int) -> tuple[EntryRow, ...]:
        """Return the last rows, the newest first."""
        return self.page(limit=count).rows

    def row(self, number: int) -> EntryRow | None:
        """Return the entry with this id, or None."""
        return next(iter(self.rows([number])), None)

    def rows(self, numbers: Sequence[int]) -> tuple[EntryRow, ...]:
        """Return the entries that there are of these ids, in their order."""
        return self._ask(lambda connection: read_entries(connection, numbers))

    def rows_of(self, paths: Iterable[Path]) -> tuple[EntryRow, ...]:
        """Return the entries that there are of these files, in their order."""
        keys = [(os.fsencode(path.parent), os.fsencode(path.name)) for path in paths]

        def read(connection: sqlite3.Connection) -> tuple[EntryRow, ...]:
            return read_entries(connection, _ids_of(connection, keys))

        return self._ask(read)

    def following(self, finished_us: int, number: int, end_us: int, most: int) -> tuple[EntryRow, ...]:
        """Return rows behind the one of this time and id, finished before `end_us`, the earliest first."""
        return self._ask(lambda connection: entries_after(connection, finished_us, number, end_us, most))

    def json_of(self, row: EntryRow) -> dict[str, Any]:
        """Return a row as the page is told it, its folder as seen from the watched ones."""
        return row_json(row, self._roots)

    def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        def inone_view(connection: sqlite3.Connection) -> _T:
            with one_view(connection):
                return question(connection)

        answer = self._journal.look(inone_view, None)
        if answer is None:
            raise NoArchive("the journal cannot be read at the moment")
        return answer


class _Query:
    """One filter in one order, put to the wide index of that order (see `journal_tables`)."""

    def __init__(self, connection: sqlite3.Connection, wanted: EntryFilter, order: Order) -> None:
        self._connection = connection
        self._order = order
        self._conditions, self._values = wanted.conditions()
        self._span = _span_of(connection, wanted)

    def positions(self, after: Position | None, limit: int) -> list[Position]:
        """Return the positions of up to `limit` rows; a negative limit is none."""
        column, turn, where, values = self._behind(after)
        rows = self._connection.execute(
            f"SELECT {column}, id FROM entries WHERE {where} ORDER BY {column}{turn}, id{turn} LIMIT ?",  # noqa: S608
            (*values, limit),
        )
        return [Position(*row) for row in rows]

    def position_after(self, after: Position | None, rows: int) -> Position | None:
        """Return the position of the row so many rows further on, or None where there is none."""
        column, turn, where, values = self._behind(after)
        row = self._connection.execute(
            f"SELECT {column}, id FROM entries WHERE {where} "  # noqa: S608
            f"ORDER BY {column}{turn}, id{turn} LIMIT 1 OFFSET ?",
            (*values, rows - 1),
        ).fetchone()
        return None if row is None else Position(*row)

    def count_after(self, after: Position | None, most: int) -> int:
        """Return how many rows follow, up to `most`."""
        return len(self.positions(after, most))

    def count(self) -> int:
        """Return how many rows there are."""
        _, _, where, values = self._behind(None)
        (count,) = self._connection.execute(f"SELECT COUNT(*) FROM entries WHERE {where}", values).fetchone()  # noqa: S608
        return int(count)

    def _behind(self, after: Position | None) -> tuple[str, str, str, list[str | float]]:
        """Return the column of the order, its direction, and the condition on what follows a position."""
        conditions, values = list(self._conditions), list[str | float](self._values)
        start_us, end_us = self._span
        if self._order == "newest":
            column, turn = "finished_us", " DESC"
            conditions += ["finished_us >= ?", "(finished_us, id) < (?, ?)"]
            values += [start_us, *min(after or _NOWHERE, Position(end_us, -1))]
        else:
            # The plus keeps SQLite on the index by probability: along that of times it would have to sort.
            column, turn = "probability", ""
            conditions += ["probability IS NOT NULL", "(probability, id) > (?, ?)"]
            conditions += ["+finished_us >= ?", "+finished_us < ?"]
            values += [*(after or Position(-1.0, -1)), start_us, end_us]
        return column, turn, " AND ".join(conditions), values


def _span_of(connection: sqlite3.Connection, wanted: EntryFilter) -> Span:
    spans = [] if wanted.day is None else [span_of_day(wanted.day)]
    if wanted.session is not None:
        spans.append(Timeline(connection).of(wanted.session) or Span(0, 0))
    return overlap(spans)


def _labels(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute(f"SELECT DISTINCT {LABEL_NOW} AS now FROM entries")  # noqa: S608
    return tuple(sorted(label for (label,) in rows if label is not None))


def _days(connection: sqlite3.Connection) -> Iterator[tuple[date, int]]:
    """Yield days and their numbers of files, the newest first: a leap for each day that has any."""
    until = _NOWHERE.id
    for _ in range(MOST_DAYS):
        (last,) = connection.execute(
            "SELECT MAX(finished_us) FROM entries WHERE finished_us < ?", (until,)
        ).fetchone()
        day = None if last is None else day_of(last)
        if day is None:
            return
        until, end = span_of_day(day)
        yield day, _count_in(connection, Span(until, end))


def _sessions(connection: sqlite3.Connection) -> Iterator[Session]:
    for span in Timeline(connection).newest_first(MOST_SESSIONS):
        yield Session(span.start_us, span, _count_in(connection, span))


def _count_in(connection: sqlite3.Connection, span: Span) -> int:
    (count,) = connection.execute(
        "SELECT COUNT(*) FROM entries WHERE finished_us >= ? AND finished_us < ?", span
    ).fetchone()
    return int(count)


def _ids_of(connection: sqlite3.Connection, keys: Iterable[tuple[bytes, bytes]]) -> Iterator[int]:
    for key in keys:
        row = connection.execute(
            "SELECT id FROM entries WHERE folder = (SELECT id FROM folders WHERE path = ?) AND name = ?", key
        ).fetchone()
        if row is not None:
            yield row[0]


@contextlib.contextmanager
def one_view(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several questions see the same state of the journal."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("COMMIT")
