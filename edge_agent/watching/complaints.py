"""Faults that stand for hours, told once: a line when one begins, and again only if it went away and returned."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_SECONDS: Final = 60.0
_MOST: Final = 1000
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Complaint:
    message: str
    told: float
    stands: bool = True


class Complaints:
    """At most one line a minute about one thing, and none while nothing about it changes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._made: dict[str, _Complaint] = {}

    def about(self, thing: str, message: str, level: int = logging.WARNING) -> None:
        """Tell `message`, unless it stands already or the last line about `thing` is too fresh."""
        earlier, now = self._made.get(thing), self._clock()
        if earlier is not None and now - earlier.told < PAUSE_SECONDS:
            return
        if earlier is not None and earlier.stands and earlier.message == message:
            return
        while len(self._made) >= _MOST:
            del self._made[next(iter(self._made))]
        self._made[thing] = _Complaint(message, now)
        _log.log(level, "%s", message)

    def over(self, thing: str) -> None:
        """Note that there is nothing to complain about any more."""
        complaint = self._made.get(thing)
        if complaint is not None:
            complaint.stands = False
