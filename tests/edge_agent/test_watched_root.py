"""A root that is missing, vanishes, returns or is replaced; whether its events come, and can be believed."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
from watch_bench import QUIET, SCAN, Bench, FakeHints

from edge_agent.watching import watched_root
from edge_agent.watching.event_trust import COOKIE_SECONDS
from edge_agent.watching.volumes import Volume

MISSED = "unreliable: a file was saved without an event"
SILENT = "unreliable: a file written here raised no event"


@pytest.fixture
def bench(tmp_path):
    folder = tmp_path / "scope"
    folder.mkdir()
    return Bench(folder)


def test_a_sidecar_without_an_event_makes_scans_more_frequent_until_an_event_comes(bench):
    bench.after(0)
    bench.later(20.0)
    assert bench.events == "on"
    bench.watcher.expect_event(bench.folder / "a.dm3.json")
    bench.later(COOKIE_SECONDS)
    assert bench.events == SILENT
    scans = bench.scans
    bench.later(50.0)
    assert bench.scans - scans == pytest.approx(10, abs=1)

    bench.tell(bench.folder / "b.dm3.json")

    assert bench.events == "on"
    scans = bench.scans
    bench.later(50.0)
    assert bench.scans - scans == pytest.approx(5, abs=1)


def test_a_sidecar_with_its_event_is_no_reason_for_doubt(bench):
    bench.after(0)
    bench.tell(bench.folder / "a.dm3.json")
    bench.watcher.expect_event(bench.folder / "a.dm3.json")
    bench.watcher.expect_event(bench.folder / "b.dm3.json")
    bench.tell(bench.folder / "b.dm3.json")
    bench.watcher.expect_event(bench.folder.parent / "elsewhere.dm3.json")
    bench.later(2 * COOKIE_SECONDS)

    assert bench.events == "on"


def test_a_file_that_only_a_scan_found_makes_events_unreliable(bench):
    bench.later(20.0)
    bench.write("a.dm3", hint=False)

    assert bench.later(SCAN + 2 * QUIET) == ["a.dm3"]
    assert bench.events == MISSED
    bench.tell(bench.folder / "a.dm3.json")
    assert bench.events == MISSED
    bench.write("b.dm3")
    bench.after(0)
    assert bench.events == "on"


@pytest.mark.parametrize("why", ["late event", "start", "overflow", "no events", "changed meanwhile"])
def test_a_file_found_by_a_scan_is_not_always_a_sign(bench, why):
    if why == "no events":
        bench.hint_error = OSError(28, "inotify watch limit reached")
    if why != "start":
        bench.later(20.0)
    path = bench.write("a.dm3", hint=False)
    if why == "overflow":
        bench.hints[-1].overflow()
    if why == "late event":
        bench.later(SCAN, step=SCAN)
        bench.tell(path)
    if why == "changed meanwhile":
        bench.later(SCAN, step=SCAN)
        bench.write("a.dm3", b"longer")
    names = bench.later(SCAN + 2 * QUIET)

    assert names == ["a.dm3"]
    assert not bench.events.startswith("unreliable")


def test_a_share_is_waited_for_longer_and_health_says_so(bench):
    bench.volume = Volume(is_share=True)
    bench.restart(share_quiet_seconds=3.0)
    bench.after(0)
    bench.write("a.dm3")
    bench.after(0)

    assert bench.after(2.9) == []
    assert bench.after(0.2) == ["a.dm3"]
    health = bench.watcher.health().folders[0]
    assert (health.share, health.quiet_seconds) == (True, 3.0)


def test_another_mount_in_its_place_is_asked_what_it_is(bench, tmp_path):
    bench.volume = Volume(is_share=True)
    bench.restart()
    bench.after(0)
    assert bench.watcher.health().folders[0].share is True
    bench.volume = Volume()
    bench.folder.rename(tmp_path / "away")
    bench.folder.mkdir()
    bench.after(1.0)

    health = bench.watcher.health().folders[0]
    assert (health.share, health.quiet_seconds) == (False, QUIET)


def test_a_writer_with_pauses_is_waited_for_longer_from_then_on(bench):
    bench.after(0)
    bench.write("a.dm3", b"x")
    assert bench.later(2.0, step=0.5) == ["a.dm3"]
    bench.watcher.rearm(bench.folder / "a.dm3", 2.0)
    bench.later(1.5, step=0.5)
    path = bench.write("a.dm3", b"xx")
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 3_000_000_000))
    bench.after(0)
    window = bench.watcher.health().folders[0].quiet_seconds

    assert 4.0 < window < 7.0
    assert bench.later(window - 1.0, step=0.5) == []
    assert bench.later(1.5, step=0.5) == ["a.dm3"]


def test_events_that_cannot_be_had_are_asked_for_once_a_minute(bench, caplog):
    bench.hint_error = OSError(28, "inotify watch limit reached")
    tries = []
    bench.restart()
    bench.watcher._roots[0]._rules.new_hints()
    make = bench.watcher._roots[0]._rules.new_hints
    object.__setattr__(bench.watcher._roots[0]._rules, "new_hints", lambda: tries.append(bench.now) or make())
    bench.later(181.0)

    assert tries == pytest.approx([1.0, 61.0, 121.0, 181.0], abs=1.0)
    assert caplog.text.count("found by scans only") == 1
    bench.hint_error = None
    bench.later(60.0)
    assert bench.events == "on"


def test_events_that_end_again_and_again_are_started_more_and_more_seldom(bench):
    bench.after(0)
    starts = []
    for _ in range(300):
        bench.now += 1.0
        made = len(bench.hints)
        bench.hints[-1].living = False
        bench.after(0)
        starts += [bench.now] * (len(bench.hints) - made)

    assert starts[:2] == [1.0, 3.0]
    assert 5 <= len(starts) <= 12
    bench.later(70.0)
    bench.hints[-1].living = False
    made = len(bench.hints)
    bench.after(1.0)
    assert len(bench.hints) == made + 1


def test_a_start_of_events_that_hangs_holds_up_nothing(bench, monkeypatch):
    monkeypatch.setattr(watched_root, "_START_PATIENCE_SECONDS", 0.01)
    walk, stopped = threading.Event(), threading.Event()

    class Slow(FakeHints):
        def start(self, *arguments):
            walk.wait(10)
            super().start(*arguments)

        def stop(self):
            super().stop()
            stopped.set()

    rules = bench.watcher._roots[0]._rules
    object.__setattr__(rules, "new_hints", lambda: Slow(bench.hints))
    bench.write("a.dm3", hint=False)

    assert bench.until_quiet() == ["a.dm3"]
    assert bench.events == "off: not started yet"
    walk.set()
    assert bench.watcher._roots[0]._starting.finished(10)
    bench.after(1.0)
    assert bench.events == "on"
    walk.clear()
    bench.hints[-1].living = False
    bench.after(1.0)
    stopped.clear()
    bench.watcher._roots[0].stop_events("off: not watching")
    walk.set()
    assert stopped.wait(10)


def test_a_missing_folder_is_told_once(bench, tmp_path, caplog):
    bench.later(5.0)
    bench.folder.rename(tmp_path / "away")
    bench.later(300.0, step=5.0)

    assert [record.message for record in caplog.records] == [f"folder {bench.folder} is missing"]


def test_what_waits_when_the_folder_vanishes_waits_on(bench, tmp_path):
    paths = [bench.write(name, hint=False) for name in ("a.dm3", "b.dm3", "c.dm3")]
    assert len(bench.until_quiet()) == 3
    bench.watcher.rearm(paths[0], 5.0)
    bench.watcher.rearm(paths[1], 10_000.0)
    bench.after(0)
    bench.folder.rename(tmp_path / "away")

    assert bench.later(30.0) == []
    (tmp_path / "away").rename(bench.folder)
    assert bench.later(10.0) == ["a.dm3"]


def test_doubts_and_waiting_are_told_by_health(bench):
    bench.after(0)
    health = bench.watcher.health()
    assert (health.ready, health.oldest_waiting_seconds, bench.watcher.busy()) == (0, None, False)
    for number in range(20):
        bench.write(f"{number:02}.dm3")
    bench.after(0)
    assert not bench.watcher.busy()
    bench.now += QUIET
    assert bench.watcher.busy()

    names = bench.after(4.0)

    health = bench.watcher.health()
    assert (len(names), health.ready, health.waiting, health.in_hand) == (16, 4, 4, 16)
    assert health.oldest_waiting_seconds == pytest.approx(QUIET + 4.0)
    assert bench.watcher.busy()
    for name in [*names, *bench.after(0)]:
        bench.done(name)
    bench.after(0)
    health = bench.watcher.health()
    assert (health.ready, health.oldest_waiting_seconds, bench.watcher.busy()) == (0, None, False)


def test_newest_first_overtakes_a_backlog(bench):
    bench.restart(newest_first=True)
    for number in range(1, 7):
        path = bench.write(f"{number}.dm3", hint=False)
        os.utime(path, ns=(number * 10**9 + 1, number * 10**9 + 1))
    assert bench.until_quiet() == ["6.dm3", "5.dm3"]
    bench.write("new.dm3")
    bench.now += QUIET

    assert bench.after(0) == ["4.dm3", "3.dm3"]
    assert bench.after(QUIET) == ["new.dm3", "2.dm3"]
    assert bench.after(0) == ["1.dm3"]


def test_a_file_that_is_done_by_the_time_it_is_due_is_not_handed_out(bench):
    bench.after(0)
    path = bench.write("a.dm3")
    bench.after(0)
    bench.known.note(path)

    assert bench.after(QUIET) == []
    assert bench.watcher.health().waiting == 0


@pytest.fixture
def mount(tmp_path):
    """Mount a small disk at a folder, in the place of what is there; all is undone at the end."""
    done = []

    def mount(folder):
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "scopewatch-test", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting is not allowed here")
        done.append(folder)

    yield mount
    for folder in reversed(done):
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_for_real_a_disk_that_is_mounted_and_taken_away(bench, mount):
    bench.until_quiet()
    mount(bench.folder)
    bench.write("on_disk.dm3", hint=False)

    assert bench.after(1.0) + bench.after(QUIET) == ["on_disk.dm3"]
    bench.done("on_disk.dm3")
    bench.later(60.0)
    subprocess.run(["umount", str(bench.folder)], check=True)
    bench.write("later.dm3", hint=False)
    assert bench.after(1.0) + bench.after(QUIET) == ["later.dm3"]
    bench.done("later.dm3")
    bench.known.states.pop(bench.folder / "later.dm3")
    bench.later(60.0)
    assert bench.watcher.gone() == {}


def test_for_real_a_disk_inside_the_folder_that_is_taken_away_is_not_gone(bench, mount):
    place = bench.folder / "disk"
    place.mkdir()
    bench.known.note(bench.write("a.dm3", hint=False))
    mount(place)
    bench.known.note(bench.write("disk/session/b.dm3", hint=False))
    bench.later(60.0)
    subprocess.run(["umount", str(place)], check=True)
    bench.later(60.0)

    assert bench.watcher.gone() == {}
