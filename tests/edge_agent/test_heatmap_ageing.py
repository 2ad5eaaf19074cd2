"""Old heatmaps go, and nothing else does: whatever lies beside them, and whatever lies about its age."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from sidecars import CONTRACT, finish

from edge_agent.files import FileLayer
from edge_agent.heatmap_ageing import HeatmapAgeing
from edge_agent.output_places import OutputPlan

OLD = datetime.now(UTC) - timedelta(days=30)
PICTURE = b"png"


def save(path, *, finished=OLD, **changes):
    """A finished file whose outputs were written at `finished`; `changes` are those of its map's record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cam = CONTRACT["cam"] | {
        "heatmap": f"{path.name}.heatmap.png", "heatmap_sha256": sha256(PICTURE).hexdigest(),
    }  # fmt: skip
    finish(path, cam=cam | changes, agent=CONTRACT["agent"] | {"finished": finished.isoformat()})
    heatmap = OutputPlan().place(path).heatmap
    os.utime(heatmap, (finished.timestamp(), finished.timestamp()))
    return heatmap


class Round:
    """Ageing below one folder, with the clock in the test's hand."""

    def __init__(self, root, plan=None, layer=None):
        self.now = 0.0
        self.ageing = HeatmapAgeing(root, plan or OutputPlan(), 7, lambda: self.now, layer or FileLayer())

    def go(self):
        """One whole round; how many heatmaps were removed."""
        removed = 0
        self.now += 4000.0
        while True:
            removed += self.ageing.step()
            if self.ageing._round is None:
                return removed


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_old_heatmaps_go_with_everything_else_left(tmp_path):
    for name in ("a.dm3", "s/b.dm3", "s/t/c.dm3"):
        save(tmp_path / name)
    save(tmp_path / "young.dm3", finished=datetime.now(UTC) - timedelta(days=3))

    assert Round(tmp_path).go() == 3

    assert names(tmp_path) == [
        "a.dm3", "a.dm3.json", "s/b.dm3", "s/b.dm3.json", "s/t/c.dm3", "s/t/c.dm3.json",
        "young.dm3", "young.dm3.heatmap.png", "young.dm3.json",
    ]  # fmt: skip


def test_they_are_looked_for_in_the_mirror(tmp_path):
    root, plan = tmp_path / "scope", OutputPlan(tmp_path / "out", (tmp_path / "scope", tmp_path / "other"))
    mine, others = save(tmp_path / "out" / "scope" / "a.dm3"), save(tmp_path / "out" / "other" / "a.dm3")

    assert Round(root, plan).go() == 1
    assert (mine.exists(), others.exists()) == (False, True)


def forget_the_sidecar(heatmap):
    heatmap.with_name("a.dm3.json").unlink()


def cut_the_sidecar(heatmap):
    os.truncate(heatmap.with_name("a.dm3.json"), 200)


def another_picture(heatmap):
    heatmap.write_bytes(b"my figure")
    os.utime(heatmap, (OLD.timestamp(), OLD.timestamp()))


def a_link(heatmap):
    heatmap.replace(heatmap.with_name("elsewhere.png"))
    heatmap.symlink_to(heatmap.with_name("elsewhere.png"))


def a_folder(heatmap):
    heatmap.unlink()
    heatmap.mkdir()
    os.utime(heatmap, (OLD.timestamp(), OLD.timestamp()))


def written_again(heatmap):
    heatmap.touch()


@pytest.mark.parametrize(
    "change", [forget_the_sidecar, cut_the_sidecar, another_picture, a_link, a_folder, written_again]
)
def test_what_does_not_prove_to_be_ours_and_old_stays(tmp_path, change):
    change(save(tmp_path / "a.dm3"))
    before = names(tmp_path)

    assert Round(tmp_path).go() == 0
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"heatmap": "b.dm3.heatmap.png"}, id="another's"),
        pytest.param({"heatmap": None, "heatmap_sha256": None}, id="none"),
        pytest.param({"heatmap_sha256": "ab" * 32}, id="of another hash"),
    ],
)
def test_a_heatmap_that_the_sidecar_does_not_mean_stays(tmp_path, changes):
    heatmap = save(tmp_path / "a.dm3", **changes)
    assert Round(tmp_path).go() == 0
    assert heatmap.exists()


def test_the_sidecar_says_how_old_it_is(tmp_path):
    heatmap = save(tmp_path / "a.dm3", finished=datetime.now(UTC))
    os.utime(heatmap, (OLD.timestamp(), OLD.timestamp()))

    assert Round(tmp_path).go() == 0
    assert heatmap.exists()


def test_a_foreign_picture_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    heatmap = save(tmp_path / "a.dm3", heatmap_sha256=sha256(b"right").hexdigest())
    rounds, read = Round(tmp_path), []
    reading = __import__("edge_agent.heatmap_ageing", fromlist=["x"])
    original = reading.read_record
    monkeypatch.setattr(reading, "read_record", lambda path: read.append(path) or original(path))

    rounds.go(), rounds.go()
    assert len(read) == 1

    heatmap.write_bytes(b"right")
    os.utime(heatmap, (OLD.timestamp() + 1, OLD.timestamp() + 1))
    assert rounds.go() == 1
    assert len(read) == 2


def test_a_disk_that_refuses_is_asked_again_next_time(tmp_path, caplog):
    class ReadOnly(FileLayer):
        refuses = True

        def unlink(self, path):
            if self.refuses:
                raise OSError(30, "Read-only file system", str(path))
            super().unlink(path)

    heatmap, layer = save(tmp_path / "a.dm3"), ReadOnly()
    rounds = Round(tmp_path, layer=layer)

    assert rounds.go() == 0
    assert f"heatmaps in {tmp_path} cannot be removed: Read-only file system" in caplog.text
    layer.refuses = False
    assert rounds.go() == 1
    assert not heatmap.exists()


def test_a_round_is_made_of_small_steps_and_once_an_hour(tmp_path):
    for number in range(120):
        save(tmp_path / f"{number}.dm3")
    rounds = Round(tmp_path)

    assert [rounds.ageing.step() for _ in range(4)] == [50, 50, 20, 0]
    save(tmp_path / "later.dm3")
    assert [rounds.ageing.step() for _ in range(3)] == [0, 0, 0]
    assert rounds.go() == 1


def test_a_folder_that_is_gone_holds_nothing(tmp_path):
    assert Round(tmp_path / "gone").go() == 0
