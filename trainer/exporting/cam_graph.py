"""The map of where a network looked, appended to any CNN's ONNX graph as one more output: no gradients at run time.

Methods, where the algebra is closed. With A [channels, rows, columns] the last feature map and y a class's logit:

- `cam`: average pooling, then a linear layer. Class activation mapping (Zhou et al., CVPR 2016), exact: the mean of
  the map is the logit. The linear layer is moved before the pooling, and stands in the graph once.
- `gradcam`: sum over channels of the derivative's mean over the places times A (Selvaraju et al., ICCV 2017).
- `hirescam`: sum over channels of the derivative times A at each place (Draelos and Carin, arXiv 2011.08891).
  Where dense layers follow the flattened map, each weight keeps the place it belongs to; `gradcam` averages them.

Derivatives start at the logit, before the softmax: a network that is sure of its answer has a derivative of 0 in
its probabilities, and still a map. All maps are in logits and signed: the mean over a map's cells is the logit for
`cam`, and for the others the derivative of the logit along the feature map (`gradcam`: along its mean over the
places), which for heads of rectifiers is the logit without what the biases bring.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from edge_agent.model_bundle import Cam, Tensor
from trainer.exporting.back_propagation import Tape, back_propagate
from trainer.exporting.cam_head import (
    CAM,
    CAM_EVERY_CLASS,
    FEATURES,
    PROBABILITIES,
    append_cam_head,
    drop_unused_domains,
)
from trainer.exporting.closed_form import can_pass
from trainer.exporting.flattened_map import (
    Flattened,
    flatten_again,
    flattened,
    lay_out_by_places,
    mean_derivative,
    shares_map,
)
from trainer.exporting.head_part import HeadPart
from trainer.exporting.head_walk import Head, find_head
from trainer.exporting.node_writer import NodeWriter
from trainer.exporting.onnx_graph import GraphError, NoClosedForm, OnnxGraph

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle, Manifest
    from trainer.exporting.back_propagation import Adjoint

__all__ = ["METHODS", "GraphError", "MappedGraph", "Method", "NoClosedForm", "append_maps", "by_method"]

Method = Literal["cam", "gradcam", "hirescam"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
_NAMES: Final = {
    "cam": "Class activation mapping (Zhou et al., CVPR 2016)",
    "gradcam": "Grad-CAM (Selvaraju et al., ICCV 2017)",
    "hirescam": "HiResCAM (Draelos and Carin, arXiv 2011.08891)",
}


@dataclass(frozen=True, slots=True)
class MappedGraph:
    """A graph with its map, and what the map is."""

    model: Any
    """ModelProto with the outputs `probabilities`, `cam`, and `cam_every_class` where `cam` is the winner's."""
    method: Method
    tensor: str
    """The feature map that the map is made of."""
    shape: tuple[int, ...]
    """[1, channels, rows, columns] of that tensor for one picture."""
    labels: int
    winner_only: bool
    fixed_size: bool
    """Rows and columns stand in the graph as numbers: it takes one input size only."""
    description: str
    head: Head | None
    """What stands between that tensor and the logits; None where the exact map took its place."""

    @property
    def cam(self) -> Cam:
        """What the manifest says of it."""
        return Cam(method=self.method, tensor=self.tensor, description=self.description)


def append_maps(
    model: Any,  # noqa: ANN401 - onnx has no types
    method: Method | Literal["auto"] = "auto",
    *,
    input_px: int,
    tensor: str | None = None,
    start: Literal["logit", "probability"] = "logit",
) -> MappedGraph:
    """Append the map to a graph whose output `probabilities` is the softmax of logits [n, labels].

    `tensor` names the feature map, by default the last one. `start="probability"` differentiates the probability
    instead of the logit, as the origin's function did; it is for comparison only. The given model is changed.

    Raises:
        NoClosedForm: the way back to the feature map holds something without a closed form, or `method` is `cam`
            and the head is not an average pooling with a linear layer.
        GraphError: there is no convolution, no such tensor, or the graph does not run.

    """
    head = find_head(model, can_pass, input_px=input_px, tensor=tensor)
    every = _tape(model, head, "cam_of_each", head.labels)
    adjoint = back_propagate(every, head, _seed(every.write, head, start))
    exact = head.affine and adjoint.spread and start == "logit"
    chosen = _chosen(method, exact=exact, spread=adjoint.spread)
    if chosen == "cam":
        return _with_exact_cam(model, head, every, adjoint)
    # A few numbers for each class: all of them cost next to nothing.
    if adjoint.spread or start == "probability":
        _write_map(every, head, adjoint, chosen, CAM)
        return _finished(model, head, chosen, (every,))
    found = flattened(model, head)
    if found is not None and (chosen == "gradcam" or lay_out_by_places(model, head, found)):
        return _with_flattened_map(model, head, found, chosen)
    _write_map(every, head, adjoint, chosen, CAM_EVERY_CLASS)
    winner = _tape(model, head, "cam_of_winner", 1)
    _write_map(winner, head, back_propagate(winner, head, _winning_seed(winner.write, head)), chosen, CAM)
    return _finished(model, head, chosen, (winner, every))


def by_method(bundle: Bundle, method: Method) -> Bundle:
    """The same bundle, in memory, with its map computed by another method from the same feature map.

    Raises:
        NoClosedForm: the bundle's head has no map by this method.

    """
    import onnx

    manifest = bundle.manifest
    model = onnx.load_model_from_string(bundle.model_bytes)
    tensor = _take_map_out(model, manifest.cam.tensor)
    mapped = append_maps(model, method, input_px=manifest.preprocessing.input_px, tensor=tensor)
    changes = map_tensors(mapped, manifest.tensors.probabilities.shape[0])
    tensors = manifest.tensors.model_copy(update=changes)
    changed = manifest.model_copy(update={"cam": mapped.cam, "tensors": tensors})
    if tensors.novelty is not None and not _gives(mapped.model, tensors.novelty.name):
        changed = _without_novelty(changed)
    return replace(bundle, model_bytes=mapped.model.SerializeToString(), manifest=changed)


def _gives(model: Any, output: str) -> bool:  # noqa: ANN401
    return any(put.name == output for put in model.graph.output)


def _without_novelty(manifest: Manifest) -> Manifest:
    """For a graph that was cut behind its feature map: what is not computed is not judged."""
    limits = manifest.thresholds
    return manifest.model_copy(
        update={
            "tensors": manifest.tensors.model_copy(update={"novelty": None}),
            "novelty": None,
            "thresholds": None if limits is None else limits.model_copy(update={"novelty": None}),
        }
    )


def map_tensors(mapped: MappedGraph, pictures: int | None) -> dict[str, Tensor | None]:
    """The map's part of a manifest's tensors; `pictures` is the graph's batch, None where it is free."""
    size = (None, None) if not mapped.fixed_size else mapped.shape[2:]
    every = Tensor(name=CAM_EVERY_CLASS, shape=(pictures, mapped.labels, *size))
    shown = Tensor(name=CAM, shape=(pictures, 1 if mapped.winner_only else mapped.labels, *size))
    return {"cam": shown, "cam_every_class": every if mapped.winner_only else None}


def _chosen(method: Method | Literal["auto"], *, exact: bool, spread: bool) -> Method:
    if method == "cam" and not exact:
        raise NoClosedForm(
            "an exact class activation map needs average pooling and a linear layer after the last feature map; "
            "this head has more: use gradcam or hirescam"
        )
    if method != "auto":
        return method
    if exact:
        return "cam"
    return "gradcam" if spread else "hirescam"


def _tape(model: Any, head: Head, prefix: str, seeds: int) -> Tape:  # noqa: ANN401
    graph = OnnxGraph(model)
    return Tape(NodeWriter(prefix, graph.opset), graph, head.shapes, seeds=seeds)


def _seed(write: NodeWriter, head: Head, start: str) -> str:
    """Derivative of each class's logit, or probability, by the logits: [1 or n, labels, labels]."""
    unit = write.constant(np.eye(head.labels, dtype=np.float32)[None])
    if start == "logit":
        return unit
    towards = write("Sub", unit, write.unsqueeze(PROBABILITIES, (1,)))
    return write("Mul", towards, write.unsqueeze(PROBABILITIES, (2,)))


def _winning_seed(write: NodeWriter, head: Head) -> str:
    """The same for the answered class: [n, 1, labels]. Of equal probabilities the first, as the agent has it."""
    unit = write.constant(np.eye(head.labels, dtype=np.float32))
    return write("Gather", unit, write("ArgMax", PROBABILITIES, axis=1, keepdims=1), axis=0)


def _write_map(tape: Tape, head: Head, adjoint: Adjoint, method: Method, out: str) -> None:
    """Write the map [n, seeds, rows, columns] from the adjoint of the features."""
    write, features, name = tape.write, head.features, adjoint.name
    channels, _, _ = head.size
    if head.layout == "NHWC":
        features = write("Transpose", features, perm=[0, 3, 1, 2])
        name = write("Transpose", name, perm=[0, 1, 4, 2, 3])
    size = write("Shape", features)
    cells = write.number(1.0)
    for axis in (2, 3):
        length = write("Gather", size, write.constant(np.array(axis, np.int64)))
        cells = write("Mul", cells, write("Cast", length, to=1))
    if method == "hirescam" and not adjoint.spread:
        placed = write("Mul", name, write.unsqueeze(features, (1,)))
        write("Mul", write.reduce("ReduceSum", placed, (2,)), cells, out=out)
        return
    weights = name if adjoint.spread else write.reduce("ReduceMean", name, (3, 4))
    weights = write("Mul", write.reshape(weights, (-1, tape.seeds, channels)), cells)
    flat = write("MatMul", weights, write.reshape(features, (0, channels, -1)))
    grid = write(
        "Concat", write.constant(np.array([0, tape.seeds], np.int64)), write.slice(size, 2, 4, 0), axis=0
    )
    write("Reshape", flat, grid, out=out)


def _with_flattened_map(model: Any, head: Head, found: Flattened, method: Method) -> MappedGraph:  # noqa: ANN401
    """Write the map of every class from the first dense layer's weights by place; it costs next to nothing."""
    described = _described(head, method)
    tape = _tape(model, head, "cam_of_each", head.labels)
    seed = _seed(tape.write, head, "logit")
    if method == "gradcam":
        _write_map(tape, head, mean_derivative(tape, head, found, seed), method, CAM)
    else:
        cells = tape.write("Mul", shares_map(tape, head, found, seed), tape.write.number(found.places))
        tape.write.reshape(cells, (0, head.labels, *head.size[1:]), out=CAM)
    prune(model)
    return replace(_finished(model, replace(head, nodes=()), method, (tape,)), description=described)


def _with_exact_cam(model: Any, head: Head, tape: Tape, adjoint: Adjoint) -> MappedGraph:  # noqa: ANN401
    """Replace the head by a 1x1 convolution, whose mean is the logit: the same weights, once, in another order."""
    shape = head.shapes[head.features]
    bias, slopes = HeadPart(model, head, (head.logits, adjoint.name), tape)(np.zeros(shape, np.float32))
    channels, rows, columns = head.size
    weights = slopes.reshape(head.labels, -1).T * np.float32(rows * columns)
    _cut_behind(model, head, channels)
    joined = append_cam_head(model, weights, bias[0])
    return MappedGraph(
        model=joined,
        method="cam",
        tensor=FEATURES,
        shape=(1, channels, rows, columns),
        labels=head.labels,
        winner_only=False,
        fixed_size=False,
        description=(
            f"{_NAMES['cam']}: a 1x1 convolution on the last feature map ({channels} channels), whose average over "
            "the field is the logit."
        ),
        head=None,
    )


def _cut_behind(model: Any, head: Head, channels: int) -> None:  # noqa: ANN401
    """Let the graph end at the feature map, [n, channels, rows, columns]."""
    from onnx import TensorProto, helper

    end = head.features
    if head.layout == "NHWC":
        end = "features_channels_first"
        model.graph.node.append(helper.make_node("Transpose", [head.features], [end], perm=[0, 3, 1, 2]))
    pictures = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "batch"
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(end, TensorProto.FLOAT, [pictures, channels, "rows", "columns"])
    )
    prune(model)


def prune(model: Any) -> None:  # noqa: ANN401
    """Take out nodes, constants and shapes that no output depends on."""
    graph = OnnxGraph(model)
    kept = {id(node) for put in model.graph.output for node in graph.upstream(put.name)}
    for index in reversed(range(len(model.graph.node))):
        if id(model.graph.node[index]) not in kept:
            del model.graph.node[index]
    used = {name for node in model.graph.node for name in node.input}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in used:
            del model.graph.initializer[index]
    del model.graph.value_info[:]


def _take_map_out(model: Any, tensor: str) -> str | None:  # noqa: ANN401
    """Leave the answer alone in a bundle's graph; gives the name of the feature map its map was made of."""
    graph = OnnxGraph(model)
    convolution = graph.producers.get(CAM)
    if convolution is not None and convolution.op_type == "Conv":
        tensor = convolution.input[0]
    kept = [put for put in model.graph.output if put.name not in (CAM, CAM_EVERY_CLASS)]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    prune(model)
    flatten_again(model, tensor)
    prune(model)
    for node in model.graph.node:  # the name is needed for the new map
        node.name = "class_maps" if node.name == CAM else node.name
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == CAM:
                    names[index] = "class_maps"
    return tensor if tensor in OnnxGraph(model).producers else None


def _finished(model: Any, head: Head, method: Method, tapes: tuple[Tape, ...]) -> MappedGraph:  # noqa: ANN401
    """Put the nodes into the graph and state its outputs."""
    import onnx
    from onnx import TensorProto, helper

    pictures = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "batch"
    for tape in tapes:
        model.graph.node.extend(tape.write.nodes)
        model.graph.initializer.extend(tape.write.constants)
        out = CAM_EVERY_CLASS if len(tapes) > 1 and tape.seeds > 1 else CAM
        size = [pictures, tape.seeds, "rows", "columns"]
        model.graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, size))
    drop_unused_domains(model)
    onnx.checker.check_model(model)
    return MappedGraph(
        model=model,
        method=method,
        tensor=head.features,
        shape=(1, *head.size),
        labels=head.labels,
        winner_only=len(tapes) > 1,
        fixed_size=any(tape.fixed for tape in tapes),
        description=_described(head, method),
        head=head,
    )


def _described(head: Head, method: Method) -> str:
    way = ", ".join(dict.fromkeys(node.op_type for node in head.nodes))
    channels, rows, columns = head.size
    return (
        f"{_NAMES[method]} from the logit, in closed form through {way}; feature map of {channels} channels, "
        f"{rows} x {columns} cells; in logits, signed."
    )
