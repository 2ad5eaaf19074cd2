"""The numbers of a session: what was found when, how often the network abstained, how often people disagreed.

`session_spans` knows where a session begins and ends. Raises NoArchive where the journal cannot be read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from edge_agent.page.entry_filter import DISAGREES, Span
from edge_agent.page.history import one_view
from edge_agent.page.no_archive import answered
from edge_agent.page.session_spans import Timeline

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from edge_agent.archive import Archive

BIN_MINUTES: Final = 10
_MOST_BINS: Final = 1008
"""A week of ten minutes; a longer session has wider ones."""
_WIDER: Final = (3, 2, 3, 8, 7)
"""Ten minutes, half an hour, an hour, three hours, a day, a week."""
_COUNTED: Final = ("accept", "abstain", "ungated", "corrected")
_MINUTE_US: Final = 60_000_000
_SHORTEST_HOURS: Final = 1 / 60
"""Below a minute, files an hour say nothing."""
_GROUPS: Final = f"""
SELECT outcome, label, decision, COALESCE({DISAGREES}, 0), given_action IS NOT NULL, COUNT(*)
FROM entries WHERE finished_us >= ? AND finished_us < ? GROUP BY 1, 2, 3, 4, 5
"""  # noqa: S608
_BINS: Final = """
SELECT (finished_us - ?1) / ?2, label, COUNT(*) FROM entries
WHERE finished_us >= ?3 AND finished_us < ?4 AND label IS NOT NULL GROUP BY 1, 2
"""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How many files the network called `label`, by decision, and for how many people said something else."""

    label: str
    accept: int
    abstain: int
    ungated: int
    corrected: int


@dataclass(frozen=True, slots=True)
class Bins:
    """Files over time: `counts[k][i]` are those called `labels[i]` in the k-th stretch of `minutes`."""

    minutes: int
    start_us: int
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class SessionNumbers:
    """One session. `before` and `after` are the ids of its neighbours."""

    id: int
    span: Span
    is_open: bool
    files: int
    given: int
    """Files that people said something of."""
    outcomes: tuple[tuple[str, int], ...]
    classes: tuple[ClassCounts, ...]
    bins: Bins
    before: int | None
    after: int | None

    @property
    def corrected(self) -> int:
        """Files of which people said something else than the network."""
        return sum(counts.corrected for counts in self.classes)

    @property
    def abstain_rate(self) -> float | None:
        """Of the files that the network could abstain on, the share in which it did; None without any."""
        abstained = sum(counts.abstain for counts in self.classes)
        return _share(abstained, abstained + sum(counts.accept for counts in self.classes))

    @property
    def corrected_rate(self) -> float | None:
        """Of the files that have an answer, the share in which people said something else; None without any."""
        answered = sum(counts.accept + counts.abstain + counts.ungated for counts in self.classes)
        return _share(self.corrected, answered)

    @property
    def files_per_hour(self) -> float | None:
        """Files an hour between the first and the last one; None below a minute."""
        hours = (self.span.end_us - 1 - self.span.start_us) / (60 * _MINUTE_US)
        return self.files / hours if hours >= _SHORTEST_HOURS else None


class Sessions:
    """The sessions of one archive; may be asked from any thread."""

    def __init__(self, archive: Archive) -> None:
        self._journal = archive.journal

    def latest(self, labels: Sequence[str] = ()) -> SessionNumbers | None:
        """Return the last session, or None; see `of`."""
        return self._ask(lambda line, connection: _numbers(connection, line, line.latest(), labels))

    def of(self, session: int, labels: Sequence[str] = ()) -> SessionNumbers | None:
        """Return the session with this id, or the next one after it; None where there is none.

        `labels` are the model's; the session has all of them, in the manifest's order, and then those of earlier
        models that it met.
        """
        return self._ask(lambda line, connection: _numbers(connection, line, line.of(session), labels))

    def end(self, now_us: int | None = None) -> int | None:
        """End the session that is open and return its id, or None where none is. Raises JournalBusy."""
        now_us = time.time_ns() // 1000 if now_us is None else now_us
        span = self._ask(lambda line, _: line.latest())
        if span is None or not self._ask(lambda line, _: line.is_open(span, now_us)):
            return None
        mark_us = max(now_us, span.end_us - 1)
        self._journal.change(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO session_marks VALUES (?)", (mark_us,)
            )
        )
        return span.start_us

    def _ask(self, question: Callable[[Timeline, sqlite3.Connection], _T]) -> _T:
        def look(connection: sqlite3.Connection) -> _T:
            with one_view(connection):
                return question(Timeline(connection), connection)

        return answered(self._journal, look)


def _numbers(
    connection: sqlite3.Connection, line: Timeline, span: Span | None, labels: Sequence[str]
) -> SessionNumbers | None:
    if span is None:
        return None
    before, after = line.before(span), line.after(span)
    outcomes: dict[str, int] = {}
    classes = {label: dict.fromkeys(_COUNTED, 0) for label in labels}
    files = given = 0
    for outcome, label, decision, disagrees, is_given, count in connection.execute(_GROUPS, span):
        files, given = files + count, given + is_given * count
        outcomes[outcome] = outcomes.get(outcome, 0) + count
        if label is not None and decision is not None:
            counts = classes.setdefault(label, dict.fromkeys(_COUNTED, 0))
            counts[decision] += count
            counts["corrected"] += disagrees * count
    order = _in_order(classes, labels)
    return SessionNumbers(
        id=span.start_us,
        span=span,
        is_open=line.is_open(span, time.time_ns() // 1000),
        files=files,
        given=given,
        outcomes=tuple(sorted(outcomes.items())),
        classes=tuple(ClassCounts(label, **classes[label]) for label in order),
        bins=_bins(connection, span, order),
        before=None if before is None else before.start_us,
        after=None if after is None else after.start_us,
    )


def _in_order(found: Iterable[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Those of the model that answers now in its manifest's order, then those of earlier ones."""
    places = {label: place for place, label in enumerate(labels)}
    return tuple(sorted(found, key=lambda label: (places.get(label, len(places)), label)))


def _bins(connection: sqlite3.Connection, span: Span, labels: tuple[str, ...]) -> Bins:
    minutes = _bin_minutes(span)
    width_us = minutes * _MINUTE_US
    start_us = span.start_us - span.start_us % width_us
    number = (span.end_us - 1 - start_us) // width_us + 1
    counts = [[0] * len(labels) for _ in range(number)]
    places = {label: place for place, label in enumerate(labels)}
    for number, label, count in connection.execute(_BINS, (start_us, width_us, *span)):
        if label in places:
            counts[number][places[label]] = count
    return Bins(minutes, start_us, labels, tuple(map(tuple, counts)))


def _bin_minutes(span: Span) -> int:
    minutes = BIN_MINUTES
    for factor in _WIDER:
        if (span.end_us - span.start_us) / (minutes * _MINUTE_US) < _MOST_BINS:
            break
        minutes *= factor
    return minutes


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
