"""The picture maker as a process: started when somebody looks at a file without a picture, ended when nobody does.

One order at a time, the newest first, because that is what is on the screen. Nobody waits here: an order is a
future. Only this module decides when the process has to go, and what is not asked of it again for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edge_agent.output_places import readable_path
from edge_agent.picture_orders import (
    READY,
    MakerSettings,
    NotMade,
    Order,
    order_line,
    read_answer,
    settings_line,
)
from edge_agent.processes.job_object import JobLimits, worker_job
from edge_agent.processes.worker_process import WORKER_COMMAND, WorkerEnded, WorkerProcess
from edge_agent.protocol import NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.preview_files import Previews
    from edge_agent.processes.job_object import WorkerJob

WALL_SECONDS: Final = 20.0
"""A file that takes longer costs the process its life."""
START_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 60.0
MOST_WAITING: Final = 64
"""Nobody looks at more at once; of more, the oldest are given up."""
REMEMBERED_SECONDS: Final = 600.0
PASSING_SECONDS: Final = 30.0
_MOST_REMEMBERED: Final = 1000
_MOST_HANGING: Final = 2
"""Killed processes that a dead share still holds; each is one more that the system cannot end."""
_POLL_SECONDS: Final = 0.25
_GRACE_SECONDS: Final = 0.5
PICTURE_COMMAND: Final = (
    *WORKER_COMMAND[:-1],
    WORKER_COMMAND[-1].replace("edge_agent.worker", "edge_agent.picture_maker"),
)
_ENDING: Final = "the agent is ending"
_log = logging.getLogger(__name__)


class NoPicture(Exception):
    """There is no picture of a file; the text says why. `later`: the same may be asked again soon."""

    def __init__(self, reason: str, *, later: bool = False) -> None:
        super().__init__(reason)
        self.later = later


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What an order came to, and how long that is believed."""

    reason: str
    until: float


class PictureProcess:
    """Draw pictures on demand. `ask` and `close` may be called from any thread, and return at once."""

    def __init__(
        self,
        settings: MakerSettings,
        *,
        command: Sequence[str] = PICTURE_COMMAND,
        wall_seconds: float = WALL_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = replace(settings, supervisor_pid=os.getpid())
        self._command = tuple(command)
        self._wall_seconds = wall_seconds
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[Order, Future[Previews]] = {}
        self._in_hand: tuple[Order, Future[Previews]] | None = None
        self._failed: dict[Order, _Remembered] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._hanging: list[WorkerProcess] = []
        self._no_start_before = float("-inf")

    def ask(self, order: Order) -> Future[Previews]:
        """Return the pictures to come; the future raises NoPicture. The same order twice is one."""
        with self._changed:
            future = self._standing(order)
            if future is None:
                future = Future()
            self._waiting.pop(order, None)
            if future.done() or (self._in_hand is not None and self._in_hand[0] == order):
                return future
            self._waiting[order] = future
            while len(self._waiting) > MOST_WAITING:
                _fail(
                    self._waiting.pop(next(iter(self._waiting))),
                    "too many pictures are asked for",
                    later=True,
                )
            if self._thread is None:
                # A daemon, and the one that starts the process: on Linux it is killed when this thread ends.
                self._thread = threading.Thread(target=self._run, name="page-pictures", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Take no more orders, and end the process; what waits is given up."""
        with self._changed:
            self._closed = True
            for future in self._waiting.values():
                _fail(future, _ENDING, later=True)
            self._waiting.clear()
            self._changed.notify_all()

    def _standing(self, order: Order) -> Future[Previews] | None:
        """Return the future of an order that waits, is in hand, or needs none; called with the lock held."""
        if self._in_hand is not None and self._in_hand[0] == order:
            return self._in_hand[1]
        failed = self._failed.get(order)
        if self._closed or (failed is not None and self._clock() < failed.until):
            future: Future[Previews] = Future()
            _fail(future, _ENDING if failed is None else failed.reason, later=failed is None)
            return future
        return self._waiting.get(order)

    def _run(self) -> None:
        """Serve until nobody has asked for a while; the process has no longer life than this thread."""
        process: WorkerProcess | None = None
        job: WorkerJob | None = None
        try:
            job = worker_job(JobLimits(self._settings.memory_limit_mib, low_priority=True))
            while (taken := self._next()) is not None:
                order, future = taken
                try:
                    process = self._living(process, job)
                    process.say(order_line(order))
                    self._settle(order, future, read_answer(self._answer_of(process, self._wall_seconds)))
                    process.answered += 1
                except NoPicture as error:
                    process = None
                    _fail(future, str(error), later=error.later)
                except (WorkerEnded, NotUnderstood) as error:
                    self._blame(order, future, error)
                    self._bury(process)
                    process = None
        except Exception as error:
            # A fault of ours, or of the system: what is asked for next gets a thread of its own.
            _log.warning("pictures for the page failed: %s: %s", type(error).__name__, error)
            _log.debug("pictures for the page failed", exc_info=True)
        finally:
            self._leave()
            if process is not None:
                process.end(_GRACE_SECONDS)
            if job is not None:
                job.close()

    def _leave(self) -> None:
        """Let another thread begin, where this one did not end because nobody asked."""
        with self._changed:
            if self._thread is not threading.current_thread():
                return
            self._thread = None
            left = [*self._waiting.values(), *([self._in_hand[1]] if self._in_hand else [])]
            self._waiting.clear()
            self._in_hand = None
            for future in left:
                _fail(future, "the picture maker failed", later=True)

    def _next(self) -> tuple[Order, Future[Previews]] | None:
        with self._changed:
            self._in_hand = None
            asked = self._changed.wait_for(lambda: self._closed or bool(self._waiting), self._idle_seconds)
            if self._closed or not asked:
                self._thread = None
                return None
            self._in_hand = self._waiting.popitem()
            return self._in_hand

    def _living(self, process: WorkerProcess | None, job: WorkerJob | None) -> WorkerProcess:
        """Return a process that waits for an order. Raises NoPicture where none can be had."""
        if process is not None and process.exit_code() is None:
            return process
        self._bury(process)
        self._hanging = [hanging for hanging in self._hanging if hanging.exit_code() is None]
        if len(self._hanging) >= _MOST_HANGING:
            raise NoPicture("the disk does not answer", later=True)
        if self._clock() < self._no_start_before:
            raise NoPicture("the picture maker does not start", later=True)
        try:
            return self._started(job)
        except (OSError, WorkerEnded) as error:
            if self._closed:
                raise NoPicture(_ENDING, later=True) from None
            _log.warning("no pictures for the page at the moment: %s", error)
            self._no_start_before = self._clock() + PASSING_SECONDS
            raise NoPicture("the picture maker does not start", later=True) from None

    def _started(self, job: WorkerJob | None) -> WorkerProcess:
        process = WorkerProcess(self._command)
        try:
            if job is not None:
                job.take(process.pid)
            process.say(settings_line(self._settings))
            if self._answer_of(process, START_SECONDS) != READY:
                raise WorkerEnded("the picture maker greets in another way")
        except BaseException:
            self._bury(process)
            raise
        return process

    def _answer_of(self, process: WorkerProcess, seconds: float) -> str:
        """Wait for a line. Raises WorkerEnded when the process dies, takes too long, or is not wanted any more."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._closed:
            line = process.hear(min(_POLL_SECONDS, left))
            if line is not None:
                return line.strip()
        raise WorkerEnded(_ENDING if self._closed else f"it took longer than {seconds:g} s")

    def _settle(self, order: Order, future: Future[Previews], answer: Previews | NotMade) -> None:
        if isinstance(answer, NotMade):
            self._remember(order, answer.reason, PASSING_SECONDS if answer.passing else REMEMBERED_SECONDS)
            _fail(future, answer.reason)
            return
        with contextlib.suppress(InvalidStateError):  # whoever asked has gone
            future.set_result(answer)

    def _blame(self, order: Order, future: Future[Previews], error: Exception) -> None:
        """Not try a file again that the process did not survive, or was too slow for."""
        if self._closed:
            _fail(future, _ENDING, later=True)
            return
        _log.info("no picture of %s: %s", readable_path(order.path), error)
        reason = "the file cannot be drawn: the picture maker ended over it"
        self._remember(order, reason, REMEMBERED_SECONDS)
        _fail(future, reason)

    def _bury(self, process: WorkerProcess | None) -> None:
        if process is not None and not process.end(0.0):
            self._hanging.append(process)

    def _remember(self, order: Order, reason: str, seconds: float) -> None:
        with self._changed:
            while len(self._failed) >= _MOST_REMEMBERED:
                del self._failed[next(iter(self._failed))]
            self._failed[order] = _Remembered(reason, self._clock() + seconds)


def _fail(future: Future[Previews], reason: str, *, later: bool = False) -> None:
    with contextlib.suppress(InvalidStateError):  # whoever asked has gone
        future.set_exception(NoPicture(reason, later=later))
