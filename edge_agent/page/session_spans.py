"""Where sessions begin and end: more than two hours without a finished file, or somebody ended one.

Only this module knows that. It leaps along the index of times, up to two hours at a stroke, so that a session of
any length costs a few questions, and 100,000 files no pass over them. A session's id is the time of its first
file in microseconds; one that no session begins with means the session of the next file.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Final

from edge_agent.page.entry_filter import Span

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

GAP_US: Final = 2 * 3600 * 1_000_000
_BEYOND: Final = 2**63 - 1


class Timeline:
    """The times of finished files, as one connection sees them. All questions raise what SQLite does."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        rows = connection.execute("SELECT at_us FROM session_marks ORDER BY at_us")
        self._marks = [at_us for (at_us,) in rows]

    def latest(self) -> Span | None:
        """Return the last session, or None where there is none."""
        return self._ending_at(self._last_until(_BEYOND))

    def of(self, session: int) -> Span | None:
        """Return the session of the first file that was finished then or later, or None."""
        first = self._first_from(session)
        return None if first is None else Span(self._start_of(first), self._end_of(first) + 1)

    def before(self, span: Span) -> Span | None:
        """Return the session before another one."""
        return self._ending_at(self._last_until(span.start_us - 1))

    def after(self, span: Span) -> Span | None:
        """Return the session after another one."""
        first = self._first_from(span.end_us)
        return None if first is None else Span(first, self._end_of(first) + 1)

    def newest_first(self, most: int) -> Iterator[Span]:
        """Yield up to so many sessions."""
        span = self.latest()
        for _ in range(most):
            if span is None:
                return
            yield span
            span = self.before(span)

    def is_open(self, span: Span, now_us: int) -> bool:
        """Whether a file that is finished now would belong to this session."""
        last_us = span.end_us - 1
        # A clock that was set back leaves files of the future: a mark behind the last one ends it all the same.
        return now_us - last_us <= GAP_US and self._mark_from(last_us) > max(now_us, last_us)

    def _ending_at(self, last: int | None) -> Span | None:
        return None if last is None else Span(self._start_of(last), last + 1)

    def _start_of(self, at_us: int) -> int:
        while True:
            mark = self._mark_before(at_us)
            start = self._first_from(max(at_us - GAP_US, mark + 1))
            if start is None or start >= at_us:
                break
            at_us = start
        return at_us

    def _end_of(self, at_us: int) -> int:
        while True:
            end = self._last_until(min(at_us + GAP_US, self._mark_from(at_us)))
            if end is None or end <= at_us:
                break
            at_us = end
        return at_us

    def _mark_from(self, at_us: int) -> int:
        """Return the first mark then or later: a file that is finished at the very moment belongs before it."""
        place = bisect.bisect_left(self._marks, at_us)
        return self._marks[place] if place < len(self._marks) else _BEYOND

    def _mark_before(self, at_us: int) -> int:
        place = bisect.bisect_left(self._marks, at_us)
        return self._marks[place - 1] if place else -_BEYOND

    def _first_from(self, at_us: int) -> int | None:
        return self._time("SELECT MIN(finished_us) FROM entries WHERE finished_us >= ?", at_us)

    def _last_until(self, at_us: int) -> int | None:
        return self._time("SELECT MAX(finished_us) FROM entries WHERE finished_us <= ?", at_us)

    def _time(self, question: str, at_us: int) -> int | None:
        found: int | None = self._connection.execute(question, (at_us,)).fetchone()[0]
        return found
