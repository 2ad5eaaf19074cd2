"""Supervisor and worker understand each other, whatever a file is called."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.instrument_profile import InstrumentProfile
from edge_agent.output_places import OutputPlan
from edge_agent.protocol import (
    Job,
    NotUnderstood,
    Ready,
    Refused,
    UsualRanges,
    WorkerSettings,
    greeting_line,
    job_line,
    read_finding,
    read_greeting,
    read_job,
    read_settings,
    settings_line,
)
from edge_agent.sidecar import Finding, Twin

NAMES = [
    pytest.param("a.dm3", id="plain"),
    pytest.param("Å 粒子 😀.dm3", id="not ASCII"),
    pytest.param("two\nlines.dm3", id="newline"),
    pytest.param("caf\udce9.dm3", id="no UTF-8"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_job_survives_the_pipe_as_one_ascii_line(name):
    path = Path("/data") / name
    twins = (Twin(path.with_name(f"old {name}"), "ab" * 32), Twin(path, "cd" * 32))
    settled = datetime(2026, 5, 4, 3, 2, 1, 99, tzinfo=UTC)
    job = Job(path, settled, incomplete_is_final=True, twins=twins, quarantine=f"died of {name}")

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
            WorkerSettings(
                "m",
                OutputPlan(Path("/o\udcff"), (Path("/a"), Path("/b"))),
                False,
                64,
                9,
                4096,
                True,
                "0a1b",
                77,
                InstrumentProfile("Titan \udcff", None, "c", ((40_000.0, 0.25), (1.2e6, 1 / 3))),
                365,
                "ab" * 32,
                ("ed25519:a", "ed25519:b"),
                True,
            ),
            id="everything set",
        ),
    ],
)
def test_settings_survive_the_pipe(settings):
    assert read_settings(settings_line(settings)) == settings


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(Ready("n", "1", "ab"), id="ready"),
        pytest.param(
            Ready("n", "1", "ab", usual=UsualRanges((0.5, 1.0), None, (0.1, 0.3), (0.05, 2.0))),
            id="usual ranges",
        ),
        pytest.param(Refused("no: \n never"), id="refused"),
    ],
)
def test_greetings_survive_the_pipe(greeting):
    assert read_greeting(greeting_line(greeting)) == greeting


def test_the_worker_tells_its_process_but_is_known_by_its_model():
    told = read_greeting(greeting_line(Ready("n", "1", "ab", 4711)))

    assert told.pid == 4711
    assert told == Ready("n", "1", "ab")


@pytest.mark.parametrize(
    "usual",
    [
        pytest.param({"confidence": [0.5]}, id="half a range"),
        pytest.param({"confidence": [0.5, "1"]}, id="text"),
        pytest.param({"confidence": [0.5, float("inf")]}, id="without end"),
        pytest.param({"loudness": [0.5, 1.0]}, id="of what is not measured"),
        pytest.param([0.5, 1.0], id="of nothing"),
    ],
)
def test_what_is_no_range_is_not_understood(usual):
    line = {"ready": True, "name": "n", "version": "1", "sha256": "ab", "usual": usual}

    with pytest.raises(NotUnderstood):
        read_greeting(json.dumps(line))


@pytest.mark.parametrize(
    "finding",
    [
        pytest.param(
            Finding(Path("/data/caf\udce9 \n.dm3"), "interrupted", "no answer"), id="without a record"
        ),
        pytest.param(
            Finding(
                Path("a.dm3"), "classified", novelty=0.3, contrast=0.2, pixel_size_nm=0.12, inferred=False
            ),
            id="with what was measured",
        ),
    ],
)
def test_findings_survive_the_pipe(finding):
    assert read_finding(finding.to_json(), Job(finding.path)) == finding


@pytest.mark.parametrize("key", ["probability", "novelty", "contrast", "pixel_size_nm"])
@pytest.mark.parametrize(
    "value",
    ["0.3", float("nan"), float("inf"), 10**400, [0.3]],
    ids=["text", "NaN", "infinite", "huge", "list"],
)
def test_a_figure_is_a_finite_number_or_unknown(key, value):
    line = json.dumps(json.loads(Finding(Path("a.dm3"), "classified").to_json()) | {key: value})

    with pytest.raises(NotUnderstood, match="a value of another type"):
        read_finding(line, Job(Path("a.dm3")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("settled", "2026-05-03T03:09:39", id="a time without its zone"),
        pytest.param("finished", "yesterday", id="no time"),
        pytest.param("finished", 5, id="a number for a time"),
        pytest.param("stages", {"read": float("nan")}, id="no number of milliseconds"),
        pytest.param("stages", {"digest": 1.0}, id="no stage"),
        pytest.param("stages", None, id="no stages"),
    ],
)
def test_times_are_times_with_a_zone_and_stages_are_numbers(key, value):
    line = json.dumps(json.loads(Finding(Path("a.dm3"), "classified").to_json()) | {key: value})

    with pytest.raises(NotUnderstood):
        read_finding(line, Job(Path("a.dm3")))


GARBAGE = [
    pytest.param("", id="nothing"),
    pytest.param("Welcome!", id="text"),
    pytest.param("{}", id="empty object"),
    pytest.param("[1]", id="list"),
    pytest.param('"text"', id="string"),
    pytest.param("null", id="null"),
    pytest.param('{"ready": true}', id="half a greeting"),
    pytest.param('{"path": "a.dm3"}', id="half a job"),
    pytest.param('{"plan": 1}', id="half the settings"),
    pytest.param("[" * 100_000, id="a thousand brackets"),
    pytest.param('{"path": ' + "\x00" * 10, id="zeros"),
]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(read_settings, id="settings"),
        pytest.param(read_job, id="job"),
        pytest.param(read_greeting, id="greeting"),
        pytest.param(lambda line: read_finding(line, Job(Path("a.dm3"))), id="finding"),
    ],
)
@pytest.mark.parametrize("line", GARBAGE)
def test_what_is_not_of_the_protocol_is_not_understood(read, line):
    with pytest.raises(NotUnderstood):
        read(line)


@pytest.mark.parametrize(
    ("finding", "reason"),
    [
        pytest.param(Finding(Path("b.dm3"), "vanished"), r"answered for b\.dm3", id="another file"),
        pytest.param(Finding(Path("a.dm3"), "digested"), "there is no outcome 'digested'", id="no outcome"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_to_another_question_is_not_understood(finding, reason):
    with pytest.raises(NotUnderstood, match=reason):
        read_finding(finding.to_json(), Job(Path("a.dm3")))
