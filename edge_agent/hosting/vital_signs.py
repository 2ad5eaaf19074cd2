"""Signs of life: one word for what the agent is doing, in a file, to systemd, and to whoever runs it.

`heartbeat.json` in the state folder is written at least every five seconds while the main loop goes round and
the thread that asks the worker is there. A monitor that has no other means reads its `time`: when that is more
than fifteen seconds old, the agent hangs or is gone (unless `state` is "stopping": then it was ended). Only this
module knows the form of that file, and when somebody is told.
"""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.status import publish_beside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.hosting.notify import Notifier
    from edge_agent.status import AgentStatus

HEARTBEAT_NAME: Final = "heartbeat.json"
HEARTBEAT_SCHEMA: Final = "scopewatch.heartbeat/1"
_BEAT_SECONDS: Final = 3.0
_TELL_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)

State = Literal["starting", "working", "idle", "paused", "reloading", "stopping"]


class VitalSigns:
    """Tell everybody how the agent is. Belongs to the main thread, but for `enter("stopping")`.

    `on_state` hears each new word, and the present one about every second while the agent is starting,
    reloading or stopping: Windows wants to hear something from a service that is not ready.
    """

    def __init__(
        self,
        state_folder: Path,
        notifier: Notifier,
        on_state: Callable[[str], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = state_folder / HEARTBEAT_NAME
        self._notifier = notifier
        self._on_state = on_state
        self._clock = clock
        self._state: State = "starting"
        self._last_file: str | None = None
        self._beat_due = self._tell_due = float("-inf")

    def enter(self, state: State, what: str = "") -> None:
        """Take on another state; `what` says more, for people."""
        if state == self._state and self._tell_due > float("-inf"):
            return
        was_ready = self._state in ("working", "idle", "paused")
        self._state = state
        self._beat_due = self._tell_due = float("-inf")
        if state == "stopping":
            self._notifier.stopping()
        elif state == "reloading":
            self._notifier.reloading(what or state)
        elif state == "starting" or was_ready:
            self._notifier.say(f"STATUS={what or state}")
        else:
            self._notifier.ready(what or state)
        self.beat()

    def note(self, numbers: AgentStatus) -> None:
        """Take the state from the numbers of an agent that is ready."""
        self._last_file = numbers.last.path if numbers.last is not None else None
        if self._state in ("working", "idle", "paused"):
            self.enter(_doing(numbers), _in_words(numbers))

    def beat(self) -> None:
        """Say that the main loop goes round, to everybody for whom it is time."""
        now = self._clock()
        self._notifier.alive()
        if self._state in ("starting", "reloading"):
            self._notifier.patience()
        if now >= self._tell_due:
            is_passing = self._state in ("starting", "reloading", "stopping")
            self._tell_due = now + _TELL_SECONDS if is_passing else float("inf")
            self._on_state(self._state)
        if now >= self._beat_due:
            self._beat_due = now + _BEAT_SECONDS
            self._write()

    def _write(self) -> None:
        values = {
            "schema": HEARTBEAT_SCHEMA,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "pid": os.getpid(),
            "state": self._state,
            "last_file": self._last_file,
        }
        try:
            publish_beside(self._file, json.dumps(values, indent=2).encode() + b"\n")
        except OSError as error:
            # A full disk: the work goes on, and the monitor has reason to look.
            _log.debug("no heartbeat: %s", error)


def _doing(numbers: AgentStatus) -> State:
    if numbers.paused is not None:
        return "paused"
    return "working" if numbers.waiting else "idle"


def _in_words(numbers: AgentStatus) -> str:
    if numbers.paused is not None:
        return f"paused: {numbers.paused}"
    return "examining files" if numbers.waiting else "no file is waiting"
