"""The live agent: startup, main loop, shutdown, each spelled out.

Three threads with one job each. The watcher's finds quiet files and takes over what a sidecar already
answers; the desk's asks the worker about one file after the other; the main thread publishes the numbers and
listens for the end. Signals only set a flag. Nothing here waits for the network, a share or the worker
without a limit.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.journal import JOURNALED, Journal
from edge_agent.protocol import Job, WorkerSettings
from edge_agent.sidecar import Finding, OutputPlan, finding_on_record, readable_path
from edge_agent.status import (
    MOST_TROUBLES,
    AgentStatus,
    FolderStatus,
    LastFile,
    ModelStatus,
    Trouble,
    WorkerStatus,
    publish,
    sole_agent,
)
from edge_agent.supervisor import WORKER_COMMAND, RetryRule, Stopped, Supervisor
from edge_agent.watcher import BATCH, QuietFile, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType

    from edge_agent.change_events import Hints
    from edge_agent.config import AgentConfig
    from edge_agent.protocol import Ready

_TICK_SECONDS: Final = 0.1
_PUBLISH_SECONDS: Final = 1.0
_SHUTDOWN_SECONDS: Final = 2.7
_log = logging.getLogger(__name__)


def output_plan(config: AgentConfig) -> OutputPlan:
    """Return where the outputs of this configuration go."""
    return OutputPlan(config.output, config.folders)


class Service:
    """One live agent. `on_finding` and `on_ready` are called in the desk's thread, and should be quick."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_ready: Callable[[Ready], None] = lambda model: None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        hints: Callable[[], Hints] | None = None,
    ) -> None:
        self._config = config
        self._plan = output_plan(config)
        self._on_finding = on_finding
        self._on_ready = on_ready
        self._hints = hints
        settings = WorkerSettings(config.model, self._plan, config.heatmap, config.snapshot_limit_mib)
        self._supervisor = Supervisor(
            settings, wall_limit_seconds=config.wall_limit_seconds, command=worker_command
        )
        self._retry = RetryRule()
        self._queue: queue.Queue[QuietFile] = queue.Queue(maxsize=BATCH)
        self._stop = threading.Event()
        self._signalled = False
        self._failure: BaseException | None = None
        self._troubles: dict[Path, Trouble] = {}
        self._counts: Counter[str] = Counter()
        self._last: LastFile | None = None
        self._started = datetime.now(UTC)
        self._next_publish = 0.0

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it, or is ending it."""
        return self._signalled

    def stop(self) -> None:
        """Ask the agent to end; may be called from any thread, and before `run`."""
        self._stop.set()

    def run(self) -> None:
        """Run until `stop` or a signal; the files in hand are finished or left as they were.

        Raises AlreadyRunning, ModelRefused, WorkerFailed, OSError where the state folder cannot be used, and
        whatever ended one of the threads.
        """
        with sole_agent(self._config.state, self._config.folders), Journal(self._config.state) as journal:
            handlers = self._listen_for_signals()
            try:
                self._run_with(journal)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        if self._failure is not None:
            raise self._failure

    def _run_with(self, journal: Journal) -> None:
        config = self._config
        watcher = Watcher(
            config.folders,
            journal,
            include=config.include,
            quiet_seconds=config.quiet_seconds,
            scan_seconds=config.scan_seconds,
            hints=self._hints,
        )
        threads = self._startup(watcher, journal)
        try:
            self._main_loop(watcher, journal)
        finally:
            self._shutdown(threads)
            self._publish(watcher, journal)

    def _startup(self, watcher: Watcher, journal: Journal) -> list[threading.Thread]:
        work = {
            "watcher": lambda: self._watch(watcher, journal),
            "desk": lambda: self._ask_all(watcher, journal),
        }
        # Daemons: a thread that hangs in the kernel on a dead share must not keep the process alive.
        threads = [
            threading.Thread(target=self._guarded, args=(job,), name=name, daemon=True)
            for name, job in work.items()
        ]
        for thread in threads:
            thread.start()
        return threads

    def _main_loop(self, watcher: Watcher, journal: Journal) -> None:
        while not self._signalled and not self._stop.wait(_TICK_SECONDS):
            if time.monotonic() >= self._next_publish:
                self._next_publish = time.monotonic() + _PUBLISH_SECONDS
                journal.flush()
                self._publish(watcher, journal)

    def _shutdown(self, threads: list[threading.Thread]) -> None:
        self._stop.set()
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _listen_for_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        numbers = [
            getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
        ]
        return {number: signal.signal(number, self._take_signal) for number in numbers}

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        # Not the event: its lock may be held by the very code that the signal interrupts.
        self._signalled = True

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; its end by an exception ends the agent, loudly."""
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:
            if not self._stop.is_set():
                self._failure = error
        finally:
            self._stop.set()

    def _watch(self, watcher: Watcher, journal: Journal) -> None:
        for quiet in watcher.watch(self._stop):
            known = finding_on_record(quiet.path, quiet.stamp, self._plan)
            if known is not None:
                # Its sidecar was there before us: the journal is new, or we were stopped between the two.
                journal.record(known, durable=False)
                self._counts["taken_over"] += 1
                watcher.release(quiet.path)
            else:
                self._put(quiet)

    def _put(self, quiet: QuietFile) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(quiet, timeout=_TICK_SECONDS)
            except queue.Full:
                continue
            return

    def _ask_all(self, watcher: Watcher, journal: Journal) -> None:
        try:
            self._on_ready(self._supervisor.start(self._stop))
            while not self._stop.is_set():
                try:
                    quiet = self._queue.get(timeout=_TICK_SECONDS)
                except queue.Empty:
                    continue
                self._settle(self._supervisor.ask(self._job(quiet), self._stop), watcher, journal)
        finally:
            self._supervisor.close()

    def _job(self, quiet: QuietFile) -> Job:
        stalled = self._retry.incomplete_seconds(quiet.path, time.monotonic()) >= self._config.stalled_seconds
        return Job(quiet.path, quiet.settled, incomplete_is_final=stalled)

    def _settle(self, finding: Finding, watcher: Watcher, journal: Journal) -> None:
        """Note what became of a file: done, gone, to be tried again, or left alone until it changes."""
        self._counts[finding.outcome] += 1
        if finding.outcome in JOURNALED or finding.outcome == "vanished":
            self._finish(finding, journal)
            watcher.release(finding.path)
        else:
            pause = self._retry.pause_after(finding, time.monotonic())
            self._troubles[finding.path] = Trouble(
                path=readable_path(finding.path),
                outcome=finding.outcome,
                reason=finding.reason,
                given_up=pause is None,
            )
            if pause is None:
                watcher.park(finding.path)
            else:
                watcher.rearm(finding.path, pause)
        self._on_finding(finding)

    def _finish(self, finding: Finding, journal: Journal) -> None:
        self._retry.forget(finding.path)
        self._troubles.pop(finding.path, None)
        if finding.outcome == "vanished":
            return
        journal.record(finding)
        self._last = LastFile(
            path=readable_path(finding.path),
            outcome=finding.outcome,
            label=finding.label,
            probability=finding.probability,
            decision=finding.decision,
            finished=datetime.now(UTC),
        )

    def _publish(self, watcher: Watcher, journal: Journal) -> None:
        try:
            publish(self._config.state, self._status(watcher, journal))
        except OSError as error:
            # A full disk: the work goes on without the numbers.
            _log.debug("status cannot be published: %s", error)

    def _status(self, watcher: Watcher, journal: Journal) -> AgentStatus:
        watching, worker, done = watcher.health(), self._supervisor.health(), journal.counts()
        troubles = list(self._troubles.values())
        model = worker.model
        waiting = watching.waiting + watching.in_hand
        return AgentStatus(
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            updated=datetime.now(UTC),
            state=str(self._config.state),
            folders=tuple(
                FolderStatus(path=readable_path(folder.path), present=folder.present, events=folder.events)
                for folder in watching.folders
            ),
            output=None if self._config.output is None else readable_path(self._config.output),
            model=ModelStatus(name=model.name, version=model.version, sha256=model.sha256) if model else None,
            worker=WorkerStatus(
                pid=worker.pid, starts=worker.starts, deaths=worker.deaths, trouble=worker.trouble
            ),
            seen=sum(done.values()) + waiting,
            waiting=waiting,
            done=done,
            since_start=dict(self._counts),
            scans=watching.scans,
            last_scan_seconds=watching.last_scan_seconds,
            journal_rebuilt=journal.rebuilt,
            last=self._last,
            incomplete=sum(trouble.outcome == "incomplete" for trouble in troubles),
            failing=sum(trouble.outcome != "incomplete" for trouble in troubles),
            troubles=tuple(troubles[:MOST_TROUBLES]),
        )
