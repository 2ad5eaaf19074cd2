"""Intermediate features: computed once, kept in one file, completed after an interruption, never mixed up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from toys import LABELS, RECIPE, prepared

from trainer.fitting.features import shown, view_features, whole_features
from trainer.fitting.run_folder import Recipe, RunError
from trainer.fitting.training import new_network
from trainer.preparing.crops import load_pixels
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.fitting.network import Network
    from trainer.preparing.crops import DataSet


@pytest.fixture(scope="module")
def many(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """All 32 crops in the training part: more than one note of progress."""
    return prepared(raw, tmp_path_factory.mktemp("many"), split=SplitRule(test=0, validation=0))


class Stopped(Exception):
    """Stands for a kill: nothing of ours catches it."""


def counted(network: Network) -> tuple[Network, list[int]]:
    """The network, and how many windows its frozen part was asked about after the first (shape) question."""
    asked: list[int] = []

    def trunk(inputs: Any, training: bool) -> Any:
        asked.append(int(inputs.shape[0]))
        return network.trunk(inputs, training=training)

    return replace(network, trunk=trunk), asked


def stop_after(count: int) -> Any:
    def progress(what: str, done: int, total: int) -> None:
        if done == count:
            raise Stopped

    return progress


def test_every_view_of_every_crop_has_its_features(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    views = view_features(dataset, RECIPE, network, tmp_path / "store", 0, lambda *step: seen.append(step))
    count = len(dataset.train)
    assert (views.shape, views.dtype) == ((count, 2, 12, 12, 12), np.float16)
    assert seen == [("augmented views", done, count) for done in range(1, count + 1)]
    assert np.isfinite(views).all()
    assert not np.array_equal(views[:, 0], views[:, 1])
    with pytest.raises(ValueError, match="read-only"):
        views[0] = 0


def test_a_crop_has_the_same_views_wherever_it_stands(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    turned = replace(dataset, crops=dataset.crops[::-1])
    views = view_features(dataset, RECIPE, network, tmp_path / "a", 0)
    backwards = view_features(turned, RECIPE, network, tmp_path / "b", 0)
    np.testing.assert_array_equal(views, backwards[::-1])


@pytest.mark.parametrize(
    "stop", [pytest.param(7, id="before the first note"), pytest.param(27, id="between two")]
)
def test_an_interrupted_file_is_completed_to_the_same_bytes(
    network: Network, many: DataSet, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Stopped):
        view_features(many, RECIPE, network, tmp_path / "stopped", 0, stop_after(stop))
    seen: list[int] = []
    views = view_features(
        many, RECIPE, network, tmp_path / "stopped", 0, lambda _, done, __: seen.append(done)
    )
    assert seen == list(range(stop // 20 * 20 + 1, 33))
    whole = view_features(many, RECIPE, network, tmp_path / "whole", 0)
    np.testing.assert_array_equal(views, whole)
    for name in ("views.npy", "views.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_file_is_not_computed_again(network: Network, dataset: DataSet, tmp_path: Path) -> None:
    first = view_features(dataset, RECIPE, network, tmp_path, 0)
    counting, asked = counted(network)
    again = view_features(dataset, RECIPE, counting, tmp_path, 0)
    assert asked == [1], "only the question for the shape"
    np.testing.assert_array_equal(first, again)


def test_many_views_are_computed_a_few_at_a_time(network: Network, dataset: DataSet, tmp_path: Path) -> None:
    few = replace(dataset, crops=dataset.train[:1])
    views = view_features(few, RECIPE.model_copy(update={"views": 20}), network, tmp_path, 0)
    two = view_features(few, RECIPE.model_copy(update={"views": 17}), network, tmp_path, 0)
    assert views.shape[:2] == (1, 20)
    np.testing.assert_allclose(views[:, :17], two, atol=2e-3)


def changed(recipe: Recipe, **values: object) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **values})


@pytest.mark.parametrize(
    ("seed", "recipe"),
    [
        pytest.param(1, RECIPE, id="seed"),
        pytest.param(0, changed(RECIPE, views=3), id="views"),
        pytest.param(0, changed(RECIPE, augmentation={"window_px": 40}), id="augmentation"),
        pytest.param(0, changed(RECIPE, weights="imagenet"), id="weights"),
    ],
)
def test_another_question_is_computed_anew(
    network: Network, dataset: DataSet, tmp_path: Path, seed: int, recipe: Recipe
) -> None:
    view_features(dataset, RECIPE, network, tmp_path, 0)
    steps: list[int] = []
    view_features(dataset, recipe, network, tmp_path, seed, lambda _, done, __: steps.append(done))
    assert len(steps) == len(dataset.train)


def test_settings_that_do_not_touch_the_features_share_them(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    view_features(dataset, RECIPE, network, tmp_path, 0)
    counting, asked = counted(network)
    other = changed(RECIPE, epochs=9, learning_rate=1e-5, batch=2, dropout=0.5)
    view_features(dataset, other, counting, tmp_path, 0)
    assert asked == [1]


def test_a_weights_file_with_new_content_is_another_question(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    file = tmp_path / "lab.weights.h5"
    recipe = changed(RECIPE, weights=str(file))
    notes = []
    for content in (b"first", b"second"):
        file.write_bytes(content)
        view_features(dataset, recipe, network, tmp_path / "store", 0)
        notes.append((tmp_path / "store" / "views.json").read_text())
    assert notes[0] != notes[1]


def test_an_old_note_never_vouches_for_new_features(network: Network, many: DataSet, tmp_path: Path) -> None:
    """Seed 0 finished, seed 1 killed at once, seed 0 asked again: nothing of seed 1 may come back."""
    first = view_features(many, RECIPE, network, tmp_path, 0).copy()
    with pytest.raises(Stopped):
        view_features(many, RECIPE, network, tmp_path, 1, stop_after(7))
    np.testing.assert_array_equal(view_features(many, RECIPE, network, tmp_path, 0), first)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("views.json", b"", id="empty note"),
        pytest.param("views.json", b'{"key": 1}', id="note without a number"),
        pytest.param("views.json", b"[]", id="note of another kind"),
        pytest.param("views.npy", b"\x93NUMPY", id="cut in the header"),
        pytest.param("views.npy", b"something else", id="no array"),
        pytest.param("views.npy", None, id="gone"),
    ],
)
def test_damaged_files_are_made_again(
    network: Network, dataset: DataSet, tmp_path: Path, name: str, content: bytes | None
) -> None:
    expected = view_features(dataset, RECIPE, network, tmp_path, 0).copy()
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(view_features(dataset, RECIPE, network, tmp_path, 0), expected)


def test_a_file_shorter_than_its_note_says_is_made_again(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    expected = view_features(dataset, RECIPE, network, tmp_path, 0).copy()
    with (tmp_path / "views.npy").open("r+b") as handle:
        handle.truncate(5000)
    np.testing.assert_array_equal(view_features(dataset, RECIPE, network, tmp_path, 0), expected)


def test_a_note_is_only_written_for_what_is_on_the_disk(
    network: Network, many: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        view_features(many, RECIPE, network, tmp_path, 0, stop_after(25))
    done = json.loads((tmp_path / "views.json").read_text())["done"]
    assert done == 20
    assert (tmp_path / "views.npy").stat().st_size > done * 2 * 12 * 12 * 12 * 2


def test_features_beyond_half_precision_are_refused(
    dataset: DataSet, toy_backbone: None, tmp_path: Path
) -> None:
    network = new_network(LABELS, RECIPE, seed=0)
    lower = network.trunk.get_layer("lower")
    lower.set_weights([lower.get_weights()[0] * 1e6, lower.get_weights()[1]])
    for compute in (
        lambda: view_features(dataset, RECIPE, network, tmp_path, 0),
        lambda: whole_features(dataset, dataset.validation, network, tmp_path),
    ):
        with pytest.raises(
            RunError, match=r"toy: its intermediate features reach .*e\+0\d, more than the half"
        ):
            compute()


def test_whole_crops_are_what_the_frozen_part_makes_of_them(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    features = whole_features(dataset, dataset.validation, network, tmp_path)
    assert len(features) == len(dataset.validation)
    assert len({one.shape for one in features}) == 2, "upright and lying pictures"
    for crop, one in zip(dataset.validation, features, strict=True):
        inputs = shown(dataset, crop)[None, :, :, None] * 2 - 1
        expected = np.asarray(network.trunk(inputs, training=False))[0]
        np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-3)
    assert whole_features(dataset, (), network, tmp_path) == ()


def test_whole_crops_can_be_computed_again_while_older_ones_are_in_use(
    network: Network, dataset: DataSet, tmp_path: Path
) -> None:
    first = whole_features(dataset, dataset.validation, network, tmp_path)
    values = [one.copy() for one in first]
    whole_features(dataset, dataset.validation[::-1], network, tmp_path)
    for one, value in zip(first, values, strict=True):
        np.testing.assert_array_equal(one, value)


def test_a_crop_is_shown_at_the_size_at_which_the_agent_shows_it(raw: Path, tmp_path: Path) -> None:
    small = prepared(raw, tmp_path / "small", input_px=64)
    large = prepared(raw, tmp_path / "large", input_px=160)
    crop = small.train[0]
    pixels = load_pixels(small, crop)
    np.testing.assert_array_equal(shown(small, crop), pixels.astype(np.float32) / np.float32(255))
    enlarged = shown(large, next(other for other in large.crops if other.source == crop.source))
    assert enlarged.shape[0] * enlarged.shape[1] == pytest.approx(160**2, rel=0.02)
    assert enlarged.shape[1] / enlarged.shape[0] == pytest.approx(pixels.shape[1] / pixels.shape[0], rel=0.03)
    assert 0 <= enlarged.min() < enlarged.max() <= 1
