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
LARGEST_COUNT: Final = 1e30
"""A floating-point value beyond it is no count but a placeholder: infinity, or the largest number of its type."""

HOT_SIGMAS: Final = 8.0
_MEDIAN_DEVIATION: Final = 0.6745
"""Median absolute deviation of normal noise, in standard deviations."""
CANDIDATE_FRACTION: Final = 0.001
_FEWEST_CANDIDATES: Final = 16
_CANDIDATES_AT_ONCE: Final = 1 << 16
_NEIGHBOURS: Final = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1) if down or across)

NOISE_STRUCTURE_LIMIT: Final = 6.0
"""How much more than white noise block averages may vary: a camera spreads its noise over some pixels."""
_NOISE_SIGMAS: Final = 6.0
"""How far the outermost of millions of values of pure noise stands from their mean."""
_SMALLEST_JUDGED_PX: Final = 32
_FIRST_BLOCK_PX: Final = 4
_FAR: Final = 1000.0
_SPECTRUM_PX: Final = 1024
_SPECTRUM_BLOCK: Final = 16
_LOWEST: Final = 3
_RARE_COUNTS: Final = 3.0
"""How many counts more than that fall into one block by chance, where counts are rare."""
_PERIOD_RISE: Final = 40.0
"""In noise the highest of a million values of a spectrum is some 20 times the mean."""
_PERIOD_SHARE: Final = 0.002
"""Part of the variance of a whole picture in one frequency: a wave of a sixteenth of the noise, hardly seen."""


@dataclass(frozen=True, slots=True)
class ContrastLimits:
    """The counts that become black and white, and what stands in for pixels that show nothing of the specimen.

    `hot` has one row an isolated pixel: row, column, value to use instead (median of its neighbours). `missing`
    is used for pixels that hold no number (not finite, or beyond LARGEST_COUNT).
    """

    low: float
    high: float
    hot: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)), compare=False)
    missing: float = 0.0


@dataclass(frozen=True, slots=True)
class FieldStatistics:
    """What the whole micrograph looks like before any network sees it."""

    contrast: ContrastLimits
    blank: bool
    """No structure: a constant, or nothing but pixel noise."""
    saturated_fraction: float
    """Fraction of all pixels that stand at the largest value that occurs, hot pixels aside."""
    hot_pixels: int
    scale_missing: bool = False
    """The tile plan asks for a field of view in nm and the micrograph is not calibrated."""


def field_statistics(pixels: NDArray[Any], clipped_fraction: float) -> FieldStatistics:
    """Contrast limits, hot pixels, blankness and saturation of a whole micrograph (2-D, any real type)."""
    step = max(1, math.ceil(pixels.size / SAMPLE_PIXELS))
    sample, missing = _without_gaps(pixels[::step])
    if sample.size == 0:
        return FieldStatistics(ContrastLimits(0.0, 0.0), blank=True, saturated_fraction=0.0, hot_pixels=0)
    hot = _hot_pixels(pixels, sample, clipped_fraction)
    counts = _replaced(sample, hot, step).reshape(-1)
    contrast = ContrastLimits(*_limits(counts, clipped_fraction), hot, missing)
    if contrast.high <= contrast.low:
        return FieldStatistics(contrast, blank=True, saturated_fraction=0.0, hot_pixels=len(hot))
    saturated = float(np.count_nonzero(counts == counts.max())) / counts.size
    return FieldStatistics(contrast, _only_noise(pixels, contrast), saturated, len(hot))


def _without_gaps(rows: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The rows with the median in place of what is no count, and that median; no rows where nothing is a count."""
    native = rows.astype(rows.dtype.newbyteorder("="), copy=False)
    if native.dtype.itemsize == 1:
        return native.astype(np.int16), 0.0  # numpy partitions single bytes ten times slower
    if native.dtype.kind != "f":
        return native, 0.0
    if native.dtype.itemsize == 2:
        native = native.astype(np.float32)
    present = np.abs(native) < LARGEST_COUNT
    counts = native[present]
    if counts.size == 0:
        return native[:0], 0.0
    middle = np.partition(counts, counts.size // 2)[counts.size // 2]
    return native if present.all() else np.where(present, native, middle), float(middle)


def _limits(counts: NDArray[Any], clipped: float) -> tuple[float, float]:
    """The counts that clip this fraction at each end; all of the range where that would leave none."""
    beyond = int(clipped * counts.size)
    last = counts.size - 1 - beyond
    low, high = np.partition(counts, beyond)[beyond], np.partition(counts, last)[last]
    if high <= low:  # a few particles on a ground that is exactly even
        low, high = counts.min(), counts.max()
    return float(low), float(high)


def _hot_pixels(pixels: NDArray[Any], sample: NDArray[Any], clipped: float) -> NDArray[np.float64]:
    """Row, column, and the median of the neighbours of each isolated outlier."""
    counts, noise = sample.reshape(-1), _pixel_noise(sample)
    searched = int(clipped * counts.size) + max(
        _FEWEST_CANDIDATES, math.ceil(CANDIDATE_FRACTION * counts.size)
    )
    last = min(searched, counts.size) - 1
    first = counts.size - 1 - last
    dark = _outermost(pixels, np.partition(counts, last)[last], upper=False)
    bright = _outermost(pixels, np.partition(counts, first)[first], upper=True)
    return np.concatenate(
        [
            _isolated(pixels, candidates[start : start + _CANDIDATES_AT_ONCE], noise, upper=upper)
            for candidates, upper in ((dark, False), (bright, True))
            for start in range(0, max(1, candidates.size), _CANDIDATES_AT_ONCE)
        ]
    )


def _pixel_noise(sample: NDArray[Any]) -> float:
    """Standard deviation of white noise that has the sample's median difference between neighbours in a row."""
    rows = sample[:: math.ceil(sample.size / BAND_PIXELS)].astype(np.float64)
    steps = np.abs(np.diff(rows, axis=1 if rows.shape[1] > 1 else 0))
    # A whole number is known to a half; without this, every peak of a smooth 8-bit picture would be an outlier.
    least = 0.29 if sample.dtype.kind in "iu" else 0.0
    return max(least, float(np.median(steps)) / (_MEDIAN_DEVIATION * math.sqrt(2))) if steps.size else least


def _outermost(pixels: NDArray[Any], limit: Any, *, upper: bool) -> NDArray[np.intp]:  # noqa: ANN401
    """Flat indices of the pixels at the limit or beyond; of a plateau at the limit, only those beyond."""
    limit = pixels.dtype.type(limit)
    most = max(64, pixels.size // 50)
    for compare in (np.greater_equal, np.greater) if upper else (np.less_equal, np.less):
        found = compare(pixels, limit)
        if np.count_nonzero(found) <= most:
            return np.flatnonzero(found)
    return np.empty(0, dtype=np.intp)


def _isolated(
    pixels: NDArray[Any], candidates: NDArray[np.intp], noise: float, *, upper: bool
) -> NDArray[np.float64]:
    """Isolated outliers among the candidates (flat indices): row, column, median of the eight neighbours.

    A pixel is hot (or dead) when it leaves the median of its neighbours by more than HOT_SIGMAS of the noise (the
    field's and that among the neighbours) and at most one neighbour goes even half as far: X-ray hits cover one or
    two pixels, whereas a particle, however small, is spread over several by the point spread of microscope and
    camera.
    """
    height, width = pixels.shape
    rows, columns = np.divmod(candidates, width)
    around = np.full((len(_NEIGHBOURS), candidates.size), np.nan)
    for index, (down, across) in enumerate(_NEIGHBOURS):
        row, column = rows + down, columns + across
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        around[index, inside] = pixels[row[inside], column[inside]]
    around[~(np.abs(around) < LARGEST_COUNT)] = np.nan
    middle = _median_of_present(around)
    # A bright particle is noisier than its ground, so the noise of the field alone would call its peaks hot.
    spread = np.fmax(_median_of_present(np.abs(around - middle)) / _MEDIAN_DEVIATION, noise)
    sign = 1.0 if upper else -1.0
    excess = sign * (pixels[rows, columns].astype(np.float64) - middle)
    alike = (sign * (around - middle) > excess / 2).sum(axis=0)
    hot = (excess > HOT_SIGMAS * spread) & (excess > 0) & (excess < LARGEST_COUNT) & (alike <= 1)
    return np.stack([rows[hot], columns[hot], middle[hot]], axis=1).astype(np.float64)


def _median_of_present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each column, NaN left out; NaN where a column holds nothing else."""
    ordered = np.sort(values, axis=0)  # NaN comes last
    count = np.count_nonzero(~np.isnan(values), axis=0)
    at = np.arange(values.shape[1])
    return np.asarray((ordered[(count - 1) // 2, at] + ordered[count // 2, at]) / 2)


def _replaced(sample: NDArray[Any], hot: NDArray[np.float64], step: int) -> NDArray[Any]:
    """The sample (every `step`-th row of the micrograph) without its hot pixels."""
    sampled = hot[hot[:, 0] % step == 0]
    if not len(sampled):
        return sample
    cleaned = sample.copy()
    cleaned[sampled[:, 0].astype(np.intp) // step, sampled[:, 1].astype(np.intp)] = sampled[:, 2]
    return cleaned


def _only_noise(pixels: NDArray[Any], contrast: ContrastLimits) -> bool:
    """Whether nothing distinguishes the field from uncorrelated noise, on whatever slope of illumination.

    For white noise the variance of b x b block means is 1/b^2 of the pixels'; anything with an extent (particles,
    a lattice, an edge) raises it by up to b^2 at the block sizes that fit it. Few particles leave the variance as
    it is but stand out in the block means; a weak lattice averages out of the blocks but not of the spectrum.
    """
    if min(pixels.shape) < _SMALLEST_JUDGED_PX:
        return False
    level, variance, skewness = _block_means(pixels, contrast)
    if variance <= 0.0:  # nothing but a slope
        return True
    block, deviation = _FIRST_BLOCK_PX, math.sqrt(variance)
    while True:
        if float(level.var()) * block**2 > NOISE_STRUCTURE_LIMIT * variance:
            return False
        # The form of Bernstein's inequality for this skewness: rare counts are skewed, which is no structure.
        for outermost, skew in ((float(level.max()), skewness), (-float(level.min()), -skewness)):
            usual = _NOISE_SIGMAS * math.sqrt(NOISE_STRUCTURE_LIMIT) + _RARE_COUNTS * max(0.0, skew) / block
            if outermost * block > usual * deviation:
                return False
        if min(level.shape) < 16:
            return not _has_period(pixels, contrast)
        level, block = _averaged(level, 2), 2 * block


def _block_means(pixels: NDArray[Any], contrast: ContrastLimits) -> tuple[NDArray[np.float32], float, float]:
    """Means of 4 x 4 px blocks without their slope, variance of the pixels about the slope, and their skewness."""
    size = _FIRST_BLOCK_PX
    height, width = (length // size * size for length in pixels.shape)
    # About a usual value squares lose no digits, even where few pixels differ from it.
    usual = np.median(_scaled(pixels, contrast, (0, height // 2, width, height // 2 + 1)))
    step = max(1, BAND_PIXELS // (size * width)) * size
    levels, sums = [], np.zeros(4)
    for top in range(0, height, step):
        band = _scaled(pixels, contrast, (0, top, width, min(height, top + step))) - usual
        band = np.clip(band, -_FAR, _FAR, out=band).astype(np.float32, copy=False)
        mean, square = _averaged(band, size), band * band
        levels.append(mean)
        sums += (band.sum(), square.sum(), (square * band).sum(), (mean * mean).sum() * size**2)
    first, second, third, of_means = (float(total) for total in sums / (height * width))
    level = _without_slope(np.concatenate(levels))
    variance = second - of_means + float(level.var())
    if variance < 1e-5 * (second - first**2):
        return level, 0.0, 0.0
    return level, variance, (third - 3 * first * second + 2 * first**3) / variance**1.5


def _averaged(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Means of size x size blocks; rows and columns that fill no block are left out."""
    rows, columns = (length // size * size for length in values.shape)
    down = values[:rows, :columns].reshape(rows // size, size, columns).sum(axis=1)
    return np.asarray(sum(down[:, offset::size] for offset in range(size)) / np.float32(size**2))


def _has_period(pixels: NDArray[Any], contrast: ContrastLimits) -> bool:
    """Whether in the middle of the field a frequency stands out of its spectrum and holds part of the variance.

    The axes of the spectrum are left out, where slopes, scan lines and a camera's read-out lie, and the lowest
    frequencies, which blocks judge better.
    """
    unit = 2 * _SPECTRUM_BLOCK
    rows, columns = (min(_SPECTRUM_PX, length // unit * unit) for length in pixels.shape)
    if min(rows, columns) < 2 * unit:
        return False
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    part = np.clip(_scaled(pixels, contrast, (left, top, left + columns, top + rows)), -1.0, 2.0)
    part -= part.mean()
    power = np.abs(np.fft.rfft2(part)[:, 1 : columns // 2 + 1]) ** 2
    power[0] = power[:_LOWEST, :_LOWEST] = power[-_LOWEST:, :_LOWEST] = 0.0
    blocks = power.reshape(rows // _SPECTRUM_BLOCK, _SPECTRUM_BLOCK, -1, _SPECTRUM_BLOCK)
    # The spectrum of noise is distributed exponentially; its median knows nothing of a peak in the block.
    highest, usual = blocks.max(axis=(1, 3)), np.median(blocks, axis=(1, 3)) / math.log(2)
    whole = float(np.square(part, dtype=np.float64).sum()) * part.size / 2
    return bool(((highest > _PERIOD_RISE * usual) & (highest > _PERIOD_SHARE * whole)).any())


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
        level = _resampled(normalised(pixels, contrast, (x0, y0, x1, y1)), rows)
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
        band = normalised(pixels, contrast, (x0, top, x1, bottom))
        edges = np.arange(first, last + 1, dtype=np.float64) * per_row - (top - y0)
        yield _area_average(band, edges)


def normalised(pixels: NDArray[Any], contrast: ContrastLimits, box_px: Box) -> NDArray[np.float32]:
    """A box as grey values 0..1, pixel by pixel; the limits must differ."""
    values = _scaled(pixels, contrast, box_px)
    return np.asarray(np.clip(values, 0.0, 1.0, out=values), dtype=np.float32)


def _scaled(pixels: NDArray[Any], contrast: ContrastLimits, box_px: Box) -> NDArray[np.floating[Any]]:
    """A box with the limits at 0 and 1, not clipped, hot and missing pixels replaced."""
    x0, y0, x1, y1 = box_px
    part = pixels[y0:y1, x0:x1]
    # Counts of 32 bits and more lose their low digits in float32 unless the offset goes first.
    wide = part.dtype.itemsize > 2 and part.dtype != np.float32
    values: NDArray[np.floating[Any]] = part.astype(np.float64 if wide else np.float32)
    if part.dtype.kind == "f":
        values[~(np.abs(values) < LARGEST_COUNT)] = contrast.missing
    if len(contrast.hot):
        rows, columns, instead = contrast.hot.T
        inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
        at = (rows[inside].astype(np.intp) - y0, columns[inside].astype(np.intp) - x0)
        values[at] = instead[inside]
    values -= contrast.low
    with np.errstate(over="ignore"):
        values /= contrast.high - contrast.low
    return values


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
