"""The rules of the house that tools check: lint, format, types, who may import whom, and the map of the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
IMPORT_LINTER = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-m", "ruff", "check", "."], id="ruff check"),
        pytest.param(["-m", "ruff", "format", "--check", "."], id="ruff format"),
        pytest.param(["-m", "mypy"], id="mypy strict"),
        pytest.param(["-c", IMPORT_LINTER], id="import contracts"),
    ],
)
def test_checked_by_tools(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def modules(package: str) -> set[str]:
    folder = REPOSITORY / package
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if path.stem != "__init__"
    }


@pytest.mark.parametrize("package", ["edge_agent", "trainer"])
def test_every_module_stands_in_a_layer(package: str) -> None:
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    layers = [layer for contract in contracts for layer in contract.get("layers", [])]
    named = {part.strip().removeprefix(f"{package}.") for layer in layers for part in layer.split("|")}
    assert modules(package) - named == set()


@pytest.mark.parametrize("package", ["edge_agent", "trainer"])
def test_contributing_maps_every_module(package: str) -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {name.split(".")[-1] for name in modules(package)}
    missing = [name for name in sorted(names) if not re.search(rf"`{name}`", text)]
    assert missing == []


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): count
        for package in ("edge_agent", "trainer")
        for path in (REPOSITORY / package).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_changelog_starts_with_this_version() -> None:
    from edge_agent import __version__

    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## ([0-9][0-9.]*)", text, re.MULTILINE)
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert versions[0] == __version__ == config["project"]["version"]
