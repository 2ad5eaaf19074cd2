"""CAM nodes appended to an ONNX backbone: the class activation map as an ordinary output of the graph.

The head is authored as ONNX nodes: a 1x1 convolution from the last feature map to one evidence map for each
class, its average the logits, their softmax the probabilities. That is class activation mapping (Zhou et al.,
CVPR 2016) with the dense layer written before the pooling, where it is a map: average and linear layer commute.

An ensemble is the same graph: its members' last feature maps stacked along the channels, read by one convolution
that holds the members' heads, each divided by their number. Its map is the mean of theirs, and so are its logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.onnx_graph import GraphError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OPSET: Final = 17
INPUT, PROBABILITIES, CAM, FEATURES = "micrograph", "probabilities", "cam", "features"
CAM_EVERY_CLASS: Final = "cam_every_class"


def append_cam_head(
    backbone: Any,  # noqa: ANN401 - onnx has no types
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    temperature: float = 1.0,
) -> Any:  # noqa: ANN401
    """Join a backbone (ModelProto, one output: features [n, channels, rows, columns]) with a CAM head.

    `weights` is [channels, labels], `bias` [labels]. Outputs: `probabilities` [n, labels], the softmax of the mean
    evidence divided by the temperature, and `cam` [n, labels, rows, columns], whose mean is the logit.
    """
    import onnx

    if len(backbone.graph.output) != 1 or len(backbone.graph.input) != 1:
        raise GraphError("the backbone must have one input and one output")
    shape = [size.dim_value for size in backbone.graph.output[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or shape[1] != weights.shape[0]:
        raise GraphError(
            f"the features have shape {shape} (0: free), not [n, {weights.shape[0]}, rows, columns]"
        )
    opset = max((one.version for one in backbone.opset_import if one.domain == ""), default=OPSET)
    _rename(backbone, backbone.graph.output[0].name, FEATURES)
    head = _head(weights, bias, temperature, (opset, backbone.ir_version))
    joined = onnx.compose.merge_models(
        backbone, head, io_map=[(FEATURES, FEATURES)], producer_name="scopewatch"
    )
    _rename(joined, joined.graph.input[0].name, INPUT)
    drop_unused_domains(joined)
    joined = onnx.shape_inference.infer_shapes(joined, strict_mode=True)
    onnx.checker.check_model(joined, full_check=True)
    return joined


def join_backbones(backbones: Sequence[Any]) -> Any:  # noqa: ANN401
    """Join the members' backbones (ModelProto, one input, one output each) to one that stacks their features.

    What members have in common, such as a frozen lower part, stands in the graph once and is computed once.
    """
    import onnx

    if len(backbones) == 1:
        return backbones[0]
    parts = [
        onnx.compose.add_prefix(backbone, f"member_{index}/") for index, backbone in enumerate(backbones)
    ]
    for part in parts:  # the sizes' names are each converter run's own; they are inferred again below
        del part.graph.value_info[:]
    joined = parts[0]
    for part in parts[1:]:
        joined = onnx.compose.merge_models(joined, part, io_map=[], producer_name="scopewatch")
    _share_input(joined)
    _drop_twins(joined.graph)
    _stack_outputs(joined.graph)
    return joined


def stack_heads(
    heads: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [all members' channels, labels] and bias [labels] whose evidence is the mean of the members'."""
    weights = np.concatenate([weights for weights, _ in heads]) / len(heads)
    bias = np.mean([bias for _, bias in heads], axis=0)
    return weights.astype(np.float32), bias.astype(np.float32)


def _share_input(model: Any) -> None:  # noqa: ANN401
    """Let all members read the first one's input."""
    first, *others = (put.name for put in model.graph.input)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in others:
                node.input[index] = first
    del model.graph.input[1:]


def _drop_twins(graph: Any) -> None:  # noqa: ANN401
    """Take out constants of equal content and nodes that compute the same from the same; nodes come in order."""
    from onnx import numpy_helper

    same: dict[str, str] = {}
    first: dict[Any, list[str]] = {}
    constants, nodes = [], []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        content = (constant.data_type, values.shape, values.tobytes())
        same[constant.name] = first.setdefault(content, [constant.name])[0]
        if same[constant.name] == constant.name:
            constants.append(constant)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        outputs = first.setdefault((node.op_type, node.domain, *node.input, *attributes), list(node.output))
        same |= zip(node.output, outputs, strict=True)
        if outputs == list(node.output):
            nodes.append(node)
    for put in graph.output:
        put.name = same.get(put.name, put.name)
    for field, kept in ((graph.initializer, constants), (graph.node, nodes)):
        copies = [
            type(one).FromString(one.SerializeToString()) for one in kept
        ]  # deleting ends the originals
        del field[:]
        field.extend(copies)


def _stack_outputs(graph: Any) -> None:  # noqa: ANN401
    """Replace the members' feature maps [n, channels, rows, columns] by one output with all their channels."""
    from onnx import TensorProto, helper

    names = [put.name for put in graph.output]
    channels = [put.type.tensor_type.shape.dim[1].dim_value for put in graph.output]
    graph.node.append(helper.make_node("Concat", names, ["stacked"], "stacked", axis=1))
    size = ["batch", "rows", "columns"]
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("stacked", TensorProto.FLOAT, [size[0], sum(channels), *size[1:]])
    )


def _head(
    weights: NDArray[np.float32], bias: NDArray[np.float32], temperature: float, versions: tuple[int, int]
) -> Any:  # noqa: ANN401
    """The head as a model; `versions` are those of the operators and of the format."""
    from onnx import TensorProto, helper, numpy_helper

    channels, labels = weights.shape
    kernel = np.ascontiguousarray(weights.T.astype(np.float32))[:, :, None, None]
    constants = [
        numpy_helper.from_array(kernel, "cam_weights"),
        numpy_helper.from_array(bias.astype(np.float32), "cam_bias"),
        numpy_helper.from_array(np.float32(temperature), "temperature"),
    ]
    nodes = [
        helper.make_node("Conv", [FEATURES, "cam_weights", "cam_bias"], [CAM], "cam", kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", [CAM], ["evidence"], "evidence"),
        helper.make_node("Flatten", ["evidence"], ["logits"], "logits", axis=1),
        helper.make_node("Div", ["logits", "temperature"], ["tempered"], "tempered"),
        helper.make_node("Softmax", ["tempered"], [PROBABILITIES], "probabilities", axis=1),
    ]
    size = ["batch", "rows", "columns"]
    graph = helper.make_graph(
        nodes,
        "cam_head",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [size[0], channels, *size[1:]])],
        [
            helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [size[0], labels]),
            helper.make_tensor_value_info(CAM, TensorProto.FLOAT, [size[0], labels, *size[1:]]),
        ],
        constants,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", versions[0])], ir_version=versions[1]
    )


def _rename(model: Any, old: str, new: str) -> None:  # noqa: ANN401
    """Call a tensor by another name, wherever it is used; a tensor that has that name already gives it up."""
    other = f"{new}_before"
    for put in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        put.name = {old: new, new: other}.get(put.name, put.name) if old != new else put.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if old != new and name in (old, new):
                    names[index] = new if name == old else other


def drop_unused_domains(model: Any) -> None:  # noqa: ANN401
    """Take out operator sets that no node uses: tf2onnx always declares `ai.onnx.ml`, the agent refuses it."""
    used = {node.domain for node in model.graph.node}
    versions = {opset.domain: opset for opset in model.opset_import}  # merging two models states one twice
    kept = [opset for domain, opset in versions.items() if domain in used or domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(kept)
