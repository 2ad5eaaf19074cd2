"""Starting among 100,000 finished files: quick, without examining one of them again, and then idle.

    python tests/faults/big_start.py        both cases in full, about five minutes; `--only CASE`, `--shard I/N`

The finished files are links to a few micrographs; their records are those that the real agent wrote for the
originals, with each file's own name, so that every check of a record holds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import psutil
from cases import (
    Case,
    Figures,
    Scale,
    answered,
    cases_main,
    missing,
    record_of,
    sample,
    save_all,
    seconds_until,
    sidecar,
)
from harness import Agent, Bar, heatmap_fault, read_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FOLDER_FILES: Final = 5_000
ORIGINALS: Final = 4
EXAMINED: Final = ("classified", "not_an_image", "unreadable", "quarantined", "failed", "crashed")


def finished(scale: Scale, folder: Path) -> Figures:
    """First without a journal (every record is taken over), then with it."""
    number = scale.pick(100_000, 1_000)
    scope = folder / "scope"
    paths = _finished_files(folder, scope, number)
    written = {path: sidecar(path).stat().st_mtime_ns for path in paths[:: max(1, number // 1_000)]}
    with Agent(scope, place=folder / "agent", scan_seconds=10.0, quiet_seconds=1.0) as agent:
        agent.start()
        rebuilt = seconds_until(agent, lambda: answered(agent, "taken_over") >= number, 500, "all taken over")
        agent.wait_for(lambda: agent.status()["waiting"] == 0, 30, "nothing waits")
        examined = _examined(agent)
        ended = agent.terminate()
        agent.start()
        ready = seconds_until(agent, lambda: _scanned(agent), 120, "ready and scanned")
        agent.wait_for(lambda: agent.status()["waiting"] == 0, 30, "nothing waits")
        time.sleep(scale.pick(15.0, 2.0))
        examined_again = _examined(agent)
        counts = agent.status()
        supervisor = sample(agent.supervisor_pid or 0)
    return {
        "finished_files": number,
        "finished_rebuilt_seconds": rebuilt,
        "finished_examined_without_journal": examined,
        "finished_end_seconds": ended,
        "finished_ready_and_scanned_seconds": ready,
        "finished_scan_seconds": counts["last_scan_seconds"] or 0.0,
        "finished_examined": examined_again + sum(_changed(written)),
        "finished_not_counted": number - sum(counts["done"].values()),
        "finished_supervisor_rss_mib": supervisor.rss_mib,
    }


def idle(scale: Scale, folder: Path) -> Figures:
    """Ten thousand finished files and nothing to do: soon after work on them, and after a start among them.

    For some minutes after a change its folder counts as active and each file in it is looked at in each scan.
    """
    number, idle_seconds = scale.pick(10_000, 1_000), scale.pick(60.0, 5.0)
    scope = folder / "scope"
    _finished_files(folder, scope, number)
    with Agent(scope, place=folder / "agent", scan_seconds=10.0, quiet_seconds=1.0) as agent:
        agent.start().wait_ready()
        agent.wait_for(lambda: answered(agent, "taken_over") >= number, 300, "all taken over")
        time.sleep(scale.pick(20.0, 3.0))
        active = _use_of_cpu(agent, idle_seconds)
        agent.terminate()
        agent.start().wait_ready()
        time.sleep(scale.pick(20.0, 3.0))
        cold = _use_of_cpu(agent, idle_seconds)
        scans = agent.status()["scans"]
    return {
        "idle_files": number,
        "idle_soon_after_work_supervisor_in_percent": active[0],
        "idle_cpu_percent": sum(cold),
        "idle_supervisor_percent": cold[0],
        "idle_worker_percent": sum(cold[1:]),
        "idle_scans": scans,
    }


def _use_of_cpu(agent: Agent, seconds: float) -> list[float]:
    """Percent of one core over some seconds: the supervisor, then its workers."""
    pids = (agent.supervisor_pid or 0, *agent.worker_pids())
    before, started = [_cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    return [100 * (_cpu_seconds(pid) - earlier) / passed for pid, earlier in zip(pids, before, strict=True)]


def _finished_files(folder: Path, scope: Path, number: int) -> list[Path]:
    """Let the agent finish a few files, then multiply them and their records."""
    originals = save_all(folder / "shelf", range(ORIGINALS))
    with Agent(folder / "shelf", place=folder / "first-agent") as agent:
        agent.start()
        agent.wait_for(ORIGINALS, 60)
        agent.terminate()
    records = [record_of(path) or {} for path in originals]
    paths = []
    for place in range(number):
        path = scope / f"day-{place // FOLDER_FILES:03}" / f"image-{place:06}.dm3"
        if place % FOLDER_FILES == 0:
            path.parent.mkdir(parents=True)
        _multiply(originals[place % ORIGINALS], records[place % ORIGINALS], path)
        paths.append(path)
    for path in paths[:: max(1, number // 50)]:
        record = read_record(sidecar(path))
        fault = "no valid record" if record is None else heatmap_fault(record, sidecar(path))
        if fault or missing([path]):
            raise AssertionError(f"{path}: made wrongly: {fault}")
    return paths


def _multiply(original: Path, record: dict[str, Any], path: Path) -> None:
    heatmap = path.with_name(path.name + ".heatmap.png")
    os.link(original, path)
    os.link(original.with_name(original.name + ".heatmap.png"), heatmap)
    own = {
        **record,
        "source": {**record["source"], "path": str(path)},
        "cam": {**record["cam"], "heatmap": heatmap.name},
    }
    sidecar(path).write_text(json.dumps(own))


def _scanned(agent: Agent) -> bool:
    status = agent.status()
    # An earlier run's numbers are not this one's.
    return status.get("pid") == agent.pid and status["model"] is not None and status["scans"] >= 1


def _examined(agent: Agent) -> int:
    counts = agent.status()["since_start"]
    return sum(counts.get(outcome, 0) for outcome in EXAMINED)


def _changed(written: dict[Path, int]) -> Sequence[bool]:
    return [sidecar(path).stat().st_mtime_ns != before for path, before in written.items()]


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


CASES: Final = (
    Case(
        "finished",
        finished,
        (
            Bar("finished_examined_without_journal"),
            Bar("finished_ready_and_scanned_seconds", 5),
            Bar("finished_examined"),
            Bar("finished_not_counted", 0, at_least=0),
            Bar("finished_supervisor_rss_mib", 80),
        ),
    ),
    Case("idle", idle, (Bar("idle_cpu_percent", 0.3),), quick=False),
)

if __name__ == "__main__":
    sys.exit(cases_main("a start among finished files, and doing nothing afterwards", CASES))
