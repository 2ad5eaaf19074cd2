"""What the page knows of the running agent, and whether that agent is alive and ready, in words.

The agent's main loop speaks every two seconds; all that is judged here is what it said last, and how long ago.
Times are monotonic: a clock that is set makes nobody ill. Only this module knows what health means.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_agent.live_page.tallies import Tallies

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from edge_agent.announcing.outbox import ChannelNumbers
    from edge_agent.finding import Finding
    from edge_agent.status import AgentStatus, FolderStatus

SILENT_SECONDS: Final = 15.0
"""A main loop that said nothing for so long is not running any more."""
WORKER_LOST_SECONDS: Final = 300.0
"""A worker that could not be started for so long will not come back by itself."""
_PERIODS: Final = 2
_SCAN_SLACK_SECONDS: Final = 5.0
_NEVER_SCANNED: Final = "has not been scanned yet"


@dataclass(frozen=True, slots=True)
class Pulse:
    """One moment: the agent's last numbers, how old they are, and what they say over time.

    `scanned_ago_seconds` is by folder, missing where none was scanned.
    """

    status: AgentStatus | None
    silent_seconds: float
    scanned_ago_seconds: dict[str, float] = field(default_factory=dict)


class MonitorState:
    """What there is to show: the last numbers, the counts, and their pulse. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._status: AgentStatus | None = None
        self._heard = clock()
        self._scans: dict[str, tuple[datetime, float]] = {}
        self.tallies = Tallies()
        self.channels: Callable[[], tuple[ChannelNumbers, ...]] = tuple
        """What became of the events that are sent elsewhere."""

    def note_status(self, status: AgentStatus) -> None:
        """Take the numbers that the agent's main loop just said."""
        now = self._clock()
        with self._lock:
            self._status, self._heard = status, now
            scans = {}
            for folder in status.folders:
                if folder.scanned is not None:
                    seen = self._scans.get(folder.path)
                    scans[folder.path] = seen if seen and seen[0] == folder.scanned else (folder.scanned, now)
            self._scans = scans

    def note_finding(self, finding: Finding) -> None:
        """Count a finding."""
        self.tallies.note(finding)

    def pulse(self) -> Pulse:
        """Return what can be said at this moment."""
        now = self._clock()
        with self._lock:
            return Pulse(
                self._status,
                now - self._heard,
                {path: now - heard for path, (_, heard) in self._scans.items()},
            )


def not_alive(pulse: Pulse) -> list[str]:
    """Return why the agent is as good as dead, a reason each; empty while it lives."""
    reasons = []
    if pulse.silent_seconds > SILENT_SECONDS:
        reasons.append(f"the agent's main loop has said nothing for {pulse.silent_seconds:.0f} s")
    away_seconds = (pulse.status.worker.away_seconds if pulse.status else None) or 0.0
    if pulse.status is not None and away_seconds > WORKER_LOST_SECONDS:
        reasons.append(
            _with(f"no worker could be started for {away_seconds:.0f} s", pulse.status.worker.trouble)
        )
    return reasons


def not_ready(pulse: Pulse) -> list[str]:
    """Return why a file that is saved now would not be answered soon, a reason each; empty when it would."""
    status = pulse.status
    if status is None:
        return [*not_alive(pulse), "the agent is starting"]
    reasons = not_alive(pulse)
    if not status.folders:
        reasons.append("no folder is watched")
    if status.model is None:
        reasons.append(_with("the model is not loaded yet", status.worker.trouble))
    elif status.worker.pid is None:
        reasons.append(_with("there is no worker at the moment", status.worker.trouble))
    reasons += [reason for folder in status.folders if (reason := not_watched(folder, pulse)) is not None]
    reasons += [
        f"the disk of {disk.folder} is below its floor: {disk.free_mib} MiB are free"
        for disk in status.disks
        if disk.low
    ]
    if status.paused is not None:
        reasons.append(f"paused: {status.paused}")
    return reasons


def without_names(reasons: list[str], pulse: Pulse) -> list[str]:
    """Return reasons with numbers in place of folders, and without what a worker said: it may name files."""
    status = pulse.status
    folders = [] if status is None else [folder.path for folder in status.folders]
    disks = [] if status is None else [disk.folder for disk in status.disks]
    numbered = [(name, str(number)) for names in (folders, disks) for number, name in enumerate(names, 1)]
    kept = []
    for reason in reasons:
        # The longest first: one may begin like another.
        for name, number in sorted(numbered, key=lambda pair: len(pair[0]), reverse=True):
            reason = reason.replace(name, number)
        kept.append(reason.partition(": ")[0])
    return kept


def not_watched(folder: FolderStatus, pulse: Pulse) -> str | None:
    """Return why new files in a folder would not be found, or None when they would."""
    if not folder.present:
        return f"folder {folder.path} is missing"
    ago = pulse.scanned_ago_seconds.get(folder.path)
    if ago is None:
        return f"folder {folder.path} {_NEVER_SCANNED}"
    took = (pulse.status.last_scan_seconds if pulse.status else None) or 0.0
    latest = _PERIODS * ((folder.scan_period_seconds or 0.0) + took) + _SCAN_SLACK_SECONDS
    if ago > latest:
        period = folder.scan_period_seconds
        return f"folder {folder.path} was last scanned {ago:.0f} s ago, its period is {period:g} s"
    return None


def _with(what: str, trouble: str | None) -> str:
    return what if trouble is None else f"{what}: {trouble}"
