"""What is told elsewhere: the form of an event, and which changes are worth one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agent_numbers import DISK, FOLDER, MODEL, finding, numbers

from edge_agent import __version__
from edge_agent.announcing.event_record import EventRecord, EventWriter

OTHER = FOLDER.model_copy(update={"path": "/data/other"})
GONE = FOLDER.model_copy(update={"present": False})
LOW = DISK.model_copy(update={"low": True})


def writer(**changes) -> EventWriter:
    """A writer that has told of the start."""
    found = EventWriter()
    list(found.of_status(numbers(**changes)))
    return found


def told(writer, **changes):
    events = [json.loads(event.body) for event in writer.of_status(numbers(**changes))]
    return [(event["event"], event["subject"]) for event in events]


def test_a_finding_is_told_without_any_path():
    event = json.loads(writer().of_finding(finding("session 1/a.dm3")).body)

    assert {key: event[key] for key in event.keys() - {"id", "time"}} == {
        "schema": "scopewatch.event/1",
        "event": "finding",
        "agent": {"version": __version__},
        "instrument": "Titan 1",
        "file": "session 1/a.dm3",
        "source_sha256": "ab" * 32,
        "outcome": "classified",
        "reason": None,
        "label": "round",
        "decision": "accept",
        "reasons": [],
        "probability": 0.97,
        "model": {"name": "particle-shape", "version": "1.2", "sha256": MODEL.sha256},
        "subject": None,
    }
    assert event["time"].endswith("Z")
    assert "/data" not in json.dumps(event)


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        pytest.param({"path": Path("/elsewhere/a.dm3")}, "file", "a.dm3", id="below no watched folder"),
        pytest.param(
            {"path": Path("/data/scope/caf\udce9.dm3")}, "file", r"caf\xe9.dm3", id="a name that is no UTF-8"
        ),
        pytest.param(
            {"path": Path("/data/scope/<img src=x>\n.dm3")}, "file", "<img src=x>\n.dm3", id="a name with a newline"
        ),
        pytest.param(
            {"outcome": "quarantined", "reason": "the worker died of /data/scope/x/a.dm3"},
            "reason",
            "the worker died of …/x/a.dm3",
            id="a reason with a path",
        ),
        pytest.param(
            {"model_sha256": "00" * 32},
            "model",
            {"name": None, "version": None, "sha256": "00" * 32},
            id="a model that was not met yet",
        ),
        pytest.param({"model_sha256": None}, "model", None, id="no model"),
    ],
)  # fmt: skip
def test_odd_findings(changes, key, value):
    assert json.loads(writer().of_finding(finding(**changes)).body)[key] == value


@pytest.mark.parametrize("outcome", ["incomplete", "vanished", "refused", "failed", "crashed", "interrupted"])
def test_what_is_tried_again_is_told_to_nobody(outcome):
    assert writer().of_finding(finding(outcome=outcome)) is None


def test_before_the_first_numbers_a_file_is_known_by_its_name_alone():
    event = json.loads(EventWriter().of_finding(finding()).body)

    assert (event["file"], event["instrument"]) == ("a.dm3", None)


def test_ids_differ_within_a_run_and_between_runs():
    one, other = writer(), writer()

    ids = [w.of_finding(finding()).id for w in (one, one, other, other)]

    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [
        pytest.param({}, {}, [], id="nothing changed"),
        pytest.param({}, {"folders": (GONE,)}, [("folder_missing", "scope")], id="a folder went"),
        pytest.param({"folders": (GONE,)}, {}, [("folder_back", "scope")], id="a folder came back"),
        pytest.param(
            {"folders": (GONE, OTHER)}, {"folders": (GONE, OTHER)}, [], id="a folder that stays away is told once"
        ),
        pytest.param({}, {"disks": (LOW,)}, [("disk_low", "outputs")], id="a disk is full"),
        pytest.param({"disks": (LOW,)}, {"disks": (DISK,)}, [("disk_back", "outputs")], id="there is room again"),
        pytest.param(
            {},
            {"disks": (LOW.model_copy(update={"folder": "/state"}), LOW)},
            [("disk_low", "outputs"), ("disk_low", "state")],
            id="two disks",
        ),
        pytest.param(
            {}, {"model": MODEL.model_copy(update={"sha256": "11" * 32})}, [("model_changed", None)], id="model"
        ),
        pytest.param({"model": None}, {}, [], id="a model that is loaded is no change"),
    ],
)  # fmt: skip
def test_changes_are_told_once(before, now, events):
    assert told(writer(**before), **now) == events


def test_start_and_end():
    found = EventWriter()

    assert told(found) == [("started", None)]
    assert told(found) == []
    assert json.loads(found.of_end().body)["event"] == "stopped"


def test_a_folder_that_is_missing_from_the_start_is_told():
    assert told(EventWriter(), folders=(GONE,)) == [("started", None), ("folder_missing", "scope")]


def test_every_event_is_of_the_schema():
    found = writer()
    for event in (found.of_finding(finding()), found.of_end()):
        assert EventRecord.model_validate_json(event.body).id == event.id
