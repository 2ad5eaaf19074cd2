"""Tidying shows first, removes only what proves to be ours and is still an orphan, and doubts empty folders."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from test_sidecar import CONTRACT

from edge_agent.files import stamp_of
from edge_agent.output_places import OutputPlan
from edge_agent.sidecar import Sidecar, source_record, write_record
from edge_agent.tidy import Orphan, Untidy, look_for_orphans, remove


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "scope"
    (folder / "session").mkdir(parents=True)
    (folder / "kept.dm3").write_bytes(b"kept")
    return folder


def finish(source: Path, plan: OutputPlan | None = None, *, heatmap: bool = True) -> Orphan:
    """Save a micrograph with its outputs, as the agent leaves them."""
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(b"pixels")
    place = (plan or OutputPlan()).place(source)
    place.sidecar.parent.mkdir(parents=True, exist_ok=True)
    record = Sidecar.model_validate(CONTRACT)
    readable = os.fsencode(place.heatmap.name).decode("utf-8", "backslashreplace")
    cam = record.cam.model_copy(update={"heatmap": readable}) if heatmap else None
    record = record.model_copy(
        update={"source": source_record(source, stamp_of(source), None, None), "cam": cam}
    )
    if heatmap:
        place.heatmap.write_bytes(b"PNG")
    write_record(place, record)
    return Orphan(source, place.sidecar, place.heatmap if heatmap else None)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "a.dm3",
        "session/a.dm3",
        "session/deep/er/a.dm3",
        "Größe 😀.dm3",
        "line\nbreak.dm3",
        os.fsdecode(b"caf\xe9.dm3"),
    ],
)
def test_outputs_of_a_micrograph_that_is_gone_are_shown_and_removed(root, name):
    orphan = finish(root / name)
    before = files_below(root)
    orphan.source.unlink()

    untidy = look_for_orphans([root], None)
    assert untidy == Untidy((orphan,), (), ())
    assert files_below(root) == before - {name}

    assert remove(untidy) == (2, ())
    assert files_below(root) == {"kept.dm3"}


@pytest.mark.parametrize("name", ["a.dm3.label.json", "a.dm3.label.kept-0123abcd.json", "A.DM3.label.json"])
def test_what_people_said_of_a_micrograph_always_stays(root, name):
    orphan = finish(root / "a.dm3")
    for content in (b'{"schema": "scopewatch.label/1", "events": []}', orphan.sidecar.read_bytes()):
        (root / name).write_bytes(content)
        orphan.source.unlink(missing_ok=True)

        assert look_for_orphans([root], None).orphans == (orphan,)

    remove(look_for_orphans([root], None))
    assert files_below(root) == {"kept.dm3", name}


def test_a_sidecar_without_heatmap_goes_alone(root):
    orphan = finish(root / "spectrum.dm3", heatmap=False)
    orphan.source.unlink()

    untidy = look_for_orphans([root], None)
    assert untidy.orphans == (orphan,)
    assert remove(untidy) == (1, ())


def test_outputs_of_a_micrograph_that_is_there_stay(root):
    finish(root / "a.dm3")
    finish(root / "session" / "b.dm3")
    assert look_for_orphans([root], None) == Untidy((), (), ())


def write_half(sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes()[:100])


def write_foreign(sidecar: Path) -> None:
    sidecar.write_text('{"schema": "somebody.else/1"}')


def write_about_another(sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes().replace(b"/a.dm3", b"/other.dm3"))


def write_about_a_longer_name(sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes().replace(b"/a.dm3", b"/aa.dm3"))


def become_a_folder(sidecar: Path) -> None:
    sidecar.unlink()
    sidecar.mkdir()


@pytest.mark.parametrize(
    "spoil", [write_half, write_foreign, write_about_another, write_about_a_longer_name, become_a_folder]
)
def test_what_does_not_prove_to_be_ours_is_not_touched(root, spoil):
    orphan = finish(root / "a.dm3")
    orphan.source.unlink()
    spoil(orphan.sidecar)

    assert look_for_orphans([root], None).orphans == ()


def test_a_record_written_on_windows_is_ours_too(root):
    orphan = finish(root / "a.dm3")
    orphan.source.unlink()
    text = orphan.sidecar.read_text().replace(f'"{root}/a.dm3"', '"D:\\\\scope\\\\a.dm3"')
    orphan.sidecar.write_text(text)
    assert "D:" in text

    assert look_for_orphans([root], None).orphans == (orphan,)


def test_a_picture_that_the_record_does_not_name_is_not_touched(root):
    orphan = finish(root / "a.dm3", heatmap=False)
    orphan.source.unlink()
    (root / "a.dm3.heatmap.png").write_bytes(b"somebody's own")

    untidy = look_for_orphans([root], None)
    assert untidy.orphans == (orphan,)
    remove(untidy)
    assert files_below(root) == {"kept.dm3", "a.dm3.heatmap.png"}


def test_a_micrograph_that_came_back_keeps_its_outputs(root):
    orphan = finish(root / "a.dm3")
    orphan.source.unlink()
    untidy = look_for_orphans([root], None)
    orphan.source.write_bytes(b"back")

    assert remove(untidy) == (0, ())
    assert files_below(root) == {"kept.dm3", "a.dm3", "a.dm3.json", "a.dm3.heatmap.png"}


def test_outputs_that_somebody_removed_meanwhile_are_no_failure(root):
    orphan = finish(root / "a.dm3")
    orphan.source.unlink()
    untidy = look_for_orphans([root], None)
    orphan.heatmap.unlink()

    assert remove(untidy) == (1, ())


def test_what_cannot_be_removed_is_told(root, monkeypatch):
    orphan = finish(root / "a.dm3")
    orphan.source.unlink()
    untidy = look_for_orphans([root], None)
    unlink = Path.unlink

    def refuse(path, **options):
        if path.name == "a.dm3.json":
            raise PermissionError(13, "Permission denied", str(path))
        return unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert remove(untidy) == (1, ((orphan.sidecar, "Permission denied"),))


def test_a_folder_that_cannot_be_reached_proves_nothing(root, monkeypatch):
    orphan = finish(root / "session" / "a.dm3")
    orphan.source.unlink()
    lstat = os.lstat

    def drop(path, **options):
        if str(path).endswith("a.dm3"):
            raise OSError(112, "Host is down", str(path))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", drop)
    assert look_for_orphans([root], None).orphans == ()


def test_links_are_not_followed(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    orphan = finish(elsewhere / "a.dm3")
    orphan.source.unlink()
    (root / "link").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)

    assert look_for_orphans([root], None) == Untidy((), (), ())


def test_deep_folders_are_looked_through(root):
    deep = root
    for _ in range(4):
        deep /= "d" * 100
    orphan = finish(deep / "a.dm3")
    orphan.source.unlink()
    assert look_for_orphans([root], None).orphans == (orphan,)


@pytest.mark.parametrize(
    ("name", "age_hours", "found"),
    [
        pytest.param(".scopewatch-0a1b2c3d-00ff00ff00ff00ff.tmp", 25, True, id="older than a day"),
        pytest.param(".scopewatch-00ff00ff00ff00ff.tmp", 25, True, id="of an earlier version"),
        pytest.param(".scopewatch-0a1b2c3d-00ff00ff00ff00ff.tmp", 23, False, id="perhaps in use"),
        pytest.param("scan.tmp", 2500, False, id="somebody else's"),
    ],
)
def test_temporary_files_of_ours_are_abandoned_after_a_day(root, name, age_hours, found):
    path = root / "session" / name
    path.write_bytes(b"half")
    then = time.time() - age_hours * 3600
    os.utime(path, (then, then))

    untidy = look_for_orphans([root], None)
    assert untidy.abandoned == ((path,) if found else ())
    remove(untidy)
    assert path.exists() is not found


def test_a_link_with_the_name_of_a_temporary_file_is_left(root):
    link = root / ".scopewatch-00ff00ff00ff00ff.tmp"
    link.symlink_to(root / "kept.dm3")
    os.utime(link, (0, 0), follow_symlinks=False)
    assert look_for_orphans([root], None).abandoned == ()


@pytest.fixture
def mirror(root, tmp_path):
    return OutputPlan(tmp_path / "mirror", (root,))


def test_a_mirror_is_tidied_by_what_is_gone_from_the_folder(root, mirror):
    kept, gone = finish(root / "session" / "kept.dm3", mirror), finish(root / "session" / "gone.dm3", mirror)
    gone.source.unlink()

    untidy = look_for_orphans([root], mirror.output)
    assert untidy.orphans == (gone,)
    assert remove(untidy) == (2, ())
    assert files_below(mirror.output) == {"session/kept.dm3.json", "session/kept.dm3.heatmap.png"}
    assert kept.source.exists()


def test_a_session_that_was_moved_away_leaves_orphans_in_the_mirror(root, mirror):
    gone = finish(root / "old session" / "gone.dm3", mirror)
    (root / "old session").rename(root.parent / "archive")
    assert look_for_orphans([root], mirror.output) == Untidy((gone,), (), ())


def test_a_mirror_that_is_not_there_yet_has_nothing_to_tidy(root, mirror):
    assert look_for_orphans([root], mirror.output).orphans == ()


def unmount_root(root: Path) -> Path:
    root.rename(root.with_name("away"))
    root.mkdir()
    return root


def lose_root(root: Path) -> Path:
    root.rename(root.with_name("away"))
    return root


def unmount_below(root: Path) -> Path:
    (root / "session").rename(root.with_name("away"))
    (root / "session").mkdir()
    return root / "session"


@pytest.mark.parametrize(
    ("take_away", "reason"),
    [
        pytest.param(
            unmount_root, "is empty, as if its disk or share were not mounted", id="the whole folder"
        ),
        pytest.param(lose_root, "cannot be listed: No such file or directory", id="the folder is missing"),
        pytest.param(
            unmount_below, "is empty, as if its disk or share were not mounted", id="a folder in it"
        ),
    ],
)
def test_nothing_is_an_orphan_where_a_disk_may_not_be_mounted(root, mirror, take_away, reason):
    finish(root / "session" / "a.dm3", mirror)
    finish(root / "session" / "deep" / "b.dm3", mirror)
    doubtful = take_away(root)

    untidy = look_for_orphans([root], mirror.output)
    assert untidy == Untidy((), (), ((doubtful, reason),))
    assert remove(untidy) == (0, ())
    assert len(files_below(mirror.output)) == 4


def test_an_empty_folder_is_passed_over_beside_the_micrographs_too(tmp_path):
    (tmp_path / "scope").mkdir()
    assert look_for_orphans([tmp_path / "scope"], None).passed_over == (
        (tmp_path / "scope", "is empty, as if its disk or share were not mounted"),
    )


def test_a_folder_that_cannot_be_listed_is_told_and_the_others_are_tidied(root, monkeypatch):
    orphan = finish(root / "session" / "a.dm3")
    orphan.source.unlink()
    (root / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    untidy = look_for_orphans([root], None)
    assert untidy.orphans == (orphan,)
    assert untidy.passed_over == ((root / "locked", "cannot be listed: Permission denied"),)


def test_two_folders_with_one_mirror(tmp_path):
    roots = (tmp_path / "one", tmp_path / "two")
    plan = OutputPlan(tmp_path / "mirror", roots)
    orphans = []
    for root in roots:
        finish(root / "kept.dm3", plan)
        orphans.append(finish(root / "gone.dm3", plan))
        orphans[-1].source.unlink()
    assert look_for_orphans(roots, plan.output).orphans == tuple(orphans)


def test_only_what_was_shown_is_removed(root):
    first = finish(root / "a.dm3")
    first.source.unlink()
    untidy = look_for_orphans([root], None)
    second = finish(root / "b.dm3")
    second.source.unlink()

    remove(untidy)
    assert second.sidecar.exists()
    assert not first.sidecar.exists()
