"""The model card of a bundle: what it was trained on, how well it does, and what not to use it for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from trainer.exporting.front_matter import with_front_matter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.model_bundle import Manifest
    from trainer.fitting.run_folder import RunRecord
    from trainer.preparing.crops import DataSet
    from trainer.scoring.accuracy_curve import LearningCurve

CURVE_PICTURE: Final = "learning_curve.png"
_MEASURED: Final = {
    "frozen features": "a linear classifier on pretrained features (the fine-tuned network may need fewer)",
    "fine-tuning": "training the network itself",
}


def model_card(
    manifest: Manifest,
    records: Sequence[RunRecord],
    dataset: DataSet,
    notes: str,
    curve: LearningCurve | None = None,
) -> str:
    """Markdown, from the manifest, the run's members, the data set as they used it, and a person's `notes`.

    On top stands the block that Hugging Face's hub reads; it has no figures until the bundle is published. `curve`
    is drawn in the file `CURVE_PICTURE`, which lies beside the card.
    """
    folds = any(record.held_out for record in records)
    is_all_seen = folds and len(records) > 1
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"Labels: {', '.join(manifest.labels)}. Licence: {manifest.licence}.",
        f"## Intended use\n\n{manifest.intended_use}",
        *([notes.strip()] if notes.strip() else []),
        "## Training data\n\n" + _data(dataset),
        *([_unseen(manifest, records)] if folds else []),
        *([_more(curve)] if curve else []),
        "## Network\n\n" + _network(manifest, records),
        "## Input\n\n"
        f"Grey micrograph, contrast limits of the whole field, shown as a rectangle of its own proportions with "
        f"the area of {manifest.preprocessing.input_px} x {manifest.preprocessing.input_px} px; "
        f"views averaged: {', '.join(manifest.preprocessing.views)}.",
        "## Parity\n\n"
        f"ONNX Runtime against Keras on {manifest.parity.crops} real crops: "
        f"{manifest.parity.probabilities:.1e} in probabilities, {manifest.parity.cam:.1e} of the peak in the map.",
        "How each epoch went stands in `training.json`; how well it does on micrographs it has not seen "
        + ("cannot be measured here." if is_all_seen else "stands in `evaluation.json`."),
    ]
    return with_front_matter("\n\n".join(parts) + "\n", manifest)


def _network(manifest: Manifest, records: Sequence[RunRecord]) -> str:
    recipe, network = records[0].recipe, manifest.network
    kept = "" if network.weights_kept == "last epoch" else f" at most (kept: {network.weights_kept})"
    seeds = sorted({record.seed for record in records})
    return (
        f"{_members(manifest)}{network.backbone} ({network.parameters:,} parameters{_together(manifest)}), "
        f"started from {network.weights_origin}; the head alone for {_epochs(recipe.head_epochs)}, then with all "
        f"layers after {network.fine_tuned_from} for {_epochs(recipe.epochs)}{kept}, "
        f"{recipe.views} augmented views of each crop, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}. "
        f"ONNX opset {network.opset}."
    )


def _members(manifest: Manifest) -> str:
    count = manifest.network.members
    return f"An ensemble of {count} networks, whose logits and maps are averaged. Each: " if count > 1 else ""


def _together(manifest: Manifest) -> str:
    return " together" if manifest.network.members > 1 else ""


def _unseen(manifest: Manifest, records: Sequence[RunRecord]) -> str:
    """What folds leave to measure their bundle by."""
    if len(records) == 1:
        return (
            "This is one fold of a cross-validation: only the groups that it held out (`test` above) were not "
            "trained on."
        )
    return (
        f"Its {len(records)} networks are the folds of a cross-validation: each was trained without one fold, and "
        "together they have seen every micrograph above. No micrograph of this data set can measure this bundle; "
        "read the cross-validation, which scored each micrograph by the one network that had not seen its group "
        f"(an estimate for one network, not for the mean of {manifest.network.members})."
    )


def _more(curve: LearningCurve) -> str:
    return (
        "## Would more micrographs help?\n\n"
        f"{curve.statement} Measured by {_MEASURED[curve.kind]}, {curve.folds} folds by group.\n\n"
        f"![Accuracy against the number of training micrographs]({CURVE_PICTURE})"
    )


def _epochs(number: int) -> str:
    return f"{number} epoch{'' if number == 1 else 's'}"


def _data(dataset: DataSet) -> str:
    counts = Counter((crop.label, crop.part) for crop in dataset.kept)
    lines = ["| class | train | validation | test |", "|---|---|---|---|"]
    for label in dataset.labels:
        cells = " | ".join(str(counts[label, part]) for part in ("train", "validation", "test"))
        lines.append(f"| {label.replace('|', '&#124;')} | {cells} |")
    groups = len({crop.group for crop in dataset.kept})
    lines += [
        "",
        f"{len(dataset.kept)} crops in {groups} groups; no group is in two parts. Data set fingerprint "
        f"`{dataset.fingerprint}`; `labels.csv` lists file, label, group and part.",
    ]
    return "\n".join(lines)
