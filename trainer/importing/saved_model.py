"""A TensorFlow SavedModel that may come from anyone: its serving function, and nothing else of it.

`tf.saved_model.load` runs what a SavedModel says is to be run on loading, and its operations can read and write
files. So it is not called: the message in saved_model.pb is read, the one function that serves is followed through
everything that it calls, each operation must stand in the list below, and the weights are read from the
checkpoint beside it. Only this module knows SavedModel's messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.importing.foreign_file import ForeignModelError
from trainer.importing.plain_onnx import BoundGraph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_ALLOWED: Final = frozenset(
    """
    Abs Add AddN AddV2 All Any ArgMax ArgMin AvgPool BatchToSpaceND BiasAdd BroadcastArgs BroadcastTo Cast
    Ceil ClipByValue Concat ConcatV2 Const Conv2D Conv2DBackpropInput DepthToSpace DepthwiseConv2dNative
    DisableCopyOnRead Div DivNoNan Einsum Elu Equal Erf Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual Identity
    IdentityN LRN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul
    BatchMatMulV2 Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg NoOp NotEqual OnesLike Pack Pad
    PadV2 PartitionedCall Placeholder PlaceholderWithDefault Pow PreventGradient Prod Range Rank
    ReadVariableOp RealDiv Reciprocal Relu Relu6 Reshape ResizeBicubic ResizeBilinear ResizeNearestNeighbor
    ReverseV2 Round Rsqrt Select SelectV2 Selu Shape ShapeN Sigmoid Sign Size Slice Softmax Softplus
    Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulPartitionedCall StopGradient StridedSlice Sub Sum Tanh Tile TopKV2 Transpose Unpack Where
    ZerosLike
    """.split()
)
"""What a classifier of pictures computes with; nothing in it touches a file, a network, a table or Python."""
_SERVING: Final = "serving_default"
_INIT: Final = "__saved_model_init_op"
_MOST_NODES: Final = 200_000
_ONNX_INSTEAD: Final = "export it to ONNX where it was made, and import the .onnx file"


@dataclass(frozen=True, slots=True)
class ServingFunction:
    """The function of a SavedModel that answers, bound to its weights."""

    graph: BoundGraph
    shape: tuple[int | None, ...]
    """Of the pictures that it takes."""
    classes: int | None
    written_with: str


@dataclass(frozen=True, slots=True)
class _Parts:
    """One graph of a SavedModel, and how to name the folder."""

    folder: Path
    graph: Any
    """MetaGraphDef"""
    functions: dict[str, Any]


def read_saved_model(folder: Path) -> ServingFunction:
    """Read a SavedModel's serving function and its weights.

    Raises:
        ForeignModelError: not sound, not of one input and one output, or an operation that is not in the list.

    """
    parts = _parts(folder)
    signature = _signature(parts)
    put, result = _only(parts, signature.inputs, "input"), _only(parts, signature.outputs, "output")
    concrete, bound = _concrete(parts)
    _check_operations(parts, concrete)
    shape = tuple(None if size.size < 0 else int(size.size) for size in put.tensor_shape.dim)
    if put.tensor_shape.unknown_rank or put.dtype != 1:
        raise ForeignModelError(
            f"{folder}: its input is no batch of pictures in 32-bit floating point; {_ONNX_INSTEAD}"
        )
    graph = _bound_graph(parts, concrete, _values(parts, bound), shape)
    sizes = [int(size.size) for size in result.tensor_shape.dim]
    classes = sizes[1] if len(sizes) == 2 and sizes[1] > 0 else None
    return ServingFunction(
        graph, shape, classes, f"TensorFlow {parts.graph.meta_info_def.tensorflow_version}".strip()
    )


def _parts(folder: Path) -> _Parts:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel()
    try:
        message.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ForeignModelError(
            f"{folder}: its saved_model.pb is damaged or cut off; copy the folder again"
        ) from error
    serving = [one for one in message.meta_graphs if "serve" in one.meta_info_def.tags]
    if len(serving) != 1 or not serving[0].object_graph_def.nodes:
        raise ForeignModelError(
            f"{folder}: holds {len(serving)} graphs for serving as TensorFlow 2 writes them, not one; "
            f"{_ONNX_INSTEAD}"
        )
    return _Parts(
        folder, serving[0], {one.signature.name: one for one in serving[0].graph_def.library.function}
    )


def _signature(parts: _Parts) -> Any:  # noqa: ANN401
    signatures = {name: one for name, one in parts.graph.signature_def.items() if name != _INIT}
    if _SERVING in signatures:
        return signatures[_SERVING]
    raise ForeignModelError(
        f"{parts.folder}: has no function {_SERVING!r} (it has {', '.join(sorted(signatures)) or 'none'}); "
        "save it with "
        "model.export(FOLDER), or model.save(FOLDER) in Keras 2"
    )


def _only(parts: _Parts, tensors: Any, kind: str) -> Any:  # noqa: ANN401
    names = sorted(tensors)
    if len(names) != 1:
        raise ForeignModelError(
            f"{parts.folder}: has {len(names)} {kind}s ({', '.join(names)}); a classifier of one picture "
            "has one"
        )
    return tensors[names[0]]


def _concrete(parts: _Parts) -> tuple[Any, list[int]]:
    """The serving function's definition, and which objects its further arguments are."""
    objects = parts.graph.object_graph_def
    at = 0
    try:
        for step in ("signatures", _SERVING):
            at = {child.local_name: child.node_id for child in objects.nodes[at].children}[step]
        name = objects.nodes[at].bare_concrete_function.concrete_function_name
        bound = list(objects.concrete_functions[name].bound_inputs)
        definition = parts.functions[name]
    except (KeyError, ValueError, IndexError) as error:
        raise ForeignModelError(
            f"{parts.folder}: its serving function is not where it says it is; save it again"
        ) from error
    if len(definition.signature.input_arg) != 1 + len(bound) or len(definition.signature.output_arg) != 1:
        raise ForeignModelError(
            f"{parts.folder}: its serving function contradicts its signature; save it again"
        )
    return definition, bound


def _check_operations(parts: _Parts, start: Any) -> None:  # noqa: ANN401
    waiting, seen, count = [start], {start.signature.name}, 0
    while waiting:
        definition = waiting.pop()
        for node in definition.node_def:
            count += 1
            if node.op not in _ALLOWED or count > _MOST_NODES:
                raise ForeignModelError(
                    f"{parts.folder}: runs the operation {node.op} ({node.name}), which is none of a "
                    "classifier of "
                    f"pictures; it is not run. If it is harmless, {_ONNX_INSTEAD}"
                )
            for name in _called(node):
                if name not in parts.functions:
                    raise ForeignModelError(
                        f"{parts.folder}: calls a function {name} that is not in it; save it again"
                    )
                if name not in seen:
                    seen.add(name)
                    waiting.append(parts.functions[name])


def _called(node: Any) -> Iterator[str]:  # noqa: ANN401
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (one.name for one in value.list.func)


def _values(parts: _Parts, bound: list[int]) -> list[NDArray[Any]]:
    """What each further argument of the serving function holds."""
    import tensorflow as tf

    objects = parts.graph.object_graph_def.nodes
    constants = {node.name: node for node in parts.graph.graph_def.node if node.op == "Const"}
    keys: dict[int, str] | None = None
    values = []
    for number in bound:
        kind = objects[number].WhichOneof("kind")
        if kind == "constant" and objects[number].constant.operation in constants:
            values.append(tf.make_ndarray(constants[objects[number].constant.operation].attr["value"].tensor))
        elif kind == "variable":
            if keys is None:
                reader, keys = _checkpoint(parts)
            values.append(_tensor(parts, reader, keys, number))
        else:
            raise ForeignModelError(
                f"{parts.folder}: its serving function uses a {kind or 'table'}; {_ONNX_INSTEAD}"
            )
    return values


def _checkpoint(parts: _Parts) -> tuple[Any, dict[int, str]]:
    """A reader of the variables, and the key of each by its object's number.

    The checkpoint has an object graph of its own, with other numbers: both are walked from the root by the names
    of the children.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    stored = TrackableObjectGraph()
    try:
        reader = tf.train.load_checkpoint(str(parts.folder / "variables" / "variables"))
        stored.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    except Exception as error:  # TensorFlow raises what its C++ raises
        raise ForeignModelError(
            f"{parts.folder}: its variables cannot be read ({_short(error)}); copy the folder again"
        ) from error
    ours, keys, waiting = parts.graph.object_graph_def.nodes, {}, [(0, 0)]
    seen = {0}
    while waiting:
        here, there = waiting.pop()
        for attribute in stored.nodes[there].attributes:
            if attribute.name == "VARIABLE_VALUE":
                keys[here] = attribute.checkpoint_key
        children = {child.local_name: child.node_id for child in stored.nodes[there].children}
        for child in ours[here].children:
            if child.local_name in children and child.node_id not in seen:
                seen.add(child.node_id)
                waiting.append((child.node_id, children[child.local_name]))
    return reader, keys


def _tensor(parts: _Parts, reader: Any, keys: dict[int, str], number: int) -> NDArray[Any]:  # noqa: ANN401
    variable = parts.graph.object_graph_def.nodes[number].variable
    wanted = tuple(int(size.size) for size in variable.shape.dim)
    try:
        value = np.asarray(reader.get_tensor(keys[number]))
    except Exception as error:
        raise ForeignModelError(
            f"{parts.folder}: the weight {variable.name} cannot be read ({_short(error)}); copy the folder "
            "again"
        ) from error
    if value.shape != wanted:
        raise ForeignModelError(
            f"{parts.folder}: the weight {variable.name} is {list(value.shape)}, {list(wanted)} expected; "
            "save it again"
        )
    return value


def _bound_graph(
    parts: _Parts,
    definition: Any,  # noqa: ANN401
    values: list[NDArray[Any]],
    shape: tuple[int | None, ...],
) -> BoundGraph:
    """A graph that does nothing but call the serving function."""
    import tensorflow as tf
    from tensorflow.core.framework.graph_pb2 import GraphDef

    graph = GraphDef()
    graph.versions.CopyFrom(parts.graph.graph_def.versions)
    graph.library.function.extend(_reachable(parts, definition))
    call = tf.compat.v1.NodeDef(name="serve", op="StatefulPartitionedCall")
    call.attr["f"].func.name = definition.signature.name
    captured = {}
    for index, argument in enumerate(definition.signature.input_arg):
        node = graph.node.add(name=f"argument_{index}", op="Placeholder")
        node.attr["dtype"].type = argument.type
        sizes = shape if index == 0 else ()
        if index:
            captured[node.name] = values[index - 1]
            sizes = () if argument.type == tf.resource.as_datatype_enum else values[index - 1].shape
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(sizes).as_proto())
        call.input.append(node.name)
        call.attr["Tin"].list.type.append(argument.type)
    call.attr["Tout"].list.type.append(definition.signature.output_arg[0].type)
    graph.node.append(call)
    # Without the control edge TensorFlow does not inline a call that may have side effects.
    result = graph.node.add(name="answers", op="Identity", input=["serve:0", "^serve"])
    result.attr["T"].type = call.attr["Tout"].list.type[0]
    return BoundGraph(graph, "argument_0", "answers:0", captured)


def _reachable(parts: _Parts, start: Any) -> list[Any]:  # noqa: ANN401
    found, waiting = {start.signature.name: start}, [start]
    while waiting:
        for node in waiting.pop().node_def:
            for name in _called(node):
                if name not in found:
                    found[name] = parts.functions[name]
                    waiting.append(found[name])
    return list(found.values())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
