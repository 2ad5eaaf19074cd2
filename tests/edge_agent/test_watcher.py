"""A file is handed out once, when it is quiet, whatever the events do. The test sets the time."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from watch_bench import QUIET, SCAN, Bench, Known

from edge_agent import watcher as watcher_module
from edge_agent.files import write_durably
from edge_agent.watcher import BATCH, Watcher
from edge_agent.watching import scanning


@pytest.fixture
def bench(tmp_path):
    folder = tmp_path / "scope"
    folder.mkdir()
    return Bench(folder)


def test_a_new_file_is_handed_out_when_it_was_quiet_for_long_enough(bench):
    assert bench.after(0) == []
    bench.write("a.dm3")

    assert bench.after(0.1) == []
    assert bench.after(QUIET - 0.01) == []
    assert bench.after(0.02) == ["a.dm3"]
    assert bench.after(SCAN) == []


def test_a_growing_file_is_handed_out_once_after_its_last_growth(bench):
    bench.after(0)
    for size in range(1, 6):
        bench.write("a.dm3", b"x" * size)
        assert bench.after(0.6) == []

    assert bench.after(QUIET) == ["a.dm3"]
    assert bench.after(QUIET) == []


def test_growth_that_raised_no_event_is_seen_all_the_same(bench):
    bench.after(0)
    bench.write("a.dm3", b"x")
    bench.after(0)
    bench.write("a.dm3", b"xx", hint=False)

    assert bench.after(QUIET) == []
    assert bench.after(QUIET) == ["a.dm3"]


def test_a_preallocated_file_that_is_filled_keeps_its_size_but_is_not_quiet(bench):
    bench.after(0)
    path = bench.write("a.dm3", b"0000")
    bench.after(0)
    path.write_bytes(b"1234")
    os.utime(path, ns=(1, 1))

    assert bench.after(QUIET) == []
    assert bench.after(QUIET) == ["a.dm3"]


@pytest.mark.parametrize("modified_ns", [1, 4_102_444_800_000_000_001], ids=["1970", "2100"])
def test_no_file_is_too_old_or_too_new(bench, modified_ns):
    path = bench.write("a.dm3", hint=False)
    os.utime(path, ns=(modified_ns, modified_ns))

    assert bench.until_quiet() == ["a.dm3"]


def test_files_saved_while_the_agent_was_off_are_found_oldest_first(bench):
    for number, name in enumerate(["c.dm3", "a.dm3", "b.dm3"]):
        path = bench.write(name, hint=False)
        os.utime(path, ns=(number + 1, number + 1))

    assert bench.until_quiet() == ["c.dm3", "a.dm3", "b.dm3"]


def test_a_file_without_any_event_is_found_by_the_next_scan(bench):
    bench.after(0)
    bench.write("deep/er/a.dm3", hint=False)

    assert bench.after(SCAN - 1) == []
    assert bench.after(1) == []
    assert bench.after(QUIET) == ["deep/er/a.dm3"]


def test_what_is_done_is_left_alone_until_it_changes(bench):
    path = bench.write("a.dm3", hint=False)
    bench.known.note(path)
    assert bench.until_quiet() == []
    bench.tell(path)
    assert bench.until_quiet() == []

    bench.write("a.dm3", b"a new generation")

    assert bench.until_quiet() == ["a.dm3"]


def test_a_file_in_hand_is_not_handed_out_again(bench):
    bench.write("a.dm3", hint=False)
    assert bench.until_quiet() == ["a.dm3"]

    bench.tell(bench.folder / "a.dm3")

    assert bench.after(SCAN) == []
    assert bench.watcher.health().in_hand == 1


def test_a_change_while_the_file_was_in_hand_is_a_new_generation(bench):
    bench.write("a.dm3", hint=False)
    bench.until_quiet()
    bench.known.note(bench.folder / "a.dm3")
    bench.write("a.dm3", b"changed meanwhile")
    bench.after(0)

    bench.watcher.release(bench.folder / "a.dm3")

    assert bench.until_quiet() == ["a.dm3"]
    bench.done("a.dm3")
    assert bench.until_quiet() == []
    assert bench.watcher.health().in_hand == 0


def test_an_incomplete_file_comes_again_after_its_pause(bench):
    path = bench.write("a.dm3", hint=False)
    bench.until_quiet()
    bench.watcher.rearm(path, 4.0)

    assert bench.after(3.9) == []
    assert bench.after(0.2) == []
    assert bench.after(4.0) == ["a.dm3"]


def test_an_incomplete_file_comes_sooner_when_it_changes(bench):
    path = bench.write("a.dm3", hint=False)
    bench.until_quiet()
    bench.watcher.rearm(path, 60.0)
    bench.after(0)

    bench.write("a.dm3", b"the rest of it")

    assert bench.until_quiet() == ["a.dm3"]
    assert bench.after(60) == []


def test_a_change_in_hand_makes_an_incomplete_file_come_sooner(bench):
    path = bench.write("a.dm3", hint=False)
    bench.until_quiet()
    bench.write("a.dm3", b"the rest of it")
    bench.after(0)
    bench.watcher.rearm(path, 60.0)

    assert bench.until_quiet() == ["a.dm3"]


def test_a_file_deleted_before_it_was_quiet_is_forgotten(bench):
    bench.after(0)
    path = bench.write("a.dm3")
    bench.after(0)
    path.unlink()

    assert bench.after(QUIET) == []
    assert bench.watcher.health().waiting == 0


def test_a_file_on_somebodys_list_is_handed_out_once_more_when_it_is_gone(bench):
    path = bench.write("a.dm3", hint=False)
    bench.until_quiet()
    bench.watcher.rearm(path, 2.0)
    bench.after(0)
    path.unlink()

    assert bench.after(SCAN) == ["a.dm3"]
    bench.watcher.release(path)
    assert bench.after(SCAN) == []
    assert bench.watcher.health().in_hand == 0


def test_a_rename_into_place_counts_under_the_final_name(bench):
    bench.after(0)
    part = bench.write("a.dm3.part")
    final = part.rename(bench.folder / "a.dm3")
    bench.tell(final)

    assert bench.until_quiet() == ["a.dm3"]


def test_a_folder_moved_in_is_searched_at_once(bench, tmp_path):
    bench.after(0)
    (tmp_path / "elsewhere" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere" / "sub" / "a.dm3").write_bytes(b"1")
    (tmp_path / "elsewhere").rename(bench.folder / "session")
    bench.tell(bench.folder / "session")

    assert bench.until_quiet() == ["session/sub/a.dm3"]


@pytest.mark.parametrize(
    "name", ["a.dm3.json", "a.dm3.heatmap.png", ".scopewatch-0011223344556677.tmp", "a.tmp", "a.dm3.part"]
)
def test_own_outputs_and_temporary_files_never_trigger(bench, name):
    bench.after(0)
    bench.write(name)

    assert bench.until_quiet() == []
    assert bench.after(SCAN) + bench.after(QUIET) == []


def test_links_and_pipes_are_not_followed(bench, tmp_path):
    (tmp_path / "secret.dm3").write_bytes(b"1")
    (bench.folder / "link.dm3").symlink_to(tmp_path / "secret.dm3")
    (bench.folder / "loop").symlink_to(bench.folder, target_is_directory=True)
    os.mkfifo(bench.folder / "fifo.dm3")
    (bench.folder / "folder.dm3").mkdir()

    assert bench.until_quiet() == []


@pytest.mark.parametrize("name", ["A.DM3", "b.Dm4", "caf\udce9.dm3", "two\nlines.dm3", "粒子 😀.dm3"])
def test_any_name_in_any_case_is_found(bench, name):
    bench.after(0)
    bench.write(name)

    assert bench.until_quiet() == [name]


def test_patterns_can_be_chosen(bench):
    bench.restart(include=["*.tif"])
    bench.write("a.dm3", hint=False)
    bench.write("B.TIF", hint=False)

    assert bench.until_quiet() == ["B.TIF"]


def test_a_folder_that_is_not_there_yet_is_picked_up_and_never_made(tmp_path):
    bench = Bench(tmp_path / "later")
    assert bench.after(0) == []
    assert bench.watcher.health().folders[0].present is False
    assert not bench.folder.exists()

    bench.write("a.dm3", hint=False)

    assert bench.after(1.0) == []
    assert bench.after(QUIET) == ["a.dm3"]
    health = bench.watcher.health().folders[0]
    assert (health.present, health.events) == (True, "on")


def test_a_folder_may_vanish_and_return(bench, tmp_path):
    bench.until_quiet()
    bench.folder.rename(tmp_path / "away")
    bench.after(1.0)
    gone = bench.watcher.health().folders[0]
    (tmp_path / "away").rename(bench.folder)
    bench.write("a.dm3", hint=False)

    assert (gone.present, gone.events) == (False, "off: the folder is missing")
    assert bench.after(1.0) == []
    assert bench.after(QUIET) == ["a.dm3"]
    assert [hints.living for hints in bench.hints] == [False, True]


def test_another_folder_in_its_place_is_searched_at_once(bench, tmp_path):
    bench.until_quiet()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.dm3").write_bytes(b"1")
    bench.folder.rename(tmp_path / "away")
    (tmp_path / "other").rename(bench.folder)

    assert bench.after(1.0) == []
    assert bench.after(QUIET) == ["b.dm3"]


def test_events_that_died_are_started_again_with_a_scan(bench):
    bench.until_quiet()
    bench.hints[0].living = False
    bench.write("a.dm3", hint=False)

    assert bench.after(1.0) == []
    assert bench.after(QUIET) == ["a.dm3"]
    assert len(bench.hints) == 2


def test_without_events_scans_find_everything_and_health_says_why(bench, caplog):
    bench.hint_error = OSError(28, "inotify watch limit reached")
    with caplog.at_level(logging.WARNING):
        bench.until_quiet()
        bench.write("a.dm3", hint=False)
        found = bench.after(SCAN) + bench.after(QUIET)

    assert found == ["a.dm3"]
    assert bench.watcher.health().folders[0].events == "off: inotify watch limit reached"
    assert caplog.text.count("found by scans only") == 1


def test_more_hints_than_can_be_kept_cause_a_scan(bench, monkeypatch):
    monkeypatch.setattr(watcher_module, "MOST_PENDING", 3)
    bench.until_quiet()
    for number in range(5):
        bench.tell(bench.folder / f"gone{number}.dm3")
    bench.write("a.dm3", hint=False)

    assert bench.after(0) == []
    assert bench.after(QUIET) == ["a.dm3"]


def test_a_storm_is_worked_off_in_batches_and_nothing_is_lost(bench, monkeypatch):
    monkeypatch.setattr(watcher_module, "MOST_PENDING", 40)
    names = {f"{number:03}.dm3" for number in range(100)}
    for name in names:
        bench.write(name, hint=False)
    found = []
    for _ in range(60):
        batch = bench.after(QUIET / 2)
        assert len(batch) <= BATCH
        assert bench.watcher.health().waiting <= 40
        found += batch
        for name in batch:
            bench.done(name)

    assert sorted(found) == sorted(names)


def test_a_folder_that_cannot_be_listed_is_told_once_and_the_others_go_on(bench, monkeypatch, caplog):
    bench.write("closed/a.dm3", hint=False)
    bench.write("open/b.dm3", hint=False)
    listing = scanning.survey

    def refuse(folder, rules):
        if folder.endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return listing(folder, rules)

    monkeypatch.setattr(scanning, "survey", refuse)

    assert bench.until_quiet() == ["open/b.dm3"]
    bench.after(SCAN)
    assert caplog.text.count(f"{bench.folder}/closed: cannot be listed (Permission denied)") == 1


def test_a_file_that_cannot_be_asked_about_stays_waiting(bench, monkeypatch):
    bench.write("a.dm3", hint=False)
    bench.after(0)
    ask = watcher_module.regular_stamp

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(watcher_module, "regular_stamp", stale)
    assert bench.after(QUIET) == []
    monkeypatch.setattr(watcher_module, "regular_stamp", ask)

    assert bench.after(5.0) == ["a.dm3"]


def test_scans_take_a_small_share_of_the_time_however_slow_they_are(bench, monkeypatch):
    listing = scanning.survey

    def slowly(folder, rules):
        bench.now += 3.0
        return listing(folder, rules)

    monkeypatch.setattr(scanning, "survey", slowly)
    bench.later(60.0)
    scans = bench.scans
    (bench.folder / "new").mkdir()
    began, spent = bench.now, 0.0
    while bench.now < began + 3000.0:
        before = bench.now
        bench.after(0)
        spent += bench.now - before
        bench.now += 1.0
        (bench.folder / f"{bench.now}").touch()

    assert bench.scans > scans
    assert spent <= 0.02 * 3000.0 + 3.0


def test_several_folders_are_watched_with_one_inside_the_other(tmp_path):
    bench = Bench(tmp_path)
    bench.restart([tmp_path / "x", tmp_path / "x" / "sub", tmp_path / "y"])
    for name in ("x/a.dm3", "x/sub/b.dm3", "y/a.dm3", "z/a.dm3"):
        bench.write(name, hint=False)

    assert sorted(bench.until_quiet()) == ["x/a.dm3", "x/sub/b.dm3", "y/a.dm3"]


def test_for_real_with_the_systems_events(tmp_path):
    stop = threading.Event()
    watcher = Watcher([tmp_path], Known(), quiet_seconds=0.1, scan_seconds=600)
    found = watcher.watch(stop)
    (tmp_path / "before.dm3").write_bytes(b"1")
    assert next(found).path == tmp_path / "before.dm3"
    (tmp_path / "after.dm3").write_bytes(b"1")

    quiet = next(found)

    assert quiet.path == tmp_path / "after.dm3"
    assert quiet.stamp.size_bytes == 1
    assert quiet.settled.tzinfo is not None
    stop.set()
    assert list(found) == []
    assert watcher.health().folders[0].events == "off: not watching"


def test_for_real_no_file_of_a_storm_is_lost_when_events_are(tmp_path):
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    before = limit.read_text() if limit.exists() else ""
    stop, known, overflows = threading.Event(), Known(), []
    watcher = Watcher([tmp_path], known, quiet_seconds=0.1, scan_seconds=600)
    lost = watcher._events_were_lost
    object.__setattr__(watcher._roots[0]._rules, "on_overflow", lambda: overflows.append(1) or lost())
    found = watcher.watch(stop)
    (tmp_path / "before.dm3").touch()
    try:
        limit.write_text("16")
    except OSError:
        pytest.skip(f"{limit} cannot be written here (needs root)")
    try:
        assert next(found).path.name == "before.dm3"
    finally:
        limit.write_text(before)
    known.note(tmp_path / "before.dm3")
    watcher.release(tmp_path / "before.dm3")
    names = {f"{number:04}.dm3" for number in range(2000)}
    # Another process saves while this one's threads, the reader of events among them, do not get to run.
    storm = subprocess.Popen(["/bin/sh", "-c", 'cd "$0" && touch "$@"', tmp_path, *names])
    while storm.poll() is None:
        ctypes.PyDLL(None).usleep(50_000)

    for quiet in found:
        names.discard(quiet.path.name)
        known.note(quiet.path)
        watcher.release(quiet.path)
        if not names:
            stop.set()

    assert names == set()
    assert overflows


def test_what_was_answered_and_did_not_change_waits_for_the_next_scan_at_least(bench):
    path = bench.write("a.dm3", hint=False)
    bench.until_quiet()
    bench.watcher.release(path)

    assert bench.after(0) + bench.after(QUIET) == []
    assert bench.watcher.health().waiting == 0


def test_a_file_saved_again_and_again_is_handed_out_all_the_same(bench):
    bench.after(0)
    handed_out = 0
    for number in range(300):
        bench.write("live.dm3", b"x" * (number + 1))
        for _ in range(4):
            if bench.after(1.0):
                handed_out += 1
                bench.done("live.dm3")

    assert handed_out >= 15


def test_own_outputs_do_not_even_wake_the_watcher(bench):
    bench.after(0)
    for name in ("a.dm3.json", "a.dm3.heatmap.png", ".scopewatch-0011223344556677.tmp"):
        bench.tell(bench.folder / name)
    assert not bench.watcher._wake.is_set()

    bench.tell(bench.folder / "a.dm3")

    assert bench.watcher._wake.is_set()


def test_an_event_of_a_link_to_a_folder_leads_nowhere(bench, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.dm3").write_bytes(b"1")
    bench.after(0)
    (bench.folder / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    bench.tell(bench.folder / "link")
    bench.tell(tmp_path / "outside" / "a.dm3")

    assert bench.until_quiet() == []


def test_an_event_that_cannot_be_followed_makes_the_next_scan_look(bench, monkeypatch):
    path = bench.write("a.dm3", hint=False)
    bench.known.note(path)
    bench.later(400.0, step=5.0)
    path.write_bytes(b"a new generation")
    ask = watcher_module.regular_stamp

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(watcher_module, "regular_stamp", stale)
    bench.tell(path)
    bench.after(0)
    monkeypatch.setattr(watcher_module, "regular_stamp", ask)

    assert bench.after(SCAN) + bench.after(QUIET) == ["a.dm3"]


def test_for_real_our_own_sidecar_is_heard_of(tmp_path):
    stop, ahead = threading.Event(), [0.0]
    watcher = Watcher(
        [tmp_path], Known(), quiet_seconds=0.1, scan_seconds=600, clock=lambda: time.monotonic() + ahead[0]
    )
    found = watcher.watch(stop)
    (tmp_path / "a.dm3").write_bytes(b"1")
    assert next(found).path.name == "a.dm3"
    write_durably(tmp_path / "a.dm3.json", b"{}")
    (tmp_path / "b.dm3").write_bytes(b"1")
    assert next(found).path.name == "b.dm3"
    watcher.expect_event(tmp_path / "a.dm3.json")
    ahead[0] += 60.0
    told = watcher.health().folders[0].events
    watcher.expect_event(tmp_path / "never written.dm3.json")
    ahead[0] += 60.0
    doubted = watcher.health().folders[0].events
    found.close()

    assert (told, doubted) == ("on", "unreliable: a file written here raised no event")
