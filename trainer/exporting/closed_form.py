"""Which nodes of a network's head can be written backwards, and why others cannot.

Asked during the walk back from the answer, before anything is written. `back_propagation` has a rule for each
operator named here, for those uses that pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trainer.exporting.derivatives import DERIVATIVES
from trainer.exporting.onnx_graph import OnnxGraph, attributes

if TYPE_CHECKING:
    from collections.abc import Callable

Shapes = dict[str, tuple[int, ...]]
BROADCASTING: Final = frozenset({"Add", "Sum", "Sub", "Mul", "Div"})
"""Operators that repeat an input along an axis where it has size 1."""
_THROUGH: Final = frozenset({"Identity", "Dropout", "Cast"})


def can_pass(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401 - onnx has no types
    """Why a node cannot be written backwards; "" where it can."""
    check = _CHECKS.get(node.op_type)
    if check is not None:
        return check(node, graph, shapes)
    if node.op_type in _THROUGH or node.op_type in DERIVATIVES:
        return ""
    return "has no closed form here"


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


def reduced_to_one(shapes: Shapes, node: Any) -> bool:  # noqa: ANN401
    """Whether an average pooling takes the whole map together."""
    return (
        node.op_type == "AveragePool"
        and tuple(attributes(node)["kernel_shape"]) == shapes[node.input[0]][2:]
        and shapes[node.output[0]][2:] == (1, 1)
    )


def _check_sum(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    out = shapes.get(node.output[0], ())
    for name in graph.flows(node):
        shape = shapes.get(name, ())
        if len(shape) != len(out) or any(a not in (1, b) for a, b in zip(shape, out, strict=True)):
            return "adds, or multiplies, activations of different shapes"
    return ""


def _check_layer(node: Any, graph: OnnxGraph, shapes: Shapes) -> str:  # noqa: ANN401
    last = len(shapes.get(node.input[0], ())) - 1
    return "" if attributes(node).get("axis", -1) in (-1, last) else "normalises over several axes"


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
    **dict.fromkeys(BROADCASTING, _check_sum),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _check_reshape),
    "Transpose": _check_transpose,
    **dict.fromkeys(("Gemm", "MatMul"), _check_dense),
    "Conv": _check_pointwise,
    "LayerNormalization": _check_layer,
    **dict.fromkeys(
        ("GlobalAveragePool", "ReduceMean", "ReduceSum", "GlobalMaxPool", "ReduceMax"), _check_reduction
    ),
    **dict.fromkeys(("MaxPool", "AveragePool"), _check_windows),
    "Concat": _check_concat,
}
