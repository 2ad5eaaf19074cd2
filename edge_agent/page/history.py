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
from edge_agent.page.no_archive import answered
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
_ENDLESS: Final = 2**63 - 1
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
            anchors: list[Position | None] = [None, *query.every(CHUNK)]
            rest = len(query.positions(anchors[-1], CHUNK))
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
        def in_one_view(connection: sqlite3.Connection) -> _T:
            with one_view(connection):
                return question(connection)

        return answered(self._journal, in_one_view)


class _Query:
    """One filter in one order, put to the wide index of that order (see `journal_tables`)."""

    def __init__(self, connection: sqlite3.Connection, wanted: EntryFilter, order: Order) -> None:
        self._connection = connection
        self._order = order
        self._column, turn = ("finished_us", " DESC") if order == "newest" else ("probability", "")
        self._sorted = f"{self._column}{turn}, id{turn}"
        self._conditions, self._values = wanted.conditions()
        self._span = _span_of(connection, wanted)

    def positions(self, after: Position | None, limit: int) -> list[Position]:
        """Return the positions of up to `limit` rows; a negative limit is none."""
        found: list[Position] = []
        for where, values in self._stretches(after):
            rows = self._connection.execute(
                f"SELECT {self._column}, id FROM entries WHERE {where} ORDER BY {self._sorted} LIMIT ?",  # noqa: S608
                (*values, limit - len(found)),
            )
            found += [Position(*row) for row in rows]
            if len(found) == limit:
                break
        return found

    def every(self, rows: int) -> list[Position]:
        """Return the position of each row whose number is a multiple of `rows`; the first row is number 1."""
        ((where, values),) = self._stretches(None)
        found = self._connection.execute(
            f"SELECT {self._column}, id FROM (SELECT {self._column}, id, "  # noqa: S608
            f"row_number() OVER (ORDER BY {self._sorted}) AS number FROM entries WHERE {where}) "
            "WHERE number % ? = 0 ORDER BY number",
            (*values, rows),
        )
        return [Position(*row) for row in found]

    def count(self) -> int:
        """Return how many rows there are."""
        ((where, values),) = self._stretches(None)
        (count,) = self._connection.execute(f"SELECT COUNT(*) FROM entries WHERE {where}", values).fetchone()  # noqa: S608
        return int(count)

    def _stretches(self, after: Position | None) -> Iterator[tuple[str, list[str | float]]]:
        """Yield conditions and values of what follows a position: its equals, and then all others.

        In two, because SQLite takes `(probability, id) > (?, ?)` for `probability >= ?`: where many rows have the
        same probability, each question would pass over all of them.
        """
        start_us, end_us = self._span
        if self._order == "newest":
            inside, others, equals = "finished_us >= ?", "finished_us < ?", "finished_us = ? AND id < ?"
            span, last = [start_us], end_us if after is None else min(after.value, end_us)
            has_equals = after is not None and start_us <= after.value < end_us
        else:
            # The plus keeps SQLite on the index by probability: along that of times it would have to sort.
            inside = "probability IS NOT NULL AND +finished_us >= ? AND +finished_us < ?"
            others, equals = "probability > ?", "probability = ? AND id > ?"
            span, last = [start_us, end_us], -1.0 if after is None else after.value
            has_equals = after is not None
        both = " AND ".join([*self._conditions, inside])
        if after is not None and has_equals:
            yield f"{both} AND {equals}", [*self._values, *span, *after]
        yield f"{both} AND {others}", [*self._values, *span, last]


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
    until = _ENDLESS
    for _ in range(MOST_DAYS):
        (last,) = connection.execute(
            "SELECT MAX(finished_us) FROM entries WHERE finished_us < ?", (until,)
        ).fetchone()
        day = None if last is None else day_of(last)
        if day is None:
            return
        begin, end = span_of_day(day)
        yield day, _count_in(connection, Span(begin, end))
        until = min(begin, last)  # whatever a calendar says of midnight: the next one is another


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
