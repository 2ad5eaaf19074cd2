"""Somebody's ONNX graph between the agent's input and its probabilities; refused with what was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_graph import append_maps
from trainer.exporting.onnx_graph import GraphError
from trainer.importing.foreign_graph import Colours, agent_graph

SIDE = 16
LABELS = ("a", "b", "c")


def network(
    *,
    shape: tuple[Any, ...] = ("n", 3, SIDE, SIDE),
    ending: str = "Softmax",
    classes: int = 3,
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    last: str = "plain",
) -> Any:
    """A small CNN as PyTorch writes it: channels first, dense weights [out, in]."""
    random = np.random.default_rng(0)
    at_end = shape[1] not in (1, 3)
    channels = shape[3] if at_end else shape[1]
    weights = {
        "kernel": random.normal(0, 0.3, (5, channels, 4, 4)),
        "dense": random.normal(0, 1, (classes, 5)),
        "bias": random.normal(0, 1, classes),
    }
    nodes = []
    x = "x"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [x], ["float"], to=TensorProto.FLOAT))
        x = "float"
    if at_end:
        nodes.append(helper.make_node("Transpose", [x], ["first"], perm=[0, 3, 1, 2]))
        x = "first"
    nodes += [
        helper.make_node("Conv", [x, "kernel"], ["map"], strides=[4, 4]),
        helper.make_node("Relu", ["map"], ["bright"]),
        helper.make_node("GlobalAveragePool", ["bright"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"], transB=1),
    ]
    if ending:
        nodes.append(
            helper.make_node(ending, ["logits"], ["answer"], **({"axis": 1} if ending != "Sigmoid" else {}))
        )
    out = "answer" if ending else "logits"
    if last == "shaped":
        nodes.append(helper.make_node("Unsqueeze", [out, "places"], ["shaped"]))
        weights["places"], out = np.array([2, 3]), "shaped"
    constants = [
        numpy_helper.from_array(value.astype(np.int64 if name == "places" else np.float32), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [onnx.ValueInfoProto(name=out)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def probabilities(graph: Any, shown: np.ndarray) -> np.ndarray:
    return np.asarray(onnx_session(graph.model.SerializeToString()).run(None, {"micrograph": shown})[0])


def own_answer(model: Any, fed: np.ndarray) -> np.ndarray:
    session = onnx_session(model.SerializeToString())
    return np.asarray(session.run(None, {session.get_inputs()[0].name: fed})[0])


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


SHOWN = np.random.default_rng(5).random((1, 1, SIDE, SIDE)).astype(np.float32)
RGB = np.repeat(SHOWN, 3, axis=1)

TAKEN: dict[str, tuple[dict[str, Any], np.ndarray, int]] = {
    "channels first, softmax": ({}, RGB, 3),
    "channels last": ({"shape": ("n", SIDE, SIDE, 3)}, RGB.transpose(0, 2, 3, 1), 3),
    "one channel": ({"shape": ("n", 1, SIDE, SIDE)}, SHOWN, 1),
    "one picture at a time": ({"shape": (1, 3, SIDE, SIDE)}, RGB, 3),
    "an answer with places": ({"last": "shaped"}, RGB, 3),
    "log of the softmax": ({"ending": "LogSoftmax"}, RGB, 3),
    "no softmax": ({"ending": ""}, RGB, 3),
    "old operators": ({"opset": 11}, RGB, 3),
    "new operators": ({"opset": 21}, RGB, 3),
    "half precision at the door": ({"kind": TensorProto.FLOAT16}, RGB.astype(np.float16), 3),
}


@pytest.mark.parametrize("case", TAKEN)
def test_answers_stay_as_they_were(case: str) -> None:
    given, fed, channels = TAKEN[case]
    model = network(**given)
    expected = own_answer(model, fed).reshape(1, -1)
    if given.get("ending") in ("", "LogSoftmax"):
        expected = softmax(expected)
    graph = agent_graph(model, LABELS, input_px=None)
    assert (graph.input_px, graph.channels, graph.fixed_size) == (SIDE, channels, True)
    tolerance = 1e-3 if "half" in case else 1e-6
    np.testing.assert_allclose(probabilities(graph, SHOWN), expected, atol=tolerance)
    mapped = append_maps(graph.model, input_px=SIDE)
    assert mapped.method == "cam"


def test_one_sigmoid_answers_two_classes_the_second_of_which_it_names() -> None:
    model = network(ending="Sigmoid", classes=1)
    likely = own_answer(model, RGB)
    graph = agent_graph(model, ("no", "yes"), input_px=None)
    assert graph.ending == "one sigmoid"
    np.testing.assert_allclose(
        probabilities(graph, SHOWN), np.concatenate([1 - likely, likely], axis=1), atol=1e-6
    )


def test_mean_and_spread_are_taken_off_each_channel() -> None:
    model = network()
    mean, spread = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    by_channel = [np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, spread)]
    expected = own_answer(model, (RGB - by_channel[0]) / by_channel[1])
    graph = agent_graph(model, LABELS, input_px=None, colours=Colours(mean, spread))
    np.testing.assert_allclose(probabilities(graph, SHOWN), expected, atol=1e-6)


def test_free_sizes_stay_free_and_need_a_size_to_be_said() -> None:
    free = ("n", 3, "h", "w")
    with pytest.raises(GraphError, match="takes any size: say with --input-size which it was trained on"):
        agent_graph(network(shape=free), LABELS, input_px=None)
    graph = agent_graph(network(shape=free), LABELS, input_px=SIDE)
    assert not graph.fixed_size
    oblong = np.random.default_rng(0).random((2, 1, 12, 24)).astype(np.float32)
    np.testing.assert_allclose(
        probabilities(graph, oblong), own_answer(network(shape=free), np.repeat(oblong, 3, axis=1)), atol=1e-6
    )


def test_channels_moved_last_and_back_again_cost_nothing() -> None:
    graph = agent_graph(network(shape=("n", SIDE, SIDE, 3)), LABELS, input_px=None)
    assert "Transpose" not in {node.op_type for node in graph.model.graph.node}


def changed(**fields: Any) -> Any:
    model = network()
    for field, change in fields.items():
        change(getattr(model.graph, field))
    return model


def custom() -> Any:
    model = network()
    model.graph.node[1].domain = "my.layers"
    model.opset_import.append(helper.make_opsetid("my.layers", 1))
    return model


def looping() -> Any:
    model = network()
    model.graph.node[1].op_type = "NonMaxSuppression"
    return model


REFUSED: dict[str, tuple[Any, tuple[str, ...], int | None, str]] = {
    "labels": (network(), ("a", "b"), None, r"it answers 3 classes, 2 labels are given \(a, b\)"),
    "several outputs": (
        changed(output=lambda put: put.append(onnx.ValueInfoProto(name="flat"))),
        LABELS,
        None,
        r"it has 2 outputs \(answer, flat\); export it with the class probabilities alone",
    ),
    "several inputs": (
        changed(input=lambda put: put.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, [1]))),
        LABELS,
        None,
        r"it has 2 inputs \(x, age\)",
    ),
    "custom layer": (custom(), LABELS, None, r"it uses custom operators \(my\.layers\.Relu\)"),
    "operator": (looping(), LABELS, None, "operators that the agent does not run: NonMaxSuppression"),
    "size": (network(), LABELS, 150, "its input is 16 x 16, --input-size says 150"),
    "channels": (network(shape=("n", 4, SIDE, 5)), LABELS, None, "has neither 1 nor 3 channels"),
    "many pictures": (network(shape=(8, 3, SIDE, SIDE)), LABELS, None, "takes 8 pictures at once"),
    "not square": (network(shape=("n", 3, SIDE, 32)), LABELS, None, "is 16 x 32, not square"),
    "several sigmoids": (
        network(ending="Sigmoid"),
        LABELS,
        None,
        "has 3 sigmoids: classes that do not exclude",
    ),
    "whole numbers": (network(kind=TensorProto.INT64), LABELS, None, "does not take floating-point numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_seen(case: str) -> None:
    model, labels, input_px, reason = REFUSED[case]
    with pytest.raises(GraphError, match=reason):
        agent_graph(model, labels, input_px=input_px)
