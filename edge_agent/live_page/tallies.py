"""Counts of findings since the start: outcomes, answers, and how long stages and files took.

Plain numbers, noted in the desk's thread in microseconds; how they are told to a monitor is for `metrics`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from edge_agent.finding import FindingOutcome, Milliseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.finding import Finding

STAGES: Final = tuple(Milliseconds.model_fields)
STAGE_BOUNDS_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
LATENCY_BOUNDS_SECONDS: Final = (
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 1800.0, 7200.0),
)
MOST_ANSWERS: Final = 200
"""Different pairs of label and decision that are told apart; a monitor's memory grows with each."""
OTHER: Final = "other"
_LONGEST_LATENCY_SECONDS: Final = 30 * 86400.0
"""Both times are the PC's clock; what is longer, or negative, was measured across a change of it."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations in seconds: how many are up to each bound and above the one before, the last: above all."""

    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_seconds: float = 0.0

    def plus(self, seconds: float) -> Distribution:
        """Return it with one duration more."""
        place = bisect_left(self.bounds_seconds, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Distribution(self.bounds_seconds, counts, self.sum_seconds + seconds)


def empty(bounds_seconds: tuple[float, ...]) -> Distribution:
    """Return a distribution of nothing."""
    return Distribution(bounds_seconds, (0,) * (len(bounds_seconds) + 1))


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts at one moment; `answers` by label and decision, of those that were inferred."""

    outcomes: dict[str, int]
    answers: dict[tuple[str, str], int]
    stages: dict[str, Distribution]
    latency: Distribution
    corrections: dict[str, int]
    """By the label that people gave in place of the agent's."""


class Tallies:
    """Count findings; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Every outcome from the start: a rate needs the zero before the first one.
        self._outcomes: Counter[str] = Counter(dict.fromkeys(get_args(FindingOutcome), 0))
        self._answers: Counter[tuple[str, str]] = Counter()
        self._stages = {stage: empty(STAGE_BOUNDS_SECONDS) for stage in STAGES}
        self._latency = empty(LATENCY_BOUNDS_SECONDS)
        self._corrections: Counter[str] = Counter()

    def note(self, finding: Finding) -> None:
        """Count one finding."""
        with self._lock:
            self._outcomes[finding.outcome] += 1
            if finding.label is not None and finding.decision is not None and finding.inferred:
                answer = (finding.label, finding.decision)
                known = answer in self._answers or len(self._answers) < MOST_ANSWERS
                self._answers[answer if known else (OTHER, finding.decision)] += 1
            for stage, distribution in self._stages.items():
                milliseconds = getattr(finding.stages, stage)
                if milliseconds is not None:
                    self._stages[stage] = distribution.plus(max(0.0, milliseconds / 1000))
            latency_seconds = latency_of(finding)
            if latency_seconds is not None:
                self._latency = self._latency.plus(latency_seconds)

    def note_corrections(self, corrections: Mapping[str, int]) -> None:
        """Count answers that people said are wrong, by the label that they gave."""
        with self._lock:
            for label, count in corrections.items():
                known = label in self._corrections or len(self._corrections) < MOST_ANSWERS
                self._corrections[label if known else OTHER] += count

    def counted(self) -> Counted:
        """Return the counts of this moment."""
        with self._lock:
            return Counted(
                dict(self._outcomes),
                dict(self._answers),
                dict(self._stages),
                self._latency,
                dict(self._corrections),
            )


def latency_of(finding: Finding) -> float | None:
    """Return seconds from when the file was quiet to its sidecar; None where that cannot be said."""
    if finding.settled is None or finding.finished is None:
        return None
    seconds = (finding.finished - finding.settled).total_seconds()
    return seconds if 0 <= seconds <= _LONGEST_LATENCY_SECONDS else None
