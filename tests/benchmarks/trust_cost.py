"""What it costs the agent to know when not to answer: novelty, look and decision, as shares of a file's time.

    python tests/benchmarks/trust_cost.py [--model NAME|PATH] [--repeats 60] [--processes 7] [--size 2048]

The model (by default the shipped one) must be a bundle with novelty. Beside it stands the same bundle without,
made here. One simulated dm3 file goes through `edge_agent.examine.examine` with both, its input through both
networks, and what is done besides (`look_at`, `decide`) is timed by itself, all in turns, in one process and on
one thread as in the agent. What is counted is processor time, which other programs blur less; waiting for the
disk is left out of it, so that shares come out rather too large. The cost of novelty is the median of the
differences in a turn. Then both classify the file in fresh processes, for the peak of memory (Linux or macOS).
Prints tables, asserts nothing. Two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

# This process stays small and imports no numpy: on Linux the peak memory of a child starts at its parent's.
from agent_cost import peaks, run, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.model_bundle import Bundle

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""What the agent gives its worker."""
FILE, PLAIN = "simulated.dm3", "without-novelty"


def main() -> None:
    """Measure, and print the tables."""
    given = arguments()
    if given.inside is not None:
        measure(given.inside, given.model, given.repeats, given.size)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.argv, "--inside", folder]
        subprocess.run(command, check=True, env=os.environ | ONE_THREAD)
        compare_memory(Path(folder), given.model, given.processes)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a shipped model or a bundle folder (default: the shipped one)")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--processes", type=int, default=7, help="fresh processes with each bundle")
    parser.add_argument("--size", type=int, default=2048, help="side of the micrograph in pixels")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(folder: Path, model: str | None, repeats: int, size: int) -> None:
    """Make file and second bundle in `folder`, and take turns."""
    import numpy as np

    from edge_agent.classifier import Classifier
    from edge_agent.decision import decide
    from edge_agent.examine import Request, examine
    from edge_agent.field_look import look_at
    from edge_agent.micrograph import read_micrograph
    from edge_agent.model_bundle import open_bundle
    from edge_agent.output_places import OutputPlan
    from edge_agent.preprocessing import cut_tiles
    from edge_agent.simulation import dm3_bytes, draw_field

    bundle = open_bundle(model)
    if bundle.manifest.tensors.novelty is None:
        sys.exit(f"{bundle.path}: gives no novelty; name a bundle made by edge-trainer trust")
    file = folder / FILE
    file.write_bytes(dm3_bytes(draw_field("round", np.random.default_rng(7), size)))
    whole, plain = Classifier(bundle), Classifier(without_novelty(bundle, folder / PLAIN))
    manifest, request = bundle.manifest, Request(OutputPlan(folder / "out", (folder,)))
    micrograph = read_micrograph(file)
    tiles = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, manifest.preprocessing)
    prediction = whole.classify(micrograph)
    inputs = [tile.values[None] for tile in tiles.tiles]
    ways: dict[str, Callable[[], object]] = {
        "file": lambda: examine(file, whole, request),
        "file, plain": lambda: examine(file, plain, request),
        "network": lambda: [whole.run(one) for one in inputs],
        "network, plain": lambda: [plain.run(one) for one in inputs],
        "look_at": lambda: look_at(tiles, manifest.preprocessing.value_range),
        "decide": lambda: decide(prediction, micrograph, manifest),
    }
    print_times(in_turns(ways, repeats), f"{manifest.name} {manifest.version}, {size} x {size} dm3")


def without_novelty(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle, its graph cut to the other outputs."""
    from edge_agent.onnx_file import cut_to_outputs
    from trainer.exporting.bundle_writer import BundleFiles, write_bundle

    manifest = bundle.manifest
    tensors = manifest.tensors.model_copy(update={"novelty": None})
    limits = manifest.thresholds and manifest.thresholds.model_copy(
        update={"novelty": None, "novelty_usual": None}
    )
    plain = manifest.model_copy(update={"tensors": tensors, "thresholds": limits, "novelty": None})
    outputs = tuple(one.name for one in tensors.outputs)
    return write_bundle(folder, BundleFiles(cut_to_outputs(bundle.model_bytes, outputs), {}), plain)


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of the processor, the first turns left out; every second turn goes backwards."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 2):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            started = time.process_time()
            ways[name]()
            times[name].append(1000 * (time.process_time() - started))
    return {name: values[2:] for name, values in times.items()}


def print_times(times: dict[str, list[float]], what: str) -> None:
    """One line a cost."""
    whole = statistics.median(times["file"])
    novelty = [a - b for a, b in zip(times["network"], times["network, plain"], strict=True)]
    between = [a - b for a, b in zip(times["file"], times["file, plain"], strict=True)]
    costs = {
        "look_at": times["look_at"],
        "decide": times["decide"],
        "novelty: network with less network without": novelty,
    }
    together = sum(map(statistics.median, costs.values()))
    print(
        f"{what}; {len(novelty)} turns, one thread; load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores\n"
    )
    print("| | ms: median | middle half | share of the file's time |\n|---|---|---|---|")
    rows = {
        "a file": times["file"],
        "a file, without novelty": times["file, plain"],
        "its network": times["network"],
        **costs,
    }
    for name, values in rows.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {middle / whole:.2%} |")
    print(f"| novelty, look and decision together | {together:.2f} | | {together / whole:.2%} |")
    low, middle, high = statistics.quantiles(between, n=4)
    print(
        f"| (file with less file without novelty) | {middle:.2f} | {low:.2f} to {high:.2f} | {middle / whole:.2%} |"
    )


def compare_memory(folder: Path, model: str | None, processes: int) -> None:
    """Peaks of fresh `edge-agent classify` processes, in turns."""
    named = {"with novelty": ["--model", model] if model else [], "without": ["--model", str(folder / PLAIN)]}
    runs = {name: [] for name in named}
    for _ in range(processes):
        for name, chosen in named.items():
            runs[name].append(run("-m", "edge_agent.cli", "classify", str(folder / FILE), "--json", *chosen))
    print("\n| classify in a fresh process | peak resident memory, MiB | s |\n|---|---|---|")
    for name, found in runs.items():
        seconds = spread([one.seconds for one in found], 2)
        print(f"| {name} | {spread(peaks(found), 1) if peaks(found) else ''} | {seconds} |")


if __name__ == "__main__":
    main()
