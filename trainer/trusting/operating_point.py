"""Where to draw the line: limits on novelty and confidence that accept a wanted share of good answers.

Both doubts are measured in the same unit: 0 at the median of held-out micrographs, 1 where only one in twenty is
worse; what counts is their sum, so that an unusual micrograph must be answered more surely (`decision.doubts`). It
finds strangers that neither finds alone (`tests/benchmarks/novelty_scores.py`). Only this module chooses limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.decision import doubts
from edge_agent.model_bundle import Thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WORSE: Final = 0.05
TILE_ACCEPTANCE: Final = 0.99
"""Share of held-out micrographs whose tiles agree well enough."""
MISSED: Final = "no limit reaches an accuracy of"
REFUSED: Final = 1e6
"""Doubt that is added where a guard refuses, for ranking: more than any limit."""
_LEAST_STEP: Final = 0.05
"""Of a logarithm: where held-out micrographs are all alike, a rounding must not be a doubt."""
_LEAST_LIMIT: Final = 1e-3
_SMALLEST: Final = 1e-7


@dataclass(frozen=True, slots=True)
class Judged:
    """One held-out micrograph of a known class."""

    confidence: float
    novelty: float | None
    tile_disagreement: float
    passes: bool
    """No guard refuses it."""
    right: bool


@dataclass(frozen=True, slots=True)
class Goal:
    """What the line is drawn for: a share of good micrographs that is accepted, or an accuracy of what is."""

    acceptance: float = 0.95
    accuracy: float | None = None
    """Where given: as many as possible are accepted while so many of them are right, at most `acceptance`."""


def choose_thresholds(held: Sequence[Judged], goal: Goal) -> Thresholds:
    """The limits that reach the goal on held-out micrographs, and, for acceptance, on new ones of their kind.

    Of n micrographs the one of rank (n + 1) x acceptance sets the limit, for a new one is within it with that
    probability (V. Vovk et al., Algorithmic Learning in a Random World, 2005). The strictest limit lies at the
    median of both: where not even that reaches the accuracy, it is returned, and `missed` says so.
    """
    odds = _log_odds(np.array([one.confidence for one in held]))
    away = np.array(
        [math.nan if one.novelty is None else math.log(max(one.novelty, _SMALLEST)) for one in held]
    )
    knows = bool(np.isfinite(away).all())
    usual_odds, step_odds = _scale(-odds)
    usual_away, step_away = _scale(away) if knows else (0.0, 1.0)
    tiles = _tile_limit(held)
    doubt = np.maximum(0, (-odds - usual_odds) / step_odds)
    if knows:
        doubt = doubt + np.maximum(0, (away - usual_away) / step_away)
    fails = np.array(
        [not one.passes or (tiles is not None and one.tile_disagreement > tiles) for one in held]
    )
    doubt[fails] = math.inf
    limit = max(_limit(doubt, np.array([one.right for one in held]), goal), _LEAST_LIMIT)
    return Thresholds(
        confidence=_probability_below(-usual_odds - limit * step_odds),
        novelty=rounded(math.exp(usual_away + limit * step_away)) if knows else None,
        tile_disagreement=tiles,
        confidence_usual=_probability_below(-usual_odds),
        novelty_usual=rounded(math.exp(usual_away)) if knows else None,
    )


def doubt_of(judged: Judged, limits: Thresholds) -> float:
    """How much of the limits an answer uses up; far more than all where a guard or its tiles refuse it."""
    most, apart = limits.tile_disagreement, judged.tile_disagreement
    refused = not judged.passes or (most is not None and not apart <= most)
    used = sum(doubts(judged.novelty, judged.confidence, limits))
    return min(used, REFUSED) + (REFUSED if refused else 0.0)


def missed(goal: Goal, accuracy: float) -> tuple[str, ...]:
    """A note where the accuracy of what is accepted is below the goal's."""
    if goal.accuracy is None or accuracy >= goal.accuracy:
        return ()
    return (
        f"{MISSED} {goal.accuracy:g}: the strictest, at the middle of the held-out answers, gives {accuracy:.4g}; "
        "give --confidence to edge-trainer operating-point to go beyond",
    )


def upper_limit(values: NDArray[np.float64], acceptance: float) -> float:
    """The value that a new one of the same kind stays at or below with this probability.

    Of n values that of rank (n + 1) x acceptance, where need be between two of them: taking the next whole rank
    would accept 98 % of 54 where 95 % are asked for.
    """
    ordered = np.sort(values)
    rank = min(max((len(ordered) + 1) * acceptance, 1.0), float(len(ordered)))
    below, above = ordered[math.floor(rank + 1e-9) - 1], ordered[math.ceil(rank - 1e-9) - 1]
    if not math.isfinite(above):
        return float(below)
    return float(below + (rank - math.floor(rank + 1e-9)) * (above - below))


def _limit(doubt: NDArray[np.float64], right: NDArray[np.bool_], goal: Goal) -> float:
    finite = np.sort(doubt[np.isfinite(doubt)])
    if not len(finite):
        return _LEAST_LIMIT
    most = upper_limit(doubt, goal.acceptance)
    most = most if math.isfinite(most) else float(finite[-1])
    if goal.accuracy is None:
        return most
    reached = [
        value
        for value in np.unique(finite)
        if value <= most and right[doubt <= value].mean() >= goal.accuracy
    ]
    return float(max(reached)) if reached else _LEAST_LIMIT


def _scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the way from there to what one in twenty exceeds."""
    usual, worse = np.quantile(values, (0.5, 1 - WORSE))
    return float(usual), max(float(worse - usual), _LEAST_STEP)


def _tile_limit(held: Sequence[Judged]) -> float | None:
    """None where micrographs are one tile each."""
    values = np.array([one.tile_disagreement for one in held])
    return rounded(upper_limit(values, TILE_ACCEPTANCE)) if values.max() > 0 else None


def _log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    held = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(held / (1 - held)))


def _probability_below(log_odds: float) -> float:
    """Five digits of the probability, or of what it lacks to 1, and not more than it is."""
    part = 1 / (1 + math.exp(abs(log_odds)))
    return rounded(part, down=True) if log_odds < 0 else round(1 - rounded(part), 12)


def rounded(value: float, *, down: bool = False) -> float:
    """Five digits, to the side on which the micrograph that sets the limit is still accepted."""
    step = 10.0 ** (math.floor(math.log10(value)) - 4) if value > 0 else 1.0
    return float(f"{(math.floor if down else math.ceil)(value / step) * step:.5g}")
