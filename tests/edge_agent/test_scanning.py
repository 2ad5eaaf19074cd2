"""What scans look at, how seldom, and what they find missing: a whole watcher, with the time of the test."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from watch_bench import QUIET, SCAN, Bench

from edge_agent.watching import folder_listing, scanning
from edge_agent.watching.volumes import Volume

COLD = 600.0
OWNER = "0123abcd"


@pytest.fixture
def bench(tmp_path):
    folder = tmp_path / "scope"
    folder.mkdir()
    return Bench(folder)


@pytest.fixture
def looks(monkeypatch):
    """Names of the files that are looked at, and of the folders that are listed."""
    seen: dict[str, list[str]] = {"stamp": [], "survey": []}
    for name, part in (("stamp", "regular_stamp"), ("survey", "survey")):
        real = getattr(scanning, part)

        def spy(path, *args, real=real, name=name):
            seen[name].append(Path(path).name)
            return real(path, *args)

        monkeypatch.setattr(scanning, part, spy)
    return seen


def make_cold(bench, names=("a.dm3", "b.dm3")):
    """Finished files, and time enough that nothing is looked at any more."""
    for name in names:
        bench.known.note(bench.write(name, hint=False))
    bench.later(400.0, step=5.0)


def overwrite(path):
    """Change a file, and not the time of its folder."""
    path.write_bytes(b"a new generation")


def test_a_cold_folder_is_asked_for_its_time_only(bench, looks):
    make_cold(bench)
    looks["stamp"].clear()
    looks["survey"].clear()
    bench.known.asked.clear()
    scans = bench.scans

    bench.later(150.0, step=5.0)

    assert bench.scans >= scans + 10
    assert (looks["stamp"], looks["survey"], bench.known.asked) == ([], [], [])


def test_a_file_saved_into_a_cold_folder_is_found_by_the_next_scan(bench):
    make_cold(bench)
    bench.write("c.dm3", hint=False)

    assert bench.after(SCAN) + bench.after(QUIET) == ["c.dm3"]


def test_a_file_overwritten_in_a_cold_folder_is_found_by_its_event(bench):
    make_cold(bench)
    overwrite(bench.folder / "a.dm3")
    bench.tell(bench.folder / "a.dm3")

    assert bench.until_quiet() == ["a.dm3"]


def test_without_an_event_it_is_found_when_the_folder_is_looked_at_again(bench):
    make_cold(bench)
    overwrite(bench.folder / "a.dm3")

    assert bench.later(COLD + 2 * SCAN, step=5.0) == ["a.dm3"]


@pytest.mark.parametrize("how", ["overflow", "death", "remount"])
def test_after_events_were_lost_each_file_is_looked_at_at_once(bench, tmp_path, how):
    make_cold(bench)
    overwrite(bench.folder / "a.dm3")
    if how == "overflow":
        bench.hints[-1].overflow()
    elif how == "death":
        bench.hints[-1].living = False
    else:
        bench.folder.rename(tmp_path / "away")
        bench.after(1.0)
        (tmp_path / "away").rename(bench.folder)

    assert bench.after(1.0) + bench.after(QUIET) == ["a.dm3"]


def test_a_folder_of_which_one_file_is_not_done_never_gets_cold(bench, looks):
    make_cold(bench)
    path = bench.write("c.dm3", hint=False)
    assert bench.later(20.0) == ["c.dm3"]
    bench.watcher.rearm(path, 10_000.0)
    bench.later(400.0, step=5.0)
    looks["stamp"].clear()

    bench.later(100.0, step=5.0)

    assert "c.dm3" in looks["stamp"]


def test_looking_again_at_what_is_done_costs_a_quarter_of_a_percent(bench, monkeypatch, looks):
    real = scanning.regular_stamp

    def slowly(path):
        bench.now += 0.05
        return real(path)

    for name in ("a.dm3", "b.dm3"):
        bench.known.note(bench.write(name, hint=False))
    monkeypatch.setattr(scanning, "regular_stamp", slowly)
    bench.later(200.0)
    assert len(looks["stamp"]) <= 2 * (200.0 / 40.0 + 2)
    looks["stamp"].clear()

    bench.write("c.dm3", hint=False)

    assert bench.later(SCAN + 2 * QUIET) == ["c.dm3"]
    assert looks["stamp"].count("a.dm3") <= 1


def test_a_listing_as_young_as_the_folders_time_is_not_relied_on(bench):
    bench.known.note(bench.write("a.dm3", hint=False))
    tick = 1_700_000_000_000_000_000
    os.utime(bench.folder, ns=(tick, tick))
    bench.after(0)
    bench.write("b.dm3", hint=False)
    os.utime(bench.folder, ns=(tick, tick))

    assert bench.after(SCAN) + bench.after(QUIET) == ["b.dm3"]


@pytest.mark.parametrize("volume", [Volume(folder_times=False), Volume()], ids=["known to lie", "caught"])
def test_where_the_times_of_folders_tell_nothing_they_are_listed(bench, volume):
    bench.volume = volume
    bench.restart()
    bench.known.note(bench.write("a.dm3", hint=False))
    tick = 1_700_000_000_000_000_000
    os.utime(bench.folder, ns=(tick, tick))
    bench.later(60.0)
    if not volume.folder_times:
        bench.write("b.dm3", hint=False)
        os.utime(bench.folder, ns=(tick, tick))
        assert bench.later(SCAN + 2 * QUIET) == ["b.dm3"]
        return
    bench.later(400.0, step=5.0)
    bench.write("b.dm3", hint=False)
    os.utime(bench.folder, ns=(tick, tick))
    assert bench.later(COLD + SCAN, step=5.0) == ["b.dm3"]
    bench.write("c.dm3", hint=False)
    os.utime(bench.folder, ns=(tick, tick))

    assert bench.later(SCAN + 2 * QUIET) == ["c.dm3"]


def test_a_folder_whose_time_is_put_back_is_listed_all_the_same(bench):
    make_cold(bench)
    bench.write("c.dm3", hint=False)
    os.utime(bench.folder, ns=(1, 1))

    assert bench.after(SCAN) + bench.after(QUIET) == ["c.dm3"]


def test_a_clock_that_jumps_changes_nothing(bench, monkeypatch):
    make_cold(bench)
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    bench.write("c.dm3", hint=False)

    assert bench.after(SCAN) + bench.after(QUIET) == ["c.dm3"]


def test_hundreds_of_new_names_are_asked_about_at_once(bench):
    make_cold(bench)
    bench.known.asked.clear()
    names = {f"{number:04}.dm3" for number in range(300)}
    for name in names:
        bench.write(name, hint=False)
    bench.after(SCAN)

    assert bench.known.asked == [bench.folder]
    assert set(bench.later(20.0, step=0.5)) == names


def test_a_file_in_a_far_folder_is_found_below_cold_ones(bench):
    make_cold(bench, ["x/y/a.dm3", "b.dm3"])
    bench.write("x/y/z/c.dm3", hint=False)

    assert bench.after(SCAN) + bench.after(QUIET) == ["x/y/z/c.dm3"]


def test_a_share_that_refuses_a_file_is_asked_again(bench, monkeypatch, caplog):
    bench.write("a.dm3", hint=False)
    real = scanning.regular_stamp

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(scanning, "regular_stamp", stale)
    assert bench.later(100.0) == []
    assert bench.watcher.health().unreadable_folders == 1
    assert caplog.text.count("a.dm3: cannot be asked about (Stale file handle)") == 1
    monkeypatch.setattr(scanning, "regular_stamp", real)

    assert bench.later(SCAN + 2 * QUIET) == ["a.dm3"]
    assert bench.watcher.health().unreadable_folders == 0


def test_a_path_longer_than_the_system_takes_is_told(bench, caplog):
    folder = bench.folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(20):
            os.mkdir("x" * 240, dir_fd=descriptor)
            below = os.open("x" * 240, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    finally:
        os.close(descriptor)
    bench.write("a.dm3", hint=False)

    assert bench.until_quiet() == ["a.dm3"]
    assert bench.watcher.health().unreadable_folders == 1
    assert "cannot be listed (File name too long)" in caplog.text


def test_a_name_of_255_bytes_and_a_twin_in_another_case_are_found(bench):
    names = ["x" * 251 + ".dm3", "A.dm3", "a.DM3", "tr\u00e9s.dm3", "tre\u0301s.dm3"]
    for name in names:
        bench.write(name, hint=False)

    assert sorted(bench.until_quiet()) == sorted(names)


def test_devices_sockets_and_links_are_left_alone(bench, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.dm3").write_bytes(b"1")
    bench.after(0)
    (bench.folder / "out").symlink_to(tmp_path / "outside", target_is_directory=True)
    (bench.folder / "link.dm3").symlink_to(tmp_path / "outside" / "secret.dm3")
    (bench.folder / "loop").symlink_to(bench.folder, target_is_directory=True)
    os.mkfifo(bench.folder / "fifo.dm3")
    if os.geteuid() == 0:
        os.mknod(bench.folder / "device.dm3", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for path in bench.folder.iterdir():
        bench.tell(path)

    assert bench.until_quiet() + bench.later(3 * SCAN) == []
    assert bench.watcher.health().waiting == 0


@pytest.mark.parametrize("hint", [True, False], ids=["by events", "by scans"])
def test_what_is_excluded_is_left_alone(bench, hint):
    bench.restart(exclude=["*_TMP.dm3", "trash"])
    bench.after(0)
    for name in ("a_tmp.DM3", "Trash/b.dm3", "x/trash/y/c.dm3", "trash.dm3", "x/d.dm3"):
        bench.write(name, hint=hint)
    bench.tell(bench.folder / "Trash")
    bench.tell(bench.folder / "x" / "trash" / "y")

    assert sorted(bench.later(SCAN + 2 * QUIET)) == ["trash.dm3", "x/d.dm3"]


def test_windows_tells_sizes_with_the_names_and_only_candidates_are_asked(bench, looks, monkeypatch):
    rules = folder_listing.ListingRules
    monkeypatch.setattr(
        "edge_agent.watcher.ListingRules", lambda *args, **options: rules(*args, **options, windows=True)
    )
    bench.restart()
    for name in ("a.dm3", "b.dm3"):
        bench.known.note(bench.write(name, hint=False))
    overwrite(bench.folder / "b.dm3")
    bench.write("c.dm3", hint=False)

    assert sorted(bench.until_quiet()) == ["b.dm3", "c.dm3"]
    assert set(looks["stamp"]) == {"b.dm3", "c.dm3"}


def test_known_files_that_are_gone_are_noted(bench):
    make_cold(bench)
    assert bench.watcher.gone() == {}
    (bench.folder / "a.dm3").unlink()
    bench.later(60.0)

    assert bench.watcher.gone() == {str(bench.folder): frozenset({"a.dm3"})}
    del bench.known.states[bench.folder / "a.dm3"]
    bench.later(COLD, step=5.0)
    assert bench.watcher.gone() == {}


def test_known_folders_that_are_gone_are_noted(bench):
    make_cold(bench, ["a.dm3", "x/b.dm3", "x/y/c.dm3"])
    (bench.folder / "x").rename(bench.folder.parent / "x")
    bench.later(SCAN)

    assert bench.watcher.gone() == {
        str(bench.folder / "x"): frozenset({"b.dm3"}),
        str(bench.folder / "x" / "y"): frozenset({"c.dm3"}),
    }
    (bench.folder.parent / "x").rename(bench.folder / "x")
    bench.later(2 * SCAN)
    assert bench.watcher.gone() == {}


def vanish(bench, tmp_path):
    bench.folder.rename(tmp_path / "away")


def replace_by_empty(bench, tmp_path):
    vanish(bench, tmp_path)
    bench.folder.mkdir()


def replace_by_another(bench, tmp_path):
    replace_by_empty(bench, tmp_path)
    bench.write("other.dm3", hint=False)


def exclude(bench, tmp_path):
    bench.restart(exclude=["sub", "a.dm3"])


def include_others(bench, tmp_path):
    bench.restart(include=["b.*"])


def empty_before_start(bench, tmp_path):
    for name in ("a.dm3", "sub/b.dm3"):
        (bench.folder / name).unlink()
    bench.restart()


@pytest.mark.parametrize(
    "what",
    [vanish, replace_by_empty, replace_by_another, exclude, include_others, empty_before_start],
)
def test_what_may_only_be_out_of_sight_is_not_gone(bench, tmp_path, what):
    make_cold(bench, ["a.dm3", "sub/b.dm3"])
    what(bench, tmp_path)
    bench.later(3 * SCAN)

    assert bench.watcher.gone() == {}


def test_what_cannot_be_listed_is_not_gone(bench, monkeypatch):
    make_cold(bench, ["a.dm3", "sub/b.dm3"])
    real, missing = scanning.survey, os.lstat

    def refuse(folder, *args):
        if "sub" in str(folder):
            raise OSError(5, "Input/output error")
        return (missing if not args else real)(folder, *args)

    monkeypatch.setattr(scanning, "survey", refuse)
    monkeypatch.setattr("os.lstat", refuse)
    bench.write("c.dm3", hint=False)
    bench.hints[-1].overflow()
    bench.later(3 * SCAN)

    assert bench.watcher.gone() == {}
    assert bench.watcher.health().unreadable_folders == 1


def test_a_sidecar_deleted_by_hand_is_asked_for_once_more(bench):
    bench.restart(sidecars_beside=True)
    for name in ("a.dm3", "b.dm3"):
        bench.known.note(bench.write(name, hint=False))
        bench.write(f"{name}.json", hint=False)
    bench.known.note(bench.write("refused.dm3", hint=False), recorded=False)
    assert bench.later(400.0, step=5.0) == []
    (bench.folder / "a.dm3.json").unlink()

    assert bench.later(SCAN + 2 * QUIET) == ["a.dm3"]
    bench.write("a.dm3.json", hint=False)
    bench.watcher.release(bench.folder / "a.dm3")
    assert bench.later(60.0) == []


def test_in_a_mirrored_tree_sidecars_are_not_missed(bench):
    bench.known.note(bench.write("a.dm3", hint=False))

    assert bench.later(60.0) == []


def leftovers(bench):
    return sorted(path.name for path in bench.folder.rglob(".scopewatch-*"))


@pytest.mark.parametrize("by_hint", [True, False], ids=["before the first listing", "in the first listing"])
def test_what_a_crash_left_is_removed_and_nothing_else(bench, by_hint):
    for name in (f".scopewatch-{OWNER}-00.tmp", ".scopewatch-ffffffff-00.tmp"):
        bench.write(f"sub/{name}", hint=False)
    bench.restart(owner=OWNER)
    if by_hint:
        bench.write("sub/a.dm3", hint=False)
    assert bench.until_quiet() == (["sub/a.dm3"] if by_hint else [])

    assert leftovers(bench) == [".scopewatch-ffffffff-00.tmp"]
    # From now on it may be the worker that writes there.
    bench.write(f"sub/.scopewatch-{OWNER}-01.tmp", hint=False)
    bench.hints[-1].overflow()
    bench.later(3 * SCAN)
    assert len(leftovers(bench)) == 2


def test_a_folder_in_which_the_worker_may_write_is_cleared_before_it_does(bench):
    bench.restart(owner=OWNER)
    bench.later(30.0)
    bench.write(f"new/.scopewatch-{OWNER}-00.tmp", hint=False)
    bench.write("new/a.dm3")
    bench.after(0)

    assert bench.after(QUIET) == ["new/a.dm3"]
    assert leftovers(bench) == []
