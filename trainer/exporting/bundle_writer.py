"""Writes a bundle folder: model, golden cases, manifest with the hash of each file, model card.

Only this module decides what a bundle's files hold; `edge_agent.model_bundle` reads them. Nothing of the training
framework is needed here: what goes in is an ONNX model. The file that is written carries what it is in its own
metadata (`exporting.onnx_metadata`).
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.classifier import Classifier
from edge_agent.files import write_durably
from edge_agent.model_bundle import (
    GOLDEN,
    MANIFEST,
    MODEL,
    Bundle,
    BundleRefused,
    Golden,
    Manifest,
    manifest_json,
    open_bundle,
    tensor_names,
)
from edge_agent.onnx_gate import OnnxRefused, gate_model
from edge_agent.preprocessing import Preprocessing, cut_tiles
from edge_agent.simulation import SHAPES, draw_field
from trainer.exporting.onnx_metadata import stamped

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

GOLDEN_TOLERANCE: Final = 1e-3
"""Other processors round differently (vector widths, fused operations); a wrong model is off by far more."""
_GOLDEN_SIDE_PX: Final = 256
_FIXED: Final = (MODEL, GOLDEN, MANIFEST)


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """What goes into a bundle beside its manifest: further files by name (model card, table of labels ...)."""

    model: bytes
    """As it was made; what is written has the manifest's facts in its metadata too."""
    others: dict[str, bytes] = field(default_factory=dict)


def write_bundle(folder: Path, files: BundleFiles, manifest: Manifest) -> Bundle:
    """Write a bundle to a new folder, open it as the agent would, and return it.

    `manifest` states everything but the golden cases and the hashes, which are made here; of its `golden`, a
    tolerance above `GOLDEN_TOLERANCE` holds. The folder appears complete or not at all.

    Raises:
        FileExistsError: the folder is there already.
        BundleRefused: the model does not pass the agent's own gate.

    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it first")
    _gate(files.model, manifest)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
    try:
        _write(draft, files, manifest)
        Classifier(open_bundle(draft), without_map=manifest.tensors.cam is None)
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_bundle(folder)


def onnx_session(model: bytes) -> InferenceSession:
    """Open a model that is not in a bundle yet, on all cores and without telemetry.

    ONNX Runtime is imported here and not above: `edge_agent.classifier`, imported first, switches its telemetry
    off by a variable that must be set before.
    """
    import onnxruntime

    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def add_file(folder: Path, name: str, data: bytes) -> None:
    """Put a further file into a bundle, or replace one, and state its hash in the manifest.

    The bundle is valid at every moment in between: while a file is replaced, the manifest does not name it. A
    signature goes: nobody has signed what the bundle is now.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        ValueError: the name is that of the model, the golden cases or the manifest.

    """
    if name in _FIXED:
        raise ValueError(f"{name} is what a bundle is; write a new bundle instead of replacing it")
    bundle = open_bundle(folder)
    others = {key: value for key, value in bundle.manifest.sha256.items() if key != name}
    if name in bundle.manifest.sha256:
        _write_manifest(folder, bundle.manifest, others)
    write_durably(folder / name, data)
    _write_manifest(folder, bundle.manifest, {**others, name: hashlib.sha256(data).hexdigest()})


def _write_manifest(folder: Path, manifest: Manifest, hashes: dict[str, str]) -> None:
    stated = manifest.model_copy(update={"sha256": dict(sorted(hashes.items())), "signature": None})
    write_durably(folder / MANIFEST, manifest_json(stated))


def _gate(model: bytes, manifest: Manifest) -> None:
    """What the agent will ask of the model, asked before it is run to make the golden cases."""
    try:
        gate_model(model, tensor_names(manifest.tensors))
    except OnnxRefused as error:
        raise BundleRefused(f"the model of {manifest.name} {manifest.version}: {error}") from error


def _write(draft: Path, files: BundleFiles, manifest: Manifest) -> None:
    model = stamped(files.model, manifest)
    cases, golden = _golden(model, manifest)
    contents = {**files.others, MODEL: model, GOLDEN: golden}
    for name, data in contents.items():
        write_durably(draft / name, data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    tolerance = max(GOLDEN_TOLERANCE, manifest.golden.tolerance)
    proven = {"golden": Golden(cases=cases, tolerance=tolerance)}
    _write_manifest(draft, manifest.model_copy(update=proven), hashes)


def _golden(model: bytes, manifest: Manifest) -> tuple[int, bytes]:
    """Inputs cut from simulated micrographs, one a shape, square and oblong, with the outputs of this machine."""
    session, tensors = onnx_session(model), manifest.tensors
    names = {"probabilities": tensors.probabilities.name}
    names |= {
        role: tensor.name
        for role, tensor in (
            ("cam", tensors.cam),
            ("cam_every_class", tensors.cam_every_class),
            ("novelty", tensors.novelty),
        )
        if tensor is not None
    }
    stored: dict[str, NDArray[Any]] = {}
    rule = manifest.preprocessing
    if rule.proportions == "specimen":  # what is stretched to a square may take that one size only
        rule = rule.model_copy(update={"input_px": min(_GOLDEN_SIDE_PX, rule.input_px)})
    cases = [_golden_input(shape, index, rule) for index, shape in enumerate(SHAPES)]
    for index, inputs in enumerate(cases):
        # Half precision halves the file; the outputs are computed from exactly what is stored.
        halved = inputs.astype(np.float16)
        answers = session.run(list(names.values()), {tensors.input.name: halved.astype(np.float32)})
        stored[f"input_{index}"] = halved
        stored |= {f"{role}_{index}": values for role, values in zip(names, answers, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)  # type: ignore[arg-type]
    return len(cases), buffer.getvalue()


def _golden_input(shape: str, index: int, rule: Preprocessing) -> NDArray[np.float32]:
    pixels = draw_field(shape, np.random.default_rng(index), size_px=512).pixels
    oblong = pixels if index == 0 else pixels[: 512 - 128 * index]
    return cut_tiles(oblong, None, rule).tiles[0].values[None]
