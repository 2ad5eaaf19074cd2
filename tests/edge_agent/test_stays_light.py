"""No process of the agent ever loads the training stack, nor what ncempy would bring with it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bundles import tiny_bundle

from edge_agent.protocol import Job, WorkerSettings, job_line, settings_line
from edge_agent.sidecar import Finding, OutputPlan
from edge_agent.simulation import dm3_bytes, draw_field

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"tensorflow", "keras", "onnx", "tf2onnx", "matplotlib", "scipy", "h5py", "trainer"}
PARSING = {"numpy", "onnxruntime", "ncempy", "PIL"}
"""Only the worker parses and infers: a file that kills a parser must not kill the agent."""

IMPORT_ALL = """
import importlib, pkgutil, edge_agent
for module in pkgutil.walk_packages(edge_agent.__path__, "edge_agent."):
    importlib.import_module(module.name)
    print(module.name)
"""


def run(*arguments: str, text: str = "") -> tuple[str, set[str]]:
    """Run Python, and give its output and the names of all packages it loaded."""
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], input=text, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "edge_agent" in loaded
    return done.stdout, loaded


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny-1")


@pytest.fixture
def micrograph(tmp_path: Path) -> Path:
    path = tmp_path / "session" / "field.dm3"
    path.parent.mkdir()
    path.write_bytes(dm3_bytes(draw_field("round", np.random.default_rng(1), 256)))
    return path


def test_the_tripwire_notices_a_heavy_module() -> None:
    _, loaded = run("-c", "import edge_agent, h5py")

    assert HEAVY & loaded == {"h5py"}


def test_no_module_imports_anything_heavy() -> None:
    listed, loaded = run("-c", IMPORT_ALL)

    assert {"edge_agent.cli", "edge_agent.worker", "edge_agent.heatmap"} <= set(listed.split())
    assert not HEAVY & loaded


def test_the_worker_stays_light_while_it_classifies(bundle: Path, micrograph: Path) -> None:
    settings = WorkerSettings(str(bundle), OutputPlan(None, (micrograph.parent,)))
    jobs = f"{settings_line(settings)}\n{job_line(Job(micrograph))}\n"

    answers, loaded = run("-m", "edge_agent.worker", text=jobs)

    assert Finding.from_json(answers.splitlines()[1]).outcome == "classified"
    assert loaded >= {"onnxruntime", "PIL"}
    assert not HEAVY & loaded


def test_the_command_classify_stays_light(bundle: Path, micrograph: Path) -> None:
    _, loaded = run("-m", "edge_agent.cli", "classify", str(micrograph), "--model", str(bundle))

    assert micrograph.with_name("field.dm3.heatmap.png").is_file()
    assert not HEAVY & loaded


def test_the_live_agent_stays_light(bundle: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "session", ("--files", "2", "--rate", "10", "--size", "256", "--no-page")

    _, loaded = run("-m", "edge_agent.cli", "demo", "--keep", str(folder), "--model", str(bundle), *options)

    assert len(list(folder.glob("*.dm3.json"))) == 2
    assert not HEAVY & loaded


def test_the_agent_process_holds_no_parser() -> None:
    modules = (
        "cli",
        "service",
        "supervisor",
        "watcher",
        "journal",
        "status",
        "config",
        "sidecar",
        "protocol",
        "hosting.host",
        "log_reader",
    )

    _, loaded = run("-c", "".join(f"import edge_agent.{module}\n" for module in modules))

    assert not (HEAVY | PARSING) & loaded
