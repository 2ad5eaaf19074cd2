"""Events on their way from the journal into the label files beside the micrographs.

An event waits in the journal until its file has it, over any number of restarts; a file takes each event once,
however often it is tried. A file that takes nothing rests for a while, and the others go on. Only this module knows
into which file an event belongs.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from edge_agent.files import FileLayer, make_folders, remove_leftovers
from edge_agent.journal import JournalBusy
from edge_agent.journaling.journal_queries import path_of
from edge_agent.labelling.label_log import add_events
from edge_agent.labelling.label_rows import (
    count_waiting,
    event_in,
    mark_written,
    read_places,
    read_records,
    read_waiting,
)
from edge_agent.output_places import readable_path
from edge_agent.shared_opening import system_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.archive import Archive
    from edge_agent.journaling.attempts import Key
    from edge_agent.labelling.label_rows import Waiting

RETRY_SECONDS: Final = 5.0
"""After a journal that could not be read."""
_PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_AT_A_TIME: Final = 500
_MOST_FAILURES: Final = 3
"""Files of one folder that fail one after the other: then the folder is at fault, and left alone in this round."""
_PAUSED_SECONDS: Final = 0.2
_MOST_RESTING: Final = 100
"""Files of one folder; its others wait until one of these takes its labels."""
_NOTE_SECONDS: Final = 1.0
"""So often the journal takes note of what is written."""
_LONGEST_BREATH_SECONDS: Final = 0.05
_SLOW_SECONDS: Final = 10.0
_COMPLAINT_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Rest:
    """A file that takes nothing: when it is tried again (monotonic), how often it failed in a row, and why."""

    due: float
    failures: int
    reason: str


class LabelOutbox:
    """One thread calls `round`; `reason` may be asked by any."""

    def __init__(
        self,
        archive: Archive,
        layer: FileLayer | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._archive = archive
        self._layer = layer or FileLayer()
        # A name of its own: what the worker left half-written is removed while this may be writing.
        self._layer.owner = f"{archive.owner}labels"
        self._clean: set[Path] = set()
        self._clock = clock
        self._rests: dict[Key, _Rest] = {}
        # By folder: new failures of this round, files that rest, failures in a row.
        self._fresh: Counter[bytes] = Counter()
        self._resting: Counter[bytes] = Counter()
        self._failures: Counter[bytes] = Counter()
        self._seen = 0
        self._complaint_due = float("-inf")
        self._writing: tuple[Key, float] | None = None

    def waiting(self) -> int:
        """Return how many events are not in their files yet; 0 where the journal cannot say."""
        return self._archive.journal.look(count_waiting, 0)

    def reason(self) -> str | None:
        """Return why events wait for longer than it takes to write them, or None."""
        writing = self._writing
        if writing is not None and (seconds := self._clock() - writing[1]) > _SLOW_SECONDS:
            return f"{_readable(writing[0])} has not answered for {seconds:.0f} s"
        return next((rest.reason for rest in list(self._rests.values())), None)

    def round(self, must_pause: Callable[[], bool]) -> float | None:
        """Write what can be written until `must_pause`.

        Returns after how many seconds to try again, None where nothing waits.
        """
        self._fresh.clear()
        # From the first that waits: a rest may be over, and a journal that was begun anew counts from 1 again.
        self._seen = 0
        while not must_pause():
            page = self._archive.journal.look(partial(read_waiting, after=self._seen, limit=_AT_A_TIME), None)
            if page is None or not self._deliver(page, must_pause):
                return RETRY_SECONDS
            if not page:
                break
        else:
            return _PAUSED_SECONDS
        dues = [rest.due for rest in self._rests.values()]
        return max(0.1, min(dues) - self._clock()) if dues else None

    def _deliver(self, page: list[Waiting], must_pause: Callable[[], bool]) -> bool:
        """Write a page of events, a file once; return whether the journal took note of it."""
        files: dict[Key, list[Waiting]] = {}
        for row in page:
            files.setdefault((row.folder, row.name), []).append(row)
        written: list[int] = []
        until = time.monotonic() + _NOTE_SECONDS
        for key, rows in files.items():
            if must_pause() or time.monotonic() > until:
                break  # the rest of the page is read once more
            if self._may_try(key):
                started = time.monotonic()
                if self._write(key, rows):
                    written += [row.number for row in rows]
                if len(files) > 1:
                    # Of many, half of the disk's time is left to the instrument.
                    time.sleep(min(time.monotonic() - started, _LONGEST_BREATH_SECONDS))
        else:
            self._seen = page[-1].number if page else self._seen
        try:
            if written:
                self._archive.journal.change(partial(mark_written, numbers=written), durable=False)
        except JournalBusy:
            return False
        return True

    def _may_try(self, key: Key) -> bool:
        """Whether a file is to be tried in this round.

        One that failed is tried when it is due. The others are tried until too many of their folder fail as well:
        so neither a single file keeps its folder from its labels, nor a folder without rights the disk busy.
        """
        rest, folder = self._rests.get(key), key[0]
        if rest is not None:
            return rest.due <= self._clock()
        return self._fresh[folder] < _MOST_FAILURES and self._resting[folder] < _MOST_RESTING

    def _write(self, key: Key, rows: list[Waiting]) -> bool:
        self._writing = (key, self._clock())
        try:
            for content in dict.fromkeys(row.content for row in rows):
                self._write_one(path_of(key), content)
        except Exception as error:
            self._note_failure(key, error)
            return False
        finally:
            self._writing = None
        self._fresh[key[0]] = self._failures[key[0]] = 0
        if self._rests.pop(key, None) is not None:
            self._resting[key[0]] -= 1
            _log.info("labels of %s are written again", _readable(key))
        return True

    def _write_one(self, path: Path, content: str | None) -> None:
        """Put all that was said of these bytes into the file: a copy that was moved has its whole history."""
        journal, plan = self._archive.journal, self._archive.plan
        records = journal.look(partial(read_records, content=content or ""), None)
        if not records:
            raise OSError("the journal does not say what was said")
        labels = plan.place(self._where(path, content or "")).labels
        if plan.output is not None:
            make_folders(labels.parent, self._layer)
        if labels.parent not in self._clean:
            self._clean.add(labels.parent)
            remove_leftovers(labels.parent, self._layer.owner)
        events = [event for record in records if (event := event_in(record)) is not None]
        add_events(labels, events, self._layer, self._archive.free_space_floor_mib)

    def _where(self, path: Path, content: str) -> Path:
        """Return the micrograph that the events belong beside: where it lay, or where its bytes lie now.

        Raises OSError where a disk does not say, or seems not to be mounted: what was written then would be hidden
        once it is.
        """
        if _is_there(path):
            return path
        nowhere: list[tuple[bytes, bytes]] = []
        others = self._archive.journal.look(partial(read_places, content=content), nowhere)
        for other in map(path_of, others):
            if _is_there(other):
                return other
        if self._archive.plan.output is None:
            with os.scandir(system_path(path.parent)) as entries:
                if next(entries, None) is None:
                    raise OSError("its folder is empty, as if its disk or share were not mounted")
        return path

    def _note_failure(self, key: Key, error: Exception) -> None:
        before, folder, now = self._rests.get(key), key[0], self._clock()
        self._fresh[folder] += before is None
        self._resting[folder] += before is None
        # Of a folder that fails, one file after the other must not begin with a short pause again.
        failures = 1 + (before.failures if before else self._failures[folder])
        self._failures[folder] = max(self._failures[folder], failures)
        pause = _PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS)) - 1]
        why = (
            (error.strerror or str(error))
            if isinstance(error, OSError)
            else f"{type(error).__name__}: {error}"
        )
        # Together with the others that pause as long: a round looks at all that waits, 100,000 labels perhaps.
        due = math.ceil((now + pause) / pause) * pause
        self._rests[key] = _Rest(due, failures, f"labels of {_readable(key)} cannot be written: {why}")
        if now >= self._complaint_due:
            self._complaint_due = now + _COMPLAINT_SECONDS
            _log.warning(
                "labels of %s cannot be written (%s); they are kept in the journal and tried again",
                _readable(key),
                why,
            )


def _is_there(path: Path) -> bool:
    """Whether there is such a file. Raises OSError where that cannot be said."""
    try:
        os.lstat(system_path(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _readable(key: Key) -> str:
    return readable_path(path_of(key))
