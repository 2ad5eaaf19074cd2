"""Whether the agent is alive and ready, and what is said when it is not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from agent_numbers import DISK, FOLDER, START, WORKER, numbers

from edge_agent.live_page.pulse import MonitorState, not_alive, not_ready, without_names

MISSING = FOLDER.model_copy(update={"present": False})
UNSCANNED = FOLDER.model_copy(update={"scanned": None})
AWAY = WORKER.model_copy(update={"pid": None, "trouble": "exit code 1"})
LOW = DISK.model_copy(update={"low": True, "free_mib": 12})


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> MonitorState:
    return MonitorState(clock)


def test_before_the_first_word_it_is_alive_for_a_while_but_not_ready(state, clock):
    assert not_alive(state.pulse()) == []
    assert not_ready(state.pulse()) == ["the agent is starting"]

    clock.now += 16

    assert not_alive(state.pulse()) == ["the agent's main loop has said nothing for 16 s"]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        pytest.param({}, [], id="well"),
        pytest.param({"model": None}, ["the model is not loaded yet"], id="loading"),
        pytest.param(
            {"model": None, "worker": AWAY}, ["the model is not loaded yet: exit code 1"], id="cannot load"
        ),
        pytest.param(
            {"worker": AWAY}, ["there is no worker at the moment: exit code 1"], id="the worker died"
        ),
        pytest.param({"folders": ()}, ["no folder is watched"], id="nothing to watch"),
        pytest.param({"folders": (MISSING,)}, ["folder /data/scope is missing"], id="folder missing"),
        pytest.param(
            {"folders": (UNSCANNED,)},
            ["folder /data/scope has not been scanned yet"],
            id="first scan not over",
        ),
        pytest.param(
            {"disks": (LOW,)}, ["the disk of /data/scope is below its floor: 12 MiB are free"], id="disk low"
        ),
        pytest.param({"paused": "other programs use 90 %"}, ["paused: other programs use 90 %"], id="paused"),
        pytest.param(
            {"folders": (MISSING,), "disks": (LOW,), "worker": AWAY},
            [
                "there is no worker at the moment: exit code 1",
                "folder /data/scope is missing",
                "the disk of /data/scope is below its floor: 12 MiB are free",
            ],
            id="everything at once",
        ),
    ],
)
def test_ready_or_why_not(state, changes, reasons):
    state.note_status(numbers(**changes))

    assert not_ready(state.pulse()) == reasons
    assert not_alive(state.pulse()) == []


def test_an_agent_that_falls_silent_is_dead_and_not_ready_whatever_it_said(state, clock):
    state.note_status(numbers())
    clock.now += 20

    reason = "the agent's main loop has said nothing for 20 s"
    assert not_alive(state.pulse()) == [reason]
    assert not_ready(state.pulse()) == [reason]


def test_a_scan_that_does_not_come_is_missed_after_two_periods(state, clock):
    for _ in range(26):
        clock.now += 1
        state.note_status(numbers())
    assert not_ready(state.pulse()) == []

    clock.now += 1
    state.note_status(numbers())

    assert not_ready(state.pulse()) == [
        "folder /data/scope was last scanned 26 s ago, its period is 10 s",
    ]
    state.note_status(numbers(folders=(FOLDER.model_copy(update={"scanned": START + timedelta(seconds=1)}),)))
    assert not_ready(state.pulse()) == []


def test_a_scan_that_takes_minutes_is_not_missed(state, clock):
    share = FOLDER.model_copy(update={"scan_period_seconds": 600.0})
    state.note_status(numbers(folders=(share,), last_scan_seconds=300.0))
    clock.now += 1700
    state.note_status(numbers(folders=(share,), last_scan_seconds=300.0))

    assert not_ready(state.pulse()) == []


@pytest.mark.parametrize(
    ("away_seconds", "reasons"),
    [
        pytest.param(None, [], id="there is one"),
        pytest.param(299.0, [], id="it is started again"),
        pytest.param(301.0, ["no worker could be started for 301 s: exit code 1"], id="it never comes back"),
    ],
)
def test_a_worker_that_never_comes_back_is_the_agents_death(state, away_seconds, reasons):
    state.note_status(numbers(worker=AWAY.model_copy(update={"away_seconds": away_seconds})))

    assert not_alive(state.pulse()) == reasons
    assert not_ready(state.pulse()) == [*reasons, "there is no worker at the moment: exit code 1"]


def test_without_names_reasons_have_numbers():
    paths = "/data", "/data/titan: b"
    folders = tuple(MISSING.model_copy(update={"path": path}) for path in paths)
    state = MonitorState()
    state.note_status(numbers(folders=folders, paused="/data is busy"))
    pulse = state.pulse()

    told = ["folder /data is missing", "folder /data/titan: b is missing", "paused: /data is busy"]
    assert not_ready(pulse) == told
    assert without_names(told, pulse) == ["folder 1 is missing", "folder 2 is missing", "paused"]
