"""The live agent: startup, main loop, shutdown, each spelled out.

Every watched folder has a thread of its own that finds quiet files and takes over what a sidecar already
answers, and a clerk that looks after what is gone; so a share that stalls keeps nobody else. The desk's
thread asks the worker about one file after the other. The main thread publishes the numbers and listens for
the end. Signals only set a flag. Nothing in the main thread touches a watched folder.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.clerk import Clerk
from edge_agent.desk import Desk, Errand
from edge_agent.drift import Drift
from edge_agent.journal import Journal
from edge_agent.protocol import WorkerSettings
from edge_agent.room import Room
from edge_agent.sidecar import OutputPlan, finding_on_record, heatmaps_kept_since, readable_path
from edge_agent.status import (
    AgentStatus,
    DiskStatus,
    FolderStatus,
    ModelStatus,
    Surroundings,
    WorkerStatus,
    publish,
    sole_agent,
)
from edge_agent.supervisor import WORKER_COMMAND, Stopped, Supervisor
from edge_agent.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType

    from edge_agent.config import AgentConfig
    from edge_agent.protocol import Ready
    from edge_agent.room import FreeSpace
    from edge_agent.sidecar import Finding
    from edge_agent.watching.change_events import Hints
    from edge_agent.watching.watched_root import FolderHealth

_TICK_SECONDS: Final = 0.5
_PUBLISH_SECONDS: Final = 1.0
_PUBLISH_IDLE_SECONDS: Final = 2.0
_PUBLISH_UNCHANGED_SECONDS: Final = 5.0
"""Nobody needs the same numbers every second, and each time costs a file."""
_SHUTDOWN_SECONDS: Final = 2.5
_log = logging.getLogger(__name__)


def output_plan(config: AgentConfig) -> OutputPlan:
    """Return where the outputs of this configuration go."""
    return OutputPlan(config.output, config.folders)


def owner_of(state: Path) -> str:
    """Return eight hex digits that stand for this agent in the names of its temporary files."""
    return sha256(f"{platform.node()}\n{state.resolve()}".encode("utf-8", "surrogateescape")).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class _Agent:
    """What one run of the service is made of."""

    journal: Journal
    supervisor: Supervisor
    room: Room
    drift: Drift
    desk: Desk
    watchers: tuple[Watcher, ...]
    clerks: tuple[Clerk, ...]


class Service:
    """One live agent. `on_finding` and `on_ready` are called in the desk's thread, and should be quick.

    `on_status` is called in the main thread, every two seconds at the latest, with the numbers of that moment;
    `surroundings` says what whoever runs the service adds to them.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_ready: Callable[[Ready], None] = lambda model: None,
        on_status: Callable[[AgentStatus], None] = lambda numbers: None,
        surroundings: Callable[[], Surroundings] = Surroundings,
        worker_command: Sequence[str] = WORKER_COMMAND,
        hints: Callable[[], Hints] | None = None,
    ) -> None:
        self._config = config
        self._plan = output_plan(config)
        self._owner = owner_of(config.state)
        self._on_finding = on_finding
        self._on_ready = on_ready
        self._on_status = on_status
        self._surroundings = surroundings
        self._worker_command = worker_command
        self._hints = hints
        self._stop = threading.Event()
        self._signalled = False
        self._failure: BaseException | None = None
        self._started = datetime.now(UTC)

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
        agent = self._assemble(journal)
        threads = self._startup(agent)
        try:
            self._main_loop(agent)
        finally:
            self._shutdown(threads)
            agent.drift.save(at_once=True)
            self._publish(self._status(agent))

    def _assemble(self, journal: Journal) -> _Agent:
        config = self._config
        supervisor = Supervisor(
            WorkerSettings(
                model=config.model,
                plan=self._plan,
                heatmap=config.heatmap,
                snapshot_limit_mib=config.snapshot_limit_mib,
                free_space_floor_mib=config.free_space_floor_mib,
                memory_limit_mib=config.memory_limit_mib,
                low_priority=config.low_priority,
                owner=self._owner,
                supervisor_pid=os.getpid(),
                instrument=config.instrument.profile(),
                heatmap_days=config.retention.heatmap_days,
            ),
            wall_limit_seconds=config.wall_limit_seconds,
            recycle_files=config.recycle_files,
            command=self._worker_command,
        )
        room = Room(
            config.state,
            floor_mib=config.free_space_floor_mib,
            yield_above_percent=config.yield_above_cpu_percent,
            worker_pid=lambda: supervisor.health().pid,
        )
        drift = Drift(config.state)
        watchers = tuple(self._watcher_of(folder, journal) for folder in config.folders)
        desk = Desk(
            config,
            supervisor,
            journal,
            room,
            watchers,
            on_finding=partial(self._hear, drift, supervisor),
            on_ready=partial(self._greet, drift),
        )
        clerks = tuple(
            Clerk(
                folder,
                watcher,
                journal,
                self._plan,
                room,
                owner=self._owner,
                heatmap_days=config.retention.heatmap_days,
            )
            for watcher, folder in zip(watchers, config.folders, strict=True)
        )
        return _Agent(journal, supervisor, room, drift, desk, watchers, clerks)

    def _greet(self, drift: Drift, model: Ready) -> None:
        drift.meet(model)
        self._on_ready(model)

    def _hear(self, drift: Drift, supervisor: Supervisor, finding: Finding) -> None:
        model = supervisor.health().model
        if model is not None:
            drift.note(finding, model)
        self._on_finding(finding)

    def _watcher_of(self, folder: Path, journal: Journal) -> Watcher:
        config = self._config
        return Watcher(
            (folder,),
            journal,
            include=config.include,
            exclude=config.exclude,
            quiet_seconds=config.quiet_seconds,
            share_quiet_seconds=max(config.quiet_seconds, config.share_quiet_seconds),
            scan_seconds=config.scan_seconds,
            cold_scan_seconds=config.cold_scan_seconds,
            newest_first=config.newest_first,
            sidecars_beside=config.output is None,
            owner=self._owner,
            hints=self._hints,
        )

    def _startup(self, agent: _Agent) -> list[threading.Thread]:
        pairs = tuple(zip(agent.watchers, agent.clerks, strict=True))
        work: list[tuple[str, Callable[[], None]]] = [
            ("desk", partial(agent.desk.run, self._stop)),
            *(("watcher", partial(self._watch, watcher, clerk, agent)) for watcher, clerk in pairs),
            *(("clerk", partial(clerk.run, self._stop)) for clerk in agent.clerks),
        ]
        # Daemons: a thread that hangs in the kernel on a dead share must not keep the process alive.
        threads = [
            threading.Thread(target=self._guarded, args=(job,), name=name, daemon=True) for name, job in work
        ]
        for thread in threads:
            thread.start()
        return threads

    def _main_loop(self, agent: _Agent) -> None:
        said, next_look, next_word = None, 0.0, 0.0
        while not self._signalled and not self._stop.wait(_TICK_SECONDS):
            now = time.monotonic()
            if now < next_look:
                continue
            agent.journal.flush()
            agent.drift.save()
            numbers = self._status(agent)
            self._on_status(numbers)
            next_look = now + (_PUBLISH_SECONDS if numbers.waiting else _PUBLISH_IDLE_SECONDS)
            unchanged = numbers.model_copy(update={"updated": self._started, "oldest_waiting_seconds": None})
            if unchanged != said or now >= next_word:
                said, next_word = unchanged, now + _PUBLISH_UNCHANGED_SECONDS
                self._publish(numbers)

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

    def _watch(self, watcher: Watcher, clerk: Clerk, agent: _Agent) -> None:
        heatmap_days = self._config.retention.heatmap_days
        for quiet in watcher.watch(self._stop):
            model_sha256, since = agent.journal.model_sha256, heatmaps_kept_since(heatmap_days)
            known = finding_on_record(quiet.path, quiet.stamp, self._plan, model_sha256, since)
            if known is not None and not agent.desk.wants(quiet.path):
                agent.desk.take_over(known, watcher)
            else:
                agent.desk.put(Errand(quiet, watcher, clerk), self._stop)

    def _publish(self, numbers: AgentStatus) -> None:
        try:
            publish(self._config.state, numbers)
        except OSError as error:
            # A full disk: the work goes on without the numbers.
            _log.debug("status cannot be published: %s", error)

    def _status(self, agent: _Agent) -> AgentStatus:
        watching = [watcher.health() for watcher in agent.watchers]
        worker, desk, done = agent.supervisor.health(), agent.desk.numbers(), agent.journal.counts()
        waiting = sum(health.waiting + health.in_hand for health in watching)
        ages = [
            health.oldest_waiting_seconds for health in watching if health.oldest_waiting_seconds is not None
        ]
        scans = [health.last_scan_seconds for health in watching if health.last_scan_seconds is not None]
        model, around = worker.model, self._surroundings()
        spaces = (agent.room.free_space(self._config.state), *(clerk.space for clerk in agent.clerks))
        return AgentStatus(
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            updated=datetime.now(UTC),
            state=str(self._config.state),
            folders=tuple(_folder_status(folder) for health in watching for folder in health.folders),
            output=None if self._config.output is None else readable_path(self._config.output),
            disks=tuple(_disk_status(space) for space in spaces if space is not None),
            paused=desk.paused,
            model=ModelStatus(name=model.name, version=model.version, sha256=model.sha256) if model else None,
            worker=WorkerStatus(
                pid=worker.pid,
                starts=worker.starts,
                deaths=worker.deaths,
                recycled=worker.recycled,
                interrupted=worker.interrupted,
                trouble=worker.trouble,
            ),
            seen=sum(done.values()) + waiting,
            waiting=waiting,
            oldest_waiting_seconds=round(max(ages), 1) if ages else None,
            done=done,
            since_start=desk.counts,
            decided=desk.decided,
            incomplete=desk.incomplete,
            stalled=desk.stalled,
            failing=desk.failing,
            orphaned=sum(clerk.orphaned for clerk in agent.clerks),
            scans=sum(health.scans for health in watching),
            last_scan_seconds=max(scans) if scans else None,
            journal=agent.journal.state,
            last=desk.last,
            troubles=desk.troubles,
            drift=agent.drift.numbers(),
            instrument=self._config.instrument.name,
            config=around.config,
            page=around.page,
            model_note=around.model_note,
        )


def _folder_status(folder: FolderHealth) -> FolderStatus:
    return FolderStatus(
        path=readable_path(folder.path), present=folder.present, events=folder.events, share=folder.share
    )


def _disk_status(space: FreeSpace) -> DiskStatus:
    return DiskStatus(folder=readable_path(space.folder), free_mib=space.free_mib, low=space.low)
