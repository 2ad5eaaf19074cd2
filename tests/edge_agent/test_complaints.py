"""A standing fault is told once; one that comes and goes, once a minute at most."""

from __future__ import annotations

import logging

import pytest

from edge_agent.watching.complaints import PAUSE_SECONDS, Complaints


@pytest.mark.parametrize(
    ("steps", "lines"),
    [
        pytest.param("a" * 500, "a", id="stands"),
        pytest.param("a." * 50, "a", id="comes and goes within a minute"),
        pytest.param("a.|a", "aa", id="went away and came back later"),
        pytest.param("a|a|a", "a", id="stands for minutes"),
        pytest.param("a|b", "ab", id="becomes another"),
        pytest.param("ab", "a", id="becomes another at once"),
        pytest.param("ab|b", "ab", id="and is still another a minute later"),
        pytest.param(".a", "a", id="nothing to be over"),
    ],
)
def test_how_often_it_is_told(caplog, steps, lines):
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    for step in steps:
        if step == "|":
            now[0] += PAUSE_SECONDS
        elif step == ".":
            complaints.over("folder")
        else:
            complaints.about("folder", step)

    assert [record.message for record in caplog.records] == list(lines)


def test_things_are_told_apart_and_forgotten_when_there_are_too_many(caplog):
    complaints = Complaints(lambda: 0.0)
    with caplog.at_level(logging.WARNING):
        for number in range(1500):
            complaints.about(str(number), f"{number} is wrong")
        complaints.about("1499", "1499 is wrong")
        complaints.about("0", "0 is wrong")

    assert len(caplog.records) == 1501
