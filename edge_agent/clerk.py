"""The clerk of one watched folder: what became of micrographs that are gone, and how full the disk is.

A micrograph that was moved or deleted leaves its sidecar behind. The clerk counts such orphans, and forgets
files of which nothing is left; it removes no more than heatmaps that are older than they are to be kept
(`edge-agent tidy` removes orphans, when asked). It has a thread of its own, because looking at a share may take
its time.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.files import remove_leftovers
from edge_agent.heatmap_ageing import HeatmapAgeing
from edge_agent.output_places import NameTooLong, OutputPlan
from edge_agent.shared_opening import system_path

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from edge_agent.journal import Journal
    from edge_agent.room import FreeSpace, Room
    from edge_agent.watcher import Watcher

_LOOK_SECONDS: Final = 2.0
_LOOK_AGAIN_LOOKS: Final = 8
"""Sidecars of orphans are looked at again this seldom while nothing changes."""
_LOOK_AGAIN_LOOKS_AT_MANY: Final = 300
_MANY: Final = 500
_FORGET_SECONDS: Final = 60.0
"""What is gone must stay gone so long before it is forgotten: a mount may lie over it for a moment."""


class Clerk:
    """Keep `orphaned` and `space` up to date; `run` is the thread's work."""

    def __init__(
        self,
        root: Path,
        watcher: Watcher,
        journal: Journal,
        plan: OutputPlan,
        room: Room,
        *,
        owner: str = "",
        heatmap_days: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._owner = owner
        self._watcher = watcher
        self._journal = journal
        self._plan = plan
        self._room = room
        self._outputs = plan.output or root
        self._before: dict[str, frozenset[str]] = {}
        self._looks = 0
        self._clock = clock
        self._missing: dict[Path, float] = {}
        self._ageing = None if heatmap_days is None else HeatmapAgeing(root, plan, heatmap_days, clock)
        self.orphaned = 0
        self.space: FreeSpace | None = None

    def run(self, stop: threading.Event) -> None:
        """Look every two seconds until `stop`."""
        self.clear_up()
        while True:
            self.look()
            if stop.wait(_LOOK_SECONDS):
                return

    def clear_up(self) -> None:
        """See to the files that the last run was killed over: what it left half-written, and those gone since."""
        for path in self._journal.open_attempts():
            if path.is_relative_to(self._root):
                with contextlib.suppress(NameTooLong):
                    remove_leftovers(self._plan.place(path).sidecar.parent, self._owner)
                if not _may_exist(path):
                    self._journal.close_attempt(path)

    def look(self) -> None:
        """Look once."""
        self.space = self._room.free_space(self._outputs)
        if not all(folder.present for folder in self._watcher.health().folders):
            # On a disk that is not mounted everything seems to be gone, the sidecars as well.
            return
        gone = self._watcher.gone()
        self._looks += 1
        again = _LOOK_AGAIN_LOOKS if self.orphaned <= _MANY else _LOOK_AGAIN_LOOKS_AT_MANY
        if gone != self._before or self._looks % again == 0:
            self._before = gone
            self.orphaned = self._count_orphans(gone)
        if self._ageing is not None:
            self._ageing.step()

    def _count_orphans(self, gone: dict[str, frozenset[str]]) -> int:
        orphaned, missing = 0, set()
        for folder, names in gone.items():
            for name in names:
                path = Path(folder, name)
                if self._has_sidecar(path):
                    orphaned += 1
                elif not _may_exist(path):
                    missing.add(path)
        self._forget(missing)
        return orphaned

    def _forget(self, missing: set[Path]) -> None:
        now = self._clock()
        self._missing = {path: self._missing.get(path, now) for path in missing}
        forgotten = [path for path, since in self._missing.items() if now - since >= _FORGET_SECONDS]
        if forgotten:
            self._journal.forget(forgotten)

    def _has_sidecar(self, path: Path) -> bool:
        try:
            return _may_exist(self._plan.place(path).sidecar)
        except NameTooLong:
            return False


def _may_exist(path: Path) -> bool:
    """Whether there is such a file, or the disk does not say: a share that fails proves nothing."""
    try:
        os.lstat(system_path(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
