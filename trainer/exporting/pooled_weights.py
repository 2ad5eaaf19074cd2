"""Grad-CAM behind a flattened map for next to nothing: the dense layer's weight, averaged over places beforehand.

Grad-CAM wants the derivative's mean over the places. A dense layer is linear, so that mean is the layer's output's
derivative times the weight's mean over the rows of each channel: a matrix as many times smaller as the map has
cells (49 for InceptionV3's 7 x 7), computed once. HiResCAM needs each place, and reads the whole weight again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.back_propagation import Adjoint, back_propagate
from trainer.exporting.head_part import HeadPart
from trainer.exporting.onnx_graph import attributes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.exporting.back_propagation import Tape
    from trainer.exporting.head_walk import Head

_ORDERING: Final = frozenset(
    {"Identity", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)
_EXACT_IN_FLOAT: Final = 1 << 24


def mean_derivative(tape: Tape, model: Any, head: Head, seed: str) -> Adjoint | None:  # noqa: ANN401
    """Write the nodes to each channel's mean derivative; None where no dense layer reads the flattened map."""
    way, dense = _first_dense(tape, head)
    if dense is None or np.prod(head.shapes[head.features]) > _EXACT_IN_FLOAT:
        return None
    behind = [node for node in head.nodes if node not in way and node is not dense]
    adjoint = back_propagate(tape, replace(head, nodes=tuple(behind), features=dense.output[0]), seed)
    weight = _averaged(tape, dense, _channels(model, head, way, dense.input[0]))
    rows = tape.write.reshape(adjoint.name, (-1, weight.shape[1]))
    alpha = float(attributes(dense).get("alpha", 1.0))
    name = tape.write("Gemm", rows, tape.write.constant(weight), transB=1, alpha=alpha)
    tape.fixed = True
    places = (len(weight), 1, 1) if head.layout == "NCHW" else (1, 1, len(weight))
    return Adjoint(tape.write.reshape(name, (-1, tape.seeds, *places)), spread=True)


def _first_dense(tape: Tape, head: Head) -> tuple[list[Any], Any]:
    """Nodes that only put the features into another order, and the dense layer behind them."""
    name = head.features
    way: list[Any] = []
    while True:
        readers = [node for node in head.nodes if name in tape.graph.flows(node)]
        if len(readers) != 1:
            return way, None
        (node,) = readers
        if node.op_type in ("Gemm", "MatMul"):
            return way, node if len(tape.shapes[name]) == 2 else None
        if node.op_type not in _ORDERING:
            return way, None
        way.append(node)
        name = node.output[0]


def _channels(model: Any, head: Head, way: list[Any], flat: str) -> NDArray[np.int64]:  # noqa: ANN401
    """Which channel each value of the flattened map belongs to, found by sending numbers through the nodes."""
    shape = head.shapes[head.features]
    axis = 1 if head.layout == "NCHW" else 3
    numbers = np.broadcast_to(
        np.arange(shape[axis], dtype=np.float32).reshape([-1 if at == axis else 1 for at in range(4)]), shape
    )
    part = HeadPart(model, replace(head, nodes=tuple(way), logits=flat), (flat,))
    return part(np.ascontiguousarray(numbers))[0].ravel().astype(np.int64)


def _averaged(tape: Tape, dense: Any, channels: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ANN401
    """The weight's mean over the rows of each channel: [channels, units]."""
    weight = tape.graph.array(dense.input[1])
    if attributes(dense).get("transB"):
        weight = weight.T
    count = int(channels.max()) + 1
    sums = np.zeros((count, weight.shape[1]), dtype=np.float64)
    for channel in range(count):
        sums[channel] = weight[channels == channel].sum(axis=0, dtype=np.float64)
    return (sums / (len(channels) // count)).astype(np.float32)
