"""The second look: how the present model answers micrographs that people labelled under earlier ones.

It runs the worker program once more, beside the agent's own worker and behind everything else: at low priority, a
file at a time, and only while no new file waits. What it writes goes to a folder of its own that is removed; no
sidecar, journal or label is touched. Micrographs that are gone, or hold other bytes now, are counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from edge_agent.output_places import NameTooLong, OutputPlan, readable_path
from edge_agent.page.flips import (
    LOOKS_FOLDER,
    LOOKS_NAME,
    Flips,
    Labelled,
    ModelName,
    read_flips,
    read_ids,
    read_labelled,
    write_flips,
)
from edge_agent.page.no_archive import NoArchive
from edge_agent.processes.job_object import JobLimits, worker_job
from edge_agent.processes.worker_process import WORKER_COMMAND, WorkerEnded, WorkerProcess
from edge_agent.protocol import (
    Job,
    NotUnderstood,
    Ready,
    Refused,
    job_line,
    read_finding,
    read_greeting,
    settings_line,
)
from edge_agent.sidecar import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.archive import Archive
    from edge_agent.finding import Finding
    from edge_agent.processes.job_object import WorkerJob
    from edge_agent.protocol import WorkerSettings

MOST_LOOKED_AT: Final = 500
"""The newest; at 50 ms a file that is half a minute of the processor."""
FILE_SECONDS: Final = 60.0
START_SECONDS: Final = 120.0
_MOST_DEATHS: Final = 3
_POLL_SECONDS: Final = 0.25
_log = logging.getLogger(__name__)


class _Ended(Exception):
    """The look ends before its end; the text says why."""


class SecondLook:
    """One archive's. `start`, `told` and `close` may be called from any thread; `told` waits for the local disk.

    `may_work` says whether no file waits at this moment and nobody else needs the PC.
    """

    def __init__(
        self,
        archive: Archive,
        may_work: Callable[[], bool],
        *,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._archive = archive
        self._may_work = may_work
        self._command = tuple(command)
        self._file = archive.state / LOOKS_NAME
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._now: Flips | None = None
        self._error: str | None = None

    def start(self) -> None:
        """Begin a look, unless one is running. Raises NoArchive where the service has no worker to copy."""
        settings = self._archive.settings
        if settings is None:
            raise NoArchive("the agent is starting or changing over")
        with self._lock:
            if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._now, self._error = None, None
            self._thread = threading.Thread(
                target=self._run, args=(settings,), name="page-second-look", daemon=True
            )
            self._thread.start()

    def told(self) -> dict[str, Any]:
        """Return how far the look is, or what the last one found, with the ids of its entries."""
        thread, flips = self._thread, self._now
        running = thread is not None and thread.is_alive()
        flips = flips or (None if running else next(iter(read_flips(self._file)), None)) or Flips()
        return {
            "running": running,
            "done": flips.done,
            "total": flips.total,
            "before": flips.before and flips.before.model_dump(),
            "after": flips.after and flips.after.model_dump(),
            "fixed": self._ids(flips.fixed),
            "broken": self._ids(flips.broken),
            "same": flips.same,
            "missing": flips.missing,
            "at": flips.at and flips.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "error": self._error,
        }

    def close(self) -> None:
        """Give a running look up; returns at once."""
        self._stop.set()

    def _ids(self, contents: tuple[str, ...]) -> list[int]:
        return self._archive.journal.look(lambda connection: read_ids(connection, contents), [])

    def _run(self, settings: WorkerSettings) -> None:
        try:
            with _Looker(self._archive, settings, self._command, self._stop) as looker:
                self._look(looker)
        except _Ended as error:
            self._error = str(error)
            _log.info("the second look ended early: %s", error)
        except Exception as error:
            self._error = f"it failed: {type(error).__name__}"
            _log.warning("the second look failed: %s: %s", type(error).__name__, error)
            _log.debug("the second look failed", exc_info=True)

    def _look(self, looker: _Looker) -> None:
        self._await_leave()
        after = looker.model()
        nothing: tuple[Labelled, ...] = ()
        wanted = self._archive.journal.look(
            lambda connection: read_labelled(connection, after.sha256, MOST_LOOKED_AT), nothing
        )
        before = _model_before(wanted, self._archive.plan)
        flips = self._now = Flips(total=len(wanted), before=before, after=after)
        for labelled in wanted:
            self._await_leave()
            flips = self._now = flips.with_answer(labelled, looker.label_of(labelled))
        flips = self._now = flips.model_copy(update={"at": datetime.now(UTC)})
        write_flips(self._file, flips)

    def _await_leave(self) -> None:
        while not self._may_work():
            if self._stop.wait(_POLL_SECONDS):
                break
        if self._stop.is_set():
            raise _Ended("the agent is ending or changing over")


class _Looker:
    """A worker of its own with the agent's model; leaves nothing behind. Belongs to one thread."""

    def __init__(
        self, archive: Archive, settings: WorkerSettings, command: tuple[str, ...], stop: threading.Event
    ) -> None:
        self._outputs = archive.state / LOOKS_FOLDER
        self._settings = replace(
            settings,
            plan=OutputPlan(self._outputs, archive.folders),
            heatmap=False,
            low_priority=True,
            supervisor_pid=os.getpid(),
            previews=None,
            prove=False,
        )
        self._command = command
        self._stop = stop
        self._process: WorkerProcess | None = None
        self._job: WorkerJob | None = None
        self._deaths = 0

    def __enter__(self) -> _Looker:
        self._clear()
        self._job = worker_job(JobLimits(self._settings.memory_limit_mib, low_priority=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._job is not None:
            self._job.close()
        self._clear()

    def model(self) -> ModelName:
        """Start the worker, if none is there, and return what answers. Raises _Ended."""
        try:
            self._process = WorkerProcess(self._command)
            if self._job is not None:
                self._job.take(self._process.pid)
            self._process.say(settings_line(self._settings))
            greeting = read_greeting(self._hear(self._process, START_SECONDS))
        except (OSError, WorkerEnded, NotUnderstood) as error:
            raise _Ended(f"the model cannot be loaded: {error}") from None
        if isinstance(greeting, Refused):
            raise _Ended(f"the model cannot be used: {greeting.reason}")
        return _name_of(greeting)

    def label_of(self, labelled: Labelled) -> str | None:
        """Return the answer to these very bytes; None where no file of the journal holds them. Raises _Ended."""
        for path in labelled.paths:
            finding = self._finding(path)
            self._clear()
            if finding is not None and labelled.content in (finding.sha256, finding.fingerprint):
                return finding.label
        return None

    def _finding(self, path: Path) -> Finding | None:
        job = Job(path, incomplete_is_final=True)
        if self._process is None:
            self.model()
        process = self._process
        if process is None:
            return None
        process.say(job_line(job))
        try:
            finding = read_finding(self._hear(process, FILE_SECONDS), job)
        except (WorkerEnded, NotUnderstood) as error:
            self._count_death(path, str(error))
            return None
        if finding.outcome == "crashed":
            self._count_death(path, finding.reason or "the worker gave up")
        return finding

    def _count_death(self, path: Path, why: str) -> None:
        _log.info("no second look at %s: %s", readable_path(path), why)
        self._end()
        self._deaths += 1
        if self._deaths >= _MOST_DEATHS:
            raise _Ended(f"the worker ended {self._deaths} times, at last: {why}")

    def _hear(self, process: WorkerProcess, seconds: float) -> str:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            line = process.hear(min(_POLL_SECONDS, left))
            if line is not None:
                return line
            if self._stop.is_set():
                raise _Ended("the agent is ending or changing over")
        raise WorkerEnded(f"it took longer than {seconds:g} s")

    def _end(self) -> None:
        if self._process is not None:
            self._process.end(0.0)
        self._process = None

    def _clear(self) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self._outputs)


def _name_of(model: Ready) -> ModelName:
    return ModelName(sha256=model.sha256, name=model.name, version=model.version)


def _model_before(wanted: Sequence[Labelled], plan: OutputPlan) -> ModelName | None:
    """Return the model that most of the labels were given under, with its name where a sidecar still has it."""
    counts: dict[str, int] = {}
    for labelled in wanted:
        counts[labelled.model_sha256] = counts.get(labelled.model_sha256, 0) + 1
    if not counts:
        return None
    most = max(counts, key=lambda sha256: counts[sha256])
    for path in (path for one in wanted if one.model_sha256 == most for path in one.paths[:1]):
        with contextlib.suppress(NameTooLong):
            record = read_record(plan.place(path).sidecar)
            if record is not None and record.model.sha256 == most:
                return ModelName(sha256=most, name=record.model.name, version=record.model.version)
    return ModelName(sha256=most)
