"""What page and events cost the agent process while it idles.

`python tests/benchmarks/monitor_cost.py [--seconds N]`

Memory is that of the agent's own process (the worker is another), processor time is counted from two seconds after
the model is loaded on, while Prometheus's interval of 15 s is imitated where the page is on. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "faults"))

from harness import small_dm3, tiny_model_folder  # noqa: E402

SCRAPE_SECONDS = 15.0
NOBODY = {"webhook_url": "http://127.0.0.1:9/", "mqtt_url": "mqtt://127.0.0.1:9/topic"}
CASES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("neither", "off", {}),
    ("page", "0", {}),
    ("page, scraped", "0", {}),
    ("page, webhook and MQTT that nobody takes", "0", NOBODY),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    print(f"{'':44}{'MiB':>8}{'% of a core':>13}{'threads':>9}")
    for name, port, events in CASES:
        with tempfile.TemporaryDirectory() as place:
            figures = measure(Path(place), port, events, seconds, scraped="scraped" in name)
        print(f"{name:44}{figures[0]:8.1f}{figures[1]:13.3f}{figures[2]:9d}", flush=True)


def measure(
    place: Path, port: str, events: dict[str, str], seconds: float, *, scraped: bool
) -> tuple[float, float, int]:
    (place / "scope").mkdir()
    (place / "scope" / "a.dm3").write_bytes(small_dm3(1))
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "faults" / "monitored_agent.py"),
        str(place / "scope"),
    ]
    command += [str(place / "state"), str(tiny_model_folder()), port, "0", json.dumps(events)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(place)}
    agent = psutil.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        page = agent.stdout.readline().strip()
        agent.stdout.readline()
        time.sleep(2.0)
        started, before = time.monotonic(), sum(agent.cpu_times()[:2])
        while (left := seconds - (time.monotonic() - started)) > 0:
            if scraped:
                urllib.request.urlopen(f"{page}metrics", timeout=10).close()
            time.sleep(min(left, SCRAPE_SECONDS))
        used = sum(agent.cpu_times()[:2]) - before
        return (
            agent.memory_info().rss / 2**20,
            100 * used / (time.monotonic() - started),
            agent.num_threads(),
        )
    finally:
        agent.terminate()
        agent.wait(20)
        agent.stdout.close()


if __name__ == "__main__":
    main()
