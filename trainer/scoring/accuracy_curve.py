"""Accuracy against the number of training micrographs: the measured points, and what they allow to say.

Only this module decides whether more pictures would help, and says so only where the spread between folds leaves
it no doubt. The points are measured by `scoring.learning_curve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CURVE: Final = "learning_curve.json"
_ONE_SIDED_95: Final = 1.645
_LEAST_GAIN: Final = 0.01
_EXPONENTS: Final = np.geomspace(0.1, 3.0, 60)
_REFITS: Final = 400
_FARTHEST: Final = 10.0
"""Nothing is said about more than so many times the micrographs that there are."""

Verdict = Literal["rising", "at its limit", "undecided"]


class LearningCurveError(Exception):
    """A learning curve cannot be measured or read; the message says what was seen and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class CurvePoint(_Part):
    """The accuracy that a number of training micrographs reached on held-out groups."""

    fraction: float
    """Of the training groups' micrographs."""
    micrographs: float
    """Trained on, mean over the folds."""
    groups: float
    balanced_accuracy: float
    standard_error: float
    """Of one round of all folds; repeats score the same micrographs again and make it no smaller."""
    by_fold: tuple[float, ...]
    """Repeat by repeat, fold by fold, in the same order in every point."""


class PowerLaw(_Part):
    """accuracy(n) = limit - scale * n ** -exponent, for n training micrographs."""

    limit: float
    scale: float
    exponent: float
    limit_interval: tuple[float, float]
    """5 and 95 percent of the fits to resampled folds."""

    def at(self, micrographs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The law's accuracy."""
        return self.limit - self.scale * micrographs**-self.exponent


class LearningCurve(_Part):
    """The file `learning_curve.json`."""

    schema_: Literal["scopewatch.learning-curve/1"] = Field(
        default="scopewatch.learning-curve/1", alias="schema"
    )
    kind: Literal["frozen features", "fine-tuning"]
    """A linear classifier on the pretrained backbone's features, or real training of the network."""
    backbone: str
    dataset_fingerprint: str
    labels: tuple[str, ...]
    folds: int
    repeats: int
    seed: int
    made: datetime
    points: tuple[CurvePoint, ...] = Field(min_length=1)
    verdict: Verdict
    doubling_gain: float | None
    """What the last doubling brought, and its standard error; None with a single point."""
    doubling_standard_error: float | None
    law: PowerLaw | None
    """Only where the points determine it."""
    more_per_class: int | None
    """Further micrographs of each class for half the remaining error; only where the law is known."""
    more_per_class_interval: tuple[int, int | None] | None
    """5 and 95 percent of the fits to resampled folds; the upper end None where that is beyond ten times as many
    micrographs as there are, or never."""
    statement: str
    """The same in words, for a person."""

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_durably(path, self.json_bytes())

    def json_bytes(self) -> bytes:
        """The curve as it stands in its file."""
        return (self.model_dump_json(indent=1, by_alias=True) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> LearningCurve:
        """Read the file, given itself or its folder.

        Raises:
            LearningCurveError: there is none, or it is damaged.

        """
        file = path / CURVE if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            raise LearningCurveError(
                f"{file}: no result of edge-trainer learning-curve here ({str(error).splitlines()[0]})"
            ) from error


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured at one number of training micrographs: an entry for each repeat and fold."""

    fraction: float
    micrographs: tuple[int, ...]
    groups: tuple[int, ...]
    balanced_accuracy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured how; goes into the curve as it is."""

    kind: Literal["frozen features", "fine-tuning"]
    backbone: str
    dataset_fingerprint: str
    labels: tuple[str, ...]
    folds: int
    repeats: int
    seed: int
    made: datetime


def concluded(setting: Setting, measured: Sequence[Measured]) -> LearningCurve:
    """The curve of what was measured, in ascending number of micrographs, with what it allows to say.

    It is at its limit where the last doubling brought less than one percentage point, and rising where it brought
    more than nothing; both one-sided at 95 percent, by the paired differences of the folds. Else it is undecided.
    """
    points = tuple(_point(one, setting.folds) for one in measured)
    values = np.array([one.balanced_accuracy for one in measured])
    sizes = np.array([point.micrographs for point in points])
    gain, error = _last_doubling(sizes, values, setting.folds)
    verdict = _verdict(gain, error)
    law, more = None, None
    if verdict == "rising" and len(points) >= 4:
        law, more = _law(points, values, setting)
    said = {
        "verdict": verdict,
        "doubling_gain": None if gain is None else round(gain, 4),
        "doubling_standard_error": None if error is None else round(error, 4),
        "law": law,
        "more_per_class": more[0] if more else None,
        "more_per_class_interval": more[1:] if more else None,
        "statement": _statement(points, verdict, gain, error, more),
    }
    names = ("kind", "backbone", "dataset_fingerprint", "labels", "folds", "repeats", "seed", "made")
    stated = {name: getattr(setting, name) for name in names}
    return LearningCurve.model_validate({**stated, "points": points, **said})


def _point(measured: Measured, folds: int) -> CurvePoint:
    values = np.array(measured.balanced_accuracy)
    return CurvePoint(
        fraction=round(measured.fraction, 4),
        micrographs=round(float(np.mean(measured.micrographs)), 1),
        groups=round(float(np.mean(measured.groups)), 1),
        balanced_accuracy=round(float(values.mean()), 4),
        standard_error=round(_standard_error(values, folds), 4),
        by_fold=tuple(round(float(value), 4) for value in values),
    )


def _standard_error(values: NDArray[np.float64], folds: int) -> float:
    """Of one round of folds, averaged over the repeats."""
    rounds = values.reshape(-1, folds)
    return float(rounds.std(axis=1, ddof=1).mean() / np.sqrt(folds)) if folds > 1 else 0.0


def _last_doubling(
    sizes: NDArray[np.float64], values: NDArray[np.float64], folds: int
) -> tuple[float | None, float | None]:
    """Gain for each doubling between about half the micrographs and all of them, with its standard error."""
    if len(sizes) < 2:
        return None, None
    half = int(np.abs(np.log2(sizes[:-1] / sizes[-1]) + 1).argmin())
    doublings = float(np.log2(sizes[-1] / sizes[half]))
    differences = (values[-1] - values[half]) / doublings
    return float(differences.mean()), _standard_error(differences, folds)


def _verdict(gain: float | None, error: float | None) -> Verdict:
    if gain is None or error is None:
        return "undecided"
    if gain + _ONE_SIDED_95 * error < _LEAST_GAIN:
        return "at its limit"
    return "rising" if gain - _ONE_SIDED_95 * error > 0 else "undecided"


def _law(
    points: Sequence[CurvePoint], values: NDArray[np.float64], setting: Setting
) -> tuple[PowerLaw | None, tuple[int, int, int | None] | None]:
    """The power law, and the micrographs a class for half the remaining error with their 5 and 95 percent.

    None, None where the points do not determine it: a quarter of the fits to resampled folds get there only beyond
    ten times the micrographs that there are, or never.
    """
    sizes = np.array([point.micrographs for point in points])
    weights = 1 / np.maximum([point.standard_error for point in points], 0.005) ** 2
    limit, scale, exponent = _fitted(sizes, values.mean(axis=1), weights)
    draw = np.random.default_rng(setting.seed)
    refits = []
    for _ in range(_REFITS):  # as many folds as one round has: repeats are no new micrographs
        chosen = draw.integers(0, values.shape[1], setting.folds)
        refits.append(_fitted(sizes, values[:, chosen].mean(axis=1), weights))
    limits = np.array([refit[0] for refit in refits])
    more = [_more(sizes[-1], refit) for refit in ((limit, scale, exponent), *refits)]
    low, most, high = np.quantile(more[1:], [0.05, 0.75, 0.95], method="nearest")
    farthest = (_FARTHEST - 1) * sizes[-1]
    inside = _EXPONENTS[0] < exponent < _EXPONENTS[-1]
    if not inside or max(more[0], most) > farthest:
        return None, None
    law = PowerLaw(
        limit=round(limit, 4),
        scale=round(scale, 4),
        exponent=round(exponent, 3),
        limit_interval=tuple(round(float(value), 4) for value in np.quantile(limits, [0.05, 0.95])),
    )
    each = len(setting.labels)
    return law, (
        _tidy(more[0] / each),
        _tidy(low / each),
        _tidy(high / each) if high <= farthest else None,
    )


def _fitted(
    sizes: NDArray[np.float64], accuracy: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Least squares over limit (at most 1), scale (at least 0) and exponent (of a grid)."""
    share = weights / weights.sum()
    fall = sizes ** -_EXPONENTS[:, None]
    mean_fall, mean = fall @ share, accuracy @ share
    aside = fall - mean_fall[:, None]
    scale = -(aside * (accuracy - mean)) @ share / (aside**2 @ share)
    limit = mean + scale * mean_fall
    through_one = (fall * (1 - accuracy)) @ share / (fall**2 @ share)
    scale = np.where(limit > 1, through_one, np.maximum(scale, 0))
    limit = np.minimum(mean + scale * mean_fall, 1)
    misfit = (limit[:, None] - scale[:, None] * fall - accuracy) ** 2 @ share
    best = int(misfit.argmin())
    return float(limit[best]), float(scale[best]), float(_EXPONENTS[best])


def _more(now: float, law: tuple[float, float, float]) -> float:
    """Further micrographs for half of the error that the law has at `now`; infinite where it never gets there."""
    limit, scale, exponent = law
    target = 1 - (1 - (limit - scale * now**-exponent)) / 2
    if target >= limit or scale <= 0:
        return float("inf")
    return float((scale / (limit - target)) ** (1 / exponent) - now)


def _tidy(number: float) -> int:
    """Two leading digits: the rest is noise."""
    digits = max(0, int(np.floor(np.log10(max(number, 1)))) - 1)
    return max(1, int(round(number, -digits)))


def _statement(
    points: Sequence[CurvePoint],
    verdict: Verdict,
    gain: float | None,
    error: float | None,
    more: tuple[int, int, int | None] | None,
) -> str:
    if gain is None or error is None:
        return "One number of micrographs was measured; that says nothing about more of them."
    brought = (
        f"towards {points[-1].micrographs:.0f} training micrographs, a doubling brought "
        f"{100 * gain:+.1f} ± {100 * error:.1f} percentage points"
    )
    if verdict == "at its limit":
        return f"At its limit: {brought}. More micrographs of the same kind will hardly help."
    if verdict == "undecided":
        return f"Undecided: {brought}; the folds differ too much to tell whether more micrographs would help."
    if more is None:
        return (
            f"Still rising: {brought}. How many more would halve the remaining error cannot be told from these "
            "points."
        )
    to = f"to {more[2]}" if more[2] is not None else "upwards, without a known end,"
    return (
        f"Still rising: {brought}. About {more[0]} more micrographs a class ({more[1]} {to} by resampled folds) "
        "would halve the remaining error, if the curve goes on as it has begun."
    )
