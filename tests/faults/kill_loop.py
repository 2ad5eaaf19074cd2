"""Rows 5, 6, 17, 18, 20, 23 of the catalogue: `kill -9` at random times while files arrive in every usual way.

A unit is one agent, killed and started again `KILLS` times, then left alone until every file has its answer.
Full run: `python tests/faults/kill_loop.py [--shard I/N] [--record FILE]`, 25 units (500 kills, 20,000 files).
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from harness import (
    EXIT_HELD,
    Agent,
    AgentTrouble,
    Bar,
    audit,
    digest,
    long_tier,
    run_units,
    small_dm3,
)

from edge_agent.sidecar import read_record

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

UNITS: Final = 25
KILLS: Final = 20
FILES: Final = 800
LONGEST_LIFE_SECONDS: Final = 3.0
SETTLED_SECONDS: Final = 400.0
BARS: Final = (
    Bar("lost"),
    Bar("stale"),
    Bar("half"),
    Bar("quarantined"),
    Bar("speaking of another file"),
    Bar("leftovers"),
    Bar("strangers"),
    Bar("not classified"),
    Bar("workers of two agents at once"),
    Bar("starts refused by a stale lock"),
    Bar("ended by itself"),
    Bar("journals moved aside"),
    Bar("tracebacks"),
    Bar("examined again when all was done"),
    Bar("max_stop_seconds", 3.0),
)


@dataclass
class Microscope:
    """Saves files in every way that instruments and copying programs have, and knows what they end as."""

    folder: Path
    random: Random
    expected: dict[Path, str] = field(default_factory=dict)
    gone: set[Path] = field(default_factory=set)
    arrived: int = 0

    def save(self) -> None:
        """Let one new file arrive; now and then overwrite, rename or delete an earlier one as well."""
        self.arrived += 1
        path = self.folder / f"{self.random.choice('abc')}{self.arrived:05d}.dm3"
        self._write(path, self.random.choice((self._in_pieces, self._renamed, self._at_once)))
        chance = self.random.random()
        if chance < 0.10:
            self._write(self._earlier(), self.random.choice((self._in_pieces, self._renamed)))
        elif chance < 0.15:
            self._rename(self._earlier(), path.with_name(f"renamed {path.name}"))
        elif chance < 0.20:
            self._delete(self._earlier())

    def _earlier(self) -> Path:
        return self.random.choice(list(self.expected))

    def _write(self, path: Path, way: object) -> None:
        content = small_dm3(self.random.getrandbits(60), self.random.choice((64, 72)))
        way(path, content)  # type: ignore[operator]
        self.expected[path] = digest(content)
        self.gone.discard(path)

    def _at_once(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)

    def _in_pieces(self, path: Path, content: bytes) -> None:
        cuts = sorted(self.random.randrange(len(content)) for _ in range(self.random.randrange(1, 5)))
        with path.open("wb", buffering=0) as file:
            for start, end in zip((0, *cuts), (*cuts, len(content)), strict=True):
                file.write(content[start:end])
                time.sleep(self.random.random() * 0.01)

    def _renamed(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f"~{path.name}.part")
        temporary.write_bytes(content)
        temporary.replace(path)

    def _rename(self, path: Path, target: Path) -> None:
        path.rename(target)
        self.expected[target] = self.expected.pop(path)
        self.gone.add(path)

    def _delete(self, path: Path) -> None:
        path.unlink()
        del self.expected[path]
        self.gone.add(path)


class Arrivals(threading.Thread):
    """Files arriving from start to end, as evenly over `seconds` as they can; `finish` lets the rest arrive."""

    def __init__(self, microscope: Microscope, files: int, seconds: float) -> None:
        super().__init__(name="microscope")
        self._microscope, self._files, self._pause_seconds = microscope, files, seconds / files
        self._hurry = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(self._files):
                self._microscope.save()
                self._hurry.wait(self._pause_seconds)
        except BaseException as error:
            self._failure = error

    def finish(self) -> None:
        """Wait for the rest; raise what a writer beside the agent must never meet."""
        self._hurry.set()
        self.join()
        if self._failure is not None:
            raise self._failure


@dataclass(frozen=True, slots=True)
class Session:
    """One unit's size."""

    kills: int = KILLS
    files: int = FILES
    seed: int = 0


def run_session(session: Session, folder: Path) -> Mapping[str, float | str]:
    """Kill, start, kill ... while files arrive; then one calm run. Return the figures."""
    random = Random(session.seed)
    microscope = Microscope(folder / "scope", random=Random(session.seed + 1))
    figures: dict[str, float | str] = {}
    with Agent(microscope.folder, place=folder / "agent") as agent:
        arrivals = Arrivals(microscope, session.files, session.kills * 2.5)
        arrivals.start()
        try:
            for _ in range(session.kills):
                _live_and_die(agent, random, figures)
        finally:
            arrivals.finish()
        _start(agent, figures, ())
        _settle(agent, microscope, figures)
        _stop(agent, figures)
        _nothing_again(agent, microscope, figures)
        _judge(microscope, agent, figures)
    return figures


def _count(figures: dict[str, float | str], name: str, by: float = 1) -> None:
    figures[name] = float(figures.get(name, 0)) + by


def _live_and_die(agent: Agent, random: Random, figures: dict[str, float | str]) -> None:
    """One life: killed at a random time after its start, or after it was ready."""
    before = agent.worker_pids()
    life_seconds = random.random() * LONGEST_LIFE_SECONDS
    if random.random() < 0.5:
        agent.start()
    else:
        _start(agent, figures, before)
    time.sleep(life_seconds)
    if agent.exit_code is not None:
        _count(figures, "starts refused by a stale lock", agent.exit_code == EXIT_HELD)
        _count(figures, "ended by itself")
    agent.kill()
    _count(figures, "kills")


def _start(agent: Agent, figures: dict[str, float | str], before: tuple[int, ...]) -> None:
    """Start at once after a kill; by the time it is ready, the worker of the earlier life must be dead."""
    before = before or agent.worker_pids()
    agent.start()
    try:
        agent.wait_ready()
    except AgentTrouble as trouble:
        _count(figures, "starts refused by a stale lock", agent.exit_code == EXIT_HELD)
        figures["trouble"] = f"{figures.get('trouble', '')}{trouble}\n"
        return
    _count(figures, "workers of two agents at once", len(set(before) & set(agent.worker_pids())))


def _settle(agent: Agent, microscope: Microscope, figures: dict[str, float | str]) -> None:
    started = time.monotonic()

    def answered() -> bool:
        time.sleep(0.5)
        seen = audit(microscope.expected, gone=microscope.gone)
        return not (seen.missing or seen.stale or seen.half)

    try:
        agent.wait_for(answered, SETTLED_SECONDS, "an answer for every file")
    except AgentTrouble as trouble:
        figures["trouble"] = f"{figures.get('trouble', '')}{trouble}\n"
    figures["max_calm_seconds"] = time.monotonic() - started
    _count(figures, "journals moved aside", bool(agent.status().get("journal_rebuilt")))


def _stop(agent: Agent, figures: dict[str, float | str]) -> None:
    seconds = agent.terminate()
    figures["max_stop_seconds"] = max(seconds, float(figures.get("max_stop_seconds", 0)))
    _count(figures, "ended by itself", agent.exit_code != 0)


def _nothing_again(agent: Agent, microscope: Microscope, figures: dict[str, float | str]) -> None:
    """Start once more when all is done: nothing is examined again."""
    before = _finished(microscope)
    agent.start().wait_ready()
    time.sleep(2.5)
    _stop(agent, figures)
    after = _finished(microscope)
    _count(figures, "examined again when all was done", sum(before[path] != after[path] for path in before))


def _finished(microscope: Microscope) -> dict[Path, object]:
    records = {path: read_record(path.with_name(path.name + ".json")) for path in microscope.expected}
    return {path: record and record.agent.finished for path, record in records.items()}


def _judge(microscope: Microscope, agent: Agent, figures: dict[str, float | str]) -> None:
    seen, log = audit(microscope.expected, gone=microscope.gone), agent.text()
    figures |= {
        "files": microscope.arrived,
        "files at the end": seen.checked,
        "lost": len(seen.missing),
        "stale": len(seen.stale),
        "half": len(seen.half),
        "quarantined": len(seen.quarantined),
        "speaking of another file": len(seen.duplicates),
        "leftovers": len(seen.leftovers),
        "strangers": len(seen.strangers),
        "not classified": sum(n for outcome, n in seen.outcomes.items() if outcome != "classified"),
        "tracebacks": log.count("Traceback"),
    }
    _count(figures, "journals moved aside", log.count("cannot be used"))
    if not seen.ok or "Traceback" in log:
        figures["trouble"] = f"{figures.get('trouble', '')}seed {microscope.folder}: {seen.text()}\n"
    if "Traceback" in log:
        figures["log"] = log[log.index("Traceback") :][:3000]


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument("--kills", type=int, default=KILLS, help="kills in each unit")
    parser.add_argument("--files", type=int, default=FILES, help="files in each unit")
    parser.add_argument("--units", type=int, default=UNITS)
    options: argparse.Namespace = parser.parse_args()

    def run(unit: str) -> Mapping[str, float | str]:
        session = Session(options.kills, options.files, seed=1000 * options.seed + int(unit))
        with tempfile.TemporaryDirectory(prefix="scopewatch-kills-") as folder:
            return run_session(session, Path(folder))

    return run_units([str(number) for number in range(options.units)], run, options, BARS)


if __name__ == "__main__":
    sys.exit(main())
