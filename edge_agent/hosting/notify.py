"""What systemd is told (sd_notify): ready, alive, busy with a change, about to end.

One datagram each on the socket that systemd names in the environment; without one nothing is sent. Only this
module knows that protocol. That nobody listens is never an error.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
_EXTENSION_SECONDS: Final = 30.0
_EXTEND_EVERY_SECONDS: Final = 5.0


class Notifier:
    """The service manager's ear. `alive` and `patience` may be called as often as one likes."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        name = environment.get(SOCKET_VARIABLE, "")
        # "@" stands for the zero byte of Linux's abstract names.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._watchdog_seconds = _watchdog_seconds(environment)
        self._clock = clock
        self._alive_due = self._extension_due = float("-inf")

    @property
    def listens(self) -> bool:
        """Whether a service manager wants to hear."""
        return bool(self._address)

    def say(self, *lines: str) -> None:
        """Send `lines` (`READY=1`, `STATUS=...`) as one datagram."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.connect(self._address)
            line.send(text.encode("utf-8", "backslashreplace"))

    def ready(self, status: str) -> None:
        """Say that the service does what it is there for: after the start, and after each change."""
        self.say("READY=1", f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """Say that it changes over, until `ready`."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={status}")

    def stopping(self) -> None:
        """Say that it ends, as it was asked to."""
        self.say("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """Feed the watchdog, where there is one: at a third of its time."""
        now = self._clock()
        if self._watchdog_seconds is not None and now >= self._alive_due:
            self._alive_due = now + self._watchdog_seconds / 3
            self.say("WATCHDOG=1")

    def patience(self) -> None:
        """Ask for half a minute more for a start or a change that takes its time."""
        now = self._clock()
        if now >= self._extension_due:
            self._extension_due = now + _EXTEND_EVERY_SECONDS
            self.say(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_SECONDS * 1_000_000)}")


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's time, None where there is none, or where it is meant for another process."""
    with contextlib.suppress(ValueError):
        if int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid():
            seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
            return seconds if seconds > 0 else None
    return None
