"""Reads the protobuf encoding of an ONNX file, and cuts a model down to what some of its outputs need.

The agent does not import `onnx`. Only this module knows the encoding; field numbers are those of onnx.proto3
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).

Why models are cut: ONNX Runtime computes every node of a graph in each run, whichever outputs are fetched, and also
those that no output needs (seen with 1.32; `only_execute_path_to_fetches` is for its training build).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL_GRAPH: Final = 7
GRAPH_NODE: Final = 1
GRAPH_INITIALIZER: Final = 5
GRAPH_INPUT: Final = 11
GRAPH_OUTPUT: Final = 12
VALUE_NAME: Final = 1
TENSOR_NAME: Final = 8
_GRAPH_VALUE, _GRAPH_QUANTIZATION = 13, 14
_NODE_INPUT, _NODE_OUTPUT = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMED: Final = {
    GRAPH_INITIALIZER: TENSOR_NAME,
    GRAPH_INPUT: VALUE_NAME,
    _GRAPH_VALUE: VALUE_NAME,
    _GRAPH_QUANTIZATION: 1,
}


class OnnxRefused(Exception):
    """The ONNX file holds something that it must not hold."""


def cut_to_outputs(data: bytes, outputs: tuple[str, ...]) -> bytes:
    """Leave these outputs in a model, with the nodes and constants that they need; the input stays as it is.

    Raises:
        OnnxRefused: not the encoding of a model.
    """
    pieces: list[bytes | memoryview] = []
    for field, value, raw in _records(memoryview(data)):
        if field != MODEL_GRAPH or not isinstance(value, memoryview):
            pieces.append(raw)
            continue
        graph = _cut_graph(value, {name.encode() for name in outputs})
        pieces += [encoded_number(MODEL_GRAPH << 3 | _BYTES), encoded_number(sum(map(len, graph))), *graph]
    return b"".join(pieces)


def _cut_graph(graph: memoryview, outputs: set[bytes]) -> list[memoryview]:
    records = [(field, value, raw) for field, value, raw in _records(graph) if isinstance(value, memoryview)]
    nodes = [
        (set(_names(value, _NODE_INPUT)), set(_names(value, _NODE_OUTPUT)), raw)
        for field, value, raw in records
        if field == GRAPH_NODE
    ]
    needed = _needed(nodes, outputs)
    constants = {
        bytes(_name(value, TENSOR_NAME)) for field, value, _ in records if field == GRAPH_INITIALIZER
    }
    kept = [raw for _, made, raw in nodes if made & needed]
    for field, value, raw in _records(graph):
        if field == GRAPH_NODE:
            continue
        name = _name(value, _NAMED[field]) if field in _NAMED and isinstance(value, memoryview) else None
        if field == GRAPH_OUTPUT and isinstance(value, memoryview):
            keep = _name(value, VALUE_NAME) in outputs
        else:
            # A true input stays though nothing reads it: the agent will feed it.
            keep = name is None or name in needed or (field == GRAPH_INPUT and name not in constants)
        if keep:
            kept.append(raw)
    return kept


def _needed(nodes: list[tuple[set[bytes], set[bytes], memoryview]], outputs: set[bytes]) -> set[bytes]:
    """Names of all values on the way to the outputs."""
    maker = {name: index for index, (_, made, _) in enumerate(nodes) for name in made if name}
    needed, waiting = set(outputs), list(outputs)
    while waiting:
        index = maker.get(waiting.pop())
        if index is not None:
            more = nodes[index][0] - needed - {b""}
            needed |= more
            waiting += more
    return needed


def _name(message: memoryview, wanted: int) -> bytes:
    return [b"", *_names(message, wanted)][-1]


def _names(message: memoryview, wanted: int) -> Iterator[bytes]:
    return (
        bytes(value) for field, value in fields(message) if field == wanted and isinstance(value, memoryview)
    )


def text_field(message: memoryview, wanted: int) -> str:
    """The last text with this field number in a protobuf message, "" where there is none."""
    return _name(message, wanted).decode("utf-8", "replace")


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of each field of a protobuf message; bytes come as views, fixed sizes as 0.

    Raises:
        OnnxRefused: not protobuf, or cut off.
    """
    return ((field, value) for field, value, _ in _records(message))


def _records(message: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """Field number, value and the whole field as it is encoded."""
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _varint(message, at)
        field, kind = key >> 3, key & 7
        if not 8 <= key < 1 << 32:  # other readers cut it to 32 bits, and would see another field
            raise OnnxRefused(f"not an ONNX model (protobuf field {field})")
        if kind == _VARINT:
            number, at = _varint(message, at)
            yield field, number, message[start:at]
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise OnnxRefused(f"not an ONNX model (protobuf wire type {kind})")
        if length > end - at:
            raise OnnxRefused("not an ONNX model, or cut off (a field reaches beyond the end)")
        value = message[at : at + length]
        at += length
        yield field, value if kind == _BYTES else 0, message[start:at]


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


def encoded_number(number: int) -> bytes:
    """A number as protobuf's varint."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
