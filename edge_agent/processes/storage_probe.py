"""Whether a disk or share answers, asked so that the asking thread never hangs with it.

A share that stalls holds a thread in the kernel, and nothing can end that. So each question is put by a
thread of its own, for two seconds; only this module starts such threads, and it lets no more than two of them
hang at the same place.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from edge_agent.files import is_leftover, stamp_of
from edge_agent.shared_opening import open_shared, system_path

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_SECONDS: Final = 0.25
_MOST_HANGING: Final = 2
"""One may hang at a single odd file, so a second one is worth asking; after that the place is silent."""
_Answer = TypeVar("_Answer")
_ANSWERS: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""Errors that only a file system which works can give; EIO, ESTALE or ENOTCONN are none of them."""


class StorageSilent(Exception):
    """The disk or share did not answer in time."""


def in_time(ask: Callable[[], _Answer], *, otherwise: _Answer, limit_seconds: float = 2.0) -> _Answer:
    """Return what `ask` finds on some disk or share, `otherwise` when that does not answer or cannot."""
    answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()

    def put() -> None:
        with contextlib.suppress(OSError):
            answers.put(ask())
            return
        answers.put(otherwise)

    threading.Thread(target=put, name="storage-probe", daemon=True).start()
    try:
        return answers.get(timeout=limit_seconds)
    except queue.Empty:
        return otherwise


class StorageProbe:
    """Ask about files below `roots`; each root, and each place outside, is taken for a storage of its own."""

    def __init__(self, roots: tuple[Path, ...], limit_seconds: float = 2.0) -> None:
        self._roots = roots
        self._limit_seconds = limit_seconds
        self._asking: dict[Path, list[threading.Thread]] = {}

    def size_of(self, path: Path, stop: threading.Event) -> int:
        """Return the file's size in bytes, 0 when it cannot be said. Raises StorageSilent, also at `stop`."""

        def ask() -> int:
            with contextlib.suppress(OSError):
                return stamp_of(path).size_bytes
            return 0

        return self._in_time(path, ask, stop)

    def answers(self, path: Path, outputs: Path, stop: threading.Event) -> bool:
        """Whether both the file (its first byte included) and the folder of its outputs can be reached."""
        try:
            return self._in_time(path, lambda: _is_reachable(path), stop) and self._in_time(
                outputs, lambda: _is_reachable_folder(outputs), stop
            )
        except StorageSilent:
            return False

    def clear(self, folder: Path, owner: str, stop: threading.Event) -> None:
        """Remove the half-written files that a dead worker of `owner` left in `folder`.

        Names are taken from one listing and only while the caller waits: what a new worker writes later can
        never be among them. Raises StorageSilent when the folder did not answer.
        """
        given_up = threading.Event()

        def remove() -> None:
            for name in _leftovers(folder, owner):
                if given_up.is_set():
                    return
                with contextlib.suppress(OSError):
                    Path(system_path(folder / name)).unlink()

        try:
            self._in_time(folder, remove, stop)
        finally:
            given_up.set()

    def _in_time(self, path: Path, ask: Callable[[], _Answer], stop: threading.Event) -> _Answer:
        place = self._place_of(path)
        hanging = [thread for thread in self._asking.get(place, ()) if thread.is_alive()]
        if len(hanging) >= _MOST_HANGING:
            raise StorageSilent(f"{place} does not answer")
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: answers.put(ask()), name="storage-probe", daemon=True)
        self._asking[place] = [*hanging, thread]
        thread.start()
        deadline = time.monotonic() + self._limit_seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return answers.get(timeout=min(_POLL_SECONDS, left))
        raise StorageSilent(f"{place} did not answer for {self._limit_seconds:g} s")

    def _place_of(self, path: Path) -> Path:
        inside = (root for root in self._roots if path.is_relative_to(root))
        return next(inside, Path(path.anchor))


def _is_reachable(path: Path) -> bool:
    try:
        with open_shared(path) as handle:
            handle.read(1)
    except OSError as error:
        return _is_answer(error)
    return True


def _is_reachable_folder(folder: Path) -> bool:
    try:
        Path(system_path(folder)).stat()
    except OSError as error:
        return _is_answer(error)
    return True


def _is_answer(error: OSError) -> bool:
    # EINVAL is what open_shared says of a FIFO or a device.
    return isinstance(error, _ANSWERS) or error.errno == errno.EINVAL


def _leftovers(folder: Path, owner: str) -> list[str]:
    try:
        return [path.name for path in Path(system_path(folder)).iterdir() if is_leftover(path.name, owner)]
    except OSError:
        return []
