"""What the self-test tries with the running agent in daily life: a busy writer, folders moved in, sleep, its log.

They need the agent that `agent starts` left running, and the micrograph that was saved to it in place.
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import psutil

from edge_agent.hosting.vital_signs import HEARTBEAT_NAME
from edge_agent.logs import LOG_NAME
from edge_agent.output_places import OutputPlan
from edge_agent.trials.agent_trials import ANSWER_SECONDS, answer_of
from edge_agent.trials.live_agent import LiveAgent, last_line, live_agent
from edge_agent.trials.trial import Bench, Failed, Skipped, Trial, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEARTBEAT_SECONDS: Final = 15.0
"""`vital_signs` promises a younger one while the agent works."""
_STEP_SECONDS: Final = 0.1
_SAVED: Final = 32
# The agent reads a file half a second after its last change: these many steps later it is at work on it.
_READ_STEPS: Final = range(5, 10)
_MOVED: Final = 3
_ASLEEP_SECONDS: Final = 2.0


def micrograph_of(agent: LiveAgent) -> bytes:
    """Return a micrograph that the agent has answered. Raises Skipped when none was saved."""
    for path in sorted((agent.folder / "in-place").glob("*.dm3")):
        return path.read_bytes()
    raise Skipped("there is no micrograph to save again")


def _rename(path: Path) -> None:
    path.rename(path.with_name(f"renamed {path.name}"))


def _delete(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    newer = path.with_name(f"{path.name}.part")
    newer.write_bytes(path.read_bytes())
    newer.replace(path)


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


_ACTS: Final[tuple[Callable[[Path], None], ...]] = (_rename, _delete, _replace, _rewrite)


def _busy_writer(bench: Bench) -> str:
    agent = live_agent(bench)
    content, place = micrograph_of(agent), agent.folder / "busy writer"
    place.mkdir()
    done, slowest_seconds = 0, 0.0
    for step in range(_SAVED + _READ_STEPS.stop):
        started = time.monotonic()
        done += _one_step(place, content, step)
        slowest_seconds = max(slowest_seconds, time.monotonic() - started)
        time.sleep(_STEP_SECONDS)
    last = place / "last.dm3"
    last.write_bytes(content)
    after = wait_until(OutputPlan().place(last).sidecar.exists, ANSWER_SECONDS)
    if after is None:
        raise Failed(f"no sidecar within {ANSWER_SECONDS:g} s: {last_line(agent.words)}")
    return (
        f"{_SAVED} files saved, {done} of them renamed, deleted, replaced or written again while the agent read; "
        f"no error, the slowest step took {1000 * slowest_seconds:.0f} ms; then {answer_of(last)}"
    )


def _one_step(place: Path, content: bytes, step: int) -> int:
    """Save one file, and do something to one that the agent has just begun with. Raises Failed."""
    try:
        if step < _SAVED:
            (place / f"{step:03d}.dm3").write_bytes(content)
        number = step - _READ_STEPS[step % len(_READ_STEPS)]
        path = place / f"{number:03d}.dm3"
        if number < 0 or not path.is_file():
            return 0
        _ACTS[number % len(_ACTS)](path)
    except OSError as error:
        raise Failed(f"the writer got an error at its file {step}: {error.strerror or error}") from None
    return 1


def _moved_in(bench: Bench) -> str:
    agent = live_agent(bench)
    content, outside = micrograph_of(agent), bench.place("folder from elsewhere")
    for number in range(_MOVED):
        (outside / f"{number}.dm3").write_bytes(content)
    inside = outside.rename(agent.folder / "moved in")
    places = [OutputPlan().place(inside / f"{number}.dm3") for number in range(_MOVED)]
    after = wait_until(lambda: all(place.sidecar.exists() for place in places), ANSWER_SECONDS)
    if after is None:
        missing = sum(not place.sidecar.exists() for place in places)
        raise Failed(f"{missing} of {_MOVED} files have no sidecar after {ANSWER_SECONDS:g} s")
    return f"{_MOVED} files that came with their folder were answered after {after:.1f} s"


def _asleep(bench: Bench) -> str:
    agent = live_agent(bench)
    content, place = micrograph_of(agent), agent.folder / "while asleep"
    processes = [process for process in (agent.itself(), agent.worker()) if process is not None]
    try:
        for process in processes:
            process.suspend()
        place.mkdir()
        (place / "saved.dm3").write_bytes(content)
        time.sleep(_ASLEEP_SECONDS)
    except psutil.Error as error:
        raise Skipped(f"the system does not let us hold the agent: {error}") from None
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()
    after = wait_until(OutputPlan().place(place / "saved.dm3").sidecar.exists, ANSWER_SECONDS)
    if after is None:
        raise Failed(
            f"no sidecar {ANSWER_SECONDS:g} s after the agent was let go on: {last_line(agent.words)}"
        )
    return f"held for {_ASLEEP_SECONDS:g} s; the file saved meanwhile was answered {after:.1f} s later"


def _signs(bench: Bench) -> str:
    agent = live_agent(bench)
    log, heartbeat = agent.state / LOG_NAME, agent.state / HEARTBEAT_NAME
    if not log.is_file() or not log.stat().st_size:
        raise Failed(f"nothing is written to {log.name} in the state folder")
    try:
        beat = json.loads(heartbeat.read_bytes())
        age = (datetime.now(UTC) - datetime.fromisoformat(beat["time"])).total_seconds()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{heartbeat.name} cannot be read: {error}") from None
    if age > HEARTBEAT_SECONDS:
        raise Failed(f"{heartbeat.name} is {age:.0f} s old")
    lines = len(log.read_bytes().splitlines())
    return f"{lines} lines in the log; the heartbeat is {max(0.0, age):.1f} s old and says {beat['state']}"


_REPORT: Final = "Send this report to the makers of scopewatch."

COMPANY_TRIALS: Final = (
    Trial(
        "busy writer beside the agent",
        "The acquisition software gets no error while the agent reads its files one after the other.",
        f"Let the agent watch a copy of the folder until this is solved. {_REPORT}",
        _busy_writer,
    ),
    Trial(
        "folder moved in",
        "Files that come with their folder, without an event of their own, are found.",
        f"Copy files into the watched folder one by one. {_REPORT}",
        _moved_in,
    ),
    Trial(
        "asleep and awake",
        "After the PC was asleep, what was saved meanwhile is found.",
        f"Start the agent again after the PC was asleep. {_REPORT}",
        _asleep,
    ),
    Trial(
        "log and heartbeat",
        "The agent can write its log and its sign of life, by which a monitor sees that it works.",
        "Make the state folder writable for the account that the agent runs as.",
        _signs,
    ),
)
