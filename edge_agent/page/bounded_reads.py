"""Reads from a disk or share that may hang, put so that neither the page nor its pool hangs with them.

A thread that waits for a dead share cannot be ended. So each read has a thread of its own, whoever asked waits for
a moment only, and at a place that hangs nothing more is asked until it answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from edge_agent.page.no_archive import NoArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

SECONDS: Final = 3.0
MOST_HANGING: Final = 2
"""One may hang at a single odd file, so a second one is worth asking."""
MOST_AT_ONCE: Final = 8
_T = TypeVar("_T")


class BoundedReads:
    """Read for coroutines of one loop at a time; all of it belongs to that loop's thread."""

    def __init__(self) -> None:
        self._running: Counter[Hashable] = Counter()
        self._hanging: Counter[Hashable] = Counter()

    async def read(self, place: Hashable, work: Callable[[], _T]) -> _T:
        """Return what `work` finds at `place` (one disk or share). Raises NoArchive when that does not answer."""
        if self._hanging[place] >= MOST_HANGING or self._running[place] >= MOST_AT_ONCE:
            raise NoArchive("the disk of this file does not answer")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        self._running[place] += 1
        answer.add_done_callback(lambda _: self._count_back(place))
        threading.Thread(target=_work, args=(work, loop, answer), name="page-read", daemon=True).start()
        waiting = asyncio.shield(answer)
        try:
            return await asyncio.wait_for(waiting, SECONDS)
        except TimeoutError:
            if answer.done():
                raise
            self._hanging[place] += 1
            answer.add_done_callback(lambda _: self._hanging.subtract([place]))
            raise NoArchive(f"the disk of this file has not answered for {SECONDS:g} s") from None

    def _count_back(self, place: Hashable) -> None:
        self._running[place] -= 1


def _work(work: Callable[[], _T], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[_T]) -> None:
    try:
        found = work()
    except Exception as error:
        _tell(loop, partial(answer.set_exception, error), answer)
    else:
        _tell(loop, partial(answer.set_result, found), answer)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None], answer: asyncio.Future[_T]) -> None:
    def say() -> None:
        if not answer.done():
            what()

    with contextlib.suppress(RuntimeError):  # the page has ended meanwhile
        loop.call_soon_threadsafe(say)
