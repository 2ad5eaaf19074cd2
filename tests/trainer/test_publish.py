"""Only what was evaluated, computes what it should, and is new, is published."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from edge_agent.model_bundle import BundleRefused, open_bundle
from trainer.exporting import bundle_writer
from trainer.exporting import publish as publishing
from trainer.exporting.bundle_writer import add_file
from trainer.exporting.export import BundleNotes, export
from trainer.exporting.front_matter import without_front_matter
from trainer.exporting.publish import PublishError, publish
from trainer.scoring.evaluation import evaluate, read_evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import CrossValidation


@pytest.fixture
def evaluated(bundle: Path, dataset: DataSet) -> Path:
    evaluate(bundle, dataset, "test")
    return bundle


def test_a_published_bundle_is_the_evaluated_one(evaluated: Path, tmp_path: Path) -> None:
    (evaluated / "scribble.txt").write_text("not named in the manifest")
    target = publish(evaluated, tmp_path / "models")
    assert target == tmp_path / "models" / "toy-1"
    published = {path.name: path.read_bytes() for path in target.iterdir()}
    before = {path.name: path.read_bytes() for path in evaluated.iterdir() if path.name != "scribble.txt"}
    assert published.keys() == before.keys()
    assert {name for name in before if published[name] != before[name]} == {"MODEL_CARD.md", "manifest.json"}
    assert {
        "manifest.json",
        "model.onnx",
        "golden.npz",
        "evaluation.json",
        "MODEL_CARD.md",
    } <= published.keys()
    told, known = (open_bundle(folder).manifest.model_dump() for folder in (target, evaluated))
    hashes = told.pop("sha256"), known.pop("sha256")
    assert told == known
    assert {name for name in hashes[0] if hashes[0][name] != hashes[1][name]} == {"MODEL_CARD.md"}
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy-1"]


def test_the_published_card_has_the_figures_and_is_else_the_same(evaluated: Path, tmp_path: Path) -> None:
    cards = [
        (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        for folder in (publish(evaluated, tmp_path / "models"), evaluated)
    ]
    published, before = (yaml.safe_load(card.split("---\n")[1]) for card in cards)
    figures = read_evaluation(open_bundle(evaluated)).figures
    index = published.pop("model-index")
    assert published == before
    assert index[0]["results"][0]["dataset"]["split"] == "test"
    metrics = {one["type"]: one["value"] for one in index[0]["results"][0]["metrics"]}
    assert metrics["balanced_accuracy"] == pytest.approx(figures.balanced_accuracy, abs=1e-4)
    assert without_front_matter(cards[0]) == without_front_matter(cards[1])


def test_a_bundle_without_a_card_is_published_as_it_is(evaluated: Path, tmp_path: Path) -> None:
    manifest = json.loads((evaluated / "manifest.json").read_bytes())
    del manifest["sha256"]["MODEL_CARD.md"]
    (evaluated / "manifest.json").write_text(json.dumps(manifest))
    target = publish(evaluated, tmp_path / "models")
    assert not (target / "MODEL_CARD.md").exists()
    assert open_bundle(target).sha256 == open_bundle(evaluated).sha256


def test_a_version_is_published_once(evaluated: Path, tmp_path: Path) -> None:
    target = publish(evaluated, tmp_path / "models")
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    with pytest.raises(
        PublishError, match="toy-1: published already; export under another --version, or remove"
    ):
        publish(evaluated, tmp_path / "models")
    assert before == {path: path.stat().st_mtime_ns for path in target.iterdir()}


def test_a_bundle_that_was_not_evaluated_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"toy-1: not evaluated; run edge-trainer evaluate .* first"):
        publish(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "evaluation.json", "MODEL_CARD.md"])
def test_a_bundle_that_was_tampered_with_is_refused(evaluated: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((evaluated / name).read_bytes())
    content[len(content) // 2] ^= 1
    (evaluated / name).write_bytes(content)
    with pytest.raises(BundleRefused, match=f"{name}: SHA-256 is .*the file was changed or damaged"):
        publish(evaluated, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_evaluation_of_another_model_is_refused(evaluated: Path, tmp_path: Path) -> None:
    evaluation = json.loads((evaluated / "evaluation.json").read_bytes())
    add_file(evaluated, "evaluation.json", json.dumps({**evaluation, "model_sha256": "0" * 64}).encode())
    with pytest.raises(PublishError, match=r"evaluates another model \(000000000000\.\.\.\)"):
        publish(evaluated, tmp_path / "models")


def test_an_ensemble_that_saw_what_it_was_evaluated_on_is_refused(
    shared_folds: tuple[Path, CrossValidation], dataset: DataSet, tmp_path: Path
) -> None:
    run, folds = shared_folds
    bundle = export(run, dataset, tmp_path / "b", BundleNotes("toy-folds", "1")).path
    evaluation = evaluate(bundle, dataset, "test")
    assert "these micrographs were trained on: the figures say nothing about others" in evaluation.warnings
    with pytest.raises(
        PublishError, match="scores the part test, which its 2 members have seen; evaluate another"
    ):
        publish(bundle, tmp_path / "models")
    evaluate(bundle, dataset, "test", cross_validation=folds)
    target = publish(bundle, tmp_path / "models")
    assert (target / "training.json").read_bytes() == (bundle / "training.json").read_bytes()


def test_something_else_under_the_name_of_the_evaluation_is_refused(bundle: Path, tmp_path: Path) -> None:
    add_file(bundle, "evaluation.json", b'{"model_sha256": "all is well"}')
    with pytest.raises(PublishError, match=r"evaluation\.json: not an evaluation that this version reads"):
        publish(bundle, tmp_path / "models")


def test_a_golden_replay_out_of_tolerance_is_refused(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(io.BytesIO((evaluated / "golden.npz").read_bytes())) as stored:
        golden: dict[str, Any] = {name: stored[name] for name in stored.files}
    golden["probabilities_0"] = golden["probabilities_0"] + np.float32(0.5)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **golden)
    monkeypatch.setattr(bundle_writer, "_FIXED", ())
    add_file(evaluated, "golden.npz", buffer.getvalue())
    with pytest.raises(PublishError, match=r"the golden replay is off by 5\.0e-01, more than 1e-03"):
        publish(evaluated, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_repositorys_models_are_the_default(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_REPOSITORY", tmp_path)
    with pytest.raises(PublishError, match="no repository around it; name the folder with --models"):
        publish(evaluated)
    (tmp_path / "pyproject.toml").touch()
    assert publish(evaluated) == tmp_path / "models" / "toy-1"
