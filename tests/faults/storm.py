"""Storms: more files at once than change events can carry, and no file is lost or done twice.

python tests/faults/storm.py            all cases in full, about eight minutes; `--only CASE`, `--shard I/N`
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cases import (
    Background,
    Case,
    Figures,
    Sample,
    Scale,
    cases_main,
    done,
    missing,
    record_of,
    sample,
    save,
    save_all,
    speck_dm3,
)
from harness import Agent, AgentTrouble, Bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QUEUE_LIMIT: Final = Path("/proc/sys/fs/inotify/max_queued_events")
NOT_A_DM3: Final = b"no micrograph, number %d\n"
"""Files that are answered quickly (`unreadable`), where only finding them is measured."""


def storm(scale: Scale, folder: Path) -> Figures:
    """Files saved and linked in a rush while the agent runs; every tenth has a content of its own."""
    number = scale.pick(10_000, 300)
    shelf, scope = folder / "shelf", folder / "scope"
    originals = save_all(shelf, range(number // 100))
    with Agent(scope, place=folder / "agent", heatmap=False, scan_seconds=5.0) as agent:
        agent.start().wait_ready()
        pid = agent.supervisor_pid or 0
        before, samples = sample(pid), []
        with Background(lambda: samples.append(sample(pid)), 0.2):
            started = time.monotonic()
            paths = _rush(scope, originals, number)
            made = time.monotonic() - started
            agent.wait_for(number, 420 if not scale.quick else 60)
            took = time.monotonic() - started
        agent.wait_for(lambda: agent.status()["waiting"] == 0, 10, "nothing waits")
        counts = agent.status()["since_start"]
    return {
        "storm_files": number,
        "storm_making_seconds": made,
        "storm_done_seconds": took,
        "storm_lost": len(missing(paths)),
        "storm_done_twice": sum(counts.values()) - number,
        "storm_other_outcomes": number - counts.get("classified", 0),
        "storm_rss_growth_mib": _peak(samples) - before.rss_mib,
        "storm_descriptor_growth": samples[-1].descriptors - before.descriptors,
        "storm_note": str(counts) if counts != {"classified": number} else "",
    }


def _rush(scope: Path, originals: Sequence[Path], number: int) -> list[Path]:
    """Every tenth file is written, the others are links to a few (of equal content, size and time)."""
    paths = []
    for place in range(number):
        path = scope / f"day-{place % 7}" / f"image-{place:06}.dm3"
        if place < 7:
            path.parent.mkdir(exist_ok=True)
        if place % 10:
            os.link(originals[place % len(originals)], path)
        else:
            save(path, speck_dm3(1_000_000 + place))
        paths.append(path)
    return paths


def _peak(samples: Sequence[Sample]) -> float:
    return max(item.rss_mib for item in samples)


def short_queue(scale: Scale, folder: Path) -> Figures:
    """The kernel's event queue holds 64 events only, and files come by the thousand."""
    number, scan_seconds = scale.pick(15_000, 500), 5.0
    with (
        _queue_of(64) as lowered,
        Agent(folder / "scope", place=folder / "agent", scan_seconds=scan_seconds) as agent,
    ):
        agent.start().wait_ready()
        agent.wait_for(lambda: _events(agent) == "on", 10, "watching with events")
        lowered.restore()
        paths = _junk(folder / "scope", number)
        found = _seconds_until_seen(agent, number)
        agent.wait_for(number, 300)
        health = _events(agent)
    return {
        "short_queue_files": number,
        "short_queue_lowered": float(lowered.worked),
        "short_queue_found_seconds": found,
        "short_queue_scan_plus_2_seconds": scan_seconds + 2,
        "short_queue_lost": len(missing(paths)),
        "short_queue_note": f"events afterwards: {health}",
    }


def stopped_agent(scale: Scale, folder: Path) -> Figures:
    """The agent is frozen while more files are made than the kernel's queue has room for events.

    In the quick form the queue is short; in full it is the system's, usually 16,384 events.
    """
    number, scan_seconds = scale.pick(30_000, 500), 5.0
    with (
        _queue_of(scale.pick(None, 64)) as lowered,
        Agent(folder / "scope", place=folder / "agent", scan_seconds=scan_seconds) as agent,
    ):
        agent.start().wait_ready()
        agent.wait_for(lambda: _events(agent) == "on", 10, "watching with events")
        lowered.restore()
        agent.signal(signal.SIGSTOP)
        paths = _junk(folder / "scope", number)
        agent.signal(signal.SIGCONT)
        # It remembers 20,000 files at most and finds the others by a scan as these are worked off.
        found = _seconds_until_seen(agent, min(number, 19_900))
        agent.wait_for(number, 400)
        agent.wait_for(lambda: agent.status()["waiting"] == 0, 15, "nothing waits")
        counts = agent.status()["since_start"]
    return {
        "stopped_agent_files": number,
        "stopped_agent_found_seconds": found,
        "stopped_agent_lost": len(missing(paths)),
        "stopped_agent_done_twice": sum(counts.values()) - number,
        "stopped_agent_note": str(counts),
    }


def no_watches(scale: Scale, folder: Path) -> Figures:
    """The system has no inotify instance or no watch left: scans find everything, and status says so.

    Watchdog 7.1 passes over folders that get no watch. That shows only when our own outputs raise no event,
    which takes ten seconds.
    """
    number = scale.pick(1_000, 60)
    figures: Figures = {"no_watches_files": 2 * number, "no_watches_lost": 0, "no_watches_silent": 0}
    for key in scale.pick(("instances", "watches"), ("instances",)):
        scope = folder / key / "scope"
        deep = scope / "sub" / "deeper"
        deep.mkdir(parents=True)
        with Agent(scope, place=folder / key / "agent", prefix=_without_inotify(key), heatmap=False) as agent:
            agent.start().wait_ready()
            paths = save_all(deep, range(number))
            agent.wait_for(number, 120)
            said = _seconds_until_said(agent)
            figures[f"no_watches_{key}_note"] = f"status says of events: {_events(agent)}"
        figures[f"no_watches_{key}_said_seconds"] = said
        figures["no_watches_lost"] = float(figures["no_watches_lost"]) + len(missing(paths))
        figures["no_watches_silent"] = float(figures["no_watches_silent"]) + (said == float("inf"))
    return figures


def _seconds_until_said(agent: Agent) -> float:
    started = time.monotonic()
    with suppress(AgentTrouble):
        agent.wait_for(lambda: _events(agent) != "on", 15, "status says that there are no events")
        return time.monotonic() - started
    return float("inf")


def _without_inotify(key: str) -> tuple[str, ...]:
    """A user namespace with its own limits: nobody else on the machine loses his watches.

    One instance is what Python's watchdog needs, so zero are left; of watches one, for the folder itself.
    """
    limit = {"instances": 0, "watches": 1}[key]
    # The agent's own process stays the shell's: exec.
    script = f'echo {limit} > /proc/sys/user/max_inotify_{key} && exec "$@"'
    return ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")


def newest_first(scale: Scale, folder: Path) -> Figures:
    """While a backlog is worked off, the newest file is next, and one saved just now overtakes the rest."""
    number = scale.pick(1_500, 400)
    scope = folder / "scope"
    backlog = save_all(scope, range(number))
    now = time.time()
    for place, path in enumerate(backlog):
        os.utime(path, (now - 100_000 + 10 * place,) * 2)
    with Agent(scope, place=folder / "agent", heatmap=False, newest_first=True) as agent:
        agent.start().wait_ready()
        agent.wait_for(number // 10, 60)
        at_saving = done(agent)
        fresh = save(scope / "fresh.dm3", speck_dm3(5_000_000))
        agent.wait_for(number + 1, 120)
    order = sorted((_finished(path), place) for place, path in enumerate(backlog))
    places = [place for _, place in order]
    wrong = sum(later > earlier for earlier, later in pairwise(places))
    after = sum(moment > _finished(fresh) for moment, _ in order)
    return {
        "newest_first_files": number,
        "newest_first_wrong_percent": 100 * wrong / number,
        "newest_first_overtaken": after,
        "newest_first_lost": len(missing([*backlog, fresh])),
        "newest_first_note": f"fresh file saved after {at_saving} of {number}, {after} came after it",
    }


def _finished(path: Path) -> str:
    record = record_of(path)
    return str(record["agent"]["finished"]) if record else ""


def _junk(scope: Path, number: int) -> list[Path]:
    folders = [scope / f"day-{day}" for day in range(5)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return [save(folders[place % 5] / f"image-{place:06}.dm3", NOT_A_DM3 % place) for place in range(number)]


def _seconds_until_seen(agent: Agent, number: int) -> float:
    started = time.monotonic()
    agent.wait_for(lambda: agent.status().get("seen", 0) >= number, 120, f"{number} files seen")
    return time.monotonic() - started


def _events(agent: Agent) -> str:
    folders = agent.status().get("folders") or [{"events": "no status"}]
    return str(folders[0]["events"])


class _Lowered:
    def __init__(self, limit: int | None) -> None:
        self.worked = False
        self._before = QUEUE_LIMIT.read_text()
        # Where that is not allowed the case runs with the system's queue, and its figure says so.
        with suppress(OSError):
            QUEUE_LIMIT.write_text(str(limit or self._before))
            self.worked = limit is not None

    def restore(self) -> None:
        if self.worked:
            QUEUE_LIMIT.write_text(self._before)


@contextmanager
def _queue_of(limit: int | None) -> Iterator[_Lowered]:
    """Lower the queue of inotify instances made from now on; the agent's is made while it starts."""
    lowered = _Lowered(limit)
    try:
        yield lowered
    finally:
        lowered.restore()


CASES: Final = (
    Case(
        "storm",
        storm,
        (
            Bar("storm_making_seconds", 10),
            Bar("storm_lost"),
            Bar("storm_done_twice"),
            Bar("storm_other_outcomes"),
            Bar("storm_rss_growth_mib", 50),
        ),
    ),
    Case("short_queue", short_queue, (Bar("short_queue_found_seconds", 7), Bar("short_queue_lost"))),
    Case(
        "stopped_agent",
        stopped_agent,
        (Bar("stopped_agent_found_seconds", 7), Bar("stopped_agent_lost"), Bar("stopped_agent_done_twice")),
    ),
    Case(
        "no_watches",
        no_watches,
        (Bar("no_watches_lost"), Bar("no_watches_silent")),
        needs=("user namespaces",),
    ),
    Case(
        "newest_first",
        newest_first,
        (
            Bar("newest_first_wrong_percent", 5),
            Bar("newest_first_overtaken", None, at_least=1),
            Bar("newest_first_lost"),
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(cases_main("files in a rush, overflowing event queues, no watches left", CASES))
