"""A model bundle on disk: its manifest, and whether it may be used at all.

Answers for the promise that what runs is what was measured: every file has the hash the manifest states, the
ONNX file keeps no data elsewhere and uses only operators a CNN needs, and its tensors carry the manifest's names.
Only this module knows the layout of a bundle and where the shipped ones lie.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.limits import Guards as Guards
from edge_agent.limits import NoveltyFacts as NoveltyFacts
from edge_agent.limits import Thresholds as Thresholds
from edge_agent.limits import TrainingRanges as TrainingRanges
from edge_agent.limits import Usual as Usual
from edge_agent.onnx_gate import OnnxRefused, gate_model
from edge_agent.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
GOLDEN: Final = "golden.npz"
SCHEMA: Final = "scopewatch.bundle/1"
UNKNOWN_DATASET: Final = "not known"
"""The data set's fingerprint in the bundle of a network that was trained elsewhere."""
LARGEST_FILE_BYTES: Final = 1 << 30
_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_VERSION: Final = r"^[0-9]+(\.[0-9]+){0,2}([a-z0-9.+-]*)?$"
# On Windows a colon names a stream of another file or another drive.
_FILE_NAME: Final = re.compile(r"[^/\\:\x00-\x1f]{1,255}")


class BundleRefused(Exception):
    """A bundle must not be used; the message names the file, what was seen and what to do."""


_Label = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tensor(_Part):
    """A named input or output of the graph; None stands for a size that may change from run to run."""

    name: str
    shape: tuple[int | None, ...]


class Tensors(_Part):
    """The tensors by their role; the agent addresses them by these names only."""

    input: Tensor
    """[n, 1, rows, columns]; a stated n is 1, stated rows and columns are the preprocessing's `input_px`."""
    probabilities: Tensor
    cam: Tensor | None = None
    """[n, labels, h, w], or [n, 1, h, w]: of the class that each input was given. None: no map in the graph."""
    cam_every_class: Tensor | None = None
    """[n, labels, h, w], beside a `cam` of one class; computed only where it is asked for."""
    novelty: Tensor | None = None

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Every output that the graph must have."""
        found = (self.probabilities, self.cam, self.cam_every_class, self.novelty)
        return tuple(tensor for tensor in found if tensor is not None)


class Cam(_Part):
    """How the class activation map is computed, and from which tensor of the graph.

    Values are logits: the mean over a map's cells is the logit of its class, to first order. `occlusion`: the graph
    computes none, and a map costs one pass for each place that is hidden (`edge-trainer explain`).
    """

    method: Literal["cam", "gradcam", "hirescam", "occlusion"] = "cam"
    tensor: str = ""
    description: str = ""


class Candidate(_Part):
    """One form of the same network that was measured when the bundle was made."""

    name: str
    milliseconds: float
    """Median for one input on one thread."""
    model_bytes: int
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    cam_agreement: float | None = None
    """With the map of the plain graph; 1 is the same map."""
    novelty_apart: float | None = None
    """The largest change against the plain graph's novelty, as a fraction of it; None where there is none."""
    decisions_kept: float | None = None
    """Share decided as by the plain graph; None where there are no limits."""
    passed: bool
    reason: str = ""
    """What it failed at."""


class Optimisation(_Part):
    """Which form of the network runs, and the figures that decided it."""

    chosen: str
    reason: str
    processor: str
    threads: int
    pictures: int
    candidates: tuple[Candidate, ...]


class Network(_Part):
    """What was trained, and from which weights."""

    backbone: str
    weights_origin: str
    fine_tuned_from: str
    weights_kept: Literal["lowest validation loss", "last epoch"] = "lowest validation loss"
    """Of which epoch; only the first kind has looked at the validation part."""
    opset: int
    parameters: int
    """Of all members together."""
    members: int = Field(default=1, ge=1)
    """Networks in the graph, whose logits and maps are averaged."""
    trained_parts: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Parts of the data set that some member was fitted to; an ensemble of folds has seen all of them."""


class Parity(_Part):
    """How far ONNX Runtime is from the training framework on real crops, or from a model as it was imported.

    `probabilities` is the largest absolute difference. Evidence is unbounded, so `cam` is the largest difference as
    a fraction of the largest evidence of that crop (of 1, where that is smaller); `cam_absolute` is the plain one.
    """

    crops: int
    probabilities: float
    cam: float
    cam_absolute: float = 0.0
    tolerance: float
    cam_tolerance: float | None = None
    """For `cam`, where it is not `tolerance`."""
    cam_against: Literal["training framework", "measured derivative of the logits"] = "training framework"
    """The second: means of an imported network's maps, relative to what running its head on slightly changed
    features gives; 0.0 where the graph has no map."""


class Golden(_Part):
    """The replay that proves a PC computes what was exported.

    `tolerance` holds for probabilities, and for the map as a fraction of a case's largest evidence.
    """

    cases: int = Field(ge=0)
    tolerance: float = Field(ge=0)
    pictures: str = "simulated micrographs"


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice")
    return labels


class Manifest(_Part):
    """Everything a program must know to use `model.onnx` rightly. See contracts.md."""

    schema_: Literal["scopewatch.bundle/1"] = Field(default="scopewatch.bundle/1", alias="schema")
    name: str = Field(pattern=_NAME)
    version: str = Field(pattern=_VERSION)
    created: datetime
    labels: Annotated[tuple[_Label, ...], AfterValidator(_distinct)] = Field(min_length=2)
    tensors: Tensors
    preprocessing: Preprocessing
    cam: Cam = Cam()
    temperature: float = Field(default=1.0, gt=0)
    thresholds: Thresholds | None = None
    saturated_fraction: float = Field(default=0.25, gt=0, le=1)
    """A micrograph with more than this fraction of its pixels at the largest value abstains as `saturated`."""
    training_ranges: TrainingRanges = TrainingRanges()
    guards: Guards = Guards()
    usual: Usual = Usual()
    novelty: NoveltyFacts | None = None
    network: Network
    dataset_fingerprint: str
    seed: int
    parity: Parity
    golden: Golden
    sha256: dict[str, str]
    """SHA-256 of every other file of the bundle, by file name."""
    licence: str
    intended_use: str
    made_with: dict[str, str] = Field(default_factory=dict)
    signature: str | None = None
    optimisation: Optimisation | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        fault = (
            _map_fault(self.tensors, self.cam)
            or _size_fault(self.tensors.input.shape, self.preprocessing)
            or _novelty_fault(self)
        )
        if fault:
            raise ValueError(fault)
        return self


def _map_fault(tensors: Tensors, cam: Cam) -> str:
    if (tensors.cam is None) != (cam.method == "occlusion"):
        there = "no tensor" if tensors.cam is None else "a tensor"
        return f"tensors.cam names {there}, though the method is {cam.method}"
    one_class = tensors.cam is not None and tensors.cam.shape[1:2] == (1,)
    if one_class and tensors.cam_every_class is None:
        return "tensors.cam is of one class only, and tensors.cam_every_class is missing"
    if tensors.cam_every_class is not None and not one_class:
        return "tensors.cam_every_class belongs beside a tensors.cam of shape [n, 1, h, w] only"
    return ""


def _novelty_fault(manifest: Manifest) -> str:
    there = manifest.tensors.novelty is not None
    if there != (manifest.novelty is not None):
        return "tensors.novelty and novelty belong together, and one of them is missing"
    if manifest.thresholds is not None and manifest.thresholds.novelty is not None and not there:
        return "thresholds.novelty needs tensors.novelty: without it nothing would ever be novel"
    return ""


def _size_fault(shape: tuple[int | None, ...], rule: Preprocessing) -> str:
    """What the agent cannot feed: it gives one grey input of the preprocessing's size at a time."""
    sizes = shape[2:]
    if len(shape) != 4 or shape[0] not in (None, 1) or shape[1] != 1:
        return f"tensors.input has the shape {list(shape)}, not [n, 1, rows, columns]"
    if any(size is not None for size in sizes) and (
        sizes != (rule.input_px, rule.input_px) or rule.proportions != "square"
    ):
        return (
            f"tensors.input takes {sizes[0]} x {sizes[1]} only, the preprocessing makes {rule.proportions} inputs "
            f"of {rule.input_px} px"
        )
    return ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, its model in memory: the bytes that were verified are the bytes that run."""

    path: Path
    manifest: Manifest
    model_bytes: bytes
    sha256: str
    """SHA-256 of model.onnx."""


def open_bundle(name_or_path: str | Path | None = None) -> Bundle:
    """Find and verify a bundle: a folder, or the name of a shipped model (`name` or `name-version`).

    None stands for the shipped default, the last one by name and version.

    Raises:
        BundleRefused: not found, or not as its manifest says.
    """
    path = _find(name_or_path)
    manifest = read_manifest(path)
    contents = dict(_verified(path, manifest))
    model = contents[MODEL]
    try:
        gate_model(model, tensor_names(manifest.tensors))
    except OnnxRefused as error:
        raise BundleRefused(f"{path / MODEL}: {error}; use a bundle made by edge-trainer export") from error
    return Bundle(path, manifest, model, manifest.sha256[MODEL])


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle folder without verifying its other files."""
    file = path / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise BundleRefused(f"{path}: no {MANIFEST} here; give the folder of a bundle") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleRefused(f"{file}: cannot be read ({error})") from error
    except ValidationError as error:
        raise BundleRefused(f"{file}: {_fault(error)}") from error


def _fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    schema = next((fault for fault in faults if fault["loc"] == ("schema",)), None)
    if schema is not None:
        return (
            f"schema is {schema['input']!r}, this version reads {SCHEMA!r}; update scopewatch or export again"
        )
    where = ".".join(str(part) for part in faults[0]["loc"]) or "the whole file"
    return f"{where}: {faults[0]['msg']}; make the bundle again"


def shipped_models() -> tuple[Path, ...]:
    """Folders of the bundles that come with the package, by name, oldest version first."""
    for root in _model_roots():
        found = [folder for folder in root.iterdir() if (folder / MANIFEST).is_file()]
        if found:
            return tuple(sorted(found, key=_order))
    return ()


def _model_roots() -> Iterator[Path]:
    # In a wheel the models lie inside the package, in the repository (editable install) beside it.
    here = Path(__file__).resolve().parent
    for root in (here / "models", here.parent / "models"):
        if root.is_dir():
            yield root


def _order(folder: Path) -> tuple[str, tuple[int, ...], bool, str]:
    name, _, version = folder.name.rpartition("-")
    release = re.match(r"[0-9.]*", version)
    numbers = release.group() if release else ""
    # 1.0rc1 comes before 1.0.
    return name, tuple(int(digits) for digits in numbers.split(".") if digits), numbers == version, version


def _find(name_or_path: str | Path | None) -> Path:
    shipped = shipped_models()
    if name_or_path is None:
        if not shipped:
            raise BundleRefused("no model is shipped with this installation; give one with --model")
        return shipped[-1]
    path = Path(name_or_path)
    if path.is_dir():
        return path
    name = str(name_or_path)
    named = [folder for folder in shipped if name in (folder.name, folder.name.rpartition("-")[0])]
    if not named:
        known = ", ".join(folder.name for folder in shipped) or "none"
        raise BundleRefused(f"{name_or_path}: neither a folder nor a shipped model (shipped: {known})")
    return named[-1]


def _verified(path: Path, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    for required in (MODEL, GOLDEN):
        if required not in manifest.sha256:
            raise BundleRefused(f"{path / MANIFEST}: no SHA-256 of {required}; make the bundle again")
    for name, expected in manifest.sha256.items():
        if not _FILE_NAME.fullmatch(name) or name in (".", ".."):
            raise BundleRefused(f"{path / MANIFEST}: {name!r} is not a plain file name")
        file = path / name
        data = _content(file)
        seen = hashlib.sha256(data).hexdigest()
        if seen != expected:
            raise BundleRefused(
                f"{file}: SHA-256 is {seen[:12]}..., the manifest says {expected[:12]}...; "
                "the file was changed or damaged: copy the bundle again"
            )
        yield name, data


def _content(file: Path) -> bytes:
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would never end
            raise BundleRefused(f"{file}: named in the manifest, is not a file")
        if found.st_size > LARGEST_FILE_BYTES:
            raise BundleRefused(f"{file}: {found.st_size} bytes, more than any bundle file may have")
        return file.read_bytes()
    except OSError as error:
        raise BundleRefused(
            f"{file}: named in the manifest, cannot be read ({error.strerror}); copy the bundle again"
        ) from error


def tensor_names(tensors: Tensors) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and outputs that the graph must have, as `gate_model` wants them."""
    return (tensors.input.name,), tuple(tensor.name for tensor in tensors.outputs)


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as it is written to disk: indented JSON in UTF-8, one line break at the end."""
    return (json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=2) + "\n").encode()
