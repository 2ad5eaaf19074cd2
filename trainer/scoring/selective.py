"""What abstaining buys: accuracy of the answers that are kept, against the share that is kept.

The surest answers are kept first. Risk-coverage curve and its area: Geifman and El-Yaniv, "Selective Classification
for Deep Neural Networks", NeurIPS 2017; the area beyond the best possible order's: Geifman, Uziel and El-Yaniv,
"Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019. Only this module knows the order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.scoring.intervals import UNKNOWN, middle_95, resampled_sums, share_interval

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

MOST_POINTS: Final = 100
"""Of a recorded curve."""
UNSURE: Final = frozenset({"low_confidence", "unusual_and_unsure"})
"""The reasons that a surer answer would not have, so that the curve moves along them; any other puts one last."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RiskPoint(_Part):
    """The answers at least as sure as `threshold`, and how many of them are right."""

    coverage: float
    """Share of all answers."""
    accuracy: float
    threshold: float | None
    """Of the probability; None where answers are kept that another reason than confidence refuses."""


class SelectiveAccuracy(_Part):
    """Accuracy of the surest answers, of a stated share of all; equal sureness counts by its mean."""

    coverage: float
    accuracy: float
    interval: tuple[float, float]
    """95 %: bootstrap by group at this threshold; where every answer is right (or wrong) Wilson's, over groups."""
    threshold: float | None


class RiskCoverage(_Part):
    """Risk is the share of wrong answers among those kept; areas are its mean over every coverage."""

    answers: int
    points: tuple[RiskPoint, ...]
    """The surest answers first; the last point keeps all."""
    area: float
    """0 at best; the plain share of wrong answers where the order knows nothing."""
    area_beyond_best: float
    """What is left of it after the area of an order that puts every wrong answer last."""
    at_80: SelectiveAccuracy
    at_90: SelectiveAccuracy


def sureness(probability: float, reasons: Collection[str]) -> float:
    """Rank an answer: its probability (0 to 1), or that minus 1 where anything but confidence refuses it.

    So moving the limit of confidence runs along the answers that every other gate lets pass; those that one stops
    (novel, blurred, another pixel size ...) come after all of them, however probable.
    """
    return probability if UNSURE.issuperset(reasons) else probability - 1


def risk_coverage(
    score: NDArray[np.float64], right: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> RiskCoverage:
    """Rank answers by score [n], the higher the surer, and count which were right [n].

    Answers of equal score stand in no order: within them right ones are counted as their mean share.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1
    hits = np.concatenate([[0.0], np.cumsum(right[order])[ends - 1]])
    kept = np.arange(1, len(score) + 1)
    wrong = kept - np.interp(kept, np.concatenate([[0], ends]), hits)
    best = np.maximum(0, kept - right.sum())
    return RiskCoverage(
        answers=len(score),
        points=_points(score[order][ends - 1], ends, hits[1:]),
        area=round(float((wrong / kept).mean()), 5),
        area_beyond_best=round(float(((wrong - best) / kept).mean()), 5),
        at_80=_selective(0.8, score, right, groups, seed),
        at_90=_selective(0.9, score, right, groups, seed),
    )


def _points(
    threshold: NDArray[np.float64], kept: NDArray[np.intp], hits: NDArray[np.float64]
) -> tuple[RiskPoint, ...]:
    wanted = np.linspace(0, len(kept) - 1, min(len(kept), MOST_POINTS))
    return tuple(
        RiskPoint(
            coverage=round(float(kept[at] / kept[-1]), 4),
            accuracy=round(float(hits[at] / kept[at]), 4),
            threshold=_limit(float(threshold[at])),
        )
        for at in np.unique(np.rint(wanted).astype(int))
    )


def _limit(score: float) -> float | None:
    """Of the probability, cut down and not rounded: the answer at the limit is still kept."""
    return float(np.floor(score * 1e6) / 1e6) if score > 0 else None


def _selective(
    coverage: float, score: NDArray[np.float64], right: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> SelectiveAccuracy:
    wanted = coverage * len(score)
    limit = np.sort(score)[::-1][max(0, int(np.ceil(wanted - 1e-9)) - 1)]
    above, equal = score > limit, score == limit
    # Of the answers at the limit each is kept by the same part, so that exactly the coverage is.
    kept = above + equal * (wanted - above.sum()) / equal.sum()
    accuracy = float(kept @ right / kept.sum())
    return SelectiveAccuracy(
        coverage=coverage,
        accuracy=round(accuracy, 4),
        interval=accuracy_interval(kept, right, groups, seed),
        threshold=_limit(float(limit)),
    )


def accuracy_interval(
    kept: NDArray[np.float64], right: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> tuple[float, float]:
    """95 % of the accuracy of the answers kept (1, 0, or a part of one), groups drawn anew."""
    names = {group for group, part in zip(groups, kept, strict=True) if part > 0}
    if len(names) < 2:
        return UNKNOWN  # how another group would differ is not known
    if not kept @ right or not kept @ ~right:  # every sample of them would be the same
        return share_interval(len(names) if kept @ right else 0, len(names))
    sums = resampled_sums(np.stack([kept * right, kept], axis=1), groups, seed)
    if sums is None:
        return UNKNOWN
    with np.errstate(invalid="ignore"):  # a sample in which nothing is kept says nothing
        return middle_95(sums[:, 0] / sums[:, 1])
