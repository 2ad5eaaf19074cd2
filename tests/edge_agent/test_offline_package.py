"""A whole archive from small wheels: what lies in it, that it is the same each time, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import stat
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from bundles import tiny_bundle
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from small_wheels import small_source, small_wheel
from test_python_runtime import embeddable, standalone

import edge_agent
from edge_agent.model_bundle import BundleRefused, open_bundle
from edge_agent.packing import offline_package
from edge_agent.packing.archive_file import read_member
from edge_agent.packing.offline_package import Locks, PackagePlan, make_package, steps
from edge_agent.packing.package_errors import PackageFailed, PackageRefused
from edge_agent.packing.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.packing.lock_file import LockedFile

WINDOWS, LINUX = Target("win_amd64", "3.11"), Target("linux_x86_64", "3.11")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


@pytest.fixture
def locks(wheels: Path) -> Locks:
    ncempy = small_wheel(wheels, "ncempy", licence="License: GPLv3+")
    agent, pip = (ncempy, small_wheel(wheels, "rich")), (small_wheel(wheels, "pip"),)
    return Locks(agent, pip, (small_source(wheels, "ncempy"),))


@pytest.fixture
def small_own_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_own_wheel builds the real one; here a small one stands for it."""

    def written(folder: Path, *, wheels: Path | None = None) -> Path:
        return folder / small_wheel(folder, "scopewatch", licence="License-Expression: GPL-3.0-or-later").file

    monkeypatch.setattr(offline_package, "own_wheel", written)


@pytest.fixture
def without_pip(small_own_wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_wheelhouse runs pip; here the wheels are copied."""

    def copied(
        files: Sequence[LockedFile],
        target: Target,
        folder: Path,
        *,
        wheels: Path,
        advance: Callable[[], None],
    ) -> None:
        for file in files:
            shutil.copy(wheels / file.file, folder)
            advance()

    monkeypatch.setattr(offline_package, "fetch_wheels", copied)


def unpacked(archive: Path, folder: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


@pytest.mark.usefixtures("small_own_wheel")
@pytest.mark.parametrize("target", [LINUX, WINDOWS], ids=lambda one: one.platform)
def test_everything_a_pc_without_network_needs_lies_in_it(
    tmp_path: Path, wheels: Path, locks: Locks, target: Target
) -> None:
    model = tiny_bundle(tmp_path / "tiny-1")
    config = tmp_path / "mine.toml"
    config.write_text(f"folders = ['{tmp_path}']\n", encoding="utf-8")
    runtime = (embeddable if target.is_windows else standalone)(tmp_path / "python-3.11.9-runtime")
    plan = PackagePlan(target, tmp_path / "out", (str(model),), runtime, config, wheels)
    counted: list[int] = []

    made = make_package(plan, locks, lambda: counted.append(1))

    ending = "zip" if target.is_windows else "tar.gz"
    assert made.path == tmp_path / "out" / f"scopewatch-{edge_agent.__version__}-{target.label}.{ending}"
    assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert len(counted) == steps(plan, locks)
    root = unpacked(made.path, tmp_path / "unpacked")
    assert root.name == plan.name
    scripts = {"install.ps1", "install.cmd", "uninstall.ps1", "uninstall.cmd"} if target.is_windows else {
        "install.sh", "uninstall.sh"
    }  # fmt: skip
    assert {path.name for path in root.iterdir()} == scripts | {
        "LICENCES.md", "README.txt", "SHA256SUMS", "config.toml", "licences", "models", "pip", "requirements.txt",
        "runtime", "sbom.cdx.json", "sources", "wheels",
    }  # fmt: skip
    assert not [
        name for name in scripts | {"README.txt"} if re.search(r"@[A-Z]+@", (root / name).read_text())
    ]
    assert open_bundle(root / "models" / "tiny-1").manifest == open_bundle(model).manifest
    assert (root / "sources" / "ncempy-1.0.tar.gz").is_file()
    lines = (root / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines if "==" in line] == ["ncempy", "rich", "scopewatch"]
    sums = dict(reversed(line.split("  ")) for line in (root / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert sums == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if name != "SHA256SUMS"
    }
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((root / "sbom.cdx.json").read_text()) is None
    components = json.loads((root / "sbom.cdx.json").read_text())["components"]
    assert {one["name"] for one in components} >= {
        "ncempy",
        "rich",
        "pip",
        "tiny",
        "CPython",
        "particle-shape",
    }
    assert read_member(made.path, "LICENCES.md") == (root / "LICENCES.md").read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [made.path.name]


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize("target", [LINUX, WINDOWS], ids=lambda one: one.platform)
def test_made_twice_it_is_the_same_bytes(tmp_path: Path, wheels: Path, locks: Locks, target: Target) -> None:
    first, second = (
        make_package(PackagePlan(target, tmp_path / name, wheels=wheels), locks) for name in ("a", "b")
    )

    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.usefixtures("without_pip")
def test_the_scripts_can_be_run_and_nothing_else_is_a_program(
    tmp_path: Path, wheels: Path, locks: Locks
) -> None:
    made = make_package(PackagePlan(LINUX, tmp_path, wheels=wheels), locks)

    with tarfile.open(made.path) as archive:
        programs = {one.name.rpartition("/")[2] for one in archive if one.mode & stat.S_IXUSR}
    assert programs == {"install.sh", "uninstall.sh"}


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    ("cut_off", "error"),
    [
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="Ctrl-C"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), PackageFailed, id="disk full"),
        pytest.param(OSError(errno.EACCES, "Permission denied"), PermissionError, id="any other fault"),
    ],
)
def test_cut_off_it_leaves_nothing_and_the_older_archive_stays(
    tmp_path: Path,
    wheels: Path,
    locks: Locks,
    monkeypatch: pytest.MonkeyPatch,
    cut_off: BaseException,
    error: type[BaseException],
) -> None:
    plan = PackagePlan(LINUX, tmp_path / "out", wheels=wheels)
    made = make_package(plan, locks)
    before = made.path.read_bytes()

    def half(folder: Path, path: Path, root: str) -> None:
        path.write_bytes(b"half")
        raise cut_off

    monkeypatch.setattr(offline_package, "pack", half)
    with pytest.raises(error) as raised:
        make_package(plan, locks)

    assert [path.name for path in plan.output.iterdir()] == [made.path.name]
    assert made.path.read_bytes() == before
    if error is PackageFailed:
        said = r"the disk is full \(\d+ MB free, about 500 MB are needed\); nothing was left there"
        assert re.fullmatch(rf"{re.escape(str(plan.output))}: {said}", str(raised.value))


@pytest.mark.usefixtures("without_pip")
def test_what_a_killed_run_left_goes_with_the_next_and_a_living_ones_stays(
    tmp_path: Path, wheels: Path, locks: Locks
) -> None:
    dead, living = tmp_path / ".scopewatch-offline-999999999", tmp_path / ".scopewatch-offline-1"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "half").write_bytes(b"x")

    make_package(PackagePlan(LINUX, tmp_path, wheels=wheels), locks)

    assert (dead.exists(), living.exists()) == (False, True)


def test_a_configuration_as_an_editor_of_windows_saves_it_is_taken_along(tmp_path):
    file = tmp_path / "ours.toml"
    file.write_text("folders = ['D:\\data']\n", encoding="utf-8-sig")
    offline_package._check_config(file, WINDOWS)
    file.write_text("folders = [", encoding="utf-8-sig")
    with pytest.raises(PackageRefused, match="cannot be read as TOML"):
        offline_package._check_config(file, WINDOWS)


@pytest.mark.parametrize("option", ["--wheels", "--output", "--python-runtime", "--config", "--model"])
def test_what_cannot_be_packed_is_refused_before_anything_is_written(
    tmp_path: Path, locks: Locks, wheels: Path, option: str
) -> None:
    there, missing, bad = tmp_path / "file", tmp_path / "missing", tmp_path / "bad.toml"
    there.write_bytes(b"")
    bad.write_text("folderz = []\n", encoding="utf-8")
    damaged = tiny_bundle(tmp_path / "tiny-1")
    (damaged / "golden.npz").write_bytes(b"changed")
    plans = {
        "--wheels": PackagePlan(LINUX, tmp_path / "out", wheels=missing),
        "--output": PackagePlan(LINUX, there, wheels=wheels),
        "--python-runtime": PackagePlan(LINUX, tmp_path / "out", runtime=missing, wheels=wheels),
        "--config": PackagePlan(LINUX, tmp_path / "out", config=bad, wheels=wheels),
        "--model": PackagePlan(LINUX, tmp_path / "out", models=(str(damaged),), wheels=wheels),
    }
    messages = {
        "--wheels": f"--wheels {missing}: is not a folder",
        "--output": f"--output {there}: is a file, not a folder",
        "--python-runtime": f"--python-runtime {missing}: no such file",
        "--config": f"--config: {bad}:",
        "--model": f"{damaged / 'golden.npz'}: SHA-256 is ",
    }

    with pytest.raises(PackageRefused if option != "--model" else BundleRefused) as refused:
        make_package(plans[option], locks)

    assert str(refused.value).startswith(messages[option])
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_shipped_anyway_is_packed_once(
    tmp_path: Path, wheels: Path, locks: Locks, without_pip: None
) -> None:
    plan = PackagePlan(LINUX, tmp_path, ("particle-shape",), wheels=wheels)

    made = make_package(plan, locks)

    assert not (unpacked(made.path, tmp_path / "unpacked") / "models").exists()
    assert len([part for part in made.parts if part.kind == "model"]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"PK"), id="no archive"),
        pytest.param(lambda path: shutil.copy(__file__, path), id="text"),
        pytest.param(lambda path: zipfile.ZipFile(path, "w").close(), id="empty zip"),
    ],
)
def test_licences_of_something_else_are_refused(tmp_path: Path, damage: object) -> None:
    damage(tmp_path / "x.zip")  # type: ignore[operator]

    with pytest.raises(PackageRefused, match=re.escape(str(tmp_path / "x.zip"))):
        read_member(tmp_path / "x.zip", "LICENCES.md")
