"""Intervals: groups are drawn whole, and a share's interval is sensible at its ends."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.scoring.intervals import BOOTSTRAP_ROUNDS, middle_95, resampled_sums, share_interval


@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    [
        (0, 5, 0.0, 0.4345),
        (5, 5, 0.5655, 1.0),
        (7, 9, 0.4526, 0.9368),
        (53, 54, 0.9023, 0.9967),
        (500, 1000, 0.4691, 0.5309),
    ],
)
def test_the_interval_of_a_share_is_wilsons(right: int, number: int, low: float, high: float) -> None:
    """The expected values are those of scipy.stats.binomtest(...).proportion_ci(method="wilson")."""
    assert share_interval(right, number) == pytest.approx((low, high), abs=1e-4)


def test_no_case_says_nothing() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)


def test_groups_are_drawn_whole() -> None:
    values = np.array([[1.0, 10], [2, 20], [4, 40], [8, 80]])
    sums = resampled_sums(values, ["a", "a", "b", "c"], 0)
    assert sums is not None
    assert sums.shape == (BOOTSTRAP_ROUNDS, 2)
    assert set(np.unique(sums[:, 0])) == {
        float(3 * a + 4 * b + 8 * c) for a in range(4) for b in range(4) for c in range(4) if a + b + c == 3
    }
    assert np.array_equal(sums[:, 1], 10 * sums[:, 0])


def test_the_seed_decides_the_samples() -> None:
    values = np.arange(12.0).reshape(6, 2)
    groups = list("abcdef")
    assert np.array_equal(resampled_sums(values, groups, 3), resampled_sums(values, groups, 3))
    assert not np.array_equal(resampled_sums(values, groups, 3), resampled_sums(values, groups, 4))


def test_one_group_is_not_resampled() -> None:
    assert resampled_sums(np.ones((4, 1)), ["a"] * 4, 0) is None


def test_samples_that_are_no_number_do_not_count() -> None:
    assert middle_95(np.array([np.nan, 0.5, 0.5, np.inf])) == (0.5, 0.5)
    assert middle_95(np.array([np.nan])) == (0.0, 1.0)
