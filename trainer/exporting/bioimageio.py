"""A bundle -> a package that bioimage.io's own validation takes: one ZIP file with a model description.

Only this module and `bioimageio_tensors` know the format (model description 0.5,
https://github.com/bioimage-io/spec-bioimage-io).
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent import __version__
from edge_agent.model_bundle import MANIFEST, MODEL
from trainer.exporting.bioimageio_pages import cover, readme
from trainer.exporting.bioimageio_tensors import (
    SMALLEST_SHARE,
    PackageError,
    Tested,
    preprocessing,
    tested_on,
)
from trainer.exporting.bundle_writer import GOLDEN_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Bundle, Manifest, Tensor
    from trainer.scoring.figures import Figures

FORMAT: Final = "0.5.12"
"""The newest that bioimageio.core tests (0.11.0 does not read later ones)."""
DESCRIPTION: Final = "bioimageio.yaml"
COVER: Final = "cover.jpg"
README: Final = "README.md"
INPUT: Final = "micrograph"
_THIRD_PARTY: Final = "THIRD_PARTY.md"
_RANGES: Final = {"probabilities": [0.0, 1.0], "novelty": [0.0, None]}
_TAGS: Final = (
    "2d",
    "electron-microscopy",
    "image-classification",
    "onnx",
    "class-activation-map",
    "scopewatch",
)
_SPDX: Final = frozenset(
    """
    AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 BSD-2-Clause BSD-3-Clause CC-BY-4.0 CC-BY-SA-4.0 CC0-1.0 EUPL-1.2
    GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later ISC LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only
    LGPL-3.0-or-later MIT MPL-2.0 Unlicense
    """.split()
)
_METHODS: Final = {
    "cam": (
        "Zhou et al., Learning Deep Features for Discriminative Localization, 2016",
        "10.1109/CVPR.2016.319",
    ),
    "gradcam": ("Selvaraju et al., Grad-CAM, 2017", "10.1109/ICCV.2017.74"),
    "hirescam": ("Draelos and Carin, Use HiResCAM instead of Grad-CAM, 2020", "10.48550/arXiv.2011.08891"),
    "occlusion": (
        "Zeiler and Fergus, Visualizing and Understanding CNNs, 2014",
        "10.1007/978-3-319-10590-1_53",
    ),
}


@dataclass(frozen=True, slots=True)
class Credits:
    """Whom a package names: authors, and what to cite beside the method of the map, as (text, DOI)."""

    authors: tuple[str, ...] = ()
    cite: tuple[tuple[str, str], ...] = ()


def citations(text: str) -> tuple[tuple[str, str], ...]:
    """Take `TEXT | DOI; TEXT | DOI` apart.

    Raises:
        PackageError: an entry has no DOI.

    """
    found = []
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        words, _, doi = (part.strip() for part in entry.rpartition("|"))
        if not words or not re.fullmatch(r"10\.[0-9]{4,}/\S+", doi):
            raise PackageError(
                f"--cite {entry!r}: wants TEXT | DOI, with a DOI such as 10.1109/CVPR.2016.319"
            )
        found.append((words, doi))
    return tuple(found)


def write_package(
    bundle: Bundle, figures: Figures, part: str, file: Path, credits_: Credits, *, seed: int = 0
) -> Path:
    """Write the package of a verified bundle to the new ZIP `file`; it appears complete or not at all.

    `figures` are those of its evaluation on the data set's `part`; `seed` draws the micrograph on the cover.

    Raises:
        FileExistsError: the file is there already.
        PackageError: the format cannot express this bundle.

    """
    if file.exists():
        raise FileExistsError(f"{file} exists; choose another file or remove it first")
    if file.suffix.lower() != ".zip":
        raise PackageError(f"{file}: a package is one ZIP file; end its name in .zip")
    contents = package_contents(bundle, figures, part, credits_, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".package-", dir=file.parent) as folder:
        draft = Path(folder) / file.name
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents.items():
                archive.writestr(
                    zipfile.ZipInfo(name, date_time=_date(bundle.manifest)), data, zipfile.ZIP_DEFLATED
                )
        shutil.move(draft, file)
    return file


def package_contents(
    bundle: Bundle, figures: Figures, part: str, credits_: Credits, seed: int
) -> dict[str, bytes]:
    """Every file of the package by name, the description first."""
    import yaml

    if bundle.manifest.golden.tolerance > GOLDEN_TOLERANCE:
        raise PackageError(
            f"{bundle.path}: other processors round its answers otherwise, by up to "
            f"{bundle.manifest.golden.tolerance:.1e}; bioimage.io allows no such tolerance: give the bundle with "
            "the float graph"
        )
    tested = tested_on(bundle)
    files = {
        MODEL: bundle.model_bytes,
        "test_input.npy": _npy(tested.counts),
        **{f"test_{role}.npy": _npy(values) for role, values in tested.answers.items()},
        COVER: cover(bundle, seed),
        README: readme(bundle, figures, part).encode(),
        MANIFEST: (bundle.path / MANIFEST).read_bytes(),
    }
    if _THIRD_PARTY in bundle.manifest.sha256:
        files[_THIRD_PARTY] = (bundle.path / _THIRD_PARTY).read_bytes()
    described = _description(bundle.manifest, tested, files, credits_)
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110)
    return {DESCRIPTION: text.encode(), **files}


def _date(manifest: Manifest) -> tuple[int, int, int, int, int, int]:
    made = manifest.created
    return max(1980, made.year), made.month, made.day, made.hour, made.minute, made.second


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _description(
    manifest: Manifest, tested: Tested, files: dict[str, bytes], credits_: Credits
) -> dict[str, Any]:
    def source(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}

    facts = {
        "format_version": FORMAT,
        "type": "model",
        "name": f"{manifest.name.replace('.', '-')} (scopewatch)",
        "description": _shortened(f"Classes: {', '.join(manifest.labels)}. {manifest.intended_use}", 500),
        "timestamp": manifest.created.isoformat(),
        "authors": [{"name": name.replace("/", "-")} for name in credits_.authors or ("not stated",)],
        "cite": [{"text": text, "doi": doi} for text, doi in (_METHODS[manifest.cam.method], *credits_.cite)],
        "tags": list(_TAGS),
        "documentation": source(README),
        "covers": [source(COVER)],
        "attachments": [source(name) for name in (MANIFEST, _THIRD_PARTY) if name in files],
        "inputs": [_input(manifest, tested, source("test_input.npy"))],
        "outputs": [_output(role, manifest, tested, source(f"test_{role}.npy")) for role in tested.answers],
        "weights": {"onnx": {**source(MODEL), "opset_version": manifest.network.opset}},
        "config": {"bioimageio": _figures_of(manifest, tested), "scopewatch": _ours(manifest)},
    }
    if manifest.licence in _SPDX:
        facts["license"] = manifest.licence
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?", manifest.version):
        facts["version"] = manifest.version
    return facts


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."


def _input(manifest: Manifest, tested: Tested, source: dict[str, str]) -> dict[str, Any]:
    rule = manifest.preprocessing
    free = tested.stride is not None
    sizes = [
        {"min": tested.least_px, "step": tested.stride} if free else size for size in tested.counts.shape[2:]
    ]
    how = "stretched to" if rule.proportions == "square" else "its proportions kept, with the area of"
    return {
        "id": INPUT,
        "description": f"Grey micrograph, any counts, {how} {rule.input_px} x {rule.input_px} px.",
        "axes": [
            _batch(manifest.tensors.input),
            {"type": "channel", "channel_names": ["grey"]},
            *({"type": "space", "id": name, "size": size} for name, size in zip("yx", sizes, strict=True)),
        ],
        "data": {"type": "float32"},
        "preprocessing": preprocessing(manifest),
        "test_tensor": source,
    }


def _batch(tensor: Tensor) -> dict[str, Any]:
    return {"type": "batch"} if tensor.shape[0] is None else {"type": "batch", "size": 1}


def _output(role: str, manifest: Manifest, tested: Tested, source: dict[str, str]) -> dict[str, Any]:
    return {
        "id": role,
        "description": _meaning(role, manifest),
        "axes": [_batch(manifest.tensors.input), *_axes(role, manifest, tested)],
        "data": {"type": "float32", **({"range": _RANGES[role]} if role in _RANGES else {})},
        "test_tensor": source,
    }


def _meaning(role: str, manifest: Manifest) -> str:
    if role == "probabilities":
        return "Softmax over classes."
    if role == "novelty":
        return "How unlike the training micrographs it is; about one in twenty good ones is above 1."
    of = "the most probable class" if _is_of_winner(role, manifest) else "each class"
    return f"Evidence in logits for {of}, cells over the input."


def _axes(role: str, manifest: Manifest, tested: Tested) -> Iterator[dict[str, Any]]:
    """Those behind the batch; a novelty is one number."""
    if role == "novelty":
        return
    names = ["winner"] if _is_of_winner(role, manifest) else list(manifest.labels)
    yield {"type": "channel", "channel_names": names}
    if role != "probabilities":
        yield from _cells(role, tested)


def _is_of_winner(role: str, manifest: Manifest) -> bool:
    return role == "cam" and manifest.tensors.cam_every_class is not None


def _cells(role: str, tested: Tested) -> Iterator[dict[str, Any]]:
    """The axes of a map: a cell is `stride` pixels of the input wide."""
    cells, pixels = tested.answers[role].shape[2:], tested.counts.shape[2:]
    for name, count, length in zip("yx", cells, pixels, strict=True):
        if tested.stride is None:
            yield {"type": "space", "id": name, "size": count}
            continue
        size = {"tensor_id": INPUT, "axis_id": name, "offset": count - length // tested.stride}
        yield {"type": "space", "id": name, "size": size, "scale": float(tested.stride)}


def _figures_of(manifest: Manifest, tested: Tested) -> dict[str, Any]:
    tolerances = [
        {
            "output_ids": [role],
            "weights_formats": ["onnx"],
            "relative_tolerance": GOLDEN_TOLERANCE,
            "absolute_tolerance": min(GOLDEN_TOLERANCE, SMALLEST_SHARE * float(values.max())),
        }
        for role, values in tested.answers.items()
    ]
    return {
        "reproducibility_tolerance": tolerances,
        "architecture_type": _shortened(manifest.network.backbone, 32),
        "modality": "electron microscopy",
        "task": "classification",
        "model_parameter_count": manifest.network.parameters,
    }


def _ours(manifest: Manifest) -> dict[str, Any]:
    return {
        "scopewatch": __version__,
        "bundle": f"{manifest.name}-{manifest.version}",
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "cam": manifest.cam.model_dump(mode="json"),
    }
