"""What preparation costs: simulated dm3 files of a lab, with one worker process and with two, beside a peer.

    python tests/benchmarks/prepare_cost.py [--files 1000] [--size 2048] [--place FOLDER] [--no-peer]

Draws that many different fields at a quarter of the size, enlarges them and adds noise, 8 MiB each at 2048 px, and
prepares them. Prints a table, asserts nothing, and removes the files. The last column says when every file was read
and cut (what the workers share) and how long the rest took (near-duplicates, splitting: one process).
The peer reads the same files with rosettasciio, stretches their contrast and resizes them with Pillow; it screens,
hashes and splits nothing. "of linear" is the time of one worker over that of two, divided by two; other programs on
the machine spoil it, so the load is printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from edge_agent.simulated_field import expose, view_at  # noqa: E402
from edge_agent.simulation import SimulatedField, dm3_bytes  # noqa: E402
from trainer.materials.material_shapes import MATERIALS, draw_batch  # noqa: E402

MIB = 2**20
ENLARGED = 4
MAGNIFICATION = 30_000
OURS = """
import sys
import time
from pathlib import Path
from edge_agent.preprocessing import Preprocessing
from trainer.preparing.crops import Order, prepare
from trainer.preparing.split import SplitRule
if __name__ == "__main__":
    raw, out, workers = sys.argv[1:]
    order = Order(preprocessing=Preprocessing(), split=SplitRule(), cache_px=448)
    started, cut = time.perf_counter(), []
    def shown(what, done, total):
        if done == total:
            cut.append(time.perf_counter() - started)
    data = prepare(Path(raw), Path(out), order, workers=int(workers), progress=shown)
    rest = time.perf_counter() - started - cut[0]
    print(f"cut after {cut[0]:.1f} s, the rest {rest:.1f} s; {len(data.kept)} crops kept")
"""
PEER = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import numpy as np
from PIL import Image
from rsciio.digitalmicrograph import file_reader

def resize(pair):
    path, out = pair
    values = next(part["data"] for part in file_reader(path) if part["data"].ndim == 2)
    low, high = np.percentile(values, (0.5, 99.5))
    grey = np.clip((values - low) * (255.0 / max(high - low, 1)), 0, 255).astype(np.uint8)
    np.save(out, np.asarray(Image.fromarray(grey).resize((448, 448), Image.Resampling.BOX)))

if __name__ == "__main__":
    raw, out, workers = sys.argv[1:]
    Path(out).mkdir()
    files = sorted(Path(raw).rglob("*.dm3"))
    pairs = [(str(path), f"{out}/{at}.npy") for at, path in enumerate(files)]
    if workers == "1":
        done = [resize(pair) for pair in pairs]
    else:
        with ProcessPoolExecutor(int(workers), mp_context=get_context("spawn")) as pool:
            done = list(pool.map(resize, pairs))
    print(len(done), "files resized")
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a program took: wall time, processor time of all its processes, memory of all together."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    said: str


def draw(raw: Path, files: int, size_px: int) -> None:
    template = _field(0, size_px, np.zeros((size_px, size_px), np.uint16))
    whole, place = _bytes_of(template)
    noise = np.random.default_rng(0).standard_normal((size_px, size_px), np.float32)
    for number in range(files):
        small = _field(number, size_px // ENLARGED)
        values = Image.fromarray(np.asarray(small.pixels, np.float32))
        counts = np.asarray(values.resize((size_px, size_px), Image.Resampling.BICUBIC), np.float32)
        counts = counts + np.roll(noise, (37 * number, 91 * number), (0, 1)) * np.sqrt(
            np.maximum(8 * counts, 1)
        )
        pixels = np.clip(counts, 0, 65_535).astype(np.uint16).tobytes()
        path = raw / f"class {number % len(MATERIALS)}" / f"{number:05}.dm3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole[:place] + pixels + whole[place + len(pixels) :])


def _bytes_of(field: SimulatedField) -> tuple[bytes, int]:
    """A file, and where its pixels begin."""
    mark = np.random.default_rng(1).integers(0, 65_535, field.pixels.shape, np.uint16)
    whole = dm3_bytes(replace(field, pixels=mark))
    return whole, whole.index(mark.tobytes())


def _field(at: int, size_px: int, pixels: np.ndarray | None = None) -> SimulatedField:
    random = np.random.default_rng([1, at])
    material = MATERIALS[at % len(MATERIALS)]
    settings: dict[str, Any] = {"fringe": 0.003, "coherence": 1.0, "electrons_per_px": 300.0}
    view = view_at(MAGNIFICATION, size_px=size_px, voltage_kv=200.0, **settings)
    if pixels is None:
        particles = material.lay(random, draw_batch(random), 0.08 * size_px, size_px)
        pixels = expose(particles, view, random, dtype="uint16")
    return SimulatedField(material.name, True, pixels, view.pixel_size_nm, view.magnification, 200.0)


def measure(program: Path, raw: Path, out: Path, workers: int) -> Cost:
    started = time.perf_counter()
    process = psutil.Popen(
        [sys.executable, str(program), str(raw), str(out), str(workers)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    peak, cpu = 0.0, {}
    while process.poll() is None:
        peak = max(peak, _sample(process, cpu))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    said = process.stdout.read().strip()
    if process.returncode:
        raise SystemExit(f"{program.name} with {workers} workers failed")
    return Cost(seconds, sum(cpu.values()), peak / MIB, said)


def _sample(process: psutil.Process, cpu: dict[int, float]) -> float:
    """Memory of the process tree now (shared pages divided among those who share them), and its time so far."""
    total = 0.0
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return total
    for member in tree:
        try:
            times = member.cpu_times()
            cpu[member.pid] = times.user + times.system
            total += member.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def compare(name: str, source: str, raw: Path, place: Path, files: int) -> None:
    program = place / f"{name.replace(' ', '_')}.py"
    program.write_text(source)
    costs = {}
    for workers in (1, 2):
        out = place / "out"
        costs[workers] = cost = measure(program, raw, out, workers)
        shutil.rmtree(out)
        print(
            f"{name:24} {workers:7} {cost.seconds:9.1f} {files / cost.seconds:9.1f} {cost.cpu_seconds:9.1f} "
            f"{cost.peak_mib:9.0f}   {os.getloadavg()[0]:4.1f}  {cost.said.splitlines()[-1] if cost.said else ''}",
            flush=True,
        )
    ratio = costs[1].seconds / costs[2].seconds
    print(f"{name:24} {ratio:.2f} times as fast with two workers: {ratio / 2:.2f} of linear", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--size", type=int, default=2048, help="pixels along each side")
    parser.add_argument("--place", type=Path, default=None, help="folder for the files (8 MiB each)")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place, prefix="prepare-cost-") as folder:
        place, started = Path(folder), time.perf_counter()
        raw = place / "raw"
        draw(raw, options.files, options.size)
        size = sum(path.stat().st_size for path in raw.rglob("*.dm3"))
        print(
            f"{options.files} files of {options.size} x {options.size}, {size / MIB:.0f} MiB, drawn in "
            f"{time.perf_counter() - started:.0f} s; {os.cpu_count()} processors, "
            f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
        )
        print(f"{'':24} {'workers':>7} {'s':>9} {'files/s':>9} {'CPU s':>9} {'peak MiB':>9}   load")
        compare("edge-trainer prepare", OURS, raw, place, options.files)
        if not options.no_peer:
            compare("rosettasciio, Pillow", PEER, raw, place, options.files)


if __name__ == "__main__":
    main()
