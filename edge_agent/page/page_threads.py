"""Threads for what touches a disk, beside the page's loop.

Not `ThreadPoolExecutor`: Python waits for its threads when the process ends, however long a disk takes, and the
agent has to be gone within three seconds.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class PageThreads:
    """At most `count` of them, each made when it is needed; what they are asked for is done in turn."""

    def __init__(self, count: int, name: str) -> None:
        self._left = count
        self._name = name
        self._lock = threading.Lock()
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._is_closed = False

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Have `work` done; the future is cancelled where nothing is done any more."""
        future: Future[_T] = Future()
        with self._lock:
            if self._is_closed:
                future.cancel()
                return future
            self._asked.put((future, work))
            if not self._idle.acquire(blocking=False) and self._left > 0:
                self._left -= 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Begin nothing more; returns at once, and what is in hand goes on for nobody."""
        with self._lock:
            self._is_closed = True
            with contextlib.suppress(Empty):
                while (asked := self._asked.get_nowait()) is not None:
                    asked[0].cancel()
            self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            future, work = asked
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del asked, future, work  # what was asked for is kept no longer than its answer is
            self._idle.release()
        self._asked.put(None)  # for the next one
