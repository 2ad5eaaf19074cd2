"""One file through the whole chain: read, classify, decide, draw, write the heatmap, then the sidecar.

Answers for what becomes of a file in every case, and for the order of the writes. A bad file is a normal
outcome.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent import __version__
from edge_agent.decision import Decision, decide
from edge_agent.files import FileStamp, stamp_of, write_durably
from edge_agent.heatmap import draw_heatmap
from edge_agent.micrograph import (
    IncompleteFile,
    Micrograph,
    NotAnImage,
    UnusableFile,
    read_micrograph,
)
from edge_agent.shared_opening import system_path
from edge_agent.sidecar import (
    AgentRecord,
    CamRecord,
    Finding,
    FindingOutcome,
    InstrumentRecord,
    MicrographRecord,
    Milliseconds,
    ModelRecord,
    NameTooLong,
    Outcome,
    OutputPlan,
    Place,
    PredictionRecord,
    Sidecar,
    SourceRecord,
    TileRecord,
    finding_of,
    source_record,
    write_record,
)

if TYPE_CHECKING:
    from edge_agent.classifier import Classifier, Prediction

_DIGITS: Final = 7
"""Significant digits kept of probabilities and map values: all that float32 has."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to examine: where outputs go, and whether an incomplete file is worth waiting for.

    With `incomplete_is_final`, what cannot be read yet is recorded as `unreadable` at once.
    """

    plan: OutputPlan
    heatmap: bool = True
    snapshot_limit_mib: int = 512
    incomplete_is_final: bool = False
    settled: datetime | None = None


class _NoRecord(Exception):
    """The examination ends without a sidecar."""

    def __init__(self, outcome: FindingOutcome, reason: str, stamp: FileStamp | None = None) -> None:
        super().__init__(reason)
        self.outcome: FindingOutcome = outcome
        self.reason = reason
        self.stamp = stamp


@dataclass(frozen=True, slots=True)
class _Answered:
    micrograph: Micrograph
    prediction: Prediction
    decision: Decision


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the file turned out to be, before anything is written."""

    outcome: Outcome
    reason: str | None
    source: SourceRecord
    stamp: FileStamp
    times: Milliseconds
    answered: _Answered | None = None


def examine(path: Path, classifier: Classifier, request: Request) -> Finding:
    """Examine one file and write its outputs; return what became of it.

    Nothing that a file contains raises, nor does a failing disk: both are findings. What raises is a fault of
    ours.
    """
    started = time.perf_counter()
    try:
        place = _place_of(path, request.plan)
        seen = _look_at(path, classifier, request)
        _require_same(path, seen.stamp)
        record = _commit(seen, place, classifier, request)
    except _NoRecord as ended:
        return Finding(
            path=path,
            outcome=ended.outcome,
            reason=ended.reason,
            stamp=ended.stamp,
            milliseconds=_since(started),
        )
    return finding_of(path, seen.stamp, place, record, _since(started))


def _place_of(path: Path, plan: OutputPlan) -> Place:
    try:
        return plan.place(path)
    except NameTooLong as error:
        raise _NoRecord("refused", str(error), _stamp_or_vanished(path)) from None


def _look_at(path: Path, classifier: Classifier, request: Request) -> _Seen:
    started = time.perf_counter()
    try:
        micrograph = read_micrograph(path, snapshot_limit_mib=request.snapshot_limit_mib)
    except UnusableFile as error:
        return _unusable(path, error, request, Milliseconds(read=_since(started)))
    except OSError as error:
        return _not_read(path, error, request, Milliseconds(read=_since(started)))
    read = _since(started)
    prediction = classifier.classify(micrograph)
    times = Milliseconds(
        read=read, preprocess=_rounded(prediction.preprocess_ms), infer=_rounded(prediction.infer_ms)
    )
    answered = _Answered(micrograph, prediction, decide(prediction, classifier.bundle.manifest))
    found = micrograph.source
    source = source_record(path, found.stamp, found.sha256, found.fingerprint)
    return _Seen("classified", None, source, found.stamp, times, answered)


def _unusable(path: Path, error: UnusableFile, request: Request, times: Milliseconds) -> _Seen:
    reason = error.reason
    if isinstance(error, IncompleteFile):
        if not request.incomplete_is_final:
            raise _NoRecord("incomplete", reason, error.source.stamp if error.source else None)
        reason = f"incomplete: {reason}"
    outcome: Outcome = "not_an_image" if isinstance(error, NotAnImage) else "unreadable"
    if error.source is None:
        stamp = _stamp_or_vanished(path)
        return _Seen(outcome, reason, source_record(path, stamp, None, None), stamp, times)
    found = error.source
    source = source_record(path, found.stamp, found.sha256, found.fingerprint)
    return _Seen(outcome, reason, source, found.stamp, times)


def _not_read(path: Path, error: OSError, request: Request, times: Milliseconds) -> _Seen:
    """Access denied, an input/output error, a lost share: these pass, so they are worth another try."""
    stamp = _stamp_or_vanished(path)
    reason = f"cannot be opened: {error.strerror or error}"
    if not request.incomplete_is_final:
        raise _NoRecord("failed", reason, stamp)
    return _Seen("unreadable", reason, source_record(path, stamp, None, None), stamp, times)


def _stamp_or_vanished(path: Path) -> FileStamp:
    try:
        return stamp_of(path)
    except FileNotFoundError:
        raise _NoRecord("vanished", "deleted or renamed before it was read") from None
    except OSError as error:
        raise _NoRecord("failed", f"cannot be reached: {error.strerror or error}") from None


def _require_same(path: Path, stamp: FileStamp) -> None:
    """Write nothing about a file that is gone or was overwritten while the network looked at it."""
    if _stamp_or_vanished(path) != stamp:
        raise _NoRecord("incomplete", "changed while it was examined", stamp)


def _commit(seen: _Seen, place: Place, classifier: Classifier, request: Request) -> Sidecar:
    picture, times = _draw(seen, classifier, request)
    try:
        if request.plan.output is not None:
            Path(system_path(place.sidecar.parent)).mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        if picture is None:
            # Before the sidecar: after it, a crash would leave an earlier file's picture beside it for ever.
            with contextlib.suppress(FileNotFoundError):
                Path(system_path(place.heatmap)).unlink()
        else:
            write_durably(place.heatmap, picture)
            times = times.model_copy(update={"write": _since(started)})
        record = _record(replace(seen, times=times), place, picture, classifier, request)
        write_record(place, record)
    except OSError as error:
        reason = f"outputs cannot be written to {place.sidecar.parent}: {error.strerror or error}"
        raise _NoRecord("failed", reason, seen.stamp) from None
    return record


def _draw(seen: _Seen, classifier: Classifier, request: Request) -> tuple[bytes | None, Milliseconds]:
    if seen.answered is None or not request.heatmap:
        return None, seen.times
    started = time.perf_counter()
    answered, manifest = seen.answered, classifier.bundle.manifest
    picture = draw_heatmap(
        answered.micrograph,
        answered.prediction,
        answered.decision,
        model=f"{manifest.name} {manifest.version}",
    )
    return picture, seen.times.model_copy(update={"heatmap": _since(started)})


def _record(
    seen: _Seen, place: Place, picture: bytes | None, classifier: Classifier, request: Request
) -> Sidecar:
    manifest, answered = classifier.bundle.manifest, seen.answered
    return Sidecar(
        outcome=seen.outcome,
        reason=seen.reason,
        source=seen.source,
        micrograph=_micrograph_record(answered.micrograph) if answered else None,
        prediction=_prediction_record(answered, classifier) if answered else None,
        cam=_cam_record(answered.prediction, place, picture) if answered else None,
        model=ModelRecord(name=manifest.name, version=manifest.version, sha256=classifier.bundle.sha256),
        agent=AgentRecord(
            version=__version__,
            host=_host(),
            settled=request.settled,
            finished=datetime.now(UTC),
            milliseconds=seen.times,
        ),
    )


def _micrograph_record(micrograph: Micrograph) -> MicrographRecord:
    instrument = {key: _known(value) for key, value in asdict(micrograph.instrument).items()}
    rows, columns = micrograph.pixels.shape
    return MicrographRecord(
        shape=(rows, columns),
        dtype=micrograph.pixels.dtype.name,
        pixel_size_nm=micrograph.pixel_size_nm,
        dataset_index=micrograph.dataset_index,
        frame_index=micrograph.frame_index,
        datasets=micrograph.datasets,
        acquired=micrograph.acquired,
        acquired_text=micrograph.acquired_text,
        instrument=InstrumentRecord(**instrument),
    )


def _prediction_record(answered: _Answered, classifier: Classifier) -> PredictionRecord:
    prediction, thresholds = answered.prediction, classifier.bundle.manifest.thresholds
    tiles = (
        TileRecord(box_px=tile.box_px, probabilities=_named(prediction, tile.probabilities))
        for tile in prediction.tiles
    )
    return PredictionRecord(
        label=prediction.label,
        decision=answered.decision.decision,
        reasons=answered.decision.reasons,
        probabilities=_named(prediction, prediction.probabilities),
        novelty=None if prediction.novelty is None else _shortened(prediction.novelty),
        novelty_threshold=thresholds.novelty if thresholds else None,
        tiles=tuple(tiles),
    )


def _cam_record(prediction: Prediction, place: Place, picture: bytes | None) -> CamRecord:
    cam = prediction.cam
    rows, columns = cam.values.shape
    return CamRecord(
        label=cam.label,
        method=cam.method,
        box_px=cam.box_px,
        grid=(rows, columns),
        values=tuple(tuple(_shortened(value) for value in row) for row in cam.values.tolist()),
        composition=cam.composition,
        heatmap=None if picture is None else place.heatmap.name,
        heatmap_sha256=None if picture is None else sha256(picture).hexdigest(),
    )


def _named(prediction: Prediction, probabilities: tuple[float, ...]) -> dict[str, float]:
    return {label: _shortened(value) for label, value in zip(prediction.labels, probabilities, strict=True)}


def _known(value: object) -> object:
    """Tags can hold NaN; unknown is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _host() -> str:
    return platform.node()


def _shortened(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _since(started: float) -> float:
    return _rounded(1000 * (time.perf_counter() - started))


def _rounded(milliseconds: float) -> float:
    return round(milliseconds, 2)
