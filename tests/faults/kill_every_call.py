"""Row 17 of the catalogue: death at every mutating system call of the commit, and at every write of the journal.

strace is attached to the process in question and kills it as it enters the K-th call of one kind, with K
counting up until the file is answered without a death. Who dies: "worker" (a living supervisor goes on),
"both" (the supervisor is killed the moment that the worker is dead, and started again), "journal" (the
supervisor, at calls on its journal), "start" (the supervisor, at calls on its journal while it starts).
Full run: `python tests/faults/kill_every_call.py [--shard I/N] [--record FILE]`.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import Agent, AgentTrouble, Bar, audit, digest, long_tier, run_units, small_dm3
from power_loss import spectrum, why_no_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ANSWER_SECONDS: Final = 30.0
MOST_POINTS: Final = 60
"""No commit has so many calls of one kind; the last points of a longer one would be left out."""
COMMIT_CALLS: Final = ("openat", "write", "fsync", "rename", "unlink", "mkdir", "close")
JOURNAL_CALLS: Final = ("pwrite64", "fdatasync", "fsync", "ftruncate", "unlink", "openat")
HISTORIES: Final = ("first", "overwritten", "no image")
BARS: Final = (
    Bar("lost"),
    Bar("stale"),
    Bar("half"),
    Bar("torn right after a death"),
    Bar("quarantined"),
    Bar("leftovers"),
    Bar("strangers"),
    Bar("wrong outcome"),
    Bar("ended by itself"),
    Bar("tracebacks"),
    Bar("points that were not survived"),
)


@dataclass
class Bench:
    """One agent, the files that it should have answered, and what was seen."""

    agent: Agent
    folder: Path
    expected: dict[Path, str] = field(default_factory=dict)
    outcomes: dict[Path, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    torn: list[str] = field(default_factory=list)
    not_survived: list[str] = field(default_factory=list)
    points: int = 0

    def save(self, path: Path, content: bytes, outcome: str = "classified") -> None:
        path.write_bytes(content)
        self.expected[path], self.outcomes[path] = digest(content), outcome

    def answered(self) -> bool:
        """Whether all is as it should be, leftovers gone included."""
        return audit(self.expected).ok

    def look_after_a_death(self) -> None:
        """Nobody may find a record that is not whole, at any time; the heatmap may be ahead of it."""
        self.torn += [text for text in audit(self.expected).half if text.endswith("(no valid record)")]

    def wait(self, what: str) -> None:
        try:
            self.agent.wait_for(self.answered, ANSWER_SECONDS, "an answer for every file")
        except AgentTrouble as trouble:
            seen = audit(self.expected)
            self.not_survived.append(f"{what}: {seen.text()}; {trouble}")
            self.agent.kill_everything()
            for leftover in seen.leftovers:
                Path(leftover).unlink()
            self.agent.start().wait_ready()

    def figures(self) -> dict[str, float | str]:
        seen, log = audit(self.expected), self.agent.text()
        wanted = {outcome: list(self.outcomes.values()).count(outcome) for outcome in self.outcomes.values()}
        return {
            "points": self.points,
            "files": len(self.expected),
            "lost": len(seen.missing),
            "stale": len(seen.stale),
            "half": len(seen.half),
            "torn right after a death": len(self.torn),
            "quarantined": len(seen.quarantined),
            "leftovers": len(seen.leftovers),
            "strangers": len(seen.strangers),
            "wrong outcome": sum(abs(seen.outcomes.get(name, 0) - count) for name, count in wanted.items()),
            "ended by itself": self.agent.exit_code is not None,
            "tracebacks": log.count("Traceback"),
            "points that were not survived": len(self.not_survived),
            "trouble": "\n".join([*self.not_survived[:3], *self.torn[:3], "" if seen.ok else seen.text()]),
        }


@contextmanager
def killing(
    process: int, call: str, number: int, paths: tuple[Path, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Attach to a process so that its `number`-th such call (on one of `paths`) is never carried out."""
    command = ["strace", "-f", "-p", str(process), "-o", os.devnull, *_injection(call, number, paths)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        seen = ""
        while tracer.stderr is not None and "attached" not in seen:
            line = tracer.stderr.readline()
            if not line:
                raise AgentTrouble(f"cannot trace process {process}: {seen}")
            seen += line
        yield tracer
    finally:
        tracer.terminate()
        tracer.wait(10)
        if tracer.stderr is not None:
            tracer.stderr.close()


def _injection(call: str, number: int, paths: tuple[Path, ...]) -> list[str]:
    watched = [word for path in paths for word in ("-P", str(path))]
    return ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}", *watched]


def journal_files(agent: Agent) -> tuple[Path, ...]:
    """The journal as SQLite keeps it."""
    return tuple(agent.state / f"journal.sqlite{ending}" for ending in ("", "-wal", "-shm", "-journal"))


def enumerate_calls(
    who: str, history: str, call: str, folder: Path, most: int = MOST_POINTS
) -> Mapping[str, float | str]:
    """Kill at the first such call, the second, ... until the file is answered without a death, or `most`."""
    if who == "start":
        return _enumerate_start(call, folder, most)
    with Agent(folder / "scope", place=folder / "agent") as agent:
        bench = Bench(agent, folder / "scope")
        agent.start().wait_ready()
        for number in range(1, most + 1):
            if not _die_once(bench, who, history, call, number):
                break
        return bench.figures()


def _die_once(bench: Bench, who: str, history: str, call: str, number: int) -> bool:
    """One point; False when the file was answered without a death, because there are no more such calls."""
    path = bench.folder / f"{next(bench.numbers):04d}.dm3"
    # A file of its own first: what is loaded at the first examination is no part of the commit.
    bench.save(
        path if history != "first" else path.with_name(f"warm {path.name}"), small_dm3(next(bench.numbers))
    )
    bench.wait("before the death")
    victim = bench.agent.supervisor_pid if who == "journal" else bench.agent.worker_pid
    if victim is None:
        raise AgentTrouble(f"no process to kill: {bench.agent.processes()}")
    paths = journal_files(bench.agent) if who == "journal" else ()
    with killing(victim, call, number, paths) as tracer:
        if history == "no image":
            bench.save(path, spectrum(number), "not_an_image")
        else:
            bench.save(path, small_dm3(10**6 + next(bench.numbers)))
        died = _died(bench, tracer)
    if died:
        bench.points += 1
        _go_on(bench, who)
    bench.wait(f"{who}, {history}, {call} number {number}")
    return died


def _died(bench: Bench, tracer: subprocess.Popen[str]) -> bool:
    """Wait for the death, or for the answer and the journal's row of it."""
    deadline = time.monotonic() + ANSWER_SECONDS
    answered_at = None
    while time.monotonic() < deadline:
        if tracer.poll() is not None:
            return True
        if answered_at is None and bench.answered():
            answered_at = time.monotonic()
        # The row in the journal and the numbers follow the sidecar.
        if answered_at is not None and time.monotonic() > answered_at + 0.7:
            return False
        time.sleep(0.01)
    return False


def _go_on(bench: Bench, who: str) -> None:
    agent = bench.agent
    if who == "both":
        agent.kill()
    if who in ("both", "journal"):
        bench.look_after_a_death()
        agent.wait_for(lambda: agent.exit_code is not None, 10, "its end", may_end=True)
        agent.start().wait_ready()
    bench.look_after_a_death()


def _enumerate_start(call: str, folder: Path, most: int) -> Mapping[str, float | str]:
    """Kill at each call on the journal between the start and the first answers; then start undisturbed."""
    with Agent(folder / "scope", place=folder / "agent") as agent:
        bench = Bench(agent, folder / "scope")
        for number in range(1, most + 1):
            # Every other time without a journal, so that it is also made anew under fire.
            for file in journal_files(agent) if number % 2 else ():
                file.unlink(missing_ok=True)
            bench.save(bench.folder / f"{number:04d}.dm3", small_dm3(number))
            if not _start_and_die(bench, call, number):
                break
        else:
            agent.start().wait_ready()
        return bench.figures()


def _start_and_die(bench: Bench, call: str, number: int) -> bool:
    agent = bench.agent
    agent.prefix = ("strace", "-f", "-o", os.devnull, *_injection(call, number, journal_files(agent)))
    agent.start()
    try:
        agent.wait_for(bench.answered, ANSWER_SECONDS, "an answer for every file", may_end=False)
        died = False
    except AgentTrouble:
        died = agent.supervisor_pid is None
    agent.kill_everything()
    agent.prefix = ()
    bench.points += died
    bench.look_after_a_death()
    agent.start().wait_ready()
    bench.wait(f"start, {call} number {number}")
    if not died:
        return False
    agent.signal(signal.SIGTERM)
    agent.wait_for(lambda: agent.exit_code is not None, 10, "its end", may_end=True)
    return True


def units() -> list[str]:
    """Every combination, as the text that names it."""
    commits = [
        (who, history, call) for who in ("worker", "both") for history in HISTORIES for call in COMMIT_CALLS
    ]
    journals = [("journal", "first", call) for call in JOURNAL_CALLS]
    starts = [("start", "first", call) for call in JOURNAL_CALLS]
    return [", ".join(parts) for parts in (*commits, *journals, *starts)]


def run_unit(unit: str, most: int = MOST_POINTS) -> Mapping[str, float | str]:
    """Carry out one combination in a folder of its own."""
    who, history, call = unit.split(", ")
    with tempfile.TemporaryDirectory(prefix="scopewatch-calls-") as folder:
        figures = enumerate_calls(who, history, call, Path(folder), most)
    return {**figures, f"points: {who}": figures["points"]}


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument("--only", default="", help="only units whose text holds this")
    options = parser.parse_args()
    reason = why_no_trace()
    if reason:
        raise SystemExit(reason)
    chosen = [unit for unit in units() if options.only in unit]
    return run_units(chosen, run_unit, options, (*BARS, Bar("points", None, at_least=1)))


if __name__ == "__main__":
    sys.exit(main())
