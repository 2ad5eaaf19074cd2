"""On which machine, by which command and from which state of the source something was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
from pydantic import BaseModel, ConfigDict

_PATIENCE_S: Final = 10


class Gpu(BaseModel):
    """One graphics card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_bytes: int | None = None


class Machine(BaseModel):
    """What a run computed on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    system: str

    def __str__(self) -> str:
        cards = ", ".join(gpu.name + _gigabytes(gpu.memory_bytes, " ({})") for gpu in self.gpus)
        memory = _gigabytes(self.memory_bytes, "{}")
        return f"{self.processor}, {self.cores} cores, {memory} memory, {cards or 'no GPU'}, {self.system}"


class Session(BaseModel):
    """One stretch of work on a run, from a start to its end, an interruption or a kill; times are ISO 8601 UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started: str
    until: str
    """When it last said something: after each epoch, and at its end."""
    finished: bool = False
    """Whether the run was finished in it."""
    command: tuple[str, ...]
    commit: str | None = None
    """Commit of the program's source where it runs from a repository; "-dirty" says that files were changed."""
    machine: Machine
    versions: dict[str, str]

    @property
    def seconds(self) -> float:
        """How long it worked."""
        return (datetime.fromisoformat(self.until) - datetime.fromisoformat(self.started)).total_seconds()


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def session(versions: dict[str, str]) -> Session:
    """Begin a session: this process, this machine, now."""
    started = now()
    return Session(
        started=started,
        until=started,
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        commit=commit(),
        machine=machine(),
        versions=versions,
    )


def machine() -> Machine:
    """Describe this machine."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        system=platform.platform(),
    )


def commit() -> str | None:
    """Return the commit of the repository that this very file belongs to; None where it is installed."""
    here = Path(__file__).resolve()
    if _said("git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name) is None:
        return None  # not tracked: some other repository around a virtual environment
    return _said(
        "git", "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _gpus() -> tuple[Gpu, ...]:
    """The cards that NVIDIA's own tool lists; TensorFlow does not tell their memory."""
    told = _said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    cards = []
    for line in (told or "").splitlines():
        name, _, mebibytes = line.rpartition(",")
        memory = int(mebibytes) * 2**20 if mebibytes.strip().isdigit() else None
        cards.append(Gpu(name=name.strip() or line.strip(), memory_bytes=memory))
    return tuple(cards)


def _said(*command: str) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _gigabytes(memory_bytes: int | None, pattern: str) -> str:
    return pattern.format(f"{memory_bytes / 1e9:.0f} GB") if memory_bytes is not None else ""
