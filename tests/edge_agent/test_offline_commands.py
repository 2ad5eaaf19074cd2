"""`package-offline`, `licences` and `sbom` as typed: one line and the exit code for what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

import edge_agent

if TYPE_CHECKING:
    from pathlib import Path


def agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(
            ("--platform", "mac"),
            2,
            "edge-agent: --platform mac: no archive is made for this; choose win_amd64 or linux_x86_64",
            id="platform",
        ),
        pytest.param(
            ("--model", "no-such-model"),
            2,
            "edge-agent: no-such-model: neither a folder nor a shipped model (shipped: ",
            id="model",
        ),
        pytest.param(
            ("--wheels", "{folder}"),
            1,
            "edge-agent: {first}: not in {folder} for this platform; put its wheel there, or leave --wheels out",
            id="no wheels",
        ),
    ],
)
def test_package_offline_says_why_not(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]

    done = agent("package-offline", "--output", str(tmp_path / "out"), *given)

    assert (done.returncode, done.stdout) == (code, "")
    from edge_agent.packing.lock_file import agent_lock
    from edge_agent.packing.target import Target

    first = agent_lock(Target("win_amd64", "3.11"))[0]
    said = message.format(folder=tmp_path, first=f"{first.name}=={first.version}")
    assert done.stderr.splitlines()[-1].startswith(said)
    assert not (tmp_path / "out").exists()


def test_licences_lists_this_installation() -> None:
    done = agent("licences")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "# Licences"
    (own,) = (line for line in lines if line.startswith(f"| scopewatch | {edge_agent.__version__} |"))
    assert own.startswith(f"| scopewatch | {edge_agent.__version__} | GPL-3.0-or-later | ")
    assert any(
        line.startswith("| ncempy | ") and "https://pypi.org/project/ncempy/" in line for line in lines
    )


def test_licences_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("scopewatch-1/LICENCES.md", "# Licences\n")

    assert agent("licences", str(tmp_path / "a.zip")).stdout == "# Licences\n"
    refused = agent("licences", __file__)
    assert (
        refused.returncode,
        refused.stderr.startswith(f"edge-agent: {__file__}: is no offline archive ("),
    ) == (
        2,
        True,
    )


def test_sbom_prints_json() -> None:
    done = agent("sbom")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metadata"]["component"]["version"] == edge_agent.__version__
