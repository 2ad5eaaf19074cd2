"""A model cut to some of its outputs: the same answers, and nothing else left in the file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import in_form, tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_agent.onnx_file import OnnxRefused, cut_to_outputs, fields, text_field

INPUT = np.random.default_rng(0).uniform(-1, 1, (2, 1, 40, 72)).astype(np.float32)


def run(model: bytes, names: list[str]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(names, {"micrograph": INPUT})


@pytest.mark.parametrize(
    "outputs",
    [["probabilities"], ["cam"], ["probabilities", "cam"], ["probabilities", "cam_every_class"]],
    ids=" and ".join,
)
def test_a_cut_model_gives_the_same(outputs: list[str]):
    whole = in_form(tiny_model(), "winner")

    cut = cut_to_outputs(whole, tuple(outputs))

    onnx.checker.check_model(onnx.load_from_string(cut), full_check=True)
    assert len(cut) < len(whole)
    for seen, expected in zip(run(cut, outputs), run(whole, outputs), strict=True):
        assert np.array_equal(seen, expected)


def test_nothing_is_left_that_no_output_needs():
    model = onnx.load_from_string(in_form(tiny_model(), "winner"))
    model.graph.value_info.append(helper.make_tensor_value_info("share", TensorProto.FLOAT, None))
    model.doc_string, model.graph.doc_string = "about", "a graph"
    entry = model.metadata_props.add()
    entry.key, entry.value = "labels", "a,b"

    cut = onnx.load_from_string(cut_to_outputs(model.SerializeToString(), ("probabilities",)))

    assert [put.name for put in cut.graph.output] == ["probabilities"]
    assert [node.op_type for node in cut.graph.node] == [
        "Conv", "Relu", "Conv", "GlobalAveragePool", "Flatten", "Div", "Softmax",
    ]  # fmt: skip
    assert not {"places", "behind"} & {tensor.name for tensor in cut.graph.initializer}
    assert "share" not in {value.name for value in cut.graph.value_info}
    assert (cut.doc_string, cut.graph.doc_string, cut.metadata_props[0].value) == ("about", "a graph", "a,b")
    assert cut.opset_import == model.opset_import


def test_all_outputs_leave_the_model_as_it_is():
    model = onnx.load_from_string(in_form(tiny_model(), "winner"))
    names = tuple(put.name for put in model.graph.output)

    cut = cut_to_outputs(model.SerializeToString(), names)

    assert onnx.load_from_string(cut) == model


def test_inputs_stay_but_for_constants_that_nothing_reads():
    unread = helper.make_tensor_value_info("unread", TensorProto.FLOAT, [1])
    default = helper.make_tensor_value_info("default", TensorProto.FLOAT, [1])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph(
        [helper.make_node("Clip", ["x", "", "default"], ["z"]), helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [x, unread, default],
        [y, helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "default")],
    )

    cut = onnx.load_from_string(cut_to_outputs(helper.make_model(graph).SerializeToString(), ("y",)))

    assert [put.name for put in cut.graph.input] == ["x", "unread"]
    assert [node.op_type for node in cut.graph.node] == ["Neg"]


def test_the_last_of_a_repeated_field_counts():
    assert text_field(memoryview(b"\x0a\x01a\x0a\x01b"), 1) == "b"
    assert text_field(memoryview(b"\x0a\x01a"), 2) == ""
    assert [value for _, value in fields(memoryview(b"\x08\x96\x01\x15\0\0\0\0"))] == [150, 0]


@pytest.mark.parametrize("data", [b"\x0a\xff\x01a", b"\x0a", b"\x0b\x01"], ids=["too long", "cut", "a group"])
def test_what_is_no_protobuf_is_refused(data: bytes):
    with pytest.raises(OnnxRefused, match="not an ONNX model"):
        cut_to_outputs(data, ("y",))
