"""Other forms of a bundle's graph: tidied by ONNX Runtime, and with the backbone's convolutions in 8 bits.

Answers for what a form may be: plain ONNX with standard operators, one file, no temporary left. Of ONNX Runtime's
levels only `basic` is used: `extended` and `all` write operators of its own domain, or for one processor.

Only convolutions that the answer comes from are quantised, and not the last ones before it that have one channel a
label (the CAM head): the map and the head stay in floating point.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from edge_agent.onnx_gate import gate_model

# ONNX Runtime is imported below, inside functions: only this import switches its telemetry off before that.
from trainer.exporting.bundle_writer import onnx_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Tensors

_QUANTISER_KEYS: Final = ("onnx.infer", "onnx.quant.pre_process")


class FormError(Exception):
    """A graph has no such form; the message says what was seen."""


def tidied(model: bytes, names: tuple[tuple[str, ...], tuple[str, ...]]) -> bytes:
    """The graph after ONNX Runtime's basic optimisations: constants folded, normalisation taken into convolutions.

    `names` are the inputs and outputs that it must keep. Raises OnnxRefused where the result is not plain ONNX.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="scopewatch-") as folder:
        file = Path(folder) / "tidied.onnx"
        options.optimized_model_filepath = str(file)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(file)
    _state_used_domains(graph)
    form = bytes(graph.SerializeToString())
    gate_model(form, names)
    return form


def quantised(
    model: bytes,
    tensors: Tensors,
    labels: int,
    inputs: Sequence[NDArray[np.float32]],
    lower_in_float: float = 0.0,
) -> bytes:
    """The graph with the backbone's convolutions in 8 bits: weights by channel, activations by their range.

    The ranges are the smallest and largest values that occur on `inputs` ([1, 1, rows, columns] each). The share
    `lower_in_float` of the convolutions, counted from the input, stays in floating point.

    Raises:
        FormError: there is no convolution to quantise.

    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = onnx.load_model_from_string(model)
    chosen = _backbone_convolutions(graph.graph, tensors.probabilities.name, labels)
    chosen = chosen[round(lower_in_float * len(chosen)) :]
    if not chosen:
        raise FormError("the graph has no convolution below its head")
    # The quantiser warns on the root logger of models that were not prepared its way; this one was, by `tidied`.
    onnx.helper.set_model_props(graph, dict.fromkeys(_QUANTISER_KEYS, "onnxruntime.quant"))
    with tempfile.TemporaryDirectory(prefix="scopewatch-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, source)
        del graph
        quantize_static(
            source,
            target,
            _reader(tensors.input.name, inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=chosen,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantised_graph = onnx.load(target)
    _state_used_domains(quantised_graph)
    del quantised_graph.metadata_props[:]
    return bytes(quantised_graph.SerializeToString())


class Rounding(NamedTuple):
    """The largest differences between two ways to compute one graph; 0 for what it does not give.

    Those of the map and of the novelty are fractions of their largest value (of 1, where that is smaller).
    """

    probabilities: float = 0.0
    cam: float = 0.0
    novelty: float = 0.0


NO_ROUNDING: Final = Rounding()


def rounding_apart(model: bytes, tensors: Tensors, inputs: Sequence[NDArray[np.float32]]) -> Rounding:
    """How far answers move when other kernels compute the same graph, as another processor's would.

    The two ways are with ONNX Runtime's optimisations and without.
    In floating point that is next to nothing; 8-bit values that lie close to a step round to the other side.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    plain = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fast = onnx_session(model)
    given = (("probabilities", tensors.probabilities), ("cam", tensors.cam), ("novelty", tensors.novelty))
    wanted = {role: tensor.name for role, tensor in given if tensor is not None}
    apart = dict.fromkeys(wanted, 0.0)
    for one in inputs:
        answers = [session.run([*wanted.values()], {tensors.input.name: one}) for session in (plain, fast)]
        for role, left, right in zip(wanted, *answers, strict=True):
            size = max(1.0, float(np.abs(left).max()))  # 1 for probabilities
            apart[role] = max(apart[role], float(np.abs(left - right).max()) / size)
    return Rounding(**apart)


def _reader(name: str, inputs: Sequence[NDArray[np.float32]]) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The inputs one by one, then None."""

        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.float32]] = iter(inputs)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            """Return the next input by name."""
            values = next(self.left, None)
            return None if values is None else {name: values}

    return Reader()


def _backbone_convolutions(graph: Any, answer: str, labels: int) -> list[str]:  # noqa: ANN401
    """Names of the convolutions below the head, in the order of the graph; nodes without a name are given one."""
    needed = _nodes_below(graph, answer)
    head = _evidence(graph, answer, labels)
    chosen: list[str] = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Conv" and index in needed and index not in head:
            node.name = f"backbone/{len(chosen)}"
            chosen.append(node.name)
    return chosen


def _nodes_below(graph: Any, answer: str) -> set[int]:  # noqa: ANN401
    """Indices of all nodes that the answer comes from."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    waiting = [answer]
    while waiting:
        index = maker.get(waiting.pop())
        if index is not None and index not in found:
            found.add(index)
            waiting += graph.node[index].input
    return found


def _evidence(graph: Any, answer: str, labels: int) -> set[int]:  # noqa: ANN401
    """Indices of convolutions with a channel a label and no other convolution between them and the answer."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    channels = {constant.name: constant.dims[0] for constant in graph.initializer if len(constant.dims) == 4}
    found: set[int] = set()
    seen, waiting = {answer}, [answer]
    while waiting:
        index = maker.get(waiting.pop())
        if index is None:
            continue
        node = graph.node[index]
        if node.op_type == "Conv":
            if channels.get(node.input[1]) == labels:
                found.add(index)
            continue
        waiting += set(node.input) - seen
        seen |= set(node.input)
    return found


def _state_used_domains(model: Any) -> None:  # noqa: ANN401
    """Take out operator sets that no node uses: ONNX Runtime declares all it knows, the agent refuses them."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [(opset.domain, opset.version) for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    for domain, version in kept:
        model.opset_import.add(domain=domain, version=version)
