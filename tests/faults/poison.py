"""Files that kill, hang or bloat the worker, and things that are no files: healthy ones hardly notice.

python tests/faults/poison.py           all cases in full, about six minutes; `--only CASE`, `--shard I/N`
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psutil
from cases import (
    Background,
    Case,
    Figures,
    Sample,
    Scale,
    Stream,
    cases_main,
    mib,
    model_of,
    outcome,
    sample,
    save,
    sidecar,
    speck_dm3,
)
from dm_builder import Image, dm_pieces, document, write_pieces
from harness import Agent, Bar
from poison_agent import PREFIX
from poison_worker import LOG_VARIABLE, SLOW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DEADLY: Final = ("segv", "bomb", "busy", "abort", "sleep")
ATTEMPTS: Final = 3
MEMORY_LIMIT_MIB: Final = 2048


class _Log:
    """What the poison worker notes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def lines(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def tries(self) -> Counter[str]:
        return Counter(line["name"] for line in self.lines())


def _agent(folder: Path, log: _Log, **config: object) -> Agent:
    return Agent(
        folder / "scope", place=folder / "agent", prefix=PREFIX, environment={LOG_VARIABLE: str(log.file)},
        heatmap=False, memory_limit_mib=MEMORY_LIMIT_MIB, **config,
    )  # fmt: skip


def deadly(scale: Scale, folder: Path) -> Figures:
    """Each kind of deadly file among healthy ones that keep coming; afterwards a restart."""
    log, scope = _Log(folder / "tries"), folder / "scope"
    wall_seconds = scale.pick(12.0, 2.0)
    poison = [scope / f"poison-{kind}.dm3" for kind in DEADLY[: scale.pick(5, 3)]]
    samples: list[Sample] = []
    with _agent(folder, log, wall_limit_seconds=wall_seconds) as agent:
        agent.start().wait_ready()
        pid = agent.supervisor_pid or 0
        looker = Background(lambda: samples.append(sample(pid, time.monotonic())), 0.25)
        with looker, Stream(scope, 0.5) as stream:
            time.sleep(1.0)
            for number, path in enumerate(poison):
                save(path, speck_dm3(number))
            time.sleep(scale.pick(60.0, 6.0))
        agent.wait_for(stream.all_answered, 60, "the healthy files are done")
        agent.wait_for(
            lambda: _all_quarantined(poison), scale.pick(400, 60), "the deadly ones are quarantined"
        )
        agent.wait_for(lambda: agent.status()["done"].get("quarantined") == len(poison), 10, "status says so")
        worker = _worker(agent)
        agent.terminate()
        tries = log.tries()
        agent.start().wait_ready()
        time.sleep(3.0)
        again = sum(log.tries().values()) - sum(tries.values())
    return {
        "deadly_files": len(poison),
        "deadly_not_quarantined": sum(outcome(path) != "quarantined" for path in poison),
        "deadly_tries_min": min(tries[path.name] for path in poison),
        "deadly_tries_max": _counted(tries, poison),
        "deadly_healthy_files": len(stream.paths),
        "deadly_healthy_delay_max_seconds": max(stream.delays()),
        "deadly_healthy_not_classified": sum(outcome(path) != "classified" for path in stream.paths),
        "deadly_supervisor_rss_growth_mib": samples[-1].rss_mib - samples[0].rss_mib,
        "deadly_tried_after_restart": again,
        "deadly_note": f"tries: {_of(tries, poison)}; {worker}; later than 5 s: {stream.slow(5)}",
    }


def _counted(tries: Counter[str], poison: Iterable[Path]) -> int:
    """The most tries of a file that dies at once. One that takes its time may be sent away for others' sake."""
    return max(tries[path.name] for path in poison if "segv" in path.name or "abort" in path.name)


def _of(tries: Counter[str], paths: Iterable[Path]) -> str:
    return ", ".join(f"{path.name} {tries[path.name]}" for path in paths)


def _worker(agent: Agent) -> str:
    worker = agent.status().get("worker", {})
    return f"worker starts {worker.get('starts')}, deaths {worker.get('deaths')}"


def _all_quarantined(paths: Iterable[Path]) -> bool:
    return all(outcome(path) == "quarantined" for path in paths)


def wall_limit(scale: Scale, folder: Path) -> Figures:
    """A hanging file alone: the worker is ended at the limit."""
    log, scope, limit_seconds = _Log(folder / "tries"), folder / "scope", scale.pick(30.0, 2.0)
    with _agent(folder, log, wall_limit_seconds=limit_seconds) as agent:
        agent.start().wait_ready()
        save(scope / "poison-busy.dm3", speck_dm3(1))
        agent.wait_for(log.lines, 20, "it is tried")
        (first,) = log.lines()
        agent.wait_for(lambda: not psutil.pid_exists(first["pid"]), limit_seconds + 30, "the worker is ended")
        took = time.time() - first["moment"]
        save(scope / "healthy.dm3", speck_dm3(2))
        agent.wait_for(lambda: sidecar(scope / "healthy.dm3").exists(), 30, "the next file is done")
    return {"wall_limit_asked_seconds": limit_seconds, "wall_limit_off_by_seconds": abs(took - limit_seconds)}


def quarantine_ends(scale: Scale, folder: Path) -> Figures:
    """A quarantined file is tried again when it changes, and when the model does; not otherwise."""
    log, scope = _Log(folder / "tries"), folder / "scope"
    path = scope / "poison-segv.dm3"
    models = [model_of(seed, folder) for seed in (1, 2)]
    seen = []
    with _agent(folder, log, model=models[0], wall_limit_seconds=2.0) as agent:
        agent.start().wait_ready()
        save(path, speck_dm3(1))
        seen.append(_tries_until_quarantined(agent, path, log, 0))
        changed_from = _written(path)
        save(path, speck_dm3(2))
        seen.append(_tries_until_quarantined(agent, path, log, changed_from))
        agent.terminate()
    modelled_from = _written(path)
    with _agent(folder, log, model=models[1], wall_limit_seconds=2.0) as agent:
        agent.start().wait_ready()
        seen.append(_tries_until_quarantined(agent, path, log, modelled_from))
    return {
        "quarantine_tries": seen[0],
        "quarantine_tries_after_change": seen[1] - seen[0],
        "quarantine_tries_after_new_model": seen[2] - seen[1],
    }


def _tries_until_quarantined(agent: Agent, path: Path, log: _Log, before: int) -> int:
    """Wait for a quarantine newer than the record of `before`, and a little longer; return all tries so far."""

    def settled() -> bool:
        return _written(path) != before and outcome(path) == "quarantined"

    agent.wait_for(settled, 60, "it is quarantined")
    time.sleep(2.0)
    return log.tries()[path.name]


def _written(path: Path) -> int:
    return sidecar(path).stat().st_mtime_ns if sidecar(path).exists() else 0


def supervisor_killed(scale: Scale, folder: Path) -> Figures:
    """Five times the supervisor is killed while a healthy file is examined: nothing counts against the file."""
    log, scope, kills = _Log(folder / "tries"), folder / "scope", scale.pick(5, 2)
    path = scope / "slow.dm3"
    outlived = 0
    with _agent(folder, log) as agent:
        save(path, speck_dm3(1))
        for number in range(kills):
            agent.start()
            agent.wait_for(lambda: log.tries()[path.name] > number, 30, "the file is examined")  # noqa: B023
            agent.kill()
            time.sleep(0.5)
            outlived += len(agent.worker_pids())
        save(scope / "other.dm3", speck_dm3(2))
        agent.start()
        agent.wait_for(2, 30 + SLOW_SECONDS)
        order = [line["name"] for line in log.lines()][kills:]
    return {
        "supervisor_killed_times": kills,
        "supervisor_killed_not_classified": float(outcome(path) != "classified"),
        "supervisor_killed_workers_left": outlived,
        "supervisor_killed_suspect_first": float(order != ["other.dm3", "slow.dm3"]),
        "supervisor_killed_note": f"order after the last start: {order}",
    }


def odd_things(scale: Scale, folder: Path) -> Figures:
    """FIFOs, sockets, devices, loops of links, huge holes and tag bombs, among healthy files; the real worker."""
    scope, beside = folder / "scope", folder / "beside"
    for place in (scope, beside):
        place.mkdir()
    save(beside / "outside.dm3", speck_dm3(77))
    peak = [0.0]
    with Agent(scope, place=folder / "agent", heatmap=False, stalled_seconds=3.0) as agent:
        agent.start().wait_ready()

        def look() -> None:
            with suppress(psutil.Error):
                workers = agent.worker_pids()
                peak[0] = max([peak[0], *(mib(psutil.Process(pid).memory_info().rss) for pid in workers)])

        pid = agent.supervisor_pid or 0
        before = sample(pid)
        with Background(look, 0.1), Stream(scope, 0.5) as stream:
            time.sleep(1.0)
            never = _no_files(scope, beside)
            bombs = _bombs(scope)
            time.sleep(scale.pick(20.0, 3.0))
        agent.wait_for(stream.all_answered, 60, "the healthy files are done")
        agent.wait_for(lambda: all(outcome(path) for path in bombs), 60, "each bomb has its answer")
        after, status = sample(pid), agent.status()
    touched = [path.name for path in never if sidecar(path).exists()]
    return {
        "odd_things_files": len(never) + len(bombs),
        "odd_things_no_file_answered": len(touched) + sidecar(beside / "outside.dm3").exists(),
        "odd_things_bombs_classified": sum(outcome(path) == "classified" for path in bombs),
        "odd_things_worker_deaths": status["worker"]["deaths"],
        "odd_things_worker_peak_mib": peak[0],
        "odd_things_supervisor_rss_growth_mib": after.rss_mib - before.rss_mib,
        "odd_things_healthy_delay_max_seconds": max(stream.delays()),
        "odd_things_healthy_not_classified": sum(outcome(path) != "classified" for path in stream.paths),
        "odd_things_note": ", ".join([f"{path.name} {outcome(path)}" for path in bombs] + touched),
    }


def _no_files(scope: Path, beside: Path) -> list[Path]:
    """Things with a micrograph's name that nobody should open."""
    os.mkfifo(scope / "fifo.dm3")
    _make_socket(scope / "socket.dm3")
    names = ["fifo.dm3", "socket.dm3", "loop.dm3", "outside.dm3", "folder.dm3", "dangling.dm3"]
    with suppress(PermissionError):  # only root makes devices
        os.mknod(scope / "zero.dm3", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        names.append("zero.dm3")
    (scope / "loop.dm3").symlink_to("loop.dm3")
    (scope / "dangling.dm3").symlink_to("nowhere.dm3")
    (scope / "outside.dm3").symlink_to(beside / "outside.dm3")
    (scope / "folder.dm3").mkdir()
    (scope / "inner").mkdir()
    (scope / "inner" / "up").symlink_to(scope, target_is_directory=True)
    (scope / "inner" / "out").symlink_to(beside, target_is_directory=True)
    return [scope / name for name in names]


def _make_socket(path: Path) -> None:
    # A socket's path holds 107 bytes; through a descriptor of its folder it is short.
    folder = os.open(path.parent, os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _bombs(scope: Path) -> list[Path]:
    side = 30_000
    hole = Image(2, 4, [(side, 1.0, "nm"), (side, 1.0, "nm")], element=6)
    write_pieces(scope / "hole-of-3600-MB.dm3", dm_pieces(document(hole)))
    group = b"\x14\x00\x00\x01\x00" + struct.pack(">I", 1)
    most = struct.pack(">I", 2**32 - 1)
    one = b"\x01\x00" + struct.pack(">I", 1)
    impossible = Image(2, 4, [(2**31 - 1, 1.0, "nm")] * 2, bytes(1024), element=6)
    bombs = {
        "deep.dm3": one + group * 50_000,
        "wide.dm3": b"\x01\x00" + most + group * 1_000,
        "many-fields.dm3": one + b"\x15\x00\x01a%%%%" + most + bytes(400_000),
        "array.dm3": one + b"\x15\x00\x01a%%%%" + struct.pack(">III", 3, 20, 3) + most + bytes(4_000),
        "claims.dm3": b"".join(bytes(piece) for piece in dm_pieces(document(impossible))),
    }
    for name, content in bombs.items():
        head = b"" if name == "claims.dm3" else struct.pack(">III", 3, len(content), 1)
        save(scope / name, head + content + bytes(8))
    return [scope / "hole-of-3600-MB.dm3", *(scope / name for name in bombs)]


CASES: Final = (
    Case(
        "deadly",
        deadly,
        (
            Bar("deadly_not_quarantined"),
            Bar("deadly_tries_min", None, at_least=ATTEMPTS),
            Bar("deadly_tries_max", ATTEMPTS),
            Bar("deadly_healthy_delay_max_seconds", 10),
            Bar("deadly_healthy_not_classified"),
            Bar("deadly_supervisor_rss_growth_mib", 5),
            Bar("deadly_tried_after_restart"),
        ),
    ),
    Case("wall_limit", wall_limit, (Bar("wall_limit_off_by_seconds", 1),), quick=False),
    Case(
        "quarantine_ends",
        quarantine_ends,
        tuple(
            Bar(name, ATTEMPTS, at_least=ATTEMPTS)
            for name in (
                "quarantine_tries",
                "quarantine_tries_after_change",
                "quarantine_tries_after_new_model",
            )
        ),
        quick=False,
    ),
    Case(
        "supervisor_killed",
        supervisor_killed,
        (
            Bar("supervisor_killed_not_classified"),
            Bar("supervisor_killed_workers_left"),
            Bar("supervisor_killed_suspect_first"),
        ),
    ),
    Case(
        "odd_things",
        odd_things,
        (
            Bar("odd_things_no_file_answered"),
            Bar("odd_things_bombs_classified"),
            Bar("odd_things_supervisor_rss_growth_mib", 5),
            Bar("odd_things_healthy_delay_max_seconds", 10),
            Bar("odd_things_healthy_not_classified"),
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(cases_main("deadly, hanging and odd files", CASES))
