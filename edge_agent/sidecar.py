"""The sidecar: the JSON record beside a micrograph, its schema, its place, and the way it is written.

The JSON is the commit point: once it is in place a file is done, so the heatmap is written before it. Only
this module knows the names of output files and the text format; `Finding` is the short form of a record that
travels between processes and into the journal.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from edge_agent.files import FileStamp, write_durably
from edge_agent.shared_opening import system_path

SCHEMA: Final = "scopewatch.sidecar/1"
SIDECAR_SUFFIX: Final = ".json"
HEATMAP_SUFFIX: Final = ".heatmap.png"
NAME_LIMIT: Final = 255
"""Bytes of a name on Linux and macOS, UTF-16 units on Windows."""

Outcome = Literal["classified", "not_an_image", "unreadable", "quarantined"]
"""What a sidecar can say of a file."""
FindingOutcome = Literal[
    "classified",
    "not_an_image",
    "unreadable",
    "quarantined",
    "incomplete",
    "vanished",
    "refused",
    "failed",
    "crashed",
    "interrupted",
]
"""What one examination can come to. Of the last six no sidecar is written: `incomplete` (somebody is still
writing), `vanished` (deleted meanwhile), `refused` (its outputs have no possible name), `failed` (the outputs
could not be written, or a fault of ours), `crashed` (the worker died of it, or took too long), `interrupted`
(the worker was ended while it waited for a disk, or to let other files pass: nothing against the file)."""
RECORDED: Final[frozenset[str]] = frozenset({"classified", "not_an_image", "unreadable", "quarantined"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

BoxPx = tuple[int, int, int, int]
Text = Annotated[str, AfterValidator(lambda text: text.encode("utf-8", "backslashreplace").decode())]
"""Text from names and tags can hold lone surrogates, which no JSON file may."""
Utc = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SourceRecord(_Part):
    r"""Which file, and which bytes of it. Bytes of a name that are no UTF-8 are written as \xNN."""

    path: Text
    bytes: int = Field(ge=0)
    modified: Utc
    sha256: str | None
    fingerprint: str | None


class InstrumentRecord(_Part):
    """What the file's tags say of the microscope; unknown is null."""

    voltage_kv: float | None
    magnification: float | None
    imaging_mode: Text | None
    operation_mode: Text | None
    signal: Text | None
    device: Text | None


class MicrographRecord(_Part):
    """The picture that was classified. `shape` and `pixel_size_nm` are (rows, columns)."""

    shape: tuple[int, int]
    dtype: str
    pixel_size_nm: tuple[float, float] | None
    dataset_index: int
    frame_index: int | None
    datasets: tuple[Text, ...]
    acquired: Utc | None
    acquired_text: Text | None
    instrument: InstrumentRecord


class TileRecord(_Part):
    """One tile's answer; `box_px` is (x0, y0, x1, y1) in pixels of the micrograph."""

    box_px: BoxPx
    probabilities: dict[str, FiniteFloat]


class PredictionRecord(_Part):
    """The answer, and whether to trust it."""

    label: Text
    decision: Literal["accept", "abstain", "ungated"]
    reasons: tuple[str, ...]
    probabilities: dict[str, FiniteFloat]
    novelty: float | None
    novelty_threshold: float | None
    tiles: tuple[TileRecord, ...]


class CamRecord(_Part):
    """Where the network looked: `values` are `grid` rows from the top, laid over `box_px`."""

    label: Text
    method: str
    box_px: BoxPx
    grid: tuple[int, int]
    values: tuple[tuple[FiniteFloat, ...], ...]
    composition: str
    heatmap: Text | None
    heatmap_sha256: str | None


class ModelRecord(_Part):
    """The bundle that answered; `sha256` identifies its manifest and so every file in it."""

    name: str
    version: str
    sha256: str


class Milliseconds(_Part):
    """Time spent in each stage; null where it did not run. `write` is the heatmap's, written before this."""

    read: float | None = None
    preprocess: float | None = None
    infer: float | None = None
    heatmap: float | None = None
    write: float | None = None


class AgentRecord(_Part):
    """Who wrote this, where and when. `settled` is when the file had become quiet (null when not watched)."""

    version: str
    host: Text
    settled: Utc | None
    finished: Utc
    milliseconds: Milliseconds


class Sidecar(_Part):
    """The record of one file, version 1."""

    schema_name: Literal["scopewatch.sidecar/1"] = Field(SCHEMA, alias="schema")
    outcome: Outcome
    reason: Text | None
    source: SourceRecord
    micrograph: MicrographRecord | None
    prediction: PredictionRecord | None
    cam: CamRecord | None
    model: ModelRecord
    agent: AgentRecord


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one file. `sidecar` and `heatmap` are None where none was written."""

    path: Path
    outcome: FindingOutcome
    reason: str | None = None
    label: str | None = None
    probability: float | None = None
    decision: str | None = None
    reasons: tuple[str, ...] = ()
    sidecar: Path | None = None
    heatmap: Path | None = None
    stamp: FileStamp | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    model_sha256: str | None = None
    milliseconds: float = 0.0

    def to_json(self) -> str:
        """Return one line; names that are no UTF-8 survive, because JSON's escapes carry lone surrogates."""
        return json.dumps(asdict(self), default=str, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Finding:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError on anything else."""
        values: dict[str, Any] = json.loads(text)
        for key in ("path", "sidecar", "heatmap"):
            values[key] = None if values[key] is None else Path(values[key])
        values["stamp"] = None if values["stamp"] is None else FileStamp(**values["stamp"])
        values["reasons"] = tuple(values["reasons"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Twin:
    """An earlier file of the same size and time whose answer holds for equal content (`sha256`) as well."""

    path: Path
    sha256: str


class NameTooLong(Exception):
    """The outputs' names would not fit into the file system; the text names the file and the limit."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the outputs of one micrograph go."""

    sidecar: Path
    heatmap: Path


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Beside each micrograph, or mirrored below `output`.

    Mirrored paths count from the folder that all `roots` have in common, so that two roots can never clash
    and a single root is mirrored directly.
    """

    output: Path | None = None
    roots: tuple[Path, ...] = ()

    def place(self, source: Path) -> Place:
        """Return where `source`'s outputs go. Raises NameTooLong: a name is never shortened."""
        _require_room(source)
        folder = source.parent if self.output is None else self.output / self._below_roots(source.parent)
        return Place(folder / (source.name + SIDECAR_SUFFIX), folder / (source.name + HEATMAP_SUFFIX))

    def _below_roots(self, folder: Path) -> Path:
        try:
            return folder.relative_to(os.path.commonpath(self.roots))
        except ValueError:
            # Roots on several drives of Windows have nothing in common, and a path may lie outside all roots.
            drive = folder.drive.replace(":", "").strip("\\/").replace("\\", "/")
            return Path(drive) / folder.relative_to(folder.anchor)


def _require_room(source: Path) -> None:
    name = source.name + HEATMAP_SUFFIX
    length = (
        len(name.encode("utf-16-le", "surrogatepass")) // 2 if os.name == "nt" else len(os.fsencode(name))
    )
    if length > NAME_LIMIT:
        unit = "characters" if os.name == "nt" else "bytes"
        raise NameTooLong(
            f"the name has no room for {HEATMAP_SUFFIX!r}: {length} {unit} where {NAME_LIMIT} are possible; "
            "rename the file"
        )


def is_own_output(name: str) -> bool:
    """Whether a file name is one that this module gives out, and so never a micrograph."""
    lowered = name.casefold()
    return lowered.endswith((SIDECAR_SUFFIX, HEATMAP_SUFFIX))


def readable_path(path: Path) -> str:
    r"""Return the path as text that any JSON reader takes: bytes that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def modified_utc(stamp: FileStamp) -> datetime:
    """Return the stamp's modification time in UTC, to the microsecond, without rounding through a float."""
    return _EPOCH + timedelta(microseconds=stamp.modified_ns // 1000)


def source_record(path: Path, stamp: FileStamp, sha256: str | None, fingerprint: str | None) -> SourceRecord:
    """Return the record's part on the file itself."""
    return SourceRecord(
        path=readable_path(path),
        bytes=stamp.size_bytes,
        modified=modified_utc(stamp),
        sha256=sha256,
        fingerprint=fingerprint,
    )


def sidecar_json(record: Sidecar) -> str:
    """Return the record as JSON text, one line for each part: short enough to read, easy to compare."""
    parts = json.loads(record.model_dump_json(by_alias=True))
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in parts.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def sidecar_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of version 1."""
    schema = Sidecar.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA} | schema


def write_record(place: Place, record: Sidecar) -> None:
    """Write the sidecar durably: from here on the file is done. Raises OSError."""
    write_durably(place.sidecar, sidecar_json(record).encode("utf-8"))


def read_record(path: Path) -> Sidecar | None:
    """Return the sidecar at `path`, or None when there is none or it is none of ours, whole and valid."""
    try:
        return Sidecar.model_validate_json(Path(system_path(path)).read_bytes())
    except (OSError, ValidationError):
        return None


def finding_on_record(path: Path, stamp: FileStamp, plan: OutputPlan) -> Finding | None:
    """Return the finding that a valid sidecar holds for exactly this size and time of the file, else None."""
    try:
        place = plan.place(path)
    except NameTooLong:
        return None
    record = read_record(place.sidecar)
    if record is None or (record.source.bytes, record.source.modified) != (
        stamp.size_bytes,
        modified_utc(stamp),
    ):
        return None
    return finding_of(path, stamp, place, record)


def finding_of(
    path: Path, stamp: FileStamp, place: Place, record: Sidecar, milliseconds: float = 0.0
) -> Finding:
    """Return the short form of a record that stands, or is about to stand, at `place`."""
    prediction = record.prediction
    has_heatmap = record.cam is not None and record.cam.heatmap is not None
    return Finding(
        path=path,
        outcome=record.outcome,
        reason=record.reason,
        label=prediction.label if prediction else None,
        probability=prediction.probabilities.get(prediction.label) if prediction else None,
        decision=prediction.decision if prediction else None,
        reasons=prediction.reasons if prediction else (),
        sidecar=place.sidecar,
        heatmap=place.heatmap if has_heatmap else None,
        stamp=stamp,
        sha256=record.source.sha256,
        fingerprint=record.source.fingerprint,
        model_sha256=record.model.sha256,
        milliseconds=milliseconds,
    )
