"""The metrics: names, units, values; and that board and rules ask for nothing that is not there."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest
from agent_numbers import DISK, FOLDER, MODEL, finding, numbers
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.announcing.outbox import ChannelNumbers
from edge_agent.live_page.application import choose_encoder
from edge_agent.live_page.metrics import registry_of
from edge_agent.live_page.pulse import MonitorState

PACKAGE = files("edge_agent.live_page")
BOARD = json.loads(PACKAGE.joinpath("grafana_board.json").read_text("utf-8"))
RULES = PACKAGE.joinpath("prometheus_rules.yml").read_text("utf-8")
NAME = re.compile(r"\b((?:scopewatch|process)_[a-z_]+)")


@pytest.fixture
def state() -> MonitorState:
    state = MonitorState()
    state.channels = lambda: (ChannelNumbers("webhook", sent=5, dropped=1, failures=2, waiting=3),)
    state.note_status(numbers())
    for one in (finding(), finding(decision="abstain"), finding(outcome="unreadable", label=None)):
        state.note_finding(one)
    return state


def families(state):
    encode, _ = choose_encoder("")
    return {
        family.name: family for family in text_string_to_metric_families(encode(registry_of(state)).decode())
    }


def samples(state):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families(state).values()
        for sample in family.samples
    }


def test_what_the_agent_says_is_what_a_monitor_reads(state):
    found = samples(state)

    expected = {
        ("scopewatch_alive",): 1,
        ("scopewatch_ready",): 1,
        ("scopewatch_files_total", "classified"): 2,
        ("scopewatch_files_total", "unreadable"): 1,
        ("scopewatch_files_total", "crashed"): 0,
        ("scopewatch_predictions_total", "accept", "round"): 1,
        ("scopewatch_predictions_total", "abstain", "round"): 1,
        ("scopewatch_stage_duration_seconds_count", "infer"): 3,
        ("scopewatch_stage_duration_seconds_bucket", "0.05", "infer"): 0,
        ("scopewatch_stage_duration_seconds_bucket", "0.1", "infer"): 3,
        ("scopewatch_latency_seconds_bucket", "0.25"): 0,
        ("scopewatch_latency_seconds_bucket", "0.5"): 3,
        ("scopewatch_latency_seconds_bucket", "+Inf"): 3,
        ("scopewatch_backlog_files",): 3,
        ("scopewatch_oldest_pending_seconds",): 2.5,
        ("scopewatch_stalled_files",): 2,
        ("scopewatch_orphaned_sidecars",): 6,
        ("scopewatch_journal_files", "classified"): 8,
        ("scopewatch_taken_over_files_total",): 5,
        ("scopewatch_worker_up",): 1,
        ("scopewatch_worker_starts_total",): 3,
        ("scopewatch_worker_deaths_total",): 2,
        ("scopewatch_worker_recycled_total",): 1,
        ("scopewatch_worker_interrupted_total",): 4,
        ("scopewatch_scans_total",): 42,
        ("scopewatch_paused",): 0,
        ("scopewatch_config_refused",): 0,
        ("scopewatch_model_fallback",): 0,
        ("scopewatch_watcher_healthy",): 1,
        ("scopewatch_folders", "present"): 1,
        ("scopewatch_folders", "missing"): 0,
        ("scopewatch_last_scan_timestamp_seconds",): FOLDER.scanned.timestamp(),
        ("scopewatch_heartbeat_timestamp_seconds",): numbers().updated.timestamp(),
        ("scopewatch_disk_free_bytes", "state"): 4096 * 2**20,
        ("scopewatch_disk_free_bytes", "outputs"): 2048 * 2**20,
        ("scopewatch_disk_low", "outputs"): 0,
        ("scopewatch_model_info", "1.2", MODEL.sha256, "particle-shape"): 1,
        ("scopewatch_instrument_info", "Titan 1"): 1,
        ("scopewatch_drift_left", "novelty"): 1,
        ("scopewatch_events_sent_total", "webhook"): 5,
        ("scopewatch_events_dropped_total", "webhook"): 1,
        ("scopewatch_events_failures_total", "webhook"): 2,
        ("scopewatch_events_waiting", "webhook"): 3,
    }
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        pytest.param({"paused": "busy"}, ("scopewatch_paused",), 1, id="paused"),
        pytest.param({"model_note": "the other one fails"}, ("scopewatch_model_fallback",), 1, id="fall-back"),
        pytest.param({"oldest_waiting_seconds": None}, ("scopewatch_oldest_pending_seconds",), 0, id="idle"),
        pytest.param(
            {"folders": (FOLDER.model_copy(update={"present": False}),)},
            ("scopewatch_watcher_healthy",),
            0,
            id="folder missing",
        ),
        pytest.param(
            {"folders": (FOLDER, FOLDER.model_copy(update={"path": "/b", "scanned": None}))},
            ("scopewatch_last_scan_timestamp_seconds",),
            0,
            id="one folder never scanned",
        ),
        pytest.param(
            {"disks": (DISK, DISK.model_copy(update={"folder": "/b", "free_mib": 3, "low": True}))},
            ("scopewatch_disk_free_bytes", "outputs"),
            3 * 2**20,
            id="the fullest of two disks",
        ),
        pytest.param({"folders": ()}, ("scopewatch_watcher_healthy",), 0, id="nothing to watch"),
    ],
)  # fmt: skip
def test_other_states(changes, name, value):
    state = MonitorState()
    state.note_status(numbers(**changes))

    assert samples(state)[name] == value


def test_before_the_first_word_there_are_the_counts_and_the_verdicts():
    found = samples(MonitorState())

    assert found["scopewatch_alive",] == 1
    assert found["scopewatch_ready",] == 0
    assert ("scopewatch_backlog_files",) not in found


def test_every_metric_says_what_it_means_and_its_name_ends_in_its_unit(state):
    ours = [family for name, family in families(state).items() if name.startswith("scopewatch_")]

    assert len(ours) > 35
    assert all(family.documentation.endswith((".", "scan of each.")) for family in ours)
    assert not [
        family.name for family in ours if re.search(r"_(ms|milliseconds|mib|mb|minutes)\b", family.name)
    ]


def test_no_label_holds_a_path_and_none_grows_without_end(state):
    labels = {
        label: value
        for family in families(state).values()
        for sample in family.samples
        for label, value in sample.labels.items()
    }

    assert labels.keys() <= {
        *("outcome", "label", "decision", "stage", "le", "state", "disk", "quantity", "receiver"),
        *("name", "version", "sha256", "python", "system"),
    }
    assert not [value for value in labels.values() if "/" in value or "\\" in value]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        pytest.param("", "text/plain; version=0.0.4", id="anything"),
        pytest.param("text/html", "text/plain; version=0.0.4", id="a browser"),
        pytest.param(
            "application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0", id="new"
        ),
    ],
)  # fmt: skip
def test_both_formats_are_spoken(state, accept, kind):
    encode, content_type = choose_encoder(accept)

    assert content_type.startswith(kind)
    text = encode(registry_of(state))
    assert text.endswith(b"# EOF\n") is ("openmetrics" in kind)
    assert b'scopewatch_files_total{outcome="classified"} 2.0' in text


def queries() -> list[str]:
    targets = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    return targets + [
        item["query"]["query"] for item in BOARD["templating"]["list"] if item["type"] == "query"
    ]


@pytest.mark.parametrize(
    "text",
    [*(pytest.param(query, id=query[:60]) for query in queries()), pytest.param(RULES, id="alert rules")],
)
def test_every_metric_of_board_and_rules_exists(state, text):
    exist = {sample.name for family in families(state).values() for sample in family.samples}
    exist |= {family.removesuffix("_total") for family in exist}

    names = set(NAME.findall(text))

    assert names
    assert names - exist == set()


def test_the_board_is_complete():
    titles = [panel["title"] for panel in BOARD["panels"]]

    assert len(titles) == len(set(titles)) == len({panel["id"] for panel in BOARD["panels"]})
    assert all(panel["description"] for panel in BOARD["panels"])
    assert {item["name"] for item in BOARD["templating"]["list"]} == {"datasource", "job", "instance"}
    assert {target["datasource"]["uid"] for panel in BOARD["panels"] for target in panel["targets"]} == {
        "${datasource}"
    }
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) == 23
