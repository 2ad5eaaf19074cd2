"""Rows 18, 20, 26 of the catalogue: the configuration is edited, well, badly or by halves, while files arrive.

A unit is one agent whose configuration is edited `EDITS` times; "calm" units only edit, and every file must be
examined exactly once over all changes. The others are also ended by SIGTERM (timed) or SIGKILL at random moments,
most of them in the middle of a change, half of them with a client that keeps the page's connection open.
Full run: `python tests/faults/reload_loop.py [--shard I/N] [--record FILE]`, 20 units (400 edits, 8,000 files).
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from harness import (
    Agent,
    AgentTrouble,
    Bar,
    audit,
    digest,
    long_tier,
    run_units,
    small_dm3,
    tiny_model_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UNITS: Final = 20
EDITS: Final = 20
FILES: Final = 400
SETTLED_SECONDS: Final = 200.0
BARS: Final = (
    Bar("lost"),
    Bar("stale"),
    Bar("half"),
    Bar("leftovers"),
    Bar("strangers"),
    Bar("not classified"),
    Bar("examined twice without an end"),
    Bar("ended by itself"),
    Bar("exit codes other than 0"),
    Bar("tracebacks"),
    Bar("max_stop_seconds", 3.0),
)


@dataclass(frozen=True, slots=True)
class Session:
    """One unit's size. A calm one is never ended before its end."""

    edits: int = EDITS
    files: int = FILES
    seed: int = 0
    calm: bool = False


class Editor:
    """Saves the agent's configuration in the ways people and programs do."""

    def __init__(self, file: Path, random: Random) -> None:
        self._file, self._random = file, random
        self._good = file.read_text()

    def edit(self) -> None:
        """Make one edit of any kind."""
        self._random.choice(
            (self._good_one, self._good_one, self._renamed, self._torn, self._bad, self._gone)
        )()

    def settle(self) -> None:
        """Leave a good one behind."""
        self._good_one()

    def _text(self) -> str:
        return f"{self._good}stalled_seconds = {self._random.randrange(600, 10_000)}\n"

    def _good_one(self) -> None:
        self._file.write_text(self._text())

    def _renamed(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(self._text())
        new.replace(self._file)

    def _torn(self) -> None:
        text = self._text()
        cut = self._random.randrange(len(text))
        self._file.write_text(text[:cut])
        time.sleep(self._random.random() * 2)
        self._file.write_text(text)

    def _bad(self) -> None:
        wrong = self._random.choice(
            ("no_such_key = 1", "heatmap = 3", "model = ", 'output = "agent.toml"', "[page]\nport = 70000")
        )
        self._file.write_text(f"{self._text()}{wrong}\n")

    def _gone(self) -> None:
        self._file.unlink()
        time.sleep(self._random.random() * 3)
        self._good_one()


class Arrivals(threading.Thread):
    """New files, each once, as evenly as they can over the time of the edits; `finish` lets the rest arrive."""

    def __init__(self, folder: Path, files: int, seconds: float, random: Random) -> None:
        super().__init__(name="microscope")
        self._folder, self._files, self._pause_seconds, self._random = folder, files, seconds / files, random
        self._hurry = threading.Event()
        self.expected: dict[Path, str] = {}

    def run(self) -> None:
        for number in range(self._files):
            path, content = self._folder / f"{number:05d}.dm3", small_dm3(self._random.getrandbits(60))
            path.write_bytes(content)
            self.expected[path] = digest(content)
            self._hurry.wait(self._pause_seconds)

    def finish(self) -> None:
        """Wait for the rest."""
        self._hurry.set()
        self.join()


@contextlib.contextmanager
def a_browser(agent: Agent) -> Iterator[None]:
    """Hold a connection to the page open, in the middle of a request."""
    address = urlsplit(str(agent.status().get("page") or ""))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if address.hostname and address.port:
                held = stack.enter_context(socket.create_connection((address.hostname, address.port), 1.0))
                held.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        yield


def run_session(session: Session, folder: Path) -> Mapping[str, float | str]:
    """Edit, and end and start in between; then one calm stretch. Return the figures."""
    random = Random(session.seed)
    figures: dict[str, float | str] = {"max_stop_seconds": 0.0, "edits": session.edits}
    scope = folder / "scope"
    with Agent(scope, place=folder / "agent", model=tiny_model_folder(), page={"port": 0}) as agent:
        arrivals = Arrivals(scope, session.files, session.edits * 2.5, random)
        editor = Editor(agent.config_file, random)
        agent.start().wait_ready()
        arrivals.start()
        try:
            for _ in range(session.edits):
                editor.edit()
                time.sleep(random.random() * 4)
                if not session.calm:
                    _end_and_start(agent, editor, random, figures)
        finally:
            arrivals.finish()
        editor.settle()
        _settle(agent, arrivals.expected, figures)
        _stop(agent, figures)
        _judge(arrivals.expected, agent, session, figures)
    return figures


def _end_and_start(agent: Agent, editor: Editor, random: Random, figures: dict[str, float | str]) -> None:
    _count(figures, "ended by itself", agent.exit_code is not None)
    with a_browser(agent) if random.random() < 0.5 else contextlib.nullcontext():
        if random.random() < 0.5:
            agent.kill()
            _count(figures, "kills")
        else:
            _stop(agent, figures)
    # A configuration that is wrong at the start ends the agent, and rightly.
    editor.settle()
    agent.start()
    if random.random() < 0.5:
        agent.wait_ready()
    else:
        # Python itself has to start before a signal can be heard, and the configuration be read before it is torn.
        agent.wait_for(lambda: _heartbeat(agent).get("pid") == agent.pid, 30, "a heartbeat")
        time.sleep(random.random())


def _heartbeat(agent: Agent) -> dict[str, object]:
    try:
        values: dict[str, object] = json.loads((agent.state / "heartbeat.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return values


def _stop(agent: Agent, figures: dict[str, float | str]) -> None:
    seconds = agent.terminate()
    figures["max_stop_seconds"] = max(seconds, float(figures.get("max_stop_seconds", 0)))
    _count(figures, "terminations")
    _count(figures, "exit codes other than 0", agent.exit_code != 0)


def _count(figures: dict[str, float | str], name: str, by: float = 1) -> None:
    figures[name] = float(figures.get(name, 0)) + by


def _settle(agent: Agent, expected: dict[Path, str], figures: dict[str, float | str]) -> None:
    def answered() -> bool:
        time.sleep(0.5)
        seen = audit(expected)
        return not (seen.missing or seen.stale or seen.half)

    try:
        agent.wait_for(answered, SETTLED_SECONDS, "an answer for every file")
    except AgentTrouble as trouble:
        figures["trouble"] = f"{trouble}\n"


def _judge(
    expected: dict[Path, str], agent: Agent, session: Session, figures: dict[str, float | str]
) -> None:
    seen, log = audit(expected), agent.text()
    examined = Counter(line.split("  ")[1] for line in log.splitlines() if ".dm3  " in line)
    figures |= {
        "files": len(expected),
        "lost": len(seen.missing),
        "stale": len(seen.stale),
        "half": len(seen.half),
        "leftovers": len(seen.leftovers),
        "strangers": len(seen.strangers),
        "not classified": sum(n for outcome, n in seen.outcomes.items() if outcome != "classified"),
        "examined twice without an end": sum(n > 1 for n in examined.values()) if session.calm else 0,
        "taken up": log.count("is taken up"),
        "refused": log.count("the configuration stays as it was"),
        "tracebacks": log.count("Traceback"),
    }
    if not seen.ok or "Traceback" in log:
        figures["trouble"] = f"{figures.get('trouble', '')}seed {session.seed}: {seen.text()}\n{log[-3000:]}"


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument("--edits", type=int, default=EDITS, help="edits in each unit")
    parser.add_argument("--files", type=int, default=FILES, help="files in each unit")
    parser.add_argument("--units", type=int, default=UNITS)
    options = parser.parse_args()

    def run(unit: str) -> Mapping[str, float | str]:
        number = int(unit)
        session = Session(options.edits, options.files, 1000 * options.seed + number, calm=number % 2 == 0)
        with tempfile.TemporaryDirectory(prefix="scopewatch-edits-") as folder:
            return run_session(session, Path(folder))

    return run_units([str(number) for number in range(options.units)], run, options, BARS)


if __name__ == "__main__":
    sys.exit(main())
