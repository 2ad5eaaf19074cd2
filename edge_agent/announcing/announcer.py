"""The announcer: tells the configured receivers what was found, and what state the agent is in.

Nothing is sent anywhere unless an address is configured. What it hears costs a few microseconds; the sending is
the outboxes' business.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from edge_agent.announcing.addresses import mqtt_address, webhook_address
from edge_agent.announcing.event_record import EventWriter
from edge_agent.announcing.outbox import Outbox

if TYPE_CHECKING:
    from edge_agent.announcing.event_record import Event
    from edge_agent.announcing.outbox import ChannelNumbers
    from edge_agent.config import EventsConfig
    from edge_agent.finding import Finding
    from edge_agent.status import AgentStatus

CLOSE_SECONDS: Final = 0.7


class Announcer:
    """Send events to where `events` says; safe for several threads."""

    def __init__(self, events: EventsConfig) -> None:
        self._outboxes = outboxes_of(events)
        self._lock = threading.Lock()
        self._writer = EventWriter()

    def start(self) -> None:
        """Send from now on."""
        for outbox in self._outboxes:
            outbox.start()

    def note_finding(self, finding: Finding) -> None:
        """Tell of a finding that stands."""
        with self._lock:
            event = self._writer.of_finding(finding)
            if event is not None:
                self._put(event)

    def note_status(self, status: AgentStatus) -> None:
        """Tell of what has changed in the agent's state."""
        with self._lock:
            for event in self._writer.of_status(status):
                self._put(event)

    def numbers(self) -> tuple[ChannelNumbers, ...]:
        """Return what became of the events so far, by receiver."""
        return tuple(outbox.numbers() for outbox in self._outboxes)

    def close(self) -> None:
        """Tell of the end, if that can be done at once."""
        until = time.monotonic() + CLOSE_SECONDS
        with self._lock:
            self._put(self._writer.of_end())
        for outbox in self._outboxes:
            outbox.close(until)

    def _put(self, event: Event) -> None:
        # Within the lock: a later event must not overtake an earlier one.
        for outbox in self._outboxes:
            outbox.put(event)


def outboxes_of(events: EventsConfig) -> tuple[Outbox, ...]:
    """Return an outbox for each configured address; their links are imported only then."""
    outboxes = []
    webhook, mqtt = webhook_address(events), mqtt_address(events)
    if webhook is not None:
        from edge_agent.announcing.webhook import Webhook

        outboxes.append(Outbox("webhook", str(webhook), Webhook(webhook)))
    if mqtt is not None:
        from edge_agent.announcing.mqtt_link import MqttLink

        outboxes.append(Outbox("mqtt", str(mqtt), MqttLink(mqtt)))
    return tuple(outboxes)
