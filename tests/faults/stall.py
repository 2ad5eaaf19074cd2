"""Shares that stall, drop, vanish, come back or are replaced: the supervisor answers on, and no file is lost.

    python tests/faults/stall.py            all cases in full, about four minutes; `--only CASE`, `--shard I/N`

A bindfs mount stands for the share: stopped by SIGSTOP it lets every call hang, killed it answers ENOTCONN.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cases import (
    Background,
    Case,
    Figures,
    Scale,
    Stream,
    answered,
    cases_main,
    done,
    missing,
    mounted,
    outcome,
    percentile,
    save,
    save_all,
    seconds_until,
    speck_dm3,
)
from harness import Agent, Bar, small_dm3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

PUBLISH_SECONDS: Final = 1.0
SCAN_SECONDS: Final = 2.0


class Share:
    """`below` seen through a FUSE file system of its own at `folder`."""

    def __init__(self, below: Path, folder: Path) -> None:
        self.below, self.folder = below, folder
        self._process: subprocess.Popen[bytes] | None = None
        for place in (below, folder):
            place.mkdir(parents=True, exist_ok=True)

    def mount(self) -> Share:
        """Make it reachable."""
        command = ("bindfs", "-f", "--multithreaded", str(self.below), str(self.folder))
        self._process = subprocess.Popen(command, start_new_session=True)
        _until(lambda: mounted(self.folder), 10, "bindfs mounts")
        return self

    def stall(self) -> None:
        """Let every call on it hang."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the stall."""
        self._send(signal.SIGCONT)

    def drop(self) -> None:
        """Take the server away: every call answers ENOTCONN at once."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def unmount(self) -> None:
        """Clear it away, however it is."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            self._send(number)
        if self._process is not None:
            self._process.wait(10)
        if mounted(self.folder):
            subprocess.run(("umount", "--lazy", str(self.folder)), check=False)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


@contextmanager
def share(folder: Path) -> Iterator[Share]:
    """A mounted share below `folder`."""
    made = Share(folder / "below", folder / "share")
    try:
        yield made.mount()
    finally:
        made.unmount()


def stall(scale: Scale, folder: Path) -> Figures:
    """The share hangs for a minute, with the worker in the middle of a file; another root is healthy."""
    stalled_seconds = scale.pick(60.0, 5.0)
    local = folder / "local"
    with share(folder) as remote, _agent(folder, remote.folder, local) as agent:
        agent.start().wait_ready()
        paths = [save(remote.below / f"large-{seed}.dm3", small_dm3(seed, 1024)) for seed in range(12)]
        agent.wait_for(lambda: done(agent) >= 3, 60, "it works on the share")
        ages, answers = _Ages(agent), []
        with Stream(local, 1.0) as stream, ages:
            time.sleep(2.0)
            remote.stall()
            asked_until = time.monotonic() + stalled_seconds
            paths += save_all(remote.below, range(20))
            while time.monotonic() < asked_until:
                answers.append(_seconds_of(lambda: agent.asked_status(60.0)))
                time.sleep(min(2.0, stalled_seconds / 10))
            remote.go_on()
            resumed = time.monotonic()
        agent.wait_for(stream.all_answered, 60, "the healthy root's files are done")
        agent.wait_for(lambda: not missing(remote.below / path.name for path in paths), 120, "all are done")
        took = time.monotonic() - resumed
    return {
        "stall_seconds_long": stalled_seconds,
        "stall_publish_delay_p99_ms": 1000 * percentile(ages.delays(), 0.99),
        "stall_publish_delay_max_ms": 1000 * max(ages.delays()),
        "stall_status_command_p99_ms": 1000 * percentile(answers, 0.99),
        "stall_status_command_median_ms": 1000 * percentile(answers, 0.5),
        "stall_healthy_files": len(stream.paths),
        "stall_healthy_delay_max_seconds": max(stream.delays()),
        "stall_lost": len(missing(paths)) + len(missing(stream.paths)),
        "stall_quarantined": _quarantined([*paths, *stream.paths]),
        "stall_done_after_seconds": took,
    }


class _Ages:
    """Looks at status.json often, and says how much older than its period it ever was."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._ages: list[float] = []
        self._background = Background(self._look, 0.02)

    def __enter__(self) -> None:
        self._background.__enter__()

    def __exit__(self, *error: object) -> None:
        self._background.__exit__(*error)

    def _look(self) -> None:
        updated = self._agent.status().get("updated")
        if updated is not None:
            self._ages.append((datetime.now(UTC) - datetime.fromisoformat(updated)).total_seconds())

    def delays(self) -> list[float]:
        """Seconds beyond the period, for each look."""
        return [max(0.0, age - PUBLISH_SECONDS) for age in self._ages] or [float("inf")]


def dropped(scale: Scale, folder: Path) -> Figures:
    """The share's server dies in the middle of the work and comes back some seconds later, several times."""
    rounds, each = scale.pick(10, 1), scale.pick(30, 10)
    resumed: list[float] = []
    with share(folder) as remote, _agent(folder, remote.folder) as agent:
        agent.start().wait_ready()
        paths: list[Path] = []
        for number in range(rounds):
            paths += save_all(remote.below, range(number * each, number * each + each))
            resumed.append(_drop_and_return(agent, remote, paths, number * each, scale.pick(5.0, 2.0)))
    return {
        "dropped_rounds": rounds,
        "dropped_files": len(paths),
        "dropped_lost": len(missing(paths)),
        "dropped_quarantined": _quarantined(paths),
        "dropped_all_done_max_seconds": max(resumed),
    }


def _drop_and_return(agent: Agent, remote: Share, paths: list[Path], before: int, away: float) -> float:
    """Drop the share while it is worked on, save a file meanwhile; return how long the rest then takes."""
    agent.wait_for(lambda: done(agent) > before, 60, "it works on the share")
    remote.drop()
    paths.append(save(remote.below / f"while-away-{before}.dm3", speck_dm3(9_000 + before)))
    time.sleep(away)
    remote.unmount()
    remote.mount()
    took = seconds_until(agent, lambda: not missing(paths), 150, "all are done after the return")
    agent.wait_for(len(paths), 20)
    return took


def read_errors(scale: Scale, folder: Path) -> Figures:
    """The first K reads of a file answer EIO, for several K: it is tried again."""
    number = scale.pick(5, 1)
    lost, injected = 0, []
    for count in range(1, number + 1):
        path = folder / f"scope-{count}" / "image.dm3"
        trace = folder / f"trace-{count}.txt"
        prefix = (
            "strace", "-f", "-qq", "-o", str(trace), "-P", str(path), "-e", "trace=read,pread64,readv",
            "-e", f"inject=read,pread64,readv:error=EIO:when=1..{count}",
        )  # fmt: skip
        with Agent(path.parent, place=folder / f"agent-{count}", prefix=prefix) as agent:
            agent.start().wait_ready()
            save(path, speck_dm3(count))
            agent.wait_for(1, 90)
        lost += outcome(path) != "classified"
        injected.append(trace.read_text().count("EIO"))
    return {
        "read_errors_files": number,
        "read_errors_injected": sum(injected),
        "read_errors_lost": lost,
        "read_errors_note": f"reads that failed, for each file: {injected}",
    }


def vanishing_root(scale: Scale, folder: Path) -> Figures:
    """The root is missing at the start, appears, is moved away, comes back, and another disk covers it."""
    scope, away = folder / "scope", folder / "away"
    each = scale.pick(20, 5)
    seconds: dict[str, float] = {}
    with _agent(folder, scope) as agent:
        agent.start().wait_ready()
        time.sleep(SCAN_SECONDS)
        created = scope.exists()
        first = save_all(away, range(each))
        away.rename(scope)
        seconds["appears"] = _resumed(agent, scope, first)
        scope.rename(away)
        _until(lambda: not _present(agent), 10, "status says that it is missing")
        second = save_all(away, range(each, 2 * each))
        away.rename(scope)
        seconds["returns"] = _resumed(agent, scope, second)
        with _tmpfs(scope):
            third = save_all(scope, range(2 * each, 3 * each), "other-disk")
            seconds["another mount"] = _resumed(agent, scope, third)
        fourth = save_all(scope, range(3 * each, 4 * each))
        seconds["unmounted"] = _resumed(agent, scope, fourth)
        agent.wait_for(lambda: answered(agent) >= 4 * each, 10, "its status counts them all")
        time.sleep(2 * SCAN_SECONDS)
        counts = agent.status()["since_start"]
    return {
        "vanishing_root_created": float(created),
        "vanishing_root_max_seconds": max(seconds.values()),
        "vanishing_root_lost": len(missing(scope / path.name for path in [*first, *second, *fourth])),
        "vanishing_root_done_twice": counts.get("classified", 0) - 4 * each,
        "vanishing_root_taken_over": counts.get("taken_over", 0),
        "vanishing_root_note": ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        + f"; {counts}",
    }


def _resumed(agent: Agent, scope: Path, paths: Iterable[Path]) -> float:
    """Seconds until files that are there already, under whatever name they were saved, are done."""
    here = [scope / path.name for path in paths]
    started = time.monotonic()
    agent.wait_for(lambda: not missing(here), 60, "its files are done")
    return time.monotonic() - started


def _present(agent: Agent) -> bool:
    folders = agent.status().get("folders") or [{"present": False}]
    return bool(folders[0]["present"])


@contextmanager
def _tmpfs(folder: Path) -> Iterator[None]:
    subprocess.run(("mount", "-t", "tmpfs", "scopewatch-test", str(folder)), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def _agent(folder: Path, *roots: Path) -> Agent:
    return Agent(
        *roots, place=folder / "agent", make_folders=False, heatmap=False, scan_seconds=SCAN_SECONDS,
        share_quiet_seconds=0.2,
    )  # fmt: skip


def _quarantined(paths: Iterable[Path]) -> int:
    return sum(outcome(path) == "quarantined" for path in paths)


def _seconds_of(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


CASES: Final = (
    Case(
        "stall",
        stall,
        (
            Bar("stall_publish_delay_p99_ms", 200),
            Bar("stall_healthy_delay_max_seconds", 10),
            Bar("stall_lost"),
            Bar("stall_quarantined"),
        ),
        needs=("root", "bindfs"),
    ),
    Case("dropped", dropped, (Bar("dropped_lost"), Bar("dropped_quarantined")), needs=("root", "bindfs")),
    Case(
        "read_errors",
        read_errors,
        (Bar("read_errors_lost"), Bar("read_errors_injected", None, at_least=1)),
        needs=("strace",),
    ),
    Case(
        "vanishing_root",
        vanishing_root,
        (
            Bar("vanishing_root_created"),
            Bar("vanishing_root_max_seconds", 5 + SCAN_SECONDS),
            Bar("vanishing_root_lost"),
            Bar("vanishing_root_done_twice"),
        ),
        needs=("root",),
    ),
)

if __name__ == "__main__":
    sys.exit(cases_main("shares that stall, drop, vanish and return", CASES))
