"""Label files that the journal does not know are read back into it: after it was lost, or with copied folders.

It looks at a file's label file when the watcher hands that file out, before the journal says anything of it: so
there is no moment at which a file is done and what people said of it is forgotten.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from edge_agent.journal import JournalBusy
from edge_agent.journaling.journal_queries import key_of
from edge_agent.labelling.label_log import read_events
from edge_agent.labelling.label_record import void_events
from edge_agent.labelling.label_rows import (
    LabelRow,
    event_in,
    known_events,
    put_back,
    read_records,
    refresh_given,
    set_void,
)
from edge_agent.output_places import NameTooLong, OutputPlan, readable_path

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.journal import Journal
    from edge_agent.journaling.attempts import Key
    from edge_agent.labelling.label_record import LabelEvent

_RETRY_SECONDS: Final = 5.0
_AT_A_TIME: Final = 50
_MOST_WAITING: Final = 1000
"""Files; of those beyond, what people said is known again with the next new journal."""
_COMPLAINT_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


class LabelIntake:
    """One for a service; safe for several threads."""

    def __init__(self, journal: Journal, plan: OutputPlan) -> None:
        self._journal = journal
        self._plan = plan
        self._lock = threading.Lock()
        self._waiting: dict[Path, Sequence[LabelEvent]] = {}
        self._due = self._complaint_due = float("-inf")

    def take(self, path: Path) -> int:
        """Read back what people said of a micrograph, as far as the journal lacks it; return how many events."""
        try:
            events = read_events(self._plan.place(path).labels)
        except NameTooLong:
            return 0
        except (OSError, ValueError) as error:
            self._complain(path, error)
            return 0
        return self._put(path, events) if events else 0

    def retry(self) -> None:
        """Give the journal some of what it did not take before; reads no file. To be called again and again."""
        with self._lock:
            if not self._waiting or time.monotonic() < self._due:
                return
            some = [(path, self._waiting.pop(path)) for path in list(self._waiting)[:_AT_A_TIME]]
        for path, events in some:
            self._put(path, events)

    def _put(self, path: Path, events: Sequence[LabelEvent]) -> int:
        try:
            return self._journal.change(
                partial(put_events_back, key=key_of(path), events=events), durable=False
            )
        except JournalBusy:
            with self._lock:
                self._due = time.monotonic() + _RETRY_SECONDS
                if len(self._waiting) < _MOST_WAITING:
                    self._waiting[path] = events
            return 0

    def _complain(self, path: Path, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._complaint_due:
            self._complaint_due = now + _COMPLAINT_SECONDS
            why = (error.strerror or error) if isinstance(error, OSError) else "not of this version's form"
            _log.warning(
                "labels of %s cannot be read (%s); the file stays as it is", readable_path(path), why
            )


@dataclass(frozen=True, slots=True)
class _Merged:
    """All that is known of some bytes, the oldest first, and which of it no longer counts."""

    events: tuple[LabelEvent, ...]
    void: frozenset[str]


def put_events_back(connection: sqlite3.Connection, key: Key, events: Sequence[LabelEvent]) -> int:
    """Add the events of a label file that the journal lacks, inside the caller's transaction; return how many."""
    known = known_events(connection, [event.id for event in events])
    new = [event for event in events if event.id not in known]
    for content in dict.fromkeys(_content(event) for event in new):
        own = [event for event in new if _content(event) == content]
        merged = _merged(connection, content, own)
        for event in own:
            put_back(
                connection,
                LabelRow(event, *key, content),
                _of(event, merged),
                is_void=event.id in merged.void,
            )
        set_void(connection, content, merged.void)
        refresh_given(connection, "SELECT ?", (content,))
    return len(new)


def _merged(connection: sqlite3.Connection, content: str | None, new: list[LabelEvent]) -> _Merged:
    texts = read_records(connection, content or "")
    known = [event for text in texts if (event := event_in(text)) is not None]
    events = sorted((*known, *new), key=lambda event: event.at)
    return _Merged(tuple(events), void_events(events))


def _of(event: LabelEvent, merged: _Merged) -> tuple[str, str | None]:
    """Return what the event's action did, and to which batch."""
    if event.undoes is None:
        return event.action, None
    batches = {other.id: other for other in merged.events}
    undone = batches.get(event.undoes)
    if undone is None or undone.undoes is None:
        return "undo", undone.batch if undone else None
    first = batches.get(undone.undoes)
    return "redo", first.batch if first else None


def _content(event: LabelEvent) -> str | None:
    return event.source_sha256 or event.fingerprint
