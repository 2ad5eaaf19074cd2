"""The heartbeat, what systemd is told, and the word for whoever runs the agent: one story for all three."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest

from edge_agent.hosting.vital_signs import HEARTBEAT_NAME, VitalSigns


class Ear:
    """A `Notifier` that writes down what it is asked for."""

    def __init__(self):
        self.heard = []

    def say(self, *lines):
        self.heard.extend(lines)

    def ready(self, status):
        self.heard.append(f"READY {status}")

    def reloading(self, status):
        self.heard.append(f"RELOADING {status}")

    def stopping(self):
        self.heard.append("STOPPING")

    def alive(self):
        self.heard.append("alive")

    def patience(self):
        self.heard.append("patience")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Signs:
    def __init__(self, folder):
        self.folder, self.ear, self.clock, self.words = folder, Ear(), Clock(), []
        self.signs = VitalSigns(folder, self.ear, self.words.append, self.clock)

    def heartbeat(self):
        return json.loads((self.folder / HEARTBEAT_NAME).read_bytes())

    def spoken(self):
        return [line for line in self.ear.heard if line not in ("alive", "patience")]


@pytest.fixture
def bench(tmp_path):
    return Signs(tmp_path)


def doing(waiting=0, paused=None, last=None):
    last = None if last is None else SimpleNamespace(path=last)
    return SimpleNamespace(waiting=waiting, paused=paused, last=last)


def test_a_life_is_told_to_systemd_and_to_whoever_runs_it(bench):
    bench.signs.enter("starting", "loading the model")
    bench.signs.note(doing(waiting=3))  # not ready yet
    bench.signs.enter("idle", "watching")
    bench.signs.note(doing(waiting=3))
    bench.signs.note(doing(waiting=2))
    bench.signs.note(doing(waiting=2, paused="the disk is full"))
    bench.signs.enter("reloading", "another model")
    bench.signs.enter("idle", "watching")
    bench.signs.enter("stopping")

    assert bench.words == ["starting", "idle", "working", "paused", "reloading", "idle", "stopping"]
    assert bench.spoken() == [
        "STATUS=loading the model",
        "READY watching",
        "STATUS=examining files",
        "STATUS=paused: the disk is full",
        "RELOADING another model",
        "READY watching",
        "STOPPING",
    ]


def test_the_heartbeat_says_who_does_what_and_when(bench):
    bench.signs.enter("starting")
    bench.signs.enter("idle")
    bench.signs.note(doing(waiting=1, last="/scope/a.dm3"))

    beat = bench.heartbeat()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", beat.pop("time"))
    assert beat == {
        "schema": "scopewatch.heartbeat/1",
        "pid": os.getpid(),
        "state": "working",
        "last_file": "/scope/a.dm3",
    }


def test_it_beats_within_five_seconds_and_not_with_every_round(bench):
    bench.signs.enter("starting")
    bench.signs.enter("idle")
    written = []
    for half in range(1, 41):
        bench.clock.now = half / 2
        (bench.folder / HEARTBEAT_NAME).unlink(missing_ok=True)
        bench.signs.beat()
        if (bench.folder / HEARTBEAT_NAME).exists():
            written.append(bench.clock.now)

    gaps = [later - earlier for earlier, later in zip([0.0, *written], written, strict=False)]
    assert max(gaps) < 5
    assert len(written) < 10


@pytest.mark.parametrize(
    ("state", "words"),
    [pytest.param("starting", 5, id="starting"), pytest.param("idle", 1, id="ready")],
)
def test_whoever_runs_it_hears_something_every_second_while_it_is_not_ready(bench, state, words):
    bench.signs.enter(state)
    for half in range(1, 10):
        bench.clock.now = half / 2
        bench.signs.beat()

    assert bench.words == [state] * words
    assert ("patience" in bench.ear.heard) is (state == "starting")


def test_a_full_disk_costs_the_heartbeat_only(bench, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_agent.hosting.vital_signs.publish_beside", full)
    bench.signs.enter("starting")
    bench.signs.enter("idle")

    assert bench.words == ["starting", "idle"]
    assert not (bench.folder / HEARTBEAT_NAME).exists()
