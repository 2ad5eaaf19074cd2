"""A finished run -> a bundle: Keras to ONNX, the CAM head joined, and the proof that both compute the same.

A run with members (`fitting.ensemble`) becomes one graph that averages their logits. The backbone goes through
tf2onnx; the head is authored as ONNX nodes (`exporting.cam_graph`). Names, shapes and values of both are compared
on real crops at their own shapes before anything is written; a difference above the tolerance refuses the export.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.model_bundle import (
    Bundle,
    Cam,
    Golden,
    Manifest,
    Parity,
    Tensor,
    Tensors,
    TrainingRanges,
)
from edge_agent.model_bundle import (
    Network as NetworkFacts,
)
from trainer.exporting.bundle_writer import GOLDEN_TOLERANCE, BundleFiles, onnx_session, write_bundle
from trainer.exporting.cam_head import (
    CAM,
    INPUT,
    OPSET,
    PROBABILITIES,
    append_cam_head,
    join_backbones,
    stack_heads,
)
from trainer.exporting.model_card import CURVE_PICTURE, model_card
from trainer.exporting.training_facts import TRAINING, training_facts, training_json
from trainer.fitting.backbones import IMAGENET, NO_WEIGHTS, architectures, attribution
from trainer.fitting.ensemble import as_used, members_of, trained_parts
from trainer.fitting.features import shown
from trainer.fitting.training import load_run
from trainer.scoring.accuracy_curve import CURVE, LearningCurve
from trainer.showing.learning_curve_chart import draw_learning_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edge_agent.preprocessing import View
    from trainer.fitting.network import Network
    from trainer.fitting.run_folder import RunRecord
    from trainer.preparing.crops import Crop, DataSet
    from trainer.preparing.split import Part

PARITY_TOLERANCE: Final = 1e-4
PARITY_CROPS: Final = 50
_FIRST_OUTPUT: Final = "Identity:0"  # tf2onnx calls a function's outputs so, whatever they are named


class ExportError(Exception):
    """A run cannot become a bundle; the message says what was seen and what to do."""


@dataclass(frozen=True, slots=True)
class BundleNotes:
    """What a person states about a bundle; the rest of the manifest follows from the run."""

    name: str
    version: str
    licence: str = "GPL-3.0-or-later"
    intended_use: str = (
        "Classifying micrographs like those it was trained on. Not validated for anything else."
    )
    notes: str = ""
    """Further paragraphs of the model card, Markdown."""
    views: tuple[View, ...] = ("identity",)
    """In which views the agent shows each box to the network; the answers are averaged."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """The members of a run, at least one, and the data set with its parts as they used them."""

    records: tuple[RunRecord, ...]
    networks: tuple[Network, ...]
    dataset: DataSet
    parts: tuple[Part, ...]
    """Parts of the data set as it was given that some member was fitted to."""


def export(
    run: Path,
    dataset: DataSet,
    bundle: Path,
    notes: BundleNotes,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Bundle:
    """Write the bundle of a finished run, of an ensemble or of all folds into the new folder `bundle`.

    `seed` draws the crops on which ONNX and Keras are compared. A learning curve that lies in the run's folder
    goes along.

    Raises:
        ExportError: the data set is not the run's, the members do not fit together, or ONNX and Keras differ by
            more than the tolerance.
        FileExistsError: the bundle's folder is there already.
        RunError: the run, or one of its members, has not finished.

    """
    if bundle.exists():  # before the minutes of work, not after
        raise FileExistsError(f"{bundle} exists; choose another folder or remove it first")
    members = members_of(run)
    trained = _load(run, members, dataset)
    progress("Keras to ONNX", 0, 3)
    model = to_onnx(*trained.networks)
    progress("parity on real crops", 1, 3)
    parity = compare(trained.networks, model, dataset, _some_crops(dataset, seed))
    if max(parity.probabilities, parity.cam) > parity.tolerance:
        raise ExportError(
            f"{run}: ONNX Runtime differs from Keras by {parity.probabilities:.1e} (probabilities) and "
            f"{parity.cam:.1e} (cam) on {parity.crops} crops, more than {parity.tolerance:.0e}; not exported"
        )
    progress("golden cases and manifest", 2, 3)
    manifest = _manifest(trained, parity, notes)
    others = _other_files(run, members, trained, manifest, notes)
    written = write_bundle(bundle, BundleFiles(model, others), manifest)
    progress("done", 3, 3)
    return written


def _other_files(
    run: Path, members: Sequence[Path], trained: _Trained, manifest: Manifest, notes: BundleNotes
) -> dict[str, bytes]:
    """What lies in the bundle beside model, golden cases and manifest."""
    curve = _curve(run, trained.dataset)
    card = model_card(manifest, trained.records, trained.dataset, notes.notes, curve)
    others = {
        "MODEL_CARD.md": card.encode(),
        "labels.csv": _labels_table(trained.dataset),
        TRAINING: training_json(training_facts(run, members, trained.parts)),
    }
    recipe = trained.records[0].recipe
    licence = attribution(recipe.backbone, recipe.weights)
    if licence is not None:
        others["THIRD_PARTY.md"] = licence.encode()
    if curve is not None:
        others |= {CURVE: curve.json_bytes(), CURVE_PICTURE: _picture(curve)}
    return others


def _load(run: Path, members: Sequence[Path], dataset: DataSet) -> _Trained:
    """Load all members; ExportError where they are not of this data set, or not of one kind."""
    loaded = [load_run(member) for member in members]
    records = tuple(record for record, _ in loaded)
    networks = tuple(network for _, network in loaded)
    for member, record in zip(members, records, strict=True):
        if dataset.fingerprint != record.dataset_fingerprint:
            raise ExportError(
                f"{member}: was trained on another data set than {dataset.root}; give the run's own"
            )
    kinds = [
        (network.labels, network.backbone.name, network.backbone.stride, network.backbone.value_range)
        for network in networks
    ]
    for member, kind in zip(members, kinds, strict=True):
        if kind != kinds[0]:
            raise ExportError(
                f"{member}: {_kind(*kind)} does not average with {_kind(*kinds[0])} of {members[0].name}; "
                "an ensemble's members have equal classes and one backbone"
            )
    return _Trained(records, networks, as_used(records, dataset), trained_parts(records, dataset))


def _kind(labels: Sequence[str], backbone: str, stride: int, value_range: tuple[float, float]) -> str:
    return (
        f"{backbone} (stride {stride}, inputs {value_range[0]:g} to {value_range[1]:g}, {', '.join(labels)})"
    )


def _curve(run: Path, dataset: DataSet) -> LearningCurve | None:
    if not (run / CURVE).is_file():
        return None
    curve = LearningCurve.read(run)
    return curve if curve.dataset_fingerprint == dataset.fingerprint else None


def _picture(curve: LearningCurve) -> bytes:
    buffer = io.BytesIO()
    draw_learning_curve(curve).savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def to_onnx(*networks: Network) -> bytes:
    """The network as ONNX: input `micrograph` [n, 1, rows, columns], outputs `probabilities` and `cam`.

    Of several networks, one graph with the mean of their logits and of their maps.
    """
    backbone = join_backbones([_backbone_graph(network) for network in networks])
    model = append_cam_head(backbone, *stack_heads([network.head for network in networks]))
    return bytes(model.SerializeToString())


def _backbone_graph(network: Network) -> Any:  # noqa: ANN401 - onnx has no types
    import tensorflow as tf
    import tf2onnx

    spec = (tf.TensorSpec((None, None, None, 1), tf.float32, name=INPUT),)
    function = tf.function(lambda picture: network.features(picture, training=False))
    graph, _ = tf2onnx.convert.from_function(
        function, input_signature=spec, opset=OPSET, inputs_as_nchw=[INPUT], outputs_as_nchw=[_FIRST_OUTPUT]
    )
    return graph


def compare(networks: Sequence[Network], model: bytes, dataset: DataSet, crops: Sequence[Crop]) -> Parity:
    """How far ONNX Runtime is from the mean of the Keras networks on crops, each at its own shape.

    Raises:
        ExportError: an output is missing, has another shape, or is no number.

    """
    session = onnx_session(model)
    inputs = [put.name for put in session.get_inputs()]
    outputs = {put.name for put in session.get_outputs()}
    if inputs != [INPUT] or not {PROBABILITIES, CAM} <= outputs:
        raise ExportError(
            f"the converted model has the inputs {inputs} and the outputs {sorted(outputs)}, "
            f"not {INPUT}, {PROBABILITIES} and {CAM}"
        )
    worst_probability = worst_cam = worst_absolute = 0.0
    low, high = networks[0].backbone.value_range
    for crop in crops:
        grey = shown(dataset, crop) * np.float32(high - low) + np.float32(low)
        expected, evidence = _expected(networks, grey)
        seen, seen_cam = session.run([PROBABILITIES, CAM], {INPUT: grey[None, None]})
        worst_probability = max(worst_probability, _apart(expected, seen))
        apart = _apart(evidence, seen_cam)
        worst_absolute = max(worst_absolute, apart)
        worst_cam = max(worst_cam, apart / max(1.0, float(np.abs(evidence).max())))
    return Parity(
        crops=len(crops),
        probabilities=worst_probability,
        cam=worst_cam,
        cam_absolute=worst_absolute,
        tolerance=PARITY_TOLERANCE,
    )


def _expected(
    networks: Sequence[Network], grey: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities and map that Keras gives: of one network its own, of several those of the mean logits."""
    answers = [network.scoring(grey[None, :, :, None], training=False) for network in networks]
    evidence = np.mean([np.asarray(cam) for _, cam in answers], axis=0).transpose(0, 3, 1, 2)
    if len(networks) == 1:
        return np.asarray(answers[0][0]), evidence
    logits = evidence.mean(axis=(2, 3))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True), evidence


def _apart(expected: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
    if expected.shape != seen.shape:
        raise ExportError(f"Keras gives an output of shape {expected.shape}, ONNX Runtime {seen.shape}")
    apart = float(np.abs(expected - seen).max())
    if not np.isfinite(apart):  # max() would pass over NaN
        raise ExportError("the network's answers are not finite numbers; train it again")
    return apart


def _some_crops(dataset: DataSet, seed: int) -> tuple[Crop, ...]:
    """Up to `PARITY_CROPS` crops drawn from all classes and parts."""
    kept = dataset.kept
    drawn = np.random.default_rng(seed).permutation(len(kept))[:PARITY_CROPS]
    return tuple(kept[index] for index in sorted(drawn))


def _manifest(trained: _Trained, parity: Parity, notes: BundleNotes) -> Manifest:
    record, dataset, network = trained.records[0], trained.dataset, trained.networks[0]
    labels = record.labels
    channels = sum(one.head[0].shape[0] for one in trained.networks)
    return Manifest(
        name=notes.name,
        version=notes.version,
        created=datetime.now(UTC).replace(microsecond=0),
        labels=labels,
        tensors=Tensors(
            input=Tensor(name=INPUT, shape=(None, 1, None, None)),
            probabilities=Tensor(name=PROBABILITIES, shape=(None, len(labels))),
            cam=Tensor(name=CAM, shape=(None, len(labels), None, None)),
        ),
        preprocessing=dataset.preprocessing.model_copy(
            update={"value_range": network.backbone.value_range, "views": notes.views}
        ),
        cam=Cam(
            method="cam",
            tensor="features",
            description=(
                "Class activation mapping (Zhou et al., CVPR 2016): a 1x1 convolution on the last feature map "
                f"({channels} channels{_of_members(trained)}), whose average over the field is the logit."
            ),
        ),
        training_ranges=_ranges(dataset),
        network=_network_facts(trained),
        dataset_fingerprint=dataset.fingerprint,
        seed=record.seed,
        parity=parity,
        golden=Golden(cases=0, tolerance=GOLDEN_TOLERANCE),
        sha256={},
        licence=notes.licence,
        intended_use=notes.intended_use,
        made_with=record.versions,
    )


def _of_members(trained: _Trained) -> str:
    return f" of {len(trained.networks)} networks" if len(trained.networks) > 1 else ""


def _network_facts(trained: _Trained) -> NetworkFacts:
    recipe, chosen = trained.records[0].recipe, False
    for record in trained.records:
        chosen |= record.recipe.keep == "best" and bool(record.part["validation"])
    return NetworkFacts(
        backbone=recipe.backbone,
        weights_origin=_origin(recipe.weights, trained.networks[0]),
        fine_tuned_from=recipe.fine_tune_from or architectures()[recipe.backbone].default_split,
        weights_kept="lowest validation loss" if chosen else "last epoch",
        opset=OPSET,
        parameters=sum(int(network.scoring.count_params()) for network in trained.networks),
        members=len(trained.networks),
        trained_parts=trained.parts,
    )


def _origin(weights: str, network: Network) -> str:
    """Where the weights came from before training; a network loaded from a run does not know it any more."""
    if weights == IMAGENET:
        return architectures()[network.backbone.name].origin
    return "random initialisation" if weights == NO_WEIGHTS else f"file {Path(weights).name}"


def _ranges(dataset: DataSet) -> TrainingRanges:
    sizes = [crop.pixel_size_nm for crop in dataset.train if crop.pixel_size_nm is not None]
    if not sizes:
        return TrainingRanges()
    columns = [size[1] for size in sizes]
    fields = [
        crop.pixel_size_nm[1] * (crop.box_px[2] - crop.box_px[0])
        for crop in dataset.train
        if crop.pixel_size_nm is not None
    ]
    return TrainingRanges(
        pixel_size_nm=(min(columns), max(columns)), field_of_view_nm=(min(fields), max(fields))
    )


def _labels_table(dataset: DataSet) -> bytes:
    """Which file had which label, group and part, as CSV; no pixels."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("file", "label", "group", "part"))
    rows = {crop.source: (crop.source, crop.label, crop.group, crop.part) for crop in dataset.kept}
    writer.writerows(rows.values())
    return buffer.getvalue().encode()
