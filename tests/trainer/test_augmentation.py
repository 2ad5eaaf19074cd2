"""Augmented windows: where each pixel comes from, what tone it has, and that a seed says it all."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from trainer.fitting.augmentation import Augmentation, Augmenter

STILL = {
    "rotation_degrees": 0.0,
    "flips": False,
    "zoom": (1.0, 1.0),
    "shift": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "noise": 0.0,
    "polarity": 0.0,
}
"""Nothing is changed."""


def rule(window_px: int = 32, **changes: object) -> Augmentation:
    return Augmentation.model_validate({**STILL, "window_px": window_px, **changes})


def noise_picture(shape: tuple[int, int] = (64, 96), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def ramp(shape: tuple[int, int]) -> np.ndarray:
    """A plane: linear interpolation gives exactly what is there, so a value tells the place."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((x + 1000 * y) / 100_000).astype(np.float32)


def place(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the ramp that a value comes from, where columns are whole (else: in thousandths)."""
    scaled = value.astype(np.float64) * 100_000
    return np.floor(scaled / 1000 + 1e-3), scaled % 1000


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        pytest.param((64, 96), 32, id="even"),
        pytest.param((33, 65), 33, id="odd"),
        pytest.param((32, 32), 32, id="all of it"),
        pytest.param((98, 64), 64, id="its whole width"),
    ],
)
def test_with_everything_off_the_window_is_the_centre_of_the_picture(
    shape: tuple[int, int], window: int
) -> None:
    picture = noise_picture(shape)
    top, left = (shape[0] - window) // 2, (shape[1] - window) // 2
    cut = Augmenter(rule(window), seed=1).window(picture)
    np.testing.assert_array_equal(cut, picture[top : top + window, left : left + window])
    assert cut.dtype == np.float32


def test_a_window_larger_than_the_picture_is_filled_by_reflection() -> None:
    picture = noise_picture((20, 26))
    seen = Augmenter(rule(40), seed=0).window(picture)
    np.testing.assert_array_equal(seen, np.pad(picture, ((10, 10), (7, 7)), mode="symmetric"))


def test_a_seed_says_it_all() -> None:
    picture = noise_picture()
    drawn = [
        [Augmenter(Augmentation(window_px=32), seed).window(picture) for _ in range(2)] for seed in (5, 5, 6)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])


def test_two_views_of_one_augmenter_differ() -> None:
    augmenter = Augmenter(Augmentation(window_px=32), seed=5)
    assert not np.allclose(augmenter.window(noise_picture()), augmenter.window(noise_picture()))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"noise": 0.5, "brightness": 0.5, "contrast": 0.9, "gamma": 1.0}, id="strong tones"),
        pytest.param({"zoom": (0.1, 10.0)}, id="strong zoom"),
        pytest.param({"polarity": 1.0}, id="inverted"),
    ],
)
def test_grey_values_stay_between_0_and_1(changes: dict[str, object]) -> None:
    augmenter = Augmenter(Augmentation.model_validate({"window_px": 32, **changes}), seed=0)
    for picture in (noise_picture(), np.zeros((40, 50), np.float32), np.ones((50, 40), np.float32)):
        for _ in range(5):
            window = augmenter.window(picture)
            assert window.shape == (32, 32)
            assert np.isfinite(window).all()
            assert 0 <= window.min() <= window.max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_a_marked_pixel_lands_where_rotation_zoom_mirror_and_shift_take_it(seed: int) -> None:
    given = rule(48, rotation_degrees=180.0, flips=True, zoom=(1.3, 1.6), shift=1.0)
    matrix = Augmenter(given, seed)._affine(120, 100)  # the same first draws as in window()
    to_picture = np.array([[matrix[0], matrix[1]], [matrix[3], matrix[4]]])
    offset = matrix[[2, 5]]
    wanted = np.array([30.0, 17.0])  # column, row in the window
    mark = np.rint(to_picture @ wanted + offset).astype(int)
    expected = np.linalg.solve(to_picture, mark - offset)
    picture = np.zeros((120, 100), np.float32)
    picture[mark[1], mark[0]] = 1
    window = Augmenter(given, seed).window(picture)
    row, column = np.unravel_index(int(window.argmax()), window.shape)
    assert window.max() > 0.1
    assert abs(column - expected[0]) <= 1
    assert abs(row - expected[1]) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_the_map_turns_enlarges_and_mirrors_without_shear(seed: int) -> None:
    given = rule(32, rotation_degrees=180.0, flips=True, zoom=(0.5, 2.0))
    matrix = Augmenter(given, seed)._affine(64, 96)
    linear = np.array([[matrix[0], matrix[1]], [matrix[3], matrix[4]]], dtype=np.float64)
    scale = abs(np.linalg.det(linear)) ** 0.5
    np.testing.assert_allclose(linear @ linear.T, np.eye(2) * scale**2, atol=1e-5)
    assert 0.5 <= scale <= 2.0
    np.testing.assert_allclose(linear @ [15.5, 15.5] + matrix[[2, 5]], [47.5, 31.5], atol=1e-4)


def test_half_of_the_windows_are_mirrored() -> None:
    mirrored = [np.linalg.det(_linear(Augmenter(rule(flips=True), seed))) < 0 for seed in range(200)]
    assert 70 < sum(mirrored) < 130
    assert not any(np.linalg.det(_linear(Augmenter(rule(), seed))) < 0 for seed in range(50))


def _linear(augmenter: Augmenter) -> np.ndarray:
    matrix = augmenter._affine(64, 96)
    return np.array([[matrix[0], matrix[1]], [matrix[3], matrix[4]]])


def test_zoom_2_shows_half_as_much_of_the_field() -> None:
    picture = ramp((64, 96))
    window = Augmenter(rule(32, zoom=(2.0, 2.0)), seed=0).window(picture)
    rows, _ = place(window[:, 16])
    assert (rows.min(), rows.max()) == (23, 39)


def test_the_window_moves_within_the_picture_and_not_beyond() -> None:
    picture = ramp((40, 70))
    firsts = []
    for seed in range(40):
        window = Augmenter(rule(32, shift=1.0), seed).window(picture)
        differences = np.diff(window.astype(np.float64), axis=0) * 100
        assert abs(differences - 1).max() < 0.02, "reflected rows: the window left the picture"
        firsts.append(window[0, 0])
    assert max(firsts) - min(firsts) > 0.06  # of the 8 rows to move in


def test_polarity_1_inverts_and_nothing_else() -> None:
    picture = noise_picture()
    plain = Augmenter(rule(), seed=0).window(picture)
    np.testing.assert_array_equal(Augmenter(rule(polarity=1.0), seed=0).window(picture), 1 - plain)


def test_polarity_is_drawn_with_its_probability() -> None:
    dark = np.full((32, 32), 0.1, np.float32)
    inverted = [Augmenter(rule(polarity=0.3), seed).window(dark).mean() > 0.5 for seed in range(200)]
    assert 35 < sum(inverted) < 85


def test_contrast_turns_about_the_mean_and_brightness_moves_it() -> None:
    picture = 0.4 + 0.2 * noise_picture()
    plain = Augmenter(rule(), seed=0).window(picture)
    steep = Augmenter(rule(contrast=0.5), seed=0).window(picture)
    lit = Augmenter(rule(brightness=0.2), seed=0).window(picture)
    assert steep.mean() == pytest.approx(plain.mean(), abs=1e-6)
    assert steep.std() != pytest.approx(plain.std(), rel=0.01)
    assert lit.mean() != pytest.approx(plain.mean(), abs=0.01)
    assert lit.std() == pytest.approx(plain.std(), rel=1e-4)


def test_noise_is_at_most_as_strong_as_asked() -> None:
    flat = np.full((64, 64), 0.5, np.float32)
    deviations = [Augmenter(rule(64, noise=0.1), seed).window(flat).std() for seed in range(30)]
    assert 0.05 < max(deviations) < 0.11
    assert min(deviations) < 0.03


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        pytest.param("zoom", (1.2, 0.8), "zoom is a range", id="zoom upside down"),
        pytest.param("zoom", (0.0, 1.0), "zoom is a range", id="zoom of nothing"),
        pytest.param("window_px", 16, "greater than or equal to 32", id="window too small"),
        pytest.param("polarity", 1.5, "less than or equal to 1", id="polarity above 1"),
        pytest.param("rotate", 10, "Extra inputs are not permitted", id="unknown name"),
    ],
)
def test_senseless_settings_are_refused(field: str, value: object, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Augmentation.model_validate({field: value})


def test_strength_1_is_the_rule_itself_and_0_only_turns_mirrors_and_moves() -> None:
    given = Augmentation(window_px=64, zoom=(0.7, 1.25), shift=0.5)
    assert given.scaled(1) == given
    assert given.scaled(0) == rule(64, rotation_degrees=180.0, flips=True, shift=0.5)


def test_strength_grows_up_to_what_the_fields_allow() -> None:
    half, most = Augmentation().scaled(0.5), Augmentation(zoom=(0.2, 8.0), noise=0.4).scaled(4)
    assert (half.noise, half.contrast, half.polarity) == (0.03, 0.15, 0.25)
    assert half.zoom == pytest.approx((0.7**0.5, 1.25**0.5))
    assert (most.zoom, most.noise, most.polarity) == ((0.1, 10.0), 0.5, 1.0)
    with pytest.raises(ValueError, match="strength of augmentation lies between 0 and 4, not 5"):
        Augmentation().scaled(5)
