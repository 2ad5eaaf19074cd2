"""A child process's side of its pipes: lines as they come, and an end that is ordered by pipe only.

Only this module knows how a program of ours takes over its stdin and stdout, so that what a library prints or reads
is no part of what it says to the agent.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import TYPE_CHECKING, TextIO, TypeVar

from edge_agent.protocol import NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Message = TypeVar("_Message")


class Inbox:
    """The lines of stdin as they come, until an empty one or the end.

    With `depends` set, the end without an empty line means that the supervisor was killed: then this process
    ends at once, in the middle of whatever it does, so that the next agent's worker never finds it writing.
    """

    def __init__(self, jobs: TextIO) -> None:
        self.depends = False
        self._jobs = jobs
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def __iter__(self) -> Iterator[str]:
        while (line := self._lines.get()) is not None:
            yield line

    def _read(self) -> None:
        for line in self._jobs:
            if not line.strip():
                break
            self._lines.put(line)
        else:
            if self.depends:
                os._exit(1)
        self._lines.put(None)


def read_first(lines: Iterator[str], read: Callable[[str], _Message]) -> _Message | None:
    """Return the settings that come first, None where nobody sends any; ends the program that is sent nonsense."""
    first = next(lines, None)
    try:
        return None if first is None else read(first)
    except NotUnderstood as error:
        sys.exit(f"the settings make no sense: {error}")


def read_each(lines: Iterator[str], read: Callable[[str], _Message], what: str) -> Iterator[_Message]:
    """Give what comes after that; a line that is no `what` is told on stderr and left out."""
    for line in lines:
        try:
            message = read(line)
        except NotUnderstood as error:
            sys.stderr.write(f"this is no {what}: {error}\n")
            continue
        yield message


def say(answers: TextIO, line: str) -> None:
    """Answer one line, at once."""
    answers.write(line + "\n")
    answers.flush()


def take_over_pipes() -> tuple[TextIO, TextIO]:
    """Keep stdin and stdout to ourselves: what a library prints goes to stderr, what it reads is empty."""
    # What is no ASCII is no line of the protocol, and must not end the reading of the next.
    jobs = os.fdopen(os.dup(0), "r", encoding="ascii", errors="replace", newline="\n")
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout = sys.stderr
    return jobs, answers


def leave_signals_to_supervisor() -> None:
    """Service managers send SIGTERM to every process at once, a terminal SIGINT; an end is ordered by pipe."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
