"""The locks that are checked in: complete, of the right platform, within pyproject's ranges, without ballast."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edge_agent.packing.licences import normal_name
from edge_agent.packing.lock_file import FOLDER, agent_lock, build_lock, pip_lock, read_lock, sources_lock
from edge_agent.packing.package_errors import PackageFailed
from edge_agent.packing.target import PLATFORMS, PYTHONS, Target, wheel_runs_on

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NEVER_IMPORTED = {"scipy", "matplotlib", "h5py", "hdf5plugin", "flatbuffers", "protobuf", "sympy"}
TARGETS = [Target(platform, python) for platform in PLATFORMS for python in PYTHONS]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENTRY = "# a-1-py3-none-any.whl\na==1 --hash=sha256:" + 64 * "0" + "\n"


def requirements(target: Target) -> list[Requirement]:
    system = {"sys_platform": "win32" if target.is_windows else "linux", "python_version": target.python}
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["mqtt"]]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate(system)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.label)
def test_the_agents_lock_satisfies_pyproject(target: Target) -> None:
    locked = {file.name: file.version for file in agent_lock(target)}
    wanted = requirements(target)

    assert {normal_name(one.name) for one in wanted} <= set(locked)
    outside = [str(one) for one in wanted if not one.specifier.contains(locked[normal_name(one.name)])]
    assert outside == [], "run: python tests/long/lock.py"


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.label)
def test_the_agents_lock_holds_wheels_of_its_platform_and_no_ballast(target: Target) -> None:
    files = agent_lock(target)

    assert [file.file for file in files if not wheel_runs_on(file.file, target)] == []
    assert NEVER_IMPORTED & {file.name for file in files} == set()
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert normal_name(file.file.partition("-")[0]) == file.name
        assert file.file.split("-")[1] == file.version


def test_the_source_of_what_is_under_gpl_is_locked_in_the_version_that_runs() -> None:
    (source,) = sources_lock()

    assert source.file.endswith(".tar.gz")
    for target in TARGETS:
        (wheel,) = (file for file in agent_lock(target) if file.name == source.name == "ncempy")
        assert wheel.version == source.version


def test_the_other_locks() -> None:
    assert [file.name for file in pip_lock()] == ["pip"]
    assert {"hatchling", "setuptools", "wheel"} <= {file.name for file in build_lock()}
    assert len(read_lock(REPOSITORY / "tests" / "requirements-linux_x86_64-py311.txt")) > 100


def test_no_lock_names_an_address() -> None:
    locks = [*FOLDER.glob("*.txt"), *(REPOSITORY / "tests").glob("requirements-*.txt")]

    assert len(locks) == len(TARGETS) + 4
    assert [lock.name for lock in locks if "://" in lock.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "0 requirements, 0 of them whole; install scopewatch again", id="empty"),
        pytest.param(
            ENTRY + "b==2\n",
            "2 requirements, 1 of them whole; install scopewatch again",
            id="one without a hash",
        ),
        pytest.param(
            ENTRY[:-10], "1 requirements, 0 of them whole; install scopewatch again", id="cut off in the hash"
        ),
        pytest.param(
            ENTRY.replace("# ", "#\n# x\n# ").replace("==", "=>"),
            "1 requirements, 0 of them whole; install scopewatch again",
            id="a range",
        ),
    ],
)
def test_a_damaged_lock_is_not_taken(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lock.txt").write_text(text, encoding="utf-8")

    with pytest.raises(PackageFailed) as failed:
        read_lock(tmp_path / "lock.txt")
    assert str(failed.value) == f"{tmp_path / 'lock.txt'}: {message}"


def test_a_missing_lock_is_said(tmp_path: Path) -> None:
    with pytest.raises(PackageFailed, match=r"cannot be read .*; install scopewatch again"):
        read_lock(tmp_path / "lock.txt")
