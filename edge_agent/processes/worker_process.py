"""One worker as a process: its pipes, its threads, its end.

Only this module knows the worker as a process of the system. Nothing here waits without a limit: a worker
that is stopped, that reads nothing or that writes without end blocks threads of this module, never the caller.
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
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from edge_agent.protocol import GOODBYE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_PACKAGE_PARENT: Final = str(Path(__file__).resolve().parents[2])
# Not `-m`: that would put the current folder, perhaps one full of acquisitions, in front of the import path.
WORKER_COMMAND: Final = (
    sys.executable,
    "-P",
    "-c",
    f"import sys; sys.path.append({_PACKAGE_PARENT!r}); from edge_agent.worker import main; main()",
)
QUIET_LIBRARIES: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""Environment that keeps NumPy's BLAS to one thread (the PC is acquiring) and ONNX Runtime from reporting home."""
_LONGEST_LINE_BYTES: Final = 4 * 1024 * 1024
_MOST_UNHEARD_LINES: Final = 16
_REAP_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


_living: Final[weakref.WeakSet[WorkerProcess]] = weakref.WeakSet()
_living_lock: Final = threading.Lock()


def living_pids() -> tuple[int, ...]:
    """Return the processes of this kind that this process has started and that have not ended."""
    with _living_lock:
        started = tuple(_living)
    return tuple(process.pid for process in started if process.exit_code() is None)


class WorkerEnded(Exception):
    """The worker died, or was given up; the text says how."""


class WorkerProcess:
    """One process with the three threads of its pipes, which end when the pipes do.

    The thread that creates it must outlive it: on Linux the worker is killed when that thread ends.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self.answered = 0
        """How many files it has answered for; counted by the supervisor."""
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | QUIET_LIBRARIES,
            # Ctrl-C in the terminal is for us: the worker ends when we close its stdin.
            start_new_session=os.name == "posix",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._questions: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=20)
        work = {"ask": self._write_questions, "answers": self._read_answers, "errors": self._read_errors}
        self._threads = {
            name: threading.Thread(target=job, name=f"worker-{name}", daemon=True)
            for name, job in work.items()
        }
        for thread in self._threads.values():
            thread.start()
        self.pid = self._process.pid
        """That of a launcher, until the worker in it has told its own."""
        with _living_lock:
            _living.add(self)

    def exit_code(self) -> int | None:
        """Return how it ended, or None while it lives."""
        return self._process.poll()

    def age_seconds(self) -> float:
        """Return the time since its start."""
        return time.monotonic() - self._started

    def say(self, line: str) -> None:
        """Send a line. Never waits; that it could not be sent shows when nothing is heard but the end."""
        self._questions.put(line.encode("ascii") + b"\n")

    def hear(self, seconds: float) -> str | None:
        """Return the next line, or None when none came in so many seconds. Raises WorkerEnded."""
        try:
            line = self._answers.get(timeout=seconds) if seconds > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None
        if line is None:
            self._answers.put(None)
            raise WorkerEnded(f"the worker ended: {self.last_words()}")
        return line

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used so far."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def is_held_back(self, used_seconds: float, fair_seconds: float) -> bool:
        """Whether it was stopped, or wants the processor and got less than what is fair.

        Said on Linux only, where a process that waits for the processor can be told from one that sleeps.
        """
        if sys.platform != "linux":
            return False
        with contextlib.suppress(psutil.Error):
            status = psutil.Process(self.pid).status()
            wants = status == psutil.STATUS_RUNNING and used_seconds < fair_seconds
            return wants or status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return False

    def trouble_while_idle(self) -> str | None:
        """Say what is wrong with a worker that was asked nothing; None when all is well."""
        try:
            unasked = self.hear(0.0)
        except WorkerEnded:
            unasked = None
        if self.exit_code() is not None:
            return f"the worker ended while idle: {self.last_words()}"
        return None if unasked is None else f"the worker spoke without being asked: {unasked[:80]!r}"

    def last_words(self) -> str:
        """Say how the process ended, with the last line it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_REAP_SECONDS)
        code = self._process.poll()
        how = "it closed its output" if code is None else _ending(code)
        self._threads["errors"].join(timeout=_REAP_SECONDS)
        return f"{how} ({self._errors[-1]})" if self._errors else how

    def end(self, grace_seconds: float) -> bool:
        """Ask it to end, wait, kill, reap; return whether it is gone.

        One that hangs in the kernel on a dead share is not waited for: killed, it runs no more code.
        """
        self._questions.put(None)
        if grace_seconds > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_seconds)
        if self._process.poll() is None:
            self._kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_REAP_SECONDS)
        if self._process.poll() is None:
            return False
        pipes = {"ask": self._process.stdin, "answers": self._process.stdout, "errors": self._process.stderr}
        for name, pipe in pipes.items():
            self._threads[name].join(timeout=_REAP_SECONDS)
            if pipe is not None and not self._threads[name].is_alive():
                with contextlib.suppress(OSError):
                    pipe.close()
        return True

    def _kill(self) -> None:
        """Kill it with its children (`strace` and the like may stand in between): it leads its own group."""
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def _write_questions(self) -> None:
        pipe = self._process.stdin
        if pipe is None:
            return
        with contextlib.suppress(OSError):
            while (line := self._questions.get()) is not None:
                pipe.write(line)
                pipe.flush()
            pipe.write(GOODBYE.encode("ascii") + b"\n")
        with contextlib.suppress(OSError):
            pipe.close()

    def _read_answers(self) -> None:
        for line in _lines(self._process.stdout):
            # One that talks without being asked must not fill our memory; the first line gives it away.
            if self._answers.qsize() < _MOST_UNHEARD_LINES:
                self._answers.put(line.decode("ascii", "replace"))
        self._answers.put(None)

    def _read_errors(self) -> None:
        for line in _lines(self._process.stderr):
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._errors.append(text)
                _log.debug("worker: %s", text)


def _lines(pipe: IO[bytes] | None) -> Iterator[bytes]:
    """Yield lines until the pipe ends; of one without end, pieces."""
    while pipe is not None and (line := pipe.readline(_LONGEST_LINE_BYTES)):
        yield line


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
