"""Weights drawn anew: which constants are weights, in which order they go, and how alike two maps are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import tiny_manifest, tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_agent.model_bundle import Bundle
from trainer.scoring.randomisation import (
    Alike,
    alike,
    randomised,
    rank_correlation,
    redrawn,
    stage_counts,
    unrelated,
    weight_layers,
)

MANIFEST = tiny_manifest()


def bundle_of(model: bytes) -> Bundle:
    return Bundle(Path("tiny"), MANIFEST, model, "")


def constants(model: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_model_from_string(model).graph
    return {one.name: numpy_helper.to_array(one) for one in graph.initializer}


def test_the_last_layer_comes_first() -> None:
    layers = weight_layers(onnx.load_model_from_string(tiny_model()), "probabilities")
    assert layers == (("cam_weights", "cam_bias"), ("kernel",))


def graph_of(nodes: list[onnx.NodeProto], held: dict[str, np.ndarray]) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, name) for name, values in held.items()],
        )
    )


SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4)


@pytest.mark.parametrize(
    ("nodes", "held", "expected"),
    [
        pytest.param(
            [("MatMul", ["x", "w1"], "a"), ("MatMul", ["a", "w2"], "b"), ("MatMul", ["b", "w1t"], "c")],
            {"w1": SQUARE, "w2": SQUARE},
            (("w2",), ("w1",)),
            id="a weight handed back to the map belongs to its first use",
        ),
        pytest.param(
            [("MatMul", ["x", "w1t"], "a")], {"w1": SQUARE}, (("w1",),), id="through a transposition"
        ),
        pytest.param(
            [("Add", ["x", "w1"], "a"), ("Mul", ["a", "w2"], "b")],
            {"w1": SQUARE, "w2": SQUARE},
            (),
            id="sums and scales are no layers",
        ),
        pytest.param(
            [("MatMul", ["x", "x"], "a")], {"w1": SQUARE}, (), id="a product of what flows has no weight"
        ),
    ],
)
def test_what_a_layer_is(
    nodes: list[tuple[str, list[str], str]],
    held: dict[str, np.ndarray],
    expected: tuple[tuple[str, ...], ...],
) -> None:
    made = [helper.make_node("Transpose", ["w1"], ["w1t"], perm=[1, 0])]
    made += [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes]
    assert weight_layers(graph_of(made, held), nodes[-1][2]) == expected


def test_the_maps_own_nodes_have_no_weights_of_their_own() -> None:
    """As analytic back-propagation writes it: seeds, one for each class, times the weight transposed."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["seeds", "wt"], ["cam"]),
    ]
    model = graph_of(nodes, {"w": SQUARE, "seeds": np.eye(4, dtype=np.float32)})
    assert weight_layers(model, "logits") == (("w",),)


def test_what_is_drawn_keeps_mean_and_spread_and_nothing_else_changes() -> None:
    model = tiny_model()
    before, after = constants(model), constants(redrawn(bundle_of(model), ["kernel"], 0).model_bytes)
    kernel, drawn = before["kernel"], after["kernel"]
    assert drawn.shape == kernel.shape
    assert drawn.dtype == kernel.dtype
    assert abs(np.corrcoef(kernel.ravel(), drawn.ravel())[0, 1]) < 0.2
    assert drawn.mean() == pytest.approx(kernel.mean(), abs=0.05)
    assert drawn.std() == pytest.approx(kernel.std(), rel=0.1)
    assert np.array_equal(before["cam_weights"], after["cam_weights"])


def test_a_further_stage_keeps_what_was_drawn_before_and_another_seed_does_not() -> None:
    bundle = bundle_of(tiny_model())
    one = constants(redrawn(bundle, ["cam_weights"], 0).model_bytes)
    both = constants(redrawn(bundle, ["cam_weights", "kernel"], 0).model_bytes)
    other = constants(redrawn(bundle, ["cam_weights"], 1).model_bytes)
    assert np.array_equal(one["cam_weights"], both["cam_weights"])
    assert not np.array_equal(one["cam_weights"], other["cam_weights"])


def test_weights_of_a_quantised_graph_stay_whole_numbers_in_their_range() -> None:
    whole = np.random.default_rng(0).integers(-127, 127, (64, 64)).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = graph_of(nodes, {"q": whole, "scale": np.float32(0.1)})
    assert weight_layers(model, "y") == (("q",),)
    drawn = constants(redrawn(bundle_of(model.SerializeToString()), ["q"], 0).model_bytes)["q"]
    assert drawn.dtype == np.int8
    assert drawn.std() == pytest.approx(whole.std(), rel=0.15)
    assert not np.array_equal(drawn, whole)


@pytest.mark.parametrize(("layers", "counts"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (8, (1, 2, 4, 8))])
def test_stages_double_and_end_with_all(layers: int, counts: tuple[int, ...]) -> None:
    assert stage_counts(layers) == counts


# --- likeness -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param([1, 2, 3, 4], [10, 20, 30, 400], 1.0, id="one order"),
        pytest.param([1, 2, 3, 4], [4, 3, 2, 1], -1.0, id="the opposite order"),
        pytest.param([1, 2, 2, 4], [1, 3, 2, 4], 0.948683, id="ties at their mean rank"),
        pytest.param([0, 0, 1, 2], [0, 1, 0, 2], 0.5, id="ties in both"),
        pytest.param([1, 2, 3, 4], [5, 5, 5, 5], 0.0, id="a flat map resembles nothing"),
    ],
)
def test_the_rank_correlation_is_spearmans(one: list[float], other: list[float], expected: float) -> None:
    """The expected values are those of scipy.stats.spearmanr."""
    maps = (np.array(values, dtype=np.float32).reshape(2, 2) for values in (one, other))
    assert rank_correlation(*maps) == pytest.approx(expected, abs=1e-5)


def test_absolute_values_and_positive_parts_are_compared() -> None:
    one = np.array([[-4, 1], [2, 3]], dtype=np.float32)
    seen = alike([one, one, one], [one, -one, None])
    assert seen.absolute == pytest.approx([1, 1, 0])
    assert seen.positive[0] == pytest.approx(1)
    assert seen.positive[1] < 0
    assert seen.positive[2] == 0


def test_unrelated_maps_are_fitted_to_each_other_and_never_compared_with_themselves() -> None:
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert unrelated([ramp, ramp[:, :2]], 0).absolute.min() > 0.9
    assert unrelated([ramp, ramp[::-1, ::-1]], 0).absolute == pytest.approx([-1, -1])
    assert unrelated([ramp], 0).absolute == pytest.approx([0])


@pytest.mark.parametrize(
    ("end", "others", "verdict"),
    [
        pytest.param(0.1, 0.1, "falls", id="nothing left"),
        pytest.param(-0.2, 0.1, "falls", id="less than unrelated"),
        pytest.param(0.4, 0.1, "falls in part", id="a third left"),
        pytest.param(0.8, 0.1, "stays", id="most left"),
        pytest.param(0.8, 0.75, "falls in part", id="all maps of this kind resemble each other"),
    ],
)
def test_the_verdict_can_come_out_either_way(end: float, others: float, verdict: str) -> None:
    start, low, chance = (Alike(np.full(6, value), np.full(6, value)) for value in (0.9, end, others))
    seen = randomised([(1, [start, start]), (3, [low, low])], chance, list("abcdef"), 0)
    assert seen.verdict == verdict
    assert [stage.layers for stage in seen.stages] == [0, 1, 3]
    assert [stage.absolute for stage in seen.stages] == [1.0, 0.9, end]
    assert seen.left_absolute == pytest.approx(end - others)


def test_one_measure_that_stays_is_enough_to_fail() -> None:
    low, high = np.zeros(4), np.full(4, 0.9)
    seen = randomised([(2, [Alike(low, high)])], Alike(low, low), list("abcd"), 0)
    assert seen.verdict == "stays"
    assert (seen.layers, seen.draws, seen.micrographs) == (2, 1, 4)
