"""The state of the agent in words: each by the numbers that make it, and which one comes first."""

from __future__ import annotations

from datetime import timedelta

import pytest
from agent_numbers import DISK, FOLDER, START, WORKER, numbers

from edge_agent.live_page.pulse import Pulse
from edge_agent.page.page_state import (
    BACKLOG_FILES,
    Pace,
    PageState,
    backlog_of,
    conditions_of,
    is_news,
)
from edge_agent.status import LastFile

NOW = START + timedelta(hours=1)
LOW = DISK.model_copy(update={"low": True, "free_mib": 12})
GONE = FOLDER.model_copy(update={"present": False})
OTHER = FOLDER.model_copy(update={"path": "/data/other", "present": False})
TROUBLED = WORKER.model_copy(update={"pid": None, "trouble": "model x: manifest.json: hash differs"})
AWAY = WORKER.model_copy(update={"pid": None, "trouble": "needed more memory", "away_seconds": 31.0})


def last(seconds_ago: float) -> LastFile:
    return LastFile(
        path="/data/scope/a.dm3", outcome="classified", label="rod", probability=0.9, decision="accept",
        finished=NOW - timedelta(seconds=seconds_ago),
    )  # fmt: skip


def pulse(silent_seconds=0.0, scanned_ago=None, **changes) -> Pulse:
    return Pulse(
        numbers(**changes), silent_seconds, {"/data/scope": 1.0} if scanned_ago is None else scanned_ago
    )


QUIET = {"waiting": 0, "oldest_waiting_seconds": None}


@pytest.mark.parametrize(
    ("seen", "state", "words", "detail", "command"),
    [
        pytest.param(Pulse(None, 1.0), "starting", "STARTING", "the agent is starting", None, id="no numbers yet"),
        pytest.param(
            pulse(silent_seconds=16), "watcher_unhealthy", "AGENT STUCK",
            "the agent's main loop has stopped; nothing new is found", "edge-agent doctor", id="main loop silent",
        ),
        pytest.param(
            pulse(model=None, worker=TROUBLED), "model_refused", "MODEL REFUSED",
            "no file is answered: model x: manifest.json: hash differs", "edge-agent models list", id="refused",
        ),
        pytest.param(
            pulse(model_note="a 1 answers instead of b 2: golden replay"), "model_refused", "MODEL REFUSED",
            "a 1 answers instead of b 2: golden replay", "edge-agent models list", id="another model answers",
        ),
        pytest.param(
            pulse(worker=AWAY), "model_refused", "NO ANSWERS", "no file is answered: needed more memory",
            "edge-agent doctor", id="no worker for long",
        ),
        pytest.param(
            pulse(folders=(GONE,)), "watcher_unhealthy", "NOT WATCHING", "/data/scope is missing",
            "edge-agent doctor", id="folder missing",
        ),
        pytest.param(
            pulse(folders=(GONE, OTHER)), "watcher_unhealthy", "NOT WATCHING",
            "/data/scope is missing, and 1 more", "edge-agent doctor", id="two folders missing",
        ),
        pytest.param(
            pulse(folders=()), "watcher_unhealthy", "NOT WATCHING", "no folder is watched", "edge-agent doctor",
            id="no folder",
        ),
        pytest.param(
            pulse(scanned_ago={"/data/scope": 26.0}), "watcher_unhealthy", "NOT WATCHING",
            "/data/scope has not been looked over for too long", "edge-agent doctor", id="scan late",
        ),
        pytest.param(
            pulse(disks=(LOW,)), "disk_low", "DISK LOW",
            "nothing is written to /data/scope (12 MiB free); files wait", "edge-agent doctor", id="disk low",
        ),
        pytest.param(pulse(waiting=21), "backlog", "BACKLOG", "21 files wait", None, id="many wait"),
        pytest.param(
            pulse(waiting=1, oldest_waiting_seconds=61.0), "backlog", "BACKLOG", "1 file waits", None,
            id="one waits long",
        ),
        pytest.param(
            pulse(waiting=21, paused="other programs use 90 %"), "backlog", "BACKLOG",
            "21 files wait; paused: other programs use 90 %", None, id="many wait for a busy PC",
        ),
        pytest.param(
            pulse(model=None), "starting", "STARTING", "the model is being loaded", None, id="model being loaded"
        ),
        pytest.param(
            pulse(scanned_ago={}), "starting", "STARTING", "the folders are being looked over for the first time",
            None, id="first scan",
        ),
        pytest.param(
            pulse(paused="other programs use 90 %"), "idle", "PAUSED", "paused: other programs use 90 %", None,
            id="busy PC",
        ),
        pytest.param(pulse(), "working", "WORKING", "files are being answered", None, id="a few wait"),
        pytest.param(
            pulse(**QUIET, last=last(29)), "working", "WORKING", "files are being answered", None, id="just now"
        ),
        pytest.param(pulse(**QUIET, last=last(31)), "idle", "IDLE", "no file is waiting", None, id="a while ago"),
        pytest.param(pulse(**QUIET), "idle", "IDLE", "no file is waiting", None, id="never"),
        pytest.param(
            pulse(**QUIET, folders=(FOLDER.model_copy(update={"events": "off: too many folders"}),)),
            "idle", "IDLE", "no file is waiting", None, id="events lost are no fault: scans find everything",
        ),
    ],
)  # fmt: skip
def test_states(seen, state, words, detail, command):
    found = conditions_of(seen, NOW)

    assert [(one.state, one.words, one.detail, one.command) for one in found] == [
        (state, words, detail, command)
    ]


def test_the_most_severe_comes_first_and_the_others_are_named():
    seen = pulse(model=None, worker=TROUBLED, folders=(GONE,), disks=(LOW,), waiting=BACKLOG_FILES + 1)

    told = PageState().told(seen, NOW)

    assert told["state"] == "model_refused"
    assert [one["state"] for one in told["also"]] == ["watcher_unhealthy", "disk_low", "backlog"]


def test_since_is_when_the_state_came_and_not_when_its_detail_changed():
    state = PageState()
    first = state.told(pulse(waiting=21), NOW)
    later = state.told(pulse(waiting=40), NOW + timedelta(seconds=5))
    over = state.told(pulse(**QUIET), NOW + timedelta(seconds=9))

    assert first["since"] == later["since"] == "2026-05-04T13:00:00.000Z"
    assert over["since"] == "2026-05-04T13:00:09.000Z"


@pytest.mark.parametrize(
    ("marks", "seconds"),
    [
        pytest.param([], None, id="nothing known"),
        pytest.param([(0, 100)], None, id="one look"),
        pytest.param([(0, 100), (4, 108)], None, id="too short"),
        pytest.param([(0, 100), (10, 100)], None, id="nothing is finished"),
        pytest.param([(0, 100), (10, 120)], 30.0, id="two a second"),
        pytest.param([(0, 0), (200, 1), (210, 21)], 30.0, id="the pace of late"),
        pytest.param([(0, 1000), (10, 0), (20, 20)], 30.0, id="counted anew"),
    ],
)
def test_the_time_that_a_backlog_takes(marks, seconds):
    pace = Pace()
    for now, done in marks:
        pace.note(now, numbers(since_start={"classified": done}))

    backlog = backlog_of(numbers(waiting=60), pace)

    assert (backlog.files, backlog.left_seconds) == (60, seconds)
    assert backlog_of(numbers(**QUIET), pace) is None


@pytest.mark.parametrize(
    ("changes", "news"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"last_seconds": 99.0}, False, id="an age"),
        pytest.param(
            {"backlog": {"files": 3, "oldest_seconds": 9.0, "eta_seconds": 8.0}}, False, id="an estimate"
        ),
        pytest.param(
            {"backlog": {"files": 4, "oldest_seconds": 9.0, "eta_seconds": 8.0}}, True, id="a file more"
        ),
        pytest.param({"backlog": None}, True, id="no backlog"),
        pytest.param({"detail": "another"}, True, id="another reason"),
        pytest.param({"also": [{"state": "disk_low"}]}, True, id="something else, too"),
    ],
)
def test_what_is_news(changes, news):
    told = {"state": "working", "detail": "so", "last_seconds": 1.0, "also": [], "since": "x"}
    told["backlog"] = {"files": 3, "oldest_seconds": 1.0, "eta_seconds": None}

    assert is_news(told | changes, told) is news
    assert is_news(told, None)


def test_a_clock_that_was_set_back_makes_no_negative_age():
    assert PageState().told(pulse(last=last(-100)), NOW)["last_seconds"] == 0.0
