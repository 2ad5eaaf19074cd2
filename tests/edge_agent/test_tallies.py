"""What is counted of findings, and what is not."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import get_args

import pytest
from agent_numbers import START, finding

from edge_agent.finding import FindingOutcome, Milliseconds
from edge_agent.live_page.tallies import MOST_ANSWERS, STAGES, Tallies, empty, latency_of


def counted(*findings):
    tallies = Tallies()
    for one in findings:
        tallies.note(one)
    return tallies.counted()


def test_every_outcome_and_stage_is_there_before_the_first_file():
    nothing = counted()

    assert nothing.outcomes == dict.fromkeys(get_args(FindingOutcome), 0)
    assert nothing.stages.keys() == set(STAGES) == {"read", "preprocess", "infer", "heatmap", "write"}
    assert nothing.answers == {}


def test_answers_count_when_they_were_inferred():
    numbers = counted(
        finding(),
        finding(decision="abstain"),
        finding(),
        finding(inferred=False),
        finding(outcome="not_an_image", label=None, decision=None),
    )

    assert numbers.outcomes["classified"] == 4
    assert numbers.outcomes["not_an_image"] == 1
    assert numbers.answers == {("round", "accept"): 2, ("round", "abstain"): 1}


def test_a_model_with_thousands_of_classes_does_not_make_thousands_of_series():
    numbers = counted(*(finding(label=f"class {n}") for n in range(MOST_ANSWERS + 50)))

    assert len(numbers.answers) == MOST_ANSWERS + 1
    assert numbers.answers["other", "accept"] == 50


def test_stages_that_did_not_run_count_in_no_distribution():
    numbers = counted(finding(), finding(stages=Milliseconds(read=2.0)))

    assert {stage: sum(times.counts) for stage, times in numbers.stages.items()} == {
        "read": 2,
        "preprocess": 1,
        "infer": 1,
        "heatmap": 1,
        "write": 1,
    }
    assert numbers.stages["read"].sum_seconds == pytest.approx(0.012)


@pytest.mark.parametrize(
    ("seconds", "place"),
    [
        pytest.param(0.5, 0, id="below the first bound"),
        pytest.param(1.0, 0, id="a bound belongs to what is below it"),
        pytest.param(1.5, 1, id="between"),
        pytest.param(99.0, 2, id="above the last"),
    ],
)
def test_a_duration_counts_at_its_bound(seconds, place):
    found = empty((1.0, 2.0)).plus(seconds)

    assert found.counts == tuple(int(index == place) for index in range(3))
    assert found.sum_seconds == seconds


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        pytest.param({}, 0.4, id="watched"),
        pytest.param({"settled": None}, None, id="not watched"),
        pytest.param({"finished": START - timedelta(hours=1)}, None, id="the clock was set back"),
        pytest.param({"finished": START + timedelta(days=365)}, None, id="the clock was set on"),
    ],
)
def test_latency_is_from_quiet_to_finished_unless_the_clock_was_set(changes, seconds):
    assert latency_of(finding(**changes)) == (None if seconds is None else pytest.approx(seconds))


def test_no_finding_is_lost_between_threads():
    tallies = Tallies()
    threads = [
        threading.Thread(target=lambda: [tallies.note(finding()) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tallies.counted().outcomes["classified"] == 800
    assert sum(tallies.counted().latency.counts) == 800
