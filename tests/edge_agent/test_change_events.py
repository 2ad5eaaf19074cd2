"""Change events of the system arrive for what a writer does, and never for our own reading."""

from __future__ import annotations

import queue

import pytest

from edge_agent.change_events import NativeHints


@pytest.fixture
def heard():
    return queue.SimpleQueue()


@pytest.fixture
def hints(tmp_path, heard):
    source = NativeHints()
    source.start(tmp_path, heard.put)
    yield source
    source.stop()


def paths_until(heard: queue.SimpleQueue, last: str) -> list[str]:
    paths = []
    while not paths or not paths[-1].endswith(last):
        paths.append(heard.get(timeout=10))
    return paths


def test_a_new_file_is_heard_of_below_the_folder_too(tmp_path, hints, heard):
    (tmp_path / "a.dm3").write_bytes(b"1")
    assert paths_until(heard, "a.dm3")[-1] == str(tmp_path / "a.dm3")

    (tmp_path / "sub").mkdir()
    assert paths_until(heard, "sub")


def test_of_a_rename_the_new_name_is_told(tmp_path, hints, heard):
    (tmp_path / "a.tmp").write_bytes(b"1")
    (tmp_path / "a.tmp").rename(tmp_path / "b.dm3")

    assert paths_until(heard, "b.dm3")[-1] == str(tmp_path / "b.dm3")


def test_reading_makes_no_event(tmp_path, hints, heard):
    file = tmp_path / "a.dm3"
    file.write_bytes(b"1")
    paths_until(heard, "a.dm3")
    (tmp_path / "mark-1").touch()
    paths_until(heard, "mark-1")

    file.read_bytes()
    (tmp_path / "mark-2").touch()

    assert set(paths_until(heard, "mark-2")) <= {str(tmp_path / "mark-1"), str(tmp_path / "mark-2")}


def test_a_name_that_is_no_utf8_arrives(tmp_path, hints, heard):
    (tmp_path / "caf\udce9.dm3").write_bytes(b"1")

    assert paths_until(heard, "\udce9.dm3")[-1] == str(tmp_path / "caf\udce9.dm3")


def test_it_is_alive_between_start_and_stop(tmp_path):
    source = NativeHints()
    assert not source.alive()
    source.start(tmp_path, lambda path: None)
    assert source.alive()
    source.stop()
    assert not source.alive()
    source.stop()


def test_a_missing_folder_cannot_be_started(tmp_path):
    source = NativeHints()

    with pytest.raises(OSError, match="No such file or directory"):
        source.start(tmp_path / "none", lambda path: None)
    source.stop()
