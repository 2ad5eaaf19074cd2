"""The real agent as the self-test runs it: `edge-agent watch` in a folder and with a state of its own.

Agent and commands are processes, so that no parser ever enters this one; on Linux they die with it. Only this
module knows how they are started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from edge_agent.config import STATE_VARIABLE
from edge_agent.files import write_durably
from edge_agent.status import running_status
from edge_agent.trials.trial import Bench, Failed, Skipped

if TYPE_CHECKING:
    from edge_agent.status import AgentStatus

LIVE: Final = "live agent"
START_SECONDS: Final = 60.0
COMMAND_SECONDS: Final = 60.0
PACKAGE_PARENT: Final = str(Path(__file__).resolve().parents[2])
PYTHON: Final = (sys.executable, "-P", "-c")
EDGE_AGENT: Final = f"""
import sys
sys.path.append({PACKAGE_PARENT!r})
from edge_agent.processes.process_limits import die_with
die_with(PARENT_PID)
from edge_agent.cli import main
main()
"""
# Quick, and at work on a full disk too: what these keys stand for is told by other trials. No page: its port may
# be that of the agent which this PC's service runs.
_CONFIG: Final = b"quiet_seconds = 0.5\nfree_space_floor_mib = 0\n[page]\nenabled = false\n"
DRAWING: Final = ("--files", "1", "--rate", "1", "--size", "1024", "--seed", "4")
"""The first acquisition of this session is a field of particles."""


@dataclass(frozen=True, slots=True)
class LiveAgent:
    """A running `edge-agent watch`; what it says goes into `words`."""

    process: subprocess.Popen[bytes]
    folder: Path
    state: Path
    words: Path

    def status(self) -> AgentStatus | None:
        """Return its numbers, None while there are none."""
        try:
            return running_status(self.state)
        except ValueError:
            return None

    def itself(self) -> psutil.Process | None:
        """Return the process that is the agent; in a virtual environment of Windows ours is a launcher only."""
        numbers = self.status()
        return None if numbers is None else process_of(numbers.pid)

    def worker(self) -> psutil.Process | None:
        """Return its worker process, None while there is none."""
        numbers = self.status()
        found = None if numbers is None else process_of(numbers.worker.pid)
        if found is None or sys.platform != "win32":
            return found
        return next(iter(found.children(recursive=True)), found)

    def is_ready(self) -> bool:
        """Whether it watches, with a model loaded; raises Failed when it has ended."""
        if self.process.poll() is not None:
            raise Failed(f"the agent ended with exit code {self.process.returncode}: {last_line(self.words)}")
        numbers = self.status()
        return numbers is not None and numbers.model is not None and numbers.folders[0].present

    def end(self) -> None:
        """Kill what is left of it."""
        found = [self.worker(), self.itself()]
        self.process.kill()
        self.process.wait()
        for process in found:
            if process is not None:
                with contextlib.suppress(psutil.Error):
                    process.kill()


def process_of(pid: int | None) -> psutil.Process | None:
    """Return a process, None when there is none of that number."""
    try:
        return None if pid is None else psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def launch(bench: Bench, folder: Path, name: str) -> LiveAgent:
    """Start an agent on a folder; it is ended when the bench is cleared."""
    state = bench.state / name
    state.mkdir()
    config, words = state / "selftest.toml", state / "words.txt"
    write_durably(config, _CONFIG)
    with words.open("wb") as output:
        process = subprocess.Popen(
            (*PYTHON, _edge_agent(), "watch", str(folder), "--config", str(config), *model_option(bench)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {STATE_VARIABLE: str(state)},
            # Ctrl-Break reaches a process only when it leads a group of its own.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    agent = LiveAgent(process, folder, state, words)
    bench.open.callback(agent.end)
    return agent


def live_agent(bench: Bench) -> LiveAgent:
    """Return the agent that `agent starts` left running. Raises Skipped when there is none."""
    agent = bench.shared.get(LIVE)
    if not isinstance(agent, LiveAgent) or agent.process.poll() is not None:
        raise Skipped("the agent does not run")
    return agent


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `edge-agent` to its end. Raises Failed when it does not come."""
    try:
        return subprocess.run(
            (*PYTHON, _edge_agent(), *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ | (environment or {}),
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"`edge-agent {arguments[0]}` did not end within {COMMAND_SECONDS:g} s") from None


def model_option(bench: Bench) -> tuple[str, ...]:
    """Return the model that was asked for, as options."""
    return () if bench.model is None else ("--model", bench.model)


def last_line(file: Path) -> str:
    """Return the last thing that a process said."""
    lines = file.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _edge_agent() -> str:
    return EDGE_AGENT.replace("PARENT_PID", str(os.getpid()))
