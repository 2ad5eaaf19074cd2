"""The model card of a bundle: what it was trained on, how well it does, and what not to use it for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.model_bundle import Manifest
    from trainer.crops import DataSet
    from trainer.run_folder import RunRecord


def model_card(manifest: Manifest, record: RunRecord, dataset: DataSet, notes: str) -> str:
    """Markdown, from the manifest, the run and the data set; `notes` are the trainer's own words."""
    recipe, network = record.recipe, manifest.network
    kept = "" if network.weights_kept == "last epoch" else f" at most (kept: {network.weights_kept})"
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"Labels: {', '.join(manifest.labels)}. Licence: {manifest.licence}.",
        f"## Intended use\n\n{manifest.intended_use}",
        *([notes.strip()] if notes.strip() else []),
        "## Training data\n\n" + _data(dataset),
        "## Network\n\n"
        f"{network.backbone} ({network.parameters:,} parameters), started from {network.weights_origin}; the head "
        f"alone for {_epochs(recipe.head_epochs)}, then with all layers after {network.fine_tuned_from} for "
        f"{_epochs(recipe.epochs)}{kept}, "
        f"{recipe.views} augmented views of each crop, seed {record.seed}. ONNX opset {network.opset}.",
        "## Input\n\n"
        f"Grey micrograph, contrast limits of the whole field, shown as a rectangle of its own proportions with "
        f"the area of {manifest.preprocessing.input_px} x {manifest.preprocessing.input_px} px; "
        f"views averaged: {', '.join(manifest.preprocessing.views)}.",
        "## Parity\n\n"
        f"ONNX Runtime against Keras on {manifest.parity.crops} real crops: "
        f"{manifest.parity.probabilities:.1e} in probabilities, {manifest.parity.cam:.1e} of the peak in the map.",
        "How well it does on micrographs it has not seen stands in `evaluation.json`.",
    ]
    return "\n\n".join(parts) + "\n"


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
