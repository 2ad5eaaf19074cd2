"""An edited configuration file: noticed when it is whole, whatever way the editor has to save it.

Editors write in place, in pieces, or put another file in its place; some take it away first. So a new content
counts once it has stayed the same for a second. Only this module looks at the file; what is in it is for others
to judge.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.files import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_SECONDS: Final = 2.0
_SETTLE_SECONDS: Final = 1.0
_MOST_BYTES: Final = 4 * 1024 * 1024

News = Literal["edited", "gone"]


class ConfigWatch:
    """Look after one file; `look` is to be called twice a second or so."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._judged = self._seen = self._state()
        self._changed_at: float | None = None
        self._look_due = clock() + _LOOK_SECONDS

    def look_now(self) -> None:
        """Let the next `look` be one, and take what it finds for news."""
        self._judged = (-1, None)
        self._look_due = float("-inf")

    def look(self) -> News | None:
        """Return what is new since the last news: another content that has settled, or that the file is gone."""
        now = self._clock()
        if now < self._look_due:
            return None
        state = self._state()
        if state != self._seen:
            self._seen, self._changed_at = state, now
        if state == self._judged:
            self._changed_at = None
            self._look_due = now + _LOOK_SECONDS
            return None
        if self._changed_at is None:
            self._changed_at = now
        if now - self._changed_at < _SETTLE_SECONDS:
            self._look_due = now  # at the next call
            return None
        self._judged, self._changed_at = state, None
        self._look_due = now + _LOOK_SECONDS
        return "edited" if state[1] is not None else "gone"

    def _state(self) -> tuple[int, bytes | None]:
        """Return time and bytes, None where there are none to be had: a few KiB, read every two seconds.

        With the time, saving the same again has it judged again: what was in its way may be gone.
        """
        try:
            file = self._file.resolve()
            return file.stat().st_mtime_ns, read_whole(file, _MOST_BYTES)
        except (OSError, RuntimeError):  # gone; a link to itself
            return 0, None
