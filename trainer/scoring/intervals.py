"""How sure a figure is: bootstrap samples drawn by group, and the interval of a share.

Micrographs of one group (sample, session, article) are not independent; whole groups are drawn, so an interval says
what another choice of groups might have given. Everything resampled here is a ratio of sums over micrographs, so a
sample of groups is a vector of weights and no micrograph is touched twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BOOTSTRAP_ROUNDS: Final = 2000
_ROUNDS_AT_ONCE: Final = 100
NORMAL_95: Final = 1.959963984540054
"""Standard deviations of a normal distribution that hold 95 % of it, to either side."""
UNKNOWN: Final = (0.0, 1.0)


def resampled_sums(
    values: NDArray[np.float64], groups: Sequence[str], seed: int
) -> NDArray[np.float64] | None:
    """Draw groups with replacement and add up `values` [micrographs, k] over each sample: [rounds, k].

    None where there is only one group: nothing is known then of how others would differ.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return None
    by_group = np.zeros((len(names), values.shape[1]))
    np.add.at(by_group, members, values)
    draw = np.random.default_rng(seed)
    sums = []
    for _ in range(BOOTSTRAP_ROUNDS // _ROUNDS_AT_ONCE):
        drawn = [draw.integers(0, len(names), len(names)) for _ in range(_ROUNDS_AT_ONCE)]
        weights = np.stack([np.bincount(one, minlength=len(names)) for one in drawn])
        sums.append(weights @ by_group)
    return np.concatenate(sums)


def middle_95(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5 and 97.5 percent points of the finite samples; 0 to 1 where there are none."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return UNKNOWN
    low, high = np.percentile(finite, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def share_interval(right: float, number: float) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson (1927): sensible for few cases and at 0 and 1."""
    if number <= 0:
        return UNKNOWN
    share, z2 = right / number, NORMAL_95**2
    centre = (share + z2 / (2 * number)) / (1 + z2 / number)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / number + z2 / (4 * number**2)) / (1 + z2 / number)
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)
