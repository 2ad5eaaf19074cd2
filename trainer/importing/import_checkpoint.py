"""A CNN that a lab has already trained -> a bundle: its answers unchanged, its map an output of the graph.

Whatever the file is, it becomes ONNX first (`conversion`), is put between the agent's input and its probabilities
(`foreign_graph`), and gets its map (`exporting.cam_graph`). Then three things are compared on pictures: the graph
with what the framework itself answered, the finished graph with the converted one, and the map's mean with the
measured derivative of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from edge_agent.model_bundle import (
    LARGEST_FILE_BYTES,
    UNKNOWN_DATASET,
    Bundle,
    Cam,
    Golden,
    Manifest,
    Network,
    Parity,
    Tensor,
    Tensors,
)
from edge_agent.preprocessing import Preprocessing, TilePlan, cut_tiles
from edge_agent.simulation import SHAPES, draw_field
from trainer.exporting.bundle_writer import GOLDEN_TOLERANCE, BundleFiles, onnx_session, write_bundle
from trainer.exporting.cam_graph import MappedGraph, NoClosedForm, append_maps, map_tensors
from trainer.exporting.cam_head import INPUT, PROBABILITIES
from trainer.exporting.front_matter import with_front_matter
from trainer.exporting.map_proof import PROOF_TOLERANCE, map_gap
from trainer.exporting.onnx_graph import GraphError, OnnxGraph
from trainer.fitting.run_folder import versions
from trainer.importing.conversion import to_onnx
from trainer.importing.foreign_file import ForeignModelError
from trainer.importing.foreign_graph import AgentGraph, Colours, agent_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.importing.conversion import Converted

PARITY_TOLERANCE: Final = 1e-4
Choice = Literal["auto", "cam", "gradcam", "hirescam", "occlusion"]
_STEPS: Final = 5
_ADDS_UP: Final = 1e-4


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """What a person says about a model; the rest follows from its file."""

    labels: tuple[str, ...]
    name: str
    version: str = "1"
    architecture: str | None = None
    input_px: int | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    colours: Colours = field(default_factory=Colours)
    divisions: int = 1
    """Boxes along each side of a micrograph; 2 are the origin's quadrants."""
    method: Choice = "auto"
    licence: str = "not stated"
    intended_use: str = (
        "Classifying micrographs like those it was trained on. Not validated for anything else."
    )


def import_checkpoint(
    source: Path,
    bundle: Path,
    order: ImportOrder,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Bundle:
    """Write the bundle of a trained model into the new folder `bundle`.

    Raises:
        ForeignModelError: the file cannot be taken, with the reason and what to do.
        FileExistsError: the bundle's folder is there already.

    """
    if bundle.exists():
        raise FileExistsError(f"{bundle} exists; choose another folder or remove it first")
    _check_order(order)
    converted = to_onnx(
        source,
        architecture=order.architecture,
        input_px=order.input_px,
        classes=len(order.labels),
        seed=seed,
        progress=progress,
    )
    try:
        graph, mapped = _with_map(converted, order, progress)
        manifest = _manifest(converted, graph, mapped, order, seed)
        progress("comparing answers and map", 3, _STEPS)
        parity = _parity(converted, graph, mapped, manifest.preprocessing, order)
    except NoClosedForm as error:
        raise ForeignModelError(
            f"{source}: no map can be written into its graph: {error}. With --method occlusion the bundle is made "
            "without one, and edge-trainer explain draws occlusion maps"
        ) from error
    except GraphError as error:
        raise ForeignModelError(f"{source}: {error}") from error
    _check_parity(source, parity)
    progress("golden cases and manifest", 4, _STEPS)
    manifest = manifest.model_copy(update={"parity": parity})
    model = graph.model if mapped is None else mapped.model
    data = model.SerializeToString()
    if len(data) > LARGEST_FILE_BYTES:
        raise ForeignModelError(f"{source}: the graph has {len(data) >> 20} MiB, the agent takes up to 1024")
    card = with_front_matter(_card(manifest, source.name, converted), manifest).encode()
    written = write_bundle(bundle, BundleFiles(data, {"MODEL_CARD.md": card}), manifest)
    progress("done", _STEPS, _STEPS)
    return written


def _check_order(order: ImportOrder) -> None:
    if len(order.labels) < 2 or len(set(order.labels)) < len(order.labels):
        raise ForeignModelError(
            f"--labels {','.join(order.labels)}: two or more different class names are wanted, in the order of "
            "the network's answers"
        )


def _with_map(
    converted: Converted, order: ImportOrder, progress: Callable[[str, int, int], None]
) -> tuple[AgentGraph, MappedGraph | None]:
    import onnx

    progress("reading the graph", 1, _STEPS)
    try:
        model = onnx.load_model_from_string(converted.model)
    except Exception as error:  # protobuf's own classes
        raise GraphError("it is no ONNX model, or was cut off") from error
    graph = agent_graph(
        model, order.labels, input_px=order.input_px or converted.input_px, colours=order.colours
    )
    progress("the map in closed form", 2, _STEPS)
    if order.method == "occlusion":
        return graph, None
    return graph, append_maps(graph.model, order.method, input_px=graph.input_px)


def _manifest(
    converted: Converted, graph: AgentGraph, mapped: MappedGraph | None, order: ImportOrder, seed: int
) -> Manifest:
    fixed = graph.fixed_size or (mapped is not None and mapped.fixed_size)
    sizes = [one.dim_value for one in graph.model.graph.input[0].type.tensor_type.shape.dim]
    pictures = sizes[0] or None
    side = graph.input_px if fixed else None
    maps = {"cam": None, "cam_every_class": None} if mapped is None else map_tensors(mapped, pictures)
    return Manifest(
        name=order.name,
        version=order.version,
        created=datetime.now(UTC).replace(microsecond=0),
        labels=order.labels,
        tensors=Tensors(
            input=Tensor(name=INPUT, shape=(pictures, 1, side, side)),
            probabilities=Tensor(name=PROBABILITIES, shape=(pictures, len(order.labels))),
            **maps,
        ),
        preprocessing=Preprocessing(
            input_px=graph.input_px,
            proportions="square" if fixed else "specimen",
            value_range=order.value_range,
            tiles=TilePlan(divisions=order.divisions),
        ),
        cam=Cam(method="occlusion") if mapped is None else mapped.cam,
        network=Network(
            backbone=converted.facts.get("architecture", converted.kind),
            weights_origin=f"{converted.kind}, SHA-256 {converted.sha256}",
            fine_tuned_from="not known",
            weights_kept="last epoch",
            opset=OnnxGraph(graph.model).opset,
            parameters=_parameters(graph.model),
        ),
        dataset_fingerprint=UNKNOWN_DATASET,
        seed=seed,
        parity=Parity(crops=0, probabilities=0.0, cam=0.0, tolerance=PARITY_TOLERANCE),
        golden=Golden(cases=0, tolerance=GOLDEN_TOLERANCE),
        sha256={},
        licence=order.licence,
        intended_use=order.intended_use,
        made_with={**versions(), **converted.versions},
    )


def _parameters(model: Any) -> int:  # noqa: ANN401
    return sum(int(np.prod(one.dims)) for one in model.graph.initializer if one.data_type == 1)


def _parity(
    converted: Converted,
    graph: AgentGraph,
    mapped: MappedGraph | None,
    rule: Preprocessing,
    order: ImportOrder,
) -> Parity:
    """Compare with the framework's answers, with the converted graph, and the map with a measured derivative."""
    plain = onnx_session(converted.model)
    name = plain.get_inputs()[0].name
    worst = 0.0
    for fed, expected in converted.cases:
        worst = max(worst, float(np.abs(plain.run(None, {name: fed})[0] - expected).max()))
    pictures = _pictures(rule)
    final = onnx_session((graph if mapped is None else mapped).model.SerializeToString())
    for picture in pictures:
        before = plain.run(None, {name: _as_trained(picture, plain, order.colours)})[0]
        after = final.run([PROBABILITIES], {INPUT: picture})[0]
        if graph.ending == "logits" and before.min() >= 0 and abs(float(before.sum()) - 1) < _ADDS_UP:
            raise GraphError(
                "its answers add up to 1, but no softmax was found that makes them so; export it with its last "
                "activation as one Softmax, or without"
            )
        worst = max(worst, float(np.abs(_as_probabilities(before, graph.ending) - after).max()))
    del plain, final
    gap = 0.0 if mapped is None else map_gap(mapped, pictures)
    return Parity(
        crops=len(converted.cases) + len(pictures),
        probabilities=worst,
        cam=gap,
        tolerance=PARITY_TOLERANCE,
        cam_tolerance=PROOF_TOLERANCE,
        cam_against="measured derivative of the logits",
    )


def _check_parity(source: Path, parity: Parity) -> None:
    if not parity.probabilities <= parity.tolerance:  # NaN is not
        raise ForeignModelError(
            f"{source}: the finished graph answers otherwise than the model did, by {parity.probabilities:.1e} "
            f"(at most {parity.tolerance:.0e}); not imported"
        )
    if not parity.cam <= PROOF_TOLERANCE:
        raise ForeignModelError(
            f"{source}: the map's mean is {parity.cam:.1e} off the measured derivative of the logits (at most "
            f"{PROOF_TOLERANCE}); not imported. With --method occlusion it can be"
        )


def _pictures(rule: Preprocessing) -> list[NDArray[np.float32]]:
    """Simulated micrographs as the agent gives them to the network, one of each shape."""
    found = []
    for index, shape in enumerate(SHAPES):
        pixels = draw_field(shape, np.random.default_rng(index), size_px=512).pixels
        found.append(cut_tiles(pixels, None, rule).tiles[0].values[None])
    return found


def _as_trained(picture: NDArray[np.float32], session: Any, colours: Colours) -> NDArray[Any]:  # noqa: ANN401
    """A grey input as the converted graph itself takes it."""
    put = session.get_inputs()[0]
    at_end = put.shape[1] not in (1, 3)
    channels = put.shape[3] if at_end else put.shape[1]
    values = np.repeat(picture, channels, axis=1)
    for sign, given in ((-1, colours.mean), (1, colours.spread)):
        if given:
            by_channel = np.array(given, np.float32).reshape(1, -1, 1, 1)
            values = values - by_channel if sign < 0 else values / by_channel
    kinds = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
    shown = values.transpose(0, 2, 3, 1) if at_end else values
    return np.ascontiguousarray(shown).astype(kinds.get(put.type, np.float32))


def _as_probabilities(answer: NDArray[Any], ending: str) -> NDArray[Any]:
    values = np.asarray(answer, np.float64).reshape(len(answer), -1)
    if ending == "softmax":
        return values
    if ending == "one sigmoid":
        return np.concatenate([1 - values, values], axis=1)
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _card(manifest: Manifest, file: str, converted: Converted) -> str:
    """What is known of a network that somebody else trained, and what is not."""
    rule, parity = manifest.preprocessing, manifest.parity
    shape = "stretched to" if rule.proportions == "square" else "with the area of"
    proof = (
        "The graph has no map; `edge-trainer explain` draws occlusion maps."
        if manifest.tensors.cam is None
        else f"{manifest.cam.description} Its mean is {parity.cam:.1e} (relative) off the derivative of the logits "
        "that running the network's head measures."
    )
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"Labels: {', '.join(manifest.labels)}. Licence: {manifest.licence}.",
        f"## Intended use\n\n{manifest.intended_use}",
        "## Training data\n\nNot known: the network was trained elsewhere and imported. How well it does has to be "
        "measured: `edge-trainer evaluate` on labelled micrographs that it has not seen.",
        f"## Network\n\nImported from `{file}` ({converted.kind}, SHA-256 `{converted.sha256}`). "
        + " ".join(f"{name.capitalize()}: {value}." for name, value in converted.facts.items()),
        f"## Input\n\nGrey micrograph, contrast limits of the whole field, {shape} {rule.input_px} x "
        f"{rule.input_px} px, values {rule.value_range[0]:g} to {rule.value_range[1]:g}; "
        + (
            "the whole field." if rule.tiles.divisions == 1 else f"{rule.tiles.divisions**2} boxes, averaged."
        ),
        f"## Map\n\n{proof}",
        f"## Parity\n\nAgainst the model as it was given, on {parity.crops} pictures: "
        f"{parity.probabilities:.1e} in probabilities.",
    ]
    return "\n\n".join(parts) + "\n"
