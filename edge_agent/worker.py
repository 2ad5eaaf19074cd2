"""The worker program (`python -m edge_agent.worker`): takes paths, examines the files, answers with findings.

The only process with a parser and ONNX Runtime in it. It speaks `protocol` on its own stdin and stdout, loads
the bundle once, survives every exception, and ends when its stdin does, because then its supervisor is gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final, TextIO

from edge_agent.classifier import Classifier
from edge_agent.examine import Request, examine
from edge_agent.model_bundle import BundleRefused, open_bundle
from edge_agent.protocol import Job, Ready, Refused, WorkerSettings, greeting_line, read_job, read_settings
from edge_agent.sidecar import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_ORPHAN_SECONDS: Final = 10.0


def main() -> None:
    """Run until stdin ends."""
    _ignore_interrupts()
    jobs, answers = _take_over_pipes()
    # A supervisor that is gone breaks the pipe; there is nobody left to tell.
    with contextlib.suppress(BrokenPipeError):
        _serve(_lines_until_orphaned(jobs), answers)


def _serve(lines: Iterator[str], answers: TextIO) -> None:
    first = next(lines, None)
    if first is None:
        return
    settings = read_settings(first)
    try:
        classifier = Classifier(open_bundle(settings.model))
    except BundleRefused as error:
        _say(answers, greeting_line(Refused(str(error))))
        return
    bundle = classifier.bundle
    _say(answers, greeting_line(Ready(bundle.manifest.name, bundle.manifest.version, bundle.sha256)))
    for line in lines:
        _say(answers, _answer(read_job(line), classifier, settings).to_json())


def _answer(job: Job, classifier: Classifier, settings: WorkerSettings) -> Finding:
    try:
        return examine(job.path, classifier, _request(job, settings))
    except Exception as error:
        # A fault of ours, not of the file: no sidecar claims otherwise, and the next file gets its turn.
        traceback.print_exc(file=sys.stderr)
        return Finding(path=job.path, outcome="failed", reason=f"unforeseen {type(error).__name__}: {error}")


def _request(job: Job, settings: WorkerSettings) -> Request:
    return Request(
        settings.plan, settings.heatmap, settings.snapshot_limit_mib, job.incomplete_is_final, job.settled
    )


def _say(answers: TextIO, line: str) -> None:
    answers.write(line + "\n")
    answers.flush()


def _take_over_pipes() -> tuple[TextIO, TextIO]:
    """Keep stdin and stdout to ourselves: what a library prints goes to stderr, what it reads is empty."""
    jobs = os.fdopen(os.dup(0), "r", encoding="ascii")
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout = sys.stderr
    return jobs, answers


def _lines_until_orphaned(jobs: TextIO) -> Iterator[str]:
    """Yield lines as they come; when stdin ends during an examination, do not outlive it for long."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in jobs:
            lines.put(line)
        lines.put(None)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while (line := lines.get()) is not None:
        yield line


def _ignore_interrupts() -> None:
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


if __name__ == "__main__":
    main()
