"""The fuzz tier of reading: mutated DM files and exports through the real `read_micrograph`.

Every file is written to a folder in memory (/dev/shm where there is one) and read by its path, so the file
layer takes part. The bars, for each file: an answer or one of the `UnusableFile` family, the same at a second
reading; at most 100 ms of processor time and 64 MiB of additional memory; nothing printed, no warning. What
is accepted is checked, and a sample of it goes through `examine` with a tiny bundle.

    python tests/faults/fuzz_dm.py run --record FILE [--kind dm|export] [--files 200000] [--minutes 10]
    python tests/faults/fuzz_dm.py report --record FILE
    python tests/faults/fuzz_dm.py replay --number 12345 --to FILE
    python tests/faults/fuzz_dm.py coverage [--files 3000]
    python tests/faults/fuzz_dm.py guided --corpus FOLDER [--minutes 5]
    python tests/faults/fuzz_dm.py bombs

`run` goes on where the record ends, so a shard of ten minutes is the same command once more.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path[:0] = [str(REPOSITORY)]
sys.path += [str(HERE), str(HERE.parent), str(HERE.parent / "edge_agent")]

import numpy as np  # noqa: E402
from dm_builder import Array, Image, dm_pieces, document, image_of, thumbnail  # noqa: E402
from fuzz_exports import export_mutant, export_seeds  # noqa: E402
from fuzz_mutations import Seed, cut_down, mutant, seed_of  # noqa: E402

from edge_agent.micrograph import PIXEL_LIMIT, Micrograph, UnusableFile, read_micrograph  # noqa: E402
from edge_agent.simulation import (  # noqa: E402
    diffraction_dm3_bytes,
    dm3_bytes,
    draw_field,
    drift_series_dm3_bytes,
    spectrum_dm3_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_CPU_MS = {"dm": 100.0, "export": 1000.0}
MOST_MEMORY_MIB = {"dm": 64.0, "export": 256.0}
"""A compressed export may rightly hold 4,096 pixels a byte, so a few kilobytes can cost this much."""
HANG_SECONDS = 600
BLOCK_FILES = 2000
_TRACED_EVERY = 10
_EXAMINED_EVERY = 20
_LARGEST_SEED = 60_000
_SUFFIX = {"dm": ".dm3", "export": ".tif"}  # the content decides, not the name


def built_seeds() -> list[Seed]:
    """Small files of every kind of pixel and data set, as DM3 and DM4; some that no instrument writes."""
    ramp = np.arange(64 * 48)
    names = ("int16", "float32", "uint8", "int32", "int8", "uint16", "uint32", "float64", "int64", "uint64")
    grey = image_of(ramp.astype("uint16").reshape(48, 64), tags=_plain_tags())
    stack = image_of(ramp.astype("float32").reshape(12, 16, 16))
    cube = image_of(ramp.astype("int32").reshape(16, 16, 12), unit="eV")
    four = image_of(ramp.astype("uint8").reshape(4, 4, 16, 12), unit="1/nm")
    rgb = Image(23, 4, [(16, 1.0, "nm"), (16, 1.0, "nm")], bytes(range(256)) * 4, element=3)
    kinds = ((3, 8), (13, 16), (5, 8), (27, 8), (28, 16), (14, 1), (8, 4), (0, 2), (99, 4))
    square = [(8, 1.0, "nm"), (8, 1.0, "nm")]
    others = [Image(kind, size, square, bytes(64 * size)) for kind, size in kinds]
    trees = {f"image {name}": document(image_of(ramp.astype(name).reshape(48, 64))) for name in names}
    trees |= {f"type {image.data_type}": document(image) for image in others}
    trees |= {
        "thumbnail and image": document(thumbnail(), grey, shown=[1], thumbnails=[0]),
        "stack": document(thumbnail(), stack, shown=[1]),
        "spectrum image": document(cube, grey),
        "4D-STEM": document(four),
        "rgb": document(rgb),
        "spectrum": document(image_of(ramp.astype("float32"), unit="eV")),
        "odd tags": document(grey) | _odd_tags(),
        "no image": {"a": 1},
        "many axes": document(image_of(ramp.astype("uint8").reshape(4, 4, 16, 12), unit="")),
        "time": document(image_of(ramp.astype("uint8").reshape(48, 64), unit="s")),
        "inverse": document(image_of(ramp.astype("uint8").reshape(48, 64), unit="nm^-1")),
        "SAED": document(image_of(ramp.astype("uint8").reshape(48, 64), unit="", name="SAED 12")),
    }
    for part, name, value in _TELLING:
        telling = _plain_tags()
        telling[part][name] = value
        trees[f"{name} {value}"] = document(image_of(ramp.astype("uint8").reshape(48, 64), tags=telling))
    seeds = [
        seed_of(f"{name} DM{version}", b"".join(map(bytes, dm_pieces(tree, version))))
        for name, tree in trees.items()
        for version in (3, 4)
    ]
    big_endian = bytearray(seeds[0].data)
    big_endian[11] = 0  # the byte order mark of files from a Macintosh, which are refused
    return [*seeds, seed_of("big-endian", bytes(big_endian))]


_TELLING = (
    ("Meta Data", "Format", "Diffraction image"), ("Meta Data", "Signal", "EELS"),
    ("Microscope Info", "Imaging Mode", "DIFFRACTION"), ("Microscope Info", "Operation Mode", "SCANNING"),
    ("Microscope Info", "Formatted Indicated Mag", "1.2.3kx"), ("Microscope Info", "Indicated Magnification", -5.0),
    ("DataBar", "Acquisition Time (OS)", 1e300), ("DataBar", "Device Name", "DigiScan"),
)  # fmt: skip


def _plain_tags() -> dict[str, Any]:
    return {
        "Microscope Info": {"Voltage": 2e5, "Formatted Indicated Mag": "12.5kx", "Imaging Mode": "IMAGING"},
        "DataBar": {"Acquisition Time (OS)": 1.3e17, "Acquisition Date": "1/2/2020", "Device Name": "camera"},
        "Meta Data": {"Format": "Image", "Signal": "CCD"},
    }


def _odd_tags() -> dict[str, Any]:
    return {
        "many": list(range(300)),
        "array": Array(6, 20, bytes(80)),
        "bytes": Array(10, 2000, bytes(2000)),
        "text": "µm \U0001f52c \x00\x1b[31m",
        "": {"": {"": 1}},
    }


def simulated_seeds() -> list[Seed]:
    """What the simulated microscope saves, small, as DM3."""
    rng = np.random.default_rng(5)
    field_of_view = draw_field("round", rng, 64)
    contents = {
        "micrograph": dm3_bytes(field_of_view, acquired=datetime.fromisoformat("2026-01-02T03:04:05+00:00")),
        "blank": dm3_bytes(draw_field("empty", rng, 64)),
        "drift series": drift_series_dm3_bytes(field_of_view, rng),
        "spectrum": spectrum_dm3_bytes(rng),
        "diffraction": diffraction_dm3_bytes(rng, size_px=64),
    }
    return [seed_of(f"simulated {name}", cut_down(data, side=64)) for name, data in contents.items()]


def real_seeds() -> list[Seed]:
    """Real files beside the repository, large ones cut down; none where the folder is not there."""
    folder = Path(os.environ.get("SCOPEWATCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "dm3"
    seeds = []
    for path in sorted(folder.rglob("*.dm[34]")):
        if path.stat().st_size > 2**23:
            continue
        with contextlib.suppress(ValueError, LookupError, StopIteration):  # some are damaged as they are
            data = path.read_bytes()
            data = data if len(data) < 4096 else cut_down(data)
            if len(data) <= _LARGEST_SEED:
                seeds.append(seed_of(path.name, data))
    return seeds


@dataclass(frozen=True)
class Maker:
    """Gives file number so-and-so of one kind; the same for ever."""

    kind: str
    seed: int
    make: Callable[[random.Random], bytes]
    seeds: int
    real: int

    def file(self, number: int) -> bytes:
        return self.make(random.Random(f"{self.kind}:{self.seed}:{number}"))


@cache
def _seeds() -> tuple[list[Seed], list[Seed]]:
    return [*built_seeds(), *simulated_seeds()], real_seeds()


def maker(kind: str, seed: int = 0) -> Maker:
    if kind == "export":
        pictures = export_seeds()
        return Maker(kind, seed, lambda rng: export_mutant(rng, pictures), len(pictures), 0)
    own, real = _seeds()
    # Built files are many and alike, real ones have the trees that instruments write: half and half.
    pools = [own, real] if real else [own]
    return Maker(kind, seed, lambda rng: _mutant_of(rng, pools, own + real), len(own) + len(real), len(real))


def _mutant_of(rng: random.Random, pools: list[list[Seed]], every: list[Seed]) -> bytes:
    return mutant(rng, rng.choice(pools), every)


@dataclass(frozen=True)
class Reading:
    """What one reading came to. `digest` covers the whole answer, pixels included."""

    outcome: str
    reason: str
    digest: str
    cpu_ms: float
    complaint: str | None = None


def read_once(path: Path) -> Reading:
    """Read a file as the worker does and compare what comes out with the bars, time excepted."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        started = time.process_time()
        try:
            micrograph = read_micrograph(path)
        except UnusableFile as error:
            cpu_ms = 1000 * (time.process_time() - started)
            outcome, reason, complaint = type(error).__name__, error.reason, _ill_said(error)
        except Exception as error:
            cpu_ms = 1000 * (time.process_time() - started)
            outcome, reason = "outside the family", f"{type(error).__name__}: {error}"
            complaint = f"{outcome}: {reason}"
        else:
            cpu_ms = 1000 * (time.process_time() - started)
            outcome, reason, complaint = "accepted", _said_of(micrograph), unsafe(micrograph)
    if seen and complaint is None:
        complaint = f"warning: {seen[0].message}"
    digest = hashlib.sha256(f"{outcome}:{reason}".encode("utf-8", "backslashreplace")).hexdigest()
    return Reading(outcome, reason, digest, cpu_ms, complaint)


def _ill_said(error: UnusableFile) -> str | None:
    if type(error) is UnusableFile:
        return "the family's base class itself"
    if not error.reason or len(error.reason) > 2000:
        return f"a reason of {len(error.reason)} characters"
    return None


def _said_of(micrograph: Micrograph) -> str:
    values = {key: getattr(micrograph, key) for key in Micrograph.__dataclass_fields__ if key != "source"}
    pixels = values.pop("pixels")
    return f"{pixels.shape} {pixels.dtype} {hashlib.sha256(pixels).hexdigest()} {values}"


def unsafe(micrograph: Micrograph) -> str | None:
    """Say what about an accepted micrograph would surprise those who use it."""
    pixels, instrument = micrograph.pixels, asdict(micrograph.instrument)
    numbers = [value for value in instrument.values() if isinstance(value, float)]
    sizes = micrograph.pixel_size_nm or ()
    checks = {
        f"shape {pixels.shape}": pixels.ndim == 2 and min(pixels.shape) >= 1 and pixels.size <= PIXEL_LIMIT,
        f"pixels of {pixels.dtype}": pixels.dtype.kind in "iuf" and pixels.dtype.isnative,
        "pixels that can be written to": not pixels.flags.writeable,
        f"pixel size {sizes}": all(math.isfinite(size) and size > 0 for size in sizes),
        f"instrument {instrument}": all(math.isfinite(number) for number in numbers),
        f"magnification {instrument['magnification']}": (instrument["magnification"] or 1) > 0,
        f"acquired {micrograph.acquired}": micrograph.acquired is None or micrograph.acquired.tzinfo is not None,
        f"data set {micrograph.dataset_index}": 0 <= micrograph.dataset_index < len(micrograph.datasets),
    }  # fmt: skip
    texts = [value for value in (*instrument.values(), micrograph.acquired_text) if isinstance(value, str)]
    checks |= {f"text {text!r}": text.isprintable() and len(text) <= 401 for text in texts}
    return next((name for name, holds in checks.items() if not holds), None)


@dataclass
class Tally:
    """What many files came to."""

    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examined: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    slowest: int = -1
    cpu_seconds: float = 0.0
    largest_growth_mib: float = 0.0
    largest_traced_mib: float = 0.0
    slow_at_first: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: dict[str, Any]) -> None:
        """Take in another tally, as JSON carries it."""
        for name in ("outcomes", "reasons", "examined"):
            getattr(self, name).update(other[name])
        if other["slowest_ms"] > self.slowest_ms:
            self.slowest_ms, self.slowest = other["slowest_ms"], other["slowest"]
        for name in ("largest_growth_mib", "largest_traced_mib"):
            setattr(self, name, max(getattr(self, name), other[name]))
        for name in ("files", "cpu_seconds", "slow_at_first"):
            setattr(self, name, getattr(self, name) + other[name])
        self.failures += other["failures"]


class Judge:
    """Reads files one after the other and keeps the tally. `keep` is where files that fail are put."""

    def __init__(self, folder: Path, keep: Path | None, kind: str) -> None:
        self.folder, self.keep, self.suffix = folder, keep, _SUFFIX[kind]
        self.most_cpu_ms, self.most_memory_mib = MOST_CPU_MS[kind], MOST_MEMORY_MIB[kind]
        self.tally = Tally()
        self.accepted: list[Path] = []
        self.rss_mib = resident_mib()

    def judge(self, number: int, data: bytes) -> None:
        path = self.folder / f"{number}{self.suffix}"
        path.write_bytes(data)
        reset_peak()
        reading = read_once(path)
        growth = resident_mib(peak=True) - self.rss_mib
        self._count(number, reading, growth)
        complaints = [reading.complaint, self._too_slow(path, reading)]
        if number % _TRACED_EVERY == 0 or growth > self.most_memory_mib / 2:
            complaints += self._traced(path, reading)
        for complaint in filter(None, complaints):
            self._fail(number, data, complaint)
        if reading.outcome == "accepted" and self.tally.outcomes["accepted"] % _EXAMINED_EVERY == 1:
            self.accepted.append(path)
        else:
            path.unlink()

    def _count(self, number: int, reading: Reading, growth: float) -> None:
        tally = self.tally
        tally.files += 1
        tally.outcomes[reading.outcome] += 1
        if reading.outcome != "accepted":
            tally.reasons[_kind_of_reason(reading.reason)] += 1
        tally.cpu_seconds += reading.cpu_ms / 1000
        tally.largest_growth_mib = max(tally.largest_growth_mib, growth)

    def _too_slow(self, path: Path, reading: Reading) -> str | None:
        """A busy machine makes single readings slow: the best of three more decides."""
        best = reading.cpu_ms
        if best > self.most_cpu_ms:
            self.tally.slow_at_first += 1
            best = min(best, *(read_once(path).cpu_ms for _ in range(3)))
        if best > self.tally.slowest_ms:
            self.tally.slowest_ms, self.tally.slowest = best, int(path.stem)
        return f"takes {best:.0f} ms of processor time" if best > self.most_cpu_ms else None

    def _traced(self, path: Path, reading: Reading) -> list[str | None]:
        again, peak_mib = read_traced(path)
        self.tally.largest_traced_mib = max(self.tally.largest_traced_mib, peak_mib)
        return [
            f"takes {peak_mib:.0f} MiB of memory" if peak_mib > self.most_memory_mib else None,
            None if again.digest == reading.digest else f"first {reading.reason}, then {again.reason}",
        ]

    def _fail(self, number: int, data: bytes, complaint: str) -> None:
        self.tally.failures.append(f"{number}: {complaint[:500]}")
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{number}{self.suffix}").write_bytes(data)

    def examine_accepted(self, bundle: Path) -> None:
        """Send the sample through the whole chain: read, classify, decide, draw, write."""
        from edge_agent.classifier import Classifier
        from edge_agent.examine import Request, examine
        from edge_agent.model_bundle import open_bundle
        from edge_agent.sidecar import OutputPlan, read_record

        classifier = Classifier(open_bundle(str(bundle)))
        for path in self.accepted:
            try:
                finding = examine(path, classifier, Request(OutputPlan()))
            except Exception as error:
                self._fail(int(path.stem), path.read_bytes(), f"examine: {type(error).__name__}: {error}")
                continue
            self.tally.examined[finding.outcome] += 1
            if finding.sidecar is None or read_record(finding.sidecar) is None:
                self._fail(int(path.stem), path.read_bytes(), f"no sidecar: {finding.reason}")
        self.accepted.clear()


def read_traced(path: Path) -> tuple[Reading, float]:
    """Read once more with every allocation of Python and numpy counted; return the peak in MiB."""
    tracemalloc.start()
    try:
        reading = read_once(path)
        return reading, tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def _kind_of_reason(reason: str) -> str:
    return re.sub(r"b'.*'|b\".*\"|\d[\d,.]*|'[^']*'", "#", reason)[:90]


def reset_peak() -> None:
    """Begin a new peak of resident memory (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_mib(peak: bool = False) -> float:
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", text)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def memory_folder() -> Path:
    """A new folder in memory where the system has one."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="scopewatch-fuzz-", dir=place))


def _run_block(arguments: argparse.Namespace) -> None:
    """One block in a process of its own; what it or a C library prints is a failure."""
    with contextlib.suppress(OSError, AttributeError):  # large blocks go back to the system: memory is seen
        ctypes.CDLL(None).mallopt(-3, 65_536)
    files = maker(arguments.kind, arguments.seed)
    unraisable: list[str] = []
    sys.unraisablehook = lambda seen: unraisable.append(f"unraisable: {seen.exc_value!r} in {seen.object!r}")
    folder = Path(arguments.folder)
    printed = os.open(folder / "printed", os.O_RDWR | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(printed, descriptor)
    first, end = arguments.number, arguments.number + arguments.files
    judge = Judge(folder, arguments.keep, arguments.kind)
    judge.judge(first, files.file(first))  # the first one pays for imports
    judge.tally = Tally()
    gc.collect()
    judge.rss_mib = resident_mib()
    said = 0
    for number in range(first, end):
        data = files.file(number)
        judge.judge(number, data)
        if os.fstat(printed).st_size > said or unraisable:
            text = os.pread(printed, 300, said).decode("utf-8", "replace")
            judge._fail(number, data, f"printed {text!r} {unraisable}")
            said = os.fstat(printed).st_size
            unraisable.clear()
    if arguments.bundle:
        judge.examine_accepted(Path(arguments.bundle))
    (folder / "tally.json").write_text(json.dumps(vars(judge.tally)))


def _block(arguments: argparse.Namespace, bundle: Path, number: int) -> dict[str, Any]:
    """Run one block apart and return its tally; a death or a hang is a failure of the block's current file."""
    folder = memory_folder()
    files = min(BLOCK_FILES, arguments.files - number)
    command = [
        sys.executable, str(HERE / "fuzz_dm.py"), "block", "--kind", arguments.kind, "--seed", str(arguments.seed),
        "--number", str(number), "--files", str(files), "--folder", str(folder), "--bundle", str(bundle),
        "--keep", str(arguments.keep),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
        printed = (folder / "printed").read_text("utf-8", "replace") if (folder / "printed").is_file() else ""
        ending = f"ended with {done.returncode}: {(done.stderr + printed)[-300:]}"
    except subprocess.TimeoutExpired:
        ending = f"did not end within {HANG_SECONDS} s"
    result = folder / "tally.json"
    tally = (
        json.loads(result.read_text()) if result.is_file() else vars(Tally(failures=[f"{number}: {ending}"]))
    )
    died = not result.is_file()
    for left in folder.iterdir():
        if died and left.suffix:  # what it was about
            (arguments.keep / f"died-{left.name}").write_bytes(left.read_bytes())
        left.unlink()
    folder.rmdir()
    return {"number": number, "kind": arguments.kind, "seed": arguments.seed, **tally}


def _run(arguments: argparse.Namespace) -> int:
    """Work off the blocks that the record does not hold yet, until all are there or the time is over."""
    from bundles import tiny_bundle

    arguments.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as models:
        _run_blocks(arguments, tiny_bundle(Path(models) / "tiny-1"))
    return _report(arguments)


def _run_blocks(arguments: argparse.Namespace, bundle: Path) -> None:
    done = {line["number"] for line in _lines(arguments)}
    left = [number for number in range(0, arguments.files, BLOCK_FILES) if number not in done]
    until = time.monotonic() + 60 * arguments.minutes
    total = Tally()

    def one(number: int) -> dict[str, Any] | None:
        return _block(arguments, bundle, number) if time.monotonic() < until else None

    with ThreadPoolExecutor(arguments.jobs) as pool, arguments.record.open("a") as record:
        for line in pool.map(one, left):
            if line is None:
                continue
            record.write(json.dumps(line) + "\n")
            record.flush()
            total.add(line)
            print(f"{len(done) * BLOCK_FILES + total.files} of {arguments.files} files, "
                  f"{len(total.failures)} failures, slowest {total.slowest_ms:.0f} ms", flush=True)  # fmt: skip


def _lines(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if arguments.record.is_file():
        for text in arguments.record.read_text().splitlines():
            line = json.loads(text)
            if (line["kind"], line["seed"]) == (arguments.kind, arguments.seed):
                yield line


def _report(arguments: argparse.Namespace) -> int:
    total = Tally()
    for line in _lines(arguments):
        total.add(line)
    print(
        f"{total.files} of {arguments.files} files ({arguments.kind}), {total.cpu_seconds:.0f} s of reading"
    )
    for title, counts in (
        ("outcomes", total.outcomes),
        ("reasons", total.reasons),
        ("examined", total.examined),
    ):
        print(f"{title}:")
        for name, count in counts.most_common(40):
            print(f"  {count:8} {name}")
    print(
        f"slowest {total.slowest_ms:.1f} ms (file {total.slowest}), {total.slow_at_first} read again for time"
    )
    print(f"resident memory grew by at most {total.largest_growth_mib:.1f} MiB in a block, "
          f"traced peak of one file at most {total.largest_traced_mib:.1f} MiB")  # fmt: skip
    print(f"{len(total.failures)} failures")
    for failure in total.failures[:40]:
        print(f"  {failure}")
    return 1 if total.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", choices=("run", "report", "replay", "coverage", "guided", "bombs", "block")
    )
    parser.add_argument("--kind", choices=("dm", "export"), default="dm")
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "scopewatch-fuzz-failures")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--bundle", default="")
    arguments = parser.parse_args()
    if arguments.command == "block":
        _run_block(arguments)
    elif arguments.command == "replay":
        arguments.to.write_bytes(maker(arguments.kind, arguments.seed).file(arguments.number))
    elif arguments.command == "report":
        return _report(arguments)
    elif arguments.command == "run":
        return _run(arguments)
    elif arguments.command == "bombs":
        import fuzz_bombs

        with tempfile.TemporaryDirectory() as folder:  # on a disk: a file in memory may not be that long
            fuzz_bombs.measure(Path(folder))
    else:
        import fuzz_guided

        fuzz_guided.start(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
