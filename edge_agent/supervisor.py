"""The one worker process: started, asked, limited, replaced when it dies; and what is tried again when.

Parsers and ONNX Runtime live in the worker only, so that whatever a file does to them, this process goes on.
Only this module knows the worker as a process. There is never more than one, because a new one is started
only after the old one is reaped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.protocol import Job, Ready, Refused, WorkerSettings, job_line, read_greeting, settings_line
from edge_agent.sidecar import Finding, readable_path

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE_PARENT: Final = str(Path(__file__).resolve().parent.parent)
# Not `-m`: that would put the current folder, perhaps one full of acquisitions, in front of the import path.
WORKER_COMMAND: Final = (
    sys.executable,
    "-P",
    "-c",
    f"import sys; sys.path.append({_PACKAGE_PARENT!r}); from edge_agent.worker import main; main()",
)
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Environment that keeps NumPy's BLAS to one thread too: the PC is acquiring."""
ATTEMPTS: Final = 3
"""A file that the worker did not survive is tried so often, then left alone until it changes."""
_POLL_SECONDS: Final = 0.1
_RESTART_PAUSES_SECONDS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_RETRY_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_GRACE_SECONDS: Final = 1.5
_log = logging.getLogger(__name__)


class ModelRefused(Exception):
    """The worker could not use the model; the text is its reason."""


class WorkerFailed(Exception):
    """The worker did not start; the text says how it ended."""


class Stopped(Exception):
    """The stop event was set while waiting for the worker."""


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """The worker as a monitor sees it; `trouble` is why there is none, or why the last one ended."""

    pid: int | None
    model: Ready | None
    starts: int
    deaths: int
    trouble: str | None


class Supervisor:
    """Ask one worker process about one file at a time. `ask` and `start` belong to one thread."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        wall_limit_seconds: float = 120.0,
        start_limit_seconds: float = 120.0,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._settings = settings
        self._wall_limit_seconds = wall_limit_seconds
        self._start_limit_seconds = start_limit_seconds
        self._command = tuple(command)
        self._worker: _Worker | None = None
        self._model: Ready | None = None
        self._starts = self._deaths = self._failures_in_a_row = 0
        self._trouble: str | None = None

    def start(self, stop: threading.Event) -> Ready:
        """Start the worker and wait until its model is loaded. Raises ModelRefused, WorkerFailed, Stopped."""
        self._starts += 1
        self._worker = _Worker(self._command)
        try:
            self._worker.say(settings_line(self._settings))
            greeting = read_greeting(self._worker.hear(self._start_limit_seconds, stop))
        except (_WorkerEnded, ValueError, KeyError, TypeError) as error:
            self._bury(f"the worker did not start: {error}")
            raise WorkerFailed(self._trouble) from None
        if isinstance(greeting, Refused):
            self._bury(greeting.reason)
            raise ModelRefused(greeting.reason)
        self._model, self._trouble = greeting, None
        return greeting

    def ask(self, job: Job, stop: threading.Event) -> Finding:
        """Return the worker's finding on one file; `crashed` when it died of it or took too long.

        Waits for as long as no worker can be started. Raises Stopped.
        """
        worker = self._living_worker(stop)
        try:
            worker.say(job_line(job))
            finding = Finding.from_json(worker.hear(self._wall_limit_seconds, stop))
            if finding.path != job.path:
                raise ValueError(f"answered for {finding.path}")
        except _WorkerEnded as error:
            return self._crashed(job, str(error))
        except (ValueError, KeyError, TypeError) as error:
            return self._crashed(job, f"the worker's answer makes no sense ({error})")
        self._failures_in_a_row = 0
        return finding

    def close(self) -> None:
        """End the worker: it may finish the file in hand for a moment, then it is killed."""
        if self._worker is not None:
            self._worker.end(_GRACE_SECONDS)
            self._worker = None

    def health(self) -> WorkerHealth:
        """Return what can be said at this moment; may be called from any thread."""
        worker = self._worker
        pid = worker.pid if worker is not None and worker.exit_code() is None else None
        return WorkerHealth(pid, self._model, self._starts, self._deaths, self._trouble)

    def _living_worker(self, stop: threading.Event) -> _Worker:
        while True:
            if self._worker is not None and self._worker.exit_code() is not None:
                self._bury(f"the worker ended while idle: {self._worker.last_words()}")
            if self._worker is not None:
                return self._worker
            pause = _RESTART_PAUSES_SECONDS[min(self._failures_in_a_row, len(_RESTART_PAUSES_SECONDS)) - 1]
            if stop.wait(pause if self._failures_in_a_row else 0.0):
                raise Stopped
            try:
                self.start(stop)
            except (ModelRefused, WorkerFailed) as error:
                _log.warning("no worker at the moment, files wait: %s", error)

    def _crashed(self, job: Job, reason: str) -> Finding:
        self._bury(f"{reason}, at {readable_path(job.path)}")
        _log.warning("%s", self._trouble)
        return Finding(path=job.path, outcome="crashed", reason=reason)

    def _bury(self, trouble: str) -> None:
        if self._worker is not None:
            self._worker.end(0.0)
            self._worker = None
            self._deaths += 1
        self._failures_in_a_row += 1
        self._trouble = trouble


class RetryRule:
    """What is tried again, and when: incomplete and failed files for ever, deadly ones `ATTEMPTS` times."""

    def __init__(self) -> None:
        self._tries: dict[Path, int] = {}
        self._deaths: dict[Path, int] = {}
        self._first: dict[Path, float] = {}

    def pause_after(self, finding: Finding, now: float) -> float | None:
        """Return after how many seconds to try again, or None to leave the file alone until it changes."""
        tries = self._tries[finding.path] = self._tries.get(finding.path, 0) + 1
        if finding.outcome == "incomplete":
            self._first.setdefault(finding.path, now)
        if finding.outcome == "crashed":
            deaths = self._deaths[finding.path] = self._deaths.get(finding.path, 0) + 1
            if deaths >= ATTEMPTS:
                self.forget(finding.path)
                return None
        return _RETRY_PAUSES_SECONDS[min(tries, len(_RETRY_PAUSES_SECONDS)) - 1]

    def incomplete_seconds(self, path: Path, now: float) -> float:
        """Return for how long the file has been known as incomplete."""
        return now - self._first.get(path, now)

    def forget(self, path: Path) -> None:
        """Start afresh with a file that is done."""
        for counts in (self._tries, self._deaths, self._first):
            counts.pop(path, None)


class _WorkerEnded(Exception):
    """The worker died, or was given up; the text says how."""


class _Worker:
    """One process with its two reading threads, which end when its pipes do."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
            # Ctrl-C in the terminal is for us: the worker ends when we close its stdin.
            start_new_session=os.name == "posix",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=20)
        self._threads = [
            threading.Thread(target=self._read_answers, name="worker-answers", daemon=True),
            threading.Thread(target=self._read_errors, name="worker-errors", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def say(self, line: str) -> None:
        pipe = self._process.stdin
        try:
            if pipe is not None:
                pipe.write(line.encode("ascii") + b"\n")
                pipe.flush()
        except OSError:
            raise _WorkerEnded(f"the worker ended: {self.last_words()}") from None

    def hear(self, limit_seconds: float, stop: threading.Event) -> str:
        deadline = time.monotonic() + limit_seconds
        while True:
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if stop.is_set():
                    raise Stopped from None
                if time.monotonic() >= deadline:
                    raise _WorkerEnded(
                        f"the worker took longer than {limit_seconds:g} s and was ended"
                    ) from None
                continue
            if line is None:
                raise _WorkerEnded(f"the worker ended: {self.last_words()}")
            return line

    def last_words(self) -> str:
        """Say how the process ended, with the last line it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        code = self._process.poll()
        how = "it closed its output" if code is None else _ending(code)
        self._threads[1].join(timeout=1)
        return f"{how} ({self._errors[-1]})" if self._errors else how

    def end(self, grace_seconds: float) -> None:
        """Close its stdin, wait, kill, reap."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace_seconds)
        if self._process.poll() is None:
            self._process.kill()
            # One that hangs in the kernel on a dead share is not waited for: killed, it runs no more code.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
        for thread, pipe in zip(self._threads, (self._process.stdout, self._process.stderr), strict=True):
            thread.join(timeout=1)
            if pipe is not None and not thread.is_alive():
                pipe.close()

    def _read_answers(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line.decode("ascii", "replace"))
        self._lines.put(None)

    def _read_errors(self) -> None:
        if self._process.stderr is not None:
            for line in self._process.stderr:
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self._errors.append(text)
                    _log.debug("worker: %s", text)


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
