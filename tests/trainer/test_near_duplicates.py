"""Which pictures show the same area: saved again, seen from beside, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainer.preparing.near_duplicates import Limits, find, lite0_features
from trainer.preparing.picture_hash import AS_IT_IS, like_pairs, turned

SIDE = 160


def scene(seed: int, side: int = 240) -> np.ndarray:
    """Forty dark discs of all sizes on an uneven ground, as grey values."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    grey = 170 + 30 * np.sin(x / 90 + seed) * np.cos(y / 70)
    for _ in range(40):
        row, column = random.uniform(0, side, 2)
        grey -= 70 * (np.hypot(y - row, x - column) < random.uniform(4, 16))
    return np.clip(grey + random.normal(0, 4, grey.shape), 0, 255)


def view(grey: np.ndarray, top: int = 40, left: int = 40, side: int = SIDE) -> np.ndarray:
    """A window as an 8-bit overview."""
    window = Image.fromarray(grey[top : top + side, left : left + side].astype(np.float32))
    return np.asarray(window.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.uint8)


def grey_rows(pictures) -> np.ndarray:
    """An embedding for tests: coarse grey values, sorted, so that turning changes nothing."""
    return np.stack([np.sort(picture[::20, ::20].astype(float), axis=None)[:60] for picture in pictures])


def never(pictures) -> np.ndarray:
    raise AssertionError(f"{len(pictures)} pictures were embedded though none lie on each other")


SCENE = scene(1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(view(SCENE), view(SCENE) // 2 + 60, "same", id="contrast"),
        pytest.param(view(SCENE), view(SCENE)[:, ::-1], "same", id="mirrored"),
        pytest.param(view(SCENE), np.rot90(view(SCENE)), "same", id="turned by 90 degrees"),
        pytest.param(view(SCENE), view(SCENE, 43, 42, 152), "same", id="cropped by 5 %"),
        pytest.param(view(SCENE, 43, 42, 152), view(SCENE), "same", id="the first is the crop"),
        pytest.param(view(SCENE), view(SCENE, 52, 48), "near", id="drift by 8 and 5 %"),
        pytest.param(view(SCENE), view(SCENE, 24, 40), "near", id="drift by 10 % along the rows"),
        pytest.param(view(SCENE), view(scene(2)), None, id="another area"),
        pytest.param(view(SCENE), view(SCENE, 0, 0, 120), None, id="the corner, enlarged"),
    ],
)
def test_likeness(first, second, expected):
    found = find([first, second], embed=grey_rows, limits=Limits(same_correlation=0.95))
    assert [likeness.kind for likeness in found] == ([expected] if expected else [])


def test_a_pair_is_told_by_its_places_with_its_figures():
    pictures = [view(scene(seed)) for seed in (5, 6, 7)] + [view(scene(6)) // 2]
    (likeness,) = find(pictures, embed=grey_rows)
    assert (likeness.first, likeness.second, likeness.kind) == (1, 3, "same")
    assert likeness.correlation == pytest.approx(1, abs=0.01)
    assert likeness.inside == 1
    assert 0.9 < likeness.cosine <= 1


def test_the_network_is_asked_only_about_pictures_that_lie_on_each_other():
    assert find([view(scene(seed)) for seed in range(12)], embed=never) == ()
    assert find([], embed=never) == ()
    assert find([view(SCENE)], embed=never) == ()


def test_the_embedding_has_a_say():
    pictures = [view(SCENE), view(SCENE, 52, 48)]
    assert find(pictures, embed=lambda asked: np.eye(len(asked))) == ()


def test_pictures_without_details_are_like_nothing():
    even = np.full((SIDE, SIDE), 90, np.uint8)
    assert find([even, even.copy()], embed=never) == ()


def test_proportions_may_differ():
    wide = np.asarray(Image.fromarray(view(SCENE)).resize((200, 128)))
    assert [likeness.kind for likeness in find([wide, wide // 2 + 9], embed=grey_rows)] == ["same"]
    assert find([wide, view(scene(3))], embed=never) == ()


def test_progress_counts_the_pictures():
    seen: list[tuple[str, int, int]] = []
    find([view(scene(seed)) for seed in range(3)], embed=never, progress=lambda *counts: seen.append(counts))
    assert seen == [("comparing pictures", 3, 3)]


def test_pairs_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr("trainer.preparing.picture_hash._PAIRS_AT_ONCE", 1)
    pictures = [view(scene(seed)) for seed in (1, 2, 3, 1)]
    pairs = [(first, second) for first, second, _ in like_pairs(pictures, 10)]
    assert pairs == [(0, 3)]


@pytest.mark.parametrize("at", range(8))
def test_the_turn_is_found(at):
    turn = (bool(at & 4), bool(at & 2), bool(at & 1))
    picture = view(SCENE)
    undone = next(
        back for back in [(bool(n & 4), bool(n & 2), bool(n & 1)) for n in range(8)]
        if np.array_equal(turned(turned(picture, turn), back), picture)
    )  # fmt: skip
    ((_, _, hypotheses),) = like_pairs([picture, turned(picture, turn)], 2)
    assert (undone, 1.0) in hypotheses
    assert (AS_IT_IS, 1.0) in hypotheses if turn == AS_IT_IS else True


def test_the_default_embedding_knows_a_picture_again(lite0, monkeypatch):
    monkeypatch.setattr("trainer.fitting.backbones.build_backbone", lambda name: lite0)
    picture = view(SCENE)
    features = lite0_features(
        [picture, np.clip(picture * 0.8 + 10, 0, 255).astype(np.uint8), view(scene(9))[::-1]]
    )
    assert features.shape == (3, 1280)
    cosine = features @ features.T / np.outer(*[np.linalg.norm(features, axis=1)] * 2)
    assert cosine[0, 1] > 0.9
    assert cosine[0, 1] > cosine[0, 2]
