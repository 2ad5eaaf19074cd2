"""`edge-trainer` of this checkout with the tests' toy backbone, as a program that can be killed.

    python tests/trainer/toy_trainer.py prepare RAW OUT ...

Imported, it starts itself: `Started` waits for what a stage leaves on the disk, and ends it at that moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CHATTER: Final = ("I0000", "E0000", "W0000", "WARNING: All log messages before absl")
"""How lines begin that TensorFlow prints below Python, whatever it is told."""
_PATIENCE_SECONDS: Final = 100.0
_BEGUN: Final = "SCOPEWATCH_TEST_BEGUN"
"""Names the file descriptor that a started program writes to when everything is imported and the command begins."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended: its exit code (minus the signal's number where that killed it) and what it said."""

    code: int
    said: str

    @property
    def lines(self) -> list[str]:
        """What it said, without empty lines."""
        return [line for line in self.said.splitlines() if line.strip()]


class Started:
    """One command in a process group of its own."""

    def __init__(self, *arguments: object) -> None:
        self._out, self._begun = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=self._out,  # no pipe, which a process that is left behind would hold open
            stderr=subprocess.STDOUT,
            pass_fds=(self._begun.fileno(),),
            env=os.environ
            | {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1", _BEGUN: str(self._begun.fileno())},
            start_new_session=True,
        )

    def end(
        self,
        number: int,
        when: Callable[[], object] = lambda: True,
        *,
        after_seconds: float = 0.0,
        group: bool = False,
    ) -> Answer:
        """Send the signal so long after its command began, as soon as `when()` is true, and wait for the end.

        Nothing is sent to a command that ended before. `group` reaches its worker processes too, as Ctrl-C on a
        terminal does.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        self._wait(lambda: os.fstat(self._begun.fileno()).st_size > 0, deadline)
        due = time.monotonic() + after_seconds
        self._wait(lambda: time.monotonic() >= due, deadline)
        self._wait(when, deadline)
        if self._process.poll() is None:
            (os.killpg if group else os.kill)(self._process.pid, number)
        return self.answer()

    def _wait(self, until: Callable[[], object], deadline: float) -> None:
        while not until() and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)

    def answer(self) -> Answer:
        """Wait for the end. Raises AssertionError where processes of it are left, after killing them."""
        try:
            self._process.wait(_PATIENCE_SECONDS)
        finally:
            left = _left_of(self._process.pid)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            with self._out, self._begun:
                self._out.seek(0)
                out = self._out.read().decode()
        said = "\n".join(line for line in out.splitlines() if not line.startswith(CHATTER))
        assert not left, f"processes left running: {list(left.values())}; it said: {said}"
        return Answer(self._process.returncode, said)


def run(*arguments: object) -> Answer:
    """Run a command to its end."""
    return Started(*arguments).answer()


def weights_of(file: Path) -> dict[str, Any]:
    """Every array of a .weights.h5 file."""
    import h5py  # noqa: TID251

    found: dict[str, Any] = {}
    with h5py.File(file) as handle:
        handle.visititems(
            lambda name, item: found.update({name: item[()]}) if hasattr(item, "dtype") else None
        )
    return found


def _left_of(group: int, patience_seconds: float = 5.0) -> dict[int, str]:
    """Find the living processes of a group; workers get a moment to see that their parent is gone."""
    end = time.monotonic() + patience_seconds
    while True:
        left = {pid: name for pid, name in _processes() if _group_of(pid) == group}
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if state not in "ZX":
                yield int(entry.name), command


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def main() -> None:
    """Run the trainer's command line, with `toy` among its backbones."""
    # Whoever starts the tests in the background of a script hands on that Ctrl-C is to be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for folder in (str(REPOSITORY), str(Path(__file__).parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    from toys import toy_architecture

    from trainer import cli
    from trainer.fitting import backbones

    table = {**backbones.architectures(), "toy": toy_architecture()}
    backbones.architectures = lambda: table  # type: ignore[assignment]
    if _BEGUN in os.environ:
        os.write(int(os.environ.pop(_BEGUN)), b"begun")
    cli.main()


if __name__ == "__main__":
    main()
