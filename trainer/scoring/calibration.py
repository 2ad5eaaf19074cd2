"""Whether a probability can be taken at its word: reliability, calibration error, Brier score, log loss.

Of 100 answers given with 80 %, 80 should be right. What is held against the truth is the probability of the answer
given (top-label calibration); Brier score and log loss look at all classes.

On few answers a perfect network shows an error too, as bins scatter. The debiased error takes that scatter off:
Kumar, Liang and Ma, "Verified Uncertainty Calibration", NeurIPS 2019.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.scoring.intervals import NORMAL_95, middle_95, resampled_sums, share_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MOST_BINS: Final = 10
ANSWERS_A_BIN: Final = 10
"""Fewer say next to nothing of a share; with few micrographs there are fewer bins instead."""
ENOUGH: Final = 200
"""Below this many answers the error's own scatter is as large as what one looks for."""
_CHANCE_ROUNDS: Final = 500
_SMALLEST: Final = 1e-12


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReliabilityBin(_Part):
    """Answers of similar probability: what was promised and what was kept."""

    micrographs: int
    confidence: float
    """Mean probability of the answers."""
    accuracy: float
    interval: tuple[float, float]
    """95 % (Wilson) of the accuracy, taken micrograph by micrograph."""


class Calibration(_Part):
    """How far probabilities are from frequencies. `brier` and `log_loss` need the probability of every class."""

    bins: tuple[ReliabilityBin, ...]
    confidence: float
    """Mean probability of the answers; their accuracy is what it should be."""
    error: float
    """Expected calibration error: mean distance of confidence and accuracy over bins of equal numbers."""
    error_interval: tuple[float, float]
    """2.5 and 97.5 percent of bootstrap samples drawn by group."""
    error_if_calibrated: float
    """What a perfectly calibrated network would show on so few answers, on average."""
    error_if_calibrated_highest: float
    """What it would exceed in one case of 20."""
    brier: float | None = None
    """Sum over the classes of squared distances to the truth (0 to 2), averaged."""
    brier_interval: tuple[float, float] | None = None
    log_loss: float | None = None
    """Mean negative log-likelihood in nats."""
    log_loss_interval: tuple[float, float] | None = None
    few: bool
    """Too few answers for a verdict."""
    debiased_error: float | None = None
    """Root mean square distance of confidence and accuracy over the bins, less what scatter alone gives.
    None where no bin holds two answers, and in evaluations of scopewatch 0.4 and before."""
    debiased_error_interval: tuple[float, float] | None = None
    """95 %, groups drawn anew; None where one group says nothing of another."""


def calibration(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    groups: Sequence[str],
    seed: int,
    *,
    probabilities: NDArray[np.float64] | None = None,
    true: NDArray[np.intp] | None = None,
) -> Calibration:
    """Hold the answers' probabilities [n] against whether they were right [n].

    `probabilities` [n, classes] and `true` [n] (index of the class) add Brier score and log loss.
    """
    at = _bin_of(confidence)
    member = np.eye(at.max() + 1)[at]
    counted = np.concatenate([member * confidence[:, None], member * right[:, None]], axis=1)
    error = float(_error(counted.sum(axis=0)[None], len(right))[0])
    by_chance = _errors_by_chance(member, confidence, seed)
    result = Calibration(
        bins=tuple(_bin(confidence[at == index], right[at == index]) for index in range(at.max() + 1)),
        confidence=round(float(confidence.mean()), 4),
        error=round(error, 4),
        error_interval=_error_interval(counted, groups, seed),
        error_if_calibrated=round(float(by_chance.mean()), 4),
        error_if_calibrated_highest=round(float(np.percentile(by_chance, 95)), 4),
        few=len(right) < ENOUGH,
        **_debiased(np.concatenate([member, counted], axis=1), groups, seed),
    )
    if probabilities is None or true is None:
        return result
    scores = {
        "brier": ((probabilities - np.eye(probabilities.shape[1])[true]) ** 2).sum(axis=1),
        "log_loss": -np.log(np.maximum(probabilities[np.arange(len(true)), true], _SMALLEST)),
    }
    known = {name: round(float(values.mean()), 4) for name, values in scores.items()}
    spread = {f"{name}_interval": _mean_interval(values, groups, seed) for name, values in scores.items()}
    return result.model_copy(update={**known, **spread})


def _bin_of(confidence: NDArray[np.float64]) -> NDArray[np.intp]:
    """The bin of each answer, bins holding equal numbers; equal confidences are never torn apart."""
    wanted = max(1, min(MOST_BINS, len(confidence) // ANSWERS_A_BIN))
    edges = np.quantile(confidence, np.linspace(0, 1, wanted + 1))[1:-1]
    return np.unique(np.searchsorted(edges, confidence), return_inverse=True)[1]


def _bin(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> ReliabilityBin:
    return ReliabilityBin(
        micrographs=len(right),
        confidence=round(float(confidence.mean()), 4),
        accuracy=round(float(right.mean()), 4),
        interval=share_interval(float(right.sum()), len(right)),
    )


def _error(counted: NDArray[np.float64], number: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """`counted` [rounds, 2 x bins]: sums of confidence, then of right answers, in each bin."""
    promised, kept = np.split(counted, 2, axis=1)
    return np.asarray(np.abs(promised - kept).sum(axis=1) / number)


def _error_interval(counted: NDArray[np.float64], groups: Sequence[str], seed: int) -> tuple[float, float]:
    with_number = np.concatenate([counted, np.ones((len(counted), 1))], axis=1)
    sums = resampled_sums(with_number, groups, seed)
    return (0.0, 1.0) if sums is None else middle_95(_error(sums[:, :-1], sums[:, -1]))


def _debiased(
    counted: NDArray[np.float64], groups: Sequence[str], seed: int
) -> dict[str, float | tuple[float, float] | None]:
    """`counted` [n, 3 x bins]: membership, confidence and right answers. The error and its interval."""
    several = len(set(groups)) > 1
    names, member = np.unique(np.asarray(groups) if several else np.arange(len(counted)), return_inverse=True)
    by_group = np.zeros((len(names), counted.shape[1]))
    np.add.at(by_group, member, counted)
    number, promised, kept = np.split(by_group, 3, axis=1)
    if number.sum(axis=0).max() < 2:
        return {}
    products = np.concatenate([by_group, kept * kept, kept * number, number * number, number > 0], axis=1)
    squared = float(_squared_error(products.sum(axis=0)[None])[0])
    drawn = resampled_sums(products, [str(name) for name in names], seed) if several else None
    if drawn is None:
        return {"debiased_error": _root(squared)}
    distance = (promised - kept).sum(axis=0) / number.sum(axis=0)
    plain = float(number.sum(axis=0) @ distance**2 / number.sum())
    interval = _squared_interval(squared, plain, _squared_error(drawn), _squared_error(drawn, distance))
    return {"debiased_error": _root(squared), "debiased_error_interval": interval}


def _squared_error(sums: NDArray[np.float64], less: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Mean squared distance over bins, debiased, of each row of sums over groups [rounds, 7 x bins].

    The variance of a bin's accuracy a is estimated from its groups, which may err together: the sum of the squares
    of (right - a x number), times G / (G - 1). Where each of n answers is its own group that is a (1 - a) / (n - 1)
    as Kumar et al. have it, and this is taken for a bin of one group too; a bin of one answer tells none.
    `less` is taken off the distance of each bin first.
    """
    number, promised, kept, kept_kept, kept_number, number_number, groups = np.split(sums, 7, axis=1)
    there = np.maximum(number, 1)
    accuracy = kept / there
    residuals = kept_kept - 2 * accuracy * kept_number + accuracy**2 * number_number
    by_group = residuals / there**2 * groups / np.maximum(groups - 1, 1)
    by_answer = accuracy * (1 - accuracy) / np.maximum(number - 1, 1)
    scatter = np.where(groups > 1, by_group, by_answer)
    distance = (promised - kept) / there - less
    return np.asarray((number * (distance**2 - scatter)).sum(axis=1) / number.sum(axis=1))


def _squared_interval(
    squared: float, plain: float, drawn: NDArray[np.float64], scatter: NDArray[np.float64]
) -> tuple[float, float]:
    """95 % of the error. `drawn` are bootstrap samples about the error `plain`; `scatter` has it taken off.

    Percentiles of the samples would count the scatter of the bins twice: each sample scatters about distances that
    hold it already. What the samples do tell is how the estimate varies: by v where there is no error (`scatter`),
    and by v + k times the squared error where there is one. The interval holds, as Wilson's does for a share, every
    squared error of which the estimate is less than 1.96 such deviations away; and 0 as well, unless scatter alone
    gives so much in less than one case of 40.
    """
    v, z2 = float(scatter.var()), NORMAL_95**2
    k = max(0.0, float(drawn.var()) - v) / max(plain, _SMALLEST)
    middle = squared + z2 * k / 2
    half = math.sqrt(z2 * k * max(0.0, squared) + (z2 * k / 2) ** 2 + z2 * v)
    by_chance = squared <= float(np.percentile(scatter, 97.5))
    return 0.0 if by_chance else _root(middle - half), _root(max(squared, middle + half))


def _root(squared: float) -> float:
    return round(math.sqrt(min(1.0, max(0.0, squared))), 4)


def _mean_interval(
    values: NDArray[np.float64], groups: Sequence[str], seed: int
) -> tuple[float, float] | None:
    sums = resampled_sums(np.stack([values, np.ones_like(values)], axis=1), groups, seed)
    return None if sums is None else middle_95(sums[:, 0] / sums[:, 1])


def _errors_by_chance(
    member: NDArray[np.float64], confidence: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """The error's scatter where every answer is right with exactly its probability."""
    draw = np.random.default_rng(seed)
    right = draw.random((_CHANCE_ROUNDS, len(confidence))) < confidence
    promised = np.broadcast_to(confidence @ member, (_CHANCE_ROUNDS, member.shape[1]))
    return _error(np.concatenate([promised, right @ member], axis=1), len(confidence))
