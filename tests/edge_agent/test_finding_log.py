"""Findings in the log: news only, with fields, and a standing fault once a minute."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_agent.hosting.finding_log import FindingLog
from edge_agent.sidecar import Finding

PATH = Path("/d/a.dm3")
ANSWER = Finding(
    path=PATH,
    outcome="classified",
    label="rod",
    probability=0.9,
    decision="abstain",
    reasons=("novel",),
    milliseconds=123.456,
)


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "edge_agent")

    def log(*findings):
        book = FindingLog()
        for finding in findings:
            book.note(finding)
        return caplog.records

    return log


def fields(record):
    names = (
        "event",
        "file",
        "outcome",
        "label",
        "probability",
        "decision",
        "reasons",
        "reason",
        "milliseconds",
    )
    return {name: value for name in names if (value := getattr(record, name, None)) is not None}


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        pytest.param(
            ANSWER,
            {
                "outcome": "classified",
                "label": "rod",
                "probability": 0.9,
                "decision": "abstain",
                "reasons": ("novel",),
                "milliseconds": 123.5,
            },
            id="an answer",
        ),
        pytest.param(
            Finding(path=PATH, outcome="not_an_image", reason="a spectrum", label="rod"),
            {"outcome": "not_an_image", "reason": "a spectrum"},
            id="no answer has no label",
        ),
    ],
)
def test_a_finding_is_a_line_and_fields(logged, finding, expected):
    (record,) = logged(finding)
    assert record.getMessage().startswith("/d/a.dm3  ")
    assert fields(record) == {"event": "finding", "file": "/d/a.dm3"} | expected


@pytest.mark.parametrize("outcome", ["incomplete", "vanished"])
def test_what_comes_to_rights_by_itself_is_no_news(logged, outcome):
    assert logged(Finding(path=PATH, outcome=outcome)) == []


def test_what_fails_again_and_again_for_one_reason_is_told_once_a_minute(logged):
    full, broken = (
        Finding(path=PATH, outcome="failed", reason=reason) for reason in ("disk full", "no rights")
    )
    assert [record.reason for record in logged(full, full, broken, full)] == ["disk full", "no rights"]
