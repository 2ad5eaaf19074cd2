"""The same network in a new bundle whose answers are others: what of the old one goes along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.model_bundle import GOLDEN, MODEL, Bundle, Manifest
from trainer.exporting.bundle_writer import BundleFiles, write_bundle
from trainer.exporting.front_matter import with_front_matter
from trainer.scoring.evaluation import EVALUATION
from trainer.scoring.faithfulness_record import FAITHFULNESS
from trainer.trusting.trust_card import with_trust
from trainer.trusting.trust_record import TRUST, TrustRecord

if TYPE_CHECKING:
    from pathlib import Path

_CARD: Final = "MODEL_CARD.md"
_OUTDATED: Final = (MODEL, GOLDEN, EVALUATION, FAITHFULNESS, TRUST)
"""Written anew, or measured on the bundle as it was."""


def with_version(manifest: Manifest, version: str | None) -> Manifest:
    """The manifest with another version, for None as it is. Raises ValidationError where it cannot be one."""
    if version is None:
        return manifest
    return Manifest.model_validate({**manifest.model_dump(by_alias=True), "version": version})


def rewritten(bundle: Bundle, out: Path, model: bytes, manifest: Manifest, record: TrustRecord) -> Bundle:
    """Write `model` with this manifest and what its limits rest on into the new folder `out`, and open it."""
    kept = [name for name in bundle.manifest.sha256 if name not in _OUTDATED]
    others = {name: (bundle.path / name).read_bytes() for name in kept}
    others[TRUST] = (record.model_dump_json(indent=1, by_alias=True) + "\n").encode()
    if _CARD in others:
        old, new = (f"# {one.name} {one.version}\n" for one in (bundle.manifest, manifest))
        card = with_trust(others[_CARD].decode("utf-8").replace(old, new, 1), record)
        others[_CARD] = with_front_matter(card, manifest).encode()
    return write_bundle(out, BundleFiles(model, others), manifest)
