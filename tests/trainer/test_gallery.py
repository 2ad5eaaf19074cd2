"""The pictures of a report: which are chosen, and that they are small, whole and self-contained."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from answered import EIGHT, THREE, answered, drawn_scored, reopened, scored
from bundles import tiny_bundle
from PIL import Image

from edge_agent.model_bundle import open_bundle
from edge_agent.preprocessing import Preprocessing
from trainer.scoring.evaluation import crop_sources, sources_of
from trainer.showing.gallery import MOST_MISTAKES, RIGHT_A_CLASS, WRONG_A_CLASS, choose, draw_pictures

if TYPE_CHECKING:
    from pathlib import Path


def opened(uri: str) -> Image.Image:
    """The picture in a data URI."""
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_mistakes_are_the_surest_wrong_answers() -> None:
    entries = drawn_scored(200)
    seen = choose(entries, THREE, 0)
    wrong = [entry.probability for entry in entries if not entry.right]
    assert len(wrong) > MOST_MISTAKES
    assert [entries[at].probability for at in seen.mistakes] == sorted(wrong, reverse=True)[:MOST_MISTAKES]


def test_galleries_hold_their_class_and_not_too_many() -> None:
    entries = drawn_scored(200)
    seen = choose(entries, THREE, 0)
    for label in THREE:
        assert len(seen.right[label]) == RIGHT_A_CLASS
        assert len(seen.wrong[label]) <= WRONG_A_CLASS
        assert all(entries[at].right and entries[at].label == label for at in seen.right[label])
        assert all(not entries[at].right and entries[at].label == label for at in seen.wrong[label])
    assert seen.all == tuple(sorted(set(seen.all)))
    assert set(seen.mistakes) <= set(seen.all)


def test_many_classes_share_the_room() -> None:
    labels = tuple(f"class {at}" for at in range(60))
    seen = choose(drawn_scored(2000, labels), labels, 0)
    assert len(seen.all) <= 160 + MOST_MISTAKES


def test_right_answers_are_drawn_by_the_seed() -> None:
    entries = scored(["rod"] * 50, ["rod"] * 50)
    assert choose(entries, THREE, 1) == choose(entries, THREE, 1)
    assert choose(entries, THREE, 1) != choose(entries, THREE, 2)


def test_no_mistake_and_no_micrograph_of_a_class() -> None:
    seen = choose(scored(["rod"], ["rod"]), (*EIGHT, "rod"), 0)
    assert (seen.mistakes, seen.all) == ((), (0,))
    assert seen.right["x"] == seen.wrong["x"] == ()


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_picture_shows_micrograph_and_evidence(tmp_path: Path, calibrated: bool) -> None:
    made = answered(tmp_path, count=3, calibrated=calibrated)
    (made.data.raw / made.data.crops[2].source).unlink()
    steps: list[tuple[str, int, int]] = []
    drawn = draw_pictures(
        reopened(made),
        made.data,
        sources_of(made.data.test),
        {0, 1, 2},
        large={1},
        progress=lambda *step: steps.append(step),
    )
    small, large = opened(drawn[1].small), opened(drawn[1].large)
    assert max(large.size) > max(small.size) > max(opened(drawn[1].plain).size)
    assert drawn[0].large == ""
    assert (drawn[0].scale != "") is calibrated
    assert (drawn[2].small, "No such file" in drawn[2].absence) == ("", True)
    assert steps[-1] == ("pictures", 3, 3)
    assert len(drawn[1].small) < 60_000


def test_a_network_without_a_map_is_shown_without_one(tmp_path: Path) -> None:
    made = answered(tmp_path, count=1, calibrated=False)
    mapless = tiny_bundle(
        tmp_path / "mapless-1", labels=THREE, preprocessing=Preprocessing(input_px=48), form="no map"
    )
    shown = draw_pictures(open_bundle(mapless), made.data, sources_of(made.data.test), {0})[0]
    both = np.asarray(opened(shown.small)).astype(int)
    assert np.ptp(both, axis=2).max() < 12
    half = (both.shape[1] - 4) // 2
    assert np.abs(both[:, :half] - both[:, -half:]).mean() < 3


def test_a_crop_is_framed(tmp_path: Path) -> None:
    made = answered(tmp_path, count=1, divisions=2, by="every-third", calibrated=False)
    sources = crop_sources(made.data.test)
    whole = opened(draw_pictures(reopened(made), made.data, sources_of(made.data.test), {0})[0].small)
    crop = opened(draw_pictures(reopened(made), made.data, sources, {0})[0].small)
    column = crop.width // 8
    assert crop.size == whole.size
    assert max(crop.getpixel((column, y))[1] for y in range(crop.height // 2 - 3, crop.height // 2 + 4)) > 225
