"""What is asked and answered at the label desk, and what an action says of each entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.labelling.label_record import Action, LabelEvent, Shown
from edge_agent.labelling.label_rows import LabelRow, event_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from edge_agent.labelling.label_rows import Batch, GivenWord, Standing, Subject

NOT_IN_LIST: Final = "not_in_list"
"""How what is in no class is counted."""


class NothingToDo(Exception):
    """There is nothing that this person could undo or redo; the text says so."""


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody says of entries. `batch` is made by whoever asks: the same one again does nothing more.

    `label` belongs to "correct" alone. "confirm" gives each entry its own answer. `blind`: none was shown.
    """

    batch: str
    action: Literal["confirm", "correct", "not_in_list"]
    label: str | None
    by: str
    ids: tuple[int, ...]
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it: events, entries passed over (without content, or without an answer to confirm), in words.

    `corrected` counts, by label, the answers that this very call said are wrong.
    """

    batch: str
    count: int
    skipped: int
    what: str
    corrected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelsChanged:
    """What entries are said to show now; `given` is None where there are too many to list."""

    batch: str
    by: str
    given: tuple[GivenWord, ...] | None


@dataclass(frozen=True, slots=True)
class WaitingLabels:
    """Events that are not in their files yet, and why they wait; None: they are just being written."""

    count: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class DeskState:
    """What a person could undo and redo, and what waits to be written."""

    undo: Done | None
    redo: Done | None
    waiting: WaitingLabels | None


def word_of(order: Order, subject: Subject, name: str, at: datetime) -> LabelEvent | None:
    """Return what the order says of one entry; None where it cannot say it of this one."""
    action: Action = order.action
    label = subject.label if action == "confirm" else order.label
    if subject.content is None or (action == "confirm" and label is None):
        return None
    if action == "correct" and label == subject.label:
        action = "confirm"
    is_hash = not subject.content.startswith("fp")
    return LabelEvent(
        id=name,
        at=at,
        by=order.by,
        action=action,
        label=label,
        shown=Shown(
            label=subject.label,
            probability=subject.probability,
            decision=subject.decision,
            model_sha256=subject.model_sha256,
        ),
        blind=order.blind,
        batch=order.batch,
        source_sha256=subject.content if is_hash else None,
        fingerprint=None if is_hash else subject.content,
    )


def undo_of(found: Standing, by: str, batch: str, number: int, at: datetime) -> LabelRow | None:
    """Return the event that takes back what `found` says, the `number`-th of a batch; None where it is damaged."""
    undone = event_in(found.record)
    if undone is None:
        return None
    event = undone.model_copy(
        update={
            "id": f"{batch}.{number}",
            "at": at,
            "by": by,
            "action": "undo",
            "label": None,
            "batch": batch,
            "undoes": undone.id,
        }
    )
    return LabelRow(event, found.folder, found.name, found.content)


def perhaps_done(batch: Batch | None) -> Done | None:
    """Return what a batch did, where there is one."""
    return None if batch is None else done_by(batch)


def done_by(batch: Batch) -> Done:
    """Return what a batch did, in words as well."""
    said = {"confirm": "confirmed", "correct": f"labelled {batch.label}"}.get(batch.deed, "not in the list")
    noun = "micrograph" if batch.count == 1 else "micrographs"
    return Done(batch.batch, batch.count, batch.skipped, f"{batch.count} {noun} {said}")
