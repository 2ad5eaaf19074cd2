"""What the self-test tries with the real agent: its model, its answers, its manners, its end.

`edge-agent watch` runs on a folder of its own, with a state of its own, and the simulated microscope saves
into it. Both are processes, so that no parser ever enters this one.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import psutil

from edge_agent.config import STATE_VARIABLE
from edge_agent.files import is_our_temporary
from edge_agent.output_places import OutputPlan
from edge_agent.processes.job_object import JobLimits, worker_job
from edge_agent.sidecar import read_record
from edge_agent.status import is_running
from edge_agent.trials.live_agent import (
    COMMAND_SECONDS,
    DRAWING,
    LIVE,
    PACKAGE_PARENT,
    PYTHON,
    START_SECONDS,
    LiveAgent,
    command,
    last_line,
    launch,
    live_agent,
    model_option,
)
from edge_agent.trials.trial import Bench, Failed, Skipped, Trial, Warned, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXIT_HELD: Final = 3
STOP_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 30.0
_MEMORY_MIB: Final = 256
_AT_THE_END: Final = 20
_HUNGRY: Final = f"""
import os, sys
sys.path.append({PACKAGE_PARENT!r})
from edge_agent.processes.process_limits import limit_memory
limit_memory({_MEMORY_MIB})
print(os.getpid(), flush=True)
sys.stdin.readline()
try:
    taken = bytearray({4 * _MEMORY_MIB} * 1024 * 1024)
except MemoryError:
    print("refused", flush=True)
else:
    print("given", flush=True)
"""


def _model(bench: Bench) -> str:
    done = command("check", *model_option(bench))
    words = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines() or ["no word"]
    if done.returncode != 0:
        raise Failed(words[-1])
    return words[-1]


def _start(bench: Bench) -> str:
    agent = launch(bench, bench.place("agent"), "agent")
    bench.shared[LIVE] = agent
    ready = wait_until(agent.is_ready, START_SECONDS)
    numbers = agent.status()
    if ready is None or numbers is None:
        raise Failed(f"not ready within {START_SECONDS:g} s: {last_line(agent.words)}")
    folder = numbers.folders[0]
    kind = "a share" if folder.share else "a local disk"
    seen = f"ready after {ready:.1f} s; takes the folder for {kind}, events {folder.events}"
    if folder.events != "on":
        raise Warned(seen)
    return seen


def _saving_trial(mode: str) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        agent = live_agent(bench)
        folder = agent.folder / mode
        done = command("simulate", str(folder), "--mode", mode, *DRAWING)
        files = sorted(folder.glob("*.dm3"))
        if done.returncode != 0 or len(files) != 1:
            raise Failed(
                f"the simulated microscope did not save: {done.stderr.decode(errors='replace').strip()}"
            )
        sidecar = OutputPlan().place(files[0]).sidecar
        after = wait_until(sidecar.exists, ANSWER_SECONDS)
        if after is None:
            raise Failed(f"no sidecar within {ANSWER_SECONDS:g} s: {last_line(agent.words)}")
        drawn = done.stdout.decode("utf-8", "replace").rpartition("drawn ")[2].strip()
        return f"drawn {drawn}, {answer_of(files[0])}; the sidecar was there after {after:.1f} s"

    return run


def answer_of(path: Path) -> str:
    """Return the label on record; raises Failed where the record, the micrograph and the heatmap disagree."""
    place = OutputPlan().place(path)
    record = read_record(place.sidecar)
    if record is None:
        raise Failed(f"{place.sidecar.name} is no valid sidecar")
    if record.prediction is None or record.cam is None:
        raise Failed(f"{record.outcome}: {record.reason}")
    for file, stated in ((path, record.source.sha256), (place.heatmap, record.cam.heatmap_sha256)):
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != stated:
            raise Failed(f"{file.name} is not the file whose SHA-256 stands in the sidecar")
    return f"classified as {record.prediction.label}, heatmap and hashes right"


def _priority(bench: Bench) -> str:
    agent = live_agent(bench)
    told = []
    for name, process in (("agent", agent.itself()), ("worker", agent.worker())):
        if process is None:
            raise Failed(f"there is no process of the {name}")
        if not _is_low(process):
            raise Failed(f"the {name} runs at normal priority ({process.nice()})")
        told.append(f"{name} {int(process.nice())}{_disk_priority(process)}")
    return "; ".join(told)


def _is_low(process: psutil.Process) -> bool:
    if sys.platform == "win32":
        return process.nice() in (psutil.IDLE_PRIORITY_CLASS, psutil.BELOW_NORMAL_PRIORITY_CLASS)
    return int(process.nice()) > 0


def _disk_priority(process: psutil.Process) -> str:
    try:
        found = process.ionice()
    except (AttributeError, OSError, psutil.Error):
        return ""
    lowest = psutil.IOPRIO_VERYLOW if sys.platform == "win32" else psutil.IOPRIO_CLASS_IDLE
    return ", disk when idle" if getattr(found, "ioclass", found) == lowest else ", disk as usual"


def _second_agent(bench: Bench) -> str:
    agent = live_agent(bench)
    state = bench.state / "second"
    done = command("watch", str(agent.folder), environment={STATE_VARIABLE: str(state)})
    if done.returncode != EXIT_HELD:
        raise Failed(
            f"a second agent on the same folder ended with exit code {done.returncode}, not {EXIT_HELD}"
        )
    if not is_running(agent.state):
        raise Failed("the lock on the state folder is not seen by another process")
    return f"refused with exit code {EXIT_HELD}"


def _stop(bench: Bench) -> str:
    agent = live_agent(bench)
    worker, place = agent.worker(), agent.folder / "saved at the end"
    _keep_busy(agent, place)
    # systemd stops a service by SIGTERM; the service manager of Windows takes the way of Ctrl-Break.
    if sys.platform == "win32":
        sign, name = signal.CTRL_BREAK_EVENT, "Ctrl-Break"
    else:
        sign, name = signal.SIGTERM, "SIGTERM"
    try:
        agent.process.send_signal(sign)
    except OSError as error:
        raise Skipped(f"{name} cannot be sent from here ({error}): run this in a console") from None
    after = wait_until(lambda: agent.process.poll() is not None, 4 * STOP_SECONDS)
    if after is None or after > STOP_SECONDS:
        raise Failed(f"still running {STOP_SECONDS:g} s after {name}")
    if agent.process.returncode != 0:
        raise Failed(f"exit code {agent.process.returncode} after {name}: {last_line(agent.words)}")
    _require_gone(worker)
    _require_whole(agent.folder)
    answered = sum(OutputPlan().place(path).sidecar.exists() for path in place.glob("*.dm3"))
    return (
        f"ended {after:.1f} s after {name}, and its worker with it; {answered} of {_AT_THE_END} files just saved "
        "had been answered, none by half"
    )


def _keep_busy(agent: LiveAgent, place: Path) -> None:
    """Save some files, and wait until the agent is about to read them."""
    saved = sorted((agent.folder / "in-place").glob("*.dm3"))
    if not saved:
        raise Skipped("there is no micrograph to save again")
    content = saved[0].read_bytes()
    place.mkdir()
    for number in range(_AT_THE_END):
        (place / f"{number}.dm3").write_bytes(content)
    wait_until(lambda: any(place.glob("*.json")), ANSWER_SECONDS)


def _require_whole(folder: Path) -> None:
    """Whatever the agent was in the middle of: its outputs are whole, and no half is left."""
    halves = [path.name for path in folder.rglob("*") if is_our_temporary(path)]
    if halves:
        raise Failed(f"halves are left: {', '.join(halves)}")
    for path in folder.rglob("*.dm3.json"):
        if read_record(path) is None:
            raise Failed(f"{path.name} is no valid sidecar")


def _killed(bench: Bench) -> str:
    agent = launch(bench, bench.place("killed agent"), "killed")
    if wait_until(lambda: agent.is_ready() and agent.worker() is not None, START_SECONDS) is None:
        raise Failed(f"not ready within {START_SECONDS:g} s: {last_line(agent.words)}")
    itself, worker = agent.itself(), agent.worker()
    if itself is None:
        raise Failed(f"its numbers went away: {last_line(agent.words)}")
    itself.kill()
    agent.process.wait()
    after = _require_gone(worker)
    if is_running(agent.state):
        raise Failed("the killed agent's lock is still held")
    return f"the worker ended {after:.1f} s after the agent was killed; no lock is left"


def _require_gone(worker: psutil.Process | None) -> float:
    after = wait_until(lambda: not _lives(worker), STOP_SECONDS)
    if after is None:
        raise Failed(f"the worker still runs {STOP_SECONDS:g} s later")
    return after


def _lives(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _memory(bench: Bench) -> str:
    job = worker_job(JobLimits(memory_limit_mib=_MEMORY_MIB))
    with subprocess.Popen(
        (*PYTHON, _HUNGRY), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            pid = b"" if process.stdout is None else process.stdout.readline().strip()
            if not pid.isdigit():
                raise Failed("the process that was to be limited did not start")
            if job is not None and not job.take(int(pid)):
                raise Failed("Windows refuses to put a process into a job object")
            answer, _ = process.communicate(b"\n", timeout=COMMAND_SECONDS)
        finally:
            process.kill()
            if job is not None:
                job.close()
    if answer.strip() == b"given":
        raise Failed(f"a process limited to {_MEMORY_MIB} MiB was given {4 * _MEMORY_MIB} MiB")
    return f"a process limited to {_MEMORY_MIB} MiB was refused {4 * _MEMORY_MIB} MiB"


_REPORT: Final = "Send this report to the makers of scopewatch."

AGENT_TRIALS: Final = (
    Trial(
        "model",
        "The model is whole, and answers on this PC as on the one where it was made.",
        "Install scopewatch, or the model, anew; do not use answers of this PC before that.",
        _model,
    ),
    Trial(
        "agent starts",
        "The live agent gets ready on this folder.",
        "What is named here has to be put right first; `edge-agent watch FOLDER --verbose` tells more.",
        _start,
    ),
    *(
        Trial(
            f"micrograph saved {words}",
            "A simulated micrograph gets its sidecar and heatmap, and their hashes are right.",
            _REPORT,
            _saving_trial(mode),
        )
        for mode, words in (("in-place", "in place"), ("rename", "by rename"), ("slow", "slowly"))
    ),
    Trial(
        "low priority",
        "The acquisition software is served before the agent.",
        f"Lower the priority of the agent by hand, in the task manager. {_REPORT}",
        _priority,
    ),
    Trial(
        "second agent refused",
        "Two agents never write the same outputs.",
        "Make sure that only one agent is started on this PC.",
        _second_agent,
    ),
)

END_TRIALS: Final = (
    Trial(
        "service stop",
        "The agent ends within 3 s when the service manager says so, in the middle of work, and leaves no half.",
        f"Stop the agent before the PC is shut down. {_REPORT}",
        _stop,
    ),
    Trial(
        "agent killed",
        "A killed agent leaves no worker behind, and the next one can start.",
        f"End processes named python that are left over, before the agent is started again. {_REPORT}",
        _killed,
    ),
    Trial(
        "memory limit",
        "A file that asks for too much memory costs the worker, not the acquisition.",
        f"Set snapshot_limit_mib to 128 in the configuration. {_REPORT}",
        _memory,
    ),
)
