"""Events by MQTT, with paho and a tiny broker; the long tier has a real one (tests/long/real_monitors.py)."""

from __future__ import annotations

import threading
import time

import pytest
from tiny_broker import broker

from edge_agent.announcing import mqtt_link
from edge_agent.announcing.addresses import MqttAddress
from edge_agent.announcing.event_record import Event
from edge_agent.announcing.mqtt_link import MqttLink
from edge_agent.announcing.outbox import NotDelivered, Outbox

TOPIC = "scope/findings"
WAIT_SECONDS = 20


@pytest.fixture
def tiny():
    with broker() as found:
        yield found


def link_to(port):
    return MqttLink(MqttAddress("127.0.0.1", port, TOPIC, tls=False), acknowledged_seconds=0.3)


def event(number: int) -> Event:
    return Event(f"run-{number}", f'{{"number": {number}}}'.encode())


def until(condition) -> None:
    for _ in range(WAIT_SECONDS * 100):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came")


def test_events_are_published_once_the_broker_is_there_and_the_state_is_retained(tiny, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_MQTT_USER", "scope")
    monkeypatch.setenv("SCOPEWATCH_MQTT_PASSWORD", "pass word")
    link = link_to(tiny.port)
    for number in range(3):
        link.send(event(number))
    online = dict(tiny.retained)
    link.close()

    assert [(topic, payload, quality) for topic, payload, quality, retain in tiny.got if not retain] == [
        (TOPIC, b'{"number": 0}', 1),
        (TOPIC, b'{"number": 1}', 1),
        (TOPIC, b'{"number": 2}', 1),
    ]
    assert tiny.logins == [("scope", "pass word")]
    assert online == {f"{TOPIC}/state": b"online"}
    until(lambda: tiny.retained == {f"{TOPIC}/state": b"offline"})


def test_an_agent_that_vanishes_is_offline_by_its_last_will(tiny):
    link = link_to(tiny.port)
    link.send(event(0))
    assert tiny.retained == {f"{TOPIC}/state": b"online"}

    tiny.hang_up()

    until(lambda: len(tiny.logins) > 1 or tiny.retained == {f"{TOPIC}/state": b"offline"})
    link.close()


def test_what_is_not_acknowledged_is_not_handed_over_twice(tiny):
    link = link_to(tiny.port)
    tiny.acknowledges = False
    for _ in range(3):
        with pytest.raises(NotDelivered, match="does not acknowledge"):
            link.send(event(0))
    sent = [payload for topic, payload, _, retain in tiny.got if not retain]
    link.abort()
    link.close()

    assert sent == [b'{"number": 0}']


def test_after_a_broken_connection_the_same_event_arrives(tiny):
    link = link_to(tiny.port)
    link.send(event(0))
    tiny.acknowledges = False
    with pytest.raises(NotDelivered):
        link.send(event(1))
    tiny.hang_up()
    tiny.acknowledges = True

    def arrives():
        try:
            link.send(event(1))
        except NotDelivered:
            return False
        return True

    until(arrives)
    link.close()
    assert tiny.got.count((TOPIC, b'{"number": 1}', 1, False)) >= 1
    assert len(tiny.logins) == 2


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(mqtt_link, "_CONNECTED_SECONDS", 0.1)
    link = link_to(1)

    with pytest.raises(NotDelivered, match="the broker cannot be reached"):
        link.send(event(0))
    link.close()


def test_without_its_secret_nobody_is_spoken_to(tiny, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_MQTT_PASSWORD_FILE", "/nowhere/password")

    with pytest.raises(
        NotDelivered, match="SCOPEWATCH_MQTT_PASSWORD_FILE: /nowhere/password: cannot be read"
    ):
        link_to(tiny.port).send(event(0))
    assert tiny.logins == []


def test_a_broker_that_refuses_is_quoted(tiny, monkeypatch):
    monkeypatch.setattr(mqtt_link, "_CONNECTED_SECONDS", 0.3)
    tiny.refuses = 5
    link = link_to(tiny.port)

    with pytest.raises(NotDelivered, match="the broker refuses: Not authorized"):
        link.send(event(0))
    link.close()


def test_the_end_does_not_wait_for_a_broker_that_hangs(tiny):
    link = link_to(tiny.port)
    box = Outbox("mqtt", "x", link)
    box.start()
    box.put(event(0))
    until(lambda: box.numbers().sent == 1)
    tiny.acknowledges = False
    box.put(event(1))

    box.close(time.monotonic() + 0.2)

    box._thread.join(WAIT_SECONDS)
    assert not box._thread.is_alive()


def test_a_link_that_was_never_used_has_no_goodbye():
    before = threading.active_count()
    link_to(1).close()
    assert threading.active_count() == before
