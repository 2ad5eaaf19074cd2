"""The monitor: hears what the agent does, and tells whoever looks (page) or wants to be told (events).

Nothing here raises into the agent, waits for anybody, or is imported before it is needed: with page and events
off, the agent pays nothing.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from edge_agent.live_page.doorway import Loopback, OtherPcs
from edge_agent.live_page.page_server import CLOSE_SECONDS, PageServer
from edge_agent.live_page.pulse import MonitorState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.announcing.announcer import Announcer
    from edge_agent.archive import Archive
    from edge_agent.config import EventsConfig, PageConfig
    from edge_agent.finding import Finding
    from edge_agent.live_page.doorway import Doorway
    from edge_agent.live_page.gate import Site
    from edge_agent.page.home import PageHome
    from edge_agent.status import AgentStatus

_log = logging.getLogger(__name__)


class Monitor:
    """One for as long as events stay configured alike, over any number of services one after another."""

    def __init__(self, page: PageConfig, events: EventsConfig) -> None:
        self.state = MonitorState()
        self._home: PageHome | None = None
        self._archive: Archive | None = None
        self._pages = self._pages_of(page)
        self._announcer = _announcer(events)
        if self._announcer is not None:
            self.state.channels = self._announcer.numbers

    def start(self) -> None:
        """Listen and send, if that is wanted. Never raises: a port that is taken is a word in `word`."""
        for one in self._pages:
            self._guarded(one.start)
        if self._announcer is not None:
            self._guarded(self._announcer.start)

    @property
    def word(self) -> str | None:
        """The address of the page, or why there is none; None where it is switched off.

        Behind it that for other PCs, where there is to be one.
        """
        words = [page.word for page in self._pages]
        return ", for other PCs ".join(words) if words else None

    def meet(self, archive: Archive | None) -> None:
        """Learn what the service that runs now keeps; None: it is about to be closed."""
        self._archive = archive
        if self._home is not None:
            home = self._home
            self._guarded(lambda: home.meet(archive))

    def note_status(self, status: AgentStatus) -> None:
        """Hear the numbers of the agent's main loop."""
        self._guarded(lambda: self.state.note_status(status))
        if self._home is not None:
            home = self._home
            self._guarded(lambda: home.note_status(status))
        if self._announcer is not None:
            announcer = self._announcer
            self._guarded(lambda: announcer.note_status(status))

    def note_finding(self, finding: Finding) -> None:
        """Hear what became of a file."""
        self._guarded(lambda: self.state.note_finding(finding))
        if self._home is not None:
            home = self._home
            self._guarded(lambda: home.note_finding(finding))
        if self._announcer is not None:
            announcer = self._announcer
            self._guarded(lambda: announcer.note_finding(finding))

    def move(self, page: PageConfig) -> None:
        """Show the page there from now on; the events are not touched."""
        before, self._pages = self._pages, self._pages_of(page)
        for one in before:
            self._guarded(one.end)
        for one in before:
            self._guarded(one.close)
        for one in self._pages:
            self._guarded(one.start)

    def close(self) -> None:
        """End it, within a second whoever is connected or does not answer."""
        until = time.monotonic() + CLOSE_SECONDS
        for one in self._pages:
            self._guarded(one.end)
        if self._announcer is not None:
            self._guarded(self._announcer.close)
        for one in self._pages:
            self._guarded(partial(one.close, max(0.0, until - time.monotonic())))
        if self._home is not None:
            self._guarded(self._home.close)

    def _pages_of(self, page: PageConfig) -> tuple[PageServer, ...]:
        if not page.enabled:
            return ()
        if self._home is None:
            from edge_agent.page.home import PageHome

            self._home = PageHome(self.state)
            self._home.meet(self._archive)
        make_site = partial(self._site, self._home)
        return tuple(PageServer(doorway, make_site) for doorway in _doorways(page))

    def _site(self, home: PageHome) -> Site:
        from edge_agent.live_page.application import site_of

        return site_of(home)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            _log.warning("the monitor failed, the watching goes on: %s: %s", type(error).__name__, error)
            _log.debug("the monitor failed", exc_info=True)


def _doorways(page: PageConfig) -> Iterator[Doorway]:
    yield Loopback(page.port)
    if page.listen is not None and page.certificate is not None and page.private_key is not None:
        yield OtherPcs(page.listen, page.port, page.certificate, page.private_key, page.names)


def _announcer(events: EventsConfig) -> Announcer | None:
    if events.webhook_url is None and events.mqtt_url is None:
        return None
    from edge_agent.announcing.announcer import Announcer

    return Announcer(events)
