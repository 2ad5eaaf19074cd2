"""The clerk counts sidecars without micrograph, forgets what left nothing behind, and believes no broken share."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest

from edge_agent import clerk as clerk_module
from edge_agent.clerk import Clerk
from edge_agent.output_places import OutputPlan
from edge_agent.room import FreeSpace


class FakeWatcher:
    """Says what is gone, and whether the folder is there."""

    def __init__(self):
        self.names = {}
        self.present = True

    def gone(self):
        return {folder: frozenset(names) for folder, names in self.names.items()}

    def health(self):
        return SimpleNamespace(folders=(SimpleNamespace(present=self.present),))


class FakeJournal:
    def __init__(self):
        self.forgotten = []
        self.opened = ()
        self.closed = []

    def open_attempts(self):
        return self.opened

    def close_attempt(self, path):
        self.closed.append(path.name)

    def forget(self, paths):
        self.forgotten.append(sorted(path.name for path in paths))


class FakeRoom:
    def __init__(self):
        self.free_mib = 5000

    def free_space(self, folder):
        return FreeSpace(folder, self.free_mib, self.free_mib < 1024)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(clerk_module, "_FORGET_SECONDS", 0.0)
    parts = SimpleNamespace(folder=tmp_path, watcher=FakeWatcher(), journal=FakeJournal(), room=FakeRoom())
    parts.clerk = Clerk(tmp_path, parts.watcher, parts.journal, OutputPlan(), parts.room, owner="0123abcd")
    return parts


def test_a_sidecar_without_micrograph_is_counted_and_left(bench):
    (bench.folder / "moved.dm3.json").write_bytes(b"{}")
    bench.watcher.names = {str(bench.folder): ["moved.dm3", "deleted with its sidecar.dm3"]}
    bench.clerk.look()

    assert bench.clerk.orphaned == 1
    assert bench.journal.forgotten == [["deleted with its sidecar.dm3"]]
    assert (bench.folder / "moved.dm3.json").exists()


def test_nothing_gone_is_nothing_to_forget(bench):
    bench.clerk.look()
    assert bench.clerk.orphaned == 0
    assert bench.journal.forgotten == []


def test_sidecars_are_looked_for_in_the_mirror(bench, tmp_path):
    plan = OutputPlan(tmp_path / "mirror", (tmp_path / "scope",))
    place = plan.place(tmp_path / "scope" / "s" / "a.dm3")
    place.sidecar.parent.mkdir(parents=True)
    place.sidecar.write_bytes(b"{}")
    clerk = Clerk(tmp_path / "scope", bench.watcher, bench.journal, plan, bench.room)
    bench.watcher.names = {str(tmp_path / "scope" / "s"): ["a.dm3", "b.dm3"]}
    clerk.look()

    assert clerk.orphaned == 1
    assert bench.journal.forgotten == [["b.dm3"]]


def test_a_micrograph_that_came_back_is_not_forgotten(bench):
    (bench.folder / "back.dm3").write_bytes(b"back")
    bench.watcher.names = {str(bench.folder): ["back.dm3"]}
    bench.clerk.look()
    assert bench.journal.forgotten == []


def test_a_name_without_room_for_outputs_has_none(bench):
    bench.watcher.names = {str(bench.folder): ["n" * 250]}
    bench.clerk.look()
    assert bench.clerk.orphaned == 0
    assert bench.journal.forgotten == [["n" * 250]]


def test_a_folder_that_is_gone_is_forgotten_with_its_files(bench):
    bench.watcher.names = {str(bench.folder / "deleted session"): ["a.dm3", "b.dm3"]}
    bench.clerk.look()
    assert bench.journal.forgotten == [["a.dm3", "b.dm3"]]


def test_a_disk_that_is_not_mounted_forgets_nothing(bench):
    (bench.folder / "moved.dm3.json").write_bytes(b"{}")
    bench.watcher.names = {str(bench.folder): ["moved.dm3"]}
    bench.clerk.look()
    (bench.folder / "moved.dm3.json").unlink()
    bench.watcher.present = False
    for _ in range(2 * clerk_module._LOOK_AGAIN_LOOKS):
        bench.clerk.look()

    assert bench.clerk.orphaned == 1
    assert bench.journal.forgotten == []


def test_a_share_that_fails_forgets_nothing(bench, monkeypatch):
    def drop(path):
        raise OSError(112, "Host is down", str(path))

    bench.watcher.names = {str(bench.folder): ["a.dm3"]}
    monkeypatch.setattr(os, "lstat", drop)
    bench.clerk.look()
    assert bench.journal.forgotten == []


def test_the_disk_is_looked_at_only_when_something_changed_or_after_a_while(bench, monkeypatch):
    sidecar = bench.folder / "moved.dm3.json"
    sidecar.write_bytes(b"{}")
    bench.watcher.names = {str(bench.folder): ["moved.dm3"]}
    bench.clerk.look()
    sidecar.unlink()
    for _ in range(clerk_module._LOOK_AGAIN_LOOKS - 2):
        bench.clerk.look()
    assert (bench.clerk.orphaned, bench.journal.forgotten) == (1, [])

    bench.clerk.look()
    assert (bench.clerk.orphaned, bench.journal.forgotten) == (0, [["moved.dm3"]])


def test_what_the_watcher_finds_again_is_no_orphan(bench):
    (bench.folder / "moved.dm3.json").write_bytes(b"{}")
    bench.watcher.names = {str(bench.folder): ["moved.dm3"]}
    bench.clerk.look()
    bench.watcher.names = {}
    bench.clerk.look()
    assert bench.clerk.orphaned == 0


def test_free_space_is_kept_up_to_date(bench):
    assert bench.clerk.space is None
    bench.room.free_mib = 10
    bench.clerk.look()
    assert bench.clerk.space == FreeSpace(bench.folder, 10, low=True)


def test_heatmaps_age_only_while_the_folder_is_there(bench, monkeypatch):
    steps = []
    ageing = SimpleNamespace(step=lambda: steps.append(1))
    monkeypatch.setattr(clerk_module, "HeatmapAgeing", lambda root, plan, days, clock: ageing)
    clerk = Clerk(bench.folder, bench.watcher, bench.journal, OutputPlan(), bench.room, heatmap_days=7)

    clerk.look()
    bench.watcher.present = False
    clerk.look()

    assert len(steps) == 1


def test_it_looks_until_it_is_told_to_stop(bench, monkeypatch):
    monkeypatch.setattr(clerk_module, "_LOOK_SECONDS", 0.01)
    stop, looks = threading.Event(), []

    def look():
        looks.append(1)
        if len(looks) == 3:
            stop.set()

    monkeypatch.setattr(bench.clerk, "look", look)
    bench.clerk.run(stop)
    assert len(looks) == 3


def test_what_the_last_run_was_killed_over_is_seen_to_first(bench):
    there, gone, elsewhere = bench.folder / "a.dm3", bench.folder / "b.dm3", bench.folder.parent / "c.dm3"
    there.write_bytes(b"1")
    ours = bench.folder / ".scopewatch-0123abcd-0123456789abcdef.tmp"
    foreign = bench.folder / ".scopewatch-89abcdef-0123456789abcdef.tmp"
    for half in (ours, foreign):
        half.write_bytes(b"half")
    bench.journal.opened = (there, gone, elsewhere)

    bench.clerk.clear_up()

    assert bench.journal.closed == ["b.dm3"]
    assert (ours.exists(), foreign.exists()) == (False, True)


def test_what_is_gone_only_for_a_moment_is_not_forgotten(bench, monkeypatch):
    monkeypatch.setattr(clerk_module, "_FORGET_SECONDS", 60.0)
    now = [0.0]
    clerk = Clerk(bench.folder, bench.watcher, bench.journal, OutputPlan(), bench.room, clock=lambda: now[0])

    def look(seconds, *names):
        now[0], bench.watcher.names = seconds, {str(bench.folder): list(names)}
        clerk.look()

    look(0.0, "a.dm3")
    look(50.0)
    look(70.0, "a.dm3")
    assert bench.journal.forgotten == []
    look(129.0, "a.dm3", "b.dm3")
    assert bench.journal.forgotten == []
    look(131.0, "a.dm3")
    assert bench.journal.forgotten == [["a.dm3"]]
