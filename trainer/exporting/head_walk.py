"""Where a network stops looking at places: the last feature map before the answer, and the nodes in between.

The walk starts at the probabilities and goes back through softmax, dense layers, activations, reshaping and pooling
to the last tensor that still has rows and columns. No layer is known by its name, and it makes no difference from
how many nested models a graph was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trainer.exporting.cam_head import PROBABILITIES
from trainer.exporting.onnx_graph import GraphError, NoClosedForm, OnnxGraph, attributes, measured_shapes

if TYPE_CHECKING:
    from collections.abc import Callable


_CONVOLUTIONS: Final = frozenset({"Conv", "QLinearConv", "ConvInteger"})
_KEEP_PLACES: Final = frozenset({"Identity", "Dropout", "Transpose"})
_POOLS: Final = frozenset({"MaxPool", "AveragePool"})
# Not a sum over places: its logit grows with the picture's size, the mean of a map does not.
_AFFINE: Final = frozenset(
    "Identity Dropout Flatten Reshape Squeeze Unsqueeze Transpose GlobalAveragePool ReduceMean "
    "AveragePool Gemm MatMul Conv BatchNormalization Add Sub Sum Neg Concat".split()
)


@dataclass(frozen=True, slots=True)
class Head:
    """What stands between the last feature map and the logits."""

    features: str
    """The last tensor with rows and columns."""
    layout: Literal["NCHW", "NHWC"]
    nodes: tuple[Any, ...]
    """From the feature map to the logits, in the graph's order."""
    logits: str
    """[n, labels], before the softmax and its temperature."""
    shapes: dict[str, tuple[int, ...]]
    """Shapes of the tensors on the way, for one picture of the size that was asked for."""
    affine: bool
    """Whether the logits are a linear function of the feature map and a constant."""

    @property
    def labels(self) -> int:
        """Number of classes."""
        return self.shapes[self.logits][1]

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the feature map, for one picture."""
        _, *sizes = self.shapes[self.features]
        channels, rows, columns = sizes if self.layout == "NCHW" else (sizes[2], sizes[0], sizes[1])
        return channels, rows, columns


def find_logits(graph: OnnxGraph) -> str:
    """The tensor whose softmax the probabilities are, before a division by a temperature."""
    softmax = graph.producers.get(PROBABILITIES)
    if softmax is None or softmax.op_type != "Softmax":
        raise GraphError(f"the output {PROBABILITIES} is no softmax")
    before = graph.producers.get(softmax.input[0])
    if before is not None and before.op_type == "Div" and graph.is_constant(before.input[1]):
        return str(before.input[0])
    return str(softmax.input[0])


def find_head(
    model: Any,  # noqa: ANN401 - onnx has no types
    can_pass: Callable[[Any, OnnxGraph, dict[str, tuple[int, ...]]], str],
    *,
    input_px: int,
    tensor: str | None = None,
) -> Head:
    """Walk back from the logits to the last feature map, or to `tensor` where one is named.

    `can_pass(node, graph, shapes)` says why a node cannot be written backwards, "" where it can.

    Raises:
        NoClosedForm: a node on the way has no closed form, or the answer reads several feature maps.
        GraphError: no convolution stands before the answer, or the graph does not run.

    """
    graph = OnnxGraph(model)
    logits = find_logits(graph)
    if not any(node.op_type in _CONVOLUTIONS for node in graph.upstream(logits)):
        raise GraphError("there is no convolution before the answer: a map would not show places")
    shapes = measured_shapes(model, _candidates(graph, logits), input_px)
    if len(shapes[logits]) != 2:
        raise GraphError(f"the answers have shape {list(shapes[logits])}, not [pictures, labels]")
    walk = _Walk(graph, shapes, can_pass, tensor)
    walk.visit(logits)
    if len(walk.leaves) != 1:
        raise NoClosedForm(
            f"the answer reads {len(walk.leaves)} feature maps ({', '.join(walk.leaves)}), not one"
        )
    features = walk.leaves[0]
    nodes = tuple(node for node in model.graph.node if walk.visited.intersection(node.output))
    affine = all(_is_affine(graph, node) for node in nodes)
    return Head(features, layout_of(graph, features), nodes, logits, shapes, affine)


def _is_affine(graph: OnnxGraph, node: Any) -> bool:  # noqa: ANN401
    return node.op_type in _AFFINE or graph.scales(node)


def layout_of(graph: OnnxGraph, name: str) -> Literal["NCHW", "NHWC"]:
    """Where the channels of a feature map stand: convolutions keep them second, a transposition moves them."""
    while (node := graph.producers.get(name)) is not None:
        if node.op_type == "Transpose":
            return "NHWC" if attributes(node).get("perm") == [0, 2, 3, 1] else "NCHW"
        if node.op_type in ("Conv", "MaxPool", "AveragePool", "BatchNormalization"):
            break
        flows = graph.flows(node)
        if not flows:
            break
        name = flows[0]
    return "NCHW"


def has_places(shape: tuple[int, ...]) -> bool:
    """Whether a tensor has rows and columns: four dimensions, of which more than the channels are above 1."""
    return len(shape) == 4 and sum(size > 1 for size in shape[1:]) >= 2


class _Walk:
    """One walk: the feature maps it ended at, and the tensors it passed."""

    def __init__(
        self,
        graph: OnnxGraph,
        shapes: dict[str, tuple[int, ...]],
        can_pass: Callable[[Any, OnnxGraph, dict[str, tuple[int, ...]]], str],
        tensor: str | None,
    ) -> None:
        self._graph, self._shapes, self._can_pass, self._tensor = graph, shapes, can_pass, tensor
        self.leaves: list[str] = []
        self.visited: set[str] = set()

    def visit(self, logits: str) -> None:
        stack = [logits]
        while stack:
            name = stack.pop()
            if name in self.visited or name in self.leaves:
                continue
            if self._ends_at(name):
                self.leaves.append(name)
                continue
            node = self._graph.producers.get(name)
            if node is None:
                raise NoClosedForm("the answer depends on the picture beside its feature maps")
            if reason := self._can_pass(node, self._graph, self._shapes):
                raise NoClosedForm(f"the node {node.name or name!r} ({node.op_type}) {reason}")
            self.visited.add(name)
            stack += reversed(self._graph.flows(node))

    def _ends_at(self, name: str) -> bool:
        if self._tensor is not None:
            return name == self._tensor
        if not has_places(self._shapes.get(name, ())):
            return False
        node = self._graph.producers.get(name)
        if node is None or node.op_type not in _KEEP_PLACES | _POOLS:
            return True
        return bool(self._can_pass(node, self._graph, self._shapes))


def _candidates(graph: OnnxGraph, logits: str) -> list[str]:
    """Tensors whose shape the walk may ask for: back to the convolutions, and their own outputs."""
    found: dict[str, None] = {}
    stack = [logits]
    while stack:
        name = stack.pop()
        node = graph.producers.get(name)
        if name in found or graph.is_constant(name):
            continue
        if node is None:
            continue
        found[name] = None
        wide = node.op_type == "Conv" and np.prod(graph.dims(node.input[1])[2:]) > 1
        if not wide:
            stack += graph.flows(node)
    return list(found)
