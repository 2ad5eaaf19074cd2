"""Who is told what the agent does: page, metrics and outgoing events, imported only where one of them is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edge_agent.archive import Archive
    from edge_agent.config import EventsConfig, PageConfig
    from edge_agent.finding import Finding
    from edge_agent.status import AgentStatus


class Onlooker(Protocol):
    """Hears everything, and never raises."""

    def start(self) -> None:
        """Begin to listen."""

    @property
    def word(self) -> str | None:
        """The page's address, or why there is none."""

    def note_status(self, status: AgentStatus) -> None:
        """Hear the numbers."""

    def note_finding(self, finding: Finding) -> None:
        """Hear what became of a file."""

    def meet(self, archive: Archive | None) -> None:
        """Learn what the service that runs now keeps; None: it is about to be closed."""

    def move(self, page: PageConfig) -> None:
        """Show the page there from now on, within a second; what waits to be sent goes on waiting."""

    def close(self) -> None:
        """End within a second."""


class Nobody:
    """Page and events are switched off."""

    word: str | None = None

    def start(self) -> None:
        """Nothing."""

    def note_status(self, status: AgentStatus) -> None:
        """Nothing."""

    def note_finding(self, finding: Finding) -> None:
        """Nothing."""

    def meet(self, archive: Archive | None) -> None:
        """Nothing."""

    def move(self, page: PageConfig) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def is_sent_elsewhere(events: EventsConfig) -> bool:
    """Whether events go anywhere."""
    return events.webhook_url is not None or events.mqtt_url is not None


def onlooker_for(page: PageConfig, events: EventsConfig) -> Onlooker:
    """Return who is told, not started yet."""
    if not page.enabled and not is_sent_elsewhere(events):
        return Nobody()
    from edge_agent.live_page.monitor import Monitor

    return Monitor(page, events)
