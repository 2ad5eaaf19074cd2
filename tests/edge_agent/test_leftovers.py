"""What goes with the service, and what never does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from labelled import archive_of, fill, until

from edge_agent.deploy.leftovers import purge
from edge_agent.files import FileLayer
from edge_agent.journal import Journal
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_words import Order
from edge_agent.status import sole_agent

if TYPE_CHECKING:
    from pathlib import Path


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def pc(tmp_path):
    """State and configuration of an agent that has run, and results."""
    state = tmp_path / "scopewatch"
    with sole_agent(state, []):
        pass
    for name in (
        "journal.sqlite3", "agent.log", "models/particle-shape-1.2/model.onnx", "second-look.json",
        "pictures/ab/ab.jpg", "second-look/a.dm3.json",
    ):  # fmt: skip
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).touch()
    etc = tmp_path / "etc/scopewatch"
    etc.mkdir(parents=True)
    (etc / "agent.toml").touch()
    (etc / "config.schema.json").touch()
    (tmp_path / "scope").mkdir()
    (tmp_path / "scope/a.dm3.json").touch()
    return tmp_path


def purged(pc: Path, *kept: Path, state: Path | None = None) -> list[str]:
    return list(purge(state or pc / "scopewatch", pc / "etc/scopewatch/agent.toml", kept))


def test_nothing_is_left_but_results(pc):
    lines = purged(pc, pc / "scope")
    assert tree(pc) == {"etc", "scope", "scope/a.dm3.json"}
    assert [line.rpartition("/")[2] for line in lines] == [
        "scopewatch: removed (journal, status, log, models)", "agent.toml: removed",
    ]  # fmt: skip


def test_labels_that_are_not_in_their_files_yet_stay_in_the_journal(pc):
    with Journal(pc / "scopewatch") as journal:
        fill(journal, pc / "data", [1])
        desk = LabelDesk(archive_of(journal, pc), layer=ReadOnly())
        desk.give(Order("b1", "correct", "faceted", "ann", (1,)))
        until(lambda: desk.state("ann").waiting.reason)
        desk.close()

    lines = purged(pc, pc / "data")

    assert "journal.sqlite: kept: it holds labels that are not in their files yet (1;" in lines[0]
    assert {path.name for path in (pc / "scopewatch").iterdir()} >= {"journal.sqlite", "journal.sqlite3"}
    assert not (pc / "scopewatch/agent.log").exists()
    with sole_agent(pc / "scopewatch", []), Journal(pc / "scopewatch") as journal:
        desk = LabelDesk(archive_of(journal, pc))
        until(lambda: desk.state("ann").waiting is None)
        desk.close()
    assert purged(pc, pc / "data") == [f"{pc / 'scopewatch'}: removed (journal, status, log, models)"]


class ReadOnly(FileLayer):
    def create(self, path: Path) -> int:
        raise OSError(30, "Read-only file system")


def test_results_in_the_state_folder_stay(pc):
    results = pc / "scopewatch/results/deep"
    results.mkdir(parents=True)
    (results / "a.dm3.json").touch()
    purged(pc, pc / "scope", pc / "scopewatch/results")
    assert tree(pc / "scopewatch") == {"results", "results/deep", "results/deep/a.dm3.json"}


def test_what_else_lies_beside_the_configuration_stays(pc):
    (pc / "etc/scopewatch/mine.txt").touch()
    purged(pc)
    assert tree(pc / "etc") == {"scopewatch", "scopewatch/mine.txt"}


def test_a_folder_in_which_no_agent_kept_its_state_stays(pc):
    other = pc / "thesis"
    other.mkdir()
    (other / "chapter.tex").touch()
    assert purged(pc, state=other)[0] == f"{other}: left alone: no agent has kept its state there"
    assert (other / "chapter.tex").exists()


def test_of_a_folder_that_holds_other_things_only_the_agents_own_goes(pc):
    (pc / "scopewatch").rename(pc / "thesis")
    for name in (
        "chapter.tex",
        "figures/a.dm3",
        "agent.log.1",
        "journal.sqlite-wal",
        "drift.json",
        "page.token",
    ):
        (pc / "thesis" / name).parent.mkdir(exist_ok=True)
        (pc / "thesis" / name).touch()
    line = purged(pc, state=pc / "thesis")[0]
    assert tree(pc / "thesis") == {"chapter.tex", "figures", "figures/a.dm3"}
    assert line.startswith(f"{pc}/thesis: removed, but for {pc}/thesis/")


def test_a_state_folder_around_the_micrographs_loses_nothing_else(pc):
    with sole_agent(pc, []):
        pass
    purged(pc, pc / "scope", state=pc)
    assert {"scope/a.dm3.json", "scopewatch/journal.sqlite3"} <= tree(pc)
    assert not (pc / "agent.lock").exists()


def test_a_state_folder_among_the_micrographs_stays(pc):
    state = pc / "scope/state"
    with sole_agent(state, []):
        pass
    (state / "a.dm3").touch()
    assert "left alone: it lies among the micrographs" in purged(pc, pc / "scope", state=state)[0]
    assert (state / "a.dm3").exists()


def test_a_link_as_systemd_makes_it_goes_with_what_is_behind(pc):
    (pc / "private").mkdir()
    (pc / "scopewatch").rename(pc / "private/scopewatch")
    (pc / "scopewatch").symlink_to(pc / "private/scopewatch")
    purged(pc)
    assert tree(pc / "private") == set()
    assert not (pc / "scopewatch").is_symlink()


def test_links_in_the_state_folder_are_not_followed(pc):
    (pc / "scopewatch/elsewhere").symlink_to(pc / "scope")
    purged(pc, pc / "scope")
    assert (pc / "scope/a.dm3.json").exists()


def test_nothing_there_is_nothing_to_say(tmp_path):
    assert list(purge(tmp_path / "none", tmp_path / "none/agent.toml", ())) == []
