"""One file through the whole chain: read, classify, decide, draw, write the heatmap, then the sidecar.

Answers for what becomes of a file in every case, and for the order of the writes. A bad file is a normal
outcome.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from edge_agent.decision import Decision, decide
from edge_agent.earlier_answer import Wanted, earlier_answer, is_worth_hashing
from edge_agent.files import (
    SYSTEM_FILES,
    FileLayer,
    FileStamp,
    SourceChanged,
    SourceFile,
    identify,
    make_folders,
    remove_durably,
    require_room,
    stamp_of,
    write_durably,
)
from edge_agent.heatmap import draw_heatmap
from edge_agent.instrument_profile import NO_PROFILE, InstrumentProfile
from edge_agent.micrograph import (
    IncompleteFile,
    Micrograph,
    NotAnImage,
    UnusableFile,
    calibrated,
    read_micrograph,
)
from edge_agent.output_places import NameTooLong, OutputPlan, Place
from edge_agent.previews import keep_drawn
from edge_agent.record_building import agent_record, cam_record, micrograph_record, prediction_record
from edge_agent.shared_opening import is_held_by_writer
from edge_agent.sidecar import (
    UNWRITABLE,
    CamRecord,
    Finding,
    FindingOutcome,
    MicrographRecord,
    Milliseconds,
    ModelRecord,
    Outcome,
    PredictionRecord,
    Sidecar,
    SourceRecord,
    Twin,
    as_text,
    finding_of,
    is_about,
    read_record,
    source_record,
    write_record,
)

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.classifier import Classifier, Prediction
    from edge_agent.grey_scale import ContrastLimits

_ROOM_FOR_RECORD: Final = 64 * 1024
"""More than a sidecar takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to examine: where outputs go, and whether an incomplete file is worth waiting for.

    With `incomplete_is_final`, what cannot be read yet is recorded as `unreadable` at once. When the content
    is that of one of `twins`, its answer holds and nothing is inferred. Unless `gaps_are_final`, a file with a
    sector of zeros is incomplete: its writer may have reserved it all and not have come to that part. With
    `quarantine` (a reason) the file is hashed and recorded as quarantined, and no parser sees it. All writes
    go through `layer`, and none that would leave less than `free_space_floor_mib` on the disk. A pixel size that
    `instrument` lists replaces the file's. An earlier answer of before `heatmaps_since` needs no heatmap.
    Pictures for the page are kept in `previews`.
    """

    plan: OutputPlan
    heatmap: bool = True
    snapshot_limit_mib: int = 512
    free_space_floor_mib: int = 0
    incomplete_is_final: bool = False
    settled: datetime | None = None
    twins: tuple[Twin, ...] = ()
    quarantine: str | None = None
    gaps_are_final: bool = True
    layer: FileLayer = SYSTEM_FILES
    instrument: InstrumentProfile = NO_PROFILE
    heatmaps_since: datetime | None = None
    previews: Path | None = None


class _NoRecord(Exception):
    """The examination ends without a sidecar."""

    def __init__(self, outcome: FindingOutcome, reason: str, stamp: FileStamp | None = None) -> None:
        super().__init__(reason)
        self.outcome: FindingOutcome = outcome
        self.reason = reason
        self.stamp = stamp


@dataclass(frozen=True, slots=True)
class _Content:
    """What a record says of a micrograph; the map names no heatmap yet."""

    micrograph: MicrographRecord | None = None
    prediction: PredictionRecord | None = None
    cam: CamRecord | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the file turned out to be, before anything is written."""

    outcome: Outcome
    reason: str | None
    source: SourceRecord
    stamp: FileStamp
    times: Milliseconds
    content: _Content = _Content()
    picture: bytes | None = None
    shown: tuple[NDArray[Any], ContrastLimits] | None = None
    """The pixels and how they are shown, where there is a picture to be kept for the page."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One file, where its outputs go, and with what it is examined."""

    path: Path
    place: Place
    classifier: Classifier
    request: Request


def examine(path: Path, classifier: Classifier, request: Request) -> Finding:
    """Examine one file and write its outputs; return what became of it.

    Nothing that a file contains raises, nor does a failing disk: both are findings. What raises is a fault of
    ours, or that the memory does not suffice.
    """
    started = time.perf_counter()
    try:
        job = _Job(path, _place_of(path, request.plan), classifier, request)
        seen = _look_at(job)
        _require_same(path, seen.stamp)
        record = _commit(seen, job)
        _keep_previews(seen, request)
    except _NoRecord as ended:
        return Finding(
            path=path,
            outcome=ended.outcome,
            reason=ended.reason,
            stamp=ended.stamp,
            milliseconds=_since(started),
        )
    return finding_of(path, seen.stamp, job.place, record, _since(started))


def _place_of(path: Path, plan: OutputPlan) -> Place:
    try:
        return plan.place(path)
    except NameTooLong as error:
        raise _NoRecord("refused", str(error), _stamp_or_vanished(path)) from None


def _look_at(job: _Job) -> _Seen:
    if job.request.quarantine is not None:
        return _quarantined(job, job.request.quarantine)
    started = time.perf_counter()
    renamed = _renamed(job)
    if renamed is not None:
        return renamed
    try:
        found = read_micrograph(job.path, snapshot_limit_mib=job.request.snapshot_limit_mib)
    except UnusableFile as error:
        return _unusable(job, error, Milliseconds(read=_since(started)))
    except OSError as error:
        return _not_read(job, error, Milliseconds(read=_since(started)))
    _require_no_gap(job, found.source)
    times, micrograph = Milliseconds(read=_since(started)), calibrated(found, job.request.instrument)
    return _known(job, micrograph.source, times) or _classified(job, micrograph, times)


def _classified(job: _Job, micrograph: Micrograph, times: Milliseconds) -> _Seen:
    manifest = job.classifier.bundle.manifest
    prediction = job.classifier.classify(micrograph)
    decision = decide(prediction, micrograph, manifest)
    started = time.perf_counter()
    picture = _picture(job, micrograph, prediction, decision)
    times = Milliseconds(
        read=times.read,
        preprocess=_rounded(prediction.preprocess_ms),
        infer=_rounded(prediction.infer_ms),
        heatmap=None if picture is None else _since(started),
    )
    found = micrograph.source
    content = _Content(
        micrograph_record(micrograph, prediction),
        prediction_record(prediction, decision, manifest.thresholds),
        cam_record(prediction),
    )
    source = source_record(job.path, found.stamp, found.sha256, found.fingerprint)
    shown = (micrograph.pixels, prediction.field.contrast)
    return _Seen("classified", None, source, found.stamp, times, content, picture, shown)


def _picture(job: _Job, micrograph: Micrograph, prediction: Prediction, decision: Decision) -> bytes | None:
    if not job.request.heatmap:
        return None
    manifest = job.classifier.bundle.manifest
    return draw_heatmap(
        micrograph,
        prediction,
        decision,
        model=f"{manifest.name} {manifest.version}",
        novelty_limit=manifest.thresholds.novelty if manifest.thresholds else None,
    )


def _renamed(job: _Job) -> _Seen | None:
    """Look first whether a file that is gone from its place has come here; a poisonous one may have, too."""
    if not is_worth_hashing(job.request.twins):
        return None
    started = time.perf_counter()
    try:
        found = identify(job.path, job.request.snapshot_limit_mib * 2**20)
    except OSError:
        # Whatever it is, reading says it better.
        return None
    return _known(job, found, Milliseconds(read=_since(started)))


def _known(job: _Job, found: SourceFile, times: Milliseconds) -> _Seen | None:
    """Return the answer that is known already for these bytes."""
    request = job.request
    wanted = Wanted(job.classifier.bundle.sha256, request.heatmap, request.heatmaps_since, request.instrument)
    answer = earlier_answer(found.sha256, request.twins, (request.plan, job.place), wanted)
    if answer is None:
        return None
    record = answer.record
    content = _Content(record.micrograph, record.prediction, record.cam)
    source = source_record(job.path, found.stamp, found.sha256, found.fingerprint)
    return _Seen(record.outcome, record.reason, source, found.stamp, times, content, answer.picture)


def _quarantined(job: _Job, reason: str) -> _Seen:
    started = time.perf_counter()
    try:
        found = identify(job.path, job.request.snapshot_limit_mib * 2**20)
    except OSError as error:
        return _not_read(job, error, Milliseconds(read=_since(started)))
    source = source_record(job.path, found.stamp, found.sha256, found.fingerprint)
    return _Seen("quarantined", reason, source, found.stamp, Milliseconds(read=_since(started)))


def _unusable(job: _Job, error: UnusableFile, times: Milliseconds) -> _Seen:
    reason = error.reason
    if isinstance(error, IncompleteFile):
        if not job.request.incomplete_is_final:
            raise _NoRecord("incomplete", reason, error.source.stamp if error.source else None)
        reason = f"incomplete: {reason}"
    outcome: Outcome = "not_an_image" if isinstance(error, NotAnImage) else "unreadable"
    if error.source is None:
        stamp = _stamp_or_vanished(job.path)
        return _Seen(outcome, reason, source_record(job.path, stamp, None, None), stamp, times)
    found = error.source
    _require_no_gap(job, found)
    source = source_record(job.path, found.stamp, found.sha256, found.fingerprint)
    return _Seen(outcome, reason, source, found.stamp, times)


def _require_no_gap(job: _Job, found: SourceFile) -> None:
    if found.has_gap and not job.request.gaps_are_final:
        raise _NoRecord("incomplete", "holds zeros that its writer may yet fill", found.stamp)


def _not_read(job: _Job, error: OSError, times: Milliseconds) -> _Seen:
    """Access denied, an input/output error, a lost share: these pass, so they are worth another try."""
    stamp = _stamp_or_vanished(job.path)
    if isinstance(error, SourceChanged) or is_held_by_writer(error):
        raise _NoRecord("incomplete", "is still being written", stamp)
    reason = f"cannot be opened: {error.strerror or error}"
    if not job.request.incomplete_is_final:
        raise _NoRecord("failed", reason, stamp)
    return _Seen("unreadable", reason, source_record(job.path, stamp, None, None), stamp, times)


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


def _commit(seen: _Seen, job: _Job) -> Sidecar:
    """Write the heatmap, or take an earlier one away, and then the sidecar: with it the file is done."""
    place, request, times = job.place, job.request, seen.times
    layer = request.layer
    try:
        if request.plan.output is not None:
            make_folders(place.sidecar.parent, layer)
        needed = len(seen.picture or b"") + _ROOM_FOR_RECORD
        require_room(place.sidecar.parent, needed, request.free_space_floor_mib)
        started = time.perf_counter()
        _withdraw_record_of_another_picture(seen, place, layer)
        if seen.picture is None:
            # Before the sidecar: after it, a crash would leave an earlier file's picture beside it for ever.
            remove_durably(place.heatmap, layer)
        else:
            write_durably(place.heatmap, seen.picture, layer)
            times = times.model_copy(update={"write": _since(started)})
        record = _record(replace(seen, times=times), job)
        write_record(place, record, layer)
    except OSError as error:
        reason = f"{UNWRITABLE} to {place.sidecar.parent}: {error.strerror or error}"
        raise _NoRecord("failed", reason, seen.stamp) from None
    return record


def _keep_previews(seen: _Seen, request: Request) -> None:
    """After the sidecar: whatever this comes to, the file is done."""
    content = seen.source.sha256 or seen.source.fingerprint
    if request.previews is not None and seen.shown is not None and content is not None:
        keep_drawn(request.previews, content, *seen.shown, request.free_space_floor_mib)


def _withdraw_record_of_another_picture(seen: _Seen, place: Place, layer: FileLayer) -> None:
    """Keep a crash between the two writes from leaving a new picture beside an old record that counts.

    An old record counts only when it is about this very state of the file, as after another model's answer.
    All others may stay until they are replaced: whoever finds them sees by size and time that they are old.
    """
    earlier = read_record(place.sidecar)
    if earlier is not None and is_about(earlier, seen.stamp):
        named = earlier.cam.heatmap_sha256 if earlier.cam else None
        if named != _hash_of(seen.picture):
            remove_durably(place.sidecar, layer)


def _record(seen: _Seen, job: _Job) -> Sidecar:
    bundle = job.classifier.bundle
    heatmap = None if seen.picture is None else as_text(job.place.heatmap.name)
    named = {"heatmap": heatmap, "heatmap_sha256": _hash_of(seen.picture)}
    content = seen.content
    return Sidecar(
        outcome=seen.outcome,
        reason=seen.reason,
        source=seen.source,
        micrograph=content.micrograph,
        prediction=content.prediction,
        cam=content.cam.model_copy(update=named) if content.cam else None,
        model=ModelRecord(name=bundle.manifest.name, version=bundle.manifest.version, sha256=bundle.sha256),
        agent=agent_record(job.request.settled, seen.times, job.request.instrument),
    )


def _hash_of(picture: bytes | None) -> str | None:
    return None if picture is None else sha256(picture).hexdigest()


def _since(started: float) -> float:
    return _rounded(1000 * (time.perf_counter() - started))


def _rounded(milliseconds: float) -> float:
    return round(milliseconds, 2)
