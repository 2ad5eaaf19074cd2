"""A TensorFlow function -> plain ONNX, without the memory that the straight way takes.

tf2onnx and TensorFlow's own freezing copy every weight many times: InceptionV3 with a dense layer on its flattened
map (195 MB) took 11.6 GB. So kernels are cut out of the graph before, as inputs, the small graph is converted, and
they are put back as initializers, with what the conversion would do to them (transposed, scaled by a batch
normalisation) done here. Vectors stay in: so tf2onnx can still fold normalisations into kernels.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

OPSET: Final = 17
INPUT, OUTPUT = "picture", "answer"
_FOLDED: Final = frozenset(
    "Add Cast Div Identity Mul Neg Reciprocal Reshape Sqrt Squeeze Sub Transpose Unsqueeze".split()
)
"""What tf2onnx puts between a kernel and the node that uses it."""

_WITH_STATE: Final = frozenset("VarHandleOp AssignVariableOp PartitionedCall StatefulPartitionedCall".split())


class GraphUnusable(Exception):
    """A TensorFlow graph does something that a network of weights and pictures does not; with what."""


@dataclass(frozen=True, slots=True)
class BoundGraph:
    """A TensorFlow graph that may call functions, and the values of its captured variables and constants."""

    graph_def: Any
    picture: str
    """Name of the placeholder of pictures (a node, without `:0`)."""
    output: str
    """Name of the tensor with the answers."""
    captured: Mapping[str, NDArray[Any]]
    """Values by the placeholder that stands for each: of the variable itself, or of its handle."""


@dataclass(frozen=True, slots=True)
class LooseGraph:
    """A graph without functions or variables: kernels are placeholders, everything smaller a constant."""

    graph_def: Any
    picture: str
    output: str
    kernels: Mapping[str, NDArray[Any]]


def bound_graph(concrete: Any) -> BoundGraph:  # noqa: ANN401 - a ConcreteFunction of one picture input
    """The graph of a traced function with its variables' values as they are now."""
    import tensorflow as tf

    captured = {}
    for outside, inside in concrete.graph.captures:
        name = inside.name.partition(":")[0]
        if outside.dtype == tf.resource:
            captured[name] = _variable(concrete, outside)
        else:
            captured[name] = outside.numpy()
    picture = concrete.inputs[0].name.partition(":")[0]
    return BoundGraph(concrete.graph.as_graph_def(), picture, concrete.outputs[0].name, captured)


def _variable(concrete: Any, handle: Any) -> NDArray[Any]:  # noqa: ANN401
    for variable in concrete.graph.variables:
        if variable.handle is handle:
            return np.asarray(variable.numpy())
    raise GraphUnusable("it holds a table or another resource that is no weight")


def loosened(graph: BoundGraph) -> LooseGraph:
    """Functions inlined, and every reading of a variable replaced by its value or, for kernels, a placeholder.

    Raises:
        GraphUnusable: a resource is used otherwise than for reading a weight.

    """
    inlined = _inlined(graph)
    kernels: dict[str, NDArray[Any]] = {}
    for node in list(inlined.node):
        name = node.name
        if node.op == "ReadVariableOp":
            _give(node, graph.captured[_root(inlined, node)], kernels)
        elif name in graph.captured and node.attr["dtype"].type != _resource_type():
            _give(node, graph.captured[name], kernels)
    _prune(inlined, graph)
    kept = {node.name for node in inlined.node}
    return LooseGraph(
        inlined, graph.picture, graph.output, {name: value for name, value in kernels.items() if name in kept}
    )


def _inlined(graph: BoundGraph) -> Any:  # noqa: ANN401
    import tensorflow as tf
    from tf2onnx import tf_loader

    ends = [f"{name}:0" for name in (graph.picture, *graph.captured)]
    with tf.Graph().as_default():
        tf.import_graph_def(graph.graph_def, name="")
        return tf_loader.tf_optimize(ends, [graph.output], graph.graph_def)


def _root(graph_def: Any, node: Any) -> str:  # noqa: ANN401
    """The placeholder whose handle a node reads, through identities."""
    nodes = {one.name: one for one in graph_def.node}
    while node.op in ("ReadVariableOp", "Identity") and node.input:
        node = nodes[node.input[0].partition(":")[0]]
    if node.op != "Placeholder":
        raise GraphUnusable(f"it reads a weight out of the operation {node.op}")
    return str(node.name)


def _give(node: Any, value: NDArray[Any], kernels: dict[str, NDArray[Any]]) -> None:  # noqa: ANN401
    """Turn a node into a constant or, for a kernel, into a placeholder that is remembered."""
    import tensorflow as tf

    kind = tf.as_dtype(value.dtype).as_datatype_enum
    del node.input[:]
    for key in list(node.attr):
        del node.attr[key]
    node.attr["dtype"].type = kind
    if value.ndim >= 2:
        node.op = "Placeholder"
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
        kernels[node.name] = value
    else:
        node.op = "Const"
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))


def _resource_type() -> int:
    import tensorflow as tf

    return int(tf.resource.as_datatype_enum)


def _prune(graph_def: Any, graph: BoundGraph) -> None:  # noqa: ANN401
    """Keep what the answer is computed from; orders of execution say nothing once nothing has side effects."""
    nodes = {node.name: node for node in graph_def.node}
    waiting, kept = [graph.output.partition(":")[0]], set()
    while waiting:
        name = waiting.pop()
        if name in kept:
            continue
        kept.add(name)
        node = nodes[name]
        if node.op in _WITH_STATE or (
            node.op == "Placeholder" and node.attr["dtype"].type == _resource_type()
        ):
            raise GraphUnusable(f"it uses a weight otherwise than by reading it ({node.op}, {name})")
        read = [one for one in node.input if not one.startswith("^")]
        del node.input[:]
        node.input.extend(read)
        waiting.extend(one.partition(":")[0] for one in read)
    if graph.picture not in kept:
        raise GraphUnusable("its answer does not depend on the picture")
    left = [node for node in graph_def.node if node.name in kept]
    del graph_def.node[:]
    graph_def.node.extend(left)


def answers(graph: LooseGraph, pictures: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """What TensorFlow itself answers with this graph."""
    import tensorflow as tf

    with tf.Graph().as_default() as own:
        tf.import_graph_def(graph.graph_def, name="")
        with tf.compat.v1.Session(graph=own) as session:
            values = {f"{name}:0": value for name, value in graph.kernels.items()}
            return [
                np.asarray(session.run(graph.output, {**values, f"{graph.picture}:0": one}))
                for one in pictures
            ]


def converted(graph: LooseGraph) -> Any:  # noqa: ANN401 - a ModelProto
    """The graph as ONNX: input `picture` as TensorFlow takes it, output `answer`, each weight once.

    Raises:
        GraphUnusable: an operation has no ONNX form.

    """
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    model, _ = tf2onnx.convert.from_graph_def(
        graph.graph_def,
        name="imported",
        input_names=[f"{name}:0" for name in (graph.picture, *graph.kernels)],
        output_names=[graph.output],
        opset=OPSET,
        tensors_to_rename={f"{graph.picture}:0": INPUT, graph.output: OUTPUT},
    )
    _write_out(model)
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    foreign = sorted({node.op_type for node in model.graph.node if node.domain or node.op_type not in known})
    if foreign:
        raise GraphUnusable(f"these TensorFlow operations have no ONNX form: {', '.join(foreign)}")
    _flatten_plainly(model)
    weights = _initializers(model, {f"{name}:0": value for name, value in graph.kernels.items()})
    _fold(model, weights)
    _store(model, weights)
    return model


def _write_out(model: Any) -> None:  # noqa: ANN401
    """Write erfc(x), which ONNX does not have, as 1 - erf(x): Keras computes its gelu so."""
    import onnx

    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        out = node.output[0]
        nodes += [
            onnx.helper.make_node("Constant", [], [f"{out}/one"], value_float=1.0),
            onnx.helper.make_node("Erf", list(node.input), [f"{out}/erf"], f"{out}/erf"),
            onnx.helper.make_node("Sub", [f"{out}/one", f"{out}/erf"], [out], f"{out}/sub"),
        ]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _flatten_plainly(model: Any) -> None:  # noqa: ANN401
    """Give `Reshape` a constant shape where the shape is computed only because the number of pictures is free."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes: dict[str, list[Any]] = {
        one.name: [
            size.dim_value if size.HasField("dim_value") else None for size in one.type.tensor_type.shape.dim
        ]
        for one in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    }
    constants = {one.name for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if not before or not after or None in before[1:] or None in after[1:]:
            continue
        if math.prod(before[1:]) == math.prod(after[1:]):
            name = f"{node.output[0]}_shape"
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.asarray([-1, *after[1:]], np.int64), name)
            )
            node.input[1] = name


def _initializers(model: Any, kernels: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    """All constants by name, taken out of the model; of its inputs only the picture stays."""
    import onnx

    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    values |= kernels
    del model.graph.initializer[:]
    for index in reversed(range(len(model.graph.input))):
        if model.graph.input[index].name in values:
            del model.graph.input[index]
    return values


def _fold(model: Any, weights: dict[str, NDArray[Any]]) -> None:  # noqa: ANN401
    """Compute the nodes that read nothing but constants (nodes stand in order of computation)."""
    from onnx.reference import ReferenceEvaluator

    results = {one.name for one in model.graph.output}
    kept = []
    for node in model.graph.node:
        constant = node.op_type in _FOLDED and all(name in weights for name in node.input if name)
        if not constant or results & set(node.output):
            kept.append(node)
            continue
        evaluator = ReferenceEvaluator(node, opsets={"": OPSET})
        (value,) = evaluator.run(None, {name: weights[name] for name in node.input if name})
        weights[node.output[0]] = np.ascontiguousarray(value)
    used = set(results)
    for node in reversed(kept):  # what the constant shapes above made superfluous
        if used & set(node.output):
            used |= set(node.input)
    del model.graph.node[:]
    model.graph.node.extend(node for node in kept if used & set(node.output))


def _store(model: Any, weights: dict[str, NDArray[Any]]) -> None:  # noqa: ANN401
    """Write what the nodes still read, equal values once."""
    import onnx

    stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in weights:
                continue
            if name not in names:
                value = weights[name]
                key = (
                    value.dtype.str,
                    value.shape,
                    hashlib.sha256(np.ascontiguousarray(value).data).digest(),
                )
                names[name] = stored.setdefault(key, name)
                if names[name] == name:
                    model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            node.input[index] = names[name]
