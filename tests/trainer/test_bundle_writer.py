"""A bundle appears complete or not at all, and stays valid while files are added."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import Form, tiny_bundle, tiny_manifest, tiny_model

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import BundleRefused, open_bundle
from edge_agent.preprocessing import Preprocessing, TilePlan
from trainer.exporting import bundle_writer
from trainer.exporting.bundle_writer import BundleFiles, add_file, write_bundle
from trainer.exporting.onnx_metadata import stamped


class Stopped(BaseException):
    """Stands for a kill: not even `except Exception` sees it."""


def test_a_bundle_holds_what_it_states(tmp_path: Path) -> None:
    files = BundleFiles(tiny_model(), {"MODEL_CARD.md": b"# tiny\n"})
    bundle = write_bundle(tmp_path / "deep" / "tiny-1", files, tiny_manifest())
    folder = tmp_path / "deep" / "tiny-1"
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx",
        "golden.npz",
        "manifest.json",
        "MODEL_CARD.md",
    }
    stated = json.loads((folder / "manifest.json").read_bytes())["sha256"]
    assert stated == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("MODEL_CARD.md", "golden.npz", "model.onnx")
    }
    assert bundle.manifest.golden.cases == 3
    assert Classifier(bundle).replay_golden().passed


def test_nothing_else_is_left_in_the_folder_above(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny-1")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1"]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(Preprocessing(input_px=64), id="whole field"),
        pytest.param(Preprocessing(input_px=64, tiles=TilePlan(divisions=2)), id="quadrants"),
        pytest.param(Preprocessing(input_px=64, views=("flip_x", "rot180")), id="views"),
        pytest.param(
            Preprocessing(input_px=64, tiles=TilePlan(field_of_view_nm=50)), id="fixed field of view"
        ),
        pytest.param(Preprocessing(input_px=512), id="large input"),
    ],
)
def test_golden_cases_are_inputs_as_the_agent_cuts_them(tmp_path: Path, rule: Preprocessing) -> None:
    folder = tiny_bundle(tmp_path / "tiny-1", preprocessing=rule)
    with np.load(io.BytesIO((folder / "golden.npz").read_bytes())) as golden:
        inputs = [golden[f"input_{index}"] for index in range(3)]
    side = min(rule.input_px, 256)
    for one in inputs:
        assert one.shape[:2] == (1, 1)
        assert one.shape[2] * one.shape[3] == pytest.approx(side**2, rel=0.05)
        assert rule.value_range[0] <= one.min() < one.max() <= rule.value_range[1]
    assert len({one.shape for one in inputs}) == 3, "a square and two oblong ones"
    assert Classifier(open_bundle(folder)).replay_golden().passed


def test_two_exports_of_one_model_have_the_same_golden_cases(tmp_path: Path) -> None:
    one, two = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b")
    assert open_bundle(one).manifest.sha256["model.onnx"] == open_bundle(two).manifest.sha256["model.onnx"]
    with np.load(one / "golden.npz") as first, np.load(two / "golden.npz") as second:
        assert first.files == second.files
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name])


FORMS: dict[Form, tuple[set[str], tuple[int, int] | None]] = {
    "every class": ({"input", "probabilities", "cam"}, None),
    "winner": ({"input", "probabilities", "cam", "cam_every_class"}, None),
    "winner, one size": ({"input", "probabilities", "cam", "cam_every_class"}, (64, 64)),
    "no map": ({"input", "probabilities"}, None),
    "no map, one size": ({"input", "probabilities"}, (64, 64)),
}


@pytest.mark.parametrize(
    ("form", "roles", "size"), [(form, *rest) for form, rest in FORMS.items()], ids=FORMS
)
def test_golden_cases_suit_the_form_of_the_graph(
    tmp_path: Path, form: Form, roles: set[str], size: tuple[int, int] | None
) -> None:
    folder = tiny_bundle(tmp_path / "tiny-1", form=form)
    with np.load(folder / "golden.npz") as golden:
        assert {name.rpartition("_")[0] for name in golden.files} == roles
        shapes = [golden[f"input_{index}"].shape for index in range(3)]
        if "cam_every_class" in roles:
            for index in range(3):
                winner = int(golden[f"probabilities_{index}"].argmax())
                np.testing.assert_allclose(
                    golden[f"cam_every_class_{index}"][:, [winner]], golden[f"cam_{index}"], atol=1e-5
                )
    assert all(shape[:2] == (1, 1) for shape in shapes)
    assert {shape[2:] for shape in shapes} == {size} if size else len({shape[2:] for shape in shapes}) == 3
    bundle = open_bundle(folder)
    assert Classifier(bundle, without_map=bundle.manifest.tensors.cam is None).replay_golden().passed


@pytest.mark.parametrize(("asked", "stated"), [(0.0, 1e-3), (1e-3, 1e-3), (0.5, 0.5)])
def test_a_wider_tolerance_is_kept_and_no_narrower_one(tmp_path: Path, asked: float, stated: float) -> None:
    golden = tiny_manifest().golden.model_copy(update={"tolerance": asked})
    manifest = tiny_manifest().model_copy(update={"golden": golden})
    bundle = write_bundle(tmp_path / "tiny-1", BundleFiles(tiny_model()), manifest)
    assert bundle.manifest.golden.tolerance == stated


@pytest.mark.parametrize("occupant", ["folder", "file"])
def test_a_folder_that_is_there_is_not_touched(tmp_path: Path, occupant: str) -> None:
    target = tmp_path / "tiny-1"
    target.mkdir() if occupant == "folder" else target.write_text("mine")
    with pytest.raises(FileExistsError, match="tiny-1 exists; choose another folder or remove it first"):
        tiny_bundle(target)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1"]


def test_a_model_that_the_agent_refuses_leaves_nothing(tmp_path: Path) -> None:
    tensors = tiny_manifest().tensors
    wrong = tensors.model_copy(update={"cam": tensors.cam.model_copy(update={"name": "logits"})})
    manifest = tiny_manifest().model_copy(update={"tensors": wrong})
    with pytest.raises(BundleRefused, match="no output named logits"):
        write_bundle(tmp_path / "tiny-1", BundleFiles(tiny_model()), manifest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", range(1, 4))
def test_a_kill_at_any_write_leaves_nothing_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real, count = bundle_writer.write_durably, []

    def killed(path: Path, data: bytes) -> None:
        real(path, data)
        count.append(path)
        if len(count) == after:
            raise Stopped

    monkeypatch.setattr(bundle_writer, "write_durably", killed)
    with pytest.raises(Stopped):
        tiny_bundle(tmp_path / "tiny-1")
    assert not (tmp_path / "tiny-1").exists()


def test_other_files_cannot_take_the_place_of_the_model(tmp_path: Path) -> None:
    files = BundleFiles(tiny_model(), {"model.onnx": b"something else"})
    bundle = write_bundle(tmp_path / "tiny-1", files, tiny_manifest())
    assert bundle.model_bytes == stamped(tiny_model(), tiny_manifest())


# --- add_file -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny-1")


def test_a_file_is_added_and_replaced(folder: Path) -> None:
    before = open_bundle(folder)
    for content in (b"{}", b'{"newer": true}'):
        add_file(folder, "evaluation.json", content)
        bundle = open_bundle(folder)
        assert bundle.manifest.sha256["evaluation.json"] == hashlib.sha256(content).hexdigest()
        assert (folder / "evaluation.json").read_bytes() == content
    assert bundle.manifest.model_copy(update={"sha256": {}}) == before.manifest.model_copy(
        update={"sha256": {}}
    )
    assert bundle.sha256 == before.sha256


@pytest.mark.parametrize("after", range(4))
def test_the_bundle_is_valid_whenever_adding_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    add_file(folder, "evaluation.json", b"old")
    real, count = bundle_writer.write_durably, []

    def killed(path: Path, data: bytes) -> None:
        if len(count) == after:
            raise Stopped
        real(path, data)
        count.append(path)

    with monkeypatch.context() as patched:
        patched.setattr(bundle_writer, "write_durably", killed)
        if after < 3:
            with pytest.raises(Stopped):
                add_file(folder, "evaluation.json", b"new")
        else:
            add_file(folder, "evaluation.json", b"new")
    bundle = open_bundle(folder)
    stated = bundle.manifest.sha256.get("evaluation.json")
    assert stated in (None, *(hashlib.sha256(content).hexdigest() for content in (b"old", b"new")))
    add_file(folder, "evaluation.json", b"new")
    assert open_bundle(folder).manifest.sha256["evaluation.json"] == hashlib.sha256(b"new").hexdigest()


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "manifest.json"])
def test_what_a_bundle_is_cannot_be_replaced(folder: Path, name: str) -> None:
    before = (folder / name).read_bytes()
    with pytest.raises(ValueError, match="write a new bundle instead of replacing it"):
        add_file(folder, name, b"x")
    assert (folder / name).read_bytes() == before


def test_nothing_is_added_to_a_damaged_bundle(folder: Path) -> None:
    (folder / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleRefused, match="the file was changed or damaged"):
        add_file(folder, "evaluation.json", b"{}")
    assert not (folder / "evaluation.json").exists()


# --- ONNX Runtime -----------------------------------------------------------------------------------

WATCHED_IMPORT = """
import importlib, os, sys
import importlib.abc

seen = []

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
from trainer.exporting.bundle_writer import onnx_session
try:
    onnx_session(b"no model")
except Exception:
    pass
print(seen)
"""


@pytest.mark.parametrize("module", ["trainer.exporting.bundle_writer", "trainer.exporting.export"])
def test_telemetry_is_off_before_onnx_runtime_is_loaded_whatever_is_imported_first(module: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED_IMPORT, module],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == "['1']"


def test_no_module_of_the_trainer_imports_onnx_runtime_at_its_top() -> None:
    folder = Path(bundle_writer.__file__).parent
    early = re.compile(r"^(import|from) onnxruntime", re.MULTILINE)
    assert [
        path.name for path in folder.rglob("*.py") if early.search(path.read_text(encoding="utf-8"))
    ] == []
