"""Which entries of the history are asked for, in which order, and from where on.

Only this module knows the words of a filter, what SQL they are, and the form of a cursor. Everything in them came
over the network: what is wrong with it is said in one sentence.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

from edge_agent.journaling.journal_queries import microseconds_of
from edge_agent.sidecar import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

Order = Literal["newest", "uncertain"]
"""`uncertain`: the least probable first; what has no probability is not in it."""
DISAGREES: Final = "(given_action = 'not_in_list' OR (given_action IS NOT NULL AND given_label IS NOT label))"
"""SQL: a person said something else than the network."""
LABEL_NOW: Final = "CASE WHEN given_action IS NULL THEN label ELSE given_label END"
"""SQL: the label that holds now: a person's where there is one, else the network's."""
_WORDS: Final = {
    "decision": ("accept", "abstain", "ungated"),
    "given": ("yes", "no", "disagrees"),
    "outcome": ("classified", "not_an_image", "unreadable", "quarantined", "refused"),
}
_GIVEN: Final = {"yes": "given_action IS NOT NULL", "no": "given_action IS NULL", "disagrees": DISAGREES}
_LONGEST_LABEL: Final = 200
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_CURSOR: Final = re.compile(r"n(-?\d{1,18})\.(\d{1,18})|u([0-9a-f]{16})\.(\d{1,18})", re.ASCII)
_ENDLESS: Final = 2**63 - 1


class BadFilter(ValueError):
    """A filter, an order or a cursor that is none; the text is one sentence for a person."""


class Span(NamedTuple):
    """From when to when files were finished, in microseconds since 1970; `end_us` is the first that is outside."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are meant: all that every part which is not None holds for.

    `label` is what holds now: a person's label where one was given (`not_in_list` is none), else the network's.
    `day` is a day of this PC's calendar; `session` the start of a session in microseconds. `given` is `disagrees`
    where a person said something else than the network.
    """

    label: str | None = None
    decision: str | None = None
    day: date | None = None
    given: str | None = None
    outcome: str | None = None
    session: int | None = None

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> EntryFilter:
        """Read the words of a query or of a JSON object; empty ones and None ask for nothing. Raises BadFilter."""
        texts = {key: _text(key, values.get(key)) for key in cls.__slots__}
        for key, words in _WORDS.items():
            if texts[key] is not None and texts[key] not in words:
                raise BadFilter(f"{key} is one of {', '.join(words)}")
        return cls(
            label=texts["label"],
            decision=texts["decision"],
            day=None if texts["day"] is None else _day(texts["day"]),
            given=texts["given"],
            outcome=texts["outcome"],
            session=None if texts["session"] is None else _session(texts["session"]),
        )

    def conditions(self) -> tuple[list[str], list[str | int]]:
        """Return the SQL of all parts but the times, and its values."""
        parts: dict[str, str | None] = {
            f"{LABEL_NOW} = ?": self.label,
            "decision = ?": self.decision,
            "outcome = ?": self.outcome,
        }
        wanted = {text: value for text, value in parts.items() if value is not None}
        given = [] if self.given is None else [_GIVEN[self.given]]
        return [*wanted, *given], list(wanted.values())


def span_of_day(day: date) -> Span:
    """Return when a day of this PC's calendar begins and ends. Raises BadFilter for one that no calendar has."""
    try:
        return Span(_midnight(day), _midnight(day + timedelta(days=1)))
    except (OverflowError, OSError, ValueError):
        raise BadFilter(f"{day} is not a day that this PC's calendar has") from None


def day_of(finished_us: int) -> date | None:
    """Return the day of this PC's calendar, or None where that has none."""
    try:
        return datetime.fromtimestamp(finished_us // 1_000_000).astimezone().date()
    except (OverflowError, OSError, ValueError):
        return None


def overlap(spans: list[Span]) -> Span:
    """Return the time that all spans have in common; without any it has no end."""
    starts, ends = [-_ENDLESS], [_ENDLESS]
    for span in spans:
        starts.append(span.start_us)
        ends.append(span.end_us)
    return Span(max(starts), min(ends))


class Position(NamedTuple):
    """A place between two rows: behind the row with this time or probability, and this id."""

    value: float
    id: int


def parse_order(text: str) -> Order:
    """Return the order that was asked for; newest where none was. Raises BadFilter."""
    if text not in ("", "newest", "uncertain"):
        raise BadFilter("order is newest or uncertain")
    return cast("Order", text or "newest")


def cursor_text(order: Order, position: Position) -> str:
    """Return a position as the page hands it back; the probability to the last bit."""
    if order == "newest":
        return f"n{int(position.value)}.{position.id}"
    return f"u{struct.pack('>d', position.value).hex()}.{position.id}"


def parse_cursor(order: Order, text: str) -> Position | None:
    """Return what `cursor_text` wrote, None for an empty text. Raises BadFilter, also for one of another order."""
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None or text[0] != order[0]:
        raise BadFilter("after is no cursor of this order")
    time_us, time_id, bits, doubt_id = found.groups()
    if time_us is not None:
        return Position(int(time_us), int(time_id))
    (probability,) = struct.unpack(">d", bytes.fromhex(bits))
    if not -1 <= probability <= 2:  # neither NaN nor infinite
        raise BadFilter("after is no cursor of this order")
    return Position(probability, int(doubt_id))


def _text(key: str, value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < _ENDLESS else "?"
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_LABEL:
        raise BadFilter(f"{key} is a text of at most {_LONGEST_LABEL} characters")
    return as_text(value)


def _day(text: str) -> date:
    try:
        found = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        raise BadFilter("day is written 2026-01-31")
    span_of_day(found)
    return found


def _session(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise BadFilter("session is the id of a session")
    return int(text)


def _midnight(day: date) -> int:
    # Where clocks are set at midnight, that moment exists twice, and the day begins with the first; or it does not
    # exist, and the later of its two readings is the moment at which the day begins.
    readings = [datetime.combine(day, time(fold=fold)).astimezone(UTC) for fold in (0, 1)]
    real = [moment for moment in readings if moment.astimezone().time() == time()]
    return microseconds_of(min(real, default=max(readings)))
