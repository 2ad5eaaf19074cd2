"""A suite as a table of cases: each measures figures in its own folder, and has bars for them.

As a script a suite runs every case in full and prints the table; in pytest each case runs in its quick form.
There a bar for a time only decides a hang (the machine may be busy with something else), and one for a
slope, taken over few files, only a large leak.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from harness import REPOSITORY, Agent, Bar, long_tier, print_table, run_units

if str(REPOSITORY / "tests" / "edge_agent") not in sys.path:
    sys.path.append(str(REPOSITORY / "tests" / "edge_agent"))

import numpy as np
from dm_builder import dm_bytes, image_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Figures = dict[str, float | str]
_HANG: Final = {"_seconds": 30.0, "_ms": 30_000.0, "_percent": 50.0, "_slope_mib": 9.0}
"""What the quick tier adds to a bar in this unit."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a case is run."""

    quick: bool

    def pick(self, full: Any, quick: Any) -> Any:
        """The size for this tier."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: `run(scale, folder)` returns figures; `bars` say what they must be.

    Without `quick` it is run in full only: what it measures shows at full size, or elsewhere. `needs` are
    programs, paths, "root" or "user namespaces": without one of them the case is skipped.
    """

    name: str
    run: Callable[[Scale, Path], Figures]
    bars: tuple[Bar, ...] = ()
    quick: bool = True
    needs: tuple[str, ...] = ()

    def lacks(self) -> str | None:
        """Why it cannot be run here, None when it can."""
        lacking = [need for need in self.needs if not _is_there(need)]
        return f"needs {', '.join(lacking)}" if lacking else None


@cache
def _is_there(need: str) -> bool:
    if need == "root":
        return os.geteuid() == 0
    if need == "user namespaces":
        return (
            shutil.which("unshare") is not None
            and not subprocess.run(
                ("unshare", "--user", "--map-root-user", "true"), capture_output=True, check=False
            ).returncode
        )
    return shutil.which(need) is not None or (Path(need).is_absolute() and Path(need).exists())


def cases_main(description: str, cases: Sequence[Case], argv: Sequence[str] | None = None) -> int:
    """Run a suite as a script; return the exit code."""
    parser = long_tier(description)
    parser.add_argument("--only", metavar="CASE", action="append", choices=[case.name for case in cases])
    parser.add_argument("--quick", action="store_true", help="the size that pytest runs")
    parser.add_argument("--place", type=Path, help="work below this folder instead of a temporary one")
    options = parser.parse_args(argv)
    chosen = {case.name: case for case in cases if not options.only or case.name in options.only}
    for case in [case for case in chosen.values() if case.lacks()]:
        print(f"{case.name}: skipped, {case.lacks()}")
        del chosen[case.name]

    def run(name: str) -> Figures:
        started = time.monotonic()
        figures = _measured(chosen[name], Scale(options.quick), options.place)
        print_table(figures, _bars(chosen[name]), 1)
        print(f"  {name}: {time.monotonic() - started:.0f} s\n", flush=True)
        return figures

    index, _, shards = options.shard.partition("/")
    mine = list(chosen)[int(index) - 1 :: int(shards)]
    return run_units(list(chosen), run, options, [bar for name in mine for bar in _bars(chosen[name])])


def _measured(case: Case, scale: Scale, place: Path | None) -> Figures:
    """Run a case; one that does not come to its end must not keep the others from theirs."""
    with _Folder(place, case.name) as folder:
        try:
            return {f"{case.name}_failed": 0, **case.run(scale, folder)}
        except Exception:
            return {f"{case.name}_failed": 1, f"{case.name}_error": traceback.format_exc()}


def _bars(case: Case) -> tuple[Bar, ...]:
    return (Bar(f"{case.name}_failed"), *case.bars)


def quick_cases(cases: Iterable[Case]) -> list[Any]:
    """The parameters of a suite's quick tier."""
    return [
        pytest.param(
            case, id=case.name, marks=pytest.mark.skipif(bool(case.lacks()), reason=case.lacks() or "")
        )
        for case in cases
        if case.quick
    ]


def missed_when_quick(case: Case, folder: Path) -> list[str]:
    """Run a case in its quick form; return what was missed, in words."""
    figures = case.run(Scale(quick=True), folder)
    return [
        f"{bar.name}: {figures.get(bar.name, 'not measured')}, wanted {bar.text()}; {_texts(figures)}"
        for bar in map(_generous, case.bars)
        if bar.missed(float(figures.get(bar.name, float("inf") if bar.limit is not None else float("-inf"))))
    ]


def _generous(bar: Bar) -> Bar:
    """The bar of the quick tier: for times one that only a hang misses."""
    slack = next((limit for unit, limit in _HANG.items() if bar.name.endswith(unit)), None)
    if bar.limit is None or slack is None:
        return bar
    return Bar(bar.name, bar.limit + slack, bar.at_least)


def _texts(figures: Mapping[str, float | str]) -> str:
    return "; ".join(value for value in figures.values() if isinstance(value, str) and value)


class _Folder:
    def __init__(self, place: Path | None, name: str) -> None:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"scopewatch-{name}-", dir=place))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


# --- files -----------------------------------------------------------------------------------------------------


@cache
def _speck() -> tuple[bytes, int, int]:
    values = np.random.default_rng(7).random((32, 32), np.float32)
    whole = dm_bytes(image_of(values))
    return whole, whole.index(values.tobytes()), values.nbytes


def speck_dm3(seed: int) -> bytes:
    """A sound DM3 of 32 px squared and 5 kB, for suites that count: each seed another content."""
    whole, place, length = _speck()
    values = np.random.default_rng(seed).random(length // 4, np.float32)
    return whole[:place] + values.tobytes() + whole[place + length :]


def model_of(seed: int, folder: Path) -> Path:
    """A tiny bundle of its own; each seed another model."""
    from bundles import tiny_bundle

    return tiny_bundle(folder / f"tiny-{seed}", seed=seed)


def save(path: Path, content: bytes) -> Path:
    """Write a file as a microscope does: under its final name."""
    with open(path, "wb") as handle:  # noqa: PTH123 - names that no Path can hold as text pass too
        handle.write(content)
    return path


def save_all(folder: Path, seeds: Iterable[int], prefix: str = "image") -> list[Path]:
    """Save one small file for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save(folder / f"{prefix}-{seed:06}.dm3", speck_dm3(seed)) for seed in seeds]


# --- the agent as seen from outside ---------------------------------------------------------------------------


def done(agent: Agent) -> int:
    """How many files its status counts as done."""
    return sum(agent.status().get("done", {}).values())


def answered(agent: Agent, outcome: str = "classified") -> int:
    """How many files of one outcome its status counts since its start."""
    return int(agent.status().get("since_start", {}).get(outcome, 0))


def seconds_until(agent: Agent, condition: Callable[[], object], limit: float, what: str) -> float:
    """Wait for something and return how long it took."""
    started = time.monotonic()
    agent.wait_for(condition, limit, what)
    return time.monotonic() - started


def sidecar(path: Path) -> Path:
    """Where the record of a file lies."""
    return path.with_name(path.name + ".json")


def outcome(path: Path) -> str | None:
    """What the record beside a file says, None when there is none."""
    record = record_of(path)
    return None if record is None else str(record["outcome"])


def record_of(path: Path) -> dict[str, Any] | None:
    """The record beside a file as JSON."""
    import json

    try:
        values: dict[str, Any] = json.loads(sidecar(path).read_bytes())
    except (OSError, ValueError):
        return None
    return values


def missing(paths: Iterable[Path]) -> list[Path]:
    """Those without any record."""
    return [path for path in paths if not sidecar(path).exists()]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def mib(value: float) -> float:
    """Bytes to MiB."""
    return value / 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment; `x` is what growth is counted against (files done, usually)."""

    x: float
    rss_mib: float
    descriptors: int
    threads: int


def sample(pid: int, x: float = 0.0) -> Sample:
    """Look at a process."""
    process = psutil.Process(pid)
    with process.oneshot():
        return Sample(x, mib(process.memory_info().rss), process.num_fds(), process.num_threads())


def slope(samples: Sequence[Sample], field: str, per: float) -> float:
    """The least-squares growth of a field for `per` steps of x; 0 for fewer than three samples."""
    if len(samples) < 3:
        return 0.0
    x = np.array([item.x for item in samples])
    y = np.array([float(getattr(item, field)) for item in samples])
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / max(float((x * x).sum()), 1e-12) * per)


class Background:
    """Call `step` every so often in a thread until the block ends; the first error is raised there."""

    def __init__(self, step: Callable[[], object], every_seconds: float) -> None:
        self._step, self._every = step, every_seconds
        self._stop = threading.Event()
        self._errors: deque[BaseException] = deque()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._errors and kind is None:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every):
                self._step()
        except BaseException as error:
            self._errors.append(error)


class Stream:
    """Save a file every so often, and afterwards say how late each was answered."""

    def __init__(self, folder: Path, every_seconds: float, prefix: str = "healthy") -> None:
        self.paths: list[Path] = []
        self.saved: list[float] = []
        folder.mkdir(parents=True, exist_ok=True)
        numbers = count(1_000_000)

        def step() -> None:
            number = next(numbers)
            path = save(folder / f"{prefix}-{number}.dm3", speck_dm3(number))
            self.saved.append(time.time())
            self.paths.append(path)

        self._background = Background(step, every_seconds)

    def __enter__(self) -> Stream:
        self._background.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._background.__exit__(*error)

    def all_answered(self) -> bool:
        """Whether every file has its record."""
        return not missing(self.paths)

    def slow(self, seconds: float) -> str:
        """Which files came later than that: when after the first they were saved, and how late they were."""
        late = [
            f"at {saved - self.saved[0]:.0f} s {delay:.1f} s"
            for saved, delay in zip(self.saved, self.delays(), strict=True)
            if delay > seconds
        ]
        return ", ".join(late) or "none"

    def delays(self) -> list[float]:
        """Seconds from each file's saving to its record (its file time; infinity where there is none)."""
        return [
            sidecar(path).stat().st_mtime - saved if sidecar(path).exists() else float("inf")
            for path, saved in zip(self.paths, self.saved, strict=True)
        ]


def mounted(folder: Path) -> bool:
    """Whether something is mounted there (asks /proc, never the folder itself: it may hang)."""
    text = os.fsdecode(str(folder))
    return any(line.split()[1] == text for line in Path("/proc/mounts").read_text().splitlines())
