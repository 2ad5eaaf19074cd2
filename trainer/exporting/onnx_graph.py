"""An ONNX graph to walk in: who makes a tensor, what is constant, which shapes tensors have when it runs.

Only this module knows how constants hide in a graph (initializers, Constant nodes, nodes that read constants only).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_FIRST_ONLY: Final = frozenset(
    "Reshape Squeeze Unsqueeze ReduceMean ReduceSum ReduceMax Clip Dropout Expand Slice Cast Flatten".split()
)
"""Operators whose further inputs are sizes, axes or limits: no value flows through them."""


class GraphError(Exception):
    """A graph cannot be given a class activation map; the message says what was seen."""


class NoClosedForm(GraphError):
    """The way from the last feature map to the answer holds something that cannot be written backwards."""


class OnnxGraph:
    """Look-ups over a ModelProto, which is not changed."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - onnx has no types
        self.model = model
        self.producers: dict[str, Any] = {
            out: node for node in model.graph.node for out in node.output if out
        }
        self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constant: dict[str, bool] = {}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._tensors[node.output[0]] = node.attribute[0].t

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return int(next(one.version for one in self.model.opset_import if one.domain in ("", "ai.onnx")))

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is the same for every picture."""
        if name not in self._constant:
            node = self.producers.get(name)
            self._constant[name] = (
                not name
                or name in self._tensors
                or (node is not None and all(self.is_constant(one) for one in node.input))
            )
        return self._constant[name]

    def dims(self, name: str) -> tuple[int, ...]:
        """Shape of a constant, without a copy of its values."""
        if name in self._tensors:
            return tuple(self._tensors[name].dims)
        return tuple(self.array(name).shape)

    def array(self, name: str) -> NDArray[Any]:
        """Values of a constant."""
        from onnx import numpy_helper
        from onnx.reference import ReferenceEvaluator

        if name in self._tensors:
            return np.asarray(numpy_helper.to_array(self._tensors[name]))
        node = self.producers[name]
        feeds = {one: self.array(one) for one in node.input if one}
        values = ReferenceEvaluator(node).run(None, feeds)
        return np.asarray(values[list(node.output).index(name)])

    def flows(self, node: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Inputs of a node through which the picture's values flow."""
        inputs = node.input[:1] if node.op_type in _FIRST_ONLY else node.input
        return tuple(dict.fromkeys(one for one in inputs if not self.is_constant(one)))

    def scales(self, node: Any) -> bool:  # noqa: ANN401
        """Whether a product or quotient is one of an activation with, or by, a constant."""
        constant = [self.is_constant(name) for name in node.input]
        return (node.op_type in ("Mul", "Div") and constant[-1]) or (node.op_type == "Mul" and constant[0])

    def upstream(self, name: str, behind: str = "") -> list[Any]:
        """All nodes that a tensor depends on, in the graph's order; only those behind `behind`, where given."""
        wanted, stack = set(), [name]
        while stack:
            at = stack.pop()
            if at in self.producers and at not in wanted and at != behind:
                wanted.add(at)
                stack += [one for one in self.producers[at].input if one]
        return [node for node in self.model.graph.node if wanted.intersection(node.output)]


def attributes(node: Any) -> dict[str, Any]:  # noqa: ANN401
    """A node's attributes as Python values."""
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def measured_shapes(
    model: Any,  # noqa: ANN401
    names: Iterable[str],
    input_px: int,
) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors when the graph runs once on a grey picture; free sizes of its input are `input_px`."""
    import onnx

    from trainer.exporting.bundle_writer import onnx_session

    asked = list(dict.fromkeys(names))
    put = model.graph.input[0]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
    try:
        session = onnx_session(probe.SerializeToString())
        del probe
        answers = session.run(asked, {put.name: np.full(input_shape(put, input_px), 0.5, np.float32)})
    except Exception as error:  # ONNX Runtime raises its own classes, one for each status code
        raise GraphError(f"ONNX Runtime cannot run the graph ({' '.join(str(error).split())})") from error
    return {name: tuple(np.shape(answer)) for name, answer in zip(asked, answers, strict=True)}


def input_shape(put: Any, input_px: int) -> tuple[int, ...]:  # noqa: ANN401
    """Shape of one input, its free sizes filled: one picture, `input_px` rows and columns."""
    sizes = [one.dim_value for one in put.type.tensor_type.shape.dim]
    return (sizes[0] or 1, *(size or input_px for size in sizes[1:]))
