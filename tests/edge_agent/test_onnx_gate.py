"""What an ONNX file must not hold, however it is hidden; and that the gate itself falls over nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import tiny_model
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from edge_agent.onnx_gate import ALLOWED_OPERATORS, OnnxRefused, gate_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = (("micrograph",), ("probabilities", "cam"))
SQUARE = ["batch", 1, "rows", "columns"]


def plain() -> Any:
    """A model that passes: one weight, one constant, two outputs."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "Constant", [], ["offset"], value=numpy_helper.from_array(np.ones(1, np.float32))
            ),
            helper.make_node("Add", ["micrograph", "offset"], ["moved"]),
            helper.make_node("Mul", ["moved", "weight"], ["cam"]),
            helper.make_node("Softmax", ["cam"], ["probabilities"]),
        ],
        "plain",
        [helper.make_tensor_value_info("micrograph", TensorProto.FLOAT, SQUARE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SQUARE) for name in NAMES[1]],
        [numpy_helper.from_array(np.full(1, 2, np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def changed(change: Callable[[Any], object]) -> bytes:
    model = plain()
    change(model)
    return bytes(model.SerializeToString())


def refusal(data: bytes, names: tuple[tuple[str, ...], tuple[str, ...]] = NAMES) -> str:
    with pytest.raises(OnnxRefused) as refused:
        gate_model(data, names)
    return str(refused.value)


def externalise(tensor: Any) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("data", [plain().SerializeToString(), tiny_model()], ids=["plain", "tiny"])
def test_a_plain_model_passes_and_runs(data):
    gate_model(data, NAMES)

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert session.run(["cam"], {"micrograph": np.zeros((1, 1, 16, 16), np.float32)})


# --- values kept elsewhere ---


def in_a_list(model: Any) -> None:
    attribute = model.graph.node[0].attribute.add(name="more", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.add().CopyFrom(model.graph.initializer[0])
    externalise(attribute.tensors[0])


def only_marked(model: Any) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def only_placed(model: Any) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


EXTERNAL = {
    "initializer": lambda model: externalise(model.graph.initializer[0]),
    "constant attribute": lambda model: externalise(model.graph.node[0].attribute[0].t),
    "list of tensors": in_a_list,
    "marked without a place": only_marked,
    "placed without a mark": only_placed,
}


@pytest.mark.parametrize("change", EXTERNAL.values(), ids=EXTERNAL)
def test_external_data_is_refused(change):
    assert refusal(changed(change)) == "a tensor keeps its values in another file (external data)"


# --- what is not a plain CNN ---


def loop_in_attribute(model: Any, name: str, several: bool = False) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute(name, [body] if several else body))


def sparse_weight(model: Any) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(model.graph.initializer[0])


def sparse_constant(model: Any) -> None:
    sparse = onnx.SparseTensorProto()
    sparse.values.CopyFrom(model.graph.initializer[0])
    model.graph.node[0].attribute.add(name="sparse_value", sparse_tensor=sparse)


def with_operator(name: str, domain: str = "") -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.graph.node[1].op_type = name
        model.graph.node[1].domain = domain

    return change


def function(model: Any) -> None:
    model.functions.append(
        helper.make_function("own", "Add", ["a"], ["b"], [], [helper.make_opsetid("", 17)])
    )


NO_GRAPHS = "a node carries a graph or a sparse tensor of its own"
NOT_PLAIN = {
    "if": (with_operator("If"), "the operator 'If' is not on the list of allowed ones"),
    "loop": (with_operator("Loop"), "the operator 'Loop' is not on the list of allowed ones"),
    "no operator": (with_operator(""), "the operator '' is not on the list of allowed ones"),
    "unicode": (with_operator("Cоnv"), "the operator 'Cоnv' is not on the list of allowed ones"),
    "nul": (with_operator("Conv\0"), "the operator 'Conv\\x00' is not on the list of allowed ones"),
    "contrib": (with_operator("Add", "com.microsoft"), "it uses the operator domain 'com.microsoft'"),
    "own domain": (with_operator("Add", "ai.onnx.ml"), "it uses the operator domain 'ai.onnx.ml'"),
    "declared domain": (
        lambda model: model.opset_import.append(helper.make_opsetid("custom", 1)),
        "it uses the operator domain 'custom'",
    ),
    "graph attribute": (lambda model: loop_in_attribute(model, "body"), NO_GRAPHS),
    "graphs attribute": (lambda model: loop_in_attribute(model, "bodies", several=True), NO_GRAPHS),
    "sparse constant": (sparse_constant, NO_GRAPHS),
    "sparse weight": (sparse_weight, "it carries sparse tensors"),
    "function": (function, "it carries functions or training information of its own"),
    "training": (
        lambda model: model.training_info.add(),
        "it carries functions or training information of its own",
    ),
    "no opset": (
        lambda model: model.ClearField("opset_import"),
        "it states no version of its operators, or was cut off",
    ),
}


@pytest.mark.parametrize(("change", "message"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_no_plain_network_holds_is_refused(change, message):
    assert refusal(changed(change)) == message


def test_the_domain_by_its_long_name_is_the_standard_one():
    assert gate_model(changed(with_operator("Add", "ai.onnx")), NAMES) is None


NOT_PLAIN_OPERATORS = set(
    """
    Bernoulli If ImageDecoder Loop Multinomial Optional OptionalGetElement OptionalHasElement RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike RegexFullMatch Scan SequenceAt SequenceConstruct SequenceMap
    SplitToSequence ConcatFromSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer
    """.split()
)


def test_no_allowed_operator_runs_a_graph_draws_at_random_or_handles_anything_but_tensors():
    schemas = {schema.name: schema for schema in onnx.defs.get_all_schemas()}

    assert set(schemas) >= ALLOWED_OPERATORS
    assert set(schemas) >= NOT_PLAIN_OPERATORS
    assert not ALLOWED_OPERATORS & NOT_PLAIN_OPERATORS
    for name in ALLOWED_OPERATORS:
        schema = schemas[name]
        kinds = {attribute.type for attribute in schema.attributes.values()}
        assert onnx.defs.OpSchema.AttrType.GRAPH not in kinds
        types = {kind for constraint in schema.type_constraints for kind in constraint.allowed_type_strs}
        if name != "Identity":  # which hands on whatever it is given
            assert not any(kind.startswith(("seq(", "optional(", "map(")) for kind in types), name


def test_what_networks_and_their_derivatives_are_made_of_is_allowed():
    keras = (
        "ConvTranspose BatchNormalization LayerNormalization Relu Elu Selu Softplus Softsign Erf Gelu Softmax"
    )
    zoo = "LRN Resize PRelu Celu LogSoftmax InstanceNormalization GroupNormalization DepthToSpace SpaceToDepth Mish"
    backwards = (
        "Equal GreaterOrEqual LessOrEqual Not And Or Sign Tile ConstantOfShape ScatterElements MaxUnpool"
    )

    assert set(f"{keras} {zoo} {backwards}".split()) <= ALLOWED_OPERATORS


# --- names ---


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            (("image",), ("cam",)),
            "it has no input named image (it has micrograph)",
        ),
        (
            (("micrograph",), ("cam", "novelty", "logits")),
            "it has no output named logits, novelty (it has cam, probabilities)",
        ),
    ],
    ids=["input", "outputs"],
)
def test_a_missing_tensor_is_named(names, message):
    assert refusal(plain().SerializeToString(), names) == message


def test_an_input_that_the_manifest_does_not_name_is_refused():
    more = helper.make_tensor_value_info("mask", TensorProto.FLOAT, SQUARE)

    message = refusal(changed(lambda model: model.graph.input.append(more)))

    assert message == "it wants inputs that the manifest does not name: mask, micrograph"


def test_weights_may_be_listed_as_inputs_as_older_exporters_do():
    weight = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [1])

    assert gate_model(changed(lambda model: model.graph.input.append(weight)), NAMES) is None


def test_a_model_of_nothing_names_nothing():
    def empty(model: Any) -> None:
        for part in ("node", "input", "output", "initializer"):
            model.graph.ClearField(part)

    assert refusal(changed(empty)) == "it has no input named micrograph (it has none)"


# --- the same, hidden in the encoding ---


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, payload: bytes | int) -> bytes:
    """One protobuf field: a number as varint, bytes with their length."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def with_tensor(extra: bytes) -> bytes:
    """The plain model, further raw fields at the end of its weight."""
    model = plain()
    weight = bytes(model.graph.initializer[0].SerializeToString()) + extra
    model.graph.ClearField("initializer")
    graph = bytes(model.graph.SerializeToString()) + field(5, weight)
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, graph)


def with_node(extra: bytes) -> bytes:
    """The plain model, further raw fields at the end of a node of it."""
    model = plain()
    node = bytes(model.graph.node[1].SerializeToString()) + extra
    del model.graph.node[1]
    graph = field(1, node) + bytes(model.graph.SerializeToString())
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, graph)


def graph_bytes() -> bytes:
    return bytes(plain().graph.SerializeToString())


EXTERNAL_MESSAGE = "a tensor keeps its values in another file (external data)"
HIDDEN = {
    "location twice, harmless last": (with_tensor(field(14, 1) + field(14, 0)), EXTERNAL_MESSAGE),
    "location beyond 32 bits": (with_tensor(field(14, (1 << 32) + 1)), EXTERNAL_MESSAGE),
    "location in a long encoding": (with_tensor(varint(14 << 3) + b"\x81\x80\x80\x00"), EXTERNAL_MESSAGE),
    "location as bytes": (with_tensor(field(14, b"\x01")), EXTERNAL_MESSAGE),
    "place in two pieces": (with_tensor(field(13, b"") + field(13, b"\x0a\x00")), EXTERNAL_MESSAGE),
    "field number beyond 32 bits": (
        with_tensor(varint((1 << 32) + (13 << 3 | 2)) + b"\x00"),
        "not an ONNX model (protobuf field 536870925)",
    ),
    "field number in a long encoding": (with_tensor(b"\xea\x80\x80\x80\x00\x00"), EXTERNAL_MESSAGE),
    "field number 0": (with_tensor(b"\x02\x00"), "not an ONNX model (protobuf field 0)"),
    "group": (with_tensor(b"\x6b\x6c"), "not an ONNX model (protobuf wire type 3)"),
    "operator twice": (
        with_node(field(4, b"Loop")),
        "the operator 'Loop' is not on the list of allowed ones",
    ),
    "domain twice": (with_node(field(7, b"") + field(7, b"evil")), "it uses the operator domain 'evil'"),
    "constant in two pieces": (
        with_node(field(5, field(5, b"") + field(5, field(14, 1)))),
        EXTERNAL_MESSAGE,
    ),
    "graph twice": (
        bytes(plain().SerializeToString()) + field(7, graph_bytes()),
        "not an ONNX model (2 graphs found where one should be)",
    ),
    "graph as a number": (
        field(7, 1) + field(8, field(2, 17)),
        "not an ONNX model (0 graphs found where one should be)",
    ),
    "function as a number": (
        bytes(plain().SerializeToString()) + field(25, 1),
        "it carries functions or training information of its own",
    ),
    "number of 77 bits": (
        b"\x08" + b"\xff" * 10 + b"\x01",
        "not an ONNX model (a number longer than 64 bits)",
    ),
    "length of 2^63": (
        b"\x0a" + varint(1 << 63),
        "not an ONNX model, or cut off (a field reaches beyond the end)",
    ),
    "half a number": (b"\x08\xff", "not an ONNX model, or cut off (in the middle of a number)"),
    "fixed number cut off": (
        b"\x09\x00\x00",
        "not an ONNX model, or cut off (a field reaches beyond the end)",
    ),
    "nothing": (b"", "not an ONNX model (0 graphs found where one should be)"),
    "text": (b"model.onnx goes here", "not an ONNX model (protobuf wire type 6)"),
}


@pytest.mark.parametrize(("data", "message"), HIDDEN.values(), ids=HIDDEN)
def test_nothing_hides_in_the_encoding(data, message):
    assert refusal(data) == message


def test_a_repeated_field_that_changes_nothing_passes():
    assert gate_model(with_tensor(field(14, 0) + field(14, 0)), NAMES) is None
    assert gate_model(with_node(field(4, b"Loop") + field(4, b"Add")), NAMES) is None


def test_the_runtimes_own_format_is_refused(tmp_path: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    onnxruntime.InferenceSession(tiny_model(), options, providers=["CPUExecutionProvider"])
    data = (tmp_path / "model.ort").read_bytes()

    assert refusal(data) == "it is in ONNX Runtime's own format, which cannot be looked into"
    # What makes it dangerous: protobuf may begin with the same eight bytes and go on as a plain model.
    both = field(2, b"\0\0ORTM") + bytes(plain().SerializeToString())
    assert onnx.load_from_string(both).graph.name == "plain"
    assert refusal(both) == "it is in ONNX Runtime's own format, which cannot be looked into"


# --- damage ---


def test_a_model_cut_off_anywhere_is_refused():
    data = bytes(plain().SerializeToString())

    for length in range(len(data)):
        assert refusal(data[:length])


def test_random_bytes_are_refused():
    source = random.Random(0)
    for _ in range(300):
        assert refusal(source.randbytes(source.randrange(200)))


def plain_for_everybody(data: bytes) -> bool:
    """What the official parser sees: no external data, allowed operators, the right names."""
    model = onnx.load_from_string(data)
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]
    return (
        not any(tensor.external_data or tensor.data_location for tensor in tensors)
        and all(node.op_type in ALLOWED_OPERATORS for node in model.graph.node)
        and all(node.domain in ("", "ai.onnx") for node in model.graph.node)
        and not any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute)
        and not model.functions
        and {entry.name for entry in model.graph.output} >= set(NAMES[1])
    )


def test_a_damaged_model_is_refused_or_still_plain():
    source, data, passed = random.Random(1), plain().SerializeToString(), 0
    for _ in range(3000):
        mutant = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 6))):
            mutant[source.randrange(len(mutant))] = source.randrange(256)
        try:
            gate_model(bytes(mutant), NAMES)
        except OnnxRefused as refused:
            assert str(refused)
            continue
        passed += 1
        try:
            assert plain_for_everybody(bytes(mutant))
        except DecodeError:
            continue  # stricter than the gate, about text that is not UTF-8 for instance

    assert passed > 300
