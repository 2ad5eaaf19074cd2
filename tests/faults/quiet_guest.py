"""A quiet guest on the instrument's PC: the writer feels nothing, the log stays small, the end is quick.

python tests/faults/quiet_guest.py      all cases in full, about nine minutes; `--only CASE`, `--shard I/N`
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final
from unittest import mock

import psutil
from cases import (
    Case,
    Figures,
    Scale,
    cases_main,
    mib,
    missing,
    percentile,
    save,
    save_all,
    seconds_until,
    sidecar,
    speck_dm3,
)
from harness import _MAIN, EXIT_HELD, Agent, Bar, small_dm3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

END_LIMIT_SECONDS: Final = 3.0


# --- beside a writer -------------------------------------------------------------------------------------------


def writer(scale: Scale, folder: Path) -> Figures:
    """Write, rename, delete: blocks with the agent and without it in turns; every tenth file stays."""
    blocks, each = scale.pick((20, 500), (4, 100))
    scope = folder / "scope"
    content = small_dm3(1)
    with_agent: list[float] = []
    without: list[float] = []
    priorities: set[str] = set()
    errors, kept = 0, []
    with Agent(scope, place=folder / "agent", scan_seconds=1.0) as agent:
        for block in range(blocks):
            agent.start().wait_ready()
            for beside, times in ((True, with_agent), (False, without)):
                if not beside:
                    priorities |= _priorities(agent)
                    agent.terminate()
                result = _cycles(scope, content, each // 2, f"{block}-{int(beside)}")
                times += result.seconds
                errors += result.errors
                kept += result.kept
        agent.start().wait_ready()
        agent.wait_for(lambda: not missing(kept), 240, "the files that stayed are done")
    p99_with, p99_without = (1000 * percentile(times, 0.99) for times in (with_agent, without))
    over = p99_with - p99_without
    return {
        "writer_cycles": len(with_agent) + len(without),
        "writer_errors": errors,
        "writer_p99_with_agent_ms": p99_with,
        "writer_p99_without_agent_ms": p99_without,
        # Ten percent or 5 ms, whichever is more.
        "writer_p99_beyond_ten_percent_ms": max(0.0, over if over > 0.1 * p99_without else 0.0),
        "writer_median_with_agent_ms": 1000 * percentile(with_agent, 0.5),
        "writer_median_without_agent_ms": 1000 * percentile(without, 0.5),
        "writer_files_that_stayed": len(kept),
        "writer_lost": len(missing(kept)),
        "writer_normal_priority": sum("normal" in text for text in priorities),
        "writer_note": "; ".join(sorted(priorities)),
    }


class _Cycles:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors = 0
        self.kept: list[Path] = []


def _cycles(scope: Path, content: bytes, number: int, block: str) -> _Cycles:
    result = _Cycles()
    for place in range(number):
        temporary, final = scope / f"{block}-{place}.part", scope / f"{block}-{place}.dm3"
        started = time.perf_counter()
        try:
            save(temporary, content)
            temporary.rename(final)
            if place % 10:
                final.unlink()
        except OSError:
            result.errors += 1
        result.seconds.append(time.perf_counter() - started)
        if place % 10 == 0:
            result.kept.append(final)
        # A microscope saves ten times a second at most; two hundred is hard enough.
        time.sleep(0.005)
    return result


def _priorities(agent: Agent) -> set[str]:
    found = set()
    for pid, role in agent.processes().items():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            nice, disk = process.nice(), process.ionice()
            low = nice > 0 and disk.ioclass == psutil.IOPRIO_CLASS_IDLE
            found.add(f"{role}: nice {nice}, {disk.ioclass.name}{'' if low else ' (normal)'}")
    return found


# --- logs ------------------------------------------------------------------------------------------------------


def standing_faults(scale: Scale, folder: Path) -> Figures:
    """A minute with a read-only folder, a missing one, a full disk, one below the floor: at most one line each.

    One on the terminal and one in the log file, that is: these are two readers.
    """
    watch_seconds = scale.pick(60.0, 4.0)
    with ExitStack() as stack:
        agents = {name: stack.enter_context(_faulty(name, folder / name)) for name in FAULTS}
        for agent in agents.values():
            agent.start().wait_ready()
        time.sleep(5.0)
        before = {name: _logged(agent) for name, agent in agents.items()}
        time.sleep(watch_seconds)
        after = {name: _logged(agent) for name, agent in agents.items()}
    fresh = {
        (name, sink): after[name][sink][len(before[name][sink]) :] for name in FAULTS for sink in range(2)
    }
    first = {(name, sink): before[name][sink] for name in FAULTS for sink in range(2)}
    return {
        "standing_faults_watched_seconds_long": watch_seconds,
        "standing_faults_lines_a_minute": max(map(len, fresh.values())) / max(1.0, watch_seconds / 60),
        "standing_faults_lines_at_first": max(map(len, first.values())),
        "standing_faults_silent": sum(not any(_tells(line) for line in first[name, 1]) for name in FAULTS),
        "standing_faults_note": "\n".join(
            f"{name}, {('terminal', 'log file')[sink]}: {len(first[name, sink])} at first, then {len(texts)}"
            + "".join(f"\n    {text}" for text in [*first[name, sink][:3], *texts[:3]])
            for (name, sink), texts in fresh.items()
        ),
    }


def _tells(line: str) -> bool:
    return any(word in line for word in ("cannot be written", "missing", "free", "space", "room"))


FAULTS: Final = ("read-only folder", "missing folder", "full disk", "below the floor")


@contextmanager
def _faulty(name: str, folder: Path) -> Iterator[Agent]:
    scope = folder / "scope"
    scope.mkdir(parents=True)
    more: dict[str, object] = {"free_space_floor_mib": 1024} if name == "below the floor" else {}
    with ExitStack() as stack:
        if name == "missing folder":
            scope.rmdir()
        elif name == "read-only folder":
            save_all(scope, range(20))
            stack.enter_context(_mount(scope, "--bind", str(scope)))
            subprocess.run(("mount", "-o", "remount,bind,ro", str(scope)), check=True)
        else:
            size = "256k" if name == "full disk" else "1m"
            stack.enter_context(_mount(scope, "-t", "tmpfs", "-o", f"size={size}", "scopewatch-test"))
            save_all(scope, range(20))
            if name == "full disk":
                _fill(scope / "ballast")
        yield stack.enter_context(
            Agent(scope, place=folder / "agent", make_folders=False, heatmap=False, **more)
        )


@contextmanager
def _mount(place: Path, *arguments: str) -> Iterator[None]:
    subprocess.run(("mount", *arguments, str(place)), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)


def _fill(ballast: Path) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as handle:
        while True:
            handle.write(bytes(1024))


def _logged(agent: Agent) -> tuple[list[str], list[str]]:
    """The lines on its terminal, and in its own log files."""
    own = sorted(agent.state.rglob("*.log"))
    return agent.text().splitlines(), [line for file in own for line in file.read_text().splitlines()]


def log_files(scale: Scale, folder: Path) -> Figures:
    """What the agent's log handler leaves on the disk of far too many messages (quick: all in a hundredth)."""
    from edge_agent import logs

    logger, text, hundredth = logging.getLogger("edge_agent.test"), "x" * 4_000, scale.pick(1, 100)
    messages = 80 * 2**20 // len(text) // hundredth
    with mock.patch.object(logs, "_MIB", 2**20 // hundredth):
        handler = logs.log_to_file(folder / "log")
    if handler is None:
        raise AssertionError("no log file can be written")
    try:
        for number in range(messages):
            logger.info("%d %s", number, text)
    finally:
        logging.getLogger("edge_agent").removeHandler(handler)
        handler.close()
    written = sum(file.stat().st_size for file in (folder / "log").iterdir())
    return {
        "log_files_messages_mib": mib(messages * len(text) * hundredth),
        "log_files_left_mib": mib(written * hundredth),
    }


# --- ending, suspending, a second one ---------------------------------------------------------------------------


def ending(scale: Scale, folder: Path) -> Figures:
    """SIGTERM and SIGINT at random moments of the work."""
    times, scope, source = scale.pick(50, 4), folder / "scope", random.Random(scale.quick)
    took: list[float] = []
    codes: list[int | None] = []
    left = 0
    with Agent(scope, place=folder / "agent") as agent:
        for number in range(times):
            save_all(scope, range(20 * number, 20 * number + 20))
            agent.start()
            agent.wait_for(lambda: agent.status().get("pid") == agent.pid, 30, "it runs")
            time.sleep(source.uniform(0, scale.pick(3.0, 1.0)))
            took.append(_ended_by(agent, (signal.SIGTERM, signal.SIGINT)[number % 2]))
            codes.append(agent.exit_code)
            left += len(agent.processes())
    return {
        "ending_times": times,
        "ending_max_seconds": max(took),
        "ending_median_seconds": percentile(took, 0.5),
        "ending_other_exit_codes": sum(code != 0 for code in codes),
        "ending_processes_left": left,
        "ending_note": "" if set(codes) == {0} else f"exit codes {codes}",
    }


def _ended_by(agent: Agent, number: int) -> float:
    agent.signal(number)
    return seconds_until_ended(agent, 20.0)


def seconds_until_ended(agent: Agent, limit: float) -> float:
    """Wait for its end and return how long it took."""
    started = time.monotonic()
    agent.wait_for(lambda: agent.exit_code is not None, limit, "it ends", may_end=True)
    return time.monotonic() - started


def second_agent(scale: Scale, folder: Path) -> Figures:
    """Another agent on the same state folder, and one with another state on the same watched folder."""
    scope = folder / "scope"
    figures: Figures = {
        "second_agent_max_seconds": 0.0,
        "second_agent_wrong_exits": 0,
        "second_agent_silent": 0,
    }
    with Agent(scope, place=folder / "agent") as agent, Agent(scope, place=folder / "other") as other:
        agent.start().wait_ready()
        for config in (agent.config_file, other.config_file):
            started = time.monotonic()
            # The same TMPDIR, as for two programs of one user: the locks of watched folders lie there.
            done = subprocess.run(
                (sys.executable, "-P", "-c", _MAIN, "watch", "--config", str(config)),
                env=os.environ | {"TMPDIR": str(agent.place / "tmp")},
                capture_output=True, text=True, timeout=30, check=False, cwd=folder,
            )  # fmt: skip
            took = time.monotonic() - started
            figures["second_agent_max_seconds"] = max(float(figures["second_agent_max_seconds"]), took)
            figures["second_agent_wrong_exits"] = float(figures["second_agent_wrong_exits"]) + (
                done.returncode != EXIT_HELD
            )
            figures["second_agent_silent"] = float(figures["second_agent_silent"]) + (
                "another agent already holds" not in done.stderr
            )
        save(scope / "still-served.dm3", speck_dm3(1))
        agent.wait_for(1, 20)
    return figures


def suspended(scale: Scale, folder: Path) -> Figures:
    """The PC sleeps for a minute (both processes stopped); a file was saved meanwhile."""
    asleep_seconds, scope = scale.pick(60.0, 3.0), folder / "scope"
    with Agent(scope, place=folder / "agent", wall_limit_seconds=5.0, heatmap=False) as agent:
        agent.start().wait_ready()
        before = save_all(scope, range(50))
        agent.wait_for(lambda: not missing(before[:5]), 30, "it works")
        pids = list(agent.processes())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        path = save(scope / "meanwhile.dm3", speck_dm3(99))
        time.sleep(asleep_seconds)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        took = seconds_until(agent, lambda: sidecar(path).exists(), 60, "the file is done")
        agent.wait_for(lambda: not missing(before), 30, "all are done")
        status = agent.status()
    return {
        "suspended_seconds_long": asleep_seconds,
        "suspended_resumed_seconds": took,
        "suspended_worker_deaths": status["worker"]["deaths"],
        "suspended_lost": len(missing([*before, path])),
    }


CASES: Final = (
    Case(
        "writer",
        writer,
        (
            Bar("writer_errors"),
            Bar("writer_p99_beyond_ten_percent_ms", 5),
            Bar("writer_lost"),
            Bar("writer_normal_priority"),
        ),
    ),
    Case("standing_faults", standing_faults, (Bar("standing_faults_lines_a_minute", 1),), needs=("root",)),
    Case("log_files", log_files, (Bar("log_files_left_mib", 60),)),
    Case(
        "ending",
        ending,
        (
            Bar("ending_max_seconds", END_LIMIT_SECONDS),
            Bar("ending_other_exit_codes"),
            Bar("ending_processes_left"),
        ),
    ),
    Case(
        "second_agent",
        second_agent,
        (
            Bar("second_agent_max_seconds", 2),
            Bar("second_agent_wrong_exits"),
            Bar("second_agent_silent"),
        ),
    ),
    Case("suspended", suspended, (Bar("suspended_resumed_seconds", 5), Bar("suspended_lost"))),
)

if __name__ == "__main__":
    sys.exit(cases_main("the agent as a guest", CASES))
