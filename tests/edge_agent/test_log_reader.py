"""The log read back: last lines, what follows, also over a rotation; in words a person reads."""

from __future__ import annotations

import json

import pytest

from edge_agent import log_reader
from edge_agent.log_reader import LogTail, human_lines
from edge_agent.logs import LOG_NAME


def write(folder, *names, number=None):
    name = LOG_NAME if number is None else f"{LOG_NAME}.{number}"
    with (folder / name).open("a") as file:
        file.writelines(f"{text}\n" for text in names)


def rotate(folder):
    for number in (2, 1):
        if (folder / f"{LOG_NAME}.{number}").exists():
            (folder / f"{LOG_NAME}.{number}").rename(folder / f"{LOG_NAME}.{number + 1}")
    (folder / LOG_NAME).rename(folder / f"{LOG_NAME}.1")


@pytest.mark.parametrize(
    ("count", "lines"),
    [
        pytest.param(0, [], id="none"),
        pytest.param(1, ["f"], id="one"),
        pytest.param(3, ["d", "e", "f"], id="over the border of a file"),
        pytest.param(100, ["a", "b", "c", "d", "e", "f"], id="all there are"),
    ],
)
def test_the_last_lines_come_from_as_many_files_as_it_takes(tmp_path, count, lines):
    write(tmp_path, "a", "b", number=2)
    write(tmp_path, "c", "d", number=1)
    write(tmp_path, "e", "f")

    assert LogTail(tmp_path).last(count) == lines


def test_long_logs_are_read_from_their_end(tmp_path):
    write(tmp_path, *(f"{number} {'x' * 1000}" for number in range(1000)))

    assert [line.split()[0] for line in LogTail(tmp_path).last(300)] == [str(n) for n in range(700, 1000)]


def test_without_a_log_there_are_no_lines_until_there_is_one(tmp_path):
    tail = LogTail(tmp_path)
    assert (tail.last(10), tail.more()) == ([], [])
    write(tmp_path, "a")
    assert tail.more() == ["a"]


def test_what_follows_is_told_once_and_only_whole_lines(tmp_path):
    write(tmp_path, "a")
    tail = LogTail(tmp_path)
    assert tail.last(0) == []
    with (tmp_path / LOG_NAME).open("a") as file:
        file.write("b\nhalf")
        file.flush()
        first = tail.more()
        file.write(" and half\n")
        file.flush()
        second = tail.more()

    assert (first, second, tail.more()) == (["b"], ["half and half"], [])


def test_a_rotation_loses_and_repeats_no_line(tmp_path):
    write(tmp_path, "a")
    tail = LogTail(tmp_path)
    tail.last(10)
    write(tmp_path, "b")
    rotate(tmp_path)
    write(tmp_path, "c")
    rotate(tmp_path)
    write(tmp_path, "d")

    assert (tail.more(), tail.more()) == (["b", "c", "d"], [])


def test_a_rotation_between_seeing_and_opening_is_no_end(tmp_path, monkeypatch):
    write(tmp_path, "a")
    tail = LogTail(tmp_path)
    tail.last(10)
    write(tmp_path, "b")
    with monkeypatch.context() as patch:
        patch.setattr(log_reader, "open_shared", lambda path: (tmp_path / "gone").open("rb"))
        assert tail.more() == []
    assert tail.more() == ["b"]


def line(**values):
    return json.dumps({"time": "2026-11-30T10:49:16.123Z", "level": "INFO", "message": "m"} | values)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        pytest.param(line(), ["INFO    m"], id="plain"),
        pytest.param(
            line(level="WARNING", held_back=3), ["WARNING m (3 more like this held back)"], id="held"
        ),
        pytest.param(line(message="a\x1b[2J"), ["INFO    a\\x1b[2J"], id="escaped"),
        pytest.param(line(exception="T\n  at\x1b"), ["INFO    m", "    T", "      at\\x1b"], id="traceback"),
    ],
)
def test_a_line_in_words(raw, shown):
    lines = human_lines(raw)
    assert [lines[0][20:], *lines[1:]] == shown


@pytest.mark.parametrize(
    "raw",
    ["2026-01-01 00:00:00,000 INFO of an earlier version", "{", "[]", '{"time": 1}', '{"time": "x"}', ""],
)
def test_what_is_no_line_of_ours_is_shown_as_it_is(raw):
    assert human_lines(raw) == [raw]
