"""What one line of `doctor` is: a verdict, what was seen, what to do. Standard library only.

Only this module knows how a line is put into words and into JSON.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Verdict = Literal["ok", "warn", "fail", "skip"]
NOT_VERIFIED: Final = "not verified on Windows"
"""Said of every line whose logic was only ever tried against a stand-in of Windows."""
_VERDICTS: Final[tuple[Verdict, ...]] = ("ok", "warn", "fail", "skip")
_WIDTH: Final = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One check: what was seen, and what to do (always there for `warn` and `fail`)."""

    check: str
    verdict: Verdict
    seen: str
    advice: str | None = None
    note: str | None = None


def ok(check: str, seen: str, advice: str | None = None) -> Line:
    """Return a line about what is as it should be."""
    return Line(check, "ok", seen, advice)


def warn(check: str, seen: str, advice: str) -> Line:
    """Return a line about what the agent can live with."""
    return Line(check, "warn", seen, advice)


def fail(check: str, seen: str, advice: str) -> Line:
    """Return a line about what keeps the agent from working."""
    return Line(check, "fail", seen, advice)


def skip(check: str, seen: str) -> Line:
    """Return a line about what could not be judged here, and why."""
    return Line(check, "skip", seen)


def marked(line: Line, platform: str = sys.platform) -> Line:
    """Return the line, on Windows with the note that nobody has seen it there yet."""
    if platform != "win32" or line.note is not None:
        return line
    return Line(line.check, line.verdict, line.seen, line.advice, NOT_VERIFIED)


def text_of(line: Line) -> list[str]:
    """Return what a person reads: the verdict, what was seen, and below it what to do."""
    note = f"  [{line.note}]" if line.note else ""
    lines = [f"{line.verdict:<{_WIDTH}} {line.check}: {line.seen}{note}"]
    if line.advice:
        lines.append(f"{'':<{_WIDTH}}   -> {line.advice}")
    return lines


def summary_of(lines: Iterable[Line]) -> str:
    """Return for example `24 checks: 21 ok, 2 warn, 1 skip`."""
    counts = Counter(line.verdict for line in lines)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict])
    return f"{counts.total()} checks: {told or 'none'}"


def as_json(line: Line) -> dict[str, Any]:
    """Return the line as plain values."""
    return asdict(line)


def from_json(values: dict[str, Any]) -> Line:
    """Return the line that `as_json` gave. Raises TypeError for anything else."""
    return Line(**values)
