"""What counts become: the grey scale of a whole field, hits and dead pixels, emptiness, and other sizes."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import grey_scale
from edge_agent.grey_scale import ContrastLimits, FieldStatistics, field_statistics, grey_field
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.simulation import draw_field

if TYPE_CHECKING:
    from pathlib import Path

CLIPPED = 0.0002
GROUND, NOISE = 1000, 10


def seen(pixels: np.ndarray, clipped: float = CLIPPED) -> FieldStatistics:
    return field_statistics(pixels, clipped)


def grey(pixels: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    return grey_field(pixels, seen(pixels).contrast, shape or pixels.shape)


def noise(shape: tuple[int, int] = (128, 128), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(GROUND, NOISE, shape).round().astype(np.uint16)


def disc(pixels: np.ndarray, y: float, x: float, diameter: float, more: float) -> np.ndarray:
    """The field with a disc of so many more counts, cut hard at its edge."""
    top, left, size = max(0, int(y - diameter)), max(0, int(x - diameter)), 2 * int(diameter) + 3
    part = (slice(top, top + size), slice(left, left + size))
    pixels = pixels.copy()
    down, across = np.ogrid[: pixels[part].shape[0], : pixels[part].shape[1]]
    inside = np.hypot(down + top - y, across + left - x) <= diameter / 2
    pixels[part] += (inside * more).astype(pixels.dtype)
    return pixels


def discs(pixels: np.ndarray, count: int, diameter: float, more: float, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    for _ in range(count):
        y, x = random.uniform(diameter, np.array(pixels.shape) - diameter)
        pixels = disc(pixels, y, x, diameter, more)
    return pixels


def lattice(size: int, period_px: float, strength: float, seed: int = 0) -> np.ndarray:
    """Two crossed waves at an angle to the axes, in noise of standard deviation 1, as counts around 1000."""
    y, x = np.mgrid[:size, :size]
    waves = sum(np.cos(2 * np.pi * (0.9 * a + 0.43 * b) / period_px) for a, b in ((x, y), (-y, x)))
    random = np.random.default_rng(seed).normal(0, 1, (size, size))
    return (GROUND + 50 * (strength * waves + random)).astype(np.uint16)


# --- hits and dead pixels ---

CENTRE = (60, 70)
HITS = [
    pytest.param([CENTRE], id="one pixel"),
    pytest.param([CENTRE, (60, 71)], id="two side by side"),
    pytest.param([CENTRE, (61, 70)], id="two one above the other"),
    pytest.param([CENTRE, (61, 71)], id="two across a corner"),
    pytest.param([(0, 40)], id="upper edge"),
    pytest.param([(0, 40), (1, 40)], id="two at right angles to the upper edge"),
    pytest.param([(127, 40), (126, 40)], id="two at right angles to the lower edge"),
    pytest.param([(40, 127), (40, 126)], id="two at right angles to the right edge"),
    pytest.param([(0, 0)], id="corner"),
    pytest.param([(0, 0), (1, 1)], id="two in the corner"),
]


@pytest.mark.parametrize("value", [60_000, 0], ids=["hot", "dead"])
@pytest.mark.parametrize("places", HITS)
def test_hits_and_dead_pixels_of_one_or_two_pixels_vanish(places, value):
    clean, pixels = noise(), noise()
    for place in places:
        pixels[place] = value

    field, before = seen(pixels), seen(clean)

    assert field.hot_pixels == len(places)
    assert {(int(row), int(column)) for row, column, _ in field.contrast.hot} == set(places)
    assert np.abs(field.contrast.hot[:, 2] - GROUND).max() < 3 * NOISE
    assert (field.contrast.low, field.contrast.high) == pytest.approx(
        (before.contrast.low, before.contrast.high), abs=2
    )
    assert field.blank


def test_both_pixels_of_an_uneven_hit_vanish():
    pixels = noise()
    pixels[60, 70:72] = (60_000, 38_000)

    assert seen(pixels).hot_pixels == 2


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([(60, 70), (60, 71), (61, 70), (61, 71)], id="2 x 2"),
        pytest.param([(0, 0), (0, 1), (1, 0), (1, 1)], id="2 x 2 in the corner"),
        pytest.param([(0, 40), (0, 41), (1, 40), (1, 41)], id="2 x 2 at the edge"),
        pytest.param([(60, column) for column in range(40, 60)][1:-1], id="inside of a thin line"),
    ],
)
def test_what_covers_more_is_a_particle_and_stays(places):
    pixels = noise()
    for place in places:
        pixels[place] = 9000
    if len(places) > 4:
        pixels[60, 40] = pixels[60, 59] = 9000

    levels = grey(pixels)

    assert not {tuple(hot[:2].astype(int)) for hot in seen(pixels).contrast.hot} & set(places)
    assert all(levels[place] == 1.0 for place in places)


@pytest.mark.parametrize("diameter", [2.9, 4, 6])
@pytest.mark.parametrize("polarity", [1, -1], ids=["bright", "dark"])
def test_a_thousandth_of_bright_catalyst_particles_keeps_its_contrast(diameter, polarity):
    area = np.count_nonzero(disc(np.zeros((32, 32)), 16, 16, diameter, 1))
    ground = np.random.default_rng(0).poisson(500, (512, 512)).astype(np.int32)
    pixels = discs(ground, round(0.001 * 512**2 / area), diameter, polarity * 400)
    particle = np.abs(pixels - ground) > 0

    field, levels = seen(pixels), grey(pixels)

    assert 0.0007 < particle.mean() < 0.0012
    assert field.hot_pixels == 0
    assert not field.blank
    end = 1.0 if polarity > 0 else 0.0
    assert np.abs(levels[particle] - end).max() < 0.3
    assert np.abs(np.median(levels[~particle]) - end) > 0.6
    # Not pressed to one value: the particles' own noise is still there.
    assert len(np.unique(levels[particle])) > 20


def test_noisy_peaks_of_bright_particles_are_not_hot():
    pixels = discs(np.zeros((256, 256)), 30, 20, 400)
    counts = np.random.default_rng(0).poisson(pixels + 0.2).astype(np.uint16)

    assert seen(counts).hot_pixels <= 2


def test_a_smooth_picture_of_few_levels_has_no_hot_pixels():
    y, x = np.mgrid[:200, :200]
    pixels = (128 + 60 * np.sin(x / 17) * np.cos(y / 23)).astype(np.uint8)

    assert seen(pixels).hot_pixels == 0


@pytest.mark.parametrize("side", [4, 8, 20, 31])
def test_a_hit_never_sets_the_grey_scale_of_a_small_picture(side):
    pixels = noise((side, side))
    pixels[1, 2] = 60_000

    field = seen(pixels)

    assert field.hot_pixels == 1
    assert field.contrast.high < GROUND + 6 * NOISE


def test_hits_are_found_in_the_rows_that_the_percentiles_leave_out(monkeypatch):
    monkeypatch.setattr(grey_scale, "SAMPLE_PIXELS", 128 * 128 // 5)
    pixels = noise()
    rows = range(10, 60, 7)
    for row in rows:
        pixels[row, 2 * row] = 60_000

    field = seen(pixels)

    assert sorted(field.contrast.hot[:, 0].astype(int)) == list(rows)
    assert field.contrast.high < GROUND + 6 * NOISE
    assert grey(pixels).std() > 0.1


def test_hits_on_a_ground_of_nothing_leave_a_constant():
    pixels = np.zeros((256, 256), np.uint16)
    pixels[::40, ::50] = 3000

    field = seen(pixels)

    assert (field.blank, field.contrast.low, field.contrast.high) == (True, 0.0, 0.0)
    assert (grey(pixels) == 0.5).all()


# --- the grey scale ---


def test_a_few_particles_on_an_exactly_even_ground_are_seen():
    pixels = disc(np.full((512, 512), 40, np.uint16), 100, 200, 5, 60)

    field, levels = seen(pixels), grey(pixels)

    assert (field.contrast.low, field.contrast.high) == (40, 100)
    assert not field.blank
    assert levels[100, 200] == 1.0
    assert levels[0, 0] == 0.0


def test_the_clipped_fraction_is_clipped_at_each_end():
    pixels = np.random.default_rng(0).permutation(10_000).reshape(100, 100).astype(np.int32)

    contrast = seen(pixels, clipped=0.01).contrast

    assert (contrast.low, contrast.high) == (100, 9899)
    assert (seen(pixels, clipped=0).contrast.low, seen(pixels, clipped=0).contrast.high) == (0, 9999)


PATTERN = disc(np.add.outer(np.arange(48), 2 * np.arange(40)) % 89, 20, 20, 15, 30)


@pytest.mark.parametrize(
    "dtype",
    "i1 u1 <i2 >i2 <u2 >u2 <i4 >i4 <u4 >u4 <i8 >i8 <u8 >u8 <f2 >f2 <f4 >f4 <f8 >f8".split(),
)
def test_every_number_type_gives_the_same_grey_values(dtype):
    pixels = PATTERN.astype(dtype)
    kept = pixels.copy()
    pixels.flags.writeable = False

    levels, small = grey(pixels), grey(pixels, (7, 9))

    assert levels.dtype == small.dtype == np.float32
    np.testing.assert_allclose(levels, grey(PATTERN.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(small, grey(PATTERN.astype(np.float64), (7, 9)), atol=1e-6)
    assert np.array_equal(pixels, kept)


@pytest.mark.parametrize(
    "laid_out",
    [
        pytest.param(lambda pixels: np.asfortranarray(pixels), id="columns first"),
        pytest.param(lambda pixels: np.repeat(np.repeat(pixels, 2, 0), 3, 1)[::2, ::3], id="strided"),
        pytest.param(lambda pixels: pixels[::-1, ::-1].copy()[::-1, ::-1], id="backwards"),
        pytest.param(lambda pixels: np.pad(pixels, 3)[3:-3, 3:-3], id="part of a larger one"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_layout_in_memory_does_not_matter(laid_out, dtype):
    plain = noise((60, 50)).astype(dtype)
    plain[10, 20] = 60_000
    pixels = laid_out(plain)
    pixels.flags.writeable = False

    assert seen(pixels) == seen(plain)
    assert np.array_equal(seen(pixels).contrast.hot, seen(plain).contrast.hot)
    assert np.array_equal(grey(pixels, (13, 17)), grey(plain, (13, 17)))


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [
        ("uint32", 3_000_000),
        ("uint32", 4_294_967_000),
        ("int32", -2_147_483_000),
        ("uint64", 2**52),
        ("int64", -(2**52)),
        ("float64", 1e12),
        ("float32", 3e6),
    ],
)
def test_small_contrast_on_a_large_offset_is_kept(dtype, offset):
    pixels = (PATTERN.astype(dtype) + np.array(offset).astype(dtype)).astype(dtype)

    np.testing.assert_allclose(grey(pixels), grey(PATTERN.astype(np.float64)), atol=1e-6)


def with_gaps(values: list[float], dtype: str) -> np.ndarray:
    pixels = np.random.default_rng(0).normal(100, 5, (64, 64)).astype(dtype)
    pixels[:8, :8] = pixels[30, 30] = values[0]
    pixels[40, :] = values[-1]
    return pixels


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param([np.nan], id="nan"),
        pytest.param([np.inf, -np.inf], id="infinities"),
        pytest.param([-np.inf, np.nan], id="both"),
    ],
)
def test_pixels_without_a_number_take_the_usual_one(values, dtype):
    pixels = with_gaps(values, dtype)

    field, levels = seen(pixels), grey(pixels)

    assert 75 < field.contrast.low < 90 < 110 < field.contrast.high < 125
    assert field.contrast.missing == pytest.approx(100, abs=1)
    assert np.isfinite(levels).all()
    assert np.ptp(levels[:8, :8]) == np.ptp(levels[40]) == 0.0
    assert 0.3 < levels[0, 0] < 0.7


@pytest.mark.parametrize("placeholder", [3.4028235e38, -3.4028235e38, 1e35])
def test_a_placeholder_is_no_count(placeholder):
    field = seen(with_gaps([placeholder], "float32"))

    assert 75 < field.contrast.low < field.contrast.high < 125


def test_a_gap_beside_a_pixel_does_not_make_it_hot():
    pixels = noise().astype(np.float32) + 1e6
    pixels[50:80, 50:80] = np.nan
    pixels[60, 60] = 1e6 + GROUND

    field = seen(pixels)

    assert field.hot_pixels == 0
    assert field.blank


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e25])
def test_counts_of_any_magnitude_have_a_grey_scale(scale):
    np.testing.assert_allclose(grey(PATTERN * scale), grey(PATTERN.astype(np.float64)), atol=1e-6)


SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 300), (300, 1), (3, 3), (31, 33), (64, 64)]
DULL = {
    "zeros": lambda shape: np.zeros(shape, np.uint16),
    "constant": lambda shape: np.full(shape, -7.5, np.float32),
    "largest": lambda shape: np.full(shape, np.iinfo(np.int64).max),
    "all nan": lambda shape: np.full(shape, np.nan, np.float32),
    "all infinite": lambda shape: np.full(shape, -np.inf),
    "bool": lambda shape: np.zeros(shape, bool),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", DULL.values(), ids=DULL)
def test_a_constant_is_blank_and_mid_grey(make, shape):
    field = seen(make(shape))

    assert field.blank
    assert field.saturated_fraction == 0.0
    assert field.hot_pixels == 0
    assert (grey(make(shape), (5, 4)) == 0.5).all()


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float64, bool])
def test_the_smallest_pictures_have_a_grey_scale_of_their_own(shape, dtype):
    pixels = (np.arange(shape[0] * shape[1]).reshape(shape) % 2).astype(dtype)

    levels = grey(pixels)

    assert levels.shape == shape
    assert set(np.unique(levels)) == {0.0, 1.0}
    assert np.isfinite(grey(pixels, (9, 11))).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_in_a_file_becomes_grey_values(data):
    shape = (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
    width = data.draw(st.sampled_from([16, 32, 64]))
    numbers = st.floats(width=width, allow_nan=True, allow_infinity=True)
    values = data.draw(st.lists(numbers, min_size=1, max_size=12))
    pixels = np.resize(np.array(values, dtype=f"f{width // 8}"), shape)
    out = (data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        field = seen(pixels)
        levels = grey_field(pixels, field.contrast, out)

    assert np.isfinite([field.contrast.low, field.contrast.high, field.saturated_fraction]).all()
    assert levels.shape == out
    assert levels.min() >= 0.0
    assert levels.max() <= 1.0


# --- other sizes ---


def weights(length: int, count: int) -> np.ndarray:
    """Row i holds the share of each source pixel in output i: its overlap, or its part of the interpolation."""
    if count >= length:
        at = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
        return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(length)[None]))
    edges = np.arange(count + 1) * length / count
    first, last = np.arange(length)[None], np.arange(1, length + 1)[None]
    overlap = np.minimum(edges[1:, None], last) - np.maximum(edges[:-1, None], first)
    return np.maximum(overlap, 0.0) * count / length


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_field_shrinks_by_exact_area_average_and_grows_by_interpolation(data):
    size = st.integers(1, 60)
    rows, columns = data.draw(size), data.draw(size)
    x0, y0 = data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, rows - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, columns)), data.draw(st.integers(y0 + 1, rows))
    out = (data.draw(size), data.draw(size))
    pixels = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 256, (rows, columns), np.uint8)
    part = np.clip((pixels[y0:y1, x0:x1] - 20.0) / 200.0, 0.0, 1.0)
    exact = weights(y1 - y0, out[0]) @ part @ weights(x1 - x0, out[1]).T

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grey_scale, "BAND_PIXELS", data.draw(st.sampled_from([1, 50, 10_000])))
        levels = grey_field(pixels, ContrastLimits(20.0, 220.0), out, (x0, y0, x1, y1))

    np.testing.assert_allclose(levels, exact, atol=2e-6)


def test_the_same_size_is_the_pixels_themselves():
    pixels = noise((30, 40))

    levels = grey_field(pixels, ContrastLimits(900, 1100), (30, 40))

    assert np.array_equal(levels, np.clip((pixels.astype(np.float32) - 900) / 200, 0, 1))


def test_hot_pixels_are_replaced_in_a_box_as_in_the_field():
    pixels = noise((64, 64))
    pixels[40, 50] = 60_000
    contrast = seen(pixels).contrast

    whole, box = (
        grey_field(pixels, contrast, (64, 64)),
        grey_field(pixels, contrast, (32, 24), (40, 32, 64, 64)),
    )

    assert np.array_equal(whole[32:, 40:], box)
    assert box[8, 10] < 0.8


# --- nothing to see ---


def on_a_slope(pixels: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    return pixels + 40 * NOISE * x / pixels.shape[1] - 25 * NOISE * y / pixels.shape[0]


SIZES = [(32, 32), (48, 200), (68, 68), (256, 256), (1000, 1016)]
NOISES = {
    "one count in a thousand pixels": lambda random, shape: random.poisson(0.001, shape).astype(np.uint16),
    "one count in ten pixels": lambda random, shape: random.poisson(0.1, shape).astype(np.uint8),
    "one count a pixel": lambda random, shape: random.poisson(1, shape).astype(np.uint16),
    "a thousand counts a pixel": lambda random, shape: random.poisson(1000, shape).astype(np.uint32),
    "normal": lambda random, shape: random.normal(0, 1, shape).astype(np.float32),
    "normal on a slope": lambda random, shape: on_a_slope(random.normal(GROUND, NOISE, shape)),
    "spread over neighbours": lambda random, shape: spread(random.normal(GROUND, NOISE, shape)),
}


def spread(pixels: np.ndarray) -> np.ndarray:
    """As a camera does: a part of each pixel's signal is found in its neighbours."""
    for axis in (0, 1):
        pixels = 0.7 * pixels + 0.15 * (np.roll(pixels, 1, axis) + np.roll(pixels, -1, axis))
    return pixels


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_noise_is_blank(make, shape):
    random = np.random.default_rng(5)

    repeats = 1 if shape[0] > 256 else 3
    assert [seen(make(random, shape)).blank for _ in range(repeats)] == [True] * repeats


def test_a_pure_slope_is_blank():
    assert seen(np.add.outer(np.arange(65.0), 3 * np.arange(64.0))).blank
    assert seen(np.tile(np.arange(128, dtype=np.float32), (64, 1))).blank


def test_noise_with_hits_is_blank():
    pixels = noise((256, 256))
    pixels[::50, ::60] = 50_000

    assert seen(pixels).blank


@pytest.mark.parametrize(
    ("size", "strength"), [(64, 1), (64, 3), (128, 0.4), (128, 1), (512, 0.2), (512, 1), (1024, 0.2)]
)
@pytest.mark.parametrize("period_px", [2.2, 3, 5, 8, 15])
def test_a_lattice_is_never_blank(size, period_px, strength):
    assert not seen(lattice(size, period_px, strength)).blank


@pytest.mark.parametrize("size", [256, 1024])
@pytest.mark.parametrize(
    ("count", "diameter", "sigmas"),
    [
        (1, 6, 10),
        (5, 4, 10),
        (20, 4, 10),
        (80, 4, 10),
        (20, 3, 30),
        (3, 12, 5),
        (1, 40, 3),
        (1, 40, -3),
        (5, 4, -9),
        (80, 4, -9),
    ],
)
def test_particles_are_never_blank(size, count, diameter, sigmas):
    ground = np.random.default_rng(3).poisson(100, (size, size)).astype(np.int32)

    assert not seen(discs(ground, count, diameter, 10 * sigmas)).blank


@pytest.mark.parametrize("drawn", ["round", "rod", "faceted", "overfull"])
def test_simulated_specimens_are_not_blank(drawn):
    assert not seen(draw_field(drawn, np.random.default_rng(2), 512).pixels).blank


def test_structure_between_sampled_rows_counts(monkeypatch):
    monkeypatch.setattr(grey_scale, "SAMPLE_PIXELS", 512 * 8)
    pixels = noise((512, 512))
    pixels[200:220, 100:140] += 300

    assert not seen(pixels).blank


@pytest.mark.parametrize("shape", [(4, 4), (16, 600), (31, 31)], ids=str)
def test_too_small_to_judge_is_not_blank(shape):
    assert not seen(noise(shape)).blank


BLANK_FILES = {
    "nexuslims/TEM_list_signal_dataZeroed.dm3": "pixels set to zero by the publisher",
    "openNCEM/dmTest_3D_int16_64,65,66.dm3": "a slope and nothing else",
    "openNCEM/dmTest_3D_int16_64,65,66.dm4": "a slope and nothing else",
    "openNCEM/dmTest_float32_nonSquare_diffPixelSize.dm3": "a slope and nothing else",
    "openNCEM/dmTest_float32_nonSquare_diffPixelSize.dm4": "a slope and nothing else",
    "rosettasciio/2D/test_STEM_image.dm3": "68 x 68 px of noise",
    "rosettasciio/test_dm_image_um_unit.dm3": "68 x 68 px, almost only noise",
}


def test_real_micrographs_that_show_something_are_not_blank(shared_data: Path):
    folder = shared_data / "dm3"
    judged: dict[str, bool] = {}
    for path in sorted(folder.rglob("*.dm?")):
        try:
            judged[path.relative_to(folder).as_posix()] = seen(read_micrograph(path).pixels).blank
        except UnusableFile:
            continue

    assert {name for name, blank in judged.items() if blank} == set(BLANK_FILES)
    assert len(judged) > 40


# --- saturation and memory ---


@pytest.mark.parametrize(
    ("fraction", "hit"), [(0.0, False), (0.1, False), (0.6, False), (0.6, True)], ids=str
)
def test_saturation_is_the_share_of_the_largest_value(fraction, hit):
    pixels = np.minimum(noise((100, 100)), 60_000)
    pixels[: round(100 * fraction)] = 60_000
    if hit:
        pixels[90, 50] = 65_535

    assert seen(pixels).saturated_fraction == pytest.approx(fraction, abs=3e-4)


def most_bytes_needed_for(pixels: np.ndarray) -> int:
    tracemalloc.start()
    try:
        grey_field(pixels, seen(pixels).contrast, (448, 448))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_large_field_needs_little_more_than_its_pixels():
    tile = np.random.default_rng(0).poisson(1000, (512, 512)).astype(np.uint16)

    assert most_bytes_needed_for(np.tile(tile, (16, 16))) < 150e6


@pytest.mark.parametrize(
    "fill",
    [
        pytest.param(lambda random, shape: random.integers(0, 3, shape, np.uint8), id="three plateaus"),
        pytest.param(lambda random, shape: random.poisson(0.03, shape).astype(np.uint8), id="rare counts"),
        pytest.param(
            lambda random, shape: np.where(random.random(shape) < 0.5, np.nan, 1.0).astype(np.float32),
            id="half without numbers",
        ),
    ],
)
def test_no_field_needs_many_times_its_pixels(fill):
    pixels = fill(np.random.default_rng(0), (1024, 2048))

    assert most_bytes_needed_for(pixels) < 24 * pixels.size + 20e6
