"""One `Service` after another: which configuration and which model the next one gets, and when it takes over.

A good edit, or another choice of model, ends the service once its file is finished, and starts the next; a bad
edit changes nothing and is said. When the next cannot start, the one before is started again; when a model
fails, the last good one answers. Counts go on from one service to the next.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from edge_agent.hosting.finding_log import FindingLog
from edge_agent.hosting.model_choice import ModelChoice, is_models_fault, same
from edge_agent.hosting.notify import Notifier
from edge_agent.hosting.onlooker import Nobody, Onlooker, is_sent_elsewhere, onlooker_for
from edge_agent.hosting.vital_signs import VitalSigns
from edge_agent.keeping.model_store import ModelStore
from edge_agent.logs import close_log_file, log_to_file
from edge_agent.processes.process_limits import lower_priority
from edge_agent.processes.storage_probe import in_time
from edge_agent.service import Service
from edge_agent.status import AlreadyRunning, Surroundings
from edge_agent.supervisor import ModelRefused, WorkerFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.archive import Archive
    from edge_agent.config import AgentConfig, EventsConfig, PageConfig
    from edge_agent.hosting.config_edits import ConfigEdits
    from edge_agent.keeping.model_store import Chosen
    from edge_agent.protocol import Ready
    from edge_agent.sidecar import Finding
    from edge_agent.status import AgentStatus

FINISH_SECONDS: Final = 10.0
"""A file in hand may keep a change waiting for so long; then it is examined again."""
AWAY_SECONDS: Final = 30.0
"""A model without a worker for so long has failed."""
_PATIENT_STARTS: Final = 3
"""So often a first start is tried whose failure is no fault of the model."""
_REST_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears what; see `Host`."""

    on_finding: Callable[[Finding], None] = lambda finding: None
    on_ready: Callable[[Ready], None] = lambda model: None
    say: Callable[[str], None] = lambda text: None
    on_state: Callable[[str], None] = lambda state: None
    on_page: Callable[[str, Path], None] = lambda word, state: None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a host is made of; tests put in their own."""

    models: Callable[[Path], ModelStore] = ModelStore
    onlooker: Callable[[PageConfig, EventsConfig], Onlooker] = onlooker_for
    notifier: Notifier = field(default_factory=Notifier)
    service: Callable[..., Service] = Service


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one service runs with, and since when its configuration is in force."""

    config: AgentConfig
    model: Chosen
    since: datetime


class Succession:
    """The services of one process. `run` belongs to one thread; `stop` and `look_now` to any."""

    def __init__(self, edits: ConfigEdits, ears: Ears, parts: Parts) -> None:
        self._edits = edits
        self._ears = ears
        self._parts = parts
        self._models = ModelChoice(parts.models(edits.first.state))
        self._signs = VitalSigns(edits.first.state, parts.notifier, ears.on_state)
        self._plan = _Plan(edits.first, self._models.choose(edits.first.model), datetime.now(UTC))
        self._before: _Plan | None = None
        """What ran before an edit that has not proved itself yet."""
        self._next: _Plan | None = None
        self._next_due = 0.0
        self._service: Service | None = None
        self._numbers: AgentStatus | None = None
        self._onlooker: Onlooker = Nobody()
        self._archive: Archive | None = None
        self._onlooker_is_for: tuple[PageConfig, EventsConfig] | None = None
        self._log_is_for: tuple[int, int] | None = None
        self._missing: tuple[Path, ...] = ()
        self._is_lowered = False
        self._log_of_findings = FindingLog()
        self._closing = threading.Lock()
        self._stop = threading.Event()
        self._greeted = threading.Event()
        self._is_ready = self._was_ever_ready = self._nothing_is_left = False
        self._starts_in_vain = 0

    def stop(self) -> None:
        """Ask for the end; returns at once."""
        self._stop.set()
        self._parts.notifier.stopping()
        if self._service is not None:
            self._service.stop()
        # Beside the service's own end: a browser that is connected must not add its time.
        threading.Thread(target=self._close_onlooker, name="closing", daemon=True).start()

    def look_now(self) -> None:
        """Have the configuration file judged soon."""
        self._edits.look_now()

    def run(self) -> None:
        """Run one service after another until `stop`; raises as `Host.run` does."""
        self._apply(self._plan.config)
        self._signs.enter("starting", "loading the model")
        try:
            plan: _Plan | None = self._plan
            while plan is not None and not self._stop.is_set():
                self._plan, self._next = plan, None
                plan = self._after(self._serve())
        finally:
            self._signs.enter("stopping")
            self._close_onlooker()
            _log.info("stopped", extra={"event": "stopped"})
            close_log_file()

    # --- one service

    def _serve(self) -> Exception | None:
        """Run one service to its end; return what ended it before it was ready, or took its model away."""
        plan = self._plan
        self._signs.beat()
        self._greeted.clear()
        self._is_ready = self._nothing_is_left = False
        self._apply(plan.config)
        service = self._service = self._parts.service(
            plan.config,
            on_finding=self._hear,
            on_ready=self._greet,
            on_status=self._note_numbers,
            on_archive=self._meet_archive,
            surroundings=self._surroundings,
            earlier=self._numbers,
            model=plan.model,
        )
        if self._stop.is_set():
            return None
        try:
            service.serve(self._tick)
        except (ModelRefused, WorkerFailed) as error:
            return error
        except (AlreadyRunning, OSError) as error:
            if self._greeted.is_set():
                raise
            return error
        finally:
            self._numbers = service.numbers
            self._note_ready()
        return None

    def _tick(self) -> None:
        """Twice a second in the main thread, for as long as a service runs."""
        service = self._service
        if service is None:
            return
        if service.desk_lives():
            self._signs.beat()
        self._note_ready()
        if self._next is not None:
            if time.monotonic() >= self._next_due:
                service.stop()
            return
        config = self._edits.edit(self._plan.config)
        if config is not None:
            self._take_up(config)
        elif self._models.is_outdated():
            self._take_model()

    def _greet(self, model: Ready) -> None:
        """In the desk's thread: the worker is there."""
        folders = ", ".join(str(folder) for folder in self._plan.config.folders)
        text = f"model {model.name} {model.version} watches {folders}"
        _log.info(text, extra={"event": "started", "model": f"{model.name} {model.version}"})
        self._ears.say(text)
        self._ears.on_ready(model)
        page = self._onlooker.word
        if page is not None and not self._was_ever_ready:
            self._ears.on_page(page, self._plan.config.state)
        self._greeted.set()

    def _note_ready(self) -> None:
        if self._is_ready or not self._greeted.is_set():
            return
        self._is_ready = self._was_ever_ready = True
        self._starts_in_vain = 0
        if self._before is not None and self._next is None:
            self._before = None
            self._tell(f"the configuration of {self._edits.file} is taken up", "config taken up")
        self._models.worked(self._plan.model)
        self._signs.enter("idle", "watching")

    def _hear(self, finding: Finding) -> None:
        self._log_of_findings.note(finding)
        self._ears.on_finding(finding)
        self._onlooker.note_finding(finding)

    def _note_numbers(self, numbers: AgentStatus) -> None:
        self._signs.note(numbers)
        self._onlooker.note_status(numbers)
        away_seconds = numbers.worker.away_seconds
        if away_seconds is not None and away_seconds > AWAY_SECONDS and self._next is None:
            self._give_model_up(numbers.worker.trouble or "no worker can be started")

    def _meet_archive(self, archive: Archive | None) -> None:
        self._archive = archive
        self._onlooker.meet(archive)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            config=self._edits.status(self._plan.since),
            page=self._onlooker.word,
            model_note=self._models.note,
        )

    # --- what comes next

    def _take_up(self, config: AgentConfig) -> None:
        """Change over to an edited configuration; where only page and events differ, without another service."""
        now, old = datetime.now(UTC), self._plan
        self._edits.refused = None
        page = old.config.page.model_copy(update={"pictures_mib": config.page.pictures_mib})
        if config.model_copy(update={"page": page, "events": old.config.events}) == old.config:
            self._plan = replace(old, config=config, since=now)
            self._apply(config)
            self._tell(f"the configuration of {self._edits.file} is taken up", "config taken up")
            return
        same_model = config.model == old.config.model
        # An edit before this one may not have proved itself yet: what ran before both is what is sure to run.
        self._before = self._before or old
        self._change_to(
            _Plan(config, old.model if same_model else self._models.choose(config.model), now),
            f"taking up the configuration of {self._edits.file}",
        )

    def _take_model(self) -> None:
        chosen = self._models.choose(self._plan.config.model)
        if not same(chosen, self._plan.model):
            self._change_to(replace(self._plan, model=chosen), f"changing to the model {chosen.title}")

    def _give_model_up(self, trouble: str) -> None:
        """Let another model answer when no worker can be started with this one any more."""
        if self._nothing_is_left or not is_models_fault(trouble):
            return
        other = self._models.instead_of(self._plan.model, trouble)
        self._nothing_is_left = other is None
        if other is not None:
            self._change_to(replace(self._plan, model=other), f"going on with {other.title}", at_once=True)

    def _change_to(self, plan: _Plan, what: str, *, at_once: bool = False) -> None:
        self._tell(what, "changing")
        self._signs.enter("reloading", what)
        self._next, self._next_due = plan, time.monotonic() + FINISH_SECONDS
        if self._service is None:
            return
        if self._is_ready and not at_once:
            self._service.finish()
        else:
            self._service.stop()

    def _after(self, error: Exception | None) -> _Plan | None:
        """Return what comes after a service; None is the end. Raises what leaves nothing to go on with."""
        if self._stop.is_set() or error is None or self._next is not None:
            return self._next
        if self._before is not None:
            plan, self._before = self._before, None
            self._edits.cannot_start(_key_of(error), error)
            return plan
        if not isinstance(error, ModelRefused | WorkerFailed):
            raise error
        other = self._models.instead_of(self._plan.model, error)
        if other is not None:
            self._signs.enter("reloading", f"going on with {other.title}")
            return replace(self._plan, model=other)
        self._starts_in_vain += 1
        if is_models_fault(error) or not (self._was_ever_ready or self._starts_in_vain < _PATIENT_STARTS):
            raise error
        _log.warning("no worker at the moment, files wait: %s", error)
        self._rest()
        return self._plan

    def _rest(self) -> None:
        until = time.monotonic() + _REST_SECONDS
        while time.monotonic() < until and not self._stop.wait(_TICK_SECONDS):
            self._signs.beat()

    # --- what is not the service's

    def _apply(self, config: AgentConfig) -> None:
        """Bring the process in line with a configuration: log, priority, page and events."""
        log = config.retention.log_files, config.retention.log_mib
        if self._log_is_for != log:
            self._log_is_for = log
            log_to_file(config.state, files=log[0], mib=log[1])
        if config.low_priority and not self._is_lowered:
            lower_priority()
        elif self._is_lowered and not config.low_priority:
            self._tell("the agent's own priority stays low until it is started anew", "changing")
        self._is_lowered = config.low_priority
        self._present(config.page, config.events)
        missing = tuple(folder for folder in config.folders if not in_time(folder.is_dir, otherwise=False))
        for folder in missing if missing != self._missing else ():
            self._ears.say(f"{folder}: is not there yet; watching for it to appear")
        self._missing = missing

    def _present(self, page: PageConfig, events: EventsConfig) -> None:
        before, self._onlooker_is_for = self._onlooker_is_for, (page, events)
        if before == (page, events):
            return
        if before is not None and before[1] == events and is_sent_elsewhere(events):
            with self._closing:
                self._onlooker.move(page)
            return
        self._close_onlooker()
        onlooker = self._parts.onlooker(page, events)
        onlooker.start()
        onlooker.meet(self._archive)
        self._onlooker = onlooker

    def _close_onlooker(self) -> None:
        with self._closing:
            onlooker, self._onlooker = self._onlooker, Nobody()
            onlooker.close()

    def _tell(self, text: str, event: str) -> None:
        _log.info(text, extra={"event": event})
        self._ears.say(text)


def _key_of(error: Exception) -> str | None:
    """The key to look at first when a service cannot start."""
    if isinstance(error, AlreadyRunning):
        return "folders"
    return "model" if isinstance(error, ModelRefused) else None
