"""What the routes of the operator's page work on, for as long as the page lives.

Services come and go below it, each with an archive of its own; between two of them there is none, and a request
that needs one is answered with 503. Whatever touches a disk goes through `in_pool`: the loop waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edge_agent.journal import JOURNALED
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.live_page.pulse import SILENT_SECONDS
from edge_agent.page.access import PARTING_SECONDS, Access
from edge_agent.page.history import History
from edge_agent.page.labels_told import change_told, desk_told
from edge_agent.page.news import News
from edge_agent.page.no_archive import NoArchive
from edge_agent.page.page_threads import PageThreads
from edge_agent.page.pictures import Pictures
from edge_agent.page.second_look import SecondLook
from edge_agent.page.sessions import Sessions
from edge_agent.page.stream import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.archive import Archive
    from edge_agent.finding import Finding
    from edge_agent.labelling.label_words import LabelsChanged
    from edge_agent.live_page.pulse import MonitorState
    from edge_agent.status import AgentStatus

__all__ = ["NoArchive", "PageHome"]

PATIENCE_SECONDS: Final = 5.0
"""A disk that does not answer for so long is said not to."""
_THREADS: Final = 4
_CHANGING_THREADS: Final = 2
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What stands on one archive, for as long as its service runs."""

    archive: Archive
    history: History
    sessions: Sessions
    labels: LabelDesk
    pictures: Pictures
    second_look: SecondLook

    def close(self) -> None:
        """End what works by itself."""
        self.pictures.close()
        self.second_look.close()
        self.labels.close()


class PageHome:
    """One for as long as the page lives. `meet`, `note_status` and `note_finding` may come from any thread.

    What belongs to the service that runs now raises NoArchive while there is none.
    """

    def __init__(self, monitor: MonitorState) -> None:
        self.monitor = monitor
        self.access = Access()
        self.hub = Hub(self._agent_speaks)
        self.news = News(self.hub, monitor, self._rows_of, self.access.look)
        self.access.on_new_key = self.hub.end_streams
        self._parts: _Parts | None = None
        self._asking = PageThreads(_THREADS, "page-disk")
        self._changing = PageThreads(_CHANGING_THREADS, "page-change")
        self._key_is_there: Future[None] = Future()

    @property
    def archive(self) -> Archive:
        """What the service that runs now keeps."""
        return self._present.archive

    @property
    def history(self) -> History:
        """The files that were examined."""
        return self._present.history

    @property
    def sessions(self) -> Sessions:
        """The sessions they belong to."""
        return self._present.sessions

    @property
    def labels(self) -> LabelDesk:
        """Where people say what a micrograph shows."""
        return self._present.labels

    @property
    def pictures(self) -> Pictures:
        """The pictures of what was examined."""
        return self._present.pictures

    @property
    def second_look(self) -> SecondLook:
        """How the present model answers what people labelled."""
        return self._present.second_look

    def meet(self, archive: Archive | None) -> None:
        """Learn what the service that runs now keeps; None: it is about to be closed."""
        before, self._parts = self._parts, None
        if before is not None:
            before.close()
        if archive is None:
            if not self._key_is_there.cancel():
                wait((self._key_is_there,), PARTING_SECONDS)
            self.access.part()
        else:
            self._key_is_there = self._changing.submit(partial(self.access.meet, archive.state))
            self._parts = self._parts_of(archive)
            self.hub.publish("resync", {})

    def note_status(self, status: AgentStatus) -> None:
        """Hear the numbers of the agent's main loop."""
        self.news.note_status(status)

    def note_finding(self, finding: Finding) -> None:
        """Hear what became of a file, once the journal has it."""
        if finding.outcome in JOURNALED:
            self.news.note_finding(finding.path)
        parts = self._parts
        if parts is not None:
            parts.pictures.note_finding(finding)

    def kept_state(self, rows: int, by: str) -> dict[str, Any]:
        """Return what the page starts from of what is kept: the newest rows and what `by` may undo.

        Raises NoArchive.
        """
        parts = self._present
        recent = [parts.history.json_of(row) for row in parts.history.newest(rows)]
        return {"last": recent[0] if recent else None, "recent": recent, **desk_told(parts.labels.state(by))}

    async def in_pool(self, work: Callable[[], _T], *, changing: bool = False) -> _T:
        """Return what `work` returns, done in another thread. Raises NoArchive when that takes too long.

        It then goes on for nobody; what is `changing` something has threads of its own, and waits for no question.
        """
        threads = self._changing if changing else self._asking
        try:
            return await asyncio.wait_for(asyncio.wrap_future(threads.submit(work)), PATIENCE_SECONDS)
        except TimeoutError:
            raise NoArchive(f"the disk has not answered for {PATIENCE_SECONDS:.0f} s") from None

    def close(self) -> None:
        """Take no more work; returns at once."""
        self.news.close()
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close()
        self.hub.end_streams()
        self._asking.close()
        self._changing.close()

    @property
    def _present(self) -> _Parts:
        parts = self._parts
        if parts is None:
            raise NoArchive("the agent is starting or changing over")
        return parts

    def _parts_of(self, archive: Archive) -> _Parts:
        return _Parts(
            archive,
            History(archive),
            Sessions(archive),
            LabelDesk(archive, self._tell_labels),
            Pictures(archive),
            SecondLook(archive, self._nothing_waits),
        )

    def _tell_labels(self, change: LabelsChanged) -> None:
        self.hub.publish("labels", change_told(change))

    def _nothing_waits(self) -> bool:
        status = self.monitor.pulse().status
        return status is not None and status.waiting == 0 and status.paused is None

    def _agent_speaks(self) -> bool:
        return self.monitor.pulse().silent_seconds <= SILENT_SECONDS

    def _rows_of(self, paths: Sequence[Path]) -> dict[Path, dict[str, Any]] | None:
        parts = self._parts
        if parts is None:
            return None
        return {row.path: parts.history.json_of(row) for row in parts.history.rows_of(paths)}
