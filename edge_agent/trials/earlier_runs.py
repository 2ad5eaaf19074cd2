"""What a self-test that was killed left behind: found by its own records, and removed by the next one.

Each run notes in both of its folders where the other one lies and which process it is. Only this module knows that
record. Nothing is removed that carries no such record, and nothing of a run that still lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from edge_agent.files import write_durably
from edge_agent.status import is_running, running_status

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = "scopewatch-selftest-to-be-deleted"
RECORD: Final = "this-is-a-selftest.json"
_SAME_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its two folders, and the process it belongs to (process numbers are used again)."""

    folder: Path
    state: Path
    host: str
    pid: int
    started: float

    @property
    def lives(self) -> bool:
        """Whether its process still runs; of another PC nobody can say that from here."""
        if self.host != platform.node():
            return True
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) < _SAME_SECONDS)
        except psutil.Error:
            return False


def this_run(folder: Path, state: Path) -> Run:
    """Return the run of this process."""
    return Run(folder, state, platform.node(), os.getpid(), psutil.Process().create_time())


def note(run: Run) -> None:
    """Write the record into both folders. Raises OSError."""
    values = {
        "what": "a self-test of scopewatch; if it is gone, the next one removes this folder",
        "folder": str(run.folder),
        "state": str(run.state),
        "host": run.host,
        "pid": run.pid,
        "started": run.started,
    }
    for place in (run.folder, run.state):
        write_durably(place / RECORD, json.dumps(values).encode())


def killed_runs(folder: Path, state: Path) -> list[Run]:
    """Return the runs that left something in one of the two folders and are no more."""
    found = {(run.folder, run.state): run for place in (folder, state) for run in _runs_in(place)}
    return [run for run in found.values() if not run.lives]


def unclear_places(folder: Path, own: Path) -> list[Path]:
    """Return what is called like a self-test's folder and is neither of this run nor of one known to live here."""
    known = {run.folder for run in _runs_in(folder) if run.host == platform.node()}
    return [path for path in sorted(folder.glob(f"{NAME}-*")) if path != own and path not in known]


def _runs_in(place: Path) -> Iterator[Run]:
    for path in sorted(place.glob(f"{NAME}-*")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            run = _run_of(json.loads((path / RECORD).read_bytes()))
            # Only what is called as we call it, whatever stands in a file.
            if path in (run.folder, run.state) and run.folder.name == run.state.name == path.name:
                yield run


def _run_of(values: dict[str, Any]) -> Run:
    return Run(
        Path(values["folder"]),
        Path(values["state"]),
        str(values["host"]),
        int(values["pid"]),
        float(values["started"]),
    )


def end_agents(run: Run) -> int:
    """End the agents that a killed run left running (on Linux they die with it), and return how many."""
    ended = 0
    for lock in run.state.glob("*/agent.lock"):
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            numbers = running_status(lock.parent) if is_running(lock.parent) else None
            if numbers is not None:
                psutil.Process(numbers.pid).kill()
                ended += 1
    return ended
