"""Several runs that answer together: trained in turn, exported as one graph, honest about what they saw."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from toys import LABELS, RECIPE

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from edge_agent.onnx_gate import gate_model
from trainer.exporting.export import BundleNotes, ExportError, export
from trainer.exporting.training_facts import read_training_facts
from trainer.fitting import ensemble as ensembles
from trainer.fitting.ensemble import as_used, members_of, train_ensemble, trained_parts
from trainer.fitting.features import shown
from trainer.fitting.run_folder import RunError, read_record
from trainer.fitting.training import load_run

if TYPE_CHECKING:
    from trainer.fitting.network import Network
    from trainer.fitting.run_folder import RunRecord
    from trainer.preparing.crops import DataSet

pytestmark = pytest.mark.usefixtures("toy_backbone")

QUICK = RECIPE.model_copy(update={"epochs": 1})


@pytest.fixture
def run(shared_ensemble: Path, tmp_path: Path) -> Path:
    """A copy of the ensemble, to be changed."""
    return Path(shutil.copytree(shared_ensemble, tmp_path / "run"))


@pytest.fixture(scope="module")
def bundle(shared_ensemble: Path, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ensemble's bundle; read only."""
    return export(
        shared_ensemble, dataset, tmp_path_factory.mktemp("both") / "both-1", BundleNotes("both", "1")
    ).path


def training(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which members are trained, and train none."""
    done: list[str] = []

    def noted(dataset: DataSet, run: Path, recipe: Any, **options: Any) -> None:
        done.append(f"{run.name} seed {options['seed']}")
        options["progress"]("head", 1, 2)

    monkeypatch.setattr(ensembles, "train", noted)
    return done


# --- training -------------------------------------------------------------------------------------


def test_members_are_ordinary_runs_with_seeds_in_a_row(shared_ensemble: Path) -> None:
    folders = members_of(shared_ensemble)
    assert folders == (shared_ensemble / "member-0", shared_ensemble / "member-1")
    assert [read_record(folder).seed for folder in folders] == [3, 4]
    assert all(read_record(folder).recipe == QUICK for folder in folders)
    assert not any((folder / "features").exists() for folder in folders), "one place for all"


def test_finished_members_are_not_trained_again(run: Path, dataset: DataSet) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("best.weights.h5")}
    assert train_ensemble(dataset, run, QUICK, members=2, seed=3) == members_of(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("best.weights.h5")} == before


def test_more_members_can_be_added(run: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    done, told = training(monkeypatch), []
    train_ensemble(dataset, run, QUICK, members=3, seed=3, progress=lambda *step: told.append(step))
    assert done == ["member-0 seed 3", "member-1 seed 4", "member-2 seed 5"]
    assert told[-1] == ("member 3 of 3: head", 1, 2)
    with pytest.raises(
        RunError, match=r"2 of 3 members have finished; run edge-trainer train with --members again"
    ):
        members_of(run)


@pytest.mark.parametrize(
    ("members", "seed", "text"),
    [
        pytest.param(1, 3, "at least 2 members, 1 asked for; leave --members out", id="one"),
        pytest.param(2, 9, "holds an ensemble with seed 3; give that one, or another --run", id="other seed"),
    ],
)
def test_what_does_not_fit_the_folder_is_refused(
    run: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch, members: int, seed: int, text: str
) -> None:
    done = training(monkeypatch)
    with pytest.raises(RunError, match=text):
        train_ensemble(dataset, run, QUICK, members=members, seed=seed)
    assert done == []


def test_an_ensemble_is_not_made_smaller(
    run: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    training(monkeypatch)
    train_ensemble(dataset, run, QUICK, members=4, seed=3)
    with pytest.raises(RunError, match="holds an ensemble of 4 members; ask for as many or more"):
        train_ensemble(dataset, run, QUICK, members=2, seed=3)


def test_a_folder_with_something_else_is_left_alone(
    shared_run: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training(monkeypatch)
    with pytest.raises(RunError, match="holds a single run; give another --run folder"):
        train_ensemble(dataset, shared_run, QUICK, members=2)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunError, match="not empty and no ensemble"):
        train_ensemble(dataset, tmp_path, QUICK, members=2)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("folder", "resume", "text"),
    [
        pytest.param("run", False, "holds an ensemble already; give another --run folder", id="unwanted"),
        pytest.param("new", True, r"no ensemble to resume here \(no ensemble\.json\)", id="missing"),
    ],
)
def test_resume_is_taken_at_its_word(
    run: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch, folder: str, resume: bool, text: str
) -> None:
    training(monkeypatch)
    with pytest.raises(RunError, match=text):
        train_ensemble(dataset, run.parent / folder, QUICK, members=2, seed=3, resume=resume)


def test_another_recipe_is_refused_by_the_member(run: Path, dataset: DataSet) -> None:
    with pytest.raises(RunError, match="member-0: holds a run with another recipe"):
        train_ensemble(dataset, run, QUICK.model_copy(update={"epochs": 5}), members=2, seed=3)


# --- members --------------------------------------------------------------------------------------


def test_a_single_run_is_its_own_member(shared_run: Path) -> None:
    assert members_of(shared_run) == (shared_run,)


def test_folds_are_members_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("fold-10", "fold-2", "fold-1-crops-30", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.weights.h5").touch()
    with pytest.raises(RunError, match=r"has folds but no cross_validation\.json"):
        members_of(tmp_path)
    (tmp_path / "cross_validation.json").touch()
    assert [folder.name for folder in members_of(tmp_path)] == ["fold-2", "fold-10"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, "no run.json here and no members; give the folder of a run", id="empty"),
        pytest.param(b"{}", r"ensemble\.json: cannot be read", id="damaged"),
    ],
)
def test_no_run_is_no_ensemble(tmp_path: Path, content: bytes | None, text: str) -> None:
    if content is not None:
        (tmp_path / "ensemble.json").write_bytes(content)
    with pytest.raises(RunError, match=text):
        members_of(tmp_path)


# --- the bundle -----------------------------------------------------------------------------------


def test_the_bundle_answers_with_the_mean_of_the_logits(
    shared_ensemble: Path, bundle: Path, dataset: DataSet
) -> None:
    networks = [load_run(folder)[1] for folder in members_of(shared_ensemble)]
    classifier = Classifier(open_bundle(bundle))
    for crop in dataset.test[:4]:
        inputs = shown(dataset, crop)[None, :, :, None] * 2 - 1
        maps = np.mean([np.asarray(one.scoring(inputs, training=False)[1]) for one in networks], axis=0)
        raised = np.exp(maps.mean(axis=(1, 2))[0])
        probabilities, cam = classifier.infer(inputs.transpose(0, 3, 1, 2))
        np.testing.assert_allclose(probabilities[0], raised / raised.sum(), atol=1e-5)
        np.testing.assert_allclose(cam, maps.transpose(0, 3, 1, 2), atol=1e-4)
        prediction = classifier.classify(read_micrograph(dataset.raw / crop.source))
        np.testing.assert_allclose(prediction.probabilities, raised / raised.sum(), atol=0.02)


def test_the_agents_gate_and_golden_replay_take_it(bundle: Path) -> None:
    opened = open_bundle(bundle)
    gate_model(opened.model_bytes, (("micrograph",), ("probabilities", "cam")))
    assert Classifier(opened).replay_golden().passed


def test_the_manifest_and_the_card_say_how_many_there_are(shared_ensemble: Path, bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    networks = [load_run(folder)[1] for folder in members_of(shared_ensemble)]
    assert manifest.network.members == 2
    assert manifest.network.parameters == sum(network.scoring.count_params() for network in networks)
    assert manifest.network.trained_parts == ("train",)
    assert manifest.parity.crops == 32
    assert "(32 channels of 2 networks)" in manifest.cam.description
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "An ensemble of 2 networks, whose logits and maps are averaged. Each: toy (" in card
    assert " parameters together), started from random" in card
    assert "seeds 3, 4." in card


def test_training_json_tells_of_every_member(shared_ensemble: Path, bundle: Path, dataset: DataSet) -> None:
    facts = read_training_facts(bundle)
    assert facts is not None
    assert [member.folder for member in facts.members] == ["member-0", "member-1"]
    assert [member.record.seed for member in facts.members] == [3, 4]
    assert all([line.stage for line in member.history] == ["head", "fine-tuning"] for member in facts.members)
    assert facts.run == str(shared_ensemble.resolve())
    assert (facts.dataset, facts.dataset_fingerprint) == (str(dataset.root), dataset.fingerprint)
    assert facts.trained_parts == ("train",)
    assert json.loads((bundle / "training.json").read_bytes())["schema"] == "scopewatch.training/1"


def test_a_bundle_without_the_facts_has_none_and_damaged_ones_are_named(tmp_path: Path) -> None:
    assert read_training_facts(tmp_path) is None
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(RunError, match=r"training\.json: cannot be read .*export the run again"):
        read_training_facts(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(
            {"labels": ("disc", "rings")}, r"toy \(stride 8, inputs -1 to 1, disc, rings\)", id="labels"
        ),
        pytest.param({"value_range": (0.0, 1.0)}, r"inputs 0 to 1", id="value range"),
        pytest.param({"stride": 16}, r"stride 16", id="stride"),
    ],
)
def test_members_that_do_not_average_are_refused(
    shared_ensemble: Path,
    dataset: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    text: str,
) -> None:
    def other(run: Path) -> tuple[RunRecord, Network]:
        record, network = load_run(run)
        if run.name == "member-1" and "labels" in change:
            network = replace(network, labels=change["labels"])
        elif run.name == "member-1":
            network = replace(network, backbone=replace(network.backbone, **change))
        return record, network

    monkeypatch.setattr("trainer.exporting.export.load_run", other)
    with pytest.raises(ExportError, match=rf"member-1: .*{text}.* does not average with toy \(stride 8"):
        export(shared_ensemble, dataset, tmp_path / "b", BundleNotes("both", "1"))


# --- what they saw --------------------------------------------------------------------------------


def fold(record: RunRecord, held_out: tuple[str, ...]) -> RunRecord:
    """The record of a fold: the data set's parts set aside."""
    parts = {"train": 20, "validation": 0, "test": 0}
    return record.model_copy(update={"part": parts, "held_out": held_out})


def test_an_ordinary_run_uses_the_parts_as_they_are(shared_run: Path, dataset: DataSet) -> None:
    record = read_record(shared_run)
    assert trained_parts([record], dataset) == ("train",)
    assert as_used([record], dataset) == dataset


def test_folds_turn_the_parts_into_trained_and_held_out(shared_run: Path, dataset: DataSet) -> None:
    groups = [crop.group for crop in dataset.kept]
    first, second = (fold(read_record(shared_run), tuple(part)) for part in (groups[::2], groups[1::2]))
    assert {crop.part for crop in as_used([first, second], dataset).kept} == {"train"}
    alone = as_used([first], dataset)
    assert {crop.group for crop in alone.test} == set(groups[::2])
    assert {crop.group for crop in alone.train} == set(groups[1::2])
    assert trained_parts([first, second], dataset) == ("train", "validation", "test")


def test_groups_left_out_of_the_training_part_are_not_called_trained(
    shared_run: Path, dataset: DataSet
) -> None:
    left_out = dataset.train[0].group
    record = read_record(shared_run).model_copy(update={"held_out": (left_out,)})
    used = as_used([record], dataset)
    assert left_out not in {crop.group for crop in used.train}
    assert used.validation == dataset.validation
    assert LABELS == used.labels
