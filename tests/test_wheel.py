"""The wheel by itself: small, complete, and the agent in it works away from the repository, without the trainer."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLES = sorted(path.parent.name for path in (REPOSITORY / "models").glob("*/manifest.json"))
TRAINING_STACK = ("tensorflow", "keras", "tf2onnx", "onnx")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy: a build must not leave anything behind in the repository."""
    tree, out = tmp_path_factory.mktemp("tree") / "scopewatch", tmp_path_factory.mktemp("wheel")
    kept = ("edge_agent", "trainer", "models", "pyproject.toml", "README.md", "LICENSE")
    for name in kept:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(exist_ok=True)
            shutil.copy(source, tree / name)
    # hatchling is among the test dependencies: no index is asked, so the test passes offline.
    command = [
        "-m",
        "pip",
        "wheel",
        str(tree),
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
    ]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into an empty folder."""
    target = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", str(wheel), "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


def run(
    installed: Path, tmp_path: Path, module: str, *arguments: str, hidden: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run an entry point of the installed wheel, far from the repository, some packages being out of sight."""
    start = (
        "import importlib.machinery as machinery, sys\n"
        f"hidden, installed = {set(hidden)!r}, {str(installed)!r}\n"
        "find = machinery.PathFinder.find_spec\n"
        "def seen(name, *where):\n"
        "    return None if name.partition('.')[0] in hidden else find(name, *where)\n"
        "machinery.PathFinder.find_spec = seen\n"
        f"import {module.partition('.')[0]} as package\n"
        "assert package.__file__.startswith(installed), package.__file__\n"
        f"sys.argv = ['command', *{list(arguments)!r}]\n"
        f"from {module} import main\n"
        "main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SCOPEWATCH_MODEL"}
    return subprocess.run(
        [sys.executable, "-c", start],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(installed)},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )


def test_it_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 25e6


def test_it_holds_both_packages_every_model_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"edge_agent", "trainer"}
    modules = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("edge_agent/**/*.py")}
    modules |= {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("trainer/**/*.py")}
    assert modules <= set(names)
    static = [path for path in (REPOSITORY / "edge_agent/page/static").rglob("*") if path.is_file()]
    assert {path.relative_to(REPOSITORY).as_posix() for path in static} <= set(names)
    assert "edge_agent/page/static/index.html" in names
    packed = {
        name.split("/")[2] for name in names if name.startswith("edge_agent/models/") and name.count("/") == 3
    }
    assert sorted(packed) == BUNDLES
    for bundle in BUNDLES:
        manifest = json.loads((REPOSITORY / "models" / bundle / "manifest.json").read_bytes())
        assert {f"edge_agent/models/{bundle}/{name}" for name in manifest["sha256"]} <= set(names)
    assert not [name for name in names if name.endswith((".dm3", ".dm4", ".pyc"))]


def test_its_metadata_name_the_commands_the_licence_and_the_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        commands = archive.read(f"{folder}/entry_points.txt").decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert (metadata["Name"], metadata["License-Expression"]) == ("scopewatch", "GPL-3.0-or-later")
    assert set(metadata.get_all("Provides-Extra", [])) >= {"train", "test"}
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [
        line for line in needed if line.startswith(TRAINING_STACK) and not line.startswith("onnxruntime")
    ]
    assert "edge-agent = edge_agent.__main__:main" in commands
    assert "edge-trainer = trainer.cli:main" in commands


@pytest.mark.skipif(not BUNDLES, reason="no model is published in models/ yet")
def test_the_installed_agent_finds_and_checks_its_models(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "edge_agent.cli", "models", "list", hidden=(*TRAINING_STACK, "trainer"))
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == BUNDLES
    checked = run(installed, tmp_path, "edge_agent.cli", "check", hidden=(*TRAINING_STACK, "trainer"))
    assert checked.returncode == 0, checked.stderr
    assert str(installed) in checked.stdout
    assert "passed" in checked.stdout


@pytest.mark.skipif(not BUNDLES, reason="no model is published in models/ yet")
def test_the_installed_agent_classifies(installed: Path, tmp_path: Path) -> None:
    hidden = (*TRAINING_STACK, "trainer")
    session = tmp_path / "session"
    simulated = run(
        installed,
        tmp_path,
        "edge_agent.cli",
        "simulate",
        str(session),
        "--files",
        "1",
        "--size",
        "256",
        hidden=hidden,
    )
    assert simulated.returncode == 0, simulated.stderr
    classified = run(installed, tmp_path, "edge_agent.cli", "classify", str(session), hidden=hidden)
    assert classified.returncode == 0, classified.stderr
    assert [path.name for path in session.glob("*.json")] == [
        f"{path.name}.json" for path in session.glob("*.dm3")
    ]


def test_the_installed_command_gives_first_aid_where_its_packages_are_missing(
    installed: Path, tmp_path: Path
) -> None:
    hidden = ("typer", "pydantic", "psutil", "numpy", "onnxruntime", "trainer")
    helped = run(installed, tmp_path, "edge_agent.__main__", "doctor", hidden=hidden)
    assert (helped.returncode in (0, 1), helped.stderr) == (True, "")
    assert "checks: " in helped.stdout.splitlines()[-1]
    refused = run(installed, tmp_path, "edge_agent.__main__", "status", hidden=hidden)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("edge-agent: this installation is broken: typer: ")


def test_without_the_training_stack_the_trainer_says_in_one_line_how_to_get_it(
    installed: Path, tmp_path: Path
) -> None:
    done = run(installed, tmp_path, "trainer.cli", "train", "data", "--run", "run", hidden=TRAINING_STACK)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "edge-trainer needs tensorflow, tf2onnx, onnx; install them, in the clone: pip install -e '.[train]'"
    ]


def test_a_wheel_is_no_place_to_publish_to(installed: Path, tmp_path: Path) -> None:
    """`models/` is the repository's; beside an installed package it would be a folder that nobody looks into."""
    code = "from trainer.exporting.publish import publish, PublishError\nfrom pathlib import Path\n"
    code += "try:\n    publish(Path('bundle'))\nexcept PublishError as error:\n    print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    assert done.stdout == "this installation has no repository around it; name the folder with --models\n", (
        done.stderr
    )
