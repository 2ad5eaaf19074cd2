"""Where novelty is read: the narrowest map that everything passes, half way down, in a graph of any make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from bundles import tiny_backbone, tiny_model
from foreign_models import small_onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.model_bundle import open_bundle
from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_head import append_cam_head, join_backbones, stack_heads
from trainer.exporting.onnx_graph import GraphError, measured_shapes
from trainer.trusting.feature_tap import MEAN, SPREAD, bottlenecks, feature_tap, with_pooled_outputs

if TYPE_CHECKING:
    from pathlib import Path

Step = tuple[str, list[str], str]
LABELS = 3


def graph_of(*steps: Step, channels: int = 8, rows: int | str = "rows") -> Any:
    """A model of steps (operator, inputs, output) on x [n, channels, rows, rows]; its answer is the last one."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(operator, inputs, [output], output) for operator, inputs, output in steps],
            "made",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, rows, rows])],
            [onnx.ValueInfoProto(name=steps[-1][2])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


CHAIN: tuple[Step, ...] = (("Relu", ["x"], "a"), ("Neg", ["a"], "b"), ("Abs", ["b"], "answer"))
RESIDUAL: tuple[Step, ...] = (
    ("Relu", ["x"], "a"),
    ("Neg", ["a"], "b"),
    ("Add", ["a", "b"], "c"),
    ("Abs", ["c"], "answer"),
)
BRANCHES: tuple[Step, ...] = (
    ("Relu", ["x"], "a"),
    ("Neg", ["a"], "left"),
    ("Abs", ["a"], "right"),
    ("Add", ["left", "right"], "joined"),
    ("Exp", ["joined"], "answer"),
)
SHORTCUT_FROM_THE_INPUT: tuple[Step, ...] = (
    ("Relu", ["x"], "a"),
    ("Neg", ["a"], "b"),
    ("Add", ["b", "x"], "c"),
    ("Abs", ["c"], "answer"),
)
PARALLEL: tuple[Step, ...] = (
    ("Relu", ["x"], "left"),
    ("Abs", ["x"], "right"),
    ("Neg", ["left"], "left again"),
    ("Add", ["left again", "right"], "answer"),
)
SIDE_OUTPUT: tuple[Step, ...] = (
    ("Relu", ["x"], "a"),
    ("Exp", ["a"], "aside"),
    ("Neg", ["a"], "b"),
    ("Abs", ["b"], "answer"),
)
SKIP_OVER_A_JOIN: tuple[Step, ...] = (
    ("Relu", ["x"], "a"),
    ("Neg", ["a"], "b"),
    ("Abs", ["b"], "c"),
    ("Add", ["c", "a"], "d"),
    ("Exp", ["d"], "answer"),
)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(CHAIN, ["a", "b"], id="chain: each"),
        pytest.param(RESIDUAL, ["a", "c"], id="residual: before and after, not beside the shortcut"),
        pytest.param(BRANCHES, ["a", "joined"], id="branches: where they part and where they join"),
        pytest.param(SHORTCUT_FROM_THE_INPUT, ["c"], id="a shortcut from the input"),
        pytest.param(PARALLEL, [], id="two branches from end to end"),
        pytest.param(SIDE_OUTPUT, ["a", "b"], id="what does not lead to the answer does not count"),
        pytest.param(SKIP_OVER_A_JOIN, ["a", "d"], id="nothing below a shortcut"),
    ],
)
def test_all_of_the_answer_passes_a_bottleneck(steps: tuple[Step, ...], expected: list[str]) -> None:
    assert bottlenecks(graph_of(*steps), "answer") == expected


def test_what_is_the_same_for_every_picture_is_no_place() -> None:
    model = graph_of(("Abs", ["weight"], "w"), ("Mul", ["x", "w"], "a"), ("Relu", ["a"], "answer"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 8, 1, 1), np.float32), "weight"))
    assert bottlenecks(model, "answer") == ["a"]


# --- which of them --------------------------------------------------------------------------------


def network(*strides_and_channels: tuple[int, int], labels: int = LABELS) -> Any:
    """Convolutions of these strides and channels, called map 0, map 1 ... features, with a CAM head."""
    random = np.random.default_rng(0)
    nodes, kernels, last, before = [], [], "x", 1
    for at, (stride, channels) in enumerate(strides_and_channels):
        kernels.append(
            numpy_helper.from_array(
                random.normal(0, 0.3, (channels, before, 3, 3)).astype(np.float32), f"k{at}"
            )
        )
        nodes.append(
            helper.make_node(
                "Conv", [last, f"k{at}"], [f"map {at}"], kernel_shape=[3, 3], strides=[stride] * 2,
                auto_pad="SAME_UPPER",
            )
        )  # fmt: skip
        last, before = f"map {at}", channels
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "rows", "columns"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", before, "down", "across"])],
        kernels,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return append_cam_head(model, random.normal(0, 1, (before, labels)).astype(np.float32), np.zeros(labels))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(network((8, 12), (2, 16), (1, 10), (2, 8)), "map 2", id="the narrowest at stride 16"),
        pytest.param(network((8, 12), (2, 16), (1, 16), (2, 8)), "map 1", id="the first of equals"),
        pytest.param(network((8, 12), (2, 4), (1, 16), (2, 8)), "map 2", id="four channels say too little"),
        pytest.param(network((4, 12), (2, 16)), "features", id="nothing at stride 16: the last"),
        pytest.param(network((16, 24), labels=9), "features", id="the map of nine classes is none"),
        pytest.param(network((4, 12), (2, 16), labels=9), "features", id="not where nothing else is at stride 16"),
    ],
)  # fmt: skip
def test_the_tap_is_the_narrowest_place_half_way_down(model: Any, expected: str) -> None:
    assert feature_tap(model, "probabilities", 128) == expected


def test_the_tap_of_the_shipped_bundle_is_a_projection_before_an_expansion() -> None:
    bundle = open_bundle()
    model, px = onnx.load_from_string(bundle.model_bytes), bundle.manifest.preprocessing.input_px
    tap = feature_tap(model, "probabilities", px)
    shapes = measured_shapes(model, [tap, *bottlenecks(model, "probabilities")], px)
    at_stride_16 = [s for s in shapes.values() if len(s) == 4 and s[2:] == (px // 16, px // 16)]
    assert shapes[tap] == (1, 80, px // 16, px // 16)
    assert shapes[tap][1] == min(shape[1] for shape in at_stride_16)


def test_a_network_of_two_layers_gives_its_last_map() -> None:
    model = onnx.load_from_string(tiny_model())
    tap = feature_tap(model, "probabilities", 64)
    assert measured_shapes(model, [tap], 64)[tap] == (1, 8, 8, 8)


def test_two_networks_in_one_graph_meet_in_their_joined_maps() -> None:
    backbones = [tiny_backbone(np.random.default_rng(seed)) for seed in (0, 1)]
    heads = [(np.ones((8, LABELS), np.float32), np.zeros(LABELS, np.float32))] * 2
    model = append_cam_head(join_backbones(backbones), *stack_heads(heads))
    tap = feature_tap(model, "probabilities", 64)
    assert measured_shapes(model, [tap], 64)[tap] == (1, 16, 8, 8)


def test_a_map_with_the_channels_last_is_not_taken() -> None:
    steps = (
        ("Relu", ["x"], "channels first"),
        ("Transpose", ["channels first"], "channels last"),
        ("Abs", ["channels last"], "behind"),
        ("Flatten", ["behind"], "answer"),
    )
    model = graph_of(*steps, channels=10, rows=16)
    model.graph.node[1].attribute.append(helper.make_attribute("perm", [0, 2, 3, 1]))
    assert bottlenecks(model, "answer") == ["channels first", "channels last", "behind"]
    assert feature_tap(model, "answer", 16) == "channels first"


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(PARALLEL, id="no bottleneck"),
        pytest.param((("GlobalAveragePool", ["x"], "a"), ("Flatten", ["a"], "answer")), id="one value a channel"),
        pytest.param((("Flatten", ["x"], "a"), ("Relu", ["a"], "answer")), id="no rows and columns"),
    ],
)  # fmt: skip
def test_a_graph_without_such_a_place_is_refused(steps: tuple[Step, ...]) -> None:
    with pytest.raises(GraphError, match="novelty cannot be read anywhere"):
        feature_tap(graph_of(*steps, rows=16), "answer", 16)


def test_an_onnx_file_of_other_people_has_a_tap_too(tmp_path: Path) -> None:
    model = onnx.load(small_onnx(tmp_path / "lab.onnx"))
    kernel = np.ones((9, 3, 3, 3), np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernel, "kernel"))
    model.graph.node.insert(1, helper.make_node("Conv", ["map", "narrow"], ["narrowed"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 9, 1, 1), np.float32), "narrow"))
    model.graph.node[2].input[0] = "narrowed"
    assert feature_tap(model, "answer", 32) == "map"


# --- pooled over the field ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (40, 72)], ids=str)
def test_mean_and_spread_over_the_field_are_outputs(shape: tuple[int, int]) -> None:
    model = onnx.load_from_string(tiny_model())
    before = model.SerializeToString()
    picture = np.random.default_rng(3).normal(size=(2, 1, *shape)).astype(np.float32)
    names = ["probabilities", "features", MEAN, SPREAD]
    session = onnx_session(with_pooled_outputs(model, "features", names[:2]))
    answer, maps, mean, spread = session.run(names, {"micrograph": picture})
    assert model.SerializeToString() == before, "the model itself stays"
    assert [put.name for put in session.get_outputs()] == names
    assert answer.shape == (2, LABELS)
    assert mean.shape == spread.shape == (2, 8, 1, 1)
    np.testing.assert_allclose(mean[:, :, 0, 0], maps.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(spread[:, :, 0, 0], maps.std(axis=(2, 3)), atol=1e-6)
