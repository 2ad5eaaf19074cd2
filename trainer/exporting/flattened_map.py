"""Maps behind a flattened feature map, at the price of none: there each weight belongs to a place.

A dense layer on a flattened map [places, channels] is the sum over places of one small dense layer each. Written
so, every place's share [places, units] of the layer's output stands in the graph on the way to the answer, and
HiResCAM is that share times the derivative of the logit by the layer's output: the large weight is read once, for
the answer, and stands in the graph once, in the order of the places. Grad-CAM wants the derivative's mean over the
places: for that the weight's mean over the rows of each channel is enough, a matrix as many times smaller as there
are places.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.back_propagation import Adjoint, Tape, back_propagate
from trainer.exporting.head_part import HeadPart
from trainer.exporting.node_writer import NodeWriter
from trainer.exporting.onnx_graph import OnnxGraph, attributes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.exporting.head_walk import Head

_ORDERING: Final = frozenset(
    {"Identity", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)
_EXACT_IN_FLOAT: Final = 1 << 24
_SHARES, _SUM, _FLAT = "share_of_each_place", "sum_of_places", "flattened_by_places"


@dataclass(frozen=True, slots=True)
class Flattened:
    """A dense layer that reads the feature map flattened, and which row of its weight belongs where."""

    dense: Any
    """Its node: Gemm or MatMul."""
    behind: tuple[str, ...]
    """First outputs of the head's nodes behind it."""
    rows: NDArray[np.int64]
    """Rows of the weight [places * channels, units] in the order of places, then channels."""
    places: int
    channels: int
    alpha: float

    def weight(self, graph: OnnxGraph) -> NDArray[np.float32]:
        """[places, channels, units]."""
        values = graph.array(self.dense.input[1])
        if attributes(self.dense).get("transB"):
            values = values.T
        if not np.array_equal(self.rows, np.arange(len(self.rows))):
            values = values[self.rows]
        return np.ascontiguousarray(values).reshape(self.places, self.channels, -1)


def flattened(model: Any, head: Head) -> Flattened | None:  # noqa: ANN401 - onnx has no types
    """The dense layer that reads the flattened feature map; None where there is none, or others read it too."""
    graph = OnnxGraph(model)
    way, dense = _first_dense(graph, head)
    shape = head.shapes[head.features]
    if dense is None or np.prod(shape) > _EXACT_IN_FLOAT:
        return None
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    part = HeadPart(model, replace(head, logits=dense.input[0]), (dense.input[0],))
    fed = part(numbers)[0].ravel().astype(np.int64)
    channels, rows, columns = head.size
    places = rows * columns
    order = fed % places * channels + fed // places if head.layout == "NCHW" else fed
    passed = {id(node) for node in (*way, dense)}
    return Flattened(
        dense=dense,
        behind=tuple(node.output[0] for node in head.nodes if id(node) not in passed),
        rows=np.argsort(order),
        places=places,
        channels=channels,
        alpha=float(attributes(dense).get("alpha", 1.0)),
    )


def mean_derivative(tape: Tape, head: Head, found: Flattened, seed: str) -> Adjoint:
    """Write the nodes to each channel's mean derivative, for Grad-CAM."""
    weight = found.weight(tape.graph).mean(axis=0, dtype=np.float64).astype(np.float32)
    adjoint = back_propagate(tape, _behind(tape.graph, head, found), seed)
    rows = tape.write.reshape(adjoint.name, (-1, weight.shape[1]))
    name = tape.write("Gemm", rows, tape.write.constant(weight), transB=1, alpha=found.alpha)
    tape.fixed = True
    size = (found.channels, 1, 1) if head.layout == "NCHW" else (1, 1, found.channels)
    return Adjoint(tape.write.reshape(name, (-1, tape.seeds, *size)), spread=True)


def lay_out_by_places(model: Any, head: Head, found: Flattened) -> bool:  # noqa: ANN401
    """Rewrite the dense layer as the sum of its shares; False where its weight serves another node too."""
    graph, name = OnnxGraph(model), found.dense.input[1]
    stored = [one for one in model.graph.initializer if one.name == name]
    if len(stored) != 1 or sum(list(node.input).count(name) for node in model.graph.node) != 1:
        return False
    from onnx import numpy_helper

    stored[0].CopyFrom(numpy_helper.from_array(found.weight(graph), name))
    write = NodeWriter("placed", graph.opset)
    channels_last = head.layout == "NHWC"
    size = (-1, found.places, found.channels) if channels_last else (-1, found.channels, found.places)
    flat = write.reshape(head.features, size)
    by_place = write("Transpose", flat, perm=[1, 0, 2] if channels_last else [2, 0, 1])
    shares = write("MatMul", by_place, name, out=_SHARES)
    summed = write.reduce("ReduceSum", shares, (0,), out=_SUM)
    _finish_dense(write, found, summed)
    _put_in_place(model, found.dense.output[0], write)
    return True


def shares_map(tape: Tape, head: Head, found: Flattened, seed: str) -> str:
    """Write the nodes from the shares and the layer's derivative to HiResCAM's [n, seeds, places]."""
    adjoint = back_propagate(tape, _behind(tape.graph, head, found), seed)
    shares = tape.write("Transpose", _SHARES, perm=[1, 2, 0])
    tape.fixed = True
    mapped = tape.write("MatMul", adjoint.name, shares)
    return mapped if found.alpha == 1 else tape.write("Mul", mapped, tape.write.number(found.alpha))


def flatten_again(model: Any, features: str) -> None:  # noqa: ANN401
    """Write a layer that was laid out by places as one dense layer; the weight's values stay where they are."""
    graph = OnnxGraph(model)
    shares = graph.producers.get(_SHARES)
    if shares is None:
        return
    (weight,) = (one for one in model.graph.initializer if one.name == shares.input[1])
    places, channels, units = weight.dims
    weight.dims[:] = [places * channels, units]
    turned = attributes(graph.producers[shares.input[0]])["perm"] == [2, 0, 1]
    write = NodeWriter("flat", graph.opset)
    last = write("Transpose", features, perm=[0, 2, 3, 1]) if turned else features
    flat = write.reshape(last, (-1, places * channels), out=_FLAT)
    answer = next(name for at in count() if (name := f"dense_answer_{at}") not in graph.producers)
    write("MatMul", flat, weight.name, out=answer)
    _put_in_place(model, _SUM, write)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == _SUM:
                node.input[index] = answer


def _behind(graph: OnnxGraph, head: Head, found: Flattened) -> Head:
    """The head from the dense layer's output on."""
    nodes = tuple(graph.producers[name] for name in found.behind)
    return replace(head, nodes=nodes, features=found.dense.output[0])


def _first_dense(graph: OnnxGraph, head: Head) -> tuple[list[Any], Any]:
    """Nodes that only put the features into another order, and the dense layer behind them."""
    name = head.features
    way: list[Any] = []
    while True:
        readers = [node for node in head.nodes if name in graph.flows(node)]
        if len(readers) != 1:
            return way, None
        (node,) = readers
        if node.op_type in ("Gemm", "MatMul"):
            return way, node if len(head.shapes[name]) == 2 else None
        if node.op_type not in _ORDERING:
            return way, None
        way.append(node)
        name = node.output[0]


def _finish_dense(write: NodeWriter, found: Flattened, summed: str) -> None:
    """What a Gemm does besides: its factors and its bias."""
    given, out = attributes(found.dense), found.dense.output[0]
    if found.alpha != 1:
        summed = write("Mul", summed, write.number(found.alpha))
    if len(found.dense.input) < 3:
        write("Identity", summed, out=out)
        return
    bias = found.dense.input[2]
    if given.get("beta", 1.0) != 1:
        bias = write("Mul", bias, write.number(given["beta"]))
    write("Add", summed, bias, out=out)


def _put_in_place(model: Any, out: str, write: NodeWriter) -> None:  # noqa: ANN401
    """Put nodes where the one stands that makes `out`, which they take over."""
    nodes = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    at = next(index for index, node in enumerate(nodes) if out in node.output)
    nodes[at : at + 1] = write.nodes
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(write.constants)
