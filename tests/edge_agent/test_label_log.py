"""How events get into a label file: whole or not at all, once, and never in place of what was said before."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from labelled import event

from edge_agent import files as files_module
from edge_agent.files import FileLayer
from edge_agent.labelling.label_log import add_events, read_events

LATER = b'{"schema": "scopewatch.label/2", "events": []}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.dm3.label.json"


def test_events_are_added_in_their_order(path):
    assert add_events(path, [event("a")]) == 1
    assert add_events(path, [event("b"), event("c")]) == 2

    assert [one.id for one in read_events(path)] == ["a", "b", "c"]


def test_an_event_that_is_there_is_not_added_again(path):
    add_events(path, [event("a"), event("a")])
    before = path.stat().st_mtime_ns

    assert add_events(path, [event("a")]) == 0

    assert path.stat().st_mtime_ns == before
    assert [one.id for one in read_events(path)] == ["a"]


def test_there_is_nothing_where_nobody_said_anything(path):
    assert read_events(path) == ()


DAMAGED = [
    b"{half",
    b"",
    b"[]",
    b'{"schema": 7}',
    b"[" * 100_000,
    LATER.replace(b"/2", b"/1").replace(b"[]", b"0"),
]


@pytest.mark.parametrize(
    "found", DAMAGED, ids=["cut off", "empty", "a list", "a number", "brackets", "no events"]
)
def test_what_cannot_be_understood_is_kept_beside_the_new_file(path, caplog, found):
    path.write_bytes(found)

    add_events(path, [event("a")])

    (kept,) = path.parent.glob("a.dm3.label.kept-????????.json")
    assert kept.read_bytes() == found
    assert [one.id for one in read_events(path)] == ["a"]
    assert f"kept as {kept.name}, and begun anew" in caplog.text


def test_a_file_of_a_later_version_is_left_alone(path):
    path.write_bytes(LATER)

    with pytest.raises(OSError, match=r"is of another version \('scopewatch.label/2'\); update this agent"):
        add_events(path, [event("a")])

    assert path.read_bytes() == LATER
    assert list(path.parent.iterdir()) == [path]


def test_what_comes_back_is_kept_once(path):
    for name in ("a", "b"):
        path.write_bytes(b"{half")
        add_events(path, [event(name)])

    assert len(list(path.parent.glob("*.kept-*"))) == 1


def plant_link(path):
    target = path.with_name("of-somebody-else.json")
    target.write_bytes(b"precious")
    path.symlink_to(target)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize(
    "plant",
    [plant_link, lambda path: path.mkdir(), lambda path: os.mkfifo(path)],
    ids=["a link", "a folder", "a pipe"],
)
def test_what_was_planted_is_neither_followed_nor_waited_for(path, plant):
    plant(path)
    before = sorted(path.parent.iterdir())

    with pytest.raises(OSError, match="is a link, a folder or a device where a file belongs"):
        add_events(path, [event("a")])

    assert sorted(path.parent.iterdir()) == before
    if path.is_symlink():
        assert path.read_bytes() == b"precious"


def test_the_instruments_share_of_the_disk_is_respected(path, monkeypatch):
    usage = shutil.disk_usage(path.parent)._replace(free=100 * 2**20)
    monkeypatch.setattr(files_module.shutil, "disk_usage", lambda _: usage)
    add_events(path, [event("a")], floor_mib=99)

    with pytest.raises(OSError, match="100 MiB are free, and 100 MiB are left to the instrument"):
        add_events(path, [event("b")], floor_mib=100)

    assert [one.id for one in read_events(path)] == ["a"]


@pytest.mark.parametrize("call", ["create", "write", "fsync", "replace"])
def test_a_disk_that_fails_leaves_what_was_said_before(path, call):
    class Failing(FileLayer):
        def __getattribute__(self, name):
            if name == call:
                raise OSError(errno.EIO, "Input/output error")
            return super().__getattribute__(name)

    add_events(path, [event("a")])

    with pytest.raises(OSError, match="Input/output error"):
        add_events(path, [event("b")], Failing())

    assert [one.id for one in read_events(path)] == ["a"]
    assert [item.name for item in path.parent.iterdir()] == [path.name]
