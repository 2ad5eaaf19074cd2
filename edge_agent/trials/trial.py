"""What a trial of the self-test is: its name, what it proves, what to do when it fails, and its four verdicts.

A trial returns what it saw, or raises `Failed`, `Warned` or `Skipped` with it. Everything that a trial makes
lies in the two folders of its `Bench`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from edge_agent.watching.change_events import Hints

CONTENT: Final = bytes(range(256)) * 256
"""What trials write: no micrograph, so that no agent elsewhere takes it for one."""
_POLL_SECONDS: Final = 0.02


class Failed(Exception):
    """The agent cannot be relied on here; the text says what was seen."""


class Warned(Exception):
    """The agent works here, with less comfort; the text says what was seen."""


class Skipped(Exception):
    """Nothing can be said here; the text says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and with what trials work. `folder` lies in the acquisition folder, `state` on the local disk.

    `open` holds whatever must be ended when the last trial is over. `burst_files` and `patience_seconds`
    say how many files a burst has, and how long a change event may take.
    """

    folder: Path
    state: Path
    hints: Callable[[], Hints]
    open: ExitStack
    model: str | None = None
    burst_files: int = 2000
    patience_seconds: float = 5.0
    shared: dict[str, object] = field(default_factory=dict)
    """What one trial leaves for a later one."""

    def place(self, name: str) -> Path:
        """Return a new folder for one trial."""
        place = self.folder / name
        place.mkdir()
        return place


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing to try. `meaning` is what it proves, `remedy` what a person does when it is not so."""

    name: str
    meaning: str
    remedy: str
    run: Callable[[Bench], str]


def wait_until(happened: Callable[[], bool], seconds: float) -> float | None:
    """Return after how many seconds something happened, or None when it did not in time."""
    started = time.monotonic()
    while not happened():
        if time.monotonic() - started > seconds:
            return None
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - started
