"""What the answer loses when a place is hidden: where, by how much, and for networks that give no map."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from bundles import LABELS, tiny_bundle
from onnx import numpy_helper

from edge_agent.classifier import Classifier
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import Bundle, open_bundle
from edge_agent.preprocessing import TilePlan, cut_tiles
from trainer.scoring import occlusion
from trainer.scoring.occlusion import grid_of, occlude, occlude_every_class, occlude_tiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bundles import Form


def micrograph(folder: Path, pixels: np.ndarray) -> Micrograph:
    source = SourceFile(folder / "a.dm3", FileStamp(1, 2, 3, 4), "ab" * 32, "1-2-3")
    nothing = Instrument(None, None, None, None, None, None)
    return Micrograph(source, pixels, None, 0, None, ("image",), None, None, nothing)


def spotted(shape: tuple[int, int], spot: tuple[slice, slice]) -> np.ndarray:
    """A dark noisy field with one bright spot."""
    pixels = np.random.default_rng(0).normal(40, 2, shape)
    pixels[spot] += 160
    return pixels.astype(np.float32)


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Form], Bundle]:
    """A network that answers `rod` for as much as is bright, and nothing else."""

    def made(form: Form) -> Bundle:
        bundle = open_bundle(tiny_bundle(tmp_path_factory.mktemp("seeing") / "tiny-1", form=form))
        model = onnx.load_from_string(bundle.model_bytes)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("kernel"):
                kernel = np.zeros((8, 1, 8, 8), np.float32)
                kernel[0] = 1 / 64
                tensor.CopyFrom(numpy_helper.from_array(kernel, tensor.name))
            elif tensor.name.endswith("cam_weights"):
                weights = np.zeros((3, 8, 1, 1), np.float32)
                weights[1, 0] = 200
                tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        return replace(bundle, model_bytes=model.SerializeToString())

    return made


PLACES: dict[str, tuple[tuple[int, int], tuple[slice, slice]]] = {
    "upper left": ((200, 200), np.s_[20:50, 20:50]),
    "lower right": ((200, 200), np.s_[140:175, 150:185]),
    "wide field": ((100, 300), np.s_[30:60, 220:250]),
    "high field": ((300, 100), np.s_[220:250, 20:50]),
}


@pytest.mark.parametrize(("shape", "spot"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("form", ["no map", "no map, one size"])
def test_the_loss_is_where_the_evidence_lies(
    seeing: Callable[[Form], Bundle],
    form: Form,
    shape: tuple[int, int],
    spot: tuple[slice, slice],
    tmp_path: Path,
) -> None:
    classifier = Classifier(seeing(form), without_map=True)

    seen = occlude(classifier, micrograph(tmp_path, spotted(shape, spot)), cells=10)

    assert (seen.label, seen.cam.label, seen.cam.method) == ("rod", "rod", "occlusion")
    assert seen.cam.box_px == (0, 0, shape[1], shape[0])
    values, cell = seen.cam.values, np.array(shape) / seen.cam.values.shape
    middle = np.array([(part.start + part.stop) / 2 for part in spot])
    assert values.max() > 0.1
    weights = np.maximum(values, 0) ** 2
    places = (np.indices(values.shape) + 0.5) * cell[:, None, None]
    centre = (places * weights).sum(axis=(1, 2)) / weights.sum()
    assert np.all(np.abs(centre - middle) <= cell)
    # A patch that does not touch the spot changes nothing to speak of.
    away = np.abs((places - middle[:, None, None]) / cell[:, None, None]).max(axis=0)
    assert np.abs(values[away > 4]).max() < 0.2 * values.max()


def test_a_saturated_answer_has_a_map_all_the_same(seeing: Callable[[Form], Bundle], tmp_path: Path) -> None:
    bundle = seeing("no map")
    model = onnx.load_from_string(bundle.model_bytes)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("temperature"):
            tensor.CopyFrom(numpy_helper.from_array(np.float32(0.5), tensor.name))
    classifier = Classifier(replace(bundle, model_bytes=model.SerializeToString()), without_map=True)
    pixels = spotted((200, 200), np.s_[60:140, 60:140])

    seen = occlude(classifier, micrograph(tmp_path, pixels), cells=5)

    assert seen.probability == 1
    assert seen.cam.values[2, 2] > 5
    assert np.isfinite(seen.cam.values).all()


def test_maps_of_every_class_come_of_the_same_passes(
    seeing: Callable[[Form], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, passes = Classifier(seeing("no map"), without_map=True), []
    run = classifier.run
    monkeypatch.setattr(
        classifier, "run", lambda inputs, *more: (passes.append(len(inputs)), run(inputs, *more))[1]
    )
    field = micrograph(tmp_path, spotted((200, 200), np.s_[20:50, 20:50]))

    every = occlude_every_class(classifier, field, cells=4)

    assert [one.cam.label for one in every] == list(LABELS)
    assert sum(passes) == 1 + 1 + 16  # the answer, the logits to compare with, the places
    rod = every[1].cam.values
    for one in every:
        assert np.array_equal(
            occlude(classifier, field, map_of=one.cam.label, cells=4).cam.values, one.cam.values
        )
    # What speaks for rods speaks against the others.
    assert every[0].cam.values[0, 0] < 0 < rod[0, 0]


def test_a_graph_of_one_input_gives_the_same_map(seeing: Callable[[Form], Bundle], tmp_path: Path) -> None:
    field = micrograph(tmp_path, spotted((200, 200), np.s_[20:50, 20:50]))

    one, free = (
        occlude(Classifier(seeing(form), without_map=True), field, cells=5)
        for form in ("no map, one size", "no map")
    )

    np.testing.assert_allclose(one.cam.values, free.cam.values, atol=1e-4)


def test_graphs_with_a_map_have_occlusion_maps_too(seeing: Callable[[Form], Bundle], tmp_path: Path) -> None:
    field = micrograph(tmp_path, spotted((200, 200), np.s_[20:50, 20:50]))
    bundle = seeing("winner")

    spared, computed = (
        occlude(Classifier(bundle, without_map=spare), field, cells=4) for spare in (True, False)
    )

    np.testing.assert_allclose(spared.cam.values, computed.cam.values, atol=1e-4)
    assert spared.cam.method == computed.cam.method == "occlusion"


def test_quadrants_and_views_are_joined_as_the_agent_joins_maps(
    seeing: Callable[[Form], Bundle], tmp_path: Path
) -> None:
    bundle = seeing("no map")
    rule = bundle.manifest.preprocessing.model_copy(
        update={"tiles": TilePlan(divisions=2), "views": ("identity", "flip_x")}
    )
    manifest = bundle.manifest.model_copy(update={"preprocessing": rule})
    classifier = Classifier(replace(bundle, manifest=manifest), without_map=True)
    pixels = spotted((200, 200), np.s_[120:150, 20:50])
    calls: list[tuple[str, int, int]] = []

    seen = occlude(
        classifier, micrograph(tmp_path, pixels), cells=5, progress=lambda *call: calls.append(call)
    )

    assert seen.cam.values.shape == (10, 10)
    assert np.unravel_index(seen.cam.values.argmax(), (10, 10)) in {(6, 1), (6, 2), (7, 1), (7, 2)}
    assert calls[0] == ("hidden", 0, 8 * 25)
    assert calls[-1] == ("hidden", 8 * 25, 8 * 25)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    tiles = cut_tiles(pixels, None, rule)
    assert occlude_tiles(classifier, tiles, (200, 200), cells=5)[1].cam.values.shape == (10, 10)


@pytest.mark.parametrize(
    ("size", "cells", "grid"),
    [((448, 448), 14, (14, 14)), ((224, 896), 14, (7, 28)), ((10, 1000), 5, (1, 50)), ((64, 64), 1, (1, 1))],
    ids=["square", "oblong", "a strip", "one place"],
)
def test_places_are_as_far_apart_down_as_across(
    size: tuple[int, int], cells: int, grid: tuple[int, int]
) -> None:
    assert grid_of(size, cells) == grid


def test_what_was_hidden_is_stated(seeing: Callable[[Form], Bundle], tmp_path: Path) -> None:
    classifier = Classifier(seeing("no map"), without_map=True)
    field = micrograph(tmp_path, spotted((100, 100), np.s_[20:50, 20:50]))

    settings = occlude(classifier, field, cells=4).cam.settings

    assert settings == (
        "patches 32 px wide, 16 px apart, blurred away in a network input with the area of 64 x 64 px"
    )


def test_a_patch_hides_its_middle_and_leaves_the_rest() -> None:
    picture = np.random.default_rng(0).normal(0, 1, (60, 90)).astype(np.float32)

    hidden = list(occlusion._hidden(picture, (6, 9)))

    assert len(hidden) == 54
    changed = np.abs(hidden[3 * 9 + 4] - picture)
    reach = int(10 * occlusion.PATCH_CELLS / 2)
    assert not changed[: 35 - reach].any()
    assert not changed[:, 45 + reach :].any()
    inside = hidden[3 * 9 + 4][33:37, 43:47]
    assert inside.std() < 0.3 * picture.std()


def test_an_even_field_stays_as_it_is_wherever_it_is_hidden() -> None:
    """No patch draws an edge of its own."""
    for picture in occlusion._hidden(np.full((40, 50), 0.25, np.float32), (4, 5)):
        np.testing.assert_allclose(picture, 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "told"),
    [({"map_of": "cube"}, "knows no class 'cube'"), ({"cells": 0}, "0 places along a side were asked for")],
)
def test_what_cannot_be_had_is_said(
    seeing: Callable[[Form], Bundle], asked: dict[str, Any], told: str, tmp_path: Path
) -> None:
    classifier = Classifier(seeing("no map"), without_map=True)
    with pytest.raises(ValueError, match=told):
        occlude(classifier, micrograph(tmp_path, np.zeros((50, 50), np.float32)), **asked)
