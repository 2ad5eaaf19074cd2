"""The main job, end to end: folders of dm3 -> a trained bundle -> the agent -> a sidecar and a heatmap.

Every stage is the command that a user types, in a process of its own, on simulated micrographs; the network is the
real default one with random weights, so nothing is said here about how well it does.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edge_agent.simulation import dm3_bytes, draw_field, spectrum_dm3_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.simulated_field import SimulatedField

pytestmark = pytest.mark.timeout(300)  # a fixture runs five commands, and TensorFlow loads slowly

RECIPE = {
    "weights": "none",
    "views": 2,
    "augmentation": {"window_px": 64},
    "head_epochs": 1,
    "epochs": 1,
    "batch": 4,
}


def run(program: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the two commands; a failure shows what it said."""
    done = subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        encoding="utf-8",
        timeout=110,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done


def clear_fields(label: str) -> Iterator[SimulatedField]:
    """Micrographs of a class without those that are nearly lost in noise."""
    fields = (draw_field(label, np.random.default_rng([seed, len(label)]), 256) for seed in itertools.count())
    return (field for field in fields if field.clear)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with eight micrographs each, and what lies about in a real archive beside them."""
    folder = tmp_path_factory.mktemp("raw")
    for label in ("rod", "round"):
        (folder / label).mkdir()
        for number, field in enumerate(itertools.islice(clear_fields(label), 8)):
            (folder / label / f"{label}{number}.dm3").write_bytes(dm3_bytes(field))
    (folder / "rod" / "eels.dm3").write_bytes(spectrum_dm3_bytes(np.random.default_rng(0)))
    (folder / "round" / "half.dm3").write_bytes((folder / "round" / "round0.dm3").read_bytes()[:5000])
    (folder / "notes.txt").write_text("grid 7")
    return folder


@pytest.fixture(scope="module")
def bundle(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prepare, train, export, evaluate."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    split = ("--test", 0.25, "--validation", 0.25)
    prepared = run("trainer.cli", "prepare", raw, "data", "--input-px", 64, *split, folder=folder)
    assert "16 crops of 16 micrographs" in prepared.stderr
    assert "2 files dropped" in prepared.stderr
    run("trainer.cli", "train", "data", "--run", "run", "--recipe", "recipe.json", folder=folder)
    exported = run(
        "trainer.cli", "export", "run", "shape", "--name", "shape", "--version", "1", folder=folder
    )
    assert "no limits, its answers will be ungated: " in exported.stderr
    assert "4 held-out micrographs of 2 classes are too few for limits" in exported.stderr
    evaluated = run("trainer.cli", "evaluate", "shape", "data", "--json", folder=folder)
    assert json.loads(evaluated.stdout)["figures"]["micrographs"] == 4
    return folder / "shape"


@pytest.fixture(scope="module")
def published(bundle: Path) -> Path:
    """The bundle where the lab keeps its models."""
    models = bundle.parent / "models"
    run("trainer.cli", "publish", bundle, "--models", models, folder=bundle.parent)
    return models / "shape-1"


def test_every_file_of_the_bundle_is_there_and_named(published: Path) -> None:
    manifest = json.loads((published / "manifest.json").read_bytes())
    files = {path.name for path in published.iterdir()}
    assert files == {*manifest["sha256"], "manifest.json"}
    assert {"model.onnx", "golden.npz", "evaluation.json", "MODEL_CARD.md", "labels.csv"} <= files
    assert (manifest["labels"], manifest["network"]["backbone"]) == (["rod", "round"], "efficientnet-lite0")


def test_the_agent_checks_the_model(published: Path, tmp_path: Path) -> None:
    said = run("edge_agent.cli", "check", "--model", published, folder=tmp_path).stdout
    assert "golden replay of 3 cases passed" in said


def test_the_agent_classifies_new_files_with_that_model(published: Path, tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    field = draw_field("round", np.random.default_rng(99), 256)
    (session / "new.dm3").write_bytes(dm3_bytes(field))
    (session / "eels.dm3").write_bytes(spectrum_dm3_bytes(np.random.default_rng(1)))
    out = tmp_path / "out"
    run("edge_agent.cli", "classify", session, "--output", out, "--model", published, folder=tmp_path)
    (sidecar_file,) = out.rglob("new.dm3.json")
    sidecar = json.loads(sidecar_file.read_bytes())
    manifest = json.loads((published / "manifest.json").read_bytes())
    assert sidecar["outcome"] == "classified"
    assert sidecar["model"] == {"name": "shape", "version": "1", "sha256": manifest["sha256"]["model.onnx"]}
    assert sidecar["prediction"]["decision"] == "ungated"
    assert set(sidecar["prediction"]["probabilities"]) == {"rod", "round"}
    assert sum(sidecar["prediction"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert sidecar["micrograph"]["pixel_size_nm"] == pytest.approx([field.pixel_size_nm] * 2)
    heatmap = sidecar_file.with_name(sidecar["cam"]["heatmap"])
    with Image.open(heatmap) as picture:
        assert min(picture.size) >= 256
        assert np.ptp(np.asarray(picture.convert("L"))) > 50
    (other,) = out.rglob("eels.dm3.json")
    assert json.loads(other.read_bytes())["outcome"] == "not_an_image"
    assert sorted(path.name for path in session.iterdir()) == ["eels.dm3", "new.dm3"], (
        "sources are left alone"
    )
