"""The agent's log as it is read back: its last lines, those that follow, each in words.

Only this module knows that a log goes on in another file when it is rotated. The agent is never kept from
rotating it: each file is opened only for as long as something is read, with every kind of sharing.
"""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from edge_agent.logs import EXCEPTION, HELD_BACK, LOG_NAME
from edge_agent.shared_opening import open_shared
from edge_agent.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_MOST_FILES: Final = 100
_BLOCK_BYTES: Final = 64 * 1024


class LogTail:
    """The log in `folder`: the last lines first, then again and again what was added since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity: tuple[int, int] | None = None
        self._offset = 0

    def last(self, count: int) -> list[str]:
        """Return the last `count` lines, oldest first; fewer where the log holds fewer. Raises OSError."""
        lines: list[str] = []
        for number, path in enumerate(self._files()):
            with open_shared(path) as file:
                if number == 0:
                    self._identity, self._offset = _identity(file), _whole_bytes(file)
                lines = _last_lines(file, count - len(lines)) + lines
            if len(lines) >= count:
                break
        return lines

    def more(self) -> list[str]:
        """Return the lines since the last call, also those that were rotated away. Raises OSError."""
        lines: list[str] = []
        # Rotated at this very moment, between being seen and being opened: the next call finds it.
        with contextlib.suppress(FileNotFoundError):
            for path in self._unread():
                with open_shared(path) as file:
                    start = self._offset if _identity(file) == self._identity else 0
                    end = _whole_bytes(file)
                    file.seek(start)
                    lines += _lines(file.read(max(0, end - start)))
                    self._identity, self._offset = _identity(file), end
        return lines

    def _files(self) -> Iterator[Path]:
        """The newest first."""
        names = (LOG_NAME, *(f"{LOG_NAME}.{number}" for number in range(1, _MOST_FILES + 1)))
        for name in names:
            if not (self._folder / name).is_file():
                return
            yield self._folder / name

    def _unread(self) -> list[Path]:
        """The file that was read last, wherever it was moved, and those after it; oldest first."""
        unread: list[Path] = []
        for path in self._files():
            unread.insert(0, path)
            with open_shared(path) as file:
                if _identity(file) == self._identity:
                    return unread
        # It is nowhere any more: of what came instead, the newest is what matters.
        return unread[-1:]


def human_lines(line: str) -> list[str]:
    """Return one line of the log for a person: local time, level, text; a traceback follows, indented."""
    try:
        values = json.loads(line)
        at = datetime.fromisoformat(values["time"]).astimezone()
        first = f"{at:%Y-%m-%d %H:%M:%S} {values['level']:<7} {values['message']}"
    except (ValueError, KeyError, TypeError):  # of an earlier version, or torn by a power cut
        return [printable(line)]
    return [printable(first + _held_back(values)), *_traceback(values)]


def _held_back(values: dict[str, Any]) -> str:
    count = values.get(HELD_BACK)
    return f" ({count} more like this held back)" if count else ""


def _traceback(values: dict[str, Any]) -> list[str]:
    return [f"    {printable(line)}" for line in str(values.get(EXCEPTION, "")).splitlines()]


def _identity(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def _whole_bytes(file: BinaryIO) -> int:
    """Return up to where the file holds whole lines: the last one may be half-written at this moment."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _last_lines(file: BinaryIO, count: int) -> list[str]:
    end = _whole_bytes(file)
    start, data = end, b""
    while start > 0 and data.count(b"\n") <= count:
        step = min(start, _BLOCK_BYTES)
        start -= step
        file.seek(start)
        data = file.read(step) + data
    return _lines(data)[-count:] if count > 0 else []


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "backslashreplace").split("\n")[:-1] if data else []
