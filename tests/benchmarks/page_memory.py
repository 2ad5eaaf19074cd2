"""What the page costs the agent's process: memory with seven streams open, while 100,000 events are published.

The agent is real (watcher, desk, worker process, journal), with a tiny model; the events are findings of files it
knows, told again and again, so that each is looked up in the journal as a new one is. Also how long such a word
keeps the desk's thread. `python tests/benchmarks/page_memory.py [EVENTS]`; prints a table, asserts nothing.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
STREAMS = 7
PER_SECOND = 1500
KNOWN = 200
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "faults")]


def agent(folder: str, events: int) -> None:
    """The agent, in a process of its own: says its address, is told to begin, and says what it cost the desk."""
    from edge_agent.config import AgentConfig, EventsConfig, PageConfig
    from edge_agent.live_page.monitor import Monitor
    from edge_agent.service import Service

    monitor = Monitor(PageConfig(port=0), EventsConfig())
    place, first = Path(folder), []
    config = AgentConfig(
        folders=(place / "scope",), state=place / "state", model=sys.argv[4], quiet_seconds=0.1, gap_seconds=0.0,
        free_space_floor_mib=0,
    )  # fmt: skip

    def hear(found) -> None:
        monitor.note_finding(found)
        first.append(found)

    def meet(archive) -> None:
        monitor.meet(archive)
        archives.append(archive)

    archives = []
    service = Service(config, on_finding=hear, on_status=monitor.note_status, on_archive=meet)

    def tell() -> None:
        while not first:
            time.sleep(0.05)
        known = [replace(first[0], path=first[0].path.with_name(f"{number}.dm3")) for number in range(KNOWN)]
        for found in known:
            archives[0].journal.record(found, durable=False)
        print(json.dumps({"address": monitor.word}), flush=True)
        sys.stdin.readline()
        spent, begun = [], time.monotonic()
        for number in range(events):
            before = time.perf_counter()
            monitor.note_finding(known[number % KNOWN])
            spent.append(time.perf_counter() - before)
            time.sleep(max(0.0, begun + number / PER_SECOND - time.monotonic()))
        seconds = time.monotonic() - begun
        spent.sort()
        micro = {"median": spent[len(spent) // 2] * 1e6, "p99": spent[len(spent) * 99 // 100] * 1e6}
        print(json.dumps({"seconds": seconds, **micro}), flush=True)
        sys.stdin.readline()
        before = time.monotonic()
        service.stop()
        thread.join()
        monitor.close()
        print(json.dumps({"stop_seconds": time.monotonic() - before}), flush=True)

    telling = threading.Thread(target=tell)
    thread = threading.Thread(target=service.run)
    monitor.start()
    telling.start()
    thread.start()
    telling.join()


def listen(port: int, cookie: str, counts: list[int], number: int) -> None:
    """Read a stream to its end."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request("GET", "/api/events", headers={"Cookie": cookie})
        answer = client.getresponse()
        try:
            while line := answer.readline():
                counts[number] += line.startswith(b"event: entry")
        except (OSError, http.client.HTTPException):
            pass


def signed_in(port: int, key: str) -> str:
    """Return the cookie."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        body = json.dumps({"token": key})
        client.request("POST", "/api/session", body, {"Content-Type": "application/json"})
        return client.getresponse().headers["set-cookie"].partition(";")[0]


def main(events: int) -> None:
    from harness import small_dm3, tiny_model_folder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scope").mkdir()
        (Path(folder) / "scope" / "a.dm3").write_bytes(small_dm3(1))
        command = [sys.executable, __file__, "agent", folder, str(events), str(tiny_model_folder())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            port = int(json.loads(process.stdout.readline())["address"].rsplit(":", 1)[1].strip("/"))
            measured = psutil.Process(process.pid)
            quiet = measured.memory_info().rss
            cookie = signed_in(port, (Path(folder) / "state" / "page.token").read_text().strip())
            counts = [0] * STREAMS
            for number in range(STREAMS):
                threading.Thread(target=listen, args=(port, cookie, counts, number), daemon=True).start()
            time.sleep(1)
            begun = measured.memory_info().rss
            process.stdin.write("\n")
            process.stdin.flush()
            seen: list[int] = []
            done = threading.Event()

            def watch() -> None:
                while not done.wait(0.2):
                    seen.append(measured.memory_info().rss)

            threading.Thread(target=watch, daemon=True).start()
            cost = json.loads(process.stdout.readline())
            time.sleep(3)
            done.set()
            after = measured.memory_info().rss
            process.stdin.write("\n")
            process.stdin.flush()
            end = json.loads(process.stdout.readline())
    late = statistics.median(seen[-max(1, len(seen) // 10) :])
    rows = {
        "events told": f"{events} in {cost['seconds']:.0f} s",
        "entries that arrived, a stream": f"{min(counts)} to {max(counts)}",
        "resident, no page open": f"{quiet / 2**20:.1f} MiB",
        f"resident, {STREAMS} streams": f"{begun / 2**20:.1f} MiB",
        "resident, most while events come": f"{max(seen) / 2**20:.1f} MiB",
        "resident, median of the last tenth": f"{late / 2**20:.1f} MiB",
        "resident, afterwards": f"{after / 2**20:.1f} MiB",
        "a finding keeps the desk's thread": f"median {cost['median']:.1f} us, p99 {cost['p99']:.0f} us",
        "end with the streams open": f"{end['stop_seconds']:.2f} s",
    }
    for name, value in rows.items():
        print(f"{name:40} {value}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["agent"]:
        agent(sys.argv[2], int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
