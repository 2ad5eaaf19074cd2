"""A quiet page in a process of its own: it can be stopped, continued and killed, and measures nothing of ours.

`QuietProcess(place).do("saved", 1000)` calls that method of the page there and returns what it returns, where that
has a form in JSON. Run as a script, this module is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from page_rig import MISSING, REPOSITORY, Page, QuietPage


class BusyPage(QuietPage):
    """A quiet page that can be told to do much."""

    def events(self, count: int, per_second: float) -> list[float]:
        """Let so many files be finished, evenly; return first and last moment (seconds, as `time.time`)."""
        begun, first = time.monotonic(), time.time()
        for number in range(count):
            time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
            found = self.a_finding(finished=datetime.now(UTC))
            self.journal.record(found, durable=False)
            self.monitor.note_finding(found)
        return [first, time.time()]

    def picture_comes(self) -> float:
        """Let a file with a micrograph be finished; return when that was told (seconds, as `time.time`)."""
        found = self.with_picture(finished=datetime.now(UTC))
        self.journal.record(found)
        told = time.time()
        self.monitor.note_finding(found)
        return told

    def where(self) -> list[str]:
        """Address and token."""
        return [self.address, self.token]


class QuietProcess(Page):
    """The process, from outside. Use as a context manager."""

    missing = MISSING

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> QuietProcess:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def start(self) -> None:
        """Start it; at the second time, at the same address over the same journal."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        self.address, self.token = self.do("where")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def do(self, what: str, *values: Any, **named: Any) -> Any:
        """Call a method there and wait for what it returns."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([what, values, named]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the page's process ended with {self._process.wait()}"
        return json.loads(line)

    def doing(self, what: str, *values: Any) -> threading.Thread:
        """The same, begun now in a thread; join it before the next `do`."""
        thread = threading.Thread(target=self.do, args=(what, *values))
        thread.start()
        return thread

    def stall(self) -> None:
        """Stop it in the middle of whatever it does, as a PC that sleeps stops everything."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with whatever was open."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._close()

    def end(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self.kill()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def main(place: Path) -> None:
    """Serve, and do what is asked for on standard input."""
    port_file = place / "port"
    with BusyPage(place, port=int(port_file.read_text()) if port_file.exists() else 0) as page:
        port_file.write_text(str(page.port))
        for line in sys.stdin:
            what, values, named = json.loads(line)
            answer = getattr(page, what)(*values, **named)
            try:
                text = json.dumps(answer)
            except TypeError:
                text = "null"
            print(text, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
