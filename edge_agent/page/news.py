"""News for the stream: what the agent says, looked up in the journal, in a thread that nobody waits for.

The agent's own threads only leave a word here, in microseconds; however much they say, what waits is bounded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from edge_agent.page.no_archive import NoArchive
from edge_agent.page.page_state import PageState, is_news

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.live_page.pulse import MonitorState
    from edge_agent.page.stream import Hub
    from edge_agent.status import AgentStatus

    Rows = Callable[[Sequence[Path]], dict[Path, dict[str, Any]] | None]

MOST_WAITING: Final = 4096
"""Files that wait to be looked up; beyond it, the pages are told to ask anew."""
AT_ONCE: Final = 64
"""Looked up and sent together; a quarter of what the stream keeps for those who listen."""
_PAUSE_SECONDS: Final = 0.02
"""After each such heap, so that the listeners can follow."""
_PATIENCE_SECONDS: Final = 600.0
"""So long a file is looked up again that the journal does not have: its disk may be full, or it has gone again."""
_COMPLAINT_SECONDS: Final = 60.0
_STATE_SECONDS: Final = 2.0
"""So often the state is judged by itself: an agent that hangs says nothing."""
_log = logging.getLogger(__name__)


class News:
    """Publish `entry`, `status` and `model` to `hub`.

    `rows_of` returns the rows that the journal has at this moment, None where there is no journal any more; a
    journal that cannot be read, or not yet be written, is asked again until the file has had its time.
    `look` is called every two seconds: what has to be looked at on a disk now and then.
    """

    def __init__(
        self, hub: Hub, monitor: MonitorState, rows_of: Rows, look: Callable[[], None] = lambda: None
    ) -> None:
        self._hub = hub
        self._monitor = monitor
        self._rows_of = rows_of
        self._look = look
        self._lock = threading.Lock()
        self._paths: deque[tuple[Path, float]] = deque()
        self._is_overrun = self._is_stopped = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._judging = threading.Lock()
        self._state = PageState()
        self._told: dict[str, Any] | None = None
        self._model: dict[str, Any] | None = None
        self._newest = 0
        self._complaint_due = float("-inf")

    def note_finding(self, path: Path) -> None:
        """Take a word of a file that the journal has."""
        with self._lock:
            if len(self._paths) >= MOST_WAITING:
                self._paths.clear()
                self._is_overrun = True
            self._paths.append((path, time.monotonic() + _PATIENCE_SECONDS))
        self._start()

    def note_status(self, status: AgentStatus) -> None:
        """Take the numbers of the agent's main loop, which the monitor has by now."""
        with self._judging:
            self._state.note(time.monotonic(), status)
        self._start()

    def status(self) -> dict[str, Any]:
        """Return the state at this moment, as the page is told."""
        with self._judging:
            return self._state.told(self._monitor.pulse())

    def close(self) -> None:
        """Say nothing more; returns at once."""
        self._is_stopped = True
        self._wake.set()

    def _start(self) -> None:
        if not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._is_stopped:
                    self._thread = threading.Thread(target=self._run, name="page-news", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while not self._is_stopped:
            self._wake.wait(_STATE_SECONDS)
            self._wake.clear()
            try:
                self._look()
                self._tell_state()
                self._tell_entries()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        _log.debug("the page was not told", exc_info=True)
        now = time.monotonic()
        if now >= self._complaint_due:
            self._complaint_due = now + _COMPLAINT_SECONDS
            _log.warning("the page was not told of something: %s: %s", type(error).__name__, error)

    def _tell_state(self) -> None:
        told = self.status()
        if is_news(told, self._told):
            self._told = told
            self._hub.publish("status", told)
        model = model_told(self._monitor.pulse().status)
        if model is not None and model != self._model:
            # The first one too: a page that came while it was being loaded waits for it.
            self._model = model
            self._hub.publish("model", model)

    def _tell_entries(self) -> None:
        while some := self._some():
            late = some
            try:
                late = self._tell_some(some)
            finally:
                self._put_back(late)
            if late:
                return
            time.sleep(_PAUSE_SECONDS if len(some) == AT_ONCE else 0)

    def _tell_some(self, some: dict[Path, float]) -> dict[Path, float]:
        """Tell of files, and return those that the journal does not have yet."""
        try:
            found = self._rows_of(tuple(some))
        except NoArchive:
            return some
        for row in found.values() if found is not None else ():
            is_new, self._newest = row["id"] > self._newest, max(row["id"], self._newest)
            self._hub.publish("entry", {"row": row, "new": is_new})
        return {} if found is None else {path: until for path, until in some.items() if path not in found}

    def _some(self) -> dict[Path, float]:
        """Return some files, each with when it has had its time."""
        with self._lock:
            overrun, self._is_overrun = self._is_overrun, False
            some = dict(self._paths.popleft() for _ in range(min(AT_ONCE, len(self._paths))))
        if overrun:
            self._hub.publish("resync", {})
        return {} if self._is_stopped else some

    def _put_back(self, late: dict[Path, float]) -> None:
        now = time.monotonic()
        with self._lock:
            self._paths.extend((path, until) for path, until in late.items() if until > now)


def model_told(status: AgentStatus | None) -> dict[str, Any] | None:
    """Return the model that answers as the page is told, or None while there is none."""
    if status is None or status.model is None:
        return None
    model = status.model
    return {
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "labels": list(model.labels),
    }
