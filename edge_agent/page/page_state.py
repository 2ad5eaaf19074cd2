"""The state of the agent as the page says it: a word, one sentence, and the command that helps.

Several may hold at once; the most severe comes first. Made from the numbers of the agent's main loop alone. What
the page itself must judge, that there is no contact, is not among them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from edge_agent.live_page.pulse import SILENT_SECONDS, not_watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.live_page.pulse import Pulse
    from edge_agent.status import AgentStatus

State = Literal[
    "model_refused", "watcher_unhealthy", "disk_low", "backlog", "working", "idle", "starting"
]  # fmt: skip
BACKLOG_FILES: Final = 20
BACKLOG_SECONDS: Final = 60.0
WORKING_SECONDS: Final = 30.0
"""So long after a file the agent counts as working."""
AWAY_SECONDS: Final = 30.0
"""A worker that could not be started for so long is worth a word."""
_PACE_SECONDS: Final = 120.0
_SHORTEST_PACE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that holds. `words` are for the state bar, `detail` is one sentence without ages."""

    state: State
    words: str
    detail: str
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many files wait, how long the first has, and in how long all are answered, as far as can be said."""

    files: int
    oldest_seconds: float
    left_seconds: float | None


class Pace:
    """Files a second, over the last two minutes."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def note(self, now: float, status: AgentStatus) -> None:
        """Take the numbers of the moment `now` (monotonic)."""
        done = sum(status.since_start.values())
        if self._marks and done < self._marks[-1][1]:
            self._marks.clear()
        self._marks.append((now, done))
        while now - self._marks[0][0] > _PACE_SECONDS:
            self._marks.popleft()

    @property
    def files_per_second(self) -> float | None:
        """The pace, or None while it cannot be said."""
        if not self._marks:
            return None
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        if end - start < _SHORTEST_PACE_SECONDS or after == before:
            return None
        return (after - before) / (end - start)


def conditions_of(pulse: Pulse, now: datetime) -> tuple[Condition, ...]:
    """Return what holds, the most severe first; at least one."""
    if pulse.silent_seconds > SILENT_SECONDS:
        return (
            Condition(
                "watcher_unhealthy",
                "AGENT STUCK",
                "the agent's main loop has stopped; nothing new is found",
                "edge-agent doctor",
            ),
        )
    status = pulse.status
    if status is None:
        return (Condition("starting", "STARTING", "the agent is starting"),)
    found = (*_of_model(status), *_of_watching(status, pulse), *_of_disks(status), *_of_backlog(status))
    return found or (_of_work(status, pulse, now),)


def backlog_of(status: AgentStatus, pace: Pace) -> Backlog | None:
    """Return what waits, or None where nothing does."""
    if not status.waiting:
        return None
    speed = pace.files_per_second
    left = None if speed is None else round(status.waiting / speed, 0)
    return Backlog(status.waiting, status.oldest_waiting_seconds or 0.0, left)


def last_seconds(status: AgentStatus, now: datetime) -> float | None:
    """Return for how long nothing has been finished, None where nothing ever was."""
    return None if status.last is None else max(0.0, (now - status.last.finished).total_seconds())


class PageState:
    """What the page says of the agent, and since when. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._state: State = "starting"
        self._since = datetime.now(UTC)

    def note(self, now: float, status: AgentStatus) -> None:
        """Take the numbers of the moment `now` (monotonic)."""
        self._pace.note(now, status)

    def told(self, pulse: Pulse, now: datetime | None = None) -> dict[str, Any]:
        """Return it as the page is told (see `status` among the events)."""
        now = now or datetime.now(UTC)
        first, *others = conditions_of(pulse, now)
        if first.state != self._state:
            self._state, self._since = first.state, now
        backlog = None if pulse.status is None else backlog_of(pulse.status, self._pace)
        return {
            **_told(first),
            "since": _text(self._since),
            "last_seconds": None if pulse.status is None else last_seconds(pulse.status, now),
            "backlog": None
            if backlog is None
            else {
                "files": backlog.files,
                "oldest_seconds": round(backlog.oldest_seconds, 1),
                "eta_seconds": backlog.left_seconds,
            },
            "also": [_told(other) for other in others],
        }


def is_news(told: dict[str, Any], before: dict[str, Any] | None) -> bool:
    """Whether something changed but for ages, which the page counts itself."""
    return before is None or _without_ages(told) != _without_ages(before)


def _without_ages(told: dict[str, Any]) -> dict[str, Any]:
    backlog = told["backlog"] and {"files": told["backlog"]["files"]}
    return {**told, "last_seconds": None, "backlog": backlog}


def _told(condition: Condition) -> dict[str, Any]:
    return {
        "state": condition.state,
        "words": condition.words,
        "detail": condition.detail,
        "command": condition.command,
    }


def _of_model(status: AgentStatus) -> Iterator[Condition]:
    trouble = status.worker.trouble
    if status.model is None and trouble is not None:
        yield Condition(
            "model_refused", "MODEL REFUSED", f"no file is answered: {trouble}", "edge-agent models list"
        )
    elif status.model_note is not None:
        yield Condition("model_refused", "MODEL REFUSED", status.model_note, "edge-agent models list")
    elif (status.worker.away_seconds or 0.0) > AWAY_SECONDS:
        why = trouble or "no worker can be started"
        yield Condition("model_refused", "NO ANSWERS", f"no file is answered: {why}", "edge-agent doctor")


def _of_watching(status: AgentStatus, pulse: Pulse) -> Iterator[Condition]:
    reasons = [reason for folder in status.folders if (reason := _why_unwatched(folder.path, pulse))]
    if not status.folders:
        reasons = ["no folder is watched"]
    if reasons:
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        yield Condition("watcher_unhealthy", "NOT WATCHING", f"{reasons[0]}{more}", "edge-agent doctor")


def _why_unwatched(path: str, pulse: Pulse) -> str | None:
    """A folder that is being looked over for the first time is not ill; a missing or late one is."""
    status = pulse.status
    folder = next(f for f in status.folders if f.path == path) if status is not None else None
    if folder is None or (folder.present and path not in pulse.scanned_ago_seconds):
        return None
    if not folder.present:
        return f"{path} is missing"
    return None if not_watched(folder, pulse) is None else f"{path} has not been looked over for too long"


def _of_disks(status: AgentStatus) -> Iterator[Condition]:
    low = [disk for disk in status.disks if disk.low]
    if low:
        places = ", ".join(f"{disk.folder} ({disk.free_mib} MiB free)" for disk in low)
        yield Condition(
            "disk_low", "DISK LOW", f"nothing is written to {places}; files wait", "edge-agent doctor"
        )


def _of_backlog(status: AgentStatus) -> Iterator[Condition]:
    oldest_seconds = status.oldest_waiting_seconds or 0.0
    if status.waiting > BACKLOG_FILES or (status.waiting and oldest_seconds > BACKLOG_SECONDS):
        paused = f"; paused: {status.paused}" if status.paused is not None else ""
        word = "file waits" if status.waiting == 1 else "files wait"
        yield Condition("backlog", "BACKLOG", f"{status.waiting} {word}{paused}")


def _of_work(status: AgentStatus, pulse: Pulse, now: datetime) -> Condition:
    if status.model is None:
        return Condition("starting", "STARTING", "the model is being loaded")
    if any(folder.present and folder.path not in pulse.scanned_ago_seconds for folder in status.folders):
        return Condition("starting", "STARTING", "the folders are being looked over for the first time")
    if status.paused is not None:
        return Condition("idle", "PAUSED", f"paused: {status.paused}")
    since = last_seconds(status, now)
    if status.waiting or (since is not None and since < WORKING_SECONDS):
        return Condition("working", "WORKING", "files are being answered")
    return Condition("idle", "IDLE", "no file is waiting")


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
