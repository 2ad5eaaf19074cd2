from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from small_wheels import small_source, small_wheel

from edge_agent.packing.package_errors import PackageFailed
from edge_agent.packing.target import Target
from edge_agent.packing.wheelhouse import _reason, fetch_source, fetch_wheels, install_tools

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS = Target("win_amd64", "3.11")


def test_the_other_platforms_wheels_come_whole_and_each_is_counted(tmp_path: Path) -> None:
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    files = [small_wheel(wheels, "alpha"), small_wheel(wheels, "beta", tag="cp311-cp311-win_amd64")]
    counted: list[int] = []

    fetch_wheels(files, WINDOWS, out, wheels=wheels, advance=lambda: counted.append(1))

    assert sorted(path.name for path in out.iterdir()) == sorted(file.file for file in files)
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            "other content",
            "alpha==1.0: not the file that was locked: pip refused what the index sent. Nothing was packed. Run "
            "this again; if it stays, the index or the way to it hands out something else: do not use it",
            id="another content under the same name",
        ),
        pytest.param(
            "not there",
            "alpha==1.0: not in {wheels} for this platform; put its wheel there, or leave --wheels out",
            id="not there",
        ),
        pytest.param(
            "for Linux",
            "alpha==1.0: not in {wheels} for this platform; put its wheel there, or leave --wheels out",
            id="there for another platform only",
        ),
    ],
)
def test_what_is_not_as_locked_is_not_taken(tmp_path: Path, damage: str, message: str) -> None:
    wheels = tmp_path / "wheels"
    file = small_wheel(wheels, "alpha")
    if damage == "other content":
        small_wheel(wheels, "alpha", licence="License-Expression: 0BSD")
    else:
        (wheels / file.file).unlink()
    if damage == "for Linux":
        file = replace(small_wheel(wheels, "alpha", tag="cp311-cp311-manylinux_2_28_x86_64"))

    with pytest.raises(PackageFailed) as failed:
        fetch_wheels([file], WINDOWS, tmp_path / "out", wheels=wheels)
    assert str(failed.value) == message.format(wheels=wheels)


def test_a_source_lies_in_the_given_folder(tmp_path: Path) -> None:
    file = small_source(tmp_path / "wheels", "alpha")
    (tmp_path / "out").mkdir()

    fetch_source(file, tmp_path / "out", tmp_path / "no tools", wheels=tmp_path / "wheels")
    assert (tmp_path / "out" / file.file).read_bytes() == (tmp_path / "wheels" / file.file).read_bytes()

    with pytest.raises(
        PackageFailed, match=r"alpha-1\.0\.tar\.gz: not the file that was locked: its SHA-256 is "
    ):
        fetch_source(replace(file, sha256=64 * "0"), tmp_path / "out", tmp_path, wheels=tmp_path / "wheels")


def test_tools_are_importable_from_their_folder(tmp_path: Path) -> None:
    install_tools([small_wheel(tmp_path / "wheels", "alpha")], tmp_path / "tools", wheels=tmp_path / "wheels")

    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'tools')!r}); import alpha; print(alpha.ANSWER)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "42\n"


@pytest.mark.parametrize(
    ("complaint", "meaning"),
    [
        pytest.param(
            "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(...: Failed to "
            "establish a new connection: [Errno -2] Name or service not known')'\n"
            "ERROR: Could not find a version that satisfies the requirement anyio==4.16.0 (from versions: none)\n",
            "the package index cannot be reached: this command needs a network; check it and pip's proxy settings, "
            "or give a folder that holds the wheels with --wheels",
            id="no network",
        ),
        pytest.param(
            "ERROR: Could not find a version that satisfies the requirement a==99 (from versions: 4.16.0)\n",
            "a==99: not in the package index for this platform any more; update scopewatch and its locks",
            id="withdrawn from the index",
        ),
        pytest.param(
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
            "{temporary} or the output folder: the disk is full; free 1 GB and run this again",
            id="disk full",
        ),
        pytest.param(
            "/usr/bin/python3: No module named pip\n",
            "{python}: this Python has no pip; run: {python} -m ensurepip",
            id="no pip",
        ),
        pytest.param(
            "ERROR: something new\n\n", "pip failed: ERROR: something new (python -m pip download shows more)",
            id="anything else",
        ),
        pytest.param("", "pip failed: no word (python -m pip download shows more)", id="killed"),
    ],
)  # fmt: skip
def test_what_pips_complaints_mean(complaint: str, meaning: str) -> None:
    import tempfile

    assert _reason(complaint, None) == meaning.format(temporary=tempfile.gettempdir(), python=sys.executable)
