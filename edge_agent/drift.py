"""Drift: whether the micrographs of a day are still of the kind on which the model was measured.

Only this module knows when a day has left the bundle's usual range, and what was said of it already. A day is the
one (UTC) on which the agent finished a file: every file has it, it never comes back, and a warning is about what
the instrument gives now. (The time of acquisition is missing in many files; by it an archive would open days of
years ago.) Every answer that was inferred counts, that of an overwritten file as well: it holds another micrograph.
An answer that was taken over, at the start or for a renamed file, counted when it was made.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import FileLayer, read_whole, write_durably
from edge_agent.protocol import Range, UsualRanges
from edge_agent.status import OWN, DriftStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.protocol import Ready
    from edge_agent.sidecar import Finding

DRIFT_NAME: Final = "drift.json"
LEAST_FILES: Final = 20
"""Fewer files of a day say nothing about it."""
MOST_DAYS: Final = 31
SAVE_SECONDS: Final = 60.0
_LIMIT_BYTES: Final = 2**20
_LARGEST: Final = 1e100
"""What is larger was not measured, and its square would leave the range of floats."""
_log = logging.getLogger(__name__)

Quantity = Literal["confidence", "novelty", "contrast", "pixel_size_nm"]
Side = Literal["below", "above"]

_WORDS: Final[dict[Quantity, tuple[str, str]]] = {
    "confidence": (
        "confidence",
        "check some of these answers by eye, and train with such micrographs where they are wrong",
    ),
    "novelty": (
        "novelty",
        "compare some of these micrographs with the training ones: another specimen, or another setting?",
    ),
    "contrast": ("contrast", "check dose, focus and detector gain, and whether the raw picture is saved"),
    "pixel_size_nm": (
        "pixel size (nm)",
        "check magnification and calibration; other magnifications need a model trained with them",
    ),
}
"""What each quantity is called, and what to do when it has left."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# Bounds for what is read from the disk: with more, counting on could leave the range of floats.
_Count = Annotated[int, Field(ge=0, le=10**12)]


class Tally(_Part):
    """One quantity over the files of a day; `squares` is the sum of squared deviations from the mean."""

    files: _Count = 0
    mean: float = Field(default=0.0, ge=-_LARGEST, le=_LARGEST)
    squares: float = Field(default=0.0, ge=0, le=_LARGEST**2 * 10**12)
    below: _Count = 0
    above: _Count = 0

    def plus(self, value: float, usual: Range | None) -> Tally:
        """Count one file (Welford's recurrence, Technometrics 4, 419, 1962)."""
        files = self.files + 1
        mean = self.mean + (value - self.mean) / files
        return self.model_copy(
            update={
                "files": files,
                "mean": mean,
                "squares": self.squares + (value - self.mean) * (value - mean),
                "below": self.below + (usual is not None and value < usual[0]),
                "above": self.above + (usual is not None and value > usual[1]),
            }
        )

    @property
    def standard_deviation(self) -> float | None:
        """Of the files as a sample; None for one file."""
        return math.sqrt(self.squares / (self.files - 1)) if self.files > 1 else None

    @property
    def side(self) -> Side | None:
        """On which side more than half of the files lie, and so their median; None: on neither."""
        if 2 * max(self.below, self.above) <= self.files:
            return None
        return "below" if self.below > self.above else "above"


class Day(_Part):
    """One day, and what was said of it."""

    day: date
    tallies: dict[Quantity, Tally] = Field(default_factory=dict)
    told: tuple[tuple[Quantity, Side], ...] = ()


class Departure(_Part):
    """A quantity that was said to have left, and not yet to be back."""

    side: Side
    since: date


class DriftRecord(_Part):
    """All that is kept, of one model and its usual ranges, oldest day first."""

    schema_name: Literal["scopewatch.drift/1"] = "scopewatch.drift/1"
    model_sha256: str | None = None
    usual: UsualRanges = UsualRanges()
    days: tuple[Day, ...] = ()
    left: dict[Quantity, Departure] = Field(default_factory=dict)

    def of_day(self, day: date) -> Day:
        """Return one day, an empty one where nothing was counted."""
        return next((found for found in self.days if found.day == day), Day(day=day))


@dataclass(frozen=True, slots=True)
class Saying:
    """A line for the log, and its level."""

    level: int
    text: str


class Drift:
    """Count findings, warn once, and keep it all in the state folder; safe for several threads.

    `note` touches no disk. No failure of the file reaches the caller; what cannot be read starts anew.
    """

    def __init__(
        self,
        state: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        layer: FileLayer | None = None,
    ) -> None:
        self._file = state / DRIFT_NAME
        self._layer = FileLayer(OWN) if layer is None else layer
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        read = _read(self._file)
        self._record = DriftRecord() if read is None else read
        self._unsaved = read is None
        self._save_due = float("-inf")
        self._failing = False

    def meet(self, model: Ready) -> None:
        """Start anew when another model answers, or the same one with other usual ranges."""
        with self._lock:
            if (model.sha256, model.usual) != (self._record.model_sha256, self._record.usual):
                self._record = DriftRecord(model_sha256=model.sha256, usual=model.usual)
                self._unsaved = True

    def note(self, finding: Finding, model: Ready) -> None:
        """Count a finding if its micrograph was classified by `model` just now, and say what follows."""
        self.meet(model)
        if finding.outcome != "classified" or not finding.inferred or finding.model_sha256 != model.sha256:
            return
        with self._lock:
            self._record, sayings = after(self._record, finding, self._clock().astimezone(UTC).date())
            self._unsaved = True
            if sayings:
                # Kept at the next opportunity: a kill must not make it be said twice.
                self._save_due = float("-inf")
        for saying in sayings:
            # A text of its own each, not one form filled in: of one form, the log admits one line a minute.
            _log.log(saying.level, saying.text)

    def numbers(self) -> tuple[DriftStatus, ...]:
        """Return the last day with files and, when that is today, the one before; the later day first."""
        today = self._clock().astimezone(UTC).date()
        record = self._record
        days = record.days[-2:] if record.days and record.days[-1].day == today else record.days[-1:]
        return tuple(number for day in reversed(days) for number in _numbers(day, record.usual))

    def save(self, *, at_once: bool = False) -> None:
        """Write what is new: at most once a minute, after something was said, or `at_once`."""
        with self._lock:
            if not self._unsaved or not (at_once or self._monotonic() >= self._save_due):
                return
            record, self._unsaved = self._record, False
            self._save_due = self._monotonic() + SAVE_SECONDS
        try:
            write_durably(self._file, record.model_dump_json().encode(), self._layer)
            self._failing = False
        except OSError as error:
            self._unsaved = True
            if not self._failing:
                why = error.strerror or error
                _log.warning("%s: cannot be written (%s); the work and the tries go on", self._file, why)
            self._failing = True


def after(record: DriftRecord, finding: Finding, today: date) -> tuple[DriftRecord, tuple[Saying, ...]]:
    """Return the record with one finding more, and what is to be said now."""
    day, left, sayings = record.of_day(today), dict(record.left), list[Saying]()
    for quantity, value in _values(finding):
        usual = _usual(record.usual, quantity)
        tally = day.tallies.get(quantity, Tally()).plus(value, usual)
        day = day.model_copy(update={"tallies": day.tallies | {quantity: tally}})
        if usual is None or tally.files < LEAST_FILES:
            continue
        departure, side = left.get(quantity), tally.side
        if side is not None and (quantity, side) not in day.told:
            since = departure.since if departure is not None and departure.side == side else today
            left[quantity] = Departure(side=side, since=since)
            day = day.model_copy(update={"told": (*day.told, (quantity, side))})
            sayings.append(_leaving(quantity, tally, usual, left[quantity], today))
        elif side is None and departure is not None and (quantity, departure.side) not in day.told:
            del left[quantity]
            sayings.append(_back(quantity, tally, usual, departure, today))
    # Days later than today are those of a clock that was wrong.
    days = (*(other for other in record.days if other.day < today), day)[-MOST_DAYS:]
    return record.model_copy(update={"days": days, "left": left}), tuple(sayings)


def _values(finding: Finding) -> Iterator[tuple[Quantity, float]]:
    values: tuple[tuple[Quantity, float | None], ...] = (
        ("confidence", finding.probability),
        ("novelty", finding.novelty),
        ("contrast", finding.contrast),
        ("pixel_size_nm", finding.pixel_size_nm),
    )
    for quantity, value in values:
        if value is not None and abs(value) <= _LARGEST:
            yield quantity, value


def _usual(usual: UsualRanges, quantity: Quantity) -> Range | None:
    found: Range | None = getattr(usual, quantity)
    return found


def _leaving(quantity: Quantity, tally: Tally, usual: Range, departure: Departure, today: date) -> Saying:
    name, advice = _WORDS[quantity]
    count = tally.below if departure.side == "below" else tally.above
    return Saying(
        logging.WARNING,
        f"{name} has left the usual range: {count} of {tally.files} files of {today} (UTC) lie {departure.side} "
        f"{usual[0]:.3g} to {usual[1]:.3g}, mean {tally.mean:.3g}, since {departure.since}; {advice}",
    )


def _back(quantity: Quantity, tally: Tally, usual: Range, departure: Departure, today: date) -> Saying:
    return Saying(
        logging.INFO,
        f"{_WORDS[quantity][0]} is back in the usual range: {tally.files} files of {today} (UTC) have the mean "
        f"{tally.mean:.3g}, usual is {usual[0]:.3g} to {usual[1]:.3g}; it had left on {departure.since}",
    )


def _numbers(day: Day, ranges: UsualRanges) -> Iterator[DriftStatus]:
    for quantity, tally in day.tallies.items():
        usual = _usual(ranges, quantity)
        judged = usual is not None and tally.files >= LEAST_FILES
        yield DriftStatus(
            quantity=quantity,
            day=day.day,
            files=tally.files,
            mean=tally.mean,
            standard_deviation=tally.standard_deviation,
            below=tally.below,
            above=tally.above,
            usual=usual,
            left=tally.side is not None if judged else None,
        )


def _read(file: Path) -> DriftRecord | None:
    """Return what an earlier run kept, or an empty record; None where there is something that cannot be read."""
    text = read_whole(file, _LIMIT_BYTES)
    if text is None and not os.path.lexists(file):
        return DriftRecord()
    try:
        return DriftRecord.model_validate_json(text or b"")
    except ValidationError:
        _log.warning("%s: damaged, or of another version; the statistics of the days start anew", file)
        return None
