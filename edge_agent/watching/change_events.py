"""The operating system's change events below a folder, through watchdog: quick, but only ever hints.

Only this module knows watchdog (7.1), and how it shows that events were lost: on Linux the kernel says so, on
Windows a read comes back empty. Whoever listens must find what was missed by itself.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RENEW_SECONDS: Final = 5.0
"""So long after the last overflow the watches are made anew: folders made meanwhile may have none."""
_STOP_SECONDS: Final = 2.0


class Hints(Protocol):
    """A source of change events below one folder."""

    def start(self, folder: Path, on_change: Callable[[str], None], on_overflow: Callable[[], None]) -> None:
        """Begin; both may be called from any thread, the second when events were lost.

        Raises OSError when no watch is to be had.
        """

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
        self._source: _Source | None = None
        self._on_change: Callable[[str], None] = lambda path: None
        self._watched = self._told = ""

    def start(self, folder: Path, on_change: Callable[[str], None], on_overflow: Callable[[], None]) -> None:
        """Begin. Adds a watch for each folder below, which takes its time in a large tree.

        Raises OSError where the system has no more watches, for this folder or for one below it.
        """
        from watchdog import events

        self._on_change = on_change
        # The folder itself may be reached through a link, which watchdog would watch instead of the folder.
        self._told, self._watched = str(folder), os.path.realpath(folder)
        self._source = _new_source(on_overflow)
        # Not opened or closed-without-writing: those are what our own reading causes.
        kinds = [
            events.FileCreatedEvent, events.FileModifiedEvent, events.FileAttribEvent, events.FileMovedEvent,
            events.FileClosedEvent, events.DirCreatedEvent, events.DirMovedEvent,
        ]  # fmt: skip
        self._source.observer.schedule(self, self._watched, recursive=True, event_filter=kinds)
        self._source.observer.start()
        if self._source.refused is not None:
            raise self._source.refused

    def dispatch(self, event: _Event) -> None:
        """Take one event of watchdog, in watchdog's thread."""
        # A rename tells where the file went; where it came from there is nothing to find.
        path = os.fsdecode(event.dest_path or event.src_path)
        if path.startswith(self._watched):
            path = self._told + path[len(self._watched) :]
        self._on_change(path)

    def alive(self) -> bool:
        """Whether all threads of watchdog still run, and all folders have their watch."""
        return self._source is not None and self._source.hears()

    def stop(self) -> None:
        """End, and wait a moment for the threads: one that hangs on a dead share is left to itself."""
        source, self._source = self._source, None
        if source is not None:
            ending = threading.Thread(target=source.close, name="end of change events", daemon=True)
            ending.start()
            ending.join(_STOP_SECONDS)


class _Source:
    """An observer of watchdog with the threads behind it."""

    def __init__(self, observer: Any) -> None:  # noqa: ANN401 - watchdog is not typed here
        self.observer = observer
        self.refused: OSError | None = None
        """Why a folder could not be watched; watchdog itself tells it of the topmost folder only."""

    def hears(self) -> bool:
        threads = (self.observer, *self.observer.emitters)
        return bool(self.observer.emitters) and all(thread.is_alive() for thread in threads)

    def close(self) -> None:
        self.observer.stop()
        if self.observer.is_alive():
            self.observer.join()


def _new_source(on_overflow: Callable[[], None]) -> _Source:
    if sys.platform == "linux":
        return _LinuxSource(on_overflow)
    from watchdog import observers

    if sys.platform == "win32":
        from watchdog.observers.api import BaseObserver
        from watchdog.observers.read_directory_changes import WindowsApiEmitter

        return WindowsSource(BaseObserver(telling_emitter(WindowsApiEmitter, on_overflow)))
    return _Source(observers.Observer())


class _LinuxSource(_Source):
    """inotify, with a word when events are lost.

    watchdog repairs its watches after an overflow in the reading thread, which costs a walk over the whole tree
    for each of them; here they are made anew once, when the storm is over.
    """

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        from watchdog.observers.api import BaseObserver
        from watchdog.observers.inotify import InotifyEmitter
        from watchdog.observers.inotify_c import InotifyFD

        self._on_overflow = on_overflow
        self._overflowed: float | None = None
        self._reader = InotifyFD()
        self._plain_handle, self._plain_add = self._reader.handle_event, self._reader.add_callback
        self._reader.handle_event, self._reader.add_callback = self._handle, self._add
        self._reader.start()
        super().__init__(BaseObserver(InotifyEmitter, inotify_fd=self._reader))

    def hears(self) -> bool:
        overflowed = self._overflowed
        stale = overflowed is not None and time.monotonic() - overflowed > RENEW_SECONDS
        return not stale and self.refused is None and self._reader.is_alive() and super().hears()

    def close(self) -> None:
        super().close()
        self._reader.stop()
        self._reader.join()

    def _handle(self, event: Any) -> None:  # noqa: ANN401
        if event.is_queue_overflow:
            self._overflowed = time.monotonic()
            self._on_overflow()
        else:
            self._plain_handle(event)

    def _add(self, *arguments: Any) -> Any:  # noqa: ANN401
        try:
            return self._plain_add(*arguments)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EMFILE, errno.ENOMEM):
                self.refused = error
            raise


class WindowsSource(_Source):
    """ReadDirectoryChangesW, whose reading thread can end by an error that watchdog does not notice."""

    def hears(self) -> bool:
        """Whether the reading threads run too."""
        return super().hears() and all(emitter.reads() for emitter in self.observer.emitters)


def telling_emitter(base: Any, on_overflow: Callable[[], None]) -> Any:  # noqa: ANN401
    """Return watchdog's emitter for Windows with a tongue: `base` passes over the empty reads of an overflow."""

    class TellingEmitter(base):  # type: ignore[misc]  # a class that is there on Windows only
        def on_thread_start(self) -> None:
            super().on_thread_start()
            buffers = self._reader._buf_queue  # noqa: SLF001 - there is no other place to see them
            put = buffers.put

            def put_and_tell(item: tuple[bytes, bool]) -> None:
                put(item)
                if not item[0]:
                    on_overflow()

            buffers.put = put_and_tell

        def reads(self) -> bool:
            reader = self._reader
            thread = None if reader is None else reader._reader_thread  # noqa: SLF001
            return thread is not None and bool(thread.is_alive())

    return TellingEmitter


class Starting:
    """The start of `hints` in a thread of its own, for it walks over the whole tree and a share may not answer."""

    def __init__(
        self, hints: Hints, folder: Path, on_change: Callable[[str], None], on_overflow: Callable[[], None]
    ) -> None:
        self.hints = hints
        self.trouble: str | None = None
        self._is_abandoned = self._is_over = False
        self._lock = threading.Lock()
        arguments = (folder, on_change, on_overflow)
        self._thread = threading.Thread(
            target=self._run, args=arguments, name="start of change events", daemon=True
        )
        self._thread.start()

    def finished(self, patience_seconds: float = 0.0) -> bool:
        """Whether it came to an end, good or bad (then `trouble` says why), waiting a moment for it."""
        self._thread.join(patience_seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Have the hints stopped as soon as they are started."""
        with self._lock:
            self._is_abandoned = True
            is_over = self._is_over
        if is_over:
            self.hints.stop()

    def _run(self, folder: Path, on_change: Callable[[str], None], on_overflow: Callable[[], None]) -> None:
        try:
            self.hints.start(folder, on_change, on_overflow)
        except Exception as error:
            # Whatever is wrong with the events, scans find the files.
            self.trouble = (error.strerror if isinstance(error, OSError) else None) or str(error)
        with self._lock:
            self._is_over = True
            is_unwanted = self._is_abandoned or self.trouble is not None
        if is_unwanted:
            self.hints.stop()
