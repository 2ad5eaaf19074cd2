"""The operating system's change events below a folder, through watchdog: quick, but only ever hints.

Only this module knows watchdog. Whoever listens must find what was missed by itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Hints(Protocol):
    """A source of change events below one folder."""

    def start(self, folder: Path, on_change: Callable[[str], None]) -> None:
        """Begin; `on_change` may be called from any thread. Raises OSError when no watch is to be had."""

    def alive(self) -> bool:
        """Whether events can still arrive."""

    def stop(self) -> None:
        """End; harmless when not started."""


class _Event(Protocol):
    src_path: str | bytes
    dest_path: str | bytes


class NativeHints:
    """Change events of the operating system, through watchdog."""

    def __init__(self) -> None:
        self._observer: Any = None
        self._on_change: Callable[[str], None] = lambda path: None

    def start(self, folder: Path, on_change: Callable[[str], None]) -> None:
        """Begin; raises OSError where the system has no more watches."""
        from watchdog import events, observers

        self._on_change = on_change
        self._observer = observers.Observer()
        # Not opened or closed-without-writing: those are what our own reading causes.
        kinds = [
            events.FileCreatedEvent, events.FileModifiedEvent, events.FileMovedEvent, events.FileClosedEvent,
            events.DirCreatedEvent, events.DirMovedEvent,
        ]  # fmt: skip
        self._observer.schedule(self, str(folder), recursive=True, event_filter=kinds)
        self._observer.start()

    def dispatch(self, event: _Event) -> None:
        """Take one event of watchdog, in watchdog's thread."""
        # A rename tells where the file went; where it came from there is nothing to find.
        self._on_change(os.fsdecode(event.dest_path or event.src_path))

    def alive(self) -> bool:
        """Whether all threads of watchdog still run."""
        return self._observer is not None and all(
            thread.is_alive() for thread in (self._observer, *self._observer.emitters)
        )

    def stop(self) -> None:
        """End, and wait for the threads."""
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join(timeout=2)
        self._observer = None
