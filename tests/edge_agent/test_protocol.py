"""Supervisor and worker understand each other, whatever a file is called."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.protocol import (
    Job,
    Ready,
    Refused,
    WorkerSettings,
    greeting_line,
    job_line,
    read_greeting,
    read_job,
    read_settings,
    settings_line,
)
from edge_agent.sidecar import OutputPlan

NAMES = [
    pytest.param("a.dm3", id="plain"),
    pytest.param("Å 粒子 😀.dm3", id="not ASCII"),
    pytest.param("two\nlines.dm3", id="newline"),
    pytest.param("caf\udce9.dm3", id="no UTF-8"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_job_survives_the_pipe_as_one_ascii_line(name):
    job = Job(Path("/data") / name, datetime(2026, 5, 4, 3, 2, 1, 99, tzinfo=UTC), incomplete_is_final=True)

    line = job_line(job)

    assert line.isascii()
    assert "\n" not in line
    assert read_job(line) == job


def test_a_job_need_not_have_been_watched():
    assert read_job(job_line(Job(Path("a.dm3")))) == Job(Path("a.dm3"), None, incomplete_is_final=False)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(WorkerSettings(None, OutputPlan()), id="defaults"),
        pytest.param(
            WorkerSettings("m", OutputPlan(Path("/o\udcff"), (Path("/a"), Path("/b"))), False, 64),
            id="everything set",
        ),
    ],
)
def test_settings_survive_the_pipe(settings):
    assert read_settings(settings_line(settings)) == settings


@pytest.mark.parametrize(
    "greeting", [Ready("n", "1", "ab"), Refused("no: \n never")], ids=["ready", "refused"]
)
def test_greetings_survive_the_pipe(greeting):
    assert read_greeting(greeting_line(greeting)) == greeting


@pytest.mark.parametrize("line", ["Welcome!", "{}", "[1]", '{"ready": true}'])
def test_what_is_no_greeting_is_refused(line):
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_greeting(line)
