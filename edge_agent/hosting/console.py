"""A console window of Windows that is closed while the agent runs in it, and a session that ends.

Windows ends a process as soon as its handler for that has returned (after five seconds it does anyway), so the
handler has to wait for the agent's own end. Ctrl-C and Ctrl-Break come as signals and are not meant here. Only
this module knows those events. Not verified on Windows.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Iterator

_CLOSED: Final = frozenset({2, 5, 6})
"""CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT."""
_WAIT_SECONDS: Final = 4.0


@contextmanager
def console_closing(
    stop: Callable[[], None],
    library: ctypes.CDLL | None = None,
    function_type: Callable[..., Callable[..., object]] | None = None,
) -> Iterator[None]:
    """Call `stop` when the console closes, and keep Windows waiting until the context ends.

    `library` (kernel32) and `function_type` (ctypes.WINFUNCTYPE) are the operating system; tests pass their own.
    """
    import ctypes

    if sys.platform == "win32":
        library = library or ctypes.WinDLL("kernel32", use_last_error=True)
        function_type = function_type or ctypes.WINFUNCTYPE
    if library is None or function_type is None:
        yield
        return
    ended = threading.Event()

    def handle(event: int) -> int:
        if event not in _CLOSED:
            return 0  # the next handler's: Python turns those into signals
        stop()
        ended.wait(_WAIT_SECONDS)
        return 1

    handler = function_type(ctypes.c_int, ctypes.c_uint32)(handle)
    library.SetConsoleCtrlHandler(handler, 1)
    try:
        yield
    finally:
        ended.set()
        library.SetConsoleCtrlHandler(handler, 0)
