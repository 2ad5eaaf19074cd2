"""Looks into an ONNX file before ONNX Runtime sees it, with a minimal reader of its protobuf encoding.

Refuses external data (a model loaded from bytes would still read any file in the current folder), operators and
domains outside the list of what a CNN with a CAM head needs, sub-graphs, functions, and missing tensor names.
Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED_OPERATORS: Final = frozenset(
    """
    Add AveragePool BatchNormalization Cast Clip Concat Constant Conv DequantizeLinear Div Exp Flatten Gather Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity MatMul MaxPool Mul Neg Pad Pow QLinearConv
    QuantizeLinear ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid Slice Softmax Split Sqrt
    Squeeze Sub Sum Tanh Transpose Unsqueeze Where Greater Less LeakyRelu Log ArgMax TopK ReduceL2 Expand
    """.split()
)

_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTIONS, _MODEL_TRAINING = 7, 8, 25, 20
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_ATTRIBUTE, _NODE_OPERATOR, _NODE_DOMAIN = 5, 4, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (
    5,
    6,
    10,
    11,
    22,
)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# ONNX Runtime takes bytes with this mark for a flatbuffer, whatever else they may be read as.
_ORT_MARK: Final = b"ORTM"


class OnnxRefused(Exception):
    """The ONNX file holds something that it must not hold."""


def gate_model(data: bytes, names: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Refuse a model that is not plain; `names` are the inputs and the outputs that it must have.

    Raises:
        OnnxRefused: with what was found.
    """
    if data[4:8] == _ORT_MARK:
        raise OnnxRefused("it is in ONNX Runtime's own format, which cannot be looked into")
    model = memoryview(data)
    graphs = []
    stated = False
    for field, value in _fields(model):
        if field == _MODEL_GRAPH and isinstance(value, memoryview):
            graphs.append(value)
        elif field in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
            raise OnnxRefused("it carries functions or training information of its own")
        elif field == _MODEL_OPSET and isinstance(value, memoryview):
            _check_domain(_text_field(value, 1))
            stated = True
    if len(graphs) != 1:
        raise OnnxRefused(f"not an ONNX model ({len(graphs)} graphs found where one should be)")
    if not stated:
        raise OnnxRefused("it states no version of its operators, or was cut off")
    _check_names(names, *_check_graph(graphs[0]))


def _check_names(names: tuple[tuple[str, ...], tuple[str, ...]], inputs: set[str], outputs: set[str]) -> None:
    for kind, wanted, seen in (("input", names[0], inputs), ("output", names[1], outputs)):
        missing = sorted(set(wanted) - seen)
        if missing:
            raise OnnxRefused(
                f"it has no {kind} named {', '.join(missing)} (it has {', '.join(sorted(seen)) or 'none'})"
            )
    if inputs != set(names[0]):
        raise OnnxRefused(f"it wants inputs that the manifest does not name: {', '.join(sorted(inputs))}")


def _check_graph(graph: memoryview) -> tuple[set[str], set[str]]:
    inputs, outputs, constants = set(), set(), set()
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == _GRAPH_NODE:
            _check_node(value)
        elif field == _GRAPH_INITIALIZER:
            _check_tensor(value)
            constants.add(_text_field(value, 8))
        elif field == _GRAPH_INPUT:
            inputs.add(_text_field(value, 1))
        elif field == _GRAPH_OUTPUT:
            outputs.add(_text_field(value, 1))
        elif field == _GRAPH_SPARSE:
            raise OnnxRefused("it carries sparse tensors")
    return inputs - constants, outputs


def _check_node(node: memoryview) -> None:
    operator = _text_field(node, _NODE_OPERATOR)
    _check_domain(_text_field(node, _NODE_DOMAIN))
    if operator not in ALLOWED_OPERATORS:
        raise OnnxRefused(f"the operator {operator!r} is not on the list of allowed ones")
    for field, value in _fields(node):
        if field == _NODE_ATTRIBUTE and isinstance(value, memoryview):
            _check_attribute(value)


def _check_attribute(attribute: memoryview) -> None:
    for field, value in _fields(attribute):
        if field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE):
            raise OnnxRefused("a node carries a graph or a sparse tensor of its own")
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and isinstance(value, memoryview):
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise OnnxRefused("a tensor keeps its values in another file (external data)")


def _check_domain(domain: str) -> None:
    if domain not in ("", "ai.onnx"):
        raise OnnxRefused(f"it uses the operator domain {domain!r}")


def _text_field(message: memoryview, wanted: int) -> str:
    found = ""
    for field, value in _fields(message):
        if field == wanted and isinstance(value, memoryview):
            found = bytes(value).decode("utf-8", "replace")
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of each field of a protobuf message; bytes come as views, fixed sizes as 0."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        field, kind = key >> 3, key & 7
        if not 8 <= key < 1 << 32:  # other readers cut it to 32 bits, and would see another field
            raise OnnxRefused(f"not an ONNX model (protobuf field {field})")
        if kind == _VARINT:
            number, at = _varint(message, at)
            yield field, number
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise OnnxRefused(f"not an ONNX model (protobuf wire type {kind})")
        if length > end - at:
            raise OnnxRefused("not an ONNX model, or cut off (a field reaches beyond the end)")
        yield field, message[at : at + length] if kind == _BYTES else 0
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 70:
        if at >= len(message):
            raise OnnxRefused("not an ONNX model, or cut off (in the middle of a number)")
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise OnnxRefused("not an ONNX model (a number longer than 64 bits)")
