"""Grouped folds: everyone is judged once, by a network that saw nothing of their group."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from toys import LABELS, RECIPE, mask

from trainer.exporting.export import BundleNotes, export
from trainer.fitting.run_folder import RunError, read_history, read_record
from trainer.scoring import cross_validation as crossing
from trainer.scoring.cross_validation import cross_validate, read_cross_validation
from trainer.scoring.evaluation import EvaluationError

if TYPE_CHECKING:
    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import CrossValidation

pytestmark = pytest.mark.usefixtures("toy_backbone")

QUICK = RECIPE.model_copy(update={"epochs": 1, "keep": "best"})


@pytest.fixture
def finished(shared_folds: tuple[Path, CrossValidation]) -> tuple[Path, CrossValidation]:
    """Two folds; read only."""
    return shared_folds


@pytest.fixture
def run(finished: tuple[Path, CrossValidation], tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def scores(run: Path, fold: int) -> crossing.FoldScores:
    return crossing.FoldScores.model_validate_json((run / f"fold-{fold}" / "scores.json").read_bytes())


def test_every_micrograph_is_scored_once(finished: tuple[Path, CrossValidation], dataset: DataSet) -> None:
    run, result = finished
    seen = [entry.file for fold in (0, 1) for entry in scores(run, fold).scored]
    assert sorted(seen) == sorted(crop.source for crop in dataset.kept)
    assert result.pooled.micrographs == len(dataset.kept)
    assert result.unreadable == {}


def test_who_had_seen_the_answer_taught_but_is_not_scored(run: Path, dataset: DataSet) -> None:
    led = {dataset.train[0].source, dataset.test[0].source}
    told = dict.fromkeys(led, "by ada") | {dataset.train[1].source: "blind by ada"}
    crops = tuple(replace(crop, correction=told.get(crop.source, "")) for crop in dataset.crops)
    for fold in (0, 1):
        (run / f"fold-{fold}" / "scores.json").unlink()
    result = cross_validate(replace(dataset, crops=crops), run, QUICK, folds=2)
    seen = [entry.file for fold in (0, 1) for entry in scores(run, fold).scored]
    assert sorted(seen) == sorted(crop.source for crop in dataset.kept if crop.source not in led)
    assert result.pooled.micrographs == len(dataset.kept) - 2


def test_no_network_saw_the_groups_that_it_judges(
    finished: tuple[Path, CrossValidation], dataset: DataSet
) -> None:
    run, _ = finished
    for fold in (0, 1):
        record = read_record(run / f"fold-{fold}")
        judged = {entry.group for entry in scores(run, fold).scored}
        assert set(record.held_out) == judged
        assert record.part["train"] == sum(crop.group not in judged for crop in dataset.kept)


def test_nothing_is_chosen_by_looking_at_held_out_micrographs(finished: tuple[Path, CrossValidation]) -> None:
    run, result = finished
    assert result.recipe["keep"] == "last"
    for fold in (0, 1):
        assert {line.validation_loss for line in read_history(run / f"fold-{fold}")} == {None}


def test_the_figures_are_those_of_the_folds(finished: tuple[Path, CrossValidation]) -> None:
    run, result = finished
    by_fold = [scores(run, fold).balanced_accuracy for fold in (0, 1)]
    assert result.by_fold == tuple(by_fold)
    assert result.balanced_accuracy_mean == pytest.approx(np.mean(by_fold), abs=1e-4)
    assert result.balanced_accuracy_standard_deviation == pytest.approx(np.std(by_fold, ddof=1), abs=1e-4)
    assert result.balanced_accuracy_standard_error == pytest.approx(
        np.std(by_fold, ddof=1) / 2**0.5, abs=1e-4
    )
    assert tuple(result.pooled.classes) == LABELS


def test_the_result_is_read_back_from_folder_or_file(finished: tuple[Path, CrossValidation]) -> None:
    run, result = finished
    assert read_cross_validation(run) == read_cross_validation(run / "cross_validation.json") == result


def test_views_are_computed_once_for_all_folds(finished: tuple[Path, CrossValidation]) -> None:
    run, _ = finished
    assert (run / "features" / "views.npy").is_file()
    assert not any((run / f"fold-{fold}" / "features").exists() for fold in (0, 1))


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what is done."""
    done: list[str] = []
    for name in ("train", "export", "score"):
        real = getattr(crossing, name)

        def noted(*arguments: object, real: Any = real, name: str = name, **options: object) -> object:
            done.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(crossing, name, noted)
    return done


def test_finished_folds_are_not_computed_again(
    run: Path, finished: tuple[Path, CrossValidation], dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = counting(monkeypatch)
    assert cross_validate(dataset, run, QUICK, folds=2) == finished[1]
    assert done == []


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        pytest.param(("scores.json",), ["train", "score"], id="before the scores"),
        pytest.param(("scores.json", "bundle"), ["train", "export", "score"], id="before the bundle"),
    ],
)
def test_an_interrupted_fold_goes_on_and_ends_the_same(
    run: Path,
    finished: tuple[Path, CrossValidation],
    dataset: DataSet,
    monkeypatch: pytest.MonkeyPatch,
    lost: tuple[str, ...],
    again: list[str],
) -> None:
    for name in lost:
        path = run / "fold-1" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = counting(monkeypatch)
    assert cross_validate(dataset, run, QUICK, folds=2) == finished[1]
    assert done == again


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"folds": 4}, "held out", id="other folds"),
        pytest.param({"seed": 1}, "(seed|held out)", id="other seed"),
        pytest.param({"recipe": QUICK.model_copy(update={"epochs": 7})}, "recipe", id="other recipe"),
    ],
)
def test_the_folds_of_another_question_are_not_taken_for_answers(
    run: Path, dataset: DataSet, changes: dict[str, object], named: str
) -> None:
    arguments = {"recipe": QUICK, "folds": 2, "seed": 0, **changes}
    with pytest.raises(RunError, match=f"fold-0: holds a run with another {named}"):
        cross_validate(dataset, run, **arguments)  # type: ignore[arg-type]


def test_masks_given_later_are_scored_without_training_again(
    run: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "masks").mkdir()
    for crop in dataset.kept:
        name = crop.source.rpartition("/")[2]
        Image.fromarray(mask(crop.label, int(name[-6:-4]))).save(tmp_path / "masks" / name)
    done = counting(monkeypatch)
    result = cross_validate(dataset, run, QUICK, folds=2, masks=tmp_path / "masks")
    assert done == ["train", "score"] * 2, "train finds its weights and returns at once"
    assert result.pooled.cam is not None
    done.clear()
    assert cross_validate(dataset, run, QUICK, folds=2, masks=tmp_path / "masks") == result
    assert done == []


def test_micrographs_that_cannot_be_read_any_more_are_named(
    run: Path, dataset: DataSet, tmp_path: Path
) -> None:
    moved = replace(dataset, raw=shutil.copytree(dataset.raw, tmp_path / "raw"))
    lost = scores(run, 0).scored[0].file
    (moved.raw / lost).unlink()
    (run / "fold-0" / "scores.json").unlink()
    result = cross_validate(moved, run, QUICK, folds=2)
    assert set(result.unreadable) == {lost}
    assert result.pooled.micrographs == len(dataset.kept) - 1


def test_the_folds_make_one_bundle_that_no_micrograph_can_measure(
    finished: tuple[Path, CrossValidation], dataset: DataSet, tmp_path: Path
) -> None:
    bundle = export(finished[0], dataset, tmp_path / "b", BundleNotes("toy-folds", "1"))
    network = bundle.manifest.network
    assert (network.members, network.trained_parts) == (2, ("train", "validation", "test"))
    assert network.weights_kept == "last epoch"
    with (tmp_path / "b" / "labels.csv").open(newline="", encoding="utf-8") as file:
        assert {row["part"] for row in csv.DictReader(file)} == {"train"}
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| disc | 16 | 0 | 0 |" in card
    assert (
        "together they have seen every micrograph above. No micrograph of this data set can measure" in card
    )
    assert card.endswith("how well it does on micrographs it has not seen cannot be measured here.\n")


def test_one_fold_alone_was_tested_by_what_it_held_out(
    finished: tuple[Path, CrossValidation], dataset: DataSet, tmp_path: Path
) -> None:
    bundle = export(finished[0] / "fold-1", dataset, tmp_path / "b", BundleNotes("toy-fold", "1"))
    assert bundle.manifest.network.trained_parts == ("train", "validation", "test")
    with (tmp_path / "b" / "labels.csv").open(newline="", encoding="utf-8") as file:
        tested = {row["group"] for row in csv.DictReader(file) if row["part"] == "test"}
    assert tested == set(read_record(finished[0] / "fold-1").held_out)
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "only the groups that it held out (`test` above) were not trained on" in card


def test_scores_of_other_groups_are_not_taken_for_a_folds(
    run: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (scores(run, fold) for fold in (0, 1))
    (run / "fold-0" / "scores.json").write_bytes(two.model_dump_json().encode())
    done = counting(monkeypatch)
    cross_validate(dataset, run, QUICK, folds=2)
    assert done == ["train", "score"]
    assert scores(run, 0) == one


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"], ids=["none", "another", "damaged"])
def test_a_missing_or_damaged_result_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "cross_validation.json").write_bytes(content)
    with pytest.raises(
        EvaluationError, match=r"cross_validation\.json: no result of edge-trainer crossvalidate here"
    ):
        read_cross_validation(tmp_path)
