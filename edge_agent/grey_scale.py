"""Counts -> grey values: contrast limits of a whole micrograph, isolated hot pixels, and what its field looks like.

Only this module knows what a count means for the eye and for a network: which values become black and white,
which pixels are X-ray hits, whether there is anything but noise, and how a field is brought to another size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels of the micrograph, x to the right, y downwards, x1 and y1 excluded."""

SAMPLE_PIXELS: Final = 4_000_000
"""Above this many pixels, percentiles are taken from evenly spaced rows."""
BAND_PIXELS: Final = 500_000
"""How many source pixels are converted to floating point at once: bounds the memory of an 8192 px field."""
HOT_SIGMAS: Final = 8.0
NOISE_STRUCTURE_LIMIT: Final = 6.0


@dataclass(frozen=True, slots=True)
class ContrastLimits:
    """The counts that become black and white, and the isolated pixels to be replaced.

    `hot` has one row a pixel: row, column, value to use instead (median of its neighbours).
    """

    low: float
    high: float
    hot: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)), compare=False)


@dataclass(frozen=True, slots=True)
class FieldStatistics:
    """What the whole micrograph looks like before any network sees it."""

    contrast: ContrastLimits
    blank: bool
    """No structure: a constant, or nothing but pixel noise."""
    saturated_fraction: float
    """Fraction of all pixels that stand at the largest value that occurs."""
    hot_pixels: int
    scale_missing: bool = False
    """The tile plan asks for a field of view in nm and the micrograph is not calibrated."""


def field_statistics(pixels: NDArray[Any], clipped_fraction: float) -> FieldStatistics:
    """Contrast limits, hot pixels, blankness and saturation of a whole micrograph (2-D, any real type)."""
    finite = _finite_sample(pixels)
    if finite.size == 0:
        return FieldStatistics(ContrastLimits(0.0, 0.0), blank=True, saturated_fraction=0.0, hot_pixels=0)
    noise = _pixel_noise(finite)
    dark, low = _outer_limit(pixels, finite, clipped_fraction, noise, upper=False)
    bright, high = _outer_limit(pixels, finite, clipped_fraction, noise, upper=True)
    contrast = ContrastLimits(low, high, np.concatenate([dark, bright, _not_finite(pixels, finite)]))
    if high <= low:
        return FieldStatistics(contrast, blank=True, saturated_fraction=0.0, hot_pixels=len(contrast.hot))
    top = float(np.count_nonzero(finite == finite.max())) / finite.size
    return FieldStatistics(contrast, _only_noise(finite), top, len(contrast.hot))


def _finite_sample(pixels: NDArray[Any]) -> NDArray[Any]:
    """Evenly spaced rows, about SAMPLE_PIXELS values; what is not finite is replaced by the median."""
    sample = pixels[:: max(1, math.ceil(pixels.size / SAMPLE_PIXELS))]
    if sample.dtype.kind == "f":
        finite = np.isfinite(sample)
        if not finite.any():
            return sample[:0]
        if not finite.all():
            return np.where(finite, sample, np.median(sample[finite]))
    return sample


def _pixel_noise(sample: NDArray[Any]) -> float:
    """Standard deviation of white noise that has the sample's median difference between neighbours in a row."""
    rows = sample[:: max(1, sample.shape[0] // 256)].astype(np.float64)
    if rows.shape[1] < 2:
        return 0.0
    return float(np.median(np.abs(np.diff(rows, axis=1)))) / (0.6745 * math.sqrt(2))


def _outer_limit(
    pixels: NDArray[Any], sample: NDArray[Any], clipped: float, noise: float, *, upper: bool
) -> tuple[NDArray[np.float64], float]:
    """The hot pixels at one end of the grey scale, and the value that clips `clipped` of the others there."""
    flat = sample.reshape(-1)
    beyond = int(clipped * flat.size)
    count = min(flat.size, beyond + max(1, math.ceil(0.001 * flat.size)))
    order = flat.size - count if upper else count - 1
    parted = np.partition(flat, order)
    tail = np.sort(parted[order:])[::-1] if upper else np.sort(parted[:count])
    hot = _isolated(pixels, pixels >= tail[-1] if upper else pixels <= tail[-1], noise, upper=upper)
    counted = math.ceil(len(hot) * flat.size / pixels.size)
    return hot, float(tail[min(len(tail) - 1, beyond + counted)])


def _isolated(
    pixels: NDArray[Any], candidates: NDArray[np.bool_], noise: float, *, upper: bool
) -> NDArray[np.float64]:
    """Isolated outliers among the candidates: row, column, median of the eight neighbours.

    A pixel is hot (or dead) when it leaves the median of its neighbours by more than HOT_SIGMAS of the noise and
    at most one neighbour goes even half as far: X-ray hits cover one or two pixels, whereas a particle, however
    small, is spread over several by the point spread of microscope and camera.
    """
    rows, columns = np.nonzero(candidates)
    if rows.size > max(64, pixels.size // 50):  # a plateau of equal values, not isolated pixels
        return np.empty((0, 3))
    height, width = pixels.shape
    around = np.stack(
        [
            pixels[_mirrored(rows + down, height), _mirrored(columns + across, width)]
            for down in (-1, 0, 1)
            for across in (-1, 0, 1)
            if (down, across) != (0, 0)
        ],
        axis=1,
    ).astype(np.float64)
    around = np.nan_to_num(around, nan=0.0, posinf=0.0, neginf=0.0)
    middle = np.median(around, axis=1)
    sign = 1.0 if upper else -1.0
    excess = sign * (pixels[rows, columns].astype(np.float64) - middle)
    alike = (sign * (around - middle[:, None]) > excess[:, None] / 2).sum(axis=1)
    hot = np.isfinite(excess) & (excess > 0) & (excess > HOT_SIGMAS * noise) & (alike <= 1)
    return np.stack([rows[hot], columns[hot], middle[hot]], axis=1).astype(np.float64)


def _mirrored(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Beyond an edge the opposite neighbour stands in, so that no pixel is its own neighbour."""
    if length < 3:
        return np.clip(index, 0, length - 1)
    return np.where(index < 0, 1, np.where(index >= length, length - 2, index))


def _not_finite(pixels: NDArray[Any], sample: NDArray[Any]) -> NDArray[np.float64]:
    if pixels.dtype.kind != "f":
        return np.empty((0, 3))
    rows, columns = np.nonzero(~np.isfinite(pixels))
    median = float(np.median(sample)) if len(rows) else 0.0
    return np.stack([rows, columns, np.full(rows.shape, median)], axis=1).astype(np.float64)


def _only_noise(sample: NDArray[Any]) -> bool:
    """Whether block averages vary no more than those of uncorrelated noise would, at any block size.

    For white noise the variance of b x b block means is 1/b^2 of the pixels'; anything with an extent (particles,
    a lattice, an edge) raises it by up to b^2 at the block sizes that fit it. A slope of the illumination is
    taken out first.
    """
    if min(sample.shape) < 32:
        return False
    level = _without_slope(sample.astype(np.float32))
    variance, block = float(level.var()), 1
    while min(level.shape) >= 16:
        rows, columns = level.shape[0] // 2 * 2, level.shape[1] // 2 * 2
        level = level[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
        block *= 2
        if float(level.var()) * block**2 > NOISE_STRUCTURE_LIMIT * variance:
            return False
    return True


def _without_slope(level: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = level.shape
    down = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, columns, dtype=np.float32)[None]
    centred = level - level.mean()
    by_row, by_column = centred.mean(axis=1, keepdims=True), centred.mean(axis=0, keepdims=True)
    slope_down = float((by_row * down).mean() / (down**2).mean())
    slope_across = float((by_column * across).mean() / (across**2).mean())
    return np.asarray(centred - slope_down * down - slope_across * across, dtype=np.float32)


def grey_field(
    pixels: NDArray[Any],
    contrast: ContrastLimits,
    out_shape: tuple[int, int],
    box_px: Box | None = None,
) -> NDArray[np.float32]:
    """The micrograph, or a box of it, as float32 grey values 0..1 at `out_shape` (rows, columns).

    Exact area average where it shrinks, linear interpolation between pixel centres where it grows. A constant
    field becomes 0.5.
    """
    x0, y0, x1, y1 = box_px if box_px is not None else (0, 0, pixels.shape[1], pixels.shape[0])
    if contrast.high <= contrast.low:
        return np.full(out_shape, 0.5, dtype=np.float32)
    rows, columns = out_shape
    if rows >= y1 - y0:
        level = _resampled(_normalised(pixels, contrast, (x0, y0, x1, y1)), rows)
    else:
        level = np.concatenate(list(_averaged_bands(pixels, contrast, (x0, y0, x1, y1), rows)))
    # Rows first, then columns of the much smaller rest: both passes run along contiguous memory.
    return np.clip(_resampled(np.ascontiguousarray(level.T), columns).T, 0.0, 1.0)


def _averaged_bands(
    pixels: NDArray[Any], contrast: ContrastLimits, box_px: Box, count: int
) -> Iterator[NDArray[np.float32]]:
    """The box with its rows averaged to `count`, a band of output rows at a time."""
    x0, y0, x1, y1 = box_px
    per_row = (y1 - y0) / count
    step = max(1, int(BAND_PIXELS / max(1.0, (x1 - x0) * per_row)))
    for first in range(0, count, step):
        last = min(count, first + step)
        top, bottom = y0 + int(first * per_row), y0 + min(math.ceil(last * per_row), y1 - y0)
        band = _normalised(pixels, contrast, (x0, top, x1, bottom))
        edges = np.arange(first, last + 1, dtype=np.float64) * per_row - (top - y0)
        yield _area_average(band, edges)


def _normalised(pixels: NDArray[Any], contrast: ContrastLimits, box_px: Box) -> NDArray[np.float32]:
    x0, y0, x1, y1 = box_px
    part = pixels[y0:y1, x0:x1]
    # Counts of 32 bits and more lose their low digits in float32 unless the offset goes first.
    wide = part.dtype.itemsize > 2 and part.dtype != np.float32
    values: NDArray[np.floating[Any]] = part.astype(np.float64 if wide else np.float32)
    values -= contrast.low
    if len(contrast.hot):
        rows, columns, instead = contrast.hot.T
        inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
        at = (rows[inside].astype(np.intp) - y0, columns[inside].astype(np.intp) - x0)
        values[at] = instead[inside] - contrast.low
    values /= contrast.high - contrast.low
    return np.asarray(np.clip(values, 0.0, 1.0, out=values), dtype=np.float32)


def _resampled(array: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`array` with `count` rows instead of its own: area average or linear interpolation along the first axis."""
    length = array.shape[0]
    if count == length:
        return array
    if count < length:
        return _area_average(array, np.arange(count + 1) * (length / count))
    centre = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
    first = np.minimum(centre.astype(np.intp), max(length - 2, 0))
    part = (centre - first).astype(np.float32)[:, None]
    return np.asarray(array[first] * (1 - part) + array[np.minimum(first + 1, length - 1)] * part)


def _area_average(array: NDArray[np.float32], edges: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Averages of rows between consecutive fractional edges; a row cut by an edge counts with its share."""
    length = array.shape[0]
    out = np.empty((len(edges) - 1, array.shape[1]), dtype=np.float32)
    for index in range(len(out)):
        start, end = edges[index], min(edges[index + 1], length)
        first, last = int(start), min(math.ceil(end), length)
        weights = np.ones(last - first, dtype=np.float32)
        weights[0] -= start - first
        weights[-1] -= last - end
        np.dot(weights / weights.sum(), array[first:last], out=out[index])
    return out
