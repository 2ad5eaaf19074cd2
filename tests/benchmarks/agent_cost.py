"""What the agent costs on this PC: time and memory of a first `edge-agent classify`, beside a plain reader.

    python tests/benchmarks/agent_cost.py [--repeats 5] [--size 2048] [--model NAME|PATH]

Agent and peer (rosettasciio, the percentiles with numpy, a thumbnail with Pillow: what a script at the
microscope would do without a network) take turns in fresh processes over the same simulated dm3 file. Nothing
is asserted: read the table. Needs the `test` extra; peak memory needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# This process stays small and imports no numpy: on Linux the peak memory of a child starts at its parent's.
SIMULATE = """
import sys
from pathlib import Path
import numpy as np
from edge_agent.simulation import dm3_bytes, draw_field
field = draw_field("round", np.random.default_rng(7), int(sys.argv[2]))
Path(sys.argv[1]).write_bytes(dm3_bytes(field))
print(*field.pixels.shape, field.pixels.dtype)
"""
PEER = """
import sys
import numpy as np
from PIL import Image
from rsciio.digitalmicrograph import file_reader
pixels = file_reader(sys.argv[1])[0]["data"].astype(np.float32)
low, high = np.percentile(pixels, (0.02, 99.98))
grey = np.clip((pixels - low) / (high - low) * 255, 0, 255).astype(np.uint8)
Image.fromarray(grey).resize((448, 448), Image.Resampling.BOX).save(sys.argv[2])
"""
READ_BOTH = """
import json, sys, time
from pathlib import Path
from rsciio.digitalmicrograph import file_reader
from edge_agent.micrograph import read_micrograph
path, times = Path(sys.argv[1]), {"agent": [], "peer": []}
for _ in range(int(sys.argv[2]) + 1):
    for name, read in (("agent", read_micrograph), ("peer", lambda path: file_reader(str(path)))):
        started = time.perf_counter()
        read(path)
        times[name].append(1000 * (time.perf_counter() - started))
print(json.dumps({name: values[1:] for name, values in times.items()}))
"""


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, peak resident memory (None where it cannot be had), stdout."""

    seconds: float
    peak_mib: float | None
    output: str


def run(*arguments: str) -> Run:
    """Run Python with these arguments in a fresh process."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=errors)
        peak_mib = wait_for_peak(process)
        seconds = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{arguments[:4]} ended with {process.returncode}:\n{errors.read()[-2000:]}")
        return Run(seconds, peak_mib, output.read())


def wait_for_peak(process: subprocess.Popen[bytes]) -> float | None:
    """Wait for the end of a process and say how much resident memory it ever had, in MiB."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def spread(values: list[float], digits: int) -> str:
    """Median and extremes."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def row(what: str, agent: list[float], peer: list[float], digits: int = 0) -> None:
    """Print a line of the table, with the ratio of the medians where both were measured."""
    ratio = f"{statistics.median(agent) / statistics.median(peer):.2f}" if agent and peer else ""
    cells = (spread(values, digits) if values else "" for values in (agent, peer))
    print("| {:<42} | {:>24} | {:>24} | {:>6} |".format(what, *cells, ratio))


def peaks(runs: list[Run]) -> list[float]:
    """Peak memory of the runs, as far as it is known."""
    return [each.peak_mib for each in runs if each.peak_mib is not None]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, help="side of the micrograph in pixels")
    parser.add_argument("--model", help="a shipped model or a bundle folder (default: the shipped one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.repeats, options.size, options.model)


def measure(folder: Path, repeats: int, size: int, model: str | None) -> None:
    """Run agent and peer in turns over one simulated file in `folder`."""
    file = folder / "simulated.dm3"
    drawn = run("-c", SIMULATE, str(file), str(size)).output.strip()
    classify = ["-m", "edge_agent.cli", "classify", str(file), "--json"] + (
        ["--model", model] if model else []
    )
    agent, peer = [], []
    for _ in range(repeats):
        agent.append(run(*classify))
        peer.append(run("-c", PEER, str(file), str(folder / "peer.png")))
    warm = json.loads(run("-c", READ_BOTH, str(file), str(repeats)).output)
    records = [json.loads(each.output) for each in agent]
    used = records[0]["model"]
    print(f"{drawn}, {file.stat().st_size / 1e6:.1f} MB dm3; model {used['name']} {used['version']};")
    print(f"{repeats} runs each in turns; median (least to most); ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    print()
    print("| {:<42} | {:>24} | {:>24} | {:>6} |".format("", "agent", "rosettasciio, PIL", "ratio"))
    print(f"|{'-' * 44}|{'-' * 25}:|{'-' * 25}:|{'-' * 7}:|")
    row("cold process to outputs, s", [each.seconds for each in agent], [each.seconds for each in peer], 2)
    row("peak resident memory, MiB", peaks(agent), peaks(peer))
    row("read in a warm process, ms", warm["agent"], warm["peer"], 1)
    for stage in records[0]["agent"]["milliseconds"]:
        times = [record["agent"]["milliseconds"][stage] for record in records]
        row(f"stage {stage} in the cold process, ms", times, [], 1)


if __name__ == "__main__":
    main()
