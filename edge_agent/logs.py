"""What the agent logs: for a person on the terminal, as JSON in a bounded file; no complaint twice a minute.

A line of the file is one object: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and those of `FIELDS` that
whoever logs has given as `extra`. Only this module sets logging up. A log that cannot be written is dropped,
never the work.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any, Final

from edge_agent.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG_NAME: Final = "agent.log"
FIELDS: Final = (
    "event",
    "file",
    "outcome",
    "label",
    "probability",
    "decision",
    "reasons",
    "reason",
    "milliseconds",
    "model",
    "config",
    "starts",
)
"""What a line can say beside its text; `event` names a change of the agent, or "finding"."""
HELD_BACK: Final = "held_back"
EXCEPTION: Final = "exception"
_LONGEST_MESSAGE: Final = 8192
_LONGEST_TRACEBACK: Final = 32768
_MIB: Final = 1024 * 1024
_STANDING_SECONDS: Final = 60.0
_MOST_FAULTS: Final = 1000


class OnceAMinute:
    """Say whether a fault may be told again: each kind once a minute. Safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[object, tuple[float, int]] = {}

    def admit(self, kind: object) -> int | None:
        """Return how many of this kind were held back since the last one told, or None to hold this back."""
        now = self._clock()
        with self._lock:
            at, held_back = self._told.get(kind, (float("-inf"), 0))
            if now - at < _STANDING_SECONDS:
                self._told[kind] = (at, held_back + 1)
                return None
            if len(self._told) >= _MOST_FAULTS:
                self._told.clear()
            self._told[kind] = (now, 0)
            return held_back


class StandingFaults(logging.Filter):
    """Let each kind of warning (its text before names are filled in) through once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._rule = OnceAMinute(clock)
        self._mark = f"held_back_by_{id(self)}"

    def filter(self, record: logging.LogRecord) -> bool:
        """Hold a repetition back, and keep count on the next record that passes."""
        if record.levelno < logging.WARNING:
            return True
        held_back = self._rule.admit((record.name, str(record.msg)))
        # On the record under a name of our own: two handlers hold back at different times, in several threads.
        record.__dict__[self._mark] = held_back
        return held_back is not None

    def held_back(self, record: logging.LogRecord) -> int:
        """Return how many like this record were held back before it."""
        return record.__dict__.get(self._mark) or 0


class PrintableFormatter(logging.Formatter):
    """Log lines hold names of files: nothing in them may steer the terminal, or forge a line."""

    def __init__(self, faults: StandingFaults | None = None) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._faults = faults

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in logging
        """Return the line, with what was held back before it."""
        line = printable(super().formatMessage(record))
        held_back = 0 if self._faults is None else self._faults.held_back(record)
        return f"{line} ({held_back} more like this held back)" if held_back else line

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - as logging has it
        """Return the traceback, indented: no text in it looks like a line of the log."""
        return "\n".join(f"    {printable(line)}" for line in super().formatException(ei).splitlines())


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: a name in it can neither forge a line nor steer a terminal."""

    def __init__(self, faults: StandingFaults | None = None) -> None:
        super().__init__()
        self._faults = faults

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        at = datetime.fromtimestamp(record.created, UTC)
        values: dict[str, Any] = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage()[:_LONGEST_MESSAGE]),
        }
        values |= {name: record.__dict__[name] for name in FIELDS if record.__dict__.get(name) is not None}
        counted = self._faults.held_back(record) if self._faults else 0
        if held_back := counted or record.__dict__.get(HELD_BACK):
            values[HELD_BACK] = held_back
        if record.exc_info:
            values[EXCEPTION] = self.formatException(record.exc_info)[-_LONGEST_TRACEBACK:]
        return json.dumps(values, default=str)


def log_to_terminal(*, verbose: bool) -> None:
    """Log warnings, or everything of ours with `verbose`, to stderr."""
    # A handler that cannot write must not print tracebacks about itself beside the acquisition.
    logging.raiseExceptions = False
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    _equip(handler, None if verbose else StandingFaults())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    if verbose:
        logging.getLogger("edge_agent").setLevel(logging.DEBUG)


def log_to_file(folder: Path, *, files: int = 5, mib: int = 10) -> logging.Handler | None:
    """Log what the agent does to a file in `folder` as well: `mib` MiB, and `files` older ones as large.

    Takes the place of an earlier such file. Returns the handler, or None when no file can be written there.
    """
    close_log_file()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(
            folder / LOG_NAME,
            maxBytes=mib * _MIB,
            backupCount=files,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        logging.getLogger(__name__).warning("no log file: %s", error)
        return None
    faults = StandingFaults()
    handler.setLevel(logging.INFO)
    handler.setFormatter(JsonLines(faults))
    handler.addFilter(faults)
    ours = logging.getLogger("edge_agent")
    ours.addHandler(handler)
    if ours.getEffectiveLevel() > logging.INFO:
        ours.setLevel(logging.INFO)
    return handler


def close_log_file() -> None:
    """Log to a file no more."""
    ours = logging.getLogger("edge_agent")
    for handler in [handler for handler in ours.handlers if isinstance(handler, _LogFile)]:
        ours.removeHandler(handler)
        handler.close()


class _LogFile(RotatingFileHandler):
    """The one log file of this process."""


def _equip(handler: logging.Handler, faults: StandingFaults | None) -> None:
    handler.setFormatter(PrintableFormatter(faults))
    if faults is not None:
        handler.addFilter(faults)
