"""The archive of a running service: what it keeps, for whoever shows it or adds to it beside the work.

It lives as long as its service; the journal then is closed, and everything asked of it is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.journal import Journal
    from edge_agent.output_places import OutputPlan
    from edge_agent.protocol import WorkerSettings


@dataclass(frozen=True, slots=True)
class Archive:
    """The journal, where outputs go, which folders are watched, and where the state is kept.

    `owner` stands in the names of temporary files (see `files.FileLayer`). `settings` are the worker's,
    `pictures_mib` is how much the page's pictures may take.
    """

    journal: Journal
    plan: OutputPlan
    folders: tuple[Path, ...]
    state: Path
    owner: str
    snapshot_limit_mib: int = 512
    free_space_floor_mib: int = 0
    settings: WorkerSettings | None = None
    pictures_mib: int = 512
