"""The label file beside a micrograph: what people said of it, in the order in which they said it.

Events are only ever added; what an event says no longer counts once a later `undo` names it, and counts again
when that undo is undone. Only this module knows the form (`scopewatch.label/1`) and what of it counts. The
prediction stays in the sidecar, untouched.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA: Final = "scopewatch.label/1"
LONGEST_TEXT: Final = 200
"""Characters of a label or of who gave it."""

Action = Literal["confirm", "correct", "not_in_list", "undo"]
"""`confirm`: the label that was shown is right; `correct`: it is another class; `not_in_list`: it is no class of
the model; `undo`: an earlier event no longer counts."""

Utc = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
"""Without lone surrogates, which no JSON file may hold: pydantic refuses them."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Shown(_Part):
    """What the agent had answered when the label was given, seen or not; all null where it had no answer."""

    label: Text | None
    probability: FiniteFloat | None
    decision: str | None
    model_sha256: str | None


class LabelEvent(_Part):
    """One thing that one person said. `blind`: without having been shown the prediction.

    The action is by what the agent had answered: who names the same class confirms it, blind or not.

    `batch` is shared by everything that one action did. `undoes` is the id of the event that an `undo` is about.
    `source_sha256` is that of the micrograph's bytes, null above the snapshot limit, where `fingerprint` is not.
    """

    id: Text
    at: Utc
    by: Text
    action: Action
    label: Text | None
    shown: Shown
    blind: bool
    batch: Text
    source_sha256: str | None
    fingerprint: str | None
    undoes: Text | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> LabelEvent:
        if (self.label is None) != (self.action in ("not_in_list", "undo")):
            raise ValueError(f"{self.action} with the label {self.label!r}")
        if (self.undoes is None) != (self.action != "undo"):
            raise ValueError(f"{self.action} that undoes {self.undoes!r}")
        return self


class LabelFile(_Part):
    """All events about one micrograph, the oldest first."""

    schema_name: Literal["scopewatch.label/1"] = Field(SCHEMA, alias="schema")
    events: tuple[LabelEvent, ...]


def label_json(file: LabelFile) -> str:
    """Return the file as JSON text, one line an event: short enough to read, easy to compare."""
    events = json.loads(file.model_dump_json(by_alias=True))["events"]
    lines = ",\n".join(f"    {json.dumps(event, ensure_ascii=False, allow_nan=False)}" for event in events)
    return f'{{\n  "schema": "{SCHEMA}",\n  "events": [\n{lines}\n  ]\n}}\n'


def read_label_file(text: str | bytes) -> LabelFile:
    """Read what `label_json` wrote. Raises ValueError (pydantic's ValidationError) on anything else."""
    return LabelFile.model_validate_json(text)


def void_events(events: Iterable[LabelEvent]) -> frozenset[str]:
    """Return the ids of the events that no longer count: those that a later undo names which itself counts."""
    void: set[str] = set()
    for event in reversed(tuple(events)):
        if event.undoes is not None and event.id not in void:
            void.add(event.undoes)
    return frozenset(void)


def last_words(events: Iterable[LabelEvent]) -> dict[str, LabelEvent]:
    """Return, by person, the last event that counts; people whose every word was undone are not in it."""
    events = tuple(events)
    void = void_events(events)
    return {event.by: event for event in events if event.action != "undo" and event.id not in void}
