"""Where people say what a micrograph shows, and take it back: durably, all of an action or nothing, and once.

`give`, `undo` and `redo` return when what they did outlives a power cut in the journal; the label files follow in a
thread of their own. What an entry is said to show (`given_*`) is the newest word that counts, whoever gave it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from edge_agent.journal import JournalBusy
from edge_agent.journaling.journal_queries import microseconds_of
from edge_agent.labelling.label_outbox import RETRY_SECONDS, LabelOutbox
from edge_agent.labelling.label_rows import (
    Batch,
    LabelRow,
    apply_some,
    complete_batch,
    drop_some,
    read_batch,
    read_given,
    read_last_undo,
    read_latest_us,
    read_redoable,
    read_standing,
    read_subjects,
    read_undoable,
    read_unfinished,
    stage_batch,
    stage_rows,
)
from edge_agent.labelling.label_words import (
    NOT_IN_LIST,
    DeskState,
    Done,
    LabelsChanged,
    NothingToDo,
    Order,
    WaitingLabels,
    done_by,
    perhaps_done,
    undo_of,
    word_of,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from edge_agent.archive import Archive
    from edge_agent.files import FileLayer

PIECE: Final = 500
"""Events of one transaction; the journal's other users wait no longer than such a one takes."""
MOST_TOLD: Final = 500
"""More changed entries than these are not listed one by one."""
_BREATHS: Final = 0.3
"""Of the time that a transaction took: so long the journal is then left to others."""
_CLOSE_SECONDS: Final = 0.5
_TURN_SECONDS: Final = 3.0
"""So long somebody waits for an action of another, of 100,000 labels for example."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class LabelDesk:
    """One for each archive; safe for several threads. `on_change` is called in the thread of whoever changed it.

    `give`, `undo` and `redo` raise JournalBusy where nothing can be kept now: the same may be asked again.
    """

    def __init__(
        self,
        archive: Archive,
        on_change: Callable[[LabelsChanged], None] = lambda change: None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        layer: FileLayer | None = None,
    ) -> None:
        self._journal = archive.journal
        self._on_change = on_change
        self._now = now
        self._outbox = LabelOutbox(archive, layer)
        self._turn = threading.Lock()
        # What an earlier run began is finished, or taken back, before anything else.
        self._is_unfinished = True
        self._latest_us = 0
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)
        self._thread.start()

    def give(self, order: Order) -> Done:
        """Say it. Raises JournalBusy."""
        with self._own_turn():
            if (done := self._before(order.batch)) is not None:
                return done
            asked = len(set(order.ids))
            batch = Batch(order.batch, 0, order.by, order.action, order.label, 0, skipped=asked)
            corrected: Counter[str] = Counter()
            given = self._carry_out(batch, partial(self._words, order, corrected))
            return replace(done_by(given), corrected=corrected)

    def earlier(self, batch: str) -> Done | None:
        """Return what an earlier call with this batch did, None where there was none. Raises JournalBusy."""
        with self._own_turn():
            return self._before(batch)

    def undo(self, by: str, batch: str | None = None) -> Done:
        """Take back the last of a person's actions that counts. Raises NothingToDo, JournalBusy."""
        return self._turn_over(by, batch, "undo")

    def redo(self, by: str, batch: str | None = None) -> Done:
        """Let what was undone last count again, unless something was given since. Raises as `undo` does."""
        return self._turn_over(by, batch, "redo")

    def state(self, by: str) -> DeskState:
        """Return what there is to say at this moment; nothing where the journal cannot be read."""
        waiting = self._outbox.waiting()
        return DeskState(
            perhaps_done(self._journal.look(partial(read_undoable, by=by), None)),
            perhaps_done(self._journal.look(partial(read_redoable, by=by), None)),
            WaitingLabels(waiting, self._outbox.reason()) if waiting else None,
        )

    def close(self) -> None:
        """Write no more; what waits is written by the next desk. Calling it twice does no harm."""
        self._stop.set()
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_SECONDS):
            raise JournalBusy("another action is still being kept")
        try:
            yield
        finally:
            self._turn.release()

    def _turn_over(self, by: str, name: str | None, deed: Literal["undo", "redo"]) -> Done:
        with self._own_turn():
            if name is not None and (done := self._before(name)) is not None:
                return done
            self._finish_earlier()
            of = self._ask(partial(read_undoable if deed == "undo" else read_redoable, by=by))
            if of is None:
                raise NothingToDo(f"there is nothing to {deed}")
            source = of.batch if deed == "undo" else self._ask(partial(read_last_undo, of=of.batch))
            if source is None:
                raise NothingToDo(f"there is nothing to {deed}")
            batch = Batch(name or secrets.token_hex(16), 0, by, deed, of.label, 0, of.count, of=of.batch)
            turned = self._carry_out(batch, partial(self._turned, by, source))
            return replace(done_by(of), batch=turned.batch, count=turned.count, skipped=0)

    def _before(self, name: str) -> Done | None:
        """Return what an earlier call with this batch did; None where there was none, or it came to nothing."""
        self._finish_earlier()
        found = self._ask(partial(read_batch, batch=name))
        if found is None:
            return None
        batch, _state = found
        if batch.of is not None and (of := self._ask(partial(read_batch, batch=batch.of))) is not None:
            return replace(done_by(of[0]), batch=batch.batch, count=batch.count, skipped=0)
        return done_by(batch)

    def _carry_out(self, batch: Batch, rows_of: Callable[[str, datetime], Iterator[list[LabelRow]]]) -> Batch:
        """Do it; until then all that was asked for counts as `skipped`."""
        if self._journal.state == "temporary":
            raise JournalBusy(
                "the journal cannot be written and a temporary one is in use; labels would be lost"
            )
        at = self._moment()
        batch = replace(batch, at_us=microseconds_of(at))
        pieces = rows_of(batch.batch, at)
        first = next(pieces, [])
        second = next(pieces, None)
        if not first:
            return batch
        self._is_unfinished = True
        if second is None:
            batch = _counted(batch, len(first))
            self._journal.change(lambda connection: _all_at_once(connection, batch, first))
        else:
            batch = self._stage(batch, (first, second), pieces)
            self._journal.change(partial(complete_batch, batch=batch))
            self._apply(batch)
        self._is_unfinished = False
        self._tell(batch)
        return batch

    def _stage(
        self, batch: Batch, begun: tuple[list[LabelRow], ...], more: Iterator[list[LabelRow]]
    ) -> Batch:
        self._change_in_passing(partial(stage_batch, batch=batch))
        count = 0
        for rows in (*begun, *more):
            self._change_in_passing(partial(stage_rows, batch=batch, rows=rows))
            count += len(rows)
        return _counted(batch, count)

    def _apply(self, batch: Batch) -> None:
        after: int | None = 0
        while after is not None:
            after = self._change_in_passing(partial(apply_some, batch=batch, after=after, limit=PIECE))

    def _change_in_passing(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """A step of several, with room for others before the next; the last one makes all of them durable."""
        if self._stop.is_set():
            raise JournalBusy("the agent is starting or changing over")
        started = time.monotonic()
        done = self._journal.change(work, durable=False)
        time.sleep(_BREATHS * (time.monotonic() - started))
        return done

    def _finish_earlier(self) -> None:
        """Finish what was complete and is not effective, and take away what never was complete."""
        if not self._is_unfinished:
            return
        for batch, state in self._ask(read_unfinished):
            if state == "complete":
                self._apply(batch)
                self._tell(batch)
            else:
                while self._change_in_passing(partial(drop_some, batch=batch.batch, limit=PIECE)):
                    pass
        self._latest_us = max(self._latest_us, self._ask(read_latest_us))
        self._is_unfinished = False

    def _tell(self, batch: Batch) -> None:
        self._wake.set()
        given = None
        if batch.count <= MOST_TOLD:
            given = self._journal.look(partial(read_given, batch=batch.batch, limit=MOST_TOLD + 1), None)
        listed = None if given is None or len(given) > MOST_TOLD else tuple(given)
        try:
            self._on_change(LabelsChanged(batch.batch, batch.by, listed))
        except Exception:
            _log.debug("whoever hears of labels failed", exc_info=True)

    def _words(
        self, order: Order, corrected: Counter[str], batch: str, at: datetime
    ) -> Iterator[list[LabelRow]]:
        ids = list(dict.fromkeys(order.ids))
        number, piece = 0, list[LabelRow]()
        for start in range(0, len(ids), PIECE):
            for subject in self._ask(partial(read_subjects, ids=ids[start : start + PIECE])):
                event = word_of(order, subject, f"{batch}.{number}", at)
                if event is None:
                    continue
                number += 1
                piece.append(LabelRow(event, subject.folder, subject.name, subject.content))
                if event.action != "confirm":
                    corrected[event.label or NOT_IN_LIST] += 1
                if len(piece) == PIECE:
                    yield piece
                    piece = []
        if piece:
            yield piece

    def _turned(self, by: str, source: str, batch: str, at: datetime) -> Iterator[list[LabelRow]]:
        """An undo for each event of the batch `source`."""
        after = number = 0
        while standing := self._ask(partial(read_standing, batch=source, after=after, limit=PIECE)):
            after = standing[-1].number
            turned = (undo_of(found, by, batch, number + place, at) for place, found in enumerate(standing))
            rows = [row for row in turned if row is not None]
            if rows:
                yield rows
            number += len(standing)

    def _moment(self) -> datetime:
        """Now, later than everything before: a clock that is set back puts no word before an earlier one.

        What was said under a clock that was ahead by years takes those after it along: their order is worth more.
        """
        now_us = max(microseconds_of(self._now()), self._latest_us + 1)
        self._latest_us = now_us
        return _EPOCH + timedelta(microseconds=now_us)

    def _must_pause(self) -> bool:
        """Whether no file is to be written now: at the end, and while an action is kept, which is waited for."""
        return self._stop.is_set() or self._turn.locked()

    def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        answer = self._journal.look(lambda connection: (question(connection),), None)
        if answer is None:
            raise JournalBusy("the journal cannot be read at the moment")
        return answer[0]

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            pause: float | None = RETRY_SECONDS
            try:
                if self._is_unfinished:
                    with self._turn:
                        self._finish_earlier()
                pause = self._outbox.round(self._must_pause)
            except JournalBusy:
                _log.debug("labels wait for the journal")
            except Exception as error:
                _log.warning("labels cannot be written now: %s: %s", type(error).__name__, error)
            self._wake.wait(pause)


def _counted(batch: Batch, count: int) -> Batch:
    return replace(batch, count=count, skipped=batch.skipped - count)


def _all_at_once(connection: sqlite3.Connection, batch: Batch, rows: list[LabelRow]) -> None:
    stage_batch(connection, batch)
    stage_rows(connection, batch, rows)
    complete_batch(connection, batch)
    last = apply_some(connection, batch, 0, PIECE)
    apply_some(connection, batch, last or 0, PIECE)
