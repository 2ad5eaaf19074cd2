"""Python code run in a process of its own, with a time limit: what dies or hangs there is a line in a report.

A native library that this processor cannot run ends the process that imports it, and a dead share holds it
for ever. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE_PARENT: Final = str(Path(__file__).resolve().parents[2])
_WINDOWS_ENDS: Final = {
    0xC0000005: "an access violation",
    0xC000001D: "an illegal instruction (this processor lacks what the library was built for)",
    0xC0000135: "a DLL that was not found",
    0xC0000139: "a DLL of another version than expected",
    0xC0000142: "a DLL that could not be initialised",
    0xC0000409: "a fault that a library noticed in itself",
}
_SETTINGS: Final = {"OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "ORT_DISABLE_TELEMETRY": "1"}
"""The last: merely imported, ONNX Runtime 1.32 otherwise keeps an identity of this PC below ~/.cache."""
_KILL_SECONDS: Final = 2.0
_LAST_SIGNAL: Final = 64


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended; `code` is None when its time was over, negative for a signal (as in subprocess)."""

    code: int | None
    output: str
    errors: str

    @property
    def well(self) -> bool:
        """Whether it ended by itself, with success."""
        return self.code == 0

    @property
    def why(self) -> str:
        """What a person reads about an end that was not well."""
        if self.code is None:
            return "did not end in time"
        sudden = how_it_died(self.code)
        if sudden is not None:
            return f"the process was ended by {sudden}"
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def how_it_died(code: int) -> str | None:
    """Return which signal or Windows exception an exit code means, None when the process ended by itself."""
    if -_LAST_SIGNAL <= code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{name} (this processor lacks what the library was built for)" if name == "SIGILL" else name
    return _WINDOWS_ENDS.get(code & 0xFFFFFFFF)


def run_python(code: str, arguments: Sequence[str] = (), *, seconds: float) -> Ended:
    """Run `code` with this interpreter and this installation, and return how it ended. Never raises OSError."""
    start = f"import sys; sys.path.append({PACKAGE_PARENT!r})\n{code}"
    return run_program((sys.executable, "-P", "-c", start, *arguments), seconds=seconds)


def run_program(command: Sequence[str], *, seconds: float) -> Ended:
    """Run a program that ends by itself, and return how it ended; killed after `seconds`."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _SETTINGS,
            # No console window flashes up where doctor is started from a menu.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, ValueError) as error:
        return Ended(127, "", str(error))
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Ended(None, *_end(process))
    return Ended(process.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Kill it. A process that hangs in a dead share's call cannot even be killed, and is left to the system."""
    process.kill()
    try:
        output, errors = process.communicate(timeout=_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return "", ""
    return output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")
