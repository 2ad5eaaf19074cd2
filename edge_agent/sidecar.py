"""The sidecar: the JSON record beside a micrograph, its schema, and the way it is written and believed.

The JSON is the commit point: once it is in place a file is done, so the heatmap is written before it. Only
this module knows the text format, and when a record on the disk counts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from edge_agent.files import (
    SYSTEM_FILES,
    FileLayer,
    FileStamp,
    is_regular_file,
    read_whole,
    write_durably,
)
from edge_agent.finding import Finding as Finding
from edge_agent.finding import FindingOutcome as FindingOutcome
from edge_agent.finding import Milliseconds as Milliseconds
from edge_agent.finding import Twin as Twin
from edge_agent.output_places import HEATMAP_SUFFIX as HEATMAP_SUFFIX
from edge_agent.output_places import NAME_LIMIT as NAME_LIMIT
from edge_agent.output_places import SIDECAR_SUFFIX as SIDECAR_SUFFIX
from edge_agent.output_places import NameTooLong as NameTooLong
from edge_agent.output_places import OutputPlan as OutputPlan
from edge_agent.output_places import Place as Place
from edge_agent.output_places import is_own_output as is_own_output
from edge_agent.output_places import readable_path as readable_path

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = "scopewatch.sidecar/1"
RECORD_LIMIT_BYTES: Final = 64 * 2**20
"""No record of ours is as long; what is, is not read."""

Outcome = Literal["classified", "not_an_image", "unreadable", "quarantined"]
"""What a sidecar can say of a file."""
UNWRITABLE: Final = "outputs cannot be written"
"""How the reason of a `failed` finding begins when the fault is not the file's."""
RECORDED: Final[frozenset[str]] = frozenset({"classified", "not_an_image", "unreadable", "quarantined"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

BoxPx = tuple[int, int, int, int]


def as_text(text: str) -> str:
    """Return text from a name or a tag without the lone surrogates that it can hold, and no JSON file may."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


Text = Annotated[str, AfterValidator(as_text)]
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


class FieldRecord(_Part):
    """What was measured of the field before and beside the network; see `field_look.Look`."""

    blank: bool
    saturated_fraction: FiniteFloat
    hot_pixels: int
    sharpness: FiniteFloat | None
    streaks: FiniteFloat | None
    diffraction: FiniteFloat | None
    contrast: FiniteFloat | None
    skewness: FiniteFloat | None


class ReplacedPixelSize(_Part):
    """That the configuration's pixel size for this magnification holds, and not the file's (rows, columns)."""

    magnification: FiniteFloat
    file_pixel_size_nm: tuple[float, float] | None
    """None where the file has none."""


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
    field: FieldRecord | None = None
    """None in records of scopewatch 0.4 and before."""
    pixel_size_replaced: ReplacedPixelSize | None = None
    """None where the pixel size is the file's own."""


class TileRecord(_Part):
    """One tile's answer; `box_px` is (x0, y0, x1, y1) in pixels of the micrograph."""

    box_px: BoxPx
    probabilities: dict[str, FiniteFloat]


class DoubtsRecord(_Part):
    """How much of the limits an answer uses up: 0 is usual; above 1, alone or together, it abstains.

    Null is more than any number: the value itself is none, or a limit without a usual value is passed.
    """

    novelty: FiniteFloat | None
    confidence: FiniteFloat | None


class PredictionRecord(_Part):
    """The answer, and whether to trust it."""

    label: Text
    decision: Literal["accept", "abstain", "ungated"]
    reasons: tuple[str, ...]
    probabilities: dict[str, FiniteFloat]
    novelty: float | None
    novelty_threshold: float | None
    tiles: tuple[TileRecord, ...]
    confidence_threshold: float | None = None
    tile_disagreement: FiniteFloat | None = None
    """None for one tile, whose answer is the whole's, and in records of scopewatch 0.4 and before."""
    doubts: DoubtsRecord | None = None
    """None where the bundle carries no thresholds, and in records of scopewatch 0.4 and before."""


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


class ProfileRecord(_Part):
    """What the configuration says of the instrument."""

    name: Text | None
    microscope: Text | None
    camera: Text | None


class AgentRecord(_Part):
    """Who wrote this, where and when. `settled` is when the file had become quiet (null when not watched)."""

    version: str
    host: Text
    settled: Utc | None
    finished: Utc
    milliseconds: Milliseconds
    instrument: ProfileRecord | None = None
    """None where the configuration says nothing of it."""


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


def modified_utc(stamp: FileStamp) -> datetime:
    """Return the stamp's modification time in UTC, to the microsecond, without rounding through a float.

    Times that no calendar has (a file system can hold the year 30,000) are the nearest that it has.
    """
    try:
        return _EPOCH + timedelta(microseconds=stamp.modified_ns // 1000)
    except OverflowError:
        return (datetime.max if stamp.modified_ns > 0 else datetime.min).replace(tzinfo=UTC)


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


def write_record(place: Place, record: Sidecar, layer: FileLayer = SYSTEM_FILES) -> None:
    """Write the sidecar durably: from here on the file is done. Raises OSError."""
    write_durably(place.sidecar, sidecar_json(record).encode("utf-8"), layer)


def read_record(path: Path) -> Sidecar | None:
    """Return the sidecar at `path`, or None when there is none or it is none of ours, whole and valid."""
    text = read_whole(path, RECORD_LIMIT_BYTES)
    try:
        return None if text is None else Sidecar.model_validate_json(text)
    except ValidationError:
        return None


def finding_on_record(
    path: Path,
    stamp: FileStamp,
    plan: OutputPlan,
    model_sha256: str | None = None,
    heatmaps_since: datetime | None = None,
) -> Finding | None:
    """Return the finding that a valid sidecar holds for exactly this size and time of the file, else None.

    The heatmap it names must be there, unless the file was finished before `heatmaps_since`. A quarantine holds
    for the model that it names; with `model_sha256` given, that of another model counts as none.
    """
    try:
        place = plan.place(path)
    except NameTooLong:
        return None
    record = read_record(place.sidecar)
    if record is None or not is_about(record, stamp):
        return None
    if record.outcome == "quarantined" and model_sha256 not in (None, record.model.sha256):
        return None
    finding = finding_of(path, stamp, place, record)
    if _has_its_heatmap(record, place):
        return finding
    return replace(finding, heatmap=None) if is_past(record, heatmaps_since) else None


def heatmaps_kept_since(heatmap_days: int | None) -> datetime | None:
    """Return from which moment on heatmaps are kept; None when all are."""
    return None if heatmap_days is None else datetime.now(UTC) - timedelta(days=heatmap_days)


def is_past(record: Sidecar, moment: datetime | None) -> bool:
    """Whether the record's file was finished before `moment`; never when there is none."""
    return moment is not None and record.agent.finished < moment


def is_about(record: Sidecar, stamp: FileStamp) -> bool:
    """Whether a record was made from a file of exactly this size and time."""
    source = record.source
    return source.bytes == stamp.size_bytes and source.modified == modified_utc(stamp)


def _has_its_heatmap(record: Sidecar, place: Place) -> bool:
    named = record.cam.heatmap if record.cam else None
    return named is None or (named == as_text(place.heatmap.name) and is_regular_file(place.heatmap))


def finding_of(
    path: Path, stamp: FileStamp, place: Place, record: Sidecar, milliseconds: float = 0.0
) -> Finding:
    """Return the short form of a record that stands, or is about to stand, at `place`."""
    prediction, micrograph = record.prediction, record.micrograph
    has_heatmap = record.cam is not None and record.cam.heatmap is not None
    size_nm = micrograph.pixel_size_nm if micrograph else None
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
        novelty=prediction.novelty if prediction else None,
        contrast=micrograph.field.contrast if micrograph and micrograph.field else None,
        pixel_size_nm=size_nm[1] if size_nm else None,
        inferred=prediction is None or record.agent.milliseconds.infer is not None,
        stages=record.agent.milliseconds,
        settled=record.agent.settled,
        finished=record.agent.finished,
    )
