"""Events on their way: order, back-off, what is dropped, and that putting one in never waits."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from edge_agent.announcing.event_record import Event
from edge_agent.announcing.outbox import NotDelivered, Outbox, Undeliverable

WAIT_SECONDS = 20


class Receiver:
    """A link that does what it is told to."""

    def __init__(self):
        self.got = []
        self.tries = 0
        self.failure = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.closed = threading.Event()

    def send(self, event):
        self.tries += 1
        self.may_answer.wait(WAIT_SECONDS)
        if self.failure is not None:
            raise self.failure
        self.got.append(event.id)

    def abort(self):
        self.failure = NotDelivered("aborted")
        self.may_answer.set()

    def close(self):
        self.closed.set()


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def outbox(receiver):
    box = Outbox("webhook", "http://lims:80", receiver, most=5, pauses_seconds=(0.01,))
    box.start()
    yield box
    box.close(time.monotonic() + WAIT_SECONDS)
    assert receiver.closed.wait(WAIT_SECONDS)
    box._thread.join(WAIT_SECONDS)


def event(number: int) -> Event:
    return Event(str(number), b"{}")


def until(condition) -> None:
    for _ in range(WAIT_SECONDS * 100):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came")


def test_events_arrive_in_order(outbox, receiver):
    for number in range(5):
        outbox.put(event(number))

    until(lambda: outbox.numbers().sent == 5)

    assert receiver.got == ["0", "1", "2", "3", "4"]
    assert (outbox.numbers().dropped, outbox.numbers().failures, outbox.numbers().waiting) == (0, 0, 0)


def test_what_does_not_arrive_is_tried_again_in_its_place(outbox, receiver, caplog):
    receiver.failure = NotDelivered("no answer in time")
    with caplog.at_level(logging.INFO):
        outbox.put(event(0))
        until(lambda: receiver.tries > 3)
        outbox.put(event(1))
        receiver.failure = None
        until(lambda: outbox.numbers().sent == 2)

    assert receiver.got == ["0", "1"]
    assert outbox.numbers().failures >= 3
    assert caplog.messages == [
        "events to http://lims:80 do not arrive (no answer in time); at most 5 are kept and tried again",
        "events to http://lims:80 arrive again",
    ]


def test_what_the_receiver_will_never_take_does_not_hold_up_the_next(outbox, receiver):
    receiver.failure = Undeliverable("the receiver answered 400")
    outbox.put(event(0))
    until(lambda: outbox.numbers().dropped == 1)
    receiver.failure = None
    outbox.put(event(1))

    until(lambda: outbox.numbers().sent == 1)

    assert receiver.got == ["1"]


def test_when_too_many_wait_the_oldest_go(outbox, receiver):
    receiver.may_answer.clear()
    outbox.put(event(0))
    until(lambda: receiver.tries == 1)
    for number in range(1, 101):
        outbox.put(event(number))
    assert (outbox.numbers().waiting, outbox.numbers().dropped) == (6, 95)

    receiver.may_answer.set()
    until(lambda: outbox.numbers().waiting == 0)

    assert receiver.got == ["0", "96", "97", "98", "99", "100"]


def test_a_fault_of_ours_in_a_link_ends_nothing(outbox, receiver):
    receiver.failure = ZeroDivisionError("a fault of ours")
    outbox.put(event(0))
    until(lambda: receiver.tries > 1)
    receiver.failure = None

    until(lambda: receiver.got != [])
    assert receiver.got == ["0"]


def test_what_waits_is_sent_at_the_end(receiver):
    box = Outbox("webhook", "x", receiver, pauses_seconds=(60.0,))
    box.start()
    for number in range(3):
        box.put(event(number))

    box.close(time.monotonic() + WAIT_SECONDS)

    assert receiver.got == ["0", "1", "2"]


@pytest.mark.parametrize("state", ["hanging", "failing"])
def test_the_end_waits_for_no_receiver(receiver, state):
    box = Outbox("webhook", "x", receiver, pauses_seconds=(60.0,))
    box.start()
    if state == "hanging":
        receiver.may_answer.clear()
    else:
        receiver.failure = NotDelivered("refused")
    box.put(event(0))
    until(lambda: receiver.tries == 1)
    box.put(event(1))

    box.close(time.monotonic() + 0.1)

    assert receiver.closed.wait(WAIT_SECONDS)
    assert receiver.got == []
    box._thread.join(WAIT_SECONDS)
