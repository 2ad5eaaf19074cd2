"""Abstaining: the order of answers, the risk-coverage curve and its area, accuracy at a coverage."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.scoring.selective import MOST_POINTS, RiskCoverage, accuracy_interval, risk_coverage, sureness


def curve(score: list[float], right: list[int], groups: list[str] | None = None) -> RiskCoverage:
    own = groups or [str(index) for index in range(len(score))]
    return risk_coverage(np.array(score), np.array(right, dtype=bool), own, 0)


@pytest.mark.parametrize(
    ("probability", "reasons", "expected"),
    [
        pytest.param(0.9, (), 0.9, id="nothing against it"),
        pytest.param(0.4, ("low_confidence",), 0.4, id="unsure: its probability says so already"),
        pytest.param(0.6, ("unusual_and_unsure",), 0.6, id="unusual and unsure: a surer answer would pass"),
        pytest.param(0.99, ("novel",), -0.01, id="novel"),
        pytest.param(0.3, ("blurred", "low_confidence"), -0.7, id="two reasons"),
    ],
)
def test_what_another_gate_stops_comes_last(
    probability: float, reasons: tuple[str, ...], expected: float
) -> None:
    assert sureness(probability, reasons) == pytest.approx(expected)
    assert (sureness(probability, reasons) > 0) == (
        not set(reasons) - {"low_confidence", "unusual_and_unsure"}
    )


@pytest.mark.parametrize(
    ("score", "right", "area", "beyond_best"),
    [
        pytest.param([4, 3, 2, 1], [1, 1, 1, 1], 0, 0, id="never wrong"),
        pytest.param([4, 3, 2, 1], [1, 1, 1, 0], 1 / 4 / 4, 0, id="the wrong one last"),
        pytest.param(
            [4, 3, 2, 1], [0, 1, 1, 1], (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, 25 / 48 - 1 / 16, id="first"
        ),
        pytest.param([1, 1, 1, 1], [0, 1, 1, 1], 1 / 4, 1 / 4 - 1 / 16, id="no order: the plain risk"),
        pytest.param(
            [2, 2, 1, 1], [1, 1, 1, 0], (1 / 2 / 3 + 1 / 4) / 4, 1 / 24, id="equal scores by their mean"
        ),
    ],
)
def test_the_area_is_the_mean_risk_over_every_coverage(
    score: list[float], right: list[int], area: float, beyond_best: float
) -> None:
    seen = curve(score, right)
    assert seen.area == pytest.approx(area, abs=1e-5)
    assert seen.area_beyond_best == pytest.approx(beyond_best, abs=1e-5)


def test_points_run_from_the_surest_to_all() -> None:
    seen = curve([0.9, 0.7, 0.7, -0.1], [1, 1, 0, 0])
    assert [(one.coverage, one.accuracy, one.threshold) for one in seen.points] == [
        (0.25, 1.0, 0.9),
        (0.75, pytest.approx(2 / 3, abs=1e-4), 0.7),
        (1.0, 0.5, None),
    ]


def test_a_long_curve_is_recorded_with_few_points() -> None:
    random = np.random.default_rng(0)
    score = random.random(1000)
    seen = risk_coverage(score, random.random(1000) < score, [str(index) for index in range(1000)], 0)
    assert len(seen.points) == MOST_POINTS
    assert (seen.points[0].coverage, seen.points[-1].coverage) == (0.001, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_keeps_what_it_says(seed: int) -> None:
    """Thresholds are cut down in the file; an answer just at the limit must still be kept."""
    random = np.random.default_rng(seed)
    score = random.random(50)
    seen = risk_coverage(score, random.random(50) < score, [str(index) for index in range(50)], 0)
    for one in (*seen.points, seen.at_80, seen.at_90):
        assert one.threshold is not None
        assert float((score >= one.threshold).mean()) == pytest.approx(one.coverage)


@pytest.mark.parametrize(
    ("score", "right", "at_80", "at_90"),
    [
        pytest.param(range(10, 0, -1), [1] * 8 + [0, 0], 1.0, 8 / 9, id="in order"),
        pytest.param([1] * 10, [1] * 5 + [0] * 5, 0.5, 0.5, id="no order: the plain accuracy"),
        pytest.param([2] * 6 + [1] * 4, [1] * 6 + [1, 1, 0, 0], 7 / 8, 7.5 / 9, id="a part of equal ones"),
    ],
)
def test_accuracy_at_a_coverage(score: list[float], right: list[int], at_80: float, at_90: float) -> None:
    seen = curve(list(score), right)
    assert (seen.at_80.coverage, seen.at_90.coverage) == (0.8, 0.9)
    assert seen.at_80.accuracy == pytest.approx(at_80, abs=1e-4)
    assert seen.at_90.accuracy == pytest.approx(at_90, abs=1e-4)


def test_the_interval_is_drawn_by_group() -> None:
    random = np.random.default_rng(0)
    score = random.random(200)
    right = np.repeat(random.random(20) < 0.85, 10)  # each group all right or all wrong
    alone = risk_coverage(score, right, [str(index) for index in range(200)], 0).at_80
    together = risk_coverage(score, right, [str(index // 10) for index in range(200)], 0).at_80
    assert alone.accuracy == together.accuracy
    assert alone.interval[0] < alone.accuracy < alone.interval[1]
    assert together.interval[1] - together.interval[0] > 2 * (alone.interval[1] - alone.interval[0])


@pytest.mark.parametrize(
    ("kept", "right", "groups", "expected"),
    [
        pytest.param([1, 1], [1, 1], "aa", (0, 1), id="one group says nothing of another"),
        pytest.param([0, 0], [1, 1], "ab", (0, 1), id="nothing kept"),
        pytest.param(
            [1] * 8, [1] * 8, "aabbccdd", (0.5101, 1), id="all right: as four groups, not as certain"
        ),
        pytest.param([1] * 8, [0] * 8, "aabbccdd", (0, 0.4899), id="all wrong"),
    ],
)
def test_few_groups_are_not_certainty(
    kept: list[float], right: list[int], groups: str, expected: tuple[float, float]
) -> None:
    seen = accuracy_interval(np.array(kept, dtype=float), np.array(right, dtype=bool), list(groups), 0)
    assert seen == pytest.approx(expected, abs=1e-4)
