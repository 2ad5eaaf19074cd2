"""What the routes of the operator's page work on, for as long as the page lives.

Services come and go below it, each with an archive of its own; between two of them there is none, and a request
that needs one is answered with 503. Whatever touches a disk goes through `in_pool`: the loop waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.archive import Archive
    from edge_agent.finding import Finding
    from edge_agent.live_page.pulse import MonitorState
    from edge_agent.status import AgentStatus

PATIENCE_SECONDS: Final = 5.0
"""A disk that does not answer for so long is said not to."""
_THREADS: Final = 4
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class NoArchive(Exception):
    """No service runs at this moment, or a disk does not answer; the text says which."""


class PageHome:
    """One for as long as the page lives. `meet`, `note_status` and `note_finding` may come from any thread."""

    def __init__(self, monitor: MonitorState) -> None:
        self.monitor = monitor
        self._archive: Archive | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="page-disk")

    @property
    def archive(self) -> Archive:
        """What the service that runs now keeps. Raises NoArchive."""
        archive = self._archive
        if archive is None:
            raise NoArchive("the agent is starting or changing over")
        return archive

    def meet(self, archive: Archive | None) -> None:
        """Learn what the service that runs now keeps; None: it is about to be closed."""
        self._archive = archive

    def note_status(self, status: AgentStatus) -> None:
        """Hear the numbers of the agent's main loop."""

    def note_finding(self, finding: Finding) -> None:
        """Hear what became of a file, once the journal has it."""

    async def in_pool(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns, done in another thread. Raises NoArchive when that takes too long."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._pool, work), PATIENCE_SECONDS)
        except TimeoutError:
            raise NoArchive(f"the disk has not answered for {PATIENCE_SECONDS:.0f} s") from None

    def close(self) -> None:
        """Take no more work; returns at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)
