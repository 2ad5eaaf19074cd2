"""From a micrograph to the answer: the network's numbers, averaged as the manifest says and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import LABELS, tiny_model
from onnx import numpy_helper

from edge_agent import classifier as classifier_module
from edge_agent.classifier import Classifier, Outputs
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import GOLDEN, MANIFEST, MODEL, Bundle, BundleRefused, open_bundle
from edge_agent.preprocessing import Preprocessing, TilePlan, compose_cam, cut_tiles
from edge_agent.simulation import draw_field

VIEWS = ("identity", "flip_x", "flip_y", "rot180")


def micrograph(pixels: np.ndarray, pixel_size_nm: tuple[float, float] | None = (0.5, 0.5)) -> Micrograph:
    source = SourceFile(Path("/data/a.dm3"), FileStamp(1, 2, 3, 4), "ab" * 32, "1-2-3")
    nothing = Instrument(None, None, None, None, None, None)
    return Micrograph(source, pixels, pixel_size_nm, 0, None, ("image",), None, None, nothing)


FIELD = draw_field("faceted", np.random.default_rng(4), 256).pixels[:200]


def with_rule(tiny: Path, **options: Any) -> Bundle:
    """The tiny bundle with another preprocessing."""
    bundle = open_bundle(tiny)
    rule = Preprocessing(input_px=64, **options)
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"preprocessing": rule}))


def reference(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and cam as ONNX Runtime gives them for one input, everything else at its defaults."""
    session = onnxruntime.InferenceSession(tiny_model(), providers=["CPUExecutionProvider"])
    probabilities, cam = session.run(["probabilities", "cam"], {"micrograph": inputs[None]})
    return probabilities[0], cam[0]


PLANS = {
    "whole": {},
    "views": {"views": VIEWS},
    "quadrants": {"tiles": TilePlan(divisions=2)},
    "quadrants in two views": {"tiles": TilePlan(divisions=2), "views": ("identity", "flip_x")},
    "a grid of unlike boxes": {"tiles": TilePlan(divisions=3), "views": VIEWS},
    "a fixed field of view": {"tiles": TilePlan(field_of_view_nm=60)},
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_an_answer_is_the_average_over_boxes_and_views(tiny: Path, plan: dict[str, Any]):
    bundle = with_rule(tiny, **plan)
    tiles = cut_tiles(FIELD, (0.5, 0.5), bundle.manifest.preprocessing).tiles
    answers = [reference(tile.values) for tile in tiles]
    mean = np.mean([probabilities for probabilities, _ in answers], axis=0)
    winner = int(mean.argmax())
    box, values = compose_cam(tiles, [cam[winner] for _, cam in answers], FIELD.shape)

    seen = Classifier(bundle).classify(micrograph(FIELD))

    assert seen.labels == LABELS
    assert seen.label == LABELS[winner]
    assert seen.probability == max(seen.probabilities)
    assert seen.probabilities == pytest.approx(mean, abs=1e-5)
    assert sum(seen.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert seen.novelty is None
    assert (seen.cam.label, seen.cam.box_px, seen.cam.method) == (seen.label, box, "cam")
    assert seen.cam.composition == "mean_where_overlapping"
    np.testing.assert_allclose(seen.cam.values, values, atol=1e-4)
    views = len(bundle.manifest.preprocessing.views)
    assert [tile.box_px for tile in seen.tiles] == [tile.box_px for tile in tiles[::views]]
    for index, tile in enumerate(seen.tiles):
        of_box = [probabilities for probabilities, _ in answers[index * views : (index + 1) * views]]
        assert tile.probabilities == pytest.approx(np.mean(of_box, axis=0), abs=1e-5)


def test_the_winner_of_the_average_wins_though_no_box_is_sure(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    rows = iter([[0.6, 0.4, 0.0], [0.0, 0.4, 0.6], [0.6, 0.4, 0.0], [0.0, 0.4, 0.6]])
    network = Classifier(with_rule(tiny, tiles=TilePlan(divisions=2)))

    def run(inputs: np.ndarray, every_class: bool) -> Outputs:
        answers = np.array([next(rows) for _ in inputs], np.float32)
        return Outputs(answers, np.broadcast_to(answers[:, :, None, None], (len(inputs), 3, 2, 2)), None)

    monkeypatch.setattr(network, "run", run)

    seen = network.classify(micrograph(FIELD))

    assert seen.label == "rod"
    assert seen.probabilities == pytest.approx((0.3, 0.4, 0.3))
    assert (seen.cam.values == np.float32(0.4)).all()


def test_inputs_go_through_the_network_one_by_one(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    network = Classifier(with_rule(tiny, tiles=TilePlan(divisions=3), views=VIEWS))
    shapes: list[tuple[int, ...]] = []
    run = network.run
    monkeypatch.setattr(network, "run", lambda inputs, _: (shapes.append(inputs.shape), run(inputs))[1])

    seen = network.classify(micrograph(FIELD))

    assert len(seen.tiles) == 9
    assert len(shapes) == 36
    assert {shape[:2] for shape in shapes} == {(1, 1)}
    assert len(set(shapes)) > 1


def test_several_inputs_of_one_shape_may_be_given_at_once(tiny: Path):
    network = Classifier(open_bundle(tiny))
    inputs = np.random.default_rng(0).uniform(-1, 1, (3, 1, 40, 72)).astype(np.float32)

    probabilities, cam = network.infer(inputs)

    assert (probabilities.shape, cam.shape) == ((3, 3), (3, 3, 5, 9))
    for index in range(3):
        alone = network.infer(inputs[index : index + 1])
        np.testing.assert_allclose(probabilities[index], alone[0][0], atol=1e-5)
        np.testing.assert_allclose(cam[index], alone[1][0], atol=1e-4)


def test_the_same_micrograph_has_the_same_answer(tiny: Path):
    network = Classifier(with_rule(tiny, tiles=TilePlan(divisions=2)))

    first = network.classify(micrograph(FIELD))
    network.classify(micrograph(FIELD[:50]))
    again = network.classify(micrograph(FIELD))

    assert first.probabilities == again.probabilities
    assert np.array_equal(first.cam.values, again.cam.values)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((40, 60), np.uint16), id="zeros"),
        pytest.param(np.full((300, 200), np.nan, np.float32), id="no number"),
        pytest.param(np.zeros((1, 1), np.int8), id="one pixel"),
        pytest.param(np.arange(5000, dtype=">u4")[None], id="a line"),
        pytest.param(np.where(np.eye(50) > 0, np.inf, 1.0), id="infinities"),
    ],
)
def test_poor_pictures_have_finite_answers(tiny: Path, pixels: np.ndarray):
    seen = Classifier(open_bundle(tiny)).classify(micrograph(pixels, None))

    assert np.isfinite(seen.probabilities).all()
    assert np.isfinite(seen.cam.values).all()
    assert sum(seen.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert seen.field.blank == (pixels.shape != (1, 5000))


def test_one_thread_that_does_not_spin(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[tuple[Any, ...]] = []
    session = onnxruntime.InferenceSession

    def spy(data: bytes, options: Any, **more: Any) -> Any:
        opened.append((data, options, more))
        return session(data, options, **more)

    monkeypatch.setattr(classifier_module.onnxruntime, "InferenceSession", spy)
    bundle, before = open_bundle(tiny), threading.active_count()

    Classifier(bundle)

    ((data, options, more),) = opened
    assert data is bundle.model_bytes
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"
    assert more == {"providers": ["CPUExecutionProvider"]}
    assert threading.active_count() == before


def test_more_threads_where_asked(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    counts: list[int] = []
    session = onnxruntime.InferenceSession

    def spy(data: bytes, options: Any, **more: Any) -> Any:
        counts.append(options.intra_op_num_threads)
        return session(data, options, **more)

    monkeypatch.setattr(classifier_module.onnxruntime, "InferenceSession", spy)

    Classifier(open_bundle(tiny), threads=2)

    assert counts == [2]


# --- bundles that cannot be used ---


def put(folder: Path, name: str, data: bytes, **changes: Any) -> None:
    """Replace a file and state its hash, as somebody who forges a bundle would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))
    (folder / name).write_bytes(data)


def refusal(folder: Path) -> str:
    with pytest.raises(BundleRefused) as refused:
        Classifier(open_bundle(folder))
    return str(refused.value)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny-1"))


def test_a_model_that_does_not_load_is_refused(folder: Path):
    # Passes the gate, which does not know what an operator needs: a convolution without its kernel's size.
    put(folder, MODEL, (folder / MODEL).read_bytes().replace(b"kernel_shape", b"kernel_shapf"))

    message = refusal(folder)

    assert message.startswith(f"{folder}: ONNX Runtime cannot use the model (")
    assert "kernel_shapf" in message


def test_a_model_of_other_labels_is_refused(folder: Path):
    put(folder, MODEL, tiny_model(("a", "b", "c", "d")))

    assert refusal(folder) == (
        f"{folder}: the model gives probabilities (1, 4) and a cam (1, 4, 8, 8) for one input, "
        "the manifest names 3 labels; use a bundle made by edge-trainer export"
    )


def test_a_model_without_finite_answers_is_refused(folder: Path):
    model = onnx.load_from_string(tiny_model())
    (temperature,) = (tensor for tensor in model.graph.initializer if "temperature" in tensor.name)
    temperature.CopyFrom(numpy_helper.from_array(np.float32(0.0), temperature.name))
    put(folder, MODEL, model.SerializeToString())

    assert refusal(folder) == f"{folder}: the model's answers are not finite numbers; use another bundle"


# --- the golden replay ---


def golden(folder: Path) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO((folder / GOLDEN).read_bytes())) as stored:
        return dict(stored)


def packed(stored: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)
    return buffer.getvalue()


def test_the_golden_replay_passes_where_the_bundle_was_made(folder: Path):
    replay = Classifier(open_bundle(folder)).replay_golden()

    assert replay.passed
    assert replay.cases == 3
    assert max(replay.probabilities, replay.cam) < 1e-4
    assert replay.tolerance == 1e-3


@pytest.mark.parametrize("key", ["probabilities_0", "cam_2", "input_1"])
def test_a_changed_golden_case_does_not_pass(folder: Path, key: str):
    stored = golden(folder)
    stored[key] = stored[key] + stored[key].dtype.type(1.0 if key == "cam_2" else 0.05)
    if key == "input_1":
        stored[key][..., : stored[key].shape[-1] // 2] = 1.0
    put(folder, GOLDEN, packed(stored))

    replay = Classifier(open_bundle(folder)).replay_golden()

    assert not replay.passed
    worst = {"probabilities_0": replay.probabilities, "cam_2": replay.cam}.get(key, 1.0)
    assert worst >= 0.04


def test_golden_numbers_that_are_none_do_not_pass(folder: Path):
    stored = golden(folder)
    stored["cam_1"][...] = np.nan
    put(folder, GOLDEN, packed(stored))

    replay = Classifier(open_bundle(folder)).replay_golden()

    assert (replay.passed, replay.cam) == (False, float("inf"))


def test_no_cases_prove_nothing(folder: Path):
    put(folder, GOLDEN, (folder / GOLDEN).read_bytes(), golden={"cases": 0, "tolerance": 1.0})

    assert not Classifier(open_bundle(folder)).replay_golden().passed


def without(stored: dict[str, np.ndarray], key: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in stored.items() if name != key}


UNFIT = {
    "empty": lambda stored: b"",
    "no archive": lambda stored: b"golden",
    "cut off": lambda stored: packed(stored)[:-50],
    "a single array": lambda stored: saved(stored["input_0"]),
    "a case is missing": lambda stored: packed(without(stored, "cam_1")),
    "pickled objects": lambda stored: packed(stored | {"input_0": np.array([{}], dtype=object)}),
    "words": lambda stored: packed(stored | {"input_0": np.array(["a"])}),
    "an input of other dimensions": lambda stored: packed(stored | {"input_0": np.zeros((3, 3))}),
    "an output of other shape": lambda stored: packed(stored | {"cam_0": np.zeros((1, 2, 3, 4))}),
    "an output of nothing": lambda stored: packed(stored | {"cam_0": np.zeros(0)}),
}


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
def test_a_golden_file_that_does_not_fit_is_refused(folder: Path, make: Any):
    put(folder, GOLDEN, make(golden(folder)))
    network = Classifier(open_bundle(folder))

    with pytest.raises(BundleRefused) as refused:
        network.replay_golden()

    assert str(refused.value).startswith(f"{folder / GOLDEN}: the golden cases cannot be replayed (")


def test_shapes_that_differ_are_told(folder: Path):
    put(folder, GOLDEN, packed(golden(folder) | {"cam_0": np.zeros((1, 2, 3, 4))}))

    with pytest.raises(
        BundleRefused, match=r"an output has shape \(1, 3, 8, 8\), the golden file \(1, 2, 3, 4\)"
    ):
        Classifier(open_bundle(folder)).replay_golden()
