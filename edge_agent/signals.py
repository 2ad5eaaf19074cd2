"""The signals that end the agent, heard in a thread of their own: none is late, and none gets lost.

Python runs a handler in the main thread, and only when that one comes back from whatever the system keeps it
waiting for, perhaps a share that is dead. The interpreter writes the number of a signal into a socket at once,
though, and a thread that reads it depends on nobody. Only this module knows which signals mean what.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

_END: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
_HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)


class Signals:
    """While the context is open, `on_end` is called in a thread when a signal asks for the end.

    A context that is still open `limit_seconds` later ends the process on the spot with exit code 0: whoever
    uses that must lose nothing by it. `on_hang_up` hears SIGHUP; without one, SIGHUP keeps its meaning. In
    other threads than the main one nothing is heard, because the process belongs to somebody else then.
    """

    def __init__(
        self,
        on_end: Callable[[], None],
        *,
        on_hang_up: Callable[[], None] | None = None,
        limit_seconds: float | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._on_end = on_end
        self._on_hang_up = on_hang_up
        self._limit_seconds = limit_seconds
        self._leave = leave
        self._over = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._told_before = -1
        self._reader, self._writer = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if threading.current_thread() is threading.main_thread():
            # First where to, then what: a signal between the two would be heard by nobody.
            self._writer.setblocking(False)
            self._told_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, _is_heard_elsewhere) for number in self._heard()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._handlers:
            signal.set_wakeup_fd(self._told_before)
        self._over.set()
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _heard(self) -> tuple[int, ...]:
        return _END if self._on_hang_up is None or _HANG_UP is None else (*_END, _HANG_UP)

    def _listen(self) -> None:
        while heard := self._reader.recv(64):
            if any(number in _END for number in heard):
                self._on_end()
                if self._limit_seconds is not None and not self._over.wait(self._limit_seconds):
                    self._leave(0)
            elif self._on_hang_up is not None and any(number == _HANG_UP for number in heard):
                self._on_hang_up()


def _is_heard_elsewhere(number: int, frame: FrameType | None) -> None:
    """Stand in the place of what would end the process, or raise in the middle of anything."""
