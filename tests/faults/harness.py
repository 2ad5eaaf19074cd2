"""What every fault suite needs: small distinct files, the real agent as a process, an audit, long tiers in shards.

The agent is a black box here: its command line, its configuration file, its state folder, its outputs. Only
the audit reads the sidecars with the agent's own reader, because what that accepts is what counts.

A suite with a long tier is a script: `python tests/faults/NAME.py [--shard I/N] [--record FILE] ...`.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

REPOSITORY: Final = Path(__file__).resolve().parents[2]
for _folder in (str(REPOSITORY / "tests"), str(REPOSITORY)):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

import numpy as np  # noqa: E402 - the checkout's packages come first, also when a suite runs as a script

from edge_agent.sidecar import OutputPlan, Sidecar, read_record  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

READY_SECONDS: Final = 60.0
EXIT_HELD: Final = 3
_TAG: Final = "SCOPEWATCH_FAULT_TAG"
_POLL_SECONDS: Final = 0.02
_PROGRESS_SECONDS: Final = 10.0


# --- content ---------------------------------------------------------------------------------------------------


def small_dm3(seed: int, size_px: int = 64) -> bytes:
    """A sound DM3 micrograph of `size_px` squared; each seed another content, in well under a millisecond."""
    template, place, pixels = _template(size_px)
    noise = np.random.default_rng(seed).random(pixels.size, np.float32) * np.float32(0.05 * pixels.mean())
    return b"".join((template[:place], (pixels + noise).tobytes(), template[place + pixels.nbytes :]))


def digest(content: bytes) -> str:
    """The SHA-256 that the content's sidecar must name."""
    return sha256(content).hexdigest()


@cache
def _template(size_px: int) -> tuple[bytes, int, np.ndarray[Any, np.dtype[np.float32]]]:
    from edge_agent.simulation import dm3_bytes, draw_field

    drawn = draw_field("round", np.random.default_rng(1), size_px)
    picture = replace(drawn, pixels=np.asarray(drawn.pixels, "<f4"))
    whole, pixels = dm3_bytes(picture), picture.pixels.ravel()
    return whole, whole.index(pixels.tobytes()), pixels


@cache
def tiny_model_folder() -> Path:
    """A bundle that answers in milliseconds, built once a process and removed at its end."""
    from bundles import tiny_bundle

    folder = Path(tempfile.mkdtemp(prefix="scopewatch-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tiny_bundle(folder / "tiny-1")


# --- the agent -------------------------------------------------------------------------------------------------


class AgentTrouble(AssertionError):
    """The agent did not do what the suite waited for; the text holds the end of its log."""


class Agent:
    """`edge-agent watch` of this checkout as a process of its own, with state, TMPDIR and log below `place`.

    `config` are keys of the configuration file; `folders` are created only with `make_folders`. `prefix` is a
    command that runs the agent (`strace ...`). Use as a context manager: nothing of it is alive afterwards,
    however the block ends. It can be killed and started again, which is what most suites do.
    """

    def __init__(
        self,
        *folders: Path,
        place: Path | None = None,
        model: Path | str | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        make_folders: bool = True,
        **config: object,
    ) -> None:
        self._own_place = place is None
        self.place = Path(tempfile.mkdtemp(prefix="scopewatch-agent-")) if place is None else place
        self.folders = folders
        self.state = self.place / "state"
        self.log = self.place / "agent.log"
        self.prefix = tuple(prefix)
        self.tag = uuid.uuid4().hex
        self._environment = {**(environment or {}), _TAG: self.tag, "TMPDIR": str(self.place / "tmp")}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        (self.place / "tmp").mkdir(parents=True, exist_ok=True)
        for folder in folders if make_folders else ():
            folder.mkdir(parents=True, exist_ok=True)
        values = {
            "folders": [str(folder) for folder in folders],
            "state": str(self.state),
            "model": str(model or tiny_model_folder()),
            "quiet_seconds": 0.2,
            "scan_seconds": 1.0,
            "free_space_floor_mib": 0,
            **config,
        }
        self.config_file = self.place / "agent.toml"
        self.config_file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill_everything()
        if self._own_place:
            shutil.rmtree(self.place, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The supervisor's process id (that of `prefix`, where there is one)."""
        return self._running().pid

    @property
    def supervisor_pid(self) -> int | None:
        """The supervisor's process id, also below a `prefix`; None while there is none."""
        return next((pid for pid, role in self.processes().items() if role == "supervisor"), None)

    @property
    def worker_pid(self) -> int | None:
        """The one worker's process id from the process table; None while there is none, or more than one."""
        workers = self.worker_pids()
        return workers[0] if len(workers) == 1 else None

    @property
    def exit_code(self) -> int | None:
        """How it ended, None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> Self:
        """Start it and return at once."""
        if self._process is not None and self._process.poll() is None:
            raise AgentTrouble("the agent is running already")
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        command = (sys.executable, "-P", "-c", _MAIN, "watch", "--config", str(self.config_file))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*self.prefix, *command),
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,
            )
        return self

    def wait_ready(self, timeout: float = READY_SECONDS) -> Self:
        """Wait until the worker has its model loaded."""
        self.wait_for(lambda: " watches " in self.text_since_start(), timeout, "ready")
        return self

    def kill(self) -> None:
        """SIGKILL the supervisor alone, and reap it."""
        process = self._running()
        process.kill()
        process.wait(10)

    def terminate(self, timeout: float = 10.0) -> float:
        """SIGTERM; return after how many seconds it had ended."""
        process, started = self._running(), time.monotonic()
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AgentTrouble(f"alive {timeout:g} s after SIGTERM{self._log_tail()}") from None
        return time.monotonic() - started

    def signal(self, number: int) -> None:
        """Send any signal to the supervisor."""
        self._running().send_signal(number)

    def status(self) -> dict[str, Any]:
        """Its numbers as last published (at most about a second old); {} before the first."""
        try:
            numbers: dict[str, Any] = json.loads((self.state / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return numbers

    def asked_status(self, timeout: float = 20.0) -> dict[str, Any]:
        """The same through `edge-agent status --json`, as a person would ask."""
        command = (sys.executable, "-P", "-c", _MAIN, "status", "--json", "--config", str(self.config_file))
        done = subprocess.run(
            command, cwd=self.place, env=os.environ | self._environment, capture_output=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise AgentTrouble(f"status ends with {done.returncode}: {done.stderr.decode(errors='replace')}")
        numbers: dict[str, Any] = json.loads(done.stdout)
        return numbers

    def text(self) -> str:
        """Everything that all its runs have printed."""
        return self.log.read_bytes().decode("utf-8", "replace") if self.log.exists() else ""

    def text_since_start(self) -> str:
        """What the present run has printed."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def wait_for(
        self, wanted: int | Callable[[], object], timeout: float, what: str = "", *, may_end: bool = False
    ) -> None:
        """Wait until so many files are done (as its status counts them), or until `wanted()` is true.

        Raises AgentTrouble when it ends meanwhile, or after `timeout` seconds.
        """
        condition = (
            wanted if callable(wanted) else lambda: sum(self.status().get("done", {}).values()) >= wanted
        )
        what = what or (f"{wanted} files done" if isinstance(wanted, int) else "the condition")
        deadline = time.monotonic() + timeout
        while not condition():
            if not may_end and self.exit_code is not None:
                raise AgentTrouble(f"ended with {self.exit_code} before: {what}{self._log_tail()}")
            if time.monotonic() >= deadline:
                raise AgentTrouble(f"not within {timeout:g} s: {what}{self._log_tail()}")
            time.sleep(_POLL_SECONDS)

    def processes(self) -> dict[int, str]:
        """Every living process of this agent by id: "supervisor", "worker" or "other" (`prefix`, helpers)."""
        mark = f"{_TAG}={self.tag}".encode()
        found = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal() and (role := _role(int(entry.name), mark)):
                found[int(entry.name)] = role
        return found

    def worker_pids(self) -> tuple[int, ...]:
        """All living workers; more than one only while one is replaced by the next."""
        return tuple(pid for pid, role in self.processes().items() if role == "worker")

    def kill_everything(self) -> None:
        """End it and whatever it started, and wait for that."""
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                for number in (signal.SIGCONT, signal.SIGKILL):
                    _send(pid, number)
            if self._process is not None:
                self._process.poll()
            time.sleep(_POLL_SECONDS)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(5)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AgentTrouble("the agent was not started")
        return self._process

    def _log_tail(self) -> str:
        lines = self.text_since_start().splitlines()[-12:]
        return "".join(f"\n    {line}" for line in ["; its last lines:", *lines])


# Not `-m`: the module would be imported twice, as itself and as `__main__`.
_MAIN: Final = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from edge_agent.cli import main; main()"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value))


def _role(pid: int, mark: bytes) -> str | None:
    """What a process is for the agent with this mark in its environment; None: nothing, or not alive."""
    folder = Path(f"/proc/{pid}")
    try:
        if mark not in (folder / "environ").read_bytes().split(b"\0"):
            return None
        command = (folder / "cmdline").read_bytes()
        state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return None
    if state in "ZX" or not command:
        return None
    words = command.split(b"\0")
    if b"edge_agent.worker" in command:
        return "worker"
    is_python = Path(os.fsdecode(words[0])).name.startswith("python")
    return "supervisor" if is_python and b"edge_agent.cli" in command and b"watch" in words else "other"


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


# --- the audit -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Audit:
    """What is wrong with the outputs beside a set of files, a text for each; `ok` when nothing is."""

    checked: int
    missing: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every file has exactly the answer that it should have, and nothing else lies about."""
        return not any(self.faults().values())

    def faults(self) -> dict[str, int]:
        """How many of each kind."""
        return {name: len(getattr(self, name)) for name in FAULTS}

    def text(self) -> str:
        """A few of each, for a person."""
        parts = [f"{name}: {', '.join(getattr(self, name)[:5])}" for name in FAULTS if getattr(self, name)]
        return "; ".join(parts) or "nothing wrong"


FAULTS: Final = ("missing", "stale", "half", "quarantined", "duplicates", "leftovers", "strangers")


def audit(
    expected: Mapping[Path, str | None],
    *,
    plan: OutputPlan | None = None,
    gone: Collection[Path] = (),
    ignore: Collection[Path] = (),
) -> Audit:
    """Judge the outputs of the files `expected` (SHA-256 of the final content; None: no sidecar is expected).

    `gone` are files that were deleted or renamed away: outputs of theirs may lie about, valid ones. Every file
    in a folder of `expected` that is none of these, no output and not in `ignore` is a stranger. `duplicates`
    are sidecars that speak of another file than the one that they lie beside.
    """
    plan = plan or OutputPlan()
    found: dict[str, list[str]] = {name: [] for name in FAULTS}
    outcomes: Counter[str] = Counter()
    known: set[Path] = {*expected, *gone, *ignore}
    for source, content in [*expected.items(), *((path, "") for path in gone)]:
        place = plan.place(source)
        known |= {place.sidecar, place.heatmap}
        record = _judge_json(place.sidecar, found)
        if content is None and (record or place.sidecar.exists() or place.heatmap.exists()):
            found["strangers"].append(str(place.sidecar))
        if record is None and content and not place.sidecar.exists():
            found["missing"].append(str(source))
        if record is not None:
            _judge_record(record, source, content, place.sidecar, found)
            if content:
                outcomes[record.outcome] += 1
        elif content and place.heatmap.exists() and place.sidecar.exists():
            found["half"].append(f"{place.heatmap} (beside no valid record)")
    folders = {path.parent for path in known}
    for path in (item for folder in folders if folder.is_dir() for item in folder.iterdir()):
        if path.name.startswith(".scopewatch-") and path.name.endswith(".tmp"):
            found["leftovers"].append(str(path))
        elif path not in known and not path.is_dir():
            found["strangers"].append(str(path))
    lists = {name: tuple(texts) for name, texts in found.items()}
    return Audit(checked=len(expected), outcomes=dict(outcomes), **lists)


def _judge_json(sidecar: Path, found: dict[str, list[str]]) -> Sidecar | None:
    record = read_record(sidecar)
    if record is None and sidecar.exists():
        # Replaced between the two looks: a look at the new one decides.
        record = read_record(sidecar)
        if record is None and sidecar.exists():
            found["half"].append(f"{sidecar} (no valid record)")
    return record


def _judge_record(
    record: Sidecar, source: Path, content: str | None, sidecar: Path, found: dict[str, list[str]]
) -> None:
    if content and record.source.sha256 != content:
        found["stale"].append(f"{sidecar} (says {str(record.source.sha256)[:8]}, is {content[:8]})")
    if record.source.path != str(source):
        found["duplicates"].append(f"{sidecar} (speaks of {record.source.path})")
    if record.outcome == "quarantined":
        found["quarantined"].append(str(sidecar))
    fault = heatmap_fault(record, sidecar)
    if fault:
        found["half"].append(f"{sidecar} ({fault})")


def heatmap_fault(record: Sidecar, sidecar: Path) -> str | None:
    """What is wrong with the heatmap of a record, None when nothing is (or none belongs to it)."""
    heatmap = sidecar.with_name(sidecar.name.removesuffix(".json") + ".heatmap.png")
    if record.cam is None or record.cam.heatmap is None:
        return f"{heatmap.name} belongs to no record" if heatmap.exists() else None
    try:
        seen = sha256(sidecar.with_name(record.cam.heatmap).read_bytes()).hexdigest()
    except OSError as error:
        return f"heatmap: {error.strerror}"
    return None if seen == record.cam.heatmap_sha256 else "the heatmap is another one"


# --- long tiers ------------------------------------------------------------------------------------------------


def long_tier(description: str) -> argparse.ArgumentParser:
    """The options that every long tier has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="do the units I, I+N, I+2N ... only")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="JSON lines; units in it are not run again"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other plans")
    return parser


@dataclass(frozen=True, slots=True)
class Bar:
    """A total that must not be above `limit`, nor below `at_least` where that is given."""

    name: str
    limit: float | None = 0
    at_least: float | None = None

    def missed(self, value: float) -> bool:
        """Whether the measured value is outside."""
        too_much = self.limit is not None and value > self.limit
        return too_much or (self.at_least is not None and value < self.at_least)

    def text(self) -> str:
        """The demand in words."""
        parts = [] if self.limit is None else [f"at most {self.limit:g}"]
        return ", ".join(parts if self.at_least is None else [*parts, f"at least {self.at_least:g}"])


def run_units(
    units: Sequence[str],
    run: Callable[[str], Mapping[str, float | str]],
    options: argparse.Namespace,
    bars: Iterable[Bar],
) -> int:
    """Run those units of a long tier that this shard owes and the record does not hold; return the exit code.

    `run(unit)` returns figures: summed over units, the largest kept where the name begins with "max_"; texts
    are printed when something is wrong. The table covers what the record holds for this shard's units.
    """
    mine = _share_of(units, options.shard)
    done = {unit: figures for unit, figures in _recorded(options.record).items() if unit in set(mine)}
    next_line = 0.0
    for unit in mine:
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _PROGRESS_SECONDS
            print(f"{time.strftime('%H:%M:%S')} {len(done)}/{len(mine)} units, next: {unit}", flush=True)
        if unit in done:
            continue
        done[unit] = dict(run(unit))
        _append(options.record, unit, done[unit])
    return print_table(totals(done.values()), bars, len(done))


def totals(rows: Iterable[Mapping[str, float | str]]) -> dict[str, float | str]:
    """Add the figures of units up."""
    sums: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str):
                sums[name] = "\n".join(filter(None, (sums.get(name, ""), value)))
            elif name.startswith("max_"):
                sums[name] = max(sums.get(name, value), value)
            else:
                sums[name] = sums.get(name, 0) + value
    return sums


def print_table(figures: Mapping[str, float | str], bars: Iterable[Bar], units: int) -> int:
    """Print figures and bars; return 1 when a bar is missed, else 0."""
    limits = {bar.name: bar for bar in bars}
    missed = {name for name, bar in limits.items() if bar.missed(float(figures.get(name, 0)))}
    print(f"\n{'figure':<34}{'measured':>14}  bar   ({units} units)")
    for name in [*figures, *(name for name in limits if name not in figures)]:
        value = figures.get(name, 0)
        if isinstance(value, str):
            continue
        verdict = "" if name not in limits else f"{limits[name].text()}{'  MISSED' if name in missed else ''}"
        print(f"{name:<34}{value:>14,.6g}  {verdict}")
    for name, text in figures.items():
        if isinstance(text, str) and text.strip():
            print(f"{name}:\n" + "\n".join(text.splitlines()[:40]))
    return 1 if missed else 0


def _share_of(units: Sequence[str], shard: str) -> list[str]:
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise SystemExit(f"--shard {shard}: give I/N with I from 1 to N, for example 1/4")
    return list(units[int(index) - 1 :: int(count)])


def _recorded(file: Path | None) -> dict[str, dict[str, float | str]]:
    if file is None or not file.exists():
        return {}
    lines = file.read_text("utf-8").splitlines()
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # the last line of a run that was killed
    return {row["unit"]: row["figures"] for row in rows}


def _append(file: Path | None, unit: str, figures: Mapping[str, float | str]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as record:
            record.write(json.dumps({"unit": unit, "figures": figures}) + "\n")
