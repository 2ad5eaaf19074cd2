"""Figures that say how much a micrograph is worth for training: measured once, judged later.

Only this module knows how they are computed. All of them but those of burnt-in graphics are taken at one size
(`FIELD_PX`), about the size that the network sees, so that a picture of 512 px and one of 4096 px of the same
specimen get about the same figures, and a large one costs little. Nothing here decides: thresholds are in
`preparing.screening`. That a graphic is burnt in, and where, is `preparing.burnt_in`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.preprocessing import grey_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edge_agent.preprocessing import FieldStatistics
    from trainer.preparing.burnt_in import BurntIn

FIELD_PX: Final = 512
"""Side of the square whose area the measured field has; smaller micrographs are measured as they are."""
SMALLEST_PX: Final = 96
"""Below this side there are too few pixels to tell a texture from a particle: nothing is measured."""

_FINE_PERIOD_PX: Final = (8.0, 16.0)
_COARSE_PERIOD_PX: Final = (32.0, 64.0)
_NOISE_FREQUENCY: Final = (0.42, 0.5)
_NOISE_TAKEN_OFF: Final = 0.9
"""Of the noise that the highest frequencies show: a camera's noise is weaker there than the formula says, and what
is taken off too much would turn a noisy picture into a blurred one."""
_SIZES_PX: Final = (2, 4, 8, 16)
_FEWEST_DETAILS: Final = 256
"""Of fewer values the kurtosis of normal noise is off by more than 0.3 (its error is sqrt(24 / n))."""
_LEAST_NOISE: Final = 1e-3
"""A quarter of a grey level of 8-bit pixels: exports that were smoothed have no measurable noise."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured of one micrograph; every figure is finite."""

    noise: float
    """Standard deviation of the pixel noise, grey scale 0 to 1 (Immerkaer, Computer Vision and Image Understanding
    64 (1996) 300, here the median of the absolute Laplacian difference, which edges do not raise)."""
    texture: float
    """Standard deviation of 4 px means over what white noise of that strength leaves of it: 1 is noise alone."""
    distinctness: float
    """How far the field is from a texture without objects: |skewness| + |excess kurtosis| of its details, the
    largest over detail sizes of 2, 4, 8 and 16 px. A random texture (film grain, noise) is normally distributed at
    every size: 0. Anything that stands out, bright or dark, small or large, makes tails at its own size."""
    sharpness: float
    """Power at periods of 8 to 16 px, noise taken off, over the power at 32 to 64 px. Edges give about as much to
    every octave (power falls with the square of frequency, as in most pictures: Field, J. Opt. Soc. Am. A 4 (1987)
    2379); a blur of standard deviation s leaves exp(-(2 pi s / period)^2) of it."""
    saturated_fraction: float
    """Fraction of pixels at the largest value that occurs (hot pixels and an info bar aside)."""
    point_symmetry: float
    """Correlation of the fine detail with itself turned by 180 degrees about the centre: 1 for the Fourier
    transform of a picture, about 0 for a picture, whose noise has no symmetry."""
    info_bar_fraction: float
    """Height of a constant band at the lower edge over the height of the micrograph; 0 where there is none."""
    scale_bar_fraction: float
    """Length of a burnt-in scale bar over the width of the micrograph; 0 where there is none."""


MEASURE_NAMES: Final = tuple(field.name for field in fields(Measures))


def standard_field(pixels: NDArray[Any], field: FieldStatistics) -> NDArray[np.float32]:
    """Grey values 0 to 1 of a whole micrograph, shrunk to the area of FIELD_PX squared, never enlarged."""
    rows, columns = pixels.shape
    shrink = min(1.0, FIELD_PX / math.sqrt(rows * columns))
    return grey_field(pixels, field.contrast, (max(1, round(rows * shrink)), max(1, round(columns * shrink))))


def measured(
    above: NDArray[Any], field: FieldStatistics, standard: NDArray[np.float32], burnt_in: BurntIn
) -> Measures | None:
    """Measure a micrograph; None where it is too small or blank.

    `above` are its pixels (2-D, any real type) above the info bar that `burnt_in` tells of, `field` is
    `describe_field` of them, `standard` their `standard_field`.
    """
    if min(above.shape) < SMALLEST_PX or field.blank:
        return None
    unit = _SIZES_PX[-1]
    grey = standard[: standard.shape[0] // unit * unit, : standard.shape[1] // unit * unit]
    noise, details = _noise(grey), _details(grey)
    found = {
        "noise": noise,
        "texture": _texture(details, noise),
        "distinctness": max(map(_departure, details)),
        "sharpness": _sharpness(grey),
        "saturated_fraction": field.saturated_fraction,
        "point_symmetry": _point_symmetry(above, field),
        "info_bar_fraction": burnt_in.info_bar_rows / (above.shape[0] + burnt_in.info_bar_rows),
        "scale_bar_fraction": burnt_in.scale_bar_px / above.shape[1],
    }
    return Measures(**{name: float(f"{value:.6g}") for name, value in found.items()})


def _noise(grey: NDArray[np.float32]) -> float:
    """The difference of two Laplacians, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]: 6 sigma for white noise."""
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(np.median(np.abs(both))) / (0.6745 * 6)


def _means(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    rows, columns = (length // size * size for length in values.shape)
    down = values[:rows, :columns].reshape(rows // size, size, columns).mean(axis=1)
    return np.asarray(down.reshape(down.shape[0], -1, size).mean(axis=2))


def _details(grey: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Block means of each size less the mean of the 4 x 4 blocks around: what that size adds to a coarser view."""
    found = []
    level = grey
    for _ in _SIZES_PX:
        level = _means(level, 2)
        coarse = np.kron(_means(level, 4), np.ones((4, 4), np.float32))
        fine = level[: coarse.shape[0], : coarse.shape[1]]
        if fine.size >= _FEWEST_DETAILS:
            found.append(fine - coarse)
    return found


def _departure(detail: NDArray[np.float32]) -> float:
    """|Skewness| + |excess kurtosis|; 0 for a detail that is not there at all."""
    centred = detail - detail.mean()
    square = centred * centred
    variance = float(square.mean(dtype=np.float64))
    if variance <= 1e-12:
        return 0.0
    skewness = float((square * centred).mean(dtype=np.float64)) / math.pow(variance, 1.5)
    return abs(skewness) + abs(float((square * square).mean(dtype=np.float64)) / variance**2 - 3)


def _texture(details: Sequence[NDArray[np.float32]], noise: float) -> float:
    left_by_noise = max(noise, _LEAST_NOISE) / 4 * math.sqrt(15 / 16)  # of 4 px means about their 4 x 4 mean
    return float(details[1].std() / left_by_noise)


def _sharpness(grey: NDArray[np.float32]) -> float:
    """See Measures. The axes of the spectrum are left out: the picture's borders, scan lines and read-out."""
    rows, columns = grey.shape
    window = np.outer(np.hanning(rows), np.hanning(columns)).astype(np.float32)
    spectrum = np.fft.rfft2((grey - np.average(grey, weights=window)) * window)
    power = (spectrum.real**2 + spectrum.imag**2)[2 : rows - 1, 2:]
    frequency = np.hypot(np.fft.fftfreq(rows)[2 : rows - 1, None], np.fft.rfftfreq(columns)[None, 2:])

    def band(lowest: float, highest: float) -> NDArray[np.float32]:
        return np.asarray(power[(frequency >= lowest) & (frequency < highest)])

    # The power of noise is distributed exponentially; its median knows nothing of a peak.
    noise = _NOISE_TAKEN_OFF * float(np.median(band(*_NOISE_FREQUENCY))) / math.log(2)
    fine = band(1 / _FINE_PERIOD_PX[1], 1 / _FINE_PERIOD_PX[0])
    coarse = band(1 / _COARSE_PERIOD_PX[1], 1 / _COARSE_PERIOD_PX[0])
    signal = max(0.0, float(fine.sum()) - noise * fine.size)
    return signal / max(float(coarse.sum()) - noise * coarse.size, float(fine.sum()) / 100, 1e-12)


def _point_symmetry(pixels: NDArray[Any], field: FieldStatistics) -> float:
    """Taken in the middle at full size: a Fourier transform is centred on pixel (rows // 2, columns // 2)."""
    rows, columns = (int(length) for length in pixels.shape)
    half = min(rows // 2, columns // 2, FIELD_PX // 2) - 1
    middle_row, middle_column = rows // 2, columns // 2
    box = (middle_column - half, middle_row - half, middle_column + half + 1, middle_row + half + 1)
    grey = grey_field(pixels, field.contrast, (2 * half + 1, 2 * half + 1), box)
    best = 0.0
    for part in (grey, grey[:-1, :-1]):  # symmetric about a pixel, or about the corner between four
        fine = part[1:-1, 1:-1] - (part[:-2, 1:-1] + part[2:, 1:-1] + part[1:-1, :-2] + part[1:-1, 2:]) / 4
        fine = fine - fine.mean()
        total = float((fine * fine).sum())
        if total > 0:
            best = max(best, float((fine * fine[::-1, ::-1]).sum()) / total)
    return best
