"""Calibration: the figures are those of scikit-learn, and chance is not taken for an error."""

from __future__ import annotations

import numpy as np
import pytest
from answered import THREE, drawn_scored
from sklearn import metrics
from sklearn.calibration import calibration_curve

from trainer.scoring.calibration import ANSWERS_A_BIN, ENOUGH, MOST_BINS, calibration


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
