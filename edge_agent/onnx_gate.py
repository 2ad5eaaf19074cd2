"""Looks into an ONNX file before ONNX Runtime sees it.

Refuses external data (a model loaded from bytes would still read any file in the current folder), operators and
domains outside the list of what a CNN with a CAM head needs, sub-graphs, functions, and missing tensor names.
What is computed from plain tensors is allowed; what runs a graph of its own (If, Loop, Scan, SequenceMap), draws at
random, or handles text, sequences and optional values is not. `ConstantOfShape`, `Expand`, `Pad`, `Range`, `Resize`
and `Tile` can ask for any amount of memory, as a large input can of any operator: the worker's memory limit holds.
Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from typing import Final

from edge_agent.onnx_file import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    TENSOR_NAME,
    VALUE_NAME,
    OnnxRefused,
    fields,
    text_field,
)

__all__ = ["ALLOWED_OPERATORS", "OnnxRefused", "gate_model"]

ALLOWED_OPERATORS: Final = frozenset(
    """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant
    ConstantOfShape Conv ConvInteger ConvTranspose CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish
    Hardmax Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod
    Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Upsample Where Xor
    """.split()
)

_MODEL_OPSET, _MODEL_FUNCTIONS, _MODEL_TRAINING = 8, 25, 20
_GRAPH_SPARSE: Final = 15
_NODE_ATTRIBUTE, _NODE_OPERATOR, _NODE_DOMAIN = 5, 4, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (
    5, 6, 10, 11, 22,
)  # fmt: skip
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
# ONNX Runtime takes bytes with this mark for a flatbuffer, whatever else they may be read as.
_ORT_MARK: Final = b"ORTM"


def gate_model(data: bytes, names: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Refuse a model that is not plain; `names` are the inputs and the outputs that it must have.

    Raises:
        OnnxRefused: with what was found.
    """
    if data[4:8] == _ORT_MARK:
        raise OnnxRefused("it is in ONNX Runtime's own format, which cannot be looked into")
    model = memoryview(data)
    graphs = []
    stated = False
    for field, value in fields(model):
        if field == MODEL_GRAPH and isinstance(value, memoryview):
            graphs.append(value)
        elif field in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
            raise OnnxRefused("it carries functions or training information of its own")
        elif field == _MODEL_OPSET and isinstance(value, memoryview):
            _check_domain(text_field(value, 1))
            stated = True
    if len(graphs) != 1:
        raise OnnxRefused(f"not an ONNX model ({len(graphs)} graphs found where one should be)")
    if not stated:
        raise OnnxRefused("it states no version of its operators, or was cut off")
    _check_names(names, *_check_graph(graphs[0]))


def _check_names(names: tuple[tuple[str, ...], tuple[str, ...]], inputs: set[str], outputs: set[str]) -> None:
    for kind, wanted, seen in (("input", names[0], inputs), ("output", names[1], outputs)):
        missing = sorted(set(wanted) - seen)
        if missing:
            raise OnnxRefused(
                f"it has no {kind} named {', '.join(missing)} (it has {', '.join(sorted(seen)) or 'none'})"
            )
    if inputs != set(names[0]):
        raise OnnxRefused(f"it wants inputs that the manifest does not name: {', '.join(sorted(inputs))}")


def _check_graph(graph: memoryview) -> tuple[set[str], set[str]]:
    inputs, outputs, constants = set(), set(), set()
    for field, value in fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == GRAPH_NODE:
            _check_node(value)
        elif field == GRAPH_INITIALIZER:
            _check_tensor(value)
            constants.add(text_field(value, TENSOR_NAME))
        elif field == GRAPH_INPUT:
            inputs.add(text_field(value, VALUE_NAME))
        elif field == GRAPH_OUTPUT:
            outputs.add(text_field(value, VALUE_NAME))
        elif field == _GRAPH_SPARSE:
            raise OnnxRefused("it carries sparse tensors")
    return inputs - constants, outputs


def _check_node(node: memoryview) -> None:
    operator = text_field(node, _NODE_OPERATOR)
    _check_domain(text_field(node, _NODE_DOMAIN))
    if operator not in ALLOWED_OPERATORS:
        raise OnnxRefused(f"the operator {operator!r} is not on the list of allowed ones")
    for field, value in fields(node):
        if field == _NODE_ATTRIBUTE and isinstance(value, memoryview):
            _check_attribute(value)


def _check_attribute(attribute: memoryview) -> None:
    for field, value in fields(attribute):
        if field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE):
            raise OnnxRefused("a node carries a graph or a sparse tensor of its own")
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and isinstance(value, memoryview):
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    for field, value in fields(tensor):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise OnnxRefused("a tensor keeps its values in another file (external data)")


def _check_domain(domain: str) -> None:
    if domain not in ("", "ai.onnx"):
        raise OnnxRefused(f"it uses the operator domain {domain!r}")
