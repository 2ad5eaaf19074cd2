"""Calibration: the figures are those of scikit-learn, and chance is not taken for an error."""

from __future__ import annotations

import os

import numpy as np
import pytest
from answered import THREE, drawn_scored
from sklearn import metrics
from sklearn.calibration import calibration_curve

from trainer.scoring.calibration import ANSWERS_A_BIN, ENOUGH, MOST_BINS, Calibration, calibration


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Probabilities [n, 3], the true class, groups of three, and the answers' own probability."""
    entries = drawn_scored(count, seed=seed)
    probabilities = np.array([[entry.probabilities[label] for label in THREE] for entry in entries])
    true = np.array([THREE.index(entry.label) for entry in entries])
    return probabilities, true, [entry.group for entry in entries], probabilities.max(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_bins_are_those_of_scikit_learn(seed: int) -> None:
    probabilities, true, groups, confidence = drawn(300, seed)
    right = probabilities.argmax(axis=1) == true
    seen = calibration(confidence, right, groups, seed)
    kept, promised = calibration_curve(right, confidence, n_bins=MOST_BINS, strategy="quantile")
    assert [one.accuracy for one in seen.bins] == pytest.approx(kept.tolist(), abs=1e-4)
    assert [one.confidence for one in seen.bins] == pytest.approx(promised.tolist(), abs=1e-4)
    assert {one.micrographs for one in seen.bins} == {30}
    assert seen.error == pytest.approx(float(np.abs(kept - promised).mean()), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_brier_score_and_log_loss_are_those_of_scikit_learn(seed: int) -> None:
    probabilities, true, groups, confidence = drawn(120, seed)
    right = probabilities.argmax(axis=1) == true
    seen = calibration(confidence, right, groups, seed, probabilities=probabilities, true=true)
    assert seen.brier == pytest.approx(
        metrics.brier_score_loss(true, probabilities, scale_by_half=False, labels=[0, 1, 2]), abs=1e-4
    )
    assert seen.log_loss == pytest.approx(metrics.log_loss(true, probabilities, labels=[0, 1, 2]), abs=1e-4)
    for value, interval in ((seen.brier, seen.brier_interval), (seen.log_loss, seen.log_loss_interval)):
        assert value is not None
        assert interval is not None
        assert interval[0] < value < interval[1]


def test_a_calibrated_network_is_within_chance_and_an_overconfident_one_is_not() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.4, 1, 500)
    groups = [str(index) for index in range(500)]
    honest = calibration(confidence, random.random(500) < confidence, groups, 0)
    boasting = calibration(np.sqrt(confidence), random.random(500) < confidence, groups, 0)
    assert honest.error <= honest.error_if_calibrated_highest
    assert boasting.error > boasting.error_if_calibrated_highest
    assert 0 < honest.error_if_calibrated < honest.error_if_calibrated_highest
    assert boasting.confidence > float(confidence.mean())


@pytest.mark.parametrize(
    ("count", "bins", "few"),
    [
        pytest.param(1, 1, True, id="one answer"),
        pytest.param(2, 1, True, id="two"),
        pytest.param(3 * ANSWERS_A_BIN + 5, 3, True, id="three bins"),
        pytest.param(ENOUGH, MOST_BINS, False, id="enough"),
    ],
)
def test_few_answers_have_few_bins(count: int, bins: int, few: bool) -> None:
    confidence = np.linspace(0.4, 0.9, count)
    seen = calibration(confidence, np.ones(count, dtype=bool), [str(index) for index in range(count)], 0)
    assert len(seen.bins) == bins
    assert sum(one.micrographs for one in seen.bins) == count
    assert seen.few is few


def test_equal_probabilities_are_not_torn_apart() -> None:
    confidence = np.array([0.5] * 25 + [0.9] * 25)
    right = np.arange(50) % 2 == 0
    orders = [np.arange(50), np.arange(50)[::-1]]
    one, other = (
        calibration(confidence[order], right[order], [str(index) for index in order], 0) for order in orders
    )
    assert one.bins == other.bins
    assert [bin_.micrographs for bin_ in one.bins] == [25, 25]


def test_one_group_has_no_interval() -> None:
    seen = calibration(
        np.array([0.9, 0.8]),
        np.array([True, False]),
        ["a", "a"],
        0,
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8]]),
        true=np.array([0, 0]),
    )
    assert seen.error_interval == (0.0, 1.0)
    assert seen.brier_interval is None


def test_a_certain_wrong_answer_costs_much_and_not_everything() -> None:
    seen = calibration(
        np.ones(2),
        np.array([True, False]),
        ["a", "b"],
        0,
        probabilities=np.array([[1.0, 0.0], [1.0, 0.0]]),
        true=np.array([0, 1]),
    )
    assert seen.log_loss == pytest.approx(-np.log(1e-12) / 2, rel=1e-3)


# --- the debiased error -----------------------------------------------------------------------------


ROUNDS = 60 if "SCOPEWATCH_LONG" in os.environ else 20


def in_groups(count: int, error: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Answers, right less often than promised by `error`; 300 in about 200 groups, which half err together."""
    random = np.random.default_rng(seed)
    confidence = 1 - random.beta(1, 4, count) * 2 / 3
    member = random.integers(0, round(1.2 * count), count)
    together = random.random(round(1.2 * count))[member]
    luck = np.where(random.random(count) < 0.5, together, random.random(count))
    return confidence, luck < confidence - error, [str(one) for one in member]


@pytest.mark.parametrize("error", [0.0, 0.05, 0.1])
def test_the_debiased_error_is_the_true_one_on_average_and_the_interval_covers_it(error: float) -> None:
    seen = [calibration(*in_groups(300, error, seed), seed) for seed in range(ROUNDS)]
    squares = [one.debiased_error**2 for one in seen if one.debiased_error is not None]
    intervals = [one.debiased_error_interval for one in seen if one.debiased_error_interval is not None]
    assert len(squares) == len(intervals) == ROUNDS
    # Squares are right on average; those below 0 are cut, which lifts the mean where there is no error.
    assert np.mean(squares) == pytest.approx(error**2, abs=0.0012)
    assert np.mean([low <= error <= high for low, high in intervals]) >= 0.9
    assert all(low <= one.debiased_error <= high for one, (low, high) in zip(seen, intervals, strict=True))  # type: ignore[operator]
    plain = np.mean([one.error for one in seen])
    assert plain > np.sqrt(np.mean(squares)), "the plain error takes scatter for error"


def test_a_gross_error_is_not_covered_by_nothing() -> None:
    seen = calibration(*in_groups(300, 0.2, 0), 0)
    assert seen.debiased_error_interval is not None
    assert seen.debiased_error_interval[0] > 0.05


def test_the_debiased_error_is_that_of_kumar_liang_and_ma() -> None:
    """Two bins by hand: 0.5 promised and 3 of 10 kept, 0.9 promised and 8 of 10 kept."""
    confidence = np.repeat([0.5, 0.9], 10)
    right = np.array([True] * 3 + [False] * 7 + [True] * 8 + [False] * 2)
    seen = calibration(confidence, right, [str(index) for index in range(20)], 0)
    by_hand = 0.5 * (0.2**2 - 0.3 * 0.7 / 9) + 0.5 * (0.1**2 - 0.8 * 0.2 / 9)
    assert seen.debiased_error == pytest.approx(by_hand**0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("groups", "error", "interval"),
    [
        pytest.param(["a"], None, None, id="one answer"),
        pytest.param(["a", "a"], 0.0, None, id="one group"),
        pytest.param(["a", "b"], 0.0, (0.0, 0.0), id="two groups"),
    ],
)
def test_what_is_not_known_is_not_stated(
    groups: list[str], error: float | None, interval: tuple[float, float] | None
) -> None:
    count = len(groups)
    seen = calibration(np.full(count, 1.0), np.ones(count, dtype=bool), groups, 0)
    assert (seen.debiased_error, seen.debiased_error_interval) == (error, interval)


def test_a_calibration_of_an_older_version_is_read() -> None:
    seen = calibration(*in_groups(40, 0, 0), 0)
    old = seen.model_dump(exclude={"debiased_error", "debiased_error_interval"})
    assert Calibration.model_validate(old).debiased_error is None
