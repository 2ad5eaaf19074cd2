"""How a field looks, whatever it shows: sharp or blurred, smeared along one direction, like a diffraction pattern.

Measured on what the network is shown, so that files of any pixel count get about the same figures, and at next to
no cost: one Fourier transform. Nothing here decides: limits are the bundle's (`model_bundle.Guards`), reasons are
`decision`'s. The trainer screens by a sharpness of its own (`preparing.quality`), which compares octaves of the
spectrum: it also judges pictures that have no outlines, and caught fewer blurred ones at the same false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.preprocessing import Tiles

Polarity = Literal["bright on dark", "dark on bright"]
CLEAR_SKEWNESS: Final = 0.5
"""Below it, bright and dark are too even for a word on polarity."""
SMALLEST_PX: Final = 64

_STEPS: Final = ((0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (2, -1), (2, -2), (1, -2))
"""Down and across, in pixels of 2 x 2 means: about 1 % of a field of 448 px, in eight directions."""
_FAR_STEPS: Final = ((0, 8), (8, 8), (8, 0), (8, -8))
"""The same over 4 %, by where any outline that is not blurred has reached its full height."""
_NEXT_LINE: Final = (1, 0)
_NEXT_PIXEL: Final = (0, 1)
_STEEPEST: Final = 0.001
"""Share of a field's steps that makes its outlines: the two ends of one rod are enough."""
_GREY_LEVELS: Final = 2047
_BLOCKS: Final = 28
_BRIGHTEST: Final = 0.1
"""Share of the blocks whose centre of gravity is the pattern's centre: spots count, the beam stop does not."""
_FAR_FROM_MIDDLE: Final = 0.25
_SKEWNESS_OF_PATTERNS: Final = (0.5, 1.5)
_SPECKLE_FREQUENCY: Final = (0.2, 0.42)
_LEFT_BY_RESAMPLING: Final = 0.5
"""Of the correlation, where a field was shrunk by no whole number: its middle lies between two pixels."""
_CENTRES_PX: Final = np.linspace(-2, 2, 9)


@dataclass(frozen=True, slots=True)
class Look:
    """What was measured of a field; every figure is finite."""

    sharpness: float
    """About 1 where the sharpest outlines are narrower than 1 % of the field, low where blurred; see `outlines`."""
    streaks: float
    """1 where outlines are as steep in every direction, high where smeared along one; see `outlines`."""
    diffraction: float
    """0 to 1, high for a diffraction pattern or a Fourier transform: the larger of `radial_falling` and
    `speckle_symmetry`."""
    contrast: float
    """Standard deviation of the grey values (0 to 1) between the contrast limits."""
    skewness: float
    """Of the grey values: positive where few bright parts stand on a dark ground."""


class _Spectrum(NamedTuple):
    """Of a field whose borders are faded out: rows x (columns // 2 + 1)."""

    values: NDArray[np.complex64]
    shape: tuple[int, int]


class _Fine(NamedTuple):
    """What fades out the borders, and the flat places of the fine frequencies, the axes left out (scan lines)."""

    window: NDArray[np.float32]
    speckle: NDArray[np.intp]


def polarity_of(look: Look) -> Polarity | None:
    """What stands on what; None where neither bright nor dark is clearly the rarer."""
    if abs(look.skewness) < CLEAR_SKEWNESS:
        return None
    return "bright on dark" if look.skewness > 0 else "dark on bright"


def look_at(tiles: Tiles, value_range: tuple[float, float]) -> Look | None:
    """Measure a field from its network inputs; None where they are too small to tell anything.

    Several boxes are measured one by one, and the median of each figure is taken.
    """
    low, high = value_range
    seen: dict[tuple[int, int, int, int], NDArray[np.float32]] = {}
    for tile in tiles.tiles:
        seen.setdefault(tile.box_px, tile.values[0])
    if min(min(values.shape) for values in seen.values()) < SMALLEST_PX:
        return None
    found = [_measured((values - np.float32(low)) / np.float32(high - low)) for values in seen.values()]
    return Look(*(float(np.median(figures)) for figures in zip(*found, strict=True)))


def _measured(grey: NDArray[np.float32]) -> tuple[float, float, float, float, float]:
    rows, columns = (length // 16 * 16 for length in grey.shape)  # lengths that a fast transform likes
    spectrum = _spectrum(grey[:rows, :columns])
    deviation, skewness = _deviation_and_skewness(grey)
    diffraction = max(radial_falling(grey, skewness), _speckle_symmetry(spectrum))
    return *outlines(grey), diffraction, deviation, skewness


def outlines(grey: NDArray[np.float32]) -> tuple[float, float]:
    """Measure the steepest outlines of a field: their sharpness, and how much sharper they are in one direction.

    The steepness in a direction is the mean of the largest thousandth of the grey steps over 1 % of the field.

    Sharpness: the steepest direction's, over that of the steps over 4 %. An outline as narrow as 1 % gives 1, one
    that rises over 4 % a quarter: the width of the steepest edges, as in Marziliano et al., Signal Process. Image
    Commun. 19 (2004) 163. Noise is as steep over any distance, so that a very noisy field never counts as blurred.

    Streaks: the steepest direction's, over the flattest's; 1: all alike. A picture that moved by L during the
    exposure has no outline left whose grey changes faster than over L along the motion, whatever stands in it,
    while outlines along the motion stay sharp: the anisotropy of the gradient that tells motion from other blur
    (Yitzhaky and Kopeika, Graph. Models Image Process. 59 (1997) 310), taken at the steepest places only, so that
    rods lying parallel are none: their ends are sharp. Fibres that all cross the field in one direction, without
    an end, cannot be told from motion; neither can a lattice whose rows lie closer one way than the other. In a
    picture scanned while the probe shook, lines are displaced against each other: there the steps from one line to
    the next, over those from one pixel to the next, count where they are more.
    """
    # Whole numbers: their tail is counted, which is faster than sorting.
    fine = np.clip(grey * np.float32(_GREY_LEVELS), 0, _GREY_LEVELS).astype(np.int16)
    rows, columns = (length // 2 * 2 for length in fine.shape)
    half = fine[:rows, :columns]
    counts = (half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2]) >> 2
    near = [_steepness(counts, step) for step in _STEPS]
    far = [_steepness(counts, step) for step in _FAR_STEPS]
    jagged = _steepness(fine, _NEXT_LINE) / _steepness(fine, _NEXT_PIXEL)
    return max(near) / max(far), max(max(near) / min(near), jagged)


def _steepness(counts: NDArray[np.int16], step: tuple[int, int]) -> float:
    """Mean of the largest thousandth of these steps, of one grey level at the least."""
    down, across = step
    rows, columns = counts.shape
    left, right = max(0, -across), max(0, across)
    steps = np.abs(counts[down:, right : columns - left] - counts[: rows - down, left : columns - right])
    number = np.bincount(steps.reshape(-1), minlength=_GREY_LEVELS + 1)
    wanted = max(1, round(_STEEPEST * steps.size))
    from_top = np.cumsum(number[::-1])
    # Of each value, from the largest down, as many as are still wanted.
    taken = np.diff(np.minimum(from_top, wanted), prepend=0)
    total = int((taken * np.arange(number.size - 1, -1, -1)).sum())
    return max(1.0, float(total / wanted))


def radial_falling(grey: NDArray[np.float32], skewness: float) -> float:
    """How far the field is bright in one place near its middle and falls off from there to all sides, 0 to 1.

    Spearman's rank correlation (Am. J. Psychol. 15 (1904) 72) of darkness with distance over 28 x 28 means: ranks
    do not care by which curve a pattern falls or is displayed. Nought where the grey values are not skewed to the
    bright (in a diffraction pattern few pixels are) or the centre is a quarter of the field off its middle.
    """
    block = max(1, min(grey.shape) // _BLOCKS)
    rows, columns = (length // block for length in grey.shape)
    down = grey[: rows * block, : columns * block].reshape(rows, block, -1).sum(axis=1)
    level = down.reshape(rows, columns, block).sum(axis=2)
    weight = np.maximum(level - np.quantile(level, 1 - _BRIGHTEST), 0) + np.float32(1e-9)
    y, x = np.arange(rows)[:, None], np.arange(columns)[None]
    centre_y, centre_x = float((weight * y).sum() / weight.sum()), float((weight * x).sum() / weight.sum())
    correlation = _correlation(_ranks(level), _ranks(-np.hypot(y - centre_y, x - centre_x)))
    off = math.hypot((centre_y + 0.5) / rows - 0.5, (centre_x + 0.5) / columns - 0.5) / _FAR_FROM_MIDDLE
    least, plain = _SKEWNESS_OF_PATTERNS
    skewed = min(1.0, max(0.0, (skewness - least) / (plain - least)))
    return max(0.0, correlation) * skewed * max(0.0, 1 - off**2)


def speckle_symmetry(grey: NDArray[np.float32]) -> float:
    """How far the finest detail is symmetric about a point near the middle, 0 to 1.

    The Fourier transform of a picture is real, so its modulus is the same at q and -q down to the last pixel, which
    the noise of a picture never is. Measured as a phase-only correlation (Kuglin and Hines, Proc. IEEE Int. Conf.
    Cybernetics and Society (1975) 163) of the field with itself turned by 180 degrees: F^2 / |F|^2 instead of the
    cross spectrum, over fine frequencies, which lattices and other regular objects have no part in.
    """
    return _speckle_symmetry(_spectrum(grey))


def _spectrum(grey: NDArray[np.float32]) -> _Spectrum:
    shape = (int(grey.shape[0]), int(grey.shape[1]))
    window = _fine(shape).window
    mean = np.vdot(grey, window) / window.sum()
    values = np.fft.rfft2((grey - np.float32(mean)) * window).astype(np.complex64, copy=False)
    return _Spectrum(values, shape)


@lru_cache(maxsize=4)
def _fine(shape: tuple[int, int]) -> _Fine:
    rows, columns = shape
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    frequency[:2] = frequency[rows - 1 :] = frequency[:, :2] = 0
    lowest, highest = _SPECKLE_FREQUENCY
    return _Fine(
        window=np.outer(np.hanning(rows), np.hanning(columns)).astype(np.float32),
        speckle=np.flatnonzero((frequency >= lowest) & (frequency < highest)),
    )


def _speckle_symmetry(spectrum: _Spectrum) -> float:
    """The highest correlation for centres up to 1 px off the middle (half a step of twice the offset)."""
    rows, columns = spectrum.shape
    places = _fine(spectrum.shape).speckle
    values = spectrum.values.reshape(-1)[places]
    phases = np.zeros(spectrum.values.shape, np.complex64)
    power = np.square(values.real) + np.square(values.imag)
    phases.reshape(-1)[places] = values * values / np.maximum(power, np.float32(1e-20))
    # Turned about the middle pixel corner, a field of n pixels maps pixel j to n - 1 - j.
    down = np.exp(2j * np.pi * np.outer(_CENTRES_PX + rows - 1, np.fft.fftfreq(rows))).astype(np.complex64)
    across = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(columns), _CENTRES_PX + columns - 1))
    correlation = (down @ phases @ across.astype(np.complex64)).real / places.size
    return min(1.0, max(0.0, float(correlation.max()) / _LEFT_BY_RESAMPLING))


def _deviation_and_skewness(grey: NDArray[np.float32]) -> tuple[float, float]:
    centred = grey - grey.mean(dtype=np.float64).astype(np.float32)
    square = centred * centred
    deviation = math.sqrt(float(square.mean(dtype=np.float64)))
    if deviation <= 1e-6:
        return deviation, 0.0
    return deviation, float(np.vdot(square, centred)) / centred.size / deviation**3


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    ranks = np.empty(values.size)
    ranks[np.argsort(values, axis=None, kind="stable")] = np.arange(values.size)
    return ranks


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of two sets of ranks: neither is constant."""
    return float(np.corrcoef(one, other)[0, 1])
