"""The live agent: startup, main loop, shutdown, each spelled out.

Every watched folder has a thread of its own that finds quiet files and takes over what a sidecar already
answers, and a clerk that looks after what is gone; so a share that stalls keeps nobody else. The desk's
thread asks the worker about one file after the other. The main thread publishes the numbers; signals are heard
in a thread of their own and only set a flag. Nothing in the main thread touches a watched folder.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from edge_agent import __version__
from edge_agent.archive import Archive
from edge_agent.clerk import Clerk
from edge_agent.desk import Desk, Errand
from edge_agent.drift import Drift
from edge_agent.journal import Journal
from edge_agent.labelling.label_intake import LabelIntake
from edge_agent.preview_files import PICTURES_FOLDER
from edge_agent.protocol import WorkerSettings
from edge_agent.room import Room
from edge_agent.service_numbers import disk_status, folder_status, model_status, worker_status
from edge_agent.sidecar import OutputPlan, finding_on_record, heatmaps_kept_since, readable_path
from edge_agent.signals import Signals
from edge_agent.status import (
    AgentStatus,
    Surroundings,
    carried_on,
    hold_folders,
    hold_state,
    publish,
)
from edge_agent.supervisor import WORKER_COMMAND, Stopped, Supervisor
from edge_agent.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from edge_agent.keeping.model_store import Chosen
    from edge_agent.protocol import Ready
    from edge_agent.sidecar import Finding
    from edge_agent.watching.change_events import Hints

_TICK_SECONDS: Final = 0.5
_PUBLISH_SECONDS: Final = 1.0
_PUBLISH_IDLE_SECONDS: Final = 2.0
_PUBLISH_UNCHANGED_SECONDS: Final = 5.0
"""Nobody needs the same numbers every second, and each time costs a file."""
_SHUTDOWN_SECONDS: Final = 2.2
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
    intake: LabelIntake


class Service:
    """One live agent. `on_finding` and `on_ready` are called in the desk's thread, and should be quick.

    `on_status` is called in the main thread, every two seconds at the latest, with the numbers of that moment;
    `on_archive` with what this service keeps, before the first finding, and with None before that is closed.
    `surroundings` says what whoever runs the service adds to them, and `earlier` are the last numbers of the
    service before it in this process, whose counts go on. `model` is what the model store chose; without it, the
    configuration's. A model of the store that is refused ends `run`: another one can answer.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_ready: Callable[[Ready], None] = lambda model: None,
        on_status: Callable[[AgentStatus], None] = lambda numbers: None,
        on_archive: Callable[[Archive | None], None] = lambda archive: None,
        surroundings: Callable[[], Surroundings] = Surroundings,
        earlier: AgentStatus | None = None,
        model: Chosen | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        hints: Callable[[], Hints] | None = None,
    ) -> None:
        self._config = config
        self._plan = output_plan(config)
        self._owner = owner_of(config.state)
        self._on_finding = on_finding
        self._on_ready = on_ready
        self._on_status = on_status
        self._on_archive = on_archive
        self._surroundings = surroundings
        self._earlier = self._numbers = earlier
        self._model = model
        self._worker_command = worker_command
        self._hints = hints
        self._stop = threading.Event()
        self._finish = threading.Event()
        self._signalled = False
        self._failure: BaseException | None = None
        self._started = datetime.now(UTC)
        self._threads: dict[str, threading.Thread] = {}

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it, or is ending it."""
        return self._signalled

    @property
    def numbers(self) -> AgentStatus | None:
        """The numbers when they were last counted; at the end, those of the end."""
        return self._numbers

    def desk_lives(self) -> bool:
        """Whether the thread that asks the worker is there."""
        desk = self._threads.get("desk")
        return desk is not None and desk.is_alive()

    def stop(self) -> None:
        """Ask the agent to end; may be called from any thread, and before `run`."""
        self._stop.set()

    def finish(self) -> None:
        """Ask the agent to end once the file in hand is finished; may be called from any thread."""
        self._finish.set()

    def run(self) -> None:
        """Run until `stop`, `finish` or a signal; the files in hand are finished or left as they were.

        Raises AlreadyRunning, ModelRefused, WorkerFailed, OSError where the state folder cannot be used, and
        whatever ended one of the threads.
        """
        with Signals(self._take_signal), hold_state(self._config.state):
            self.serve()

    def serve(self, tick: Callable[[], None] = lambda: None) -> None:
        """Run in a process that holds the state folder and hears signals already; raises as `run` does.

        `tick` is called in this thread, twice a second.
        """
        with hold_folders(self._config.folders), Journal(self._config.state) as journal:
            self._run_with(journal, tick)
        if self._failure is not None:
            raise self._failure

    def _run_with(self, journal: Journal, tick: Callable[[], None]) -> None:
        agent = self._assemble(journal)
        try:
            self._on_archive(self._archive(journal))
            self._startup(agent)
            self._main_loop(agent, tick)
        finally:
            self._shutdown()
            self._on_archive(None)
            agent.drift.save(at_once=True)
            self._publish(self._status(agent))

    def _assemble(self, journal: Journal) -> _Agent:
        config, chosen = self._config, self._model
        heatmap_days = config.retention.heatmap_days
        supervisor = Supervisor(
            self._worker_settings(),
            wall_limit_seconds=config.wall_limit_seconds,
            recycle_files=config.recycle_files,
            command=self._worker_command,
            another_model_answers=chosen is not None and chosen.in_store,
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
            Clerk(folder, watcher, journal, self._plan, room, owner=self._owner, heatmap_days=heatmap_days)
            for watcher, folder in zip(watchers, config.folders, strict=True)
        )
        intake = LabelIntake(journal, self._plan)
        return _Agent(journal, supervisor, room, drift, desk, watchers, clerks, intake)

    def _worker_settings(self) -> WorkerSettings:
        config, chosen = self._config, self._model
        return WorkerSettings(
            model=config.model if chosen is None else chosen.model,
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
            manifest_sha256=None if chosen is None else chosen.manifest_sha256,
            trusted_keys=config.trusted_keys,
            prove=True,
            previews=config.state / PICTURES_FOLDER
            if config.page.enabled and config.page.pictures_mib
            else None,
        )

    def _archive(self, journal: Journal) -> Archive:
        config = self._config
        return Archive(
            journal,
            self._plan,
            config.folders,
            config.state,
            self._owner,
            snapshot_limit_mib=config.snapshot_limit_mib,
            free_space_floor_mib=config.free_space_floor_mib,
            settings=self._worker_settings(),
            pictures_mib=config.page.pictures_mib,
        )

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

    def _startup(self, agent: _Agent) -> None:
        pairs = tuple(zip(agent.watchers, agent.clerks, strict=True))
        work: list[tuple[str, Callable[[], None]]] = [
            ("desk", partial(agent.desk.run, self._stop, self._finish)),
            *((f"watcher {n}", partial(self._watch, *pair, agent)) for n, pair in enumerate(pairs)),
            *((f"clerk {n}", partial(clerk.run, self._stop)) for n, clerk in enumerate(agent.clerks)),
        ]
        # Daemons: a thread that hangs in the kernel on a dead share must not keep the process alive.
        self._threads = {
            name: threading.Thread(target=self._guarded, args=(job,), name=name, daemon=True)
            for name, job in work
        }
        for thread in self._threads.values():
            thread.start()

    def _main_loop(self, agent: _Agent, tick: Callable[[], None]) -> None:
        said, next_look, next_word = None, 0.0, 0.0
        while not self._stop.wait(_TICK_SECONDS):
            tick()
            now = time.monotonic()
            if now < next_look:
                continue
            agent.journal.flush()
            agent.intake.retry()
            agent.drift.save()
            numbers = self._status(agent)
            self._on_status(numbers)
            next_look = now + (_PUBLISH_SECONDS if numbers.waiting else _PUBLISH_IDLE_SECONDS)
            unchanged = numbers.model_copy(update={"updated": self._started, "oldest_waiting_seconds": None})
            if unchanged != said or now >= next_word:
                said, next_word = unchanged, now + _PUBLISH_UNCHANGED_SECONDS
                self._publish(numbers)

    def _shutdown(self) -> None:
        self._stop.set()
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        for thread in (one for one in self._threads.values() if one.ident is not None):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _take_signal(self) -> None:
        self._signalled = True
        self._stop.set()

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
            agent.intake.take(quiet.path)
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
        numbers = AgentStatus(
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            updated=datetime.now(UTC),
            state=str(self._config.state),
            folders=tuple(folder_status(folder, health) for health in watching for folder in health.folders),
            output=None if self._config.output is None else readable_path(self._config.output),
            disks=tuple(disk_status(space) for space in spaces if space is not None),
            paused=desk.paused,
            model=model_status(model),
            worker=worker_status(worker),
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
        self._numbers = numbers if self._earlier is None else carried_on(numbers, self._earlier)
        return self._numbers
