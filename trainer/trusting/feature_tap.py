"""Which feature map a bundle's novelty is read from, and how a map becomes one vector for a picture.

A network that was fitted to a few hundred pictures has seen them: its last features lie closer together for those
than for any other picture, and say more of the classes than of what a picture is. The features half way down, where
the backbone is usually still as it was pretrained, tell a strange picture best (measured by
`tests/benchmarks/novelty_scores.py`). Only this module knows how that place is found in a graph of any make.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from trainer.exporting.node_writer import NodeWriter
from trainer.exporting.onnx_graph import GraphError, OnnxGraph, input_shape, measured_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

MEAN, SPREAD = "tap/mean", "tap/spread"
STRIDE: Final = 16
"""Rows of the input for a row of the map."""
FEWEST_CHANNELS: Final = 8


def feature_tap(model: Any, output: str, input_px: int) -> str:  # noqa: ANN401 - onnx has no types
    """Name of the map [n, channels, rows, columns] to read: a place that everything on the way to `output` passes.

    Of those places the narrowest at a sixteenth of the input's size, the first of equals; where a graph has none
    there, the last of all. A map with as many channels as there are labels is taken for the class activation map.

    Raises:
        GraphError: no such place carries a map.
    """
    passed = bottlenecks(model, output)
    shapes = measured_shapes(model, [*passed, output], input_px)
    rows = input_shape(model.graph.input[0], input_px)[2]
    labels = shapes[output][-1]
    maps = [(name, shapes[name]) for name in passed if _is_map(shapes[name], labels)]
    if not maps:
        raise GraphError(
            "no feature map that all of the network passes through: novelty cannot be read anywhere"
        )
    there = [(shape[1], at, name) for at, (name, shape) in enumerate(maps) if _is_at_stride(rows, shape[2])]
    return min(there)[2] if there else maps[-1][0]


def _is_map(shape: tuple[int, ...], labels: int) -> bool:
    """Channels first: the probe is square, so where rows and columns differ the channels come last."""
    if len(shape) != 4 or shape[1] < FEWEST_CHANNELS or shape[1] == labels:
        return False
    return shape[2] == shape[3] > 1


def _is_at_stride(rows: int, map_rows: int) -> bool:
    """Networks without padding end a little above or below the round figure."""
    return abs(math.log2(rows / map_rows) - math.log2(STRIDE)) < 0.3


def bottlenecks(model: Any, output: str) -> list[str]:  # noqa: ANN401
    """Tensors that every way from the input to `output` passes, in the graph's order, the output left out."""
    graph = OnnxGraph(model)
    nodes = [
        node for node in graph.upstream(output) if not all(graph.is_constant(name) for name in node.output)
    ]
    last_read = {name: -1 for node in nodes for name in node.output}
    last_read[model.graph.input[0].name] = -1
    for at, node in enumerate(nodes):
        for name in node.input:
            if name in last_read:
                last_read[name] = at
    found, reach = [], last_read[model.graph.input[0].name]
    for at, node in enumerate(nodes):
        reads = [last_read[name] for name in node.output]
        # Nothing that was made earlier is read behind this node: all goes through what it makes.
        if reach <= at and len(node.output) == 1 and node.output[0] != output:
            found.append(str(node.output[0]))
        reach = max(reach, *reads)
    return found


def pooled_nodes(write: NodeWriter, tensor: str) -> tuple[str, str]:
    """Write nodes that pool a map over the field: mean and standard deviation, both [n, channels, 1, 1]."""
    mean = write("GlobalAveragePool", tensor)
    off = write("Sub", tensor, mean)
    return mean, write("Sqrt", write("GlobalAveragePool", write("Mul", off, off)))


def with_pooled_outputs(model: Any, tensor: str, others: Sequence[str]) -> bytes:  # noqa: ANN401
    """A copy of the model that gives `others`, and mean and spread of a map over the field [n, channels, 1, 1].

    The last two are called `MEAN` and `SPREAD`.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write = NodeWriter("tap", OnnxGraph(model).opset)
    for pooled, name in zip(pooled_nodes(write, tensor), (MEAN, SPREAD), strict=True):
        write("Identity", pooled, out=name)
    copy.graph.node.extend(write.nodes)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (*others, MEAN, SPREAD))
    return bytes(copy.SerializeToString())
