"""How a field looks, on fields whose answer is known: sharp, blurred, moved, diffraction, Fourier transforms."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from edge_agent.field_look import (
    Look,
    look_at,
    outlines,
    polarity_of,
    radial_falling,
    speckle_symmetry,
)
from edge_agent.preprocessing import Preprocessing, TilePlan, cut_tiles
from edge_agent.simulated_strangers import blurred_by, moved

SIDE = 448
GOOD_STREAKS = 1.4
"""Published micrographs: nineteen in twenty are below (tests/benchmarks/guard_rates.py)."""


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def discs(count: int = 25, side: int = SIDE) -> np.ndarray:
    """Dark discs on an even ground, grey 0 to 1."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    field = np.full((side, side), 0.8, np.float32)
    for row, column, radius in rng().uniform((0, 0, 10), (side, side, 30), (count, 3)):
        field = np.where(np.hypot(y - row, x - column) < radius, np.float32(0.25), field)
    return blurred_by(field, 1.0)


def rods(direction: float, jitter: float = 0.0, ends: bool = True) -> np.ndarray:
    """Rods about one direction; without ends they are fibres that cross the whole field."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    field = np.full((SIDE, SIDE), 0.2, np.float32)
    draw = rng()
    for row, column in draw.uniform(0, SIDE, (18, 2)):
        angle = direction + draw.normal(0, jitter)
        along = (x - column) * math.cos(angle) + (y - row) * math.sin(angle)
        aside = (y - row) * math.cos(angle) - (x - column) * math.sin(angle)
        inside = np.abs(aside) < 7
        field = np.where(inside & (np.abs(along) < 60) if ends else inside, np.float32(0.8), field)
    return blurred_by(field, 1.0)


def with_noise(grey: np.ndarray, electrons: float = 100) -> np.ndarray:
    return np.clip(rng().poisson(grey * electrons) / electrons, 0, 1).astype(np.float32)


def moved_by(grey: np.ndarray, share: float, degrees: float) -> np.ndarray:
    time = np.linspace(0, share * SIDE, 400)
    turn = math.radians(degrees)
    return moved(grey, np.stack([time * math.sin(turn), time * math.cos(turn)], axis=1))


@pytest.mark.parametrize("degrees", [0, 25, 90, 130])
@pytest.mark.parametrize("share", [0.025, 0.15])
@pytest.mark.parametrize("grey", [discs(), rods(0.5, jitter=1.0)], ids=["discs", "rods in all directions"])
def test_motion_makes_streaks_in_whatever_direction(grey: np.ndarray, share: float, degrees: float) -> None:
    assert streaks_of(with_noise(moved_by(grey, share, degrees), 300)) > GOOD_STREAKS


@pytest.mark.parametrize(
    "grey",
    [
        pytest.param(discs(), id="discs"),
        pytest.param(rods(0.0), id="parallel rods along the lines"),
        pytest.param(rods(0.7), id="parallel rods aslant"),
        pytest.param(rods(0.3, jitter=0.5, ends=False), id="fibres that cross the field"),
        pytest.param(blurred_by(discs(), 6), id="blurred on all sides"),
        pytest.param(
            discs() * (1 + 0.02 * rng().standard_normal((SIDE, 1))).astype(np.float32), id="scan-line noise"
        ),
        pytest.param(np.full((SIDE, SIDE), 0.5, np.float32), id="noise alone"),
    ],
)
def test_what_is_not_motion_makes_none(grey: np.ndarray) -> None:
    assert 1 <= streaks_of(with_noise(grey)) < GOOD_STREAKS


def test_displaced_lines_make_them_too() -> None:
    shifts = rng().normal(0, 4, SIDE).round().astype(int)
    shaken = np.stack([np.roll(line, by) for line, by in zip(discs(), shifts, strict=True)])
    assert streaks_of(with_noise(shaken)) > GOOD_STREAKS


def test_fibres_that_cross_the_whole_field_in_one_direction_look_like_motion() -> None:
    """Known limit: without ends they are what a long exposure of moving particles leaves."""
    assert streaks_of(with_noise(rods(0.3, ends=False))) > GOOD_STREAKS


def streaks_of(grey: np.ndarray) -> float:
    return outlines(grey)[1]


@pytest.mark.parametrize("electrons", [100, 500], ids=["noisy", "clear"])
@pytest.mark.parametrize(
    "grey", [discs(), 1 - discs(), rods(0.4)], ids=["dark discs", "bright discs", "rods"]
)
def test_blur_lowers_the_sharpness_and_noise_does_not_bring_it_back(grey: np.ndarray, electrons: int) -> None:
    found = [outlines(with_noise(blurred_by(grey, sigma), electrons))[0] for sigma in (1, 3, 6)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.8
    assert found[2] < 0.65


def test_noise_alone_is_not_blurred() -> None:
    assert outlines(with_noise(np.full((SIDE, SIDE), 0.5, np.float32)))[0] > 0.9


def pattern(centre: tuple[float, float] = (0.5, 0.5), stop: bool = False) -> np.ndarray:
    """Spots about a bright centre, most of the field dark."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    y, x = y - centre[0] * SIDE, x - centre[1] * SIDE
    radius = np.hypot(y, x)
    falling = 1 / (1 + (radius / 25) ** 2)
    spots = (np.cos(x / 5) * np.cos(y / 5)) ** 8 * np.exp(-radius / 80)
    found = 0.6 * falling + 0.6 * spots
    if stop:
        found = np.where((np.abs(y) < 8) & (x > -8) | (radius < 14), 0, found)
    return with_noise(np.clip(found, 0, 1), 400)


@pytest.mark.parametrize(
    "grey",
    [
        pytest.param(pattern(), id="spots"),
        pytest.param(pattern((0.42, 0.55)), id="off the middle"),
        pytest.param(pattern(stop=True), id="with beam stop"),
        pytest.param(np.sqrt(pattern()), id="displayed by its square root"),
    ],
)
def test_a_diffraction_pattern_falls_off_from_its_centre(grey: np.ndarray) -> None:
    assert radial_falling(grey, skewness_of(grey)) > 0.6


@pytest.mark.parametrize(
    "grey",
    [
        pytest.param(with_noise(discs()), id="dark particles"),
        pytest.param(with_noise(1 - discs(6)), id="bright particles"),
        pytest.param(
            with_noise(0.9 * np.outer(np.sqrt(np.hanning(SIDE)), np.sqrt(np.hanning(SIDE)))), id="uneven beam"
        ),
        pytest.param(pattern((0.1, 0.9)), id="centre in a corner"),
    ],
)
def test_a_micrograph_does_not(grey: np.ndarray) -> None:
    assert radial_falling(grey, skewness_of(grey)) < 0.4


def skewness_of(grey: np.ndarray) -> float:
    return float(((grey - grey.mean()) ** 3).mean() / grey.std() ** 3)


@pytest.mark.parametrize("side", [512, 700], ids=lambda side: f"{side} px")
def test_only_a_fourier_transform_is_symmetric_to_the_last_pixel(side: int) -> None:
    picture = blurred_by(rng().random((side, side)).astype(np.float32), 1) + discs(side=side)
    modulus = np.log(np.abs(np.fft.fftshift(np.fft.fft2(picture - picture.mean()))))
    found = look_at(cut_tiles(modulus, None, Preprocessing()), (-1, 1))
    assert found.diffraction > 0.5
    assert speckle_symmetry(with_noise(discs())) < 0.1


def test_a_lattice_has_many_centres_of_symmetry_and_is_no_fourier_transform() -> None:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    lattice = 0.5 + 0.2 * np.cos((x - SIDE / 2) / 3) + 0.2 * np.cos((y - SIDE / 2) / 3)
    assert speckle_symmetry(with_noise(lattice)) < 0.1


@pytest.mark.parametrize(
    ("grey", "polarity"),
    [
        pytest.param(with_noise(discs()), "dark on bright", id="bright field"),
        pytest.param(with_noise(1 - discs()), "bright on dark", id="dark field"),
        pytest.param(with_noise(np.full((SIDE, SIDE), 0.5)), None, id="neither"),
    ],
)
def test_the_rarer_grey_stands_on_the_other(grey: np.ndarray, polarity: str | None) -> None:
    assert polarity_of(Look(1, 1, 0, 0.1, skewness_of(grey))) == polarity


@pytest.mark.parametrize("shape", [(512, 512), (300, 900), (1200, 257)], ids=str)
def test_every_figure_is_finite_at_any_proportions(shape: tuple[int, int]) -> None:
    pixels = rng().poisson(50, shape).astype(np.uint16)
    for picture in (pixels, np.zeros(shape, np.uint16)):
        found = look_at(cut_tiles(picture, None, Preprocessing()), (-1, 1))
        assert all(math.isfinite(value) for value in astuple(found))
        assert 0 <= found.diffraction <= 1 <= found.streaks


def test_the_value_range_and_views_change_nothing() -> None:
    pixels = (1000 * with_noise(discs())).astype(np.uint16)
    plain = look_at(cut_tiles(pixels, None, Preprocessing(value_range=(0.0, 1.0))), (0, 1))
    other = Preprocessing(value_range=(-1.0, 1.0), views=("identity", "flip_x"))
    assert astuple(look_at(cut_tiles(pixels, None, other), (-1, 1))) == pytest.approx(
        astuple(plain), rel=1e-3
    )


def test_of_several_boxes_the_median_counts_and_small_inputs_are_not_measured() -> None:
    pixels = (1000 * with_noise(discs())).astype(np.uint16)
    quadrants = Preprocessing(tiles=TilePlan(divisions=2), input_px=224)
    found = look_at(cut_tiles(pixels, None, quadrants), (-1, 1))
    assert found.streaks < GOOD_STREAKS
    assert look_at(cut_tiles(pixels, None, Preprocessing(input_px=48)), (-1, 1)) is None
