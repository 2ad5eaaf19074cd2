"""Somebody's ONNX graph -> one that the agent can feed: input `micrograph`, output `probabilities`.

The network itself stays as it is. In front of it a grey picture becomes what it was trained on (three equal
channels, a mean and a spread taken off, channels last); behind it stand logits, a temperature and a softmax,
whatever it ended with: a softmax, logits, or the one sigmoid of two classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.onnx_gate import ALLOWED_OPERATORS
from trainer.exporting.cam_graph import prune
from trainer.exporting.cam_head import INPUT, OPSET, PROBABILITIES, drop_unused_domains
from trainer.exporting.node_writer import NodeWriter
from trainer.exporting.onnx_graph import GraphError, OnnxGraph, attributes, measured_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

_OLDEST_OPSET: Final = 13
"""From here on axes of Squeeze and Unsqueeze are inputs, as the nodes that we append have them."""
_FLOAT, _HALF, _BYTES = 1, 10, 2
_TRANSPARENT: Final = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout", "Cast"})


@dataclass(frozen=True, slots=True)
class Colours:
    """What was done to each channel of a training picture, after its value range: (value - mean) / spread."""

    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentGraph:
    """A foreign network between the agent's input and its probabilities."""

    model: Any
    """ModelProto: `micrograph` [n, 1, rows, columns] -> `probabilities` [n, labels]."""
    input_px: int
    fixed_size: bool
    """Rows and columns stand in the network's input."""
    channels: int
    ending: str
    """How the network ended: "softmax", "logits", "one sigmoid"."""


def agent_graph(
    model: Any,  # noqa: ANN401 - onnx has no types
    labels: Sequence[str],
    *,
    input_px: int | None,
    colours: Colours | None = None,
) -> AgentGraph:
    """Put a network between the agent's input and its probabilities; the given model is changed.

    Raises:
        GraphError: several inputs or outputs, an input that is no picture, another number of classes, operators
            that the agent does not run, or a size that does not fit.

    """
    model = _modern(model)
    _check_operators(model)
    put, result = _only_input(model), _only_output(model)
    channels, at_end, size = _picture(put)
    px = _side(put.name, size, input_px)
    _feed(model, put, (channels, at_end, px if 0 not in size else None), colours or Colours())
    ending = _answer(model, result.name, labels, px)
    prune(model)
    drop_unused_domains(model)
    return AgentGraph(model, px, 0 not in size, channels, ending)


def _modern(model: Any) -> Any:  # noqa: ANN401
    import onnx

    versions = {one.domain: one.version for one in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", 0))
    if version >= _OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises what its C++ raises
        raise GraphError(
            f"its operators are of version {version}, and cannot be brought to {OPSET} "
            f"({' '.join(str(error).split())[:200]}); export it again with opset {OPSET}"
        ) from error


def _check_operators(model: Any) -> None:  # noqa: ANN401
    own = sorted(
        {f"{one.domain}.{one.op_type}" for one in model.graph.node if one.domain not in ("", "ai.onnx")}
    )
    if own or model.functions:
        raise GraphError(
            f"it uses custom operators ({', '.join(own) or 'functions of its own'}), which cannot be run"
        )
    foreign = sorted({one.op_type for one in model.graph.node} - ALLOWED_OPERATORS)
    if foreign:
        raise GraphError(f"it uses operators that the agent does not run: {', '.join(foreign)}")


def _only_input(model: Any) -> Any:  # noqa: ANN401
    constants = {one.name for one in model.graph.initializer}
    for index in reversed(
        range(len(model.graph.input))
    ):  # files of old versions list weights among the inputs
        if model.graph.input[index].name in constants:
            del model.graph.input[index]
    names = [one.name for one in model.graph.input]
    if len(names) != 1:
        raise GraphError(
            f"it has {len(names)} inputs ({', '.join(names)}); a classifier of one picture has one"
        )
    return model.graph.input[0]


def _only_output(model: Any) -> Any:  # noqa: ANN401
    names = [one.name for one in model.graph.output]
    if len(names) != 1:
        raise GraphError(
            f"it has {len(names)} outputs ({', '.join(names)}); export it with the class probabilities alone"
        )
    return model.graph.output[0]


def _picture(put: Any) -> tuple[int, bool, tuple[int, int]]:  # noqa: ANN401
    """Channels, whether they stand last, and (rows, columns), 0 where free."""
    kind = put.type.tensor_type
    sizes = [one.dim_value for one in kind.shape.dim]
    shown = f"input {put.name!r} of shape {[size or '?' for size in sizes]}"
    if kind.elem_type not in (_FLOAT, _HALF, _BYTES):
        raise GraphError(f"its {shown} does not take floating-point numbers")
    if len(sizes) != 4:
        raise GraphError(
            f"its {shown} is no picture of rows, columns and channels: without them there is no map"
        )
    if sizes[0] > 1:
        raise GraphError(f"its {shown} takes {sizes[0]} pictures at once; export it for one, or any number")
    for axis, rest in ((1, (2, 3)), (3, (1, 2))):
        if sizes[axis] in (1, 3):
            return sizes[axis], axis == 3, (sizes[rest[0]], sizes[rest[1]])
    raise GraphError(f"its {shown} has neither 1 nor 3 channels")


def _side(name: str, size: tuple[int, int], input_px: int | None) -> int:
    rows, columns = size
    if rows != columns and 0 not in size:
        raise GraphError(f"its input {name!r} is {rows} x {columns}, not square")
    stated = max(rows, columns)
    if not stated and input_px is None:
        raise GraphError(f"its input {name!r} takes any size: say with --input-size which it was trained on")
    if stated and input_px not in (None, stated):
        raise GraphError(f"its input is {stated} x {stated}, --input-size says {input_px}")
    return stated or input_px or 0


def _feed(
    model: Any,  # noqa: ANN401
    put: Any,  # noqa: ANN401
    layout: tuple[int, bool, int | None],
    colours: Colours,
) -> None:
    """Write the nodes from `micrograph` to the network's own input."""
    from onnx import TensorProto, helper

    channels, at_end, px = layout
    kind, pictures = put.type.tensor_type.elem_type, put.type.tensor_type.shape.dim[0].dim_value or "batch"
    write = NodeWriter("input", OnnxGraph(model).opset)
    name = write("Concat", *[INPUT] * channels, axis=1) if channels > 1 else INPUT
    for operator, values in (("Sub", colours.mean), ("Div", colours.spread)):
        if values:
            name = write(operator, name, write.constant(_by_channel(values, channels)))
    if kind == _BYTES:
        name = write("Clip", name, write.number(0.0), write.number(255.0))
    if at_end:
        name = write("Transpose", name, perm=[0, 2, 3, 1])
    name = write("Cast", name, to=kind) if kind != _FLOAT else write("Identity", name)
    write.nodes[-1].output[0] = "as_trained"
    old = put.name
    for node in model.graph.node:
        for index, one in enumerate(node.input):
            if one == old:
                node.input[index] = "as_trained"
    nodes = [type(node).FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*write.nodes, *nodes])
    model.graph.initializer.extend(write.constants)
    side = [px or "rows", px or "columns"]
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [pictures, 1, *side]))
    _join_transpositions(model)


def _by_channel(values: tuple[float, ...], channels: int) -> Any:  # noqa: ANN401
    if len(values) not in (1, channels):
        raise GraphError(f"{len(values)} values are given for the network's {channels} channels")
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def _join_transpositions(model: Any) -> None:  # noqa: ANN401
    """Channels moved last and back again at once: let the network read what was there before."""
    graph = OnnxGraph(model)
    made = graph.producers["as_trained"]
    moved = graph.producers.get(made.input[0]) if made.op_type == "Identity" else None
    if moved is None or moved.op_type != "Transpose":
        return
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] == "as_trained":
            if attributes(node)["perm"] == [0, 3, 1, 2]:
                node.op_type, node.input[0] = "Identity", moved.input[0]
                del node.attribute[:]


def _answer(model: Any, result: str, labels: Sequence[str], px: int) -> str:  # noqa: ANN401
    """Write the nodes from the logits to `probabilities`, and say how the network ended."""
    from onnx import TensorProto, helper

    graph = OnnxGraph(model)
    logits, ending = _logits(graph, result)
    shape = measured_shapes(model, [logits], px)[logits]
    write = NodeWriter("answer", graph.opset)
    if len(shape) > 2 and int(np.prod(shape[1:])) == max(shape[1:]):
        logits = write("Flatten", logits, axis=1)
    elif len(shape) != 2:
        raise GraphError(f"its output {result!r} has shape {list(shape)}, not one number for each class")
    classes = int(np.prod(shape[1:]))
    if ending == "sigmoid":
        if classes != 1:
            raise GraphError(
                f"its output {result!r} has {classes} sigmoids: classes that do not exclude each other are not "
                "what the agent answers"
            )
        ending, classes = "one sigmoid", 2
        halves = write.constant(np.array([[-0.5, 0.5]], np.float32))
        logits = write("MatMul", logits, halves)
    if classes != len(labels):
        raise GraphError(
            f"it answers {classes} classes, {len(labels)} labels are given ({', '.join(labels)})"
        )
    tempered = write("Div", logits, write.number(1.0))
    write("Softmax", tempered, out=PROBABILITIES, axis=1)
    model.graph.node.extend(write.nodes)
    model.graph.initializer.extend(write.constants)
    pictures = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "batch"
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [pictures, classes])
    )
    return ending


def _logits(graph: OnnxGraph, result: str) -> tuple[str, str]:
    """The tensor before the last activation, and that activation: "softmax", "sigmoid" or "logits"."""
    name = result
    while (node := graph.producers.get(name)) is not None:
        if node.op_type in ("Softmax", "LogSoftmax"):
            return str(node.input[0]), "softmax"
        if node.op_type == "Sigmoid":
            return str(node.input[0]), "sigmoid"
        if node.op_type not in _TRANSPARENT:
            break
        name = node.input[0]
    return result, "logits"
