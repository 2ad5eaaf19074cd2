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

from trainer.scoring.intervals import middle_95, resampled_sums, share_interval

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
    """95 %, from bootstrap samples drawn by group; None where one group says nothing of another."""


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
    """`counted` [n, 3 x bins]: membership, confidence and right answers. The error and its pivotal interval.

    A bootstrap sample scatters about the error of the answers at hand, which itself holds their scatter: its
    percentiles would count that twice. So the samples' distance from the plain error is what is laid around the
    debiased one, on squares, where the estimate is unbiased.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        names, member = np.arange(len(counted)), np.arange(len(counted))
    by_group = np.zeros((len(names), counted.shape[1]))
    np.add.at(by_group, member, counted)
    number, _, kept = np.split(by_group, 3, axis=1)
    products = np.concatenate([by_group, kept * kept, kept * number, number * number, number > 0], axis=1)
    whole = products.sum(axis=0)[None]
    if whole[0, : number.shape[1]].max() < 2:
        return {}
    plain, squared = (float(values[0]) for values in _squared_errors(whole))
    known: dict[str, float | tuple[float, float] | None] = {"debiased_error": _root(squared)}
    if len(set(groups)) > 1:
        sums = resampled_sums(products, [str(name) for name in names], seed)
        assert sums is not None  # noqa: S101 - there are several groups
        low, high = np.percentile(_squared_errors(sums)[1], [2.5, 97.5])
        lowest, highest = squared + plain - high, max(squared, squared + plain - low)
        known["debiased_error_interval"] = (_root(lowest), _root(highest))
    return known


def _squared_errors(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared error over bins, plain and debiased, of each row of sums over groups [rounds, 7 x bins].

    The variance of a bin's accuracy a is estimated from its groups, which may err together: the sum of the squares
    of (right - a x number), times G / (G - 1). Where each of n answers is its own group that is a (1 - a) / (n - 1),
    as Kumar et al. have it, and this is taken for a bin of one group too; a bin of one answer tells none.
    """
    number, promised, kept, kept_kept, kept_number, number_number, groups = np.split(sums, 7, axis=1)
    there = np.maximum(number, 1)
    accuracy = kept / there
    residuals = kept_kept - 2 * accuracy * kept_number + accuracy**2 * number_number
    by_group = residuals / there**2 * groups / np.maximum(groups - 1, 1)
    by_answer = accuracy * (1 - accuracy) / np.maximum(number - 1, 1)
    scatter = np.where(groups > 1, by_group, by_answer)
    share = number / number.sum(axis=1, keepdims=True)
    distance = ((promised - kept) / there) ** 2
    return (share * distance).sum(axis=1), (share * (distance - scatter)).sum(axis=1)


def _root(squared: float) -> float:
    return round(math.sqrt(max(0.0, squared)), 4)


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
