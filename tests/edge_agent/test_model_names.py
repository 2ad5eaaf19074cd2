"""Which of two versions is the newer one, and what a folder's name says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent import model_names
from edge_agent.model_names import is_shipped, name_and_version, shipped_named, version_order

OLDEST_FIRST = (
    "0.9", "1.0a1", "1.0-beta", "1.0rc9", "1.0rc10", "1", "1.0", "1.0+site2", "1.0-optimised", "1.0.1rc1", "1.0.1",
    "1.2", "1.10", "2", "10", "10.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize(("older", "newer"), tuple(pairwise(OLDEST_FIRST)))
def test_versions_have_one_order(older: str, newer: str):
    assert version_order(older) < version_order(newer)


def test_a_number_of_any_length_is_a_version():
    assert version_order("9" * 6000) > version_order("1")


@pytest.mark.parametrize(
    ("folder", "name", "version"),
    [
        ("tiny-1", "tiny", "1"),
        ("particle-shape-1.2", "particle-shape", "1.2"),
        ("particle-shape-1.2-optimised", "particle-shape", "1.2-optimised"),
        ("net-3d-1.0rc1", "net-3d", "1.0rc1"),
        ("tiny", "", "tiny"),
    ],
)
def test_a_folder_is_name_and_version(folder: str, name: str, version: str):
    assert name_and_version(folder) == (name, version)


def test_a_name_stands_for_its_newest_version():
    shipped = tuple(Path("/models") / name for name in ("a-1", "a-2", "b-1"))
    assert [shipped_named(name, shipped) for name in ("a", "a-1", "b", "c")] == [
        shipped[1], shipped[0], shipped[2], None,
    ]  # fmt: skip


def test_only_the_installations_own_folders_are_shipped(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([tiny.parent]))
    (tmp_path / "link").symlink_to(tiny)
    (tmp_path / "tiny-1").mkdir()

    assert is_shipped(tiny)
    assert is_shipped(tmp_path / "link")
    assert not is_shipped(tmp_path / "tiny-1")
    assert not is_shipped(Path("no\0such"))
