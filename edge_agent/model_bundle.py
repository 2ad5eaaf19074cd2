"""A model bundle on disk: its manifest, and whether it may be used at all.

Answers for the promise that what runs is what was measured: every file has the hash the manifest states, the
ONNX file keeps no data elsewhere and uses only operators a CNN needs, and its tensors carry the manifest's names.
Only this module knows what a bundle holds; where its bytes come from is `bundle_files`' business.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.bundle_files import LARGEST_FILE_BYTES as LARGEST_FILE_BYTES
from edge_agent.bundle_files import BundleFolder, is_plain_name
from edge_agent.bundle_files import BundleRefused as BundleRefused
from edge_agent.limits import Guards as Guards
from edge_agent.limits import NoveltyFacts as NoveltyFacts
from edge_agent.limits import Thresholds as Thresholds
from edge_agent.limits import TrainingRanges as TrainingRanges
from edge_agent.limits import Usual as Usual
from edge_agent.model_names import LONGEST_VERSION, NAME_PATTERN, VERSION_PATTERN, shipped_named
from edge_agent.model_names import MANIFEST as MANIFEST
from edge_agent.model_names import is_shipped as is_shipped
from edge_agent.model_names import shipped_models as shipped_models
from edge_agent.model_origin import Candidate as Candidate
from edge_agent.model_origin import Golden as Golden
from edge_agent.model_origin import Network as Network
from edge_agent.model_origin import Optimisation as Optimisation
from edge_agent.model_origin import Parity as Parity
from edge_agent.onnx_gate import OnnxRefused, gate_model
from edge_agent.preprocessing import Preprocessing
from edge_agent.signatures import KeyRefused, NotSigned, signer_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge_agent.bundle_files import BundleSource

MODEL: Final = "model.onnx"
GOLDEN: Final = "golden.npz"
SCHEMA: Final = "scopewatch.bundle/1"
UNKNOWN_DATASET: Final = "not known"
"""The data set's fingerprint in the bundle of a network that was trained elsewhere."""
_MOST_MANIFEST_BYTES: Final = 1 << 22


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


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice")
    return labels


class Manifest(_Part):
    """Everything a program must know to use `model.onnx` rightly. See contracts.md."""

    schema_: Literal["scopewatch.bundle/1"] = Field(default="scopewatch.bundle/1", alias="schema")
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN, max_length=LONGEST_VERSION)
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
    golden_bytes: bytes = b""
    signed_by: str | None = None
    """Id of the trusted key that signed it; None where no keys were given, or it came with the installation."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Every byte of a bundle, read once and verified; `files` holds the manifest's own bytes, too."""

    path: Path
    manifest: Manifest
    files: dict[str, bytes]
    signed_by: str | None


def open_bundle(
    name_or_path: str | Path | None = None,
    *,
    manifest_sha256: str | None = None,
    trusted_keys: Sequence[str] = (),
) -> Bundle:
    """Find and verify a bundle: a folder, or the name of a shipped model (`name` or `name-version`).

    None stands for the shipped default, the last one by name and version. With `manifest_sha256`, the bundle must
    be the very one that has it; with `trusted_keys`, one of them must have signed it, unless it is shipped.

    Raises:
        BundleRefused: not found, or not as its manifest says, or not as demanded.
    """
    path = _find(name_or_path)
    own = is_shipped(path)
    source, keys = BundleFolder(path, follow_links=own), () if own else trusted_keys
    return bundle_of(read_contents(source, manifest_sha256=manifest_sha256, trusted_keys=keys))


def read_contents(
    source: BundleSource,
    *,
    manifest_sha256: str | None = None,
    trusted_keys: Sequence[str] = (),
    most_bytes: int | None = None,
) -> Contents:
    """Read a bundle's files, each once, and verify what `open_bundle` does but for the graph.

    Raises BundleRefused. Of what is not signed or not the one demanded, nothing but the manifest is looked at.
    """
    data = _manifest_bytes(source)
    where = source.path / MANIFEST
    if manifest_sha256 is not None and hashlib.sha256(data).hexdigest() != manifest_sha256:
        raise BundleRefused(f"{where}: was changed after the model was accepted; add the model again")
    signed_by = _signer(where, data, trusted_keys)
    manifest = _parsed(where, data)
    files = {MANIFEST: data}
    for name, content in _verified(source, manifest):
        files[name] = content
        if most_bytes is not None and sum(map(len, files.values())) > most_bytes:
            raise BundleRefused(f"{source.path}: more than {most_bytes} bytes in all, too large for a bundle")
    return Contents(source.path, manifest, files, signed_by)


def bundle_of(contents: Contents) -> Bundle:
    """Look into the graph of a bundle that is whole. Raises BundleRefused."""
    manifest, model = contents.manifest, contents.files[MODEL]
    try:
        gate_model(model, tensor_names(manifest.tensors))
    except OnnxRefused as error:
        raise BundleRefused(
            f"{contents.path / MODEL}: {error}; use a bundle made by edge-trainer export"
        ) from error
    golden = contents.files[GOLDEN]
    return Bundle(contents.path, manifest, model, manifest.sha256[MODEL], golden, contents.signed_by)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle folder without verifying its other files. Raises BundleRefused."""
    return _parsed(path / MANIFEST, _manifest_bytes(BundleFolder(path, follow_links=True)))


def _manifest_bytes(source: BundleSource) -> bytes:
    try:
        return source.read(MANIFEST, _MOST_MANIFEST_BYTES)
    except FileNotFoundError:
        raise BundleRefused(f"{source.path}: no {MANIFEST} here; give the folder of a bundle") from None


def _signer(where: Path, manifest: bytes, trusted_keys: Sequence[str]) -> str | None:
    if not trusted_keys:
        return None
    try:
        return signer_of(manifest, trusted_keys)
    except NotSigned as error:
        raise BundleRefused(
            f"{where}: {error}; use a model signed by one of the {len(trusted_keys)} trusted_keys, or list its key"
        ) from None
    except KeyRefused as error:
        raise BundleRefused(f"trusted_keys: {error}") from None


def _parsed(file: Path, data: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except UnicodeDecodeError as error:
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


def _find(name_or_path: str | Path | None) -> Path:
    shipped = shipped_models()
    if name_or_path is None:
        if not shipped:
            raise BundleRefused("no model is shipped with this installation; give one with --model")
        return shipped[-1]
    path = Path(name_or_path)
    if path.is_dir():
        return path
    named = shipped_named(str(name_or_path), shipped)
    if named is None:
        known = ", ".join(folder.name for folder in shipped) or "none"
        raise BundleRefused(f"{name_or_path}: neither a folder nor a shipped model (shipped: {known})")
    return named


def _verified(source: BundleSource, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    for required in (MODEL, GOLDEN):
        if required not in manifest.sha256:
            raise BundleRefused(f"{source.path / MANIFEST}: no SHA-256 of {required}; make the bundle again")
    for name, expected in manifest.sha256.items():
        if not is_plain_name(name):
            raise BundleRefused(f"{source.path / MANIFEST}: {name!r} is not a plain file name")
        file = source.path / name
        try:
            data = source.read(name)
        except FileNotFoundError as error:
            raise BundleRefused(
                f"{file}: named in the manifest, cannot be read ({error.strerror}); copy the bundle again"
            ) from error
        seen = hashlib.sha256(data).hexdigest()
        if seen != expected:
            raise BundleRefused(
                f"{file}: SHA-256 is {seen[:12]}..., the manifest says {expected[:12]}...; "
                "the file was changed or damaged: copy the bundle again"
            )
        yield name, data


def tensor_names(tensors: Tensors) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and outputs that the graph must have, as `gate_model` wants them."""
    return (tensors.input.name,), tuple(tensor.name for tensor in tensors.outputs)


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as it is written to disk: indented JSON in UTF-8, one line break at the end."""
    return (json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=2) + "\n").encode()
