"""Numbers of an agent that is well, and findings, for the tests of who hears them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from edge_agent.finding import Finding, Milliseconds
from edge_agent.status import (
    AgentStatus,
    ConfigStatus,
    DiskStatus,
    DriftStatus,
    FolderStatus,
    ModelStatus,
    WorkerStatus,
)

START = datetime(2026, 5, 4, 12, tzinfo=UTC)
MODEL = ModelStatus(name="particle-shape", version="1.2", sha256="ef" * 32)
WORKER = WorkerStatus(pid=7, starts=3, deaths=2, recycled=1, interrupted=4, trouble=None)
FOLDER = FolderStatus(
    path="/data/scope", present=True, events="on", share=False, scanned=START, scan_period_seconds=10.0
)
DISK = DiskStatus(folder="/data/scope", free_mib=2048, low=False)
CONFIG = ConfigStatus(file="/etc/scopewatch.toml", since=START, refused=None)


def drift(quantity: str, day: int, left: bool | None) -> DriftStatus:
    return DriftStatus(
        quantity=quantity, day=date(2026, 5, day), files=25, mean=0.5, standard_deviation=0.1, below=20, above=0,
        usual=(0.6, 1.0), left=left,
    )  # fmt: skip


def numbers(**changes: object) -> AgentStatus:
    status = AgentStatus(
        version="0.6.0", pid=1, started=START, updated=START + timedelta(hours=1), state="/state",
        folders=(FOLDER,), output=None,
        disks=(DiskStatus(folder="/state", free_mib=4096, low=False), DISK),
        paused=None, model=MODEL, worker=WORKER, seen=12, waiting=3, oldest_waiting_seconds=2.5,
        done={"classified": 8, "unreadable": 1}, since_start={"classified": 8, "taken_over": 5},
        decided={"accept": 8}, incomplete=1, stalled=2, failing=0, orphaned=6, scans=42, last_scan_seconds=0.1,
        journal="kept", last=None, troubles=(), drift=(drift("novelty", 4, True), drift("novelty", 3, False)),
        instrument="Titan 1", config=CONFIG, page=None, model_note=None,
    )  # fmt: skip
    return status.model_copy(update=changes)


def finding(name: str = "session/a.dm3", **changes: object) -> Finding:
    values: dict[str, object] = {
        "path": Path("/data/scope") / name,
        "outcome": "classified",
        "label": "round",
        "probability": 0.97,
        "decision": "accept",
        "sha256": "ab" * 32,
        "model_sha256": MODEL.sha256,
        "stages": Milliseconds(read=10.0, preprocess=5.0, infer=70.0, heatmap=120.0, write=8.0),
        "settled": START,
        "finished": START + timedelta(seconds=0.4),
    }
    return Finding(**(values | changes))  # type: ignore[arg-type]
