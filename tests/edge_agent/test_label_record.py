"""What a label file says, what of it counts, and what is none."""

from __future__ import annotations

import json

import pytest
from labelled import event
from pydantic import ValidationError

from edge_agent.labelling.label_record import (
    SCHEMA,
    LabelFile,
    label_json,
    last_words,
    read_label_file,
    void_events,
)


def undo(name: str, undoes: str, **changes: object):
    return event(name, **({"action": "undo", "label": None, "undoes": undoes} | changes))


def test_a_file_is_read_as_it_was_written():
    file = LabelFile(schema=SCHEMA, events=(event("e1", by="Zoë\n<b>"), undo("e2", "e1")))

    text = label_json(file)

    assert read_label_file(text) == file
    assert json.loads(text)["schema"] == "scopewatch.label/1"
    assert len(text.splitlines()) == 2 + 3 + 2


ORDERS = [
    pytest.param([event("a")], set(), id="what was said counts"),
    pytest.param([event("a"), undo("b", "a")], {"a"}, id="undone"),
    pytest.param([event("a"), undo("b", "a"), undo("c", "b")], {"b"}, id="done again"),
    pytest.param([event("a"), undo("b", "a"), undo("c", "b"), undo("d", "a")], {"a", "b"}, id="undone again"),
    pytest.param([event("a"), undo("b", "never")], {"never"}, id="an undo of what is not in the file"),
    pytest.param([undo("b", "b")], {"b"}, id="an undo of itself"),
]


@pytest.mark.parametrize(("events", "void"), ORDERS)
def test_what_no_longer_counts(events, void):
    assert void_events(events) == void


def test_the_last_word_of_each_person_that_counts():
    events = [
        event("a"),
        event("b", label="round"),
        event("c", by="bob"),
        undo("d", "b"),
        undo("e", "c", by="bob"),
    ]

    assert last_words(events) == {"ann": events[0]}


WRONG = [
    pytest.param({"action": "confirm", "label": None}, "confirm with the label None", id="confirms nothing"),
    pytest.param({"action": "not_in_list"}, "not_in_list with the label 'rod'", id="a label that is none"),
    pytest.param({"action": "undo", "label": None}, "undo that undoes None", id="undoes nothing"),
    pytest.param({"undoes": "x"}, "correct that undoes 'x'", id="corrects and undoes"),
    pytest.param({"by": ""}, "at least 1 character", id="nobody"),
    pytest.param({"by": "x" * 201}, "at most 200 characters", id="a name without end"),
    pytest.param({"label": "\ud800"}, "valid string", id="no UTF-8"),
]


@pytest.mark.parametrize(("changes", "reason"), WRONG)
def test_an_event_says_one_thing(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        event(**changes)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"schema": "scopewatch.label/2", "events": []}',
        b'{"schema": "scopewatch.label/1", "events": [], "more": 1}',
        b'{"schema": "scopewatch.label/1", "events": [{}]}',
        b"[" * 100_000,
    ],
    ids=["empty", "nothing in it", "a later version", "more in it", "no event", "brackets"],
)
def test_what_is_no_label_file(text):
    with pytest.raises(ValueError, match="validation error"):
        read_label_file(text)
