"""What watcher, supervisor and room say of themselves, as parts of the agent's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.sidecar import readable_path
from edge_agent.status import DiskStatus, FolderStatus, ModelStatus, WorkerStatus

if TYPE_CHECKING:
    from edge_agent.protocol import Ready
    from edge_agent.room import FreeSpace
    from edge_agent.supervisor import WorkerHealth
    from edge_agent.watcher import WatchHealth
    from edge_agent.watching.watched_root import FolderHealth


def folder_status(folder: FolderHealth, health: WatchHealth) -> FolderStatus:
    """Return a watched folder's part of the numbers."""
    return FolderStatus(
        path=readable_path(folder.path),
        present=folder.present,
        events=folder.events,
        share=folder.share,
        scanned=health.scanned,
        scan_period_seconds=round(health.scan_period_seconds, 1),
    )


def model_status(model: Ready | None) -> ModelStatus | None:
    """Return the model's part, None while there is none."""
    if model is None:
        return None
    return ModelStatus(name=model.name, version=model.version, sha256=model.sha256, labels=model.labels)


def disk_status(space: FreeSpace) -> DiskStatus:
    """Return a disk's part."""
    return DiskStatus(folder=readable_path(space.folder), free_mib=space.free_mib, low=space.low)


def worker_status(worker: WorkerHealth) -> WorkerStatus:
    """Return the worker's part."""
    return WorkerStatus(
        pid=worker.pid,
        starts=worker.starts,
        deaths=worker.deaths,
        recycled=worker.recycled,
        interrupted=worker.interrupted,
        trouble=worker.trouble,
        away_seconds=worker.away_seconds,
    )
