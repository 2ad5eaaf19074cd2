"""The derivative of the logits by the last feature map, written as ONNX nodes.

Reverse-mode differentiation of a network's head, node by node. The adjoint of an activation [n, ...] is a tensor
[n or 1, seeds, ...]: for each seed (a class, or the winning one) the derivative of its logit by that activation. A
dense layer's weight is the one of the forward graph, read the other way round by `Gemm`: no weight is stored twice.
Where an activation was averaged over places its adjoint keeps sizes of 1 there, and stands for all of them.

Only this module and `derivatives` know rules; `closed_form` says beforehand which nodes have one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.closed_form import BROADCASTING, Shapes, reduced_axes, reduced_to_one
from trainer.exporting.derivatives import DERIVATIVES
from trainer.exporting.onnx_graph import NoClosedForm, OnnxGraph, attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.exporting.head_walk import Head
    from trainer.exporting.node_writer import NodeWriter

    Rule = Callable[["Tape", Any, "Adjoint"], dict[str, "Adjoint"]]


@dataclass(frozen=True, slots=True)
class Adjoint:
    """Derivative of each seed's logit by an activation of shape [n, ...]."""

    name: str
    """Of a tensor [n or 1, seeds, ...]."""
    spread: bool = False
    """Sizes of 1 stand for all places: the derivative is the same at each."""


@dataclass(slots=True)
class Tape:
    """What a rule works with."""

    write: NodeWriter
    graph: OnnxGraph
    shapes: Shapes
    seeds: int
    fixed: bool = False
    """Set by a rule that wrote rows and columns as numbers: the graph then takes one input size only."""

    def full(self, adjoint: Adjoint, shape: Sequence[int]) -> str:
        """Spread an adjoint to the whole shape of its activation (without the pictures' axis)."""
        if not adjoint.spread:
            return adjoint.name
        self.fixed = True
        return self.write("Expand", adjoint.name, self.write.constant(np.array([1, 1, *shape], np.int64)))

    def reshaped(self, adjoint: Adjoint, before: tuple[int, ...], after: tuple[int, ...]) -> str:
        """Give an adjoint the sizes of the activation `before` the node, from those `after` it (pictures first)."""
        name = adjoint.name
        if math.prod(before[1:]) != math.prod(after[1:]):
            raise NoClosedForm("a reshaping in the head mixes pictures")
        if adjoint.spread and math.prod(after[1:]) > 1:
            name = self.full(adjoint, after[1:])
        self.fixed = self.fixed or math.prod(before[2:]) > 1
        return self.write.reshape(name, (-1, self.seeds, *before[1:]))


def back_propagate(tape: Tape, head: Head, seed: str) -> Adjoint:
    """Write the nodes from the seed [n or 1, seeds, labels] at the logits to the adjoint of the feature map."""
    adjoints: dict[str, Adjoint] = {head.logits: Adjoint(seed)}
    for node in reversed(head.nodes):
        at = adjoints.get(node.output[0])
        if at is None:
            continue
        for name, given in _rule(node)(tape, node, at).items():
            adjoint = _fitted(tape, node, name, given)
            adjoints[name] = _summed(tape, adjoints.get(name), adjoint, tape.shapes[name][1:])
    return adjoints[head.features]


def _fitted(tape: Tape, node: Any, name: str, adjoint: Adjoint) -> Adjoint:  # noqa: ANN401
    """Where an operator repeated an input along an axis, its adjoint is the sum over that axis."""
    shape, whole = tape.shapes[name], tape.shapes[node.output[0]]
    if node.op_type not in BROADCASTING or shape == whole:
        return adjoint
    axes = tuple(axis + 1 for axis, size in enumerate(shape) if size != whole[axis])
    return Adjoint(tape.write.reduce("ReduceSum", tape.full(adjoint, whole[1:]), axes, keep=True))


def _rule(node: Any) -> Rule:  # noqa: ANN401
    rule: Rule = _RULES.get(node.op_type, _elementwise)
    return rule


def _summed(tape: Tape, one: Adjoint | None, other: Adjoint, shape: Sequence[int]) -> Adjoint:
    if one is None:
        return other
    if one.spread == other.spread:
        return replace(one, name=tape.write("Add", one.name, other.name))
    return Adjoint(tape.write("Add", tape.full(one, shape), tape.full(other, shape)))


def _through(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    return {node.input[0]: adjoint}


def _reshape(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    before, after = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    return {node.input[0]: Adjoint(tape.reshaped(adjoint, before, after))}


def _transpose(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    back = np.argsort(attributes(node)["perm"])[1:]
    order = [0, 1, *(int(axis) + 1 for axis in back)]
    return {node.input[0]: replace(adjoint, name=tape.write("Transpose", adjoint.name, perm=order))}


def _elementwise(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """Multiply by the derivative of the function, taken where the picture has it."""
    found = {}
    for index, name in enumerate(node.input):
        if name in tape.graph.flows(node):
            slope = DERIVATIVES[node.op_type](tape.write, tape.graph, node, index)
            shape = tape.shapes[node.output[0]][1:]
            fixed = tape.graph.is_constant(slope) or tape.write.is_constant(slope)
            lifted = slope if fixed else tape.write.unsqueeze(slope, (1,))
            found[name] = Adjoint(tape.write("Mul", tape.full(adjoint, shape), lifted))
    return found


def _add(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    found: dict[str, Adjoint] = {}
    for name in node.input:
        if not tape.graph.is_constant(name):
            found[name] = _summed(tape, found.get(name), adjoint, tape.shapes[name][1:])
    return found


def _subtract(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    found = {}
    if not tape.graph.is_constant(node.input[0]):
        found[node.input[0]] = adjoint
    if not tape.graph.is_constant(node.input[1]):
        found[node.input[1]] = replace(adjoint, name=tape.write("Neg", adjoint.name))
    return found


def _scale(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """By a constant: an adjoint that is the same everywhere stays so; others are elementwise."""
    if not tape.graph.scales(node):
        return _elementwise(tape, node, adjoint)
    (flow,) = tape.graph.flows(node)
    factor = node.input[1] if flow == node.input[0] else node.input[0]
    dims, name = tape.graph.dims(factor), adjoint.name
    if adjoint.spread and any(size > 1 for size in dims[-2:]) and len(tape.shapes[flow]) == 4:
        return _elementwise(tape, node, adjoint)
    return {flow: replace(adjoint, name=tape.write(node.op_type, name, factor))}


def _dense(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """Of x W: the adjoint times W transposed, by the very same weight."""
    given = attributes(node)
    shape = tape.shapes[node.input[0]]
    weight, width = node.input[1], tape.shapes[node.output[0]][-1]
    rows = tape.write.reshape(adjoint.name, (-1, width))
    back = tape.write(
        "Gemm", rows, weight, transB=1 - given.get("transB", 0), alpha=float(given.get("alpha", 1.0))
    )
    return {node.input[0]: Adjoint(tape.write.reshape(back, (-1, tape.seeds, *shape[1:])))}


def _pointwise(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """A 1x1 convolution: at each place a dense layer. One place stands for all where the adjoint is the same."""
    outputs, inputs = tape.graph.dims(node.input[1])[:2]
    kernel = tape.write.reshape(node.input[1], (outputs, inputs))
    rows, columns = (1, 1) if adjoint.spread else tape.shapes[node.output[0]][2:]
    if rows * columns > 1:
        tape.fixed = True
        last = tape.write("Transpose", adjoint.name, perm=[0, 1, 3, 4, 2])
        back = tape.write("Gemm", tape.write.reshape(last, (-1, outputs)), kernel)
        placed = tape.write.reshape(back, (-1, tape.seeds, rows, columns, inputs))
        return {node.input[0]: Adjoint(tape.write("Transpose", placed, perm=[0, 1, 4, 2, 3]))}
    back = tape.write("Gemm", tape.write.reshape(adjoint.name, (-1, outputs)), kernel)
    return {node.input[0]: Adjoint(tape.write.reshape(back, (-1, tape.seeds, inputs, 1, 1)), adjoint.spread)}


def _batch_normalisation(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    scale, _, _, variance = (tape.graph.array(name) for name in node.input[1:5])
    factor = (scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))).astype(np.float32)
    shape = (-1,) + (1,) * (len(tape.shapes[node.input[0]]) - 2)
    name = tape.write("Mul", adjoint.name, tape.write.constant(factor.reshape(shape)))
    return {node.input[0]: replace(adjoint, name=name)}


def _layer_normalisation(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """With z the normalised values and g the adjoint times the scale: (g - mean(g) - z mean(g z)) / spread."""
    write, last = tape.write, len(tape.shapes[node.input[0]])
    value = write.unsqueeze(node.input[0], (1,))
    centred = write("Sub", value, write.reduce("ReduceMean", value, (last,), keep=True))
    variance = write.reduce("ReduceMean", write("Mul", centred, centred), (last,), keep=True)
    softened = write("Add", variance, write.number(attributes(node).get("epsilon", 1e-5)))
    spread = write("Sqrt", softened)
    normal = write("Div", centred, spread)
    scaled = write("Mul", tape.full(adjoint, tape.shapes[node.input[0]][1:]), node.input[1])
    along = write.reduce("ReduceMean", write("Mul", scaled, normal), (last,), keep=True)
    rest = write("Sub", scaled, write.reduce("ReduceMean", scaled, (last,), keep=True))
    name = write("Div", write("Sub", rest, write("Mul", normal, along)), spread)
    return {node.input[0]: Adjoint(name)}


def _average(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """A mean or a sum over axes: the same share for all that went into it."""
    name, shape = adjoint.name, tape.shapes[node.input[0]]
    axes, kept = reduced_axes(tape.graph, node, len(shape))
    if not kept:
        name = tape.write.unsqueeze(name, tuple(axis + 1 for axis in axes))
    if node.op_type != "ReduceSum":
        size = tape.write("Shape", node.input[0])
        for axis in axes:
            picked = tape.write("Gather", size, tape.write.constant(np.array(axis, np.int64)))
            name = tape.write("Div", name, tape.write("Cast", picked, to=1))
    shared = Adjoint(name, any(shape[axis] > 1 for axis in axes))
    others = [axis for axis in range(1, len(shape)) if axis not in axes and shape[axis] > 1]
    if shared.spread and len(others) > 1:  # one axis of places was kept
        shared = Adjoint(tape.full(shared, shape[1:]))
    return {node.input[0]: shared}


def _largest(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """A maximum over axes: to the cells that hold it, in equal shares."""
    write, (value, out) = tape.write, (node.input[0], node.output[0])
    axes, kept = reduced_axes(tape.graph, node, len(tape.shapes[value]))
    name = adjoint.name
    if not kept:
        out, name = write.unsqueeze(out, axes), write.unsqueeze(name, tuple(axis + 1 for axis in axes))
    holds = write("Cast", write("Equal", value, out), to=1)
    share = write("Div", holds, write.reduce("ReduceSum", holds, axes, keep=True))
    return {value: Adjoint(write("Mul", name, write.unsqueeze(share, (1,))))}


def _windows(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """Pooling in windows that touch: each cell's adjoint to its window, evenly or to the largest value in it."""
    if reduced_to_one(tape.shapes, node):
        return _average(tape, node, adjoint)
    channels, rows, columns = tape.shapes[node.output[0]][1:]
    down, across = attributes(node)["kernel_shape"]
    tape.fixed = True
    cells = tape.write.reshape(
        tape.full(adjoint, (channels, rows, columns)), (-1, tape.seeds, channels, rows, 1, columns, 1)
    )
    size = np.array([1, 1, 1, 1, down, 1, across], np.int64)
    wide = tape.write("Expand", cells, tape.write.constant(size))
    name = tape.write.reshape(wide, (-1, tape.seeds, channels, rows * down, columns * across))
    if node.op_type == "AveragePool":
        share = tape.write.constant(np.float32(1 / (down * across)))
        return {node.input[0]: Adjoint(tape.write("Mul", name, share))}
    return {node.input[0]: Adjoint(tape.write("Mul", name, tape.write.unsqueeze(_winners(tape, node), (1,))))}


def _winners(tape: Tape, node: Any) -> str:  # noqa: ANN401
    """1 at the cell that each window's maximum was taken from (the first of equal ones), 0 elsewhere."""
    if len(node.output) < 2 or not node.output[1]:
        del node.output[1:]
        node.output.append(f"{node.output[0]}/indices")
    ones = tape.write(
        "Add",
        tape.write("Mul", node.output[0], tape.write.constant(np.float32(0))),
        tape.write.constant(np.float32(1)),
    )
    shape = {key: attributes(node)[key] for key in ("kernel_shape", "strides")}
    return tape.write("MaxUnpool", ones, node.output[1], **shape)


def _concatenate(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    axis = attributes(node)["axis"] % len(tape.shapes[node.output[0]])
    found: dict[str, Adjoint] = {}
    start = 0
    for name in node.input:
        end = start + (tape.shapes[name] if name in tape.shapes else tape.graph.dims(name))[axis]
        if not tape.graph.is_constant(name):
            part = tape.write.slice(adjoint.name, start, end, axis + 1)
            found[name] = _summed(tape, found.get(name), replace(adjoint, name=part), tape.shapes[name][1:])
        start = end
    return found


_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("Identity", "Dropout", "Cast"), _through),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    **dict.fromkeys(("Add", "Sum"), _add),
    "Sub": _subtract,
    **dict.fromkeys(("Mul", "Div"), _scale),
    **dict.fromkeys(("Gemm", "MatMul"), _dense),
    "Conv": _pointwise,
    "BatchNormalization": _batch_normalisation,
    "LayerNormalization": _layer_normalisation,
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean", "ReduceSum"), _average),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax"), _largest),
    **dict.fromkeys(("MaxPool", "AveragePool"), _windows),
    "Concat": _concatenate,
}
