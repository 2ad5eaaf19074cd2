"""The one worker process: started, asked, limited, relieved, and replaced when it dies.

Parsers and ONNX Runtime live in the worker only, so that whatever a file does to them, this process goes on.
Only this module decides when a worker has to go and whether the file in its hand is to blame. At most one
worker has a file in its hand; a second one exists only while it loads its model to relieve the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edge_agent.output_places import NameTooLong, readable_path
from edge_agent.processes.job_object import JobLimits, WorkerJob, worker_job
from edge_agent.processes.patience import STORAGE_SILENT, SetAside, StorageStalls, Terms, answer_of
from edge_agent.processes.patience import Stopped as Stopped
from edge_agent.processes.storage_probe import StorageProbe, StorageSilent
from edge_agent.processes.worker_process import WORKER_COMMAND as WORKER_COMMAND
from edge_agent.processes.worker_process import WorkerEnded, WorkerProcess
from edge_agent.protocol import (
    Job,
    NotUnderstood,
    Ready,
    Refused,
    WorkerSettings,
    job_line,
    read_finding,
    read_greeting,
    settings_line,
)
from edge_agent.sidecar import Finding

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

SLOW_DISK_BYTES_PER_SECOND: Final = 20_000_000
"""So fast a disk or share is at least; larger files are given more time."""
PATIENCE_SECONDS: Final = 6.0
"""So long (and as long as its size explains) a file may keep others waiting."""
_POLL_SECONDS: Final = 0.25
_RESTART_PAUSES_SECONDS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_GRACE_SECONDS: Final = 1.5
_REFUSALS_BELIEVED: Final = 3
"""A model file that a scanner holds for a moment is no bad model."""
_MIB: Final = 1024 * 1024
_log = logging.getLogger(__name__)


class ModelRefused(Exception):
    """The worker could not use the model; the text is its reason."""


class WorkerFailed(Exception):
    """The worker did not start; the text says how it ended."""


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """The worker as a monitor sees it; `trouble` is why there is none, or why the last one ended.

    `files` were answered by the present worker; `deaths` were not our doing, unlike what is counted as
    `recycled` (relieved by a fresh one); `interrupted` counts findings of that outcome. `away_seconds` says for
    how long none could be started.
    """

    pid: int | None
    model: Ready | None
    starts: int
    deaths: int
    trouble: str | None
    files: int = 0
    recycled: int = 0
    interrupted: int = 0
    away_seconds: float | None = None


class Supervisor:
    """Ask one worker process about one file at a time.

    `start`, `ask`, `tend` and `close` belong to one thread, which must live as long as the worker: Linux ends
    a worker with the thread that started it. A worker is relieved after `recycle_files` files as soon as no
    others wait, at latest after twice as many; when the new one is refused, the old one goes on.

    `settings.prove` holds until a worker has proved its model, not for those that relieve it. With
    `another_model_answers`, a model that is refused while files wait ends `ask` instead of being waited for.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        wall_limit_seconds: float = 120.0,
        start_limit_seconds: float = 120.0,
        command: Sequence[str] = WORKER_COMMAND,
        patience_seconds: float = PATIENCE_SECONDS,
        recycle_files: int = 1000,
        storage_limit_seconds: float = 2.0,
        another_model_answers: bool = False,
    ) -> None:
        self._settings = replace(settings, supervisor_pid=settings.supervisor_pid or os.getpid())
        self._wall_limit_seconds = wall_limit_seconds
        self._start_limit_seconds = start_limit_seconds
        self._command = tuple(command)
        self._patience_seconds = patience_seconds
        self._recycle_files = self._relief_due = recycle_files
        self._another_model_answers = another_model_answers
        self._storage = StorageProbe(settings.plan.roots, storage_limit_seconds)
        self._job: WorkerJob | None = None
        self._worker: WorkerProcess | None = None
        self._loading: WorkerProcess | None = None
        self._unburied: list[WorkerProcess] = []
        self._uncleared: set[Path] = set()
        self._model: Ready | None = None
        self._starts = self._deaths = self._recycled = self._interrupted = 0
        self._failures_in_a_row = 0
        self._no_start_before = 0.0
        self._away_since: float | None = None
        self._trouble: str | None = None

    def start(self, stop: threading.Event) -> Ready:
        """Start the worker and wait until its model is loaded. Raises ModelRefused, WorkerFailed, Stopped."""
        self._launch()
        while not stop.is_set():
            if (model := self._greet(_POLL_SECONDS)) is not None:
                return model
        raise Stopped

    def ask(
        self,
        job: Job,
        stop: threading.Event,
        *,
        give_way: Callable[[], bool] = lambda: False,
        patience_seconds: float | None = None,
    ) -> Finding:
        """Return the worker's finding on one file, which may keep others waiting for `patience_seconds`.

        `crashed` when the worker died of it or took too long, `interrupted` when it was ended for something
        that is no fault of the file: others wait (`give_way`), the storage does not answer, the PC is too
        busy. Waits for as long as no worker can be started. Raises Stopped, after which only `close` helps,
        and ModelRefused where another model can answer.
        """
        try:
            terms = self._terms(job.path, give_way, patience_seconds, stop)
        except StorageSilent:
            return self._set_aside(job, STORAGE_SILENT)
        worker = self._living_worker(stop)
        worker.say(job_line(job))
        try:
            finding = read_finding(answer_of(worker, terms, stop), job)
        except WorkerEnded as error:
            return self._blame(job, str(error), stop)
        except NotUnderstood as error:
            return self._blame(job, f"the worker's answer makes no sense ({error})", stop)
        except SetAside as error:
            self._dismiss(f"{error}, at {readable_path(job.path)}")
            self._make_ready(job.path, stop, can_clear=not isinstance(error, StorageStalls))
            return self._set_aside(job, str(error))
        if finding.outcome == "crashed":
            return self._blame(job, finding.reason or "the worker gave up", stop)
        self._count_answer(worker, give_way)
        return finding

    def tend(self, stop: threading.Event) -> None:
        """See to the worker while no file waits: replace a dead one, let a loaded one relieve the old.

        Returns at once; to be called now and then (it saves the next file the wait).
        """
        self._look_after()
        if self._worker is None and not stop.is_set() and time.monotonic() >= self._no_start_before:
            self._launch()

    def close(self) -> None:
        """End the worker: it may finish the file in hand for a moment, then it is killed."""
        for worker, grace_seconds in ((self._loading, 0.0), (self._worker, _GRACE_SECONDS)):
            if worker is not None:
                worker.end(grace_seconds)
        self._worker = self._loading = None
        if self._job is not None:
            self._job.close()
            self._job = None

    def health(self) -> WorkerHealth:
        """Return what can be said at this moment; may be called from any thread."""
        worker, away_since = self._worker or self._loading, self._away_since
        alive = worker is not None and worker.exit_code() is None
        return WorkerHealth(
            pid=worker.pid if worker is not None and alive else None,
            model=self._model,
            starts=self._starts,
            deaths=self._deaths,
            trouble=self._trouble,
            files=worker.answered if worker is not None else 0,
            recycled=self._recycled,
            interrupted=self._interrupted,
            away_seconds=None if away_since is None else round(time.monotonic() - away_since, 1),
        )

    def _terms(
        self,
        path: Path,
        give_way: Callable[[], bool],
        patience_seconds: float | None,
        stop: threading.Event,
    ) -> Terms:
        """Return how long the file may take. Raises StorageSilent, Stopped."""
        outputs = self._folder_of_outputs(path)
        try:
            size_bytes = self._storage.size_of(path, stop)
            if outputs in self._uncleared:
                self._clear(outputs, stop)
        except StorageSilent:
            if stop.is_set():
                raise Stopped from None
            raise
        # No more than that is read of a file.
        read_bytes = min(size_bytes, self._settings.snapshot_limit_mib * _MIB)
        reading_seconds = read_bytes / SLOW_DISK_BYTES_PER_SECOND
        return Terms(
            (self._patience_seconds if patience_seconds is None else patience_seconds) + reading_seconds,
            self._wall_limit_seconds + reading_seconds,
            give_way,
            self._launch,
            lambda: self._storage.answers(path, outputs, stop),
        )

    def _folder_of_outputs(self, path: Path) -> Path:
        try:
            return self._settings.plan.place(path).sidecar.parent
        except NameTooLong:
            return path.parent

    def _living_worker(self, stop: threading.Event) -> WorkerProcess:
        while True:
            if stop.is_set():
                raise Stopped
            self._look_after()
            if self._worker is not None:
                return self._worker
            if stop.wait(max(0.0, self._no_start_before - time.monotonic())):
                raise Stopped
            try:
                self.start(stop)
            except (ModelRefused, WorkerFailed) as error:
                refused = isinstance(error, ModelRefused) and self._failures_in_a_row >= _REFUSALS_BELIEVED
                if refused and self._another_model_answers:
                    raise
                _log.warning("no worker at the moment, files wait: %s", error)

    def _look_after(self) -> None:
        """Notice what happened since the last file; never waits, and blames no file."""
        worker = self._worker
        trouble = None if worker is None else worker.trouble_while_idle()
        if worker is not None and trouble is not None:
            self._bury(trouble)
            if worker.answered == 0:
                self._back_off()
        if self._loading is not None:
            try:
                self._greet(0.0)
            except (ModelRefused, WorkerFailed):
                _log.warning("%s", self._trouble)

    def _launch(self) -> None:
        """Start a worker and send its settings; it loads its model meanwhile."""
        if self._loading is not None:
            return
        self._unburied = [worker for worker in self._unburied if worker.exit_code() is None]
        self._starts += 1
        settings = self._settings
        if self._job is None:
            self._job = worker_job(JobLimits(settings.memory_limit_mib, settings.low_priority))
        try:
            self._loading = WorkerProcess(self._command)
        except OSError as error:
            self._start_failed(f"the worker did not start: {error}")
            return
        if self._job is not None:
            self._job.take(self._loading.pid)
        self._loading.say(settings_line(settings))

    def _greet(self, seconds: float) -> Ready | None:
        """Hear whether the worker that loads is ready; None while it loads."""
        if self._loading is None:
            raise WorkerFailed(self._trouble)
        try:
            line = self._loading.hear(seconds)
            if line is None and self._loading.age_seconds() < self._start_limit_seconds:
                return None
            if line is None:
                raise WorkerEnded(f"it took longer than {self._start_limit_seconds:g} s and was ended")
            greeting = read_greeting(line)
        except (WorkerEnded, NotUnderstood) as error:
            raise WorkerFailed(self._start_failed(f"the worker did not start: {error}")) from None
        if isinstance(greeting, Refused):
            raise ModelRefused(self._start_failed(greeting.reason))
        self._hand_over(self._loading, greeting)
        return greeting

    def _hand_over(self, worker: WorkerProcess, greeting: Ready) -> None:
        if self._job is not None and greeting.pid not in (None, worker.pid):
            self._job.take(greeting.pid)
        worker.pid = greeting.pid or worker.pid
        old, self._worker, self._loading = self._worker, worker, None
        self._settings = replace(self._settings, prove=False)
        self._model, self._trouble, self._relief_due = greeting, None, self._recycle_files
        self._away_since = None
        _log.info("worker process %d is ready", worker.pid, extra={"event": "worker", "starts": self._starts})
        if old is not None:
            self._recycled += 1
            self._end(old, _GRACE_SECONDS)

    def _start_failed(self, trouble: str) -> str:
        if self._loading is not None:
            self._end(self._loading, 0.0)
            self._loading = None
        self._deaths += 1
        self._back_off()
        self._trouble = trouble
        if self._worker is None:
            self._away_since = self._away_since or time.monotonic()
        else:
            self._trouble = (
                f"the worker is due for relief, but goes on, because the next one fails: {trouble}"
            )
            self._relief_due = self._worker.answered + self._recycle_files
        return trouble

    def _back_off(self) -> None:
        """Wait longer and longer: for workers that cannot start, not for those that a file ended."""
        self._failures_in_a_row += 1
        pause = _RESTART_PAUSES_SECONDS[min(self._failures_in_a_row, len(_RESTART_PAUSES_SECONDS)) - 1]
        self._no_start_before = time.monotonic() + pause

    def _count_answer(self, worker: WorkerProcess, give_way: Callable[[], bool]) -> None:
        worker.answered += 1
        self._failures_in_a_row = 0
        over = worker.answered - self._relief_due
        if over >= self._recycle_files or (over >= 0 and not give_way()):
            self._launch()

    def _blame(self, job: Job, reason: str, stop: threading.Event) -> Finding:
        if stop.is_set():
            # Whoever ends us may have ended the worker first.
            raise Stopped
        self._bury(f"{reason}, at {readable_path(job.path)}")
        _log.warning("%s", self._trouble)
        self._make_ready(job.path, stop)
        return Finding(path=job.path, outcome="crashed", reason=reason)

    def _set_aside(self, job: Job, reason: str) -> Finding:
        self._interrupted += 1
        _log.info("%s: %s", readable_path(job.path), reason)
        return Finding(path=job.path, outcome="interrupted", reason=reason)

    def _make_ready(self, path: Path, stop: threading.Event, *, can_clear: bool = True) -> None:
        """After an end in the middle of a file: the next worker loads, what this one left is removed.

        What cannot be removed now is removed before the next file with outputs in the same folder.
        """
        if not stop.is_set():
            self._launch()
        outputs = self._folder_of_outputs(path)
        self._uncleared.add(outputs)
        with contextlib.suppress(StorageSilent):
            if can_clear:
                self._clear(outputs, stop)

    def _clear(self, outputs: Path, stop: threading.Event) -> None:
        if self._settings.owner:
            self._storage.clear(outputs, self._settings.owner, stop)
        self._uncleared.discard(outputs)

    def _bury(self, trouble: str) -> None:
        self._deaths += 1
        self._dismiss(trouble)

    def _dismiss(self, trouble: str) -> None:
        if self._worker is not None:
            self._end(self._worker, 0.0)
            self._worker = None
        self._trouble = trouble

    def _end(self, worker: WorkerProcess, grace_seconds: float) -> None:
        if not worker.end(grace_seconds):
            self._unburied.append(worker)
