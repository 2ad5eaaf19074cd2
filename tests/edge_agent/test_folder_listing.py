"""Which names are micrographs, and what a folder holds: names only, links lead nowhere."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from edge_agent.watching import folder_listing
from edge_agent.watching.folder_listing import (
    ListingRules,
    entry_rule,
    list_folder,
    name_rule,
    regular_stamp,
    survey,
)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.dm3", True),
        ("A.DM3", True),
        ("a.Dm4", True),
        (".dm3", True),
        ("a b [1].dm3", True),
        ("caf\udce9.dm3", True),
        ("a.dm3.json", False),
        ("a.dm3.heatmap.png", False),
        ("a.dm3.part", False),
        ("a.dm3~", False),
        ("a.tif", False),
        (".scopewatch-0011223344556677.tmp", False),
    ],
)
def test_the_default_rule_takes_dm_files_only(name, wanted):
    assert name_rule(["*.dm3", "*.dm4"])(name) is wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.png", True), ("a.dm3.heatmap.png", False), ("a.json", False), (".scopewatch-00.tmp", False)],
)
def test_own_outputs_are_left_out_whatever_the_patterns_say(name, wanted):
    assert name_rule(["*"])(name) is wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.dm3", True), ("A_TMP.DM3", False), ("live.dm3", False), ("LIVE.Dm3", False), ("live2.dm3", True)],
)
def test_excluded_names_are_left_out_in_any_case(name, wanted):
    assert name_rule(["*.dm3"], ["*_tmp.*", "Live.dm3"])(name) is wanted


@pytest.mark.parametrize(("name", "entered"), [("trash", False), ("Trash", False), ("x", True), ("", True)])
def test_excluded_folders_are_not_entered(name, entered):
    assert entry_rule(["TRASH", "*.bak"])(name) is entered
    assert entry_rule([])(name)


def test_a_survey_tells_what_was_asked_for(tmp_path):
    for name in (
        "a.dm3",
        "a.dm3.json",
        "a.dm3.heatmap.png",
        ".scopewatch-0123abcd-00.tmp",
        ".scopewatch-ffff0000-00.tmp",
    ):
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "trash").mkdir()
    wanted, entered = name_rule(["*.dm3"]), entry_rule(["trash"])

    plain = survey(str(tmp_path), ListingRules(wanted, windows=False))
    whole = survey(
        str(tmp_path), ListingRules(wanted, entered, sidecars=True, owner="0123abcd", windows=True)
    )

    assert (plain.sidecars, plain.leftovers, plain.states) == (set(), [], {})
    assert plain.folders == [str(tmp_path / "trash")]
    assert whole.folders == []
    assert whole.sidecars == {"a.dm3.json"}
    assert whole.leftovers == [".scopewatch-0123abcd-00.tmp"]
    assert whole.states == {"a.dm3": (3, (tmp_path / "a.dm3").stat().st_mtime_ns)}
    assert not whole.is_empty
    assert survey(str(tmp_path / "trash"), ListingRules(wanted)).is_empty


@dataclass
class Entry:
    """A folder as Windows lists it."""

    name: str
    tag: int

    def is_dir(self, *, follow_symlinks):
        return True

    def stat(self, *, follow_symlinks):
        return SimpleNamespace(st_reparse_tag=self.tag)


def test_junctions_of_windows_are_links_too(monkeypatch):
    entries = [Entry("plain", 0), Entry("junction", 0xA0000003), Entry("cloud", 0x9000001A)]
    monkeypatch.setattr(folder_listing.os, "scandir", lambda path: nullcontext(entries))

    found = survey("/data", ListingRules(name_rule(["*"]), windows=True))

    assert found.folders == ["/data/plain", "/data/cloud"]


def test_a_folder_is_listed_without_following_links(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.dm3").write_bytes(b"1")
    (tmp_path / "notes.txt").write_bytes(b"1")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "folder.dm3").mkdir()

    names, below = list_folder(str(tmp_path), name_rule(["*.dm3"]))

    assert names == ["a.dm3"]
    assert sorted(below) == [str(tmp_path / "folder.dm3"), str(tmp_path / "sub")]


def test_only_a_regular_file_has_a_stamp(tmp_path):
    file = tmp_path / "a.dm3"
    file.write_bytes(b"12345")
    link, fifo, folder = tmp_path / "link.dm3", tmp_path / "fifo.dm3", tmp_path / "folder.dm3"
    link.symlink_to(file)
    os.mkfifo(fifo)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.dm3"))
        others = [regular_stamp(str(path)) for path in (link, fifo, folder, tmp_path / "s.dm3")]

    assert others == [None] * 4
    stamp = regular_stamp(str(file))
    assert stamp is not None
    assert (stamp.size_bytes, stamp.modified_ns) == (5, file.stat().st_mtime_ns)
    with pytest.raises(FileNotFoundError):
        regular_stamp(str(tmp_path / "none.dm3"))
