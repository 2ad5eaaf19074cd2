"""What people said and can take back, as the page is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_agent.page.entry_row import Given, given_json, moment_of

if TYPE_CHECKING:
    from edge_agent.labelling.label_rows import GivenWord
    from edge_agent.labelling.label_words import DeskState, Done, LabelsChanged


def change_told(change: LabelsChanged) -> dict[str, Any]:
    """Return the event of the stream: which entries are said to show what now, or that there are too many."""
    told: dict[str, Any] = {"batch": change.batch, "by": change.by}
    if change.given is None:
        return told | {"many": True}
    return told | {"changes": [[word[0], _given_told(word)] for word in change.given]}


def desk_told(state: DeskState | None) -> dict[str, Any]:
    """Return what could be undone and redone, and what waits to be written."""
    if state is None:
        return {"undo": None, "redo": None, "waiting_labels": None}
    waiting = state.waiting
    return {
        "undo": state.undo and done_told(state.undo),
        "redo": state.redo and done_told(state.redo),
        "waiting_labels": waiting and {"count": waiting.count, "reason": waiting.reason},
    }


def done_told(done: Done) -> dict[str, Any]:
    """Return an action, in words as well."""
    return {"batch": done.batch, "count": done.count, "what": done.what}


def _given_told(word: GivenWord) -> dict[str, Any] | None:
    _, action, label, by, at_us = word
    if action is None or by is None or at_us is None:
        return None
    return given_json(Given(action, label, by, moment_of(at_us)))
