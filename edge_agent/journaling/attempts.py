"""Attempts at files, and the deaths of the worker that they cost: what tells a poisonous file from a power cut.

An attempt stands open from before the worker is asked until it has answered; one found open at the start was
cut short by a power cut or a kill, which says nothing against the file. A death is counted only when a living
supervisor saw it, for one state of the file and one model. Everything is held in memory (there are few), so
that the counting goes on where nothing can be written; the journal keeps a copy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_agent.files import FileStamp

Key = tuple[bytes, bytes]
"""Folder and name of a file, as the system spells them."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is held of one file: its state, the model it was tried with, and how that went."""

    size_bytes: int
    modified_ns: int
    model_sha256: str | None = None
    deaths: int = 0
    open: bool = False

    def is_of(self, stamp: FileStamp) -> bool:
        """Whether this was about the same state of the file."""
        return (self.size_bytes, self.modified_ns) == (stamp.size_bytes, stamp.modified_ns)


class Attempts:
    """All trials; `found` are those that an earlier run left. For one thread at a time."""

    def __init__(self, found: Iterable[tuple[Key, Trial]] = ()) -> None:
        self._trials = dict(found)
        self._left_open = {key for key, trial in self._trials.items() if trial.open}
        self._changed: set[Key] = set()

    def open(self, key: Key, stamp: FileStamp) -> None:
        """Note that the worker is about to be asked."""
        self._put(key, replace(self._of(key, stamp), open=True))

    def close(self, key: Key) -> None:
        """Note that the worker answered, or that nobody is asked any more."""
        self._left_open.discard(key)
        trial = self._trials.get(key)
        if trial is not None and trial.deaths:
            self._put(key, replace(trial, open=False))
        elif trial is not None:
            self.drop(key)

    def count_death(self, key: Key, stamp: FileStamp, model_sha256: str | None) -> int:
        """Count one more death of the worker over this state of the file with this model; return how many."""
        deaths = self.deaths(key, stamp, model_sha256) + 1
        trial = replace(self._of(key, stamp), model_sha256=model_sha256, deaths=deaths)
        self._put(key, trial)
        return deaths

    def deaths(self, key: Key, stamp: FileStamp, model_sha256: str | None) -> int:
        """Return how many deaths this state of the file cost with this model."""
        trial = self._trials.get(key)
        known = trial is not None and trial.is_of(stamp) and trial.model_sha256 == model_sha256
        return trial.deaths if trial is not None and known else 0

    def drop(self, key: Key) -> None:
        """Forget a file: it is done, or gone."""
        self._left_open.discard(key)
        if self._trials.pop(key, None) is not None:
            self._changed.add(key)

    def left_open(self) -> list[Key]:
        """Return what an earlier run left open and this one has not closed, in a fixed order."""
        return sorted(self._left_open)

    def changes(self) -> list[tuple[Key, Trial | None]]:
        """Return what has still to be written; None stands for a trial that is over."""
        return [(key, self._trials.get(key)) for key in self._changed]

    def written(self) -> None:
        """Say that `changes` was written."""
        self._changed.clear()

    def nothing_is_written(self) -> None:
        """Say that what was written is lost."""
        self._changed |= self._trials.keys()

    def _of(self, key: Key, stamp: FileStamp) -> Trial:
        trial = self._trials.get(key)
        return (
            trial if trial is not None and trial.is_of(stamp) else Trial(stamp.size_bytes, stamp.modified_ns)
        )

    def _put(self, key: Key, trial: Trial) -> None:
        self._trials[key] = trial
        self._changed.add(key)
