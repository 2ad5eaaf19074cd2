"""What is measured of a picture, on pictures whose answer is known; and what was drawn into the pixels."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from edge_agent.preprocessing import Preprocessing, describe_field
from edge_agent.simulation import draw_field
from trainer.preparing.burnt_in import BurntIn, find_burnt_in
from trainer.preparing.quality import MEASURE_NAMES, Measures, measured, standard_field

RULE = Preprocessing()


def measure(pixels) -> Measures | None:
    burnt_in = find_burnt_in(pixels)
    above = pixels[: pixels.shape[0] - burnt_in.info_bar_rows]
    field = describe_field(above, RULE)
    return measured(above, field, standard_field(above, field), burnt_in)


def low_passed(pixels, sigma_px: float):
    frequency = np.fft.fftfreq(pixels.shape[0])[:, None] ** 2 + np.fft.rfftfreq(pixels.shape[1])[None] ** 2
    return np.fft.irfft2(
        np.fft.rfft2(pixels) * np.exp(-2 * (np.pi * sigma_px) ** 2 * frequency), pixels.shape
    )


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Grain of a few pixels, and nothing else."""
    return 1000 + 400 * low_passed(np.random.default_rng(0).normal(0, 1, (256, 256)), 1.5)


@pytest.fixture(scope="module")
def particles() -> np.ndarray:
    return draw_field("round", np.random.default_rng(3), 256).pixels


@pytest.fixture(scope="module")
def discs() -> np.ndarray:
    """Thirty dark discs of all sizes on an even ground, without noise."""
    random = np.random.default_rng(8)
    y, x = np.mgrid[:256, :256]
    field = np.full((256, 256), 200.0)
    for row, column, radius in random.uniform((0, 0, 6), (256, 256, 20), (30, 3)):
        field -= 60 * (np.hypot(y - row, x - column) < radius)
    return field


def test_the_noise_is_that_which_was_added(discs):
    pixels = discs + np.random.default_rng(1).normal(0, 3, discs.shape)
    low, high = np.quantile(pixels, [RULE.clipped_fraction, 1 - RULE.clipped_fraction])
    assert measure(pixels).noise == pytest.approx(3 / (high - low), rel=0.1)


def test_film_is_a_texture_without_objects_and_particles_are_objects(film, particles):
    assert measure(film).distinctness < 0.6 < 2 < measure(particles).distinctness
    with_one = film.copy()
    y, x = np.mgrid[:256, :256]
    with_one -= 800 * (np.hypot(y - 90, x - 160) < 12)
    assert measure(with_one).distinctness > 2


def test_noise_alone_has_texture_one():
    noise = np.random.default_rng(5).normal(0, 1, (512, 512))
    noise[200:300, 200:300] += 1  # pure noise is a blank field
    assert measure(noise).texture == pytest.approx(1, abs=0.15)
    assert measure(low_passed(noise, 1)).texture > 2


def test_blur_takes_sharpness_away_and_noise_does_not_bring_it_back(discs):
    found = [measure(low_passed(discs, sigma)).sharpness for sigma in (0.5, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.1
    assert found[3] < 0.005
    noise = np.random.default_rng(0).normal(0, 2, discs.shape)
    assert measure(low_passed(discs, 8) + noise).sharpness < 0.005
    assert measure(discs + noise).sharpness == pytest.approx(found[0], rel=0.5)


def test_large_pictures_are_measured_at_the_size_of_small_ones(particles):
    small, large = measure(np.kron(particles, np.ones((2, 2)))), measure(np.kron(particles, np.ones((8, 8))))
    assert large.sharpness == pytest.approx(small.sharpness, rel=0.05)
    assert large.distinctness == pytest.approx(small.distinctness, rel=0.05)


def test_saturation_is_counted_above_the_info_bar():
    pixels = np.random.default_rng(2).integers(50, 200, (300, 300)).astype(np.uint8)
    pixels[:60] = 255
    assert measure(pixels).saturated_fraction == pytest.approx(0.2)
    pixels[270:] = 0
    found = measure(pixels)
    assert found.info_bar_fraction == pytest.approx(0.1)
    assert found.saturated_fraction == pytest.approx(60 / 270, rel=1e-4)


@pytest.mark.parametrize("shape", [(256, 256), (255, 301)], ids=["even", "odd"])
def test_only_a_fourier_transform_has_point_symmetry(shape):
    picture = low_passed(np.random.default_rng(1).normal(0, 1, shape), 1)[: shape[0], : shape[1]]
    power = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(picture - picture.mean()))))
    export = (255 * power / power.max()).astype(np.uint8)
    assert measure(export).point_symmetry > 0.9
    assert measure(picture).point_symmetry < 0.1


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.random.default_rng(0).normal(0, 1, (95, 400)), id="too small"),
        pytest.param(np.full((200, 200), 7), id="blank"),
    ],
)
def test_what_cannot_be_measured(pixels):
    assert measure(pixels) is None


def test_every_figure_is_finite_and_short(particles):
    values = asdict(measure(particles))
    assert tuple(values) == MEASURE_NAMES
    for value in values.values():
        assert math.isfinite(value)
        assert len(repr(value)) <= 12


def textured(rows: int = 400, columns: int = 400, top: int = 230) -> np.ndarray:
    return np.random.default_rng(7).integers(20, top, (rows, columns)).astype(np.uint8)


def with_scale_bar(value: int, height: int = 6, length: int = 90) -> np.ndarray:
    pixels = textured()
    pixels[360 : 360 + height, 280 : 280 + length] = value
    return pixels


def with_info_bar(ground: int, rows: int = 28) -> np.ndarray:
    pixels = textured()
    pixels[-rows:] = ground
    letters = np.random.default_rng(1).random((rows // 2, 120)) < 0.5
    pixels[-rows + rows // 4 : -rows + rows // 4 + rows // 2, 20:140][letters] = 255 - ground
    return pixels


def with_noisy_lower_edge() -> np.ndarray:
    pixels = textured()
    pixels[370:] = np.random.default_rng(2).normal(128, 4, (30, 400))
    return pixels


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        pytest.param(textured(), BurntIn(), id="nothing"),
        pytest.param(with_scale_bar(255), BurntIn(scale_bar_px=90), id="white scale bar"),
        pytest.param(with_scale_bar(0), BurntIn(scale_bar_px=90), id="black scale bar"),
        pytest.param(with_scale_bar(255, height=60), BurntIn(), id="no bar: too high for its length"),
        pytest.param(with_scale_bar(255, length=20), BurntIn(), id="no bar: too short"),
        pytest.param(with_scale_bar(255).astype(np.float64) * 300 - 9, BurntIn(scale_bar_px=90), id="floats"),
        pytest.param(with_info_bar(0), BurntIn(info_bar_rows=28), id="black info bar with letters"),
        pytest.param(with_info_bar(255), BurntIn(info_bar_rows=28), id="white info bar"),
        pytest.param(with_info_bar(0, rows=8), BurntIn(), id="no info bar: too low"),
        pytest.param(with_noisy_lower_edge(), BurntIn(), id="no info bar: an even part of the specimen is noisy"),
        pytest.param(np.kron(with_scale_bar(9), np.ones((4, 4))), BurntIn(scale_bar_px=360), id="large"),
        pytest.param(textured(80, 80), BurntIn(), id="too small"),
        pytest.param(np.full((200, 200), 3.0), BurntIn(), id="constant"),
        pytest.param(np.full((200, 200), np.nan), BurntIn(), id="no numbers"),
        pytest.param(np.tile(np.array([0, 255], np.uint8), (400, 200)), BurntIn(), id="stripes"),
    ],
)  # fmt: skip
def test_what_was_drawn_into_the_pixels(pixels, expected):
    assert find_burnt_in(pixels) == expected


def test_no_bar_is_seen_in_simulated_micrographs():
    for drawn in ("round", "rod", "faceted", "empty", "overfull", "saturated"):
        assert find_burnt_in(draw_field(drawn, np.random.default_rng(4), 256).pixels) == BurntIn()


def test_no_published_micrograph_is_doubted(shared_data):
    from PIL import Image

    paths = sorted((shared_data / "labelled" / "emps").glob("r*/*.jpg"))[::25]
    found = [measure(np.asarray(Image.open(path))) for path in paths]
    assert len(found) == 10
    assert min(one.distinctness for one in found) > 0.6
    assert min(one.sharpness for one in found) > 0.005
    assert max(one.saturated_fraction for one in found) < 0.3
    assert max(one.point_symmetry for one in found) < 0.6
