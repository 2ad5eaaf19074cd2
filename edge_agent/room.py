"""Whether there is room to work: free disk space, and the PC's own load.

The PC belongs to the instrument. Only this module asks the operating system how much is left for others;
whoever asks it must be a thread that may wait, because a share that stalls makes `disk_usage` wait too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from edge_agent.processes.worker_process import living_pids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FRESH_SECONDS: Final = 1.0
_MIB: Final = 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Free space of the disk that holds `folder`, and whether it is below the floor."""

    folder: Path
    free_mib: int
    low: bool


class Room:
    """Say whether one may write to a folder, and whether to pause altogether.

    `worker_pid` returns the worker's process; what it and the page's processes use does not count as load.
    """

    def __init__(
        self,
        state: Path,
        *,
        floor_mib: int,
        yield_above_percent: float | None = None,
        worker_pid: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._floor_mib = floor_mib
        self._yield_above_percent = yield_above_percent
        self._load = ForeignLoad(worker_pid)
        self._clock = clock
        self._seen: dict[Path, tuple[float, FreeSpace | None]] = {}
        self.paused: str | None = None

    def free_space(self, folder: Path) -> FreeSpace | None:
        """Return the free space where `folder` is, or will be; None when that cannot be said."""
        seen = self._seen.get(folder)
        if seen is not None and self._clock() - seen[0] < _FRESH_SECONDS:
            return seen[1]
        if len(self._seen) > 1000:
            self._seen.clear()
        space = _free_space(folder, self._floor_mib)
        self._seen[folder] = (self._clock(), space)
        return space

    def shortage(self, space: FreeSpace | None) -> str | None:
        """Return why nothing may be written there, or None when there is room, or that cannot be said."""
        return None if space is None or not space.low else _shortage(space, self._floor_mib)

    def must_pause(self) -> bool:
        """Whether no file should be examined at the moment; `paused` then says why."""
        reason = self.shortage(self.free_space(self._state))
        if reason is None and self._yield_above_percent is not None:
            percent = self._load.percent()
            if percent > self._yield_above_percent:
                reason = (
                    f"other programs use {percent:.0f} % of the processors, more than "
                    f"{self._yield_above_percent:g} % (yield_above_cpu_percent)"
                )
        if reason is not None and self.paused is None:
            _log.warning("paused: %s", reason)
        self.paused = reason
        return reason is not None


class ForeignLoad:
    """What other programs use of all processors, in percent, over the last second or so."""

    def __init__(self, worker_pid: Callable[[], int | None]) -> None:
        self._worker_pid = worker_pid
        self._before: tuple[float, float, float] | None = None
        self._percent = 0.0

    def percent(self) -> float:
        """Return the mean between the last two samples, which are at least a second apart."""
        now = time.monotonic()
        if self._before is None:
            self._before = (now, _busy_seconds(), self._own_seconds())
        elif now - self._before[0] >= _FRESH_SECONDS:
            sample = (now, _busy_seconds(), self._own_seconds())
            elapsed, busy, own = (new - old for new, old in zip(sample, self._before, strict=True))
            share = max(0.0, busy - max(0.0, own)) / (elapsed * (os.cpu_count() or 1))
            self._percent, self._before = min(100.0, 100 * share), sample
        return self._percent

    def _own_seconds(self) -> float:
        own = sum(os.times()[:2])
        for pid in {self._worker_pid(), *living_pids()} - {None}:
            with contextlib.suppress(psutil.Error):
                own += sum(psutil.Process(pid).cpu_times()[:2])
        return own


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # guest time is contained in user time already
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


def _free_space(folder: Path, floor_mib: int) -> FreeSpace | None:
    for place in (folder, *folder.parents):
        try:
            free_mib = shutil.disk_usage(place).free // _MIB
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return FreeSpace(folder, free_mib, free_mib < floor_mib)
    return None


def _shortage(space: FreeSpace, floor_mib: int) -> str:
    return (
        f"the disk of {space.folder} has {space.free_mib} MiB free, less than the {floor_mib} MiB that are left to "
        "the instrument (free_space_floor_mib); nothing is written before there is room"
    )
