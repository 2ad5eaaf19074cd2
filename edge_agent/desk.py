"""The desk: one quiet file after the other goes to the worker, and what became of it is settled here.

Answers for the order (healthy files first, suspects last and alone), for what is tried again and when, for
what counts against a file, and for not working at all while the disk is short or the PC is busy. Only this
module decides that a file is quarantined.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from edge_agent.journal import JOURNALED
from edge_agent.protocol import Job
from edge_agent.retries import RetryRule, UnwritableFolders
from edge_agent.sidecar import UNWRITABLE, Finding, readable_path
from edge_agent.status import MOST_TROUBLES, LastFile, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from edge_agent.clerk import Clerk
    from edge_agent.config import AgentConfig
    from edge_agent.journal import Journal
    from edge_agent.protocol import Ready
    from edge_agent.room import Room
    from edge_agent.supervisor import Supervisor
    from edge_agent.watcher import QuietFile, Watcher

ATTEMPTS: Final = 3
"""A file that the worker did not survive so often is quarantined until it or the model changes."""
_TICK_SECONDS: Final = 0.5
_SHORT_PATIENCE_SECONDS: Final = 2.0
_SUSPECTS_PATIENCE_SECONDS: Final = 1.0
_TROUBLE_SECONDS: Final = 60.0
_SHORT_DISK_SECONDS: Final = 10.0
_STALLED_PAUSE_SECONDS: Final = 1800.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Errand:
    """A quiet file, the watcher that wants to hear what became of it, and who knows its disk."""

    quiet: QuietFile
    watcher: Watcher
    clerk: Clerk


@dataclass(frozen=True, slots=True)
class DeskNumbers:
    """What the desk did since the start, and what it has trouble with."""

    counts: dict[str, int]
    decided: dict[str, int]
    last: LastFile | None
    troubles: tuple[Trouble, ...]
    incomplete: int
    stalled: int
    failing: int
    paused: str | None


class Desk:
    """Ask the worker about quiet files. `put` may be called from any thread, `run` belongs to one."""

    def __init__(
        self,
        config: AgentConfig,
        supervisor: Supervisor,
        journal: Journal,
        room: Room,
        watchers: Iterable[Watcher],
        *,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_ready: Callable[[Ready], None] = lambda model: None,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._journal = journal
        self._room = room
        self._on_finding = on_finding
        self._on_ready = on_ready
        self._watchers = tuple(watchers)
        # Newest first means little when many are queued already.
        self._tray = Tray(2 if config.newest_first else 16)
        # Whatever was in hand when the last run was killed is no culprit, but no first choice either.
        self._suspected = set(journal.open_attempts())
        self._suspects: deque[Errand] = deque()
        self._trouble_until = float("-inf")
        self._retry = RetryRule()
        self._unwritable = UnwritableFolders()
        self._troubles: dict[Path, Trouble] = {}
        self._counts: Counter[str] = Counter()
        self._decided: Counter[str] = Counter()
        self._last: LastFile | None = None

    def put(self, errand: Errand, stop: threading.Event) -> None:
        """Queue a file; waits while the queue is full, until `stop`."""
        while not stop.is_set() and not self._tray.put(errand, _TICK_SECONDS):
            pass

    def take_over(self, finding: Finding, watcher: Watcher) -> None:
        """Note an answer whose sidecar was there before us: the journal is new, or was stopped in between."""
        self._journal.record(finding, durable=False)
        self._count("taken_over")
        watcher.release(finding.path)

    def wants(self, path: Path) -> bool:
        """Whether a file is to be examined once more although its sidecar answers for it: it had stalled."""
        return self._is_stalled(path)

    def run(self, stop: threading.Event, finish: threading.Event | None = None) -> None:
        """Serve until `stop`, or until no file is in hand after `finish`.

        Raises ModelRefused, WorkerFailed and Stopped as `Supervisor.start` does.
        """
        finish = stop if finish is None else finish
        try:
            self._greet(self._supervisor.start(stop))
            while not (stop.is_set() or finish.is_set()):
                errand = self._next(stop)
                if errand is not None:
                    self._serve_one(errand, stop)
        finally:
            self._supervisor.close()

    def numbers(self) -> DeskNumbers:
        """Return what can be said at this moment; may be called from any thread."""
        troubles = list(self._troubles.values())
        return DeskNumbers(
            counts=dict(self._counts),
            decided=dict(self._decided),
            last=self._last,
            troubles=tuple(troubles[:MOST_TROUBLES]),
            incomplete=sum(trouble.outcome == "incomplete" for trouble in troubles),
            stalled=sum(trouble.outcome in ("incomplete", "stalled") for trouble in troubles),
            failing=sum(trouble.outcome not in ("incomplete", "stalled") for trouble in troubles),
            paused=self._room.paused,
        )

    def _greet(self, model: Ready) -> None:
        self._learn_model(model)
        self._on_ready(model)

    def _learn_model(self, model: Ready | None) -> None:
        """Look again at what another model was quarantined with."""
        if model is not None and model.sha256 != self._journal.model_sha256:
            self._journal.model_sha256 = model.sha256
            if self._journal.counts().get("quarantined"):
                for watcher in self._watchers:
                    watcher.look_again()

    def _next(self, stop: threading.Event) -> Errand | None:
        if self._room.must_pause():
            stop.wait(_TICK_SECONDS)
            return None
        # After trouble the newest first: what came together with a poisonous file may be of its kind.
        errand = self._tray.take(0.0 if self._suspects else _TICK_SECONDS, newest=self._is_in_trouble())
        if errand is None:
            if self._suspects and not self._others_wait():
                return self._suspects.popleft()
            self._supervisor.tend(stop)
            stop.wait(_TICK_SECONDS if self._suspects else 0.0)
            return None
        if errand.quiet.path in self._suspected:
            self._suspects.append(errand)
            return None
        return errand

    def _others_wait(self) -> bool:
        """Whether a file that nothing is held against could be examined now."""
        return len(self._tray) > 0 or any(watcher.busy() for watcher in self._watchers)

    def _serve_one(self, errand: Errand, stop: threading.Event) -> None:
        path = errand.quiet.path
        wait_seconds = self._unwritable.wait_seconds(path.parent, time.monotonic())
        if wait_seconds > 0:
            errand.watcher.rearm(path, wait_seconds)
            return
        short = self._room.shortage(errand.clerk.space)
        if short is not None:
            _log.warning("nothing is examined: %s", short)
            self._note_trouble(Finding(path=path, outcome="failed", reason=short))
            errand.watcher.rearm(path, _SHORT_DISK_SECONDS)
            return
        self._settle(self._examined(errand.quiet, stop), errand)

    def _examined(self, quiet: QuietFile, stop: threading.Event) -> Finding:
        """Ask the worker, or have the file quarantined when it has cost too many workers already."""
        deaths = self._journal.deaths(quiet.path, quiet.stamp, self._journal.model_sha256)
        if deaths >= ATTEMPTS:
            reason = f"the worker ended {deaths} times while it examined the file"
            return self._ask(Job(quiet.path, quiet.settled, quarantine=reason), quiet, stop)
        stalled = self._retry.incomplete_seconds(quiet.path, time.monotonic())
        job = Job(
            quiet.path,
            quiet.settled,
            gaps_are_final=self._retry.rested(quiet, time.monotonic()) >= self._config.gap_seconds,
            incomplete_is_final=stalled >= self._config.stalled_seconds and not self._is_stalled(quiet.path),
            twins=self._journal.twins(quiet.path, quiet.stamp),
        )
        finding = self._ask(job, quiet, stop)
        if finding.outcome != "crashed":
            return finding
        deaths = self._journal.count_death(quiet.path, quiet.stamp, self._journal.model_sha256)
        _log.warning("%s: the worker ended (%d of %d): %s", quiet.path, deaths, ATTEMPTS, finding.reason)
        if deaths < ATTEMPTS:
            return finding
        reason = f"the worker ended {deaths} times while it examined the file, at last: {finding.reason}"
        return self._ask(Job(quiet.path, quiet.settled, quarantine=reason), quiet, stop)

    def _ask(self, job: Job, quiet: QuietFile, stop: threading.Event) -> Finding:
        self._journal.open_attempt(quiet.path, quiet.stamp)
        try:
            finding = self._supervisor.ask(
                job, stop, give_way=self._others_wait, patience_seconds=self._patience_for(job.path)
            )
        finally:
            # Also when the agent is told to stop: that is nothing against the file.
            self._journal.close_attempt(quiet.path)
        self._learn_model(self._supervisor.health().model)
        return finding

    def _patience_for(self, path: Path) -> float | None:
        """Return for how long a file may keep others waiting; None is the supervisor's rule.

        Little for one that was a trouble before, and for all of them soon after one: several hanging files that
        came together must not add their times up.
        """
        if path in self._suspected:
            return _SUSPECTS_PATIENCE_SECONDS
        return _SHORT_PATIENCE_SECONDS if self._is_in_trouble() else None

    def _is_in_trouble(self) -> bool:
        return time.monotonic() < self._trouble_until

    def _is_stalled(self, path: Path) -> bool:
        trouble = self._troubles.get(path)
        return trouble is not None and trouble.outcome == "stalled"

    def _settle(self, finding: Finding, errand: Errand) -> None:
        """Note what became of a file: done, gone, to be tried again, or left alone until it changes."""
        self._count(finding.outcome)
        if finding.decision is not None:
            self._decided[finding.decision] += 1
        if finding.outcome in ("interrupted", "crashed", "quarantined"):
            self._trouble_until = time.monotonic() + _TROUBLE_SECONDS
        if finding.outcome in JOURNALED or finding.outcome == "vanished":
            self._finish(finding, errand)
        else:
            self._try_again(finding, errand)
        if not (finding.outcome == "incomplete" and self._is_stalled(finding.path)):
            self._on_finding(finding)

    def _try_again(self, finding: Finding, errand: Errand) -> None:
        path = finding.path
        if finding.outcome == "incomplete" and self._is_stalled(path):
            errand.watcher.rearm(path, _STALLED_PAUSE_SECONDS)
            return
        if finding.outcome in ("crashed", "interrupted"):
            self._suspected.add(path)
        self._note_trouble(finding)
        now = time.monotonic()
        pause = self._retry.pause_after(finding, now)
        if (finding.reason or "").startswith(UNWRITABLE):
            pause = self._unwritable.fail(path.parent, now)
        elif finding.outcome == "incomplete":
            left = self._config.gap_seconds - self._retry.rested(errand.quiet, now)
            pause = min(pause, left + _TICK_SECONDS) if left > 0 else pause
        errand.watcher.rearm(path, pause)

    def _finish(self, finding: Finding, errand: Errand) -> None:
        path = finding.path
        was_incomplete = self._retry.incomplete_seconds(path, time.monotonic()) > 0
        self._troubles.pop(path, None)
        self._suspected.discard(path)
        self._unwritable.succeed(path.parent)
        if finding.outcome == "vanished":
            if self._journal.of(path) is None:
                self._journal.forget([path])
        else:
            self._journal.record(finding)
            self._remember_last(finding)
            if finding.sidecar is not None:
                errand.watcher.expect_event(finding.sidecar)
        if finding.outcome == "unreadable" and was_incomplete and _was_incomplete(finding):
            # Its sidecar says so now; should it be completed without a trace in size and time, it is found.
            self._troubles[path] = _trouble(finding, "stalled")
            errand.watcher.rearm(path, _STALLED_PAUSE_SECONDS)
            return
        self._retry.forget(path)
        errand.watcher.release(path)

    def _remember_last(self, finding: Finding) -> None:
        self._last = LastFile(
            path=readable_path(finding.path),
            outcome=finding.outcome,
            label=finding.label,
            probability=finding.probability,
            decision=finding.decision,
            finished=datetime.now(UTC),
        )

    def _note_trouble(self, finding: Finding) -> None:
        self._troubles[finding.path] = _trouble(finding, finding.outcome)

    def _count(self, what: str) -> None:
        self._counts[what] += 1


class Tray:
    """What waits for the worker, in the order in which it was put; safe for several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._errands: deque[Errand] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._errands)

    def put(self, errand: Errand, seconds: float) -> bool:
        """Put one in, waiting so long for room; return whether there was any."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._errands) < self._most, seconds):
                return False
            self._errands.append(errand)
            self._changed.notify_all()
            return True

    def take(self, seconds: float, *, newest: bool = False) -> Errand | None:
        """Take the oldest (or the newest) out, waiting so long for one; None when there is none."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._errands), seconds):
                return None
            errand = self._errands.pop() if newest else self._errands.popleft()
            self._changed.notify_all()
            return errand


def _was_incomplete(finding: Finding) -> bool:
    return (finding.reason or "").startswith("incomplete")


def _trouble(finding: Finding, outcome: str) -> Trouble:
    return Trouble(path=readable_path(finding.path), outcome=outcome, reason=finding.reason)
