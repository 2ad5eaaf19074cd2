"""The CAM head as ONNX nodes: computed against numpy, named, and refused where it does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from trainer.exporting.cam_head import OPSET, append_cam_head, join_backbones, stack_heads
from trainer.exporting.onnx_graph import GraphError

CHANNELS = 6


def backbone(
    *,
    output: str = "last",
    channels: int = CHANNELS,
    rank: int = 4,
    extra_output: bool = False,
    domains: tuple[str, ...] = (),
) -> Any:
    """A backbone that only repeats its picture: channel k is (k + 1) times the picture."""
    factors = np.arange(1, channels + 1, dtype=np.float32).reshape(1, channels, 1, 1)
    shape: list[Any] = ["n", channels, "rows", "columns"][:rank]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "rows", "columns"]))
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factors"], [output])],
        "repeat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "rows", "columns"])],
        outputs,
        [onnx.numpy_helper.from_array(factors, "factors")],
    )
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


WEIGHTS = np.random.default_rng(0).normal(0, 1, (CHANNELS, 3)).astype(np.float32)
BIAS = np.array([0.5, -1.0, 0.0], dtype=np.float32)


def run(model: Any, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    probabilities, cam = session.run(["probabilities", "cam"], {"micrograph": inputs})
    return probabilities, cam


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 1, 2, 7)], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_map_logits_and_probabilities(shape: tuple[int, ...], temperature: float) -> None:
    inputs = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    probabilities, cam = run(append_cam_head(backbone(), WEIGHTS, BIAS, temperature), inputs)
    features = inputs * np.arange(1, CHANNELS + 1, dtype=np.float32)[None, :, None, None]
    expected = np.einsum("ncij,cl->nlij", features, WEIGHTS) + BIAS[None, :, None, None]
    np.testing.assert_allclose(cam, expected, atol=1e-5)
    raised = np.exp(expected.mean(axis=(2, 3)) / temperature)
    np.testing.assert_allclose(probabilities, raised / raised.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_names_shapes_and_opset_are_stated_in_the_graph() -> None:
    model = append_cam_head(backbone(), WEIGHTS, BIAS)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (only,) = session.get_inputs()
    assert (only.name, only.type) == ("micrograph", "tensor(float)")
    assert only.shape[1] == 1
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert list(shapes) == ["probabilities", "cam"]
    assert (shapes["probabilities"][1], shapes["cam"][1]) == (3, 3)
    free = [only.shape[0], *only.shape[2:], shapes["probabilities"][0], *shapes["cam"][2:]]
    assert not any(isinstance(size, int) for size in free), "batch, rows and columns are free"
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET)}


def test_a_backbone_whose_output_is_called_features_is_joined_too() -> None:
    inputs = np.ones((1, 1, 2, 2), dtype=np.float32)
    seen = run(append_cam_head(backbone(output="features"), WEIGHTS, BIAS), inputs)
    expected = run(append_cam_head(backbone(), WEIGHTS, BIAS), inputs)
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_operator_sets_that_no_node_uses_are_taken_out() -> None:
    model = append_cam_head(backbone(domains=("ai.onnx.ml",)), WEIGHTS, BIAS)
    assert [opset.domain for opset in model.opset_import] == [""]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"extra_output": True}, "must have one input and one output", id="two outputs"),
        pytest.param(
            {"channels": 4}, r"shape \[0, 4, 0, 0\] \(0: free\), not \[n, 6, rows, columns\]", id="channels"
        ),
        pytest.param({"rank": 2}, "the features have shape", id="no map"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(GraphError, match=text):
        append_cam_head(backbone(**changes), WEIGHTS, BIAS)


# --- ensembles ------------------------------------------------------------------------------------


def layered(upper: float) -> Any:
    """A backbone in two layers: the lower one the same in all, the upper one a factor of its own."""
    names = {
        "lower": np.full((1, 1, 1, 1), 2, np.float32),
        "upper": np.full((1, CHANNELS, 1, 1), upper, np.float32),
    }
    outputs = [helper.make_tensor_value_info("last", TensorProto.FLOAT, ["n", CHANNELS, "rows", "columns"])]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "lower"], ["half"]),
            helper.make_node("Mul", ["half", "upper"], ["last"]),
        ],
        "layered",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "rows", "columns"])],
        outputs,
        [onnx.numpy_helper.from_array(values, name) for name, values in names.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


UPPERS = (0.5, -1.0, 3.0)
HEADS = [(WEIGHTS * (one + 1), BIAS - one) for one in range(3)]


def test_an_ensembles_map_and_logits_are_the_mean_of_its_members() -> None:
    inputs = np.random.default_rng(2).normal(0, 0.3, (2, 1, 3, 5)).astype(np.float32)
    members = [
        run(append_cam_head(layered(upper), *head), inputs)[1]
        for upper, head in zip(UPPERS, HEADS, strict=True)
    ]
    joined = append_cam_head(join_backbones([layered(upper) for upper in UPPERS]), *stack_heads(HEADS))
    probabilities, cam = run(joined, inputs)
    np.testing.assert_allclose(cam, np.mean(members, axis=0), atol=1e-5)
    raised = np.exp(np.mean(members, axis=0).mean(axis=(2, 3)))
    np.testing.assert_allclose(probabilities, raised / raised.sum(axis=1, keepdims=True), atol=1e-6)


def test_what_members_share_is_computed_once() -> None:
    joined = join_backbones([layered(upper) for upper in UPPERS])
    assert [node.op_type for node in joined.graph.node].count("Mul") == 1 + len(UPPERS)
    assert len(joined.graph.initializer) == 1 + len(UPPERS)
    assert len(joined.graph.input) == len(joined.graph.output) == 1
    assert joined.graph.output[0].type.tensor_type.shape.dim[1].dim_value == len(UPPERS) * CHANNELS


def test_members_that_are_one_and_the_same_still_count_twice() -> None:
    inputs = np.random.default_rng(3).normal(0, 0.3, (1, 1, 3, 3)).astype(np.float32)
    joined = append_cam_head(join_backbones([layered(0.5), layered(0.5)]), *stack_heads(HEADS[:2]))
    expected = [run(append_cam_head(layered(0.5), *head), inputs)[1] for head in HEADS[:2]]
    np.testing.assert_allclose(run(joined, inputs)[1], np.mean(expected, axis=0), atol=1e-5)


def test_a_single_backbone_stays_what_it_is() -> None:
    alone = layered(0.5)
    assert join_backbones([alone]) is alone
    weights, bias = stack_heads(HEADS[:1])
    np.testing.assert_array_equal(weights, WEIGHTS)
    np.testing.assert_array_equal(bias, BIAS)
