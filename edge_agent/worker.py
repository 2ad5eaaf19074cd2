"""The worker program: takes paths, examines the files, answers with findings.

The only process with a parser and ONNX Runtime in it. It speaks `protocol` on its own stdin and stdout, holds
itself to its limits, loads the bundle once, and survives every exception but a lack of memory. Ctrl-C and
SIGTERM are its supervisor's business; it ends when that one says so, and dies at once when that one is gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Final, TextIO

from edge_agent.classifier import Classifier, prove
from edge_agent.examine import Request, examine
from edge_agent.files import FileLayer
from edge_agent.model_bundle import BundleRefused, open_bundle
from edge_agent.processes import child_pipes, process_limits
from edge_agent.protocol import (
    Job,
    Ready,
    Refused,
    UsualRanges,
    WorkerSettings,
    greeting_line,
    read_job,
    read_settings,
)
from edge_agent.sidecar import Finding, heatmaps_kept_since

_SHORTAGE_TEXTS: Final = ("bad_alloc", "bad allocation", "Failed to allocate memory")
"""What ONNX Runtime's own exceptions say when there is no memory."""


def main() -> None:
    """Run until the supervisor says goodbye, or is gone."""
    child_pipes.leave_signals_to_supervisor()
    jobs, answers = child_pipes.take_over_pipes()
    # A supervisor that is gone breaks the pipe; there is nobody left to tell.
    with contextlib.suppress(BrokenPipeError, process_limits.SupervisorGone):
        _serve(child_pipes.Inbox(jobs), answers)


def _serve(inbox: child_pipes.Inbox, answers: TextIO) -> None:
    lines = iter(inbox)
    settings = child_pipes.read_first(lines, read_settings)
    if settings is None:
        return
    inbox.depends = settings.supervisor_pid is not None
    _accept_limits(settings)
    classifier = _load(settings, answers)
    if classifier is None:
        return
    for job in child_pipes.read_each(lines, read_job, "job"):
        finding = _answer(job, classifier, settings)
        child_pipes.say(answers, finding.to_json())
        if finding.outcome == "crashed":
            return


def _accept_limits(settings: WorkerSettings) -> None:
    if settings.supervisor_pid is not None:
        process_limits.die_with(settings.supervisor_pid)
    process_limits.crash_quietly()
    process_limits.be_first_to_go()
    if settings.low_priority:
        process_limits.lower_priority()
    if settings.memory_limit_mib is not None:
        process_limits.limit_memory(settings.memory_limit_mib)


def _load(settings: WorkerSettings, answers: TextIO) -> Classifier | None:
    """Load the model and say so. It has answered once then: a model that cannot work blames no file."""
    try:
        classifier = Classifier(
            open_bundle(
                settings.model, manifest_sha256=settings.manifest_sha256, trusted_keys=settings.trusted_keys
            )
        )
        if settings.prove:
            prove(classifier)
    except (BundleRefused, MemoryError) as error:
        if _is_shortage(error):
            sys.exit(f"the model cannot be loaded: {_shortage(settings)}")
        child_pipes.say(answers, greeting_line(Refused(str(error))))
        return None
    bundle = classifier.bundle
    manifest, usual = bundle.manifest, UsualRanges(**bundle.manifest.usual.model_dump())
    ready = Ready(manifest.name, manifest.version, bundle.sha256, os.getpid(), usual, manifest.labels)
    child_pipes.say(answers, greeting_line(ready))
    return classifier


def _answer(job: Job, classifier: Classifier, settings: WorkerSettings) -> Finding:
    try:
        return examine(job.path, classifier, _request(job, settings))
    except Exception as error:
        with contextlib.suppress(MemoryError):
            traceback.print_exc(file=sys.stderr)
        if _is_shortage(error):
            # What failed half-way may hold on to memory, here or in a library: a fresh process is safer.
            return Finding(path=job.path, outcome="crashed", reason=_shortage(settings))
        # A fault of ours, not of the file: no sidecar claims otherwise, and the next file gets its turn.
        return Finding(path=job.path, outcome="failed", reason=f"unforeseen {type(error).__name__}: {error}")


def _request(job: Job, settings: WorkerSettings) -> Request:
    return Request(
        plan=settings.plan,
        heatmap=settings.heatmap,
        snapshot_limit_mib=settings.snapshot_limit_mib,
        free_space_floor_mib=settings.free_space_floor_mib,
        incomplete_is_final=job.incomplete_is_final,
        settled=job.settled,
        twins=job.twins,
        quarantine=job.quarantine,
        gaps_are_final=job.gaps_are_final,
        layer=FileLayer(settings.owner),
        instrument=settings.instrument,
        heatmaps_since=heatmaps_kept_since(settings.heatmap_days),
        previews=settings.previews,
    )


def _is_shortage(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(text in str(error) for text in _SHORTAGE_TEXTS)


def _shortage(settings: WorkerSettings) -> str:
    if settings.memory_limit_mib is None:
        return "the worker needed more memory than this PC has to give"
    return (
        f"the worker needed more memory than its limit of {settings.memory_limit_mib} MiB (memory_limit_mib)"
    )


if __name__ == "__main__":
    main()
