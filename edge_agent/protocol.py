"""What supervisor and worker say to each other: one JSON object a line, over the worker's stdin and stdout.

The supervisor first sends `WorkerSettings` and hears `Ready` or `Refused`; then each `Job` is answered by
exactly one `Finding`, which is the worker's last word when its outcome is `crashed`. An empty line asks the
worker to end when it is done; a pipe that ends without it means that the supervisor is gone. Nothing here
knows a parser or ONNX Runtime, so both processes can import it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from edge_agent.instrument_profile import NO_PROFILE, InstrumentProfile
from edge_agent.output_places import OutputPlan
from edge_agent.sidecar import Finding, FindingOutcome, Twin

if TYPE_CHECKING:
    from collections.abc import Callable

GOODBYE: Final = ""
_OUTCOMES: Final = frozenset(get_args(FindingOutcome))
_Message = TypeVar("_Message")


class NotUnderstood(ValueError):
    """A line that says nothing in this protocol; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the worker needs to know once. `model` is a name, a path, or None for the shipped default."""

    model: str | None
    plan: OutputPlan
    heatmap: bool = True
    snapshot_limit_mib: int = 512
    free_space_floor_mib: int = 0
    """The worker writes nothing that would leave less than this."""
    memory_limit_mib: int | None = None
    low_priority: bool = False
    owner: str = ""
    """Stands in the names of temporary files (see `files.FileLayer`)."""
    supervisor_pid: int | None = None
    """Who must be alive for the worker to live. None: nobody, it works off its stdin."""
    instrument: InstrumentProfile = NO_PROFILE
    heatmap_days: int | None = None
    """Older files need no heatmap; None: all do."""
    manifest_sha256: str | None = None
    """The bundle must be the one with this manifest; None takes any that is sound."""
    trusted_keys: tuple[str, ...] = ()
    """Where there are some, one of them must have signed a bundle that did not come with the installation."""
    prove: bool = False
    """Whether the golden cases are replayed before the worker says that it is ready."""
    previews: Path | None = None
    """The folder in which the page's pictures are kept; None: nobody looks at any."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to examine. With `incomplete_is_final` an incomplete file is recorded as unreadable.

    An answer to one of `twins` is taken over when the content is the same. With `quarantine` (a reason) the
    file is not parsed, only hashed and recorded as quarantined.
    """

    path: Path
    settled: datetime | None = None
    incomplete_is_final: bool = False
    twins: tuple[Twin, ...] = ()
    quarantine: str | None = None
    gaps_are_final: bool = True
    """Whether zeros in the file are content; else they may be parts that its writer has not come to."""


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class UsualRanges:
    """The bundle's `usual`: where nine in ten micrographs of the training's kind lie; None where not known."""

    confidence: Range | None = None
    novelty: Range | None = None
    contrast: Range | None = None
    pixel_size_nm: Range | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The bundle is verified, loaded and warm."""

    name: str
    version: str
    sha256: str
    pid: int | None = field(default=None, compare=False)
    """The worker itself: on Windows the process that was started can be a launcher (that of a venv)."""
    usual: UsualRanges = UsualRanges()
    labels: tuple[str, ...] = ()
    """The classes, in the manifest's order."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The bundle cannot be used; the worker ends after saying so."""

    reason: str


def settings_line(settings: WorkerSettings) -> str:
    """Return the first line that a worker is sent."""
    return _line(asdict(settings))


def read_settings(line: str) -> WorkerSettings:
    """Read what `settings_line` wrote. Raises NotUnderstood on anything else."""
    return _understood(_settings, line)


def job_line(job: Job) -> str:
    """Return one job as a line."""
    return _line(asdict(job))


def read_job(line: str) -> Job:
    """Read what `job_line` wrote. Raises NotUnderstood on anything else."""
    return _understood(_job, line)


def greeting_line(greeting: Ready | Refused) -> str:
    """Return the worker's answer to its settings as a line."""
    return _line({"ready": isinstance(greeting, Ready)} | asdict(greeting))


def read_greeting(line: str) -> Ready | Refused:
    """Read what `greeting_line` wrote. Raises NotUnderstood on anything else."""
    return _understood(_greeting, line)


def read_finding(line: str, job: Job) -> Finding:
    """Read the answer to `job`, a `Finding.to_json`. Raises NotUnderstood on anything else."""
    finding = _understood(Finding.from_json, line)
    if not _is_well_typed(finding):
        raise NotUnderstood(f"a value of another type, at {line[:80]!r}")
    if finding.outcome not in _OUTCOMES:
        raise NotUnderstood(f"there is no outcome {finding.outcome!r}")
    if finding.path != job.path:
        raise NotUnderstood(f"answered for {finding.path}")
    return finding


def _is_well_typed(finding: Finding) -> bool:
    """Journal and status take a finding as it is, so nothing else may come through here."""
    texts = (finding.reason, finding.label, finding.decision, finding.sha256, finding.fingerprint)
    numbers = (
        finding.probability,
        finding.milliseconds,
        finding.novelty,
        finding.contrast,
        finding.pixel_size_nm,
    )
    stamp = finding.stamp
    counts = () if stamp is None else (stamp.size_bytes, stamp.modified_ns, stamp.device, stamp.inode)
    return (
        isinstance(finding.outcome, str)
        and all(text is None or isinstance(text, str) for text in (*texts, finding.model_sha256))
        and all(isinstance(text, str) for text in finding.reasons)
        and all(n is None or _is_finite(n) for n in numbers)
        and finding.milliseconds is not None
        and isinstance(finding.inferred, bool)
        and all(isinstance(count, int) for count in counts)
    )


def _is_finite(number: object) -> bool:
    # Not math.isfinite, which raises for an integer that no float holds.
    return isinstance(number, int | float) and abs(number) <= sys.float_info.max


def _understood(read: Callable[[str], _Message], line: str) -> _Message:
    try:
        return read(line)
    # RecursionError: JSON that opens a thousand brackets.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotUnderstood(f"{type(error).__name__}: {error}, at {line[:80]!r}") from None


def _settings(line: str) -> WorkerSettings:
    values: dict[str, Any] = json.loads(line)
    plan = values.pop("plan")
    output = None if plan["output"] is None else Path(plan["output"])
    keys = tuple(values.pop("trusted_keys", ()))
    instrument = _instrument(values.pop("instrument"))
    plan = OutputPlan(output, tuple(Path(root) for root in plan["roots"]))
    previews = values.pop("previews", None)
    folder = None if previews is None else Path(previews)
    return WorkerSettings(plan=plan, instrument=instrument, trusted_keys=keys, previews=folder, **values)


def _instrument(values: dict[str, Any]) -> InstrumentProfile:
    sizes = tuple((float(magnification), float(size)) for magnification, size in values.pop("pixel_size_nm"))
    return InstrumentProfile(**values, pixel_size_nm=sizes)


def _job(line: str) -> Job:
    values = json.loads(line)
    settled = None if values["settled"] is None else datetime.fromisoformat(values["settled"])
    twins = tuple(Twin(Path(twin["path"]), twin["sha256"]) for twin in values["twins"])
    return Job(
        path=Path(values["path"]),
        settled=settled,
        incomplete_is_final=values["incomplete_is_final"],
        twins=twins,
        quarantine=values["quarantine"],
        gaps_are_final=values["gaps_are_final"],
    )


def _greeting(line: str) -> Ready | Refused:
    values = json.loads(line)
    if not values.pop("ready"):
        return Refused(**values)
    usual = {key: _range(ends) for key, ends in values.pop("usual", {}).items()}
    labels = tuple(values.pop("labels", ()))
    return Ready(usual=UsualRanges(**usual), labels=labels, **values)


def _range(ends: Any) -> Range | None:  # noqa: ANN401 - whatever JSON holds
    if ends is None:
        return None
    low, high = ends
    if not (_is_finite(low) and _is_finite(high)):
        raise ValueError(f"{ends} is no range")
    return low, high


def _line(values: dict[str, Any]) -> str:
    # ASCII with escapes: a name's undecodable bytes (lone surrogates) and its newlines both pass unharmed.
    return json.dumps(values, default=_as_text, allow_nan=False)


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
