"""A finished run -> a bundle: Keras to ONNX, the CAM head joined, and the proof that both compute the same.

The backbone goes through tf2onnx; the head is authored as ONNX nodes (`trainer.cam_graph`). Names, shapes and
values of both are compared on real crops at their own shapes before anything is written; a difference above the
tolerance refuses the export.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime

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
from trainer.backbones import IMAGENET, NO_WEIGHTS, architectures, attribution
from trainer.bundle_writer import GOLDEN_TOLERANCE, BundleFiles, write_bundle
from trainer.cam_graph import CAM, INPUT, OPSET, PROBABILITIES, append_cam_head
from trainer.features import shown
from trainer.model_card import model_card
from trainer.training import load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edge_agent.preprocessing import View
    from trainer.crops import Crop, DataSet
    from trainer.network import Network
    from trainer.run_folder import RunRecord

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


def export(
    run: Path,
    dataset: DataSet,
    bundle: Path,
    notes: BundleNotes,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Bundle:
    """Write the bundle of a finished run into the new folder `bundle`.

    `seed` draws the crops on which ONNX and Keras are compared.

    Raises:
        ExportError: the data set is not the run's, or ONNX and Keras differ by more than the tolerance.
        FileExistsError: the bundle's folder is there already.

    """
    if bundle.exists():  # before the minutes of work, not after
        raise FileExistsError(f"{bundle} exists; choose another folder or remove it first")
    record, network = load_run(run)
    if dataset.fingerprint != record.dataset_fingerprint:
        raise ExportError(f"{run}: was trained on another data set than {dataset.root}; give the run's own")
    progress("Keras to ONNX", 0, 3)
    model = to_onnx(network)
    progress("parity on real crops", 1, 3)
    parity = compare(network, model, dataset, _some_crops(dataset, seed))
    if max(parity.probabilities, parity.cam) > parity.tolerance:
        raise ExportError(
            f"{run}: ONNX Runtime differs from Keras by {parity.probabilities:.1e} (probabilities) and "
            f"{parity.cam:.1e} (cam) on {parity.crops} crops, more than {parity.tolerance:.0e}; not exported"
        )
    progress("golden cases and manifest", 2, 3)
    manifest = _manifest(record, network, dataset, parity, notes)
    others = {
        "MODEL_CARD.md": model_card(manifest, record, dataset, notes.notes).encode(),
        "labels.csv": _labels_table(dataset),
    }
    licence = attribution(record.recipe.backbone, record.recipe.weights)
    if licence is not None:
        others["THIRD_PARTY.md"] = licence.encode()
    written = write_bundle(bundle, BundleFiles(model, others), manifest)
    progress("done", 3, 3)
    return written


def to_onnx(network: Network) -> bytes:
    """The network as ONNX: input `micrograph` [n, 1, rows, columns], outputs `probabilities` and `cam`."""
    import tensorflow as tf
    import tf2onnx

    spec = (tf.TensorSpec((None, None, None, 1), tf.float32, name=INPUT),)
    function = tf.function(lambda picture: network.features(picture, training=False))
    backbone, _ = tf2onnx.convert.from_function(
        function, input_signature=spec, opset=OPSET, inputs_as_nchw=[INPUT], outputs_as_nchw=[_FIRST_OUTPUT]
    )
    weights, bias = network.head
    model = append_cam_head(backbone, weights, bias)
    return bytes(model.SerializeToString())


def compare(network: Network, model: bytes, dataset: DataSet, crops: Sequence[Crop]) -> Parity:
    """How far ONNX Runtime is from Keras on crops, each at its own shape.

    Raises:
        ExportError: an output is missing, has another shape, or is no number.

    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = [put.name for put in session.get_inputs()]
    outputs = {put.name for put in session.get_outputs()}
    if inputs != [INPUT] or not {PROBABILITIES, CAM} <= outputs:
        raise ExportError(
            f"the converted model has the inputs {inputs} and the outputs {sorted(outputs)}, "
            f"not {INPUT}, {PROBABILITIES} and {CAM}"
        )
    worst_probability = worst_cam = worst_absolute = 0.0
    low, high = network.backbone.value_range
    for crop in crops:
        grey = shown(dataset, crop) * np.float32(high - low) + np.float32(low)
        expected, expected_cam = network.scoring(grey[None, :, :, None], training=False)
        seen, seen_cam = session.run([PROBABILITIES, CAM], {INPUT: grey[None, None]})
        worst_probability = max(worst_probability, _apart(np.asarray(expected), seen))
        evidence = np.asarray(expected_cam).transpose(0, 3, 1, 2)
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


def _manifest(
    record: RunRecord, network: Network, dataset: DataSet, parity: Parity, notes: BundleNotes
) -> Manifest:
    recipe, labels = record.recipe, record.labels
    channels = network.head[0].shape[0]
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
                f"({channels} channels), whose average over the field is the logit."
            ),
        ),
        training_ranges=_ranges(dataset),
        network=NetworkFacts(
            backbone=recipe.backbone,
            weights_origin=_origin(recipe.weights, network),
            fine_tuned_from=recipe.fine_tune_from or architectures()[recipe.backbone].default_split,
            weights_kept=(
                "lowest validation loss"
                if recipe.keep == "best" and record.part["validation"]
                else "last epoch"
            ),
            opset=OPSET,
            parameters=int(network.scoring.count_params()),
        ),
        dataset_fingerprint=dataset.fingerprint,
        seed=record.seed,
        parity=parity,
        golden=Golden(cases=0, tolerance=GOLDEN_TOLERANCE),
        sha256={},
        licence=notes.licence,
        intended_use=notes.intended_use,
        made_with=record.versions,
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
