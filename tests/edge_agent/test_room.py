"""There is room when the disk, the processors and the storage say so; asking never stops the work."""

from __future__ import annotations

import os
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest

from edge_agent import room as room_module
from edge_agent.room import ForeignLoad, FreeSpace, Room

Times = namedtuple("Times", "user system idle iowait guest guest_nice")
MIB = 2**20


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def disk(monkeypatch):
    """A disk whose free space the test sets, in MiB, and which counts the questions."""
    state = SimpleNamespace(free_mib=5000, error=None, asked=0)

    def usage(place):
        state.asked += 1
        if state.error is not None:
            raise state.error
        place.stat()
        return SimpleNamespace(free=state.free_mib * MIB)

    monkeypatch.setattr(room_module.shutil, "disk_usage", usage)
    return state


@pytest.mark.parametrize(
    ("free_mib", "floor_mib", "low"),
    [
        pytest.param(5000, 1024, False, id="room enough"),
        pytest.param(1024, 1024, False, id="exactly at the floor"),
        pytest.param(1023, 1024, True, id="below the floor"),
        pytest.param(0, 0, False, id="no floor at all"),
    ],
)
def test_a_disk_is_low_below_the_floor(tmp_path, disk, free_mib, floor_mib, low):
    disk.free_mib = free_mib
    assert Room(tmp_path, floor_mib=floor_mib).free_space(tmp_path) == FreeSpace(tmp_path, free_mib, low)


def test_a_folder_that_is_not_there_yet_is_asked_for_where_it_will_be(tmp_path, disk):
    below = tmp_path / "not" / "yet"
    assert Room(tmp_path, floor_mib=1).free_space(below) == FreeSpace(below, 5000, low=False)


def test_what_the_system_does_not_say_forbids_nothing(tmp_path, disk):
    disk.error = PermissionError(13, "Permission denied")
    room = Room(tmp_path, floor_mib=1024)
    assert room.free_space(tmp_path) is None
    assert room.shortage(room.free_space(tmp_path)) is None
    assert not room.must_pause()


def test_the_disk_is_asked_once_a_second(tmp_path, disk, clock):
    room = Room(tmp_path, floor_mib=1024, clock=clock)
    for clock.now in (0.0, 0.5, 0.99):
        room.free_space(tmp_path)
    assert disk.asked == 1

    disk.free_mib, clock.now = 10, 1.0
    assert room.free_space(tmp_path) == FreeSpace(tmp_path, 10, low=True)


def test_folders_without_end_do_not_fill_the_memory(tmp_path, disk, clock):
    room = Room(tmp_path, floor_mib=1, clock=clock)
    for number in range(3000):
        room.free_space(tmp_path / str(number))
    assert len(room._seen) <= 1001


def test_a_shortage_says_what_is_missing_and_which_key_sets_it(tmp_path, disk):
    disk.free_mib = 700
    room = Room(tmp_path, floor_mib=1024)
    assert room.shortage(room.free_space(tmp_path / "sub")) == (
        f"the disk of {tmp_path / 'sub'} has 700 MiB free, less than the 1024 MiB that are left to the instrument "
        "(free_space_floor_mib); nothing is written before there is room"
    )


def test_a_full_state_disk_pauses_the_work_until_there_is_room(tmp_path, disk, clock, caplog):
    room = Room(tmp_path, floor_mib=1024, clock=clock)
    assert not room.must_pause()
    assert room.paused is None

    disk.free_mib = 10
    for clock.now in (2.0, 4.0):
        assert room.must_pause()
    assert room.paused is not None
    assert [entry.getMessage() for entry in caplog.records] == [f"paused: {room.paused}"]

    disk.free_mib, clock.now = 2000, 6.0
    assert not room.must_pause()
    assert room.paused is None


@pytest.mark.parametrize(
    ("threshold", "percent", "pauses"),
    [
        pytest.param(None, 100.0, False, id="not asked for"),
        pytest.param(60, 59.9, False, id="below the threshold"),
        pytest.param(60, 60.1, True, id="above the threshold"),
    ],
)
def test_the_work_yields_to_other_programs(tmp_path, disk, monkeypatch, threshold, percent, pauses):
    monkeypatch.setattr(ForeignLoad, "percent", lambda self: percent)
    room = Room(tmp_path, floor_mib=0, yield_above_percent=threshold)

    assert room.must_pause() is pauses
    if pauses:
        assert room.paused == (
            "other programs use 60 % of the processors, more than 60 % (yield_above_cpu_percent)"
        )


@pytest.fixture
def processors(monkeypatch, clock):
    """Two processors, of which the test says what they did."""
    state = SimpleNamespace(times=Times(0, 0, 0, 0, 0, 0), own=(0.0, 0.0), worker=None)

    def process(pid):
        assert pid == 7
        if state.worker is None:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(cpu_times=lambda: (state.worker, 0.0, 0.0, 0.0))

    monkeypatch.setattr(room_module.psutil, "cpu_times", lambda: state.times)
    monkeypatch.setattr(room_module.psutil, "Process", process)
    monkeypatch.setattr(room_module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(room_module.os, "times", lambda: (*state.own, 0.0, 0.0, 0.0))
    monkeypatch.setattr(room_module.time, "monotonic", clock)
    return state


@pytest.mark.parametrize(
    ("later", "own", "worker", "percent"),
    [
        pytest.param(Times(0, 0, 20, 0, 0, 0), (0, 0), 0.0, 0, id="idle"),
        pytest.param(Times(8, 2, 10, 0, 0, 0), (0, 0), 0.0, 50, id="half of two processors"),
        pytest.param(Times(8, 2, 10, 0, 0, 0), (1, 1), 0.0, 40, id="our own work does not count"),
        pytest.param(Times(8, 2, 10, 0, 0, 0), (1, 1), 4.0, 20, id="nor the worker's"),
        pytest.param(Times(4, 0, 6, 10, 0, 0), (0, 0), 0.0, 20, id="waiting for a disk is no load"),
        pytest.param(Times(10, 0, 10, 0, 5, 5), (0, 0), 0.0, 50, id="guests are contained in user time"),
        pytest.param(Times(30, 0, 0, 0, 0, 0), (0, 0), 0.0, 100, id="never more than all"),
    ],
)
def test_load_is_what_others_use_of_all_processors(processors, clock, later, own, worker, percent):
    processors.worker = 0.0
    load = ForeignLoad(lambda: 7)
    assert load.percent() == 0.0

    processors.times, processors.own, processors.worker, clock.now = later, own, worker, 10.0
    assert load.percent() == pytest.approx(percent)


def test_load_is_not_measured_more_often_than_once_a_second(processors, clock):
    load = ForeignLoad(lambda: None)
    load.percent()
    processors.times, clock.now = Times(2, 0, 0, 0, 0, 0), 1.0
    assert load.percent() == 100.0

    processors.times, clock.now = Times(2, 0, 1, 0, 0, 0), 1.5
    assert load.percent() == 100.0


def test_a_worker_that_is_replaced_makes_no_load(processors, clock):
    processors.worker = 500.0
    load = ForeignLoad(lambda: 7)
    load.percent()
    processors.worker, processors.times, clock.now = None, Times(1, 0, 19, 0, 0, 0), 10.0
    assert load.percent() == pytest.approx(5)


def test_what_the_pages_processes_use_is_no_load_of_others(processors, clock, monkeypatch):
    monkeypatch.setattr(room_module, "living_pids", lambda: (7,))
    processors.worker = 0.0
    load = ForeignLoad(lambda: None)
    load.percent()
    processors.worker, processors.times, clock.now = 10.0, Times(10, 0, 10, 0, 0, 0), 10.0
    assert load.percent() == 0.0


def test_the_load_of_this_pc_is_a_share():
    load = ForeignLoad(lambda: os.getpid())
    assert load.percent() == 0.0
    load._before = (load._before[0] - 1.0, load._before[1], load._before[2])
    assert 0.0 <= load.percent() <= 100.0
