"""Fifty thousand files through one agent: neither process grows, no descriptor and no thread is left over.

    python tests/faults/soak.py --only classifying          50,000 files without heatmaps, about seven minutes
    python tests/faults/soak.py --only drawing              4,000 files with heatmaps, about five minutes
    python tests/faults/soak.py --shard I/2 --record FILE   the same in shards, resumable

Slopes are for 10,000 files (in the quick form, over its few files). One worker lives through the whole run.
"""

from __future__ import annotations

import sys
import time
from itertools import groupby
from typing import TYPE_CHECKING, Final

import psutil
from cases import (
    Background,
    Case,
    Figures,
    Sample,
    Scale,
    cases_main,
    done,
    sample,
    save_all,
    slope,
)
from harness import Agent, Bar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

READERS_DESCRIPTORS: Final = 4 * 3
"""Four idle readers of the journal, each with the database, its log and its index."""
PER_FILES: Final = 10_000
BATCH: Final = 250
NEVER: Final = 1_000_000
"""One worker for all files: what it gains in 50,000 could hide in lives of 1,000."""
WARM_UP: Final = 0.2
"""The share of a life that is left out: tables grow to their size, the allocator to its own."""


def classifying(scale: Scale, folder: Path) -> Figures:
    """The bare work, at the pace that the agent keeps."""
    return _soak("classifying", folder, scale.pick(50_000, 400), heatmap=False)


def drawing(scale: Scale, folder: Path) -> Figures:
    """With heatmaps: the picture library takes part."""
    return _soak("drawing", folder, scale.pick(4_000, 100), heatmap=True)


def _soak(name: str, folder: Path, number: int, *, heatmap: bool) -> Figures:
    scope = folder / "scope"
    supervisor: list[Sample] = []
    worker: list[tuple[int, Sample]] = []
    with Agent(
        scope, place=folder / "agent", heatmap=heatmap, recycle_files=NEVER, scan_seconds=10.0
    ) as agent:
        agent.start().wait_ready()
        looker = Background(lambda: _look(agent, supervisor, worker), 1.0 if number > 1000 else 0.1)
        started = time.monotonic()
        with looker:
            _feed(agent, scope, number)
        took = time.monotonic() - started
        counts = agent.status()["since_start"]
    lives = [[item for _, item in life] for _, life in groupby(worker, key=lambda pair: pair[0])]
    warm, per = _warm(supervisor), PER_FILES if number >= PER_FILES // 4 else number
    return {
        f"{name}_files": number,
        f"{name}_files_a_second": number / took,
        f"{name}_not_classified": number - counts.get("classified", 0),
        f"{name}_supervisor_rss_slope_mib": slope(warm, "rss_mib", per),
        f"{name}_supervisor_rss_first_mib": warm[0].rss_mib,
        f"{name}_supervisor_rss_last_mib": warm[-1].rss_mib,
        f"{name}_supervisor_descriptors_slope": _grown(warm, per),
        f"{name}_supervisor_threads_slope": _whole(slope(warm, "threads", per)),
        f"{name}_worker_lives": len(lives),
        f"{name}_worker_rss_slope_mib": max(slope(_warm(life), "rss_mib", per) for life in lives),
        f"{name}_worker_descriptors_slope": max(
            _whole(slope(_warm(life), "descriptors", per)) for life in lives
        ),
        f"{name}_worker_rss_last_mib": worker[-1][1].rss_mib,
    }


def _look(agent: Agent, supervisor: list[Sample], worker: list[tuple[int, Sample]]) -> None:
    count = done(agent)
    status = agent.status()
    try:
        supervisor.append(sample(status["pid"], count))
        worker.append((status["worker"]["pid"], sample(status["worker"]["pid"], count)))
    except (KeyError, TypeError, psutil.Error):
        pass  # between two workers


def _feed(agent: Agent, scope: Path, number: int) -> None:
    """Keep some files ahead of the agent; folders of a thousand."""
    for start in range(0, number, BATCH):
        save_all(scope / f"day-{start // 1000:03}", range(start, min(start + BATCH, number)))
        agent.wait_for(max(0, start - BATCH), 120)
    agent.wait_for(number, 120)


def _warm(samples: Sequence[Sample]) -> list[Sample]:
    return list(samples[int(len(samples) * WARM_UP) :]) or list(samples)


def _grown(samples: Sequence[Sample], per: int) -> float:
    """The supervisor's: the journal opens a few readers, once, as soon as page and scan ask at the same moment."""
    counts = [one.descriptors for one in samples]
    if per < PER_FILES and max(counts) - min(counts) <= READERS_DESCRIPTORS:
        return 0.0
    return _whole(slope(samples, "descriptors", per))


def _whole(value: float) -> float:
    """Descriptors come and go by ones; a slope below one for 10,000 files is none."""
    return 0.0 if abs(value) < 1 else value


def _bars(name: str) -> tuple[Bar, ...]:
    return (
        Bar(f"{name}_not_classified"),
        Bar(f"{name}_supervisor_rss_slope_mib", 1),
        Bar(f"{name}_supervisor_descriptors_slope", 0),
        Bar(f"{name}_supervisor_threads_slope", 0),
        Bar(f"{name}_worker_rss_slope_mib", 1),
        Bar(f"{name}_worker_descriptors_slope", 0),
    )


CASES: Final = (
    Case("classifying", classifying, _bars("classifying")),
    Case("drawing", drawing, _bars("drawing"), quick=False),
)

if __name__ == "__main__":
    sys.exit(cases_main("growth over many files", CASES))
