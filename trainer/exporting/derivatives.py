"""Derivatives of the functions that a network's head applies to each value, as ONNX nodes.

Each entry writes the slope of one operator by one of its inputs at the activation that the picture has, of that
activation's shape. At a kink the slope is that of TensorFlow and PyTorch: 0 for a rectifier at 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from trainer.exporting.onnx_graph import OnnxGraph, attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.exporting.node_writer import NodeWriter


def _relu(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return _flag(write, "Greater", node.output[0], 0.0)


def _leaky_relu(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    slope = attributes(node).get("alpha", 0.01)
    return _either(write, node.input[0], write.number(1.0), write.number(slope))


def _prelu(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return _either(write, node.input[0], write.number(1.0), node.input[1])


def _clip(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    """Between the limits 1, at and beyond them 0, as TensorFlow has it for its six-limited rectifier."""
    given = attributes(node)
    limits = [given.get("min"), given.get("max")]
    for at in (1, 2):
        if len(node.input) > at and node.input[at]:
            limits[at - 1] = float(graph.array(node.input[at]))
    slope = ""
    for operator, limit in zip(("Greater", "Less"), limits, strict=True):
        if limit is not None:
            flag = _flag(write, operator, node.input[0], limit)
            slope = write("Mul", slope, flag) if slope else flag
    return slope or _flag(write, "Greater", node.input[0], -math.inf)


def _sigmoid(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    out = node.output[0]
    return write("Mul", out, write("Sub", write.number(1.0), out))


def _tanh(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return write("Sub", write.number(1.0), write("Mul", node.output[0], node.output[0]))


def _elu(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    below = write("Add", node.output[0], write.number(attributes(node).get("alpha", 1.0)))
    return _either(write, node.input[0], write.number(1.0), below)


def _selu(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    given = attributes(node)
    alpha, gamma = given.get("alpha", 1.6732631921768188), given.get("gamma", 1.0507010221481323)
    below = write("Add", node.output[0], write.number(alpha * gamma))
    return _either(write, node.input[0], write.number(gamma), below)


def _softplus(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return write("Sigmoid", node.input[0])


def _hard_sigmoid(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    out = node.output[0]
    inside = write("Mul", _flag(write, "Greater", out, 0.0), _flag(write, "Less", out, 1.0))
    return write("Mul", inside, write.number(attributes(node).get("alpha", 0.2)))


def _hard_swish(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    """Of x * max(0, min(1, x / 6 + 1/2)): 0 below -3, 1 above 3, x / 3 + 1/2 between."""
    value = node.input[0]
    between = write("Add", write("Mul", value, write.number(1 / 3)), write.number(0.5))
    low = write("Mul", between, _flag(write, "Greater", value, -3.0))
    return write("Where", write("Less", value, write.number(3.0)), low, write.number(1.0))


def _exp(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return str(node.output[0])


def _log(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return write("Div", write.number(1.0), node.input[0])


def _reciprocal(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return write("Neg", write("Mul", node.output[0], node.output[0]))


def _sqrt(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return write("Div", write.number(0.5), node.output[0])


def _erf(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    """2 / sqrt(pi) * exp(-x^2)."""
    squared = write("Mul", node.input[0], node.input[0])
    return write("Mul", write("Exp", write("Neg", squared)), write.number(2 / math.sqrt(math.pi)))


def _power(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    exponent = float(graph.array(node.input[1]))
    lower = write("Pow", node.input[0], write.number(exponent - 1))
    return write("Mul", lower, write.number(exponent))


def _negative(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    return write.number(-1.0)


def _product(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    """By one factor it is the other; a square is x times x."""
    if node.input[0] == node.input[1]:
        return write("Mul", node.input[0], write.number(2.0))
    return str(node.input[1 - index])


def _quotient(write: NodeWriter, graph: OnnxGraph, node: Any, index: int) -> str:  # noqa: ANN401
    if index == 0:
        return write("Div", write.number(1.0), node.input[1])
    return write("Neg", write("Div", node.output[0], node.input[1]))


def _flag(write: NodeWriter, operator: str, name: str, limit: float) -> str:
    return write("Cast", write(operator, name, write.number(limit)), to=1)


def _either(write: NodeWriter, name: str, above: str, below: str) -> str:
    return write("Where", write("Greater", name, write.number(0.0)), above, below)


DERIVATIVES: Final[dict[str, Callable[[NodeWriter, OnnxGraph, Any, int], str]]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "Tanh": _tanh,
    "Elu": _elu,
    "Selu": _selu,
    "Softplus": _softplus,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Exp": _exp,
    "Log": _log,
    "Sqrt": _sqrt,
    "Reciprocal": _reciprocal,
    "Erf": _erf,
    "Pow": _power,
    "Neg": _negative,
    "Mul": _product,
    "Div": _quotient,
}
"""The slope of an operator by its input number `index`."""
