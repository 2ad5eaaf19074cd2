"""The log is bounded, cannot be forged by a name, and says a standing fault once a minute."""

from __future__ import annotations

import json
import logging
import re

import pytest

from edge_agent import logs
from edge_agent.logs import (
    LOG_NAME,
    JsonLines,
    OnceAMinute,
    PrintableFormatter,
    StandingFaults,
    log_to_file,
    log_to_terminal,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def logging_as_before():
    """Leave the process's logging as it was, and no file open."""
    root, ours = logging.getLogger(), logging.getLogger("edge_agent")
    before = (list(root.handlers), root.level, list(ours.handlers), ours.level, logging.raiseExceptions)
    yield
    for handler in list(ours.handlers):
        if handler not in before[2]:
            handler.close()
    root.handlers[:], root.level, ours.handlers[:], ours.level = before[0], before[1], before[2], before[3]
    logging.raiseExceptions = before[4]
    root.manager._clear_cache()


def record(message="%s: no", *arguments, level=logging.WARNING, name="edge_agent.x"):
    return logging.LogRecord(name, level, __file__, 1, message, arguments, None)


@pytest.mark.parametrize(
    ("asked_at", "answers"),
    [
        pytest.param([0], [0], id="the first is told"),
        pytest.param([0, 59.9], [0, None], id="again within a minute"),
        pytest.param([0, 1, 2, 60], [0, None, None, 2], id="after a minute, with the number held back"),
        pytest.param([0, 1, 60, 61, 120], [0, None, 1, None, 1], id="counted anew from each one told"),
    ],
)
def test_each_kind_is_told_once_a_minute(clock, asked_at, answers):
    rule = OnceAMinute(clock)
    found = []
    for clock.now in asked_at:
        found.append(rule.admit("disk full"))
    assert found == answers


def test_kinds_do_not_hold_each_other_back(clock):
    rule = OnceAMinute(clock)
    assert [rule.admit(kind) for kind in ("a", "b", "a")] == [0, 0, None]


def test_kinds_without_end_do_not_fill_the_memory(clock):
    rule = OnceAMinute(clock)
    for kind in range(5000):
        assert rule.admit(kind) == 0
    assert len(rule._told) <= logs._MOST_FAULTS


def test_a_standing_fault_is_logged_once_a_minute_whatever_names_are_in_it(clock):
    faults = StandingFaults(clock)
    assert faults.filter(record("%s: no", "a.dm3"))
    assert not faults.filter(record("%s: no", "b.dm3"))
    assert faults.filter(record("%s: yes", "b.dm3"))
    assert faults.filter(record("%s: no", "a.dm3", name="edge_agent.y"))


def test_news_below_a_warning_always_passes(clock):
    faults = StandingFaults(clock)
    assert [faults.filter(record(level=logging.INFO)) for _ in range(3)] == [True] * 3


def test_each_handler_counts_what_it_held_back_itself(clock):
    early, late = StandingFaults(clock), StandingFaults(clock)
    assert early.filter(record("%s: no", "a"))
    clock.now = 30
    for _ in range(2):
        assert not early.filter(record("%s: no", "b"))
    assert late.filter(record("%s: no", "c"))
    clock.now = 95
    last = record("%s: no", "d")
    assert early.filter(last)
    assert late.filter(last)

    lines = [PrintableFormatter(faults).format(last) for faults in (early, late)]
    assert lines[0].endswith("WARNING d: no (2 more like this held back)")
    assert lines[1].endswith("WARNING d: no")


def test_a_message_of_any_type_can_be_held_back(clock):
    assert StandingFaults(clock).filter(record({"not": "hashable"}))


def test_no_name_forges_a_line():
    line = PrintableFormatter().format(record("%s: no", "a\n2026-01-01 00:00:00,000 ERROR forged\x1b[2J"))
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.endswith("a\\n2026-01-01 00:00:00,000 ERROR forged\\x1b[2J: no")


def test_no_traceback_forges_a_line():
    try:
        raise ValueError("a.dm3\n2026-01-01 00:00:00,000 ERROR forged\x1b[2J")
    except ValueError as error:
        told = record("stumbled")
        told.exc_info = (type(error), error, error.__traceback__)
    lines = PrintableFormatter().format(told).splitlines()

    assert lines[0].endswith("WARNING stumbled")
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    2026-01-01 00:00:00,000 ERROR forged\\x1b[2J"


def test_the_terminal_shows_warnings_only(capsys):
    log_to_terminal(verbose=False)
    log = logging.getLogger("edge_agent.somewhere")
    log.info("started")
    for _ in range(3):
        log.warning("%s: no", "a.dm3")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("WARNING a.dm3: no")


def test_the_terminal_shows_all_of_ours_when_asked(capsys):
    log_to_terminal(verbose=True)
    logging.getLogger("edge_agent.somewhere").debug("a detail")
    logging.getLogger("a_library").info("chatter")
    for _ in range(2):
        logging.getLogger("edge_agent.somewhere").warning("again")

    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["detail", "again", "again"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG_NAME).read_text(encoding="ascii").splitlines()]


def test_the_file_holds_what_the_terminal_does_not_as_one_object_a_line(tmp_path, capsys):
    log_to_terminal(verbose=False)
    assert log_to_file(tmp_path / "state") is not None
    fields = {"event": "finding", "file": "a\n.dm3", "reasons": ("novel",), "label": None, "not a field": 1}
    logging.getLogger("edge_agent.service").info("started with %s", "caf\udce9\n", extra=fields)

    assert capsys.readouterr().err == ""
    (line,) = lines_of(tmp_path / "state")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "INFO",
        "logger": "edge_agent.service",
        "message": "started with caf\\udce9\\n",
        "event": "finding",
        "file": "a\n.dm3",
        "reasons": ["novel"],
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            'a.dm3"}\n{"time": "2026-01-01T00:00:00.000Z", "level": "ERROR"', id="a line of the log"
        ),
        pytest.param("\x1b[2J\x1b]0;owned\x07.dm3", id="orders to a terminal"),
        pytest.param("\u202e3md.a\u2028\x85.dm3", id="other ends of a line, other directions"),
        pytest.param("\udce9.dm3", id="no UTF-8"),
    ],
)
def test_no_name_forges_a_line_of_the_file(tmp_path, name):
    log_to_file(tmp_path)
    logging.getLogger("edge_agent").info("%s: no", name, extra={"file": name})
    try:
        raise ValueError(name)
    except ValueError:
        logging.getLogger("edge_agent").exception("stumbled")

    raw = (tmp_path / LOG_NAME).read_bytes()
    assert raw.count(b"\n") == 2
    assert not set(raw) - set(range(32, 127)) - {10}
    first, second = lines_of(tmp_path)
    assert first["file"] == name
    assert first["message"].isprintable()
    assert second["exception"].startswith("Traceback (most recent call last):\n")


def test_a_line_says_how_many_like_it_were_held_back(tmp_path, clock):
    handler = log_to_file(tmp_path)
    handler.removeFilter(handler.filters[0])
    faults = StandingFaults(clock)
    handler.addFilter(faults)
    handler.setFormatter(JsonLines(faults))
    for clock.now in (0, 1, 2, 60):
        logging.getLogger("edge_agent").warning("%s: no", clock.now)

    assert [(line["message"], line.get("held_back")) for line in lines_of(tmp_path)] == [
        ("0: no", None),
        ("60: no", 2),
    ]


def test_what_a_message_can_add_to_the_file_is_bounded(tmp_path):
    log_to_file(tmp_path)
    logging.getLogger("edge_agent").info("x" * 1_000_000)

    assert (tmp_path / LOG_NAME).stat().st_size < 10_000


def test_the_file_is_rotated_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MIB", 2000)
    log_to_file(tmp_path, files=5, mib=1)
    for number in range(500):
        logging.getLogger("edge_agent").info("line %d: %s", number, "x" * 100)

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [LOG_NAME, *(f"{LOG_NAME}.{number}" for number in range(1, 6))]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
    assert "line 499" in (tmp_path / LOG_NAME).read_text()


def test_another_bound_takes_the_place_of_the_first(tmp_path):
    first, second = log_to_file(tmp_path), log_to_file(tmp_path, files=2, mib=3)
    logging.getLogger("edge_agent").info("once")

    assert first.stream is None
    assert (second.backupCount, second.maxBytes) == (2, 3 * 2**20)
    assert [line["message"] for line in lines_of(tmp_path)] == ["once"]


@pytest.mark.parametrize("obstacle", ["a file", "a folder of that name"])
def test_a_log_that_cannot_be_written_is_dropped_and_the_work_goes_on(tmp_path, capsys, obstacle):
    log_to_terminal(verbose=False)
    state = tmp_path / "state"
    if obstacle == "a file":
        state.write_bytes(b"")
    else:
        (state / LOG_NAME).mkdir(parents=True)

    assert log_to_file(state) is None
    logging.getLogger("edge_agent").info("going on")

    assert "WARNING no log file: " in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_log_lines_only(tmp_path, capsys, monkeypatch):
    log_to_terminal(verbose=False)
    handler = log_to_file(tmp_path)

    def full(text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handler.stream, "write", full, raising=False)
    logging.getLogger("edge_agent").info("lost")

    assert capsys.readouterr().err == ""
