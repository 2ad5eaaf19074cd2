"""How a picture must look and what its tags may say to be judged at all, from the training part of a data set.

Only this module knows how far beyond the training micrographs a limit lies. Good pictures of the same kind shall
almost never be refused, so a limit is one that three in a thousand of them would miss, not where the last one lay;
and nothing is judged that only some of the training micrographs tell.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from edge_agent.field_look import Look, polarity_of
from edge_agent.model_bundle import Guards, TrainingRanges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.micrograph import Micrograph
    from edge_agent.preprocessing import Box

_Said = TypeVar("_Said")

FEWEST_MICROGRAPHS: Final = 20
"""Fewer do not show a range."""
REFUSED: Final = 0.003
"""Share of good pictures that a limit may refuse; there are three."""
TAIL: Final = 0.1
"""Share of the micrographs that show how a figure's distribution ends."""
STATED: Final = 0.8
"""Share of the micrographs whose tags must say something for it to be a property of the training."""
AGREEING: Final = 0.99
"""Share of the micrographs with a clear polarity that must have the same one."""
STRAY: Final = 0.01
"""Share at either end of a range that is left out: wrong units, wrong tags."""
LEAST_DIFFRACTION_LIMIT: Final = 0.45
LEAST_STREAKS_LIMIT: Final = 1.4
MOST_SHARPNESS_LIMIT: Final = 0.42
"""A training set of very even pictures shall not refuse what looks like an ordinary picture: one whose sharpest
outlines rise over less than about 2 % of the field, as those of small particles on rough supports do."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What counts of one training micrograph; None where it is not known."""

    look: Look | None
    pixel_size_nm: float | None
    field_of_view_nm: float | None
    """Mean width of the boxes that the network was shown."""
    voltage_kv: float | None
    detector: str | None


def taught_by(micrograph: Micrograph, boxes: Sequence[Box], look: Look | None) -> Taught:
    """Sum up a training micrograph: the boxes cut from it, and how their field looks."""
    size_nm = None if micrograph.pixel_size_nm is None else micrograph.pixel_size_nm[1]
    width_px = sum(box[2] - box[0] for box in boxes) / len(boxes)
    return Taught(
        look=look,
        pixel_size_nm=size_nm,
        field_of_view_nm=None if size_nm is None else size_nm * width_px,
        voltage_kv=micrograph.instrument.voltage_kv,
        detector=micrograph.instrument.detector,
    )


def guard_limits(looks: Sequence[Look]) -> Guards:
    """Limits of sharpness, streaks and diffraction that about three in a thousand pictures of this kind would miss.

    Of fewer than FEWEST_MICROGRAPHS none is derived. Sharpness and streaks are ratios, so their logarithm counts.
    """
    if len(looks) < FEWEST_MICROGRAPHS:
        return Guards()
    least_sharpness = math.exp(-_far_end([-math.log(max(look.sharpness, 1e-6)) for look in looks]))
    most_streaks = math.exp(_far_end([math.log(max(look.streaks, 1.0)) for look in looks]))
    most_diffraction = _far_end([look.diffraction for look in looks])
    return Guards(
        least_sharpness=_short(min(least_sharpness, MOST_SHARPNESS_LIMIT)),
        most_streaks=_short(max(most_streaks, LEAST_STREAKS_LIMIT)),
        most_diffraction=_short(min(1.0, max(most_diffraction, LEAST_DIFFRACTION_LIMIT))),
    )


def training_ranges(taught: Sequence[Taught]) -> TrainingRanges:
    """What the training micrographs covered, where nearly all of them say it."""
    detectors = _stated([one.detector for one in taught])
    return TrainingRanges(
        pixel_size_nm=_range([one.pixel_size_nm for one in taught]),
        field_of_view_nm=_range([one.field_of_view_nm for one in taught]),
        polarity=_polarity([one.look for one in taught]),
        voltage_kv=_range([one.voltage_kv for one in taught]),
        detector=None if detectors is None else _common(detectors),
        all_calibrated=len(taught) >= FEWEST_MICROGRAPHS
        and all(one.pixel_size_nm is not None for one in taught),
    )


def _far_end(values: Sequence[float]) -> float:
    """The value that REFUSED of the distribution exceed, if its tail is exponential.

    Peaks over a threshold (Davison and Smith, J. R. Stat. Soc. B 52 (1990) 393) with shape 0: the mean excess over
    the threshold is all that is fitted, which a hundred values allow.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    threshold = float(np.quantile(ordered, 1 - TAIL))
    beyond = ordered[ordered > threshold] - threshold
    mean_excess = float(beyond.mean()) if beyond.size else 0.0
    return threshold + mean_excess * math.log(TAIL / REFUSED)


def _stated(values: Sequence[_Said | None]) -> list[_Said] | None:
    """The values that are there; None where too few are."""
    found = [value for value in values if value is not None]
    return found if len(found) >= max(FEWEST_MICROGRAPHS, STATED * len(values)) else None


def _range(values: Sequence[float | None]) -> tuple[float, float] | None:
    found = _stated(values)
    if found is None:
        return None
    low, high = np.quantile(found, [STRAY, 1 - STRAY], method="nearest")
    return _short(float(low)), _short(float(high))


def _common(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, count in Counter(names).items() if count >= STRAY * len(names)))


def _polarity(looks: Sequence[Look | None]) -> tuple[str, ...] | None:
    """The one polarity of the training; None where it has both, for then nothing is another."""
    clear = Counter(polarity for look in looks if look is not None and (polarity := polarity_of(look)))
    if clear.total() < FEWEST_MICROGRAPHS:
        return None
    polarity, count = clear.most_common(1)[0]
    return (polarity,) if count >= AGREEING * clear.total() else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")
