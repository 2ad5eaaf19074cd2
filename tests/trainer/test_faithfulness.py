"""Maps measured end to end: what goes into the bundle, what is drawn by chance, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from answered import Answered, answered, reopened
from bundles import tiny_manifest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import Tensor, Tensors, open_bundle
from edge_agent.preprocessing import Preprocessing
from trainer.commands import answers
from trainer.commands.options import PartName
from trainer.exporting import cam_graph
from trainer.exporting.bundle_writer import BundleFiles, add_file, write_bundle
from trainer.preparing import crops
from trainer.scoring.deletion import STEPS
from trainer.scoring.faithfulness import measure_faithfulness
from trainer.scoring.faithfulness_record import (
    FAITHFULNESS,
    Faithfulness,
    FaithfulnessError,
    read_faithfulness,
)
from trainer.scoring.map_methods import MapError
from trainer.scoring.map_verdicts import faithfulness_text

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle
    from trainer.preparing.crops import DataSet

Measured = tuple[Faithfulness, Path, list[tuple[str, int, int]]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Six micrographs in three groups, one answered wrong; read only."""
    return answered(tmp_path_factory.mktemp("faithful"), count=6, wrong=(1,))


@pytest.fixture
def made(shared: Answered, tmp_path: Path) -> Answered:
    """The same with a bundle to be changed."""
    return Answered(Path(shutil.copytree(shared.bundle, tmp_path / "bundle")), shared.data)


@pytest.fixture(scope="module")
def measured(shared: Answered, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Everything measured once: result, bundle, and what was told meanwhile; read only."""
    bundle = Path(shutil.copytree(shared.bundle, tmp_path_factory.mktemp("measured") / "bundle"))
    steps: list[tuple[str, int, int]] = []
    masks = masks_for(shared.data, bundle.parent / "masks")
    result = measure_faithfulness(
        bundle, shared.data, "test", masks=masks, progress=lambda *step: steps.append(step)
    )
    return result, bundle, steps


def masks_for(data: DataSet, folder: Path) -> Path:
    """The upper half of each micrograph, but the last one has no mask."""
    for crop in data.crops[:-1]:
        file = (folder / crop.source).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros(crop.shape_px, np.uint8)
        mask[: crop.shape_px[0] // 2] = 1
        Image.fromarray(mask).save(file)
    return folder


def forbid_other_methods(bundle: Bundle, method: str) -> Bundle:
    raise cam_graph.GraphError(f"{method} has no closed form here")


def test_the_result_becomes_a_part_of_the_bundle(shared: Answered, measured: Measured) -> None:
    result, path, _ = measured
    bundle = open_bundle(path)
    assert read_faithfulness(bundle) == result
    assert json.loads((path / FAITHFULNESS).read_bytes())["schema"] == "scopewatch.faithfulness/1"
    assert (result.bundle, result.model_sha256, result.part, result.own) == (
        "tiny-1",
        bundle.sha256,
        "test",
        "cam",
    )
    assert (result.micrographs, result.of, result.groups, result.right) == (6, 6, 3, 5)
    assert (result.dataset_fingerprint, result.unreadable) == (shared.data.fingerprint, {})


def test_methods_that_agree_stand_once_and_those_that_know_nothing_last(
    measured: Measured,
) -> None:
    """Average pooling and one linear layer: the three methods are one formula there."""
    result, _, _ = measured
    assert [one.names for one in result.methods] == [("cam", "gradcam", "hirescam"), ("centre",), ("random",)]
    assert [one.baseline for one in result.methods] == [False, True, True]
    assert result.absent == {}
    own, _, noise = result.methods
    assert set(own.costs) == {"cam", "gradcam", "hirescam"}
    assert all(cost.bare_ms > 0 and cost.runs == 24 for cost in own.costs.values())
    assert own.randomised is not None
    assert (own.randomised.layers, [stage.layers for stage in own.randomised.stages]) == (2, [0, 1, 2])
    assert (noise.randomised, noise.costs) == (None, {})


def test_curves_of_all_methods_start_and_end_alike(
    measured: Measured,
) -> None:
    result, _, _ = measured
    for one in result.methods:
        assert len(one.deletion.mean) == len(one.insertion.mean) == STEPS + 1
        assert one.deletion.mean[0] == one.insertion.mean[-1] == result.whole
        assert one.deletion.mean[-1] == one.insertion.mean[0] == result.blank
    noise = result.methods[-1]
    assert noise.deletion.beyond["random"].mean == 0
    own = result.methods[0]
    assert own.deletion.beyond["random"].mean == pytest.approx(
        own.deletion.area - noise.deletion.area, abs=2e-4
    )
    assert own.insertion.area > noise.insertion.area, "evidence that is added up in the network's own map"


def test_maps_of_right_answers_are_held_against_their_masks(
    measured: Measured,
) -> None:
    result, _, _ = measured
    for one in result.methods:
        assert one.pointing is not None
        assert one.pointing.micrographs == 4, "one was wrong, one has no mask"
        assert one.pointing.particle_share == pytest.approx(0.5)
        assert one.pointing.highest == pytest.approx(2.0)
    noise = result.methods[-1].pointing
    assert noise is not None
    assert noise.energy_over_share == pytest.approx(1, abs=0.2)


def test_examples_carry_the_maps_that_were_measured(shared: Answered, measured: Measured) -> None:
    from edge_agent.classifier import Classifier

    result, path, _ = measured
    classifier = Classifier(open_bundle(path))
    assert len(result.examples) == 6
    for one in result.examples:
        seen = classifier.classify(read_micrograph(shared.data.raw / one.file))
        assert (one.answer, one.map_box_px) == (seen.label, seen.cam.box_px)
        assert set(one.maps) == {"cam"}, "those that know nothing are not worth a picture"
        assert np.array(one.maps["cam"]) == pytest.approx(seen.cam.values, rel=1e-3, abs=1e-4)


def test_progress_is_told_to_the_end(measured: Measured) -> None:
    _, _, steps = measured
    ends = {what: (done, total) for what, done, total in steps}
    assert all(done == total for done, total in ends.values())
    assert next(iter(ends)) == "classified"
    assert {"maps: cam", "deletion and insertion", "weights drawn anew", "timed"} <= set(ends)


def test_equal_seeds_measure_the_same(made: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cam_graph, "by_method", forbid_other_methods)
    one, two, other = (
        measure_faithfulness(made.bundle, made.data, "test", count=3, seed=seed) for seed in (1, 1, 2)
    )
    assert [each.deletion for each in one.methods] == [each.deletion for each in two.methods]
    assert one.methods[0].randomised == two.methods[0].randomised
    assert one.methods[-1].deletion != other.methods[-1].deletion
    assert (one.micrographs, one.of) == (3, 6)
    assert one.absent["gradcam"] == "gradcam has no closed form here"


def test_occlusion_is_measured_where_it_is_asked_for(made: Answered) -> None:
    result = measure_faithfulness(made.bundle, made.data, "test", count=2, methods=("occlusion",))
    assert [one.names for one in result.methods] == [("occlusion",), ("centre",), ("random",)]
    own = result.methods[0]
    assert (own.randomised, own.costs) == (None, {}), "hundreds of passes a map: not for a cascade"
    assert set(result.examples[0].maps) == {"occlusion"}


def dense_bundle(folder: Path) -> Path:
    """Convolution, Flatten, two dense layers: one input size, three methods of which two have a closed form."""
    draw = np.random.default_rng(0)
    held = {
        "kernel": draw.normal(0, 0.2, (8, 1, 8, 8)),
        "w1": draw.normal(0, 0.1, (8 * 36, 16)),
        "w2": draw.normal(0, 1, (16, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["micrograph", "kernel"], ["map"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Relu", ["map"], ["features"]),
        helper.make_node("Flatten", ["features"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("micrograph", TensorProto.FLOAT, [1, 1, 48, 48])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    mapped = cam_graph.append_maps(model, "hirescam", input_px=48)
    rule = Preprocessing(input_px=48, proportions="square")
    plain = tiny_manifest(preprocessing=rule, name="dense")
    tensors = Tensors(
        input=Tensor(name="micrograph", shape=(1, 1, 48, 48)),
        probabilities=Tensor(name="probabilities", shape=(1, 3)),
        **cam_graph.map_tensors(mapped, 1),
    )
    manifest = plain.model_copy(update={"tensors": tensors, "cam": mapped.cam})
    return write_bundle(folder, BundleFiles(mapped.model.SerializeToString()), manifest).path


def test_a_network_with_dense_layers_has_two_different_maps_and_no_exact_one(
    shared: Answered, tmp_path: Path
) -> None:
    result = measure_faithfulness(dense_bundle(tmp_path / "dense"), shared.data, "test", count=3)
    assert [one.names for one in result.methods] == [("hirescam",), ("gradcam",), ("centre",), ("random",)]
    assert "an exact class activation map needs average pooling" in result.absent["cam"]
    own = result.methods[0]
    assert own.randomised is not None
    assert [stage.layers for stage in own.randomised.stages] == [0, 1, 2, 3], "the map's nodes are no layers"
    assert own.randomised.stages[-1].absolute < 0.7
    assert own.deletion.area < result.methods[-1].deletion.area


def test_micrographs_that_are_gone_are_named(made: Answered, tmp_path: Path) -> None:
    moved = replace(made.data, raw=Path(shutil.copytree(made.data.raw, tmp_path / "raw")))
    gone = moved.crops[0].source
    (moved.raw / gone).unlink()
    result = measure_faithfulness(made.bundle, moved, "test", methods=("cam",))
    assert list(result.unreadable) == [gone]
    assert result.micrographs == 5
    for crop in moved.crops[1:]:
        (moved.raw / crop.source).unlink()
    with pytest.raises(FaithfulnessError, match="none of the 6 micrographs can be read any more"):
        measure_faithfulness(made.bundle, moved, "test", methods=("cam",))


def test_what_cannot_be_measured_is_refused(
    made: Answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FaithfulnessError, match="no micrograph in the part train; give another --split"):
        measure_faithfulness(made.bundle, made.data, "train")
    masks = masks_for(made.data, tmp_path / "masks")
    right = made.data.crops[0].source
    Image.fromarray(np.ones((3, 3), np.uint8)).save((masks / right).with_suffix(".png"))
    with pytest.raises(FaithfulnessError, match=r"the mask has shape \(3, 3\), the micrograph .* has"):
        measure_faithfulness(made.bundle, made.data, "test", masks=masks, methods=("cam",))
    monkeypatch.setattr(cam_graph, "by_method", forbid_other_methods)
    with pytest.raises(
        MapError, match=r"none of these maps can be had: gradcam: .*closed form.*; try --occlusion"
    ):
        measure_faithfulness(made.bundle, made.data, "test", methods=("gradcam",))
    assert FAITHFULNESS not in open_bundle(made.bundle).manifest.sha256


def test_a_record_is_read_only_if_it_is_this_models(made: Answered, measured: Measured) -> None:
    assert read_faithfulness(reopened(made)) is None
    result, _, _ = measured
    other = result.model_copy(update={"model_sha256": "f" * 64}).model_dump_json(by_alias=True)
    add_file(made.bundle, FAITHFULNESS, other.encode())
    with pytest.raises(FaithfulnessError, match=r"measured on another model \(ffffffffffff\.\.\.\)"):
        read_faithfulness(reopened(made))
    add_file(made.bundle, FAITHFULNESS, b"{")
    with pytest.raises(
        FaithfulnessError, match=r"not what this version reads (.|\n)* run edge-trainer faithfulness"
    ):
        read_faithfulness(reopened(made))


def test_the_command_prints_the_record_and_what_it_says(
    made: Answered, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(crops, "load_dataset", lambda _: made.data)
    answers.faithfulness(
        made.bundle, made.data.root, PartName.test, None, 2, "cam", occlusion=False, json=True, seed=0
    )
    out, told = capfdbinary.readouterr()
    result = read_faithfulness(reopened(made))
    assert result is not None
    assert Faithfulness.model_validate_json(out) == result
    assert (result.micrographs, result.of) == (2, 6)
    assert faithfulness_text(result) in told.decode()
    assert f"next: edge-trainer report {made.bundle}" in told.decode()
