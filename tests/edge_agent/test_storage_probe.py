"""A disk or share that does not answer never holds up whoever asks about it."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from edge_agent.processes import storage_probe
from edge_agent.processes.storage_probe import StorageProbe, StorageSilent, in_time

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def go_on():
    return threading.Event()


@pytest.fixture
def stalling(monkeypatch):
    """Let every question about a path with "stall" in it wait, as a dead share does, until the test ends."""
    answered = threading.Event()
    asked: list[Path] = []

    def wait(path, *arguments, real):
        asked.append(path)
        if "stall" in str(path):
            answered.wait(30)
        return real(path, *arguments)

    for name in ("stamp_of", "_is_reachable", "_is_reachable_folder", "_leftovers"):
        real = getattr(storage_probe, name)
        monkeypatch.setattr(
            storage_probe, name, lambda path, *arguments, real=real: wait(path, *arguments, real=real)
        )
    yield asked
    answered.set()
    for thread in threading.enumerate():
        if thread.name == "storage-probe":
            thread.join(10)


def probe(*roots: Path) -> StorageProbe:
    return StorageProbe(roots, limit_seconds=0.1)


def test_it_says_the_size(tmp_path, go_on):
    (tmp_path / "a.dm3").write_bytes(b"12345")

    assert probe().size_of(tmp_path / "a.dm3", go_on) == 5
    assert probe().size_of(tmp_path / "gone.dm3", go_on) == 0


@pytest.mark.parametrize(
    ("make", "answers"),
    [
        pytest.param(lambda path: path.write_bytes(b"1"), True, id="a file"),
        pytest.param(lambda path: path.write_bytes(b""), True, id="an empty file"),
        pytest.param(lambda path: None, True, id="no file: also an answer"),
        pytest.param(lambda path: path.mkdir(), True, id="a folder"),
        pytest.param(os.mkfifo, True, id="a pipe, which is not waited for"),
    ],
)
def test_whatever_is_there_is_an_answer(tmp_path, go_on, make, answers):
    make(tmp_path / "a.dm3")

    assert probe().answers(tmp_path / "a.dm3", tmp_path, go_on) is answers


@pytest.mark.parametrize(
    ("code", "answers"),
    [
        (errno.ENOENT, True),
        (errno.EACCES, True),
        (errno.ENOTDIR, True),
        (errno.EIO, False),
        (errno.ESTALE, False),
        (errno.ENOTCONN, False),
        (errno.EHOSTDOWN, False),
    ],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("which", ["open_shared", "system_path"])
def test_an_error_that_only_a_failing_storage_gives_is_none(
    tmp_path, go_on, monkeypatch, code, answers, which
):
    def fail(path):
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.dm3").write_bytes(b"1")
    monkeypatch.setattr(storage_probe, which, fail)

    assert probe().answers(tmp_path / "a.dm3", tmp_path, go_on) is answers


def test_a_storage_that_stalls_is_silent(tmp_path, go_on, stalling):
    sick = tmp_path / "stall"

    with pytest.raises(StorageSilent, match=r"stall did not answer for 0\.1 s"):
        probe(sick).size_of(sick / "a.dm3", go_on)
    assert probe(sick).answers(sick / "a.dm3", tmp_path, go_on) is False
    assert probe(sick).answers(tmp_path, sick, go_on) is False
    with pytest.raises(StorageSilent):
        probe(sick).clear(sick, "0a1b", go_on)


def test_few_threads_hang_at_a_place_and_others_are_still_asked(tmp_path, go_on, stalling):
    sick, well = tmp_path / "stall", tmp_path / "well"
    well.mkdir()
    (well / "a.dm3").write_bytes(b"123")
    both = probe(sick, well)

    for number in range(6):
        with pytest.raises(StorageSilent):
            both.size_of(sick / f"{number}.dm3", go_on)

    assert len(stalling) == 2
    assert both.size_of(well / "a.dm3", go_on) == 3


def test_a_place_that_answers_again_is_asked_again(tmp_path, go_on, monkeypatch):
    answered = threading.Event()
    (tmp_path / "a.dm3").write_bytes(b"123")
    real = storage_probe.stamp_of
    monkeypatch.setattr(storage_probe, "stamp_of", lambda path: answered.wait(30) and real(path))
    one = probe(tmp_path)
    for _ in range(3):
        with pytest.raises(StorageSilent):
            one.size_of(tmp_path / "a.dm3", go_on)

    answered.set()
    for thread in threading.enumerate():
        if thread.name == "storage-probe":
            thread.join(10)

    assert one.size_of(tmp_path / "a.dm3", go_on) == 3


def test_the_stop_is_not_kept_waiting(tmp_path, stalling):
    stop = threading.Event()
    stop.set()
    started = time.monotonic()

    with pytest.raises(StorageSilent):
        StorageProbe((), limit_seconds=30).size_of(tmp_path / "stall", stop)

    assert time.monotonic() - started < 5


def test_leftovers_of_the_owner_are_removed_and_nothing_else(tmp_path, go_on):
    names = [".scopewatch-0a1b-77.tmp", ".scopewatch-ffff-77.tmp", "a.dm3", "a.dm3.json", "x.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"1")

    probe().clear(tmp_path, "0a1b", go_on)
    probe().clear(tmp_path / "no such folder", "0a1b", go_on)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_what_a_new_worker_writes_is_never_removed_by_a_late_answer(tmp_path, go_on, monkeypatch):
    """The listing hangs; meanwhile the next worker has begun to write; then the listing comes."""
    answered = threading.Event()
    real = storage_probe._leftovers
    monkeypatch.setattr(storage_probe, "_leftovers", lambda *given: answered.wait(30) and real(*given))
    with pytest.raises(StorageSilent):
        probe().clear(tmp_path, "0a1b", go_on)
    (tmp_path / ".scopewatch-0a1b-88.tmp").write_bytes(b"of the new worker")

    answered.set()
    for thread in threading.enumerate():
        if thread.name == "storage-probe":
            thread.join(10)

    assert (tmp_path / ".scopewatch-0a1b-88.tmp").exists()


def test_a_single_question_has_an_answer_in_time(tmp_path):
    answered = threading.Event()
    try:
        assert in_time(lambda: answered.wait(30), otherwise=False, limit_seconds=0.05) is False
    finally:
        answered.set()
    assert in_time(tmp_path.is_dir, otherwise=False) is True
    assert in_time((tmp_path / "none").stat, otherwise=None) is None
