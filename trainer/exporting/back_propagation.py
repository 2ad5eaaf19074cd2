"""The derivative of the logits by the last feature map, written as ONNX nodes.

Reverse-mode differentiation of a network's head, node by node. The adjoint of an activation [n, ...] is a tensor
[n or 1, seeds, ...]: for each seed (a class, or the winning one) the derivative of its logit by that activation. A
dense layer's weight is the one of the forward graph, read the other way round by `Gemm`: no weight is stored twice.
Where an activation was averaged over places its adjoint keeps sizes of 1 there, and stands for all of them.

Only this module and `derivatives` know rules. What has none is refused before anything is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.derivatives import DERIVATIVES
from trainer.exporting.onnx_graph import NoClosedForm, OnnxGraph, attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.exporting.head_walk import Head
    from trainer.exporting.node_writer import NodeWriter

    Rule = Callable[["Tape", Any, "Adjoint"], dict[str, "Adjoint"]]

Shapes = dict[str, tuple[int, ...]]


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
        for name, adjoint in _rule(node)(tape, node, at).items():
            adjoints[name] = _summed(tape, adjoints.get(name), adjoint, tape.shapes[name][1:])
    return adjoints[head.features]


def can_pass(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401 - onnx has no types
    """Why a node cannot be written backwards; "" where it can."""
    check = _CHECKS.get(node.op_type)
    if check is not None:
        return check(node, graph, shapes)
    if node.op_type in _RULES or node.op_type in DERIVATIVES:
        return ""
    return "has no closed form here"


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
            shape = tape.shapes[name][1:]
            lifted = slope if tape.graph.is_constant(slope) else tape.write.unsqueeze(slope, (1,))
            found[name] = Adjoint(tape.write("Mul", tape.full(adjoint, shape), lifted))
    return found


def _add(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    return dict.fromkeys(tape.graph.flows(node), adjoint)


def _subtract(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    found = {}
    if not tape.graph.is_constant(node.input[0]):
        found[node.input[0]] = adjoint
    if not tape.graph.is_constant(node.input[1]):
        found[node.input[1]] = replace(adjoint, name=tape.write("Neg", adjoint.name))
    return found


def _scale(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    """By a constant: an adjoint that is the same everywhere stays so; others are elementwise."""
    (flow, *others) = tape.graph.flows(node)
    if others or (node.op_type == "Div" and flow != node.input[0]):
        return _elementwise(tape, node, adjoint)
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
    """A 1x1 convolution whose output is one cell, or has the same adjoint at each."""
    outputs, inputs = tape.graph.dims(node.input[1])[:2]
    kernel = tape.write.reshape(node.input[1], (outputs, inputs))
    back = tape.write("Gemm", tape.write.reshape(adjoint.name, (-1, outputs)), kernel)
    return {node.input[0]: Adjoint(tape.write.reshape(back, (-1, tape.seeds, inputs, 1, 1)), adjoint.spread)}


def _batch_normalisation(tape: Tape, node: Any, adjoint: Adjoint) -> dict[str, Adjoint]:  # noqa: ANN401
    scale, _, _, variance = (tape.graph.array(name) for name in node.input[1:5])
    factor = (scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))).astype(np.float32)
    shape = (-1,) + (1,) * (len(tape.shapes[node.input[0]]) - 2)
    name = tape.write("Mul", adjoint.name, tape.write.constant(factor.reshape(shape)))
    return {node.input[0]: replace(adjoint, name=name)}


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


def reduced_axes(graph: OnnxGraph, node: Any, rank: int) -> tuple[tuple[int, ...], bool]:  # noqa: ANN401
    """Which axes a pooling over whole axes takes together, and whether they stay with size 1."""
    given = attributes(node)
    if node.op_type in ("GlobalAveragePool", "GlobalMaxPool", "AveragePool"):
        return tuple(range(2, rank)), True
    axes = given.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = graph.array(node.input[1]).tolist()
    axes = range(rank) if axes is None else axes
    return tuple(sorted(int(axis) % rank for axis in axes)), bool(given.get("keepdims", 1))


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


def reduced_to_one(shapes: Shapes, node: Any) -> bool:  # noqa: ANN401
    """Whether an average pooling takes the whole map together."""
    return (
        node.op_type == "AveragePool"
        and tuple(attributes(node)["kernel_shape"]) == shapes[node.input[0]][2:]
        and shapes[node.output[0]][2:] == (1, 1)
    )


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
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean", "ReduceSum"), _average),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax"), _largest),
    **dict.fromkeys(("MaxPool", "AveragePool"), _windows),
    "Concat": _concatenate,
}


def _check_sum(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    out = shapes.get(node.output[0])
    if any(shapes.get(name) != out for name in graph.flows(node)):
        return "adds, or multiplies, activations of different shapes"
    return ""


def _check_reshape(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    return "" if before[:1] == after[:1] and before else "moves pictures out of the first axis"


def _check_transpose(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    return "" if attributes(node).get("perm", [1])[0] == 0 else "moves pictures out of the first axis"


def _check_dense(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    if graph.flows(node) != (node.input[0],) or len(graph.dims(node.input[1])) != 2:
        return "multiplies activations with each other, not with weights"
    return "" if not attributes(node).get("transA") else "takes its input transposed"


def _check_pointwise(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    given = attributes(node)
    dims = graph.dims(node.input[1])
    plain = given.get("group", 1) == 1 and set(given.get("strides", [1])) == {1}
    if len(dims) == 4 and dims[2:] == (1, 1) and plain and not any(given.get("pads", [0])):
        return ""
    return "is a convolution over more than one cell"


def _check_reduction(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    rank = len(shapes.get(node.input[0], ()))
    axes, _ = reduced_axes(graph, node, rank) if rank else ((0,), True)
    return "takes pictures together" if 0 in axes else ""


def _check_windows(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    given = attributes(node)
    if reduced_to_one(shapes, node):
        return ""
    kernel = tuple(given["kernel_shape"])
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    touching = len(kernel) == 2 and tuple(given.get("strides", (1, 1))) == kernel
    plain = not any(given.get("pads", [0])) and set(given.get("dilations", [1])) == {1}
    exact = (
        bool(after)
        and tuple(size * step for size, step in zip(after[2:], kernel, strict=False)) == before[2:]
    )
    return "" if touching and plain and exact else "pools in windows that overlap or leave a rest"


def _check_concat(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    return "" if attributes(node)["axis"] % len(shapes[node.output[0]]) else "takes pictures together"


_CHECKS: Final[dict[str, Callable[[Any, OnnxGraph, Shapes], str]]] = {
    **dict.fromkeys(("Add", "Sum", "Sub", "Mul", "Div"), _check_sum),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _check_reshape),
    "Transpose": _check_transpose,
    **dict.fromkeys(("Gemm", "MatMul"), _check_dense),
    "Conv": _check_pointwise,
    **dict.fromkeys(
        ("GlobalAveragePool", "ReduceMean", "ReduceSum", "GlobalMaxPool", "ReduceMax"), _check_reduction
    ),
    **dict.fromkeys(("MaxPool", "AveragePool"), _check_windows),
    "Concat": _check_concat,
}
