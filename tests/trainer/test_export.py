"""A run becomes a bundle only when ONNX Runtime computes what Keras computes, on its own data set."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from toys import LABELS, LONG_TIER, RECIPE, prepared

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from edge_agent.onnx_gate import gate_model
from trainer.exporting import export as exporting
from trainer.exporting.cam_head import OPSET
from trainer.exporting.export import PARITY_CROPS, BundleNotes, ExportError, compare, export, to_onnx
from trainer.fitting.backbones import build_backbone
from trainer.fitting.features import shown
from trainer.fitting.network import Network, build_network
from trainer.fitting.run_folder import RunError, claim, read_record
from trainer.fitting.training import load_run
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.fitting.backbones import Backbone
    from trainer.preparing.crops import DataSet

NOTES = BundleNotes("toy", "1")


def outputs(model: bytes, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    probabilities, cam = session.run(["probabilities", "cam"], {"micrograph": inputs})
    return probabilities, cam


def blotches(shape: tuple[int, int, int]) -> np.ndarray:
    """Something between a micrograph and noise, -1 to 1."""
    random = np.random.default_rng(0)
    coarse = random.uniform(-1, 1, (shape[0], 20, 20)).repeat(12, axis=1).repeat(12, axis=2)
    fine = random.uniform(-1, 1, shape)
    return ((coarse[:, : shape[1], : shape[2]] + fine) / 2).astype(np.float32)


def assert_parity(network: Network, model: bytes, shape: tuple[int, int, int], labels: int) -> None:
    """Same outputs of Keras and ONNX Runtime for pictures of this shape (n, rows, columns)."""
    inputs = blotches(shape)
    expected, expected_cam = (
        np.asarray(value) for value in network.scoring(inputs[..., None], training=False)
    )
    probabilities, cam = outputs(model, inputs[:, None])
    assert probabilities.shape == (shape[0], labels)
    assert cam.shape == expected_cam.transpose(0, 3, 1, 2).shape
    assert cam.std() > 1e-4, "a map that says something"
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    scale = max(1.0, float(np.abs(expected_cam).max()))
    np.testing.assert_allclose(cam / scale, expected_cam.transpose(0, 3, 1, 2) / scale, atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


SHAPES = [(1, 96, 96), (2, 96, 131), (1, 141, 99)]


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        pytest.param("inceptionv3-mixed7", 16, marks=[pytest.mark.long, LONG_TIER]),
        ("mobilenetv2", 32),
    ],
)
def test_keras_own_backbones_compute_the_same_in_onnx(name: str, stride: int) -> None:
    backbone = build_backbone(name, "none", seed=5)
    network = build_network(backbone, ("a", "b", "c"))
    model = to_onnx(network)
    for shape in SHAPES:
        assert_parity(network, model, shape, 3)
    assert (backbone.stride, backbone.value_range) == (stride, (-1.0, 1.0))
    gate_model(model, (("micrograph",), ("probabilities", "cam")))
    assert onnx.load_from_string(model).opset_import[0].version == OPSET


def test_lite0_with_its_imagenet_weights_computes_the_same_in_onnx(lite0: Backbone) -> None:
    network = build_network(lite0, ("a", "b"))
    model = to_onnx(network)
    for shape in SHAPES:
        assert_parity(network, model, shape, 2)
    _, cam = outputs(model, np.zeros((1, 1, 64, 160), np.float32))
    assert cam.shape == (1, 2, 2, 5)
    gate_model(model, (("micrograph",), ("probabilities", "cam")))


def test_the_bundle_answers_as_the_run_does(shared_run: Path, shared_bundle: Path, dataset: DataSet) -> None:
    _, network = load_run(shared_run)
    classifier = Classifier(open_bundle(shared_bundle))
    for crop in dataset.test[:4]:
        expected, _ = network.scoring(shown(dataset, crop)[None, :, :, None] * 2 - 1, training=False)
        prediction = classifier.classify(read_micrograph(dataset.raw / crop.source))
        # The cache holds whole grey values out of 255, the agent's inputs are not rounded.
        np.testing.assert_allclose(prediction.probabilities, np.asarray(expected)[0], atol=0.02)


def test_the_manifest_states_how_the_model_came_about(
    shared_run: Path, shared_bundle: Path, dataset: DataSet
) -> None:
    manifest = open_bundle(shared_bundle).manifest
    assert (manifest.name, manifest.version, manifest.labels) == ("toy", "1", LABELS)
    assert manifest.dataset_fingerprint == dataset.fingerprint
    assert manifest.seed == 3
    assert manifest.preprocessing == dataset.preprocessing.model_copy(update={"value_range": (-1.0, 1.0)})
    assert manifest.parity.crops == 32
    assert max(manifest.parity.probabilities, manifest.parity.cam) <= manifest.parity.tolerance == 1e-4
    network = manifest.network
    assert (network.backbone, network.fine_tuned_from, network.opset) == ("toy", "lower", OPSET)
    assert network.weights_origin == "random initialisation"
    assert network.parameters == load_run(shared_run)[1].scoring.count_params()
    assert manifest.made_with == read_record(shared_run).versions
    assert manifest.training_ranges.pixel_size_nm is None


def test_the_table_of_labels_lists_every_micrograph_once(shared_bundle: Path, dataset: DataSet) -> None:
    with (shared_bundle / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["label"], row["group"], row["part"]) for row in rows] == [
        (crop.source, crop.label, crop.group, crop.part) for crop in dataset.kept
    ]


def test_training_ranges_come_from_the_calibrated_training_crops(dataset: DataSet) -> None:
    sizes = iter([(0.5, 0.5), (0.2, 0.1), (3.0, 4.0)])
    crops = [replace(crop, pixel_size_nm=next(sizes, None)) for crop in dataset.train]
    crops[2] = replace(crops[2], part="test")
    ranges = exporting._ranges(replace(dataset, crops=tuple(crops)))
    widths = [crop.box_px[2] - crop.box_px[0] for crop in crops[:2]]
    assert ranges.pixel_size_nm == (0.1, 0.5)
    assert ranges.field_of_view_nm == (0.1 * widths[1], 0.5 * widths[0])


def test_parity_is_measured_on_crops_of_every_class_and_follows_from_the_seed(dataset: DataSet) -> None:
    many = replace(
        dataset,
        crops=tuple(replace(crop, crop_id=f"{crop.crop_id}{n}") for n in range(4) for crop in dataset.crops),
    )
    drawn = exporting._some_crops(many, 0)
    assert len({crop.crop_id for crop in drawn}) == PARITY_CROPS
    assert {crop.label for crop in drawn} == set(LABELS)
    assert drawn == exporting._some_crops(many, 0)
    assert drawn != exporting._some_crops(many, 1)
    assert exporting._some_crops(dataset, 0) == dataset.kept, "all of them where there are fewer"


def test_views_and_words_of_the_notes_reach_the_bundle(
    shared_run: Path, dataset: DataSet, tmp_path: Path
) -> None:
    notes = BundleNotes(
        "toy-two",
        "1.2",
        licence="MIT",
        intended_use="Toys.",
        notes="Mind the gap.",
        views=("identity", "flip_x"),
    )
    steps: list[tuple[str, int, int]] = []
    bundle = export(shared_run, dataset, tmp_path / "b", notes, progress=lambda *step: steps.append(step))
    manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.licence) == ("toy-two", "1.2", "MIT")
    assert (manifest.intended_use, manifest.preprocessing.views) == ("Toys.", ("identity", "flip_x"))
    assert "Mind the gap." in (tmp_path / "b" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert steps[-1] == ("done", 3, 3)


def test_a_difference_above_the_tolerance_is_not_exported(
    shared_run: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.append_cam_head

    def off(backbone: Any, weights: np.ndarray, bias: np.ndarray) -> Any:
        return real(backbone, weights, bias + 9 * np.arange(len(bias), dtype=np.float32))

    monkeypatch.setattr(exporting, "append_cam_head", off)
    with pytest.raises(
        ExportError, match=r"ONNX Runtime differs from Keras by .* \(cam.*\) on 32 crops, more than 1e-04"
    ):
        export(shared_run, dataset, tmp_path / "b", NOTES)
    assert not (tmp_path / "b").exists()


def test_a_model_that_gives_no_numbers_is_not_exported(
    shared_run: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.append_cam_head
    monkeypatch.setattr(
        exporting, "append_cam_head", lambda model, weights, bias: real(model, weights * np.nan, bias)
    )
    with pytest.raises(ExportError, match="answers are not finite numbers; train it again"):
        export(shared_run, dataset, tmp_path / "b", NOTES)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        pytest.param(
            "probabilities", "scores", r"the outputs \['cam', 'scores'\], not micrograph, ", id="name"
        ),
        pytest.param("micrograph", "picture", r"has the inputs \['picture'\] and", id="input name"),
    ],
)
def test_a_converted_model_with_other_names_is_refused(
    shared_run: Path, dataset: DataSet, old: str, new: str, text: str
) -> None:
    _, network = load_run(shared_run)
    model = onnx.load_from_string(to_onnx(network))
    for put in (*model.graph.output, *model.graph.input):
        put.name = new if put.name == old else put.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    with pytest.raises(ExportError, match=text):
        compare([network], model.SerializeToString(), dataset, dataset.test[:1])


def test_a_converted_model_with_another_shape_is_refused(shared_run: Path, dataset: DataSet) -> None:
    _, network = load_run(shared_run)
    three = build_network(build_backbone("toy", "none", seed=3), ("a", "b", "c"))
    with pytest.raises(ExportError, match=r"Keras gives an output of shape \(1, 2\), ONNX Runtime \(1, 3\)"):
        compare([network], to_onnx(three), dataset, dataset.test[:1])


def test_another_data_set_than_the_runs_own_is_refused(shared_run: Path, raw: Path, tmp_path: Path) -> None:
    other = prepared(raw, tmp_path / "other", split=SplitRule(test=0, validation=0.25))
    with pytest.raises(
        ExportError, match=r"was trained on another data set than .*other; give the run's own"
    ):
        export(shared_run, other, tmp_path / "b", NOTES)


def test_a_bundle_that_is_there_is_refused_before_any_work(
    shared_run: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "load_run", lambda run: pytest.fail("worked before it looked"))
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError, match="exists; choose another folder or remove it first"):
        export(shared_run, dataset, tmp_path / "b", NOTES)


def test_an_unfinished_run_is_refused(shared_run: Path, dataset: DataSet, tmp_path: Path) -> None:
    claim(tmp_path / "run", read_record(shared_run))
    with pytest.raises(RunError, match="training has not finished here"):
        export(tmp_path / "run", dataset, tmp_path / "b", NOTES)
    assert RECIPE == read_record(tmp_path / "run").recipe
