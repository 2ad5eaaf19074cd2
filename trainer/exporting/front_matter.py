"""The YAML block on top of a model card, by which Hugging Face's hub and its tools know a model.

Only this module knows its fields (https://huggingface.co/docs/hub/model-cards). Figures stand in it once a bundle
was evaluated: when it is published.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from edge_agent.model_bundle import Manifest
    from trainer.scoring.figures import Figures

TAGS: Final = (
    "onnx",
    "electron-microscopy",
    "microscopy",
    "class-activation-map",
    "explainability",
    "scopewatch",
)
_BLOCK: Final = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)
_TASK: Final = "image-classification"
_HUB_LICENCES: Final = frozenset(
    """
    agpl-3.0 apache-2.0 bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-sa-4.0 cc0-1.0
    epl-2.0 eupl-1.2 gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 mit mpl-2.0 unlicense
    """.split()
)


def with_front_matter(card: str, manifest: Manifest, figures: Figures | None = None, part: str = "") -> str:
    """The card with its block on top; one that is there is replaced.

    `figures` are those of the data set's `part`; without them the block says nothing of how good the model is.
    """
    import yaml

    facts = _facts(manifest)
    if figures is not None:
        facts["model-index"] = [_results(manifest, figures, part)]
    block = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110)
    return f"---\n{block}---\n\n{without_front_matter(card)}"


def without_front_matter(card: str) -> str:
    """The card as people read it."""
    return _BLOCK.sub("", card, count=1)


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        **_licence(manifest.licence),
        "library_name": "onnx",
        "pipeline_tag": _TASK,
        "tags": [*TAGS, *({manifest.cam.method} - {"cam"})],
        "datasets": [_dataset(manifest)],
        "metrics": ["accuracy", "balanced_accuracy", "f1"],
    }


def _licence(licence: str) -> dict[str, str]:
    """The hub knows its own identifiers only; any other licence is `other` with its name."""
    known = re.sub(r"-(or-later|only)$", "", licence.lower())
    return {"license": known} if known in _HUB_LICENCES else {"license": "other", "license_name": licence}


def _dataset(manifest: Manifest) -> str:
    """The data set is not on the hub: it is named by its fingerprint, as the manifest names it."""
    fingerprint = manifest.dataset_fingerprint
    return f"scopewatch-{fingerprint[:12]}" if re.fullmatch(r"[0-9a-f]{12,}", fingerprint) else "unknown"


def _results(manifest: Manifest, figures: Figures, part: str) -> dict[str, Any]:
    found = [(one.f1 or 0.0) for one in figures.classes.values()]
    metrics = {
        "accuracy": ("Accuracy", figures.accuracy),
        "balanced_accuracy": ("Class-balanced accuracy", figures.balanced_accuracy),
        "f1": ("F1, mean of the classes", sum(found) / len(found)),
    }
    result = {
        "task": {"type": _TASK, "name": "Classification of micrographs"},
        "dataset": {
            "type": _dataset(manifest),
            "name": f"{figures.micrographs} micrographs in {figures.groups} groups",
            "split": part,
        },
        "metrics": [
            {"type": kind, "name": name, "value": round(float(value), 4)}
            for kind, (name, value) in metrics.items()
        ],
    }
    return {"name": f"{manifest.name} {manifest.version}", "results": [result]}
