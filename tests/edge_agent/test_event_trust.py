"""Doubts about events: raised by what should have been told, ended by what is."""

from __future__ import annotations

import pytest

from edge_agent.watching.event_trust import COOKIE_SECONDS, EventTrust

OWN = "/data/a.dm3.json"
SILENT, MISSED = "a file written here raised no event", "a file was saved without an event"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def trust(clock):
    return EventTrust(clock)


def test_at_first_events_are_trusted(trust):
    assert trust.doubt() is None


@pytest.mark.parametrize(
    ("steps", "doubt"),
    [
        (["expect"], SILENT),
        (["expect", "hear"], None),
        (["hear", "expect"], None),
        (["hear", "expect", "expect"], SILENT),
        (["expect", "hear other"], SILENT),
        (["expect", "lose"], None),
        (["hear in other words", "expect"], None),
    ],
)
def test_a_file_of_ours_must_raise_an_event(trust, clock, steps, doubt):
    does = {
        "expect": lambda: trust.expect(OWN),
        "hear": lambda: trust.heard(OWN),
        "hear other": lambda: trust.heard("/data/b.dm3.json"),
        "hear in other words": lambda: trust.heard("/private/data/a.dm3.json"),
        "lose": trust.events_were_lost,
    }
    for step in steps:
        does[step]()
    clock.now = COOKIE_SECONDS - 0.1
    assert trust.doubt() is None
    clock.now = COOKIE_SECONDS

    assert trust.doubt() == doubt


def test_any_event_ends_the_doubt_whether_events_come_at_all(trust, clock):
    trust.expect(OWN)
    clock.now = COOKIE_SECONDS
    assert trust.doubt() == SILENT

    trust.heard("/data/whatever.tif")

    assert trust.doubt() is None


def test_our_own_events_say_nothing_about_the_writes_of_another_pc(trust):
    trust.missed_a_file()
    trust.heard(OWN)
    assert trust.doubt() == MISSED

    trust.heard_of_input()

    assert trust.doubt() is None


def test_what_was_heard_is_remembered_in_a_bounded_way(trust, clock):
    for number in range(2000):
        trust.heard(f"/data/{number}.json")
    trust.expect("/data/1999.json")
    clock.now = COOKIE_SECONDS
    assert trust.doubt() is None
    trust.expect("/data/0.json")
    clock.now *= 2

    assert trust.doubt() == SILENT
