"""The map: features that the evidence maps are computed from, and a layout that follows from the seed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from answered import THREE, answered, reopened
from bundles import tiny_manifest, tiny_model
from onnx import compose, helper

from edge_agent.model_bundle import Cam
from trainer.scoring.embedding import (
    FEWEST_FOR_NEIGHBOURS,
    POOLED,
    EmbeddingError,
    embedding,
    layout,
    with_pooled_features,
)
from trainer.scoring.evaluation import sources_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Manifest


def run(model: bytes, *names: str) -> list[NDArray[np.float32]]:
    """Answers of a graph to one oblong field."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(0).uniform(-1, 1, (1, 1, 64, 96)).astype(np.float32)
    answers: list[NDArray[np.float32]] = session.run(list(names), {"micrograph": inputs})
    return answers


def test_the_features_are_what_the_evidence_is_computed_from() -> None:
    model = tiny_model()
    pooled, cam = run(with_pooled_features(model, tiny_manifest()), POOLED, "cam")
    weights = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(model).graph.initializer
    }
    assert pooled.shape == (1, 8)
    evidence = pooled @ weights["cam_weights"][:, :, 0, 0].T + weights["cam_bias"]
    assert evidence == pytest.approx(cam.mean(axis=(2, 3)), abs=1e-4), "average and linear layer commute"


def ensemble() -> tuple[bytes, Manifest]:
    """Two members whose maps are averaged: four features more for every channel."""
    parts = [compose.add_prefix(onnx.load_from_string(tiny_model(seed=seed)), f"m{seed}/") for seed in (0, 1)]
    nodes = [
        helper.make_node("Identity", ["micrograph"], ["m0/micrograph"]),
        helper.make_node("Identity", ["micrograph"], ["m1/micrograph"]),
        *(node for part in parts for node in part.graph.node),
        helper.make_node("Mean", ["m0/cam", "m1/cam"], ["cam"]),
        helper.make_node("Mean", ["m0/probabilities", "m1/probabilities"], ["probabilities"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "both",
        [value("micrograph", onnx.TensorProto.FLOAT, ["n", 1, "r", "c"])],
        [
            value("probabilities", onnx.TensorProto.FLOAT, ["n", 3]),
            value("cam", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"]),
        ],
        [one for part in parts for one in part.graph.initializer],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString()), tiny_manifest()


def test_the_features_of_several_members_stand_side_by_side() -> None:
    model, manifest = ensemble()
    (together,) = run(with_pooled_features(model, manifest), POOLED)
    alone = [run(with_pooled_features(tiny_model(seed=seed), manifest), POOLED)[0] for seed in (0, 1)]
    assert together == pytest.approx(np.concatenate(alone, axis=1), abs=1e-5)


def test_another_kind_of_map_names_its_tensor() -> None:
    grad = tiny_manifest().model_copy(update={"cam": Cam(method="gradcam", tensor="features")})
    names = {name for node in onnx.load_from_string(tiny_model()).graph.node for name in node.output}
    known = grad.model_copy(update={"cam": Cam(method="gradcam", tensor=min(names & {"features", "y"}))})
    (pooled,) = run(with_pooled_features(tiny_model(), known), POOLED)
    assert pooled.shape == (1, 8)
    nowhere = grad.model_copy(update={"cam": Cam(method="gradcam", tensor="nowhere")})
    with pytest.raises(EmbeddingError, match=r"the graph of tiny 1 has no features that a map is drawn from"):
        with_pooled_features(tiny_model(), nowhere)


def clusters(each: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.str_]]:
    """Three classes far from each other, and one micrograph of the first far from all."""
    random = np.random.default_rng(seed)
    centres = np.repeat(np.eye(3) * 40, each, axis=0)
    features = np.concatenate([centres, np.zeros((3 * each, 5))], axis=1) + random.normal(0, 1, (3 * each, 8))
    features[0] += 60
    return features, np.repeat(THREE, each), np.array([f"g{at // 2}" for at in range(3 * each)])


@pytest.mark.parametrize("each", [5, 20], ids=["few", "many"])
def test_classes_that_differ_stand_apart(each: int) -> None:
    features, labels, groups = clusters(each)
    seen = layout(features, labels, groups, tuple(range(3 * each)), 8, 0)
    few = 3 * each < FEWEST_FOR_NEIGHBOURS
    assert (seen.method, seen.explained is None) == (("PCA", False) if few else ("t-SNE", True))
    assert seen.points.shape == (3 * each, 2)
    assert np.isfinite(seen.points).all()
    assert seen.neighbours_agree == pytest.approx(1.0, abs=1 / each)
    assert seen.channels == 8
    if not few:
        assert seen.strangers[0] == 0, "the one far from all"


def test_the_seed_decides_the_layout() -> None:
    features, labels, groups = clusters(12)
    rows = tuple(range(36))
    one, same = (layout(features, labels, groups, rows, 4, 3) for _ in range(2))
    assert np.array_equal(one.points, same.points)
    assert one.strangers == same.strangers


def test_equal_pictures_are_laid_out_too() -> None:
    features = np.ones((4, 6))
    seen = layout(features, np.array(["rod"] * 4), np.array(["g"] * 4), (0, 1, 2, 3), 4, 0)
    assert np.isfinite(seen.points).all()
    assert seen.neighbours_agree is None, "one group"
    assert seen.strangers == ()


def test_a_class_of_one_group_has_nobody_to_agree_with() -> None:
    features = np.random.default_rng(0).normal(size=(6, 5))
    labels = np.array(["rod"] * 3 + ["round"] * 3)
    seen = layout(features, labels, labels, tuple(range(6)), 4, 0)
    assert seen.neighbours_agree is None


def test_micrographs_are_laid_out_by_the_bundle(tmp_path: Path) -> None:
    made = answered(tmp_path, count=6)
    gone = made.data.crops[2].source
    (made.data.raw / gone).unlink()
    steps: list[tuple[str, int, int]] = []
    sources = sources_of(made.data.test)
    seen = embedding(reopened(made), made.data, sources, progress=lambda *step: steps.append(step))
    assert seen.rows == tuple(at for at in range(6) if sources[at].file != gone)
    assert seen.points.shape == (5, 2)
    assert steps[-1] == ("features", 6, 6)


def test_too_few_micrographs_make_no_map(tmp_path: Path) -> None:
    made = answered(tmp_path, count=2)
    with pytest.raises(EmbeddingError, match="2 micrographs can be read; a map needs at least 3"):
        embedding(reopened(made), made.data, sources_of(made.data.test))


def test_a_graph_that_cannot_be_run_is_an_error_of_the_map(tmp_path: Path) -> None:
    made = answered(tmp_path, count=3)
    bundle = replace(reopened(made), model_bytes=b"no model")
    with pytest.raises(EmbeddingError, match="the features cannot be computed"):
        embedding(bundle, made.data, sources_of(made.data.test))
