"""How long a worker may take over one file, and whose fault it is when it takes longer.

Answers for this: a healthy file is never blamed for a PC that was asleep or too busy, for a share that does
not answer, or for others that wait.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.processes.worker_process import WorkerEnded

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from edge_agent.processes.worker_process import WorkerProcess

STORAGE_SILENT: Final = "the disk or share does not answer; the file is tried again when it does"
_POLL_SECONDS: Final = 0.25
_LONGEST_STEP_SECONDS: Final = 1.0
_PREPARE_SECONDS: Final = 3.0
_FAIR_SHARE: Final = 0.1
"""A worker that got less of a processor was kept from working by the PC, not by the file."""


class Stopped(Exception):
    """The stop event was set while waiting for the worker."""


class SetAside(Exception):
    """The worker has to be ended, for a reason that is no fault of the file; the text is the reason."""


class StorageStalls(SetAside):
    """Nothing can be cleared up after the worker, either."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one file: after `patience_seconds` it gives way to others, `limit_seconds` is the end.

    `prepare` is called shortly before it has to give way, so that the next worker is loaded by then.
    """

    patience_seconds: float
    limit_seconds: float
    give_way: Callable[[], bool]
    prepare: Callable[[], None]
    storage_answers: Callable[[], bool]


def answer_of(worker: WorkerProcess, terms: Terms, stop: threading.Event) -> str:
    """Return what the worker says of the file that it was asked about.

    Raises WorkerEnded when it died or is to be ended because of the file, SetAside when it is to be ended for
    another reason, and Stopped.
    """
    clock, used_before = _Stopwatch(), None
    while True:
        line = worker.hear(_POLL_SECONDS)
        if line is not None:
            return line
        if stop.is_set():
            raise Stopped
        seconds = clock.seconds()
        # Asked for late: most files are answered by now.
        used_before = worker.cpu_seconds() if used_before is None else used_before
        if seconds >= terms.limit_seconds:
            return _last_chance(worker, terms, seconds, worker.cpu_seconds() - used_before)
        if seconds >= terms.patience_seconds - _PREPARE_SECONDS and terms.give_way():
            if seconds >= terms.patience_seconds:
                raise SetAside(f"took {seconds:.1f} s while other files waited; it is tried again later")
            terms.prepare()


def _last_chance(worker: WorkerProcess, terms: Terms, seconds: float, used_seconds: float) -> str:
    """Find out why it takes so long; the answer may still arrive meanwhile."""
    if worker.is_held_back(used_seconds, _FAIR_SHARE * seconds):
        raise SetAside("the PC was too busy to examine it; it is tried again later")
    if not terms.storage_answers():
        raise StorageStalls(STORAGE_SILENT)
    line = worker.hear(0.0)
    if line is None:
        raise WorkerEnded(f"the worker took longer than {terms.limit_seconds:.3g} s and was ended")
    return line


class _Stopwatch:
    """Time in which this process ran, too: what a sleeping PC misses is nobody's fault."""

    def __init__(self) -> None:
        self._before = time.monotonic()
        self._seconds = 0.0

    def seconds(self) -> float:
        now = time.monotonic()
        self._seconds += min(now - self._before, _LONGEST_STEP_SECONDS)
        self._before = now
        return self._seconds
