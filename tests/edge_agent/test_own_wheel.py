"""The wheel from this clone, and the same wheel packed again from an installation of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

import edge_agent
from edge_agent.packing.own_wheel import NAME, own_wheel, packed_again, source_tree
from edge_agent.packing.package_errors import PackageFailed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    command = [
        "-m",
        "pip",
        "install",
        str(built),
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        "--quiet",
    ]
    subprocess.run([sys.executable, *command], check=True, timeout=100)
    return site


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> importlib.metadata.Distribution:
    """A copy of the installation, in `tmp_path / "site"`."""
    shutil.copytree(site, tmp_path / "site")
    (found,) = importlib.metadata.distributions(name="scopewatch", path=[str(tmp_path / "site")])
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_a_clone_builds_the_same_wheel_each_time_and_it_carries_what_archives_need(
    built: Path, tmp_path: Path
) -> None:
    names = set(contents(built))

    assert source_tree() is not None
    assert built.name == NAME == f"scopewatch-{edge_agent.__version__}-py3-none-any.whl"
    assert own_wheel(tmp_path).read_bytes() == built.read_bytes()
    assert {
        "edge_agent/packing/locks/agent-win_amd64-py311.txt",
        "edge_agent/packing/archive/install.ps1",
    } <= names


def test_packed_again_it_holds_the_same_files_with_the_same_bytes(
    built: Path, installed: importlib.metadata.Distribution, tmp_path: Path
) -> None:
    again = packed_again(installed, tmp_path)

    assert contents(again) == contents(built)
    with zipfile.ZipFile(again) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, length in rows:
            if name != record:
                data = archive.read(name)
                seen = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, length) == (f"sha256={seen}", str(len(data)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param("changed", "was changed since it was installed; install scopewatch again", id="changed"),
        pytest.param(
            "removed", "cannot be read (No such file or directory); install scopewatch again", id="removed"
        ),
    ],
)
def test_an_installation_that_was_changed_is_not_handed_on(
    installed: importlib.metadata.Distribution, tmp_path: Path, damage: str, message: str
) -> None:
    file = tmp_path / "site" / "edge_agent" / "files.py"
    if damage == "changed":
        file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    else:
        file.unlink()

    with pytest.raises(PackageFailed) as failed:
        packed_again(installed, tmp_path)
    assert str(failed.value) == f"{file}: {message}"
