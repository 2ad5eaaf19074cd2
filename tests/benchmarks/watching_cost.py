"""What watching costs beside finished files: scans of each kind, idle processor time, memory.

    python tests/benchmarks/watching_cost.py [--files 10000] [--folders 10] [--idle-seconds 30] [--place FOLDER]

Makes that many small finished files with sidecar and heatmap names beside them, a journal that knows them, and
a watcher with the system's events. Prints a table and asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

from edge_agent.files import stamp_of
from edge_agent.journal import Journal
from edge_agent.sidecar import Finding
from edge_agent.watcher import Watcher


def make_finished(top: Path, journal: Journal, files: int, folders: int) -> None:
    for number in range(files):
        folder = top / f"session-{number % folders:04}"
        folder.mkdir(exist_ok=True)
        path = folder / f"micrograph_{number:06}.dm3"
        path.write_bytes(b"1")
        path.with_name(path.name + ".json").touch()
        path.with_name(path.name + ".heatmap.png").touch()
        journal.record(Finding(path, "classified", stamp=stamp_of(path), sha256="0" * 64), durable=False)
    journal.flush()


def scan(watcher: Watcher) -> None:
    """Let the scan that is due run to its end."""
    scans = watcher._rota.scans
    while watcher._rota.scans == scans:
        watcher.step()


def measured(what: str, watcher: Watcher) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    scan(watcher)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{what:58} {wall * 1000:9.1f} ms {processor * 1000:9.1f} ms CPU")


def idle(what: str, watcher: Watcher, seconds: float) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=lambda: list(watcher.watch(stop)), daemon=True)
    thread.start()
    time.sleep(1.0)
    before, scans = time.process_time(), watcher.health().scans
    time.sleep(seconds)
    share = (time.process_time() - before) / seconds
    scans = watcher.health().scans - scans
    print(f"{what:58} {share * 100:9.3f} % of a core, {scans} scans in {seconds:.0f} s")
    stop.set()
    thread.join()
    watcher.step()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(top: Path, journal: Journal, idle_seconds: float) -> None:
    ahead = [0.0]
    watcher = Watcher([top], journal, sidecars_beside=True, clock=lambda: time.monotonic() + ahead[0])

    def later(seconds: float) -> None:
        ahead[0] += seconds

    print(f"{'memory before':58} {peak_mib():9.1f} MiB")
    measured("start: events, and a scan that looks at everything", watcher)
    later(10)
    measured("listed once more, because that listing was young", watcher)
    later(100)
    measured("warm, nothing happened", watcher)
    (top / "session-0000" / "new.dm3").write_bytes(b"1")
    later(100)
    measured("warm, one new file in one folder", watcher)
    (top / "session-0000" / "new.dm3").unlink()
    later(10)
    scan(watcher)
    later(100)
    scan(watcher)
    watcher._events_were_lost()
    later(100)
    measured("after an overflow", watcher)
    print(f"{'memory at the most':58} {peak_mib():9.1f} MiB")
    idle("idle, warm (the first five minutes)", watcher, idle_seconds)
    later(700)
    measured("after ten quiet minutes, a look at everything", watcher)
    later(100)
    measured("cold", watcher)
    idle("idle, cold", watcher, idle_seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folders", type=int, default=10)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    parser.add_argument("--place", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        top, state = Path(place, "watched"), Path(place, "state")
        top.mkdir()
        with Journal(state) as journal:
            make_finished(top, journal, options.files, options.folders)
            print(f"{options.files} finished files in {options.folders} folders, {os.cpu_count()} processors")
            measure(top, journal, options.idle_seconds)


if __name__ == "__main__":
    main()
