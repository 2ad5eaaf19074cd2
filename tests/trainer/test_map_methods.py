"""Which maps can be had of a bundle, and when two of them are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from answered import answered, reopened

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.preprocessing import CamMap
from trainer.exporting import cam_graph
from trainer.scoring.evaluation import Source, answer, crop_sources, sources_of
from trainer.scoring.map_methods import (
    CENTRE,
    RANDOM,
    MapError,
    baseline_map,
    bundle_of,
    find_methods,
    graph_map,
    occlusion_map,
    same_maps,
    shown,
)

if TYPE_CHECKING:
    from pathlib import Path

    from answered import Answered

    from edge_agent.model_bundle import Bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Two micrographs; read only."""
    return answered(tmp_path_factory.mktemp("maps"), count=2)


def fake_by_method(bundle: Bundle, method: str) -> Bundle:
    """Grad-CAM there is, HiResCAM there is not."""
    if method == "hirescam":
        raise cam_graph.GraphError("the way back holds a Loop")
    cam = bundle.manifest.cam.model_copy(update={"method": method})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"cam": cam}))


@pytest.mark.parametrize(
    ("asked", "found", "absent"),
    [
        pytest.param((), ["cam", "gradcam"], ["hirescam"], id="all"),
        pytest.param(("gradcam",), ["gradcam"], [], id="one of them"),
        pytest.param(("hirescam", "cam"), ["cam"], ["hirescam"], id="one that there is not"),
        pytest.param(("occlusion",), [], [], id="none of the graph's"),
    ],
)
def test_the_graph_is_asked_for_what_is_wanted(
    made: Answered,
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str, ...],
    found: list[str],
    absent: list[str],
) -> None:
    monkeypatch.setattr(cam_graph, "by_method", fake_by_method)
    seen = find_methods(reopened(made), asked)
    assert list(seen.bundles) == found
    assert {name: one.manifest.cam.method for name, one in seen.bundles.items()} == {
        one: one for one in found
    }
    assert dict(seen.absent) == dict.fromkeys(absent, "the way back holds a Loop")


def test_the_bundles_own_method_comes_first_and_is_its_own_graph(
    made: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cam_graph, "by_method", fake_by_method)
    own = fake_by_method(reopened(made), "gradcam")
    assert list(find_methods(own).bundles) == ["gradcam", "cam"]
    assert bundle_of(own, "gradcam") is own


def test_a_method_that_nobody_knows_is_refused(made: Answered) -> None:
    with pytest.raises(
        MapError, match="no method is called guess; there are cam, gradcam, hirescam, occlusion"
    ):
        find_methods(reopened(made), ("cam", "guess"))


# --- maps -----------------------------------------------------------------------------------------


def test_a_map_is_that_of_the_answer_that_the_untouched_network_gave(made: Answered) -> None:
    classifier = Classifier(reopened(made))
    source = sources_of(made.data.crops)[0]
    micrograph = read_micrograph(made.data.raw / source.file)
    seen = shown(classifier, micrograph, source)
    whole = classifier.classify(micrograph)
    assert (seen.answer, seen.probability) == (whole.label, pytest.approx(whole.probability))
    assert np.array_equal(graph_map(classifier, seen).values, whole.cam.values)
    other = next(label for label in classifier.labels if label != seen.answer)
    assert graph_map(classifier, replace(seen, answer=other)).label == other
    hidden = occlusion_map(Classifier(reopened(made), without_map=True), seen)
    assert (hidden.label, hidden.method) == (seen.answer, "occlusion")


def test_a_crop_is_shown_alone(tmp_path: Path) -> None:
    torn = answered(tmp_path, count=1, divisions=2, by="every-third")
    classifier = Classifier(reopened(torn))
    source = crop_sources(torn.data.crops)[2]
    micrograph = read_micrograph(torn.data.raw / source.file)
    seen = shown(classifier, micrograph, source)
    assert [tile.box_px for tile in seen.tiles.tiles] == [source.box_px]
    assert graph_map(classifier, seen).box_px == source.box_px
    assert seen.probability == pytest.approx(answer(classifier, micrograph, source).probability, abs=1e-6)
    with pytest.raises(MapError, match=r"the bundle's tile plan has no box \(1, 1, 9, 9\)"):
        shown(classifier, micrograph, replace(source, box_px=(1, 1, 9, 9)))


def test_maps_that_know_nothing(made: Answered) -> None:
    classifier = Classifier(reopened(made))
    one, two = (
        shown(classifier, read_micrograph(made.data.raw / source.file), source)
        for source in sources_of(made.data.crops)
    )
    like = graph_map(classifier, one)
    middle = baseline_map(CENTRE, one, like, 0)
    rows, columns = like.values.shape
    assert middle.values.shape == like.values.shape
    assert middle.box_px == like.box_px
    assert middle.values.max() == middle.values[rows // 2, columns // 2]
    assert middle.values.min() == middle.values[0, 0]
    noise = baseline_map(RANDOM, one, like, 0).values
    assert np.array_equal(noise, baseline_map(RANDOM, one, like, 0).values)
    assert not np.array_equal(noise, baseline_map(RANDOM, one, like, 1).values)
    assert not np.array_equal(noise, baseline_map(RANDOM, two, like, 0).values), "another micrograph"


# --- the same map ---------------------------------------------------------------------------------

RAMP = np.arange(12, dtype=np.float32).reshape(3, 4)


def cam(values: np.ndarray) -> CamMap:
    return CamMap("rod", "cam", (0, 0, 4, 3), values.astype(np.float32), "")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param(RAMP, True, id="equal"),
        pytest.param(3 * RAMP - 7, True, id="a factor and an offset"),
        pytest.param(RAMP + 1e-4 * np.eye(3, 4), True, id="rounding"),
        pytest.param(RAMP + np.eye(3, 4), False, id="a cell off"),
        pytest.param(-RAMP, False, id="turned over"),
        pytest.param(0 * RAMP, False, id="flat"),
        pytest.param(RAMP[:, :3], False, id="another grid"),
    ],
)
def test_maps_are_the_same_up_to_a_positive_factor_and_an_offset(other: np.ndarray, same: bool) -> None:
    assert same_maps([cam(RAMP)], [cam(other)]) is same
    assert same_maps([cam(other)], [cam(RAMP)]) is same
    assert not same_maps([cam(RAMP), cam(RAMP)], [cam(other), cam(RAMP[::-1])]), "on every micrograph"


def test_two_flat_maps_are_the_same() -> None:
    assert same_maps([cam(0 * RAMP)], [cam(0 * RAMP + 5)])
    assert Source("a", "rod", "g", None).box_px is None
