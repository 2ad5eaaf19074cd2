"""The figures of a bundle: right, by group, and honest about what could not be read or may have leaked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics
from toys import LABELS, mask, prepared

from edge_agent.model_bundle import open_bundle
from edge_agent.preprocessing import CamMap
from trainer.evaluation import (
    CrossValidation,
    Evaluation,
    EvaluationError,
    Scored,
    balanced_accuracy,
    evaluate,
    figures,
    pointing,
    sources_of,
)
from trainer.split import SplitRule

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.crops import DataSet

THREE = ("cube", "rod", "round")


def scored(true: list[str], answered: list[str], groups: list[str] | None = None) -> list[Scored]:
    groups = groups or [f"g{index}" for index in range(len(true))]
    return [
        Scored(file=f"{i}.png", group=group, label=t, predicted=a, probability=0.9, decision="ungated")
        for i, (t, a, group) in enumerate(zip(true, answered, groups, strict=True))
    ]


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.choice(THREE, 60, p=[0.2, 0.2, 0.6]).tolist()
    answered = [t if random.random() < 0.6 else str(random.choice(THREE)) for t in true]
    seen = figures(scored(true, answered), THREE, 0)
    assert seen.confusion == tuple(
        map(tuple, metrics.confusion_matrix(true, answered, labels=THREE).tolist())
    )
    assert seen.accuracy == pytest.approx(metrics.accuracy_score(true, answered), abs=1e-4)
    assert seen.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(true, answered), abs=1e-4)
    expected = metrics.precision_recall_fscore_support(true, answered, labels=THREE)
    for index, label in enumerate(THREE):
        one = seen.classes[label]
        assert [one.precision, one.recall, one.f1] == pytest.approx(
            [part[index] for part in expected[:3]], abs=1e-4
        )
        assert one.micrographs == expected[3][index]
    assert seen.micrographs == sum(map(sum, seen.confusion)) == 60


def test_what_does_not_occur_is_unknown_and_not_zero() -> None:
    seen = figures(scored(["rod", "rod"], ["rod", "round"]), THREE, 0)
    assert seen.classes["cube"].model_dump() == {
        "micrographs": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }
    assert seen.classes["round"].model_dump() == {
        "micrographs": 0,
        "precision": 0.0,
        "recall": None,
        "f1": 0.0,
    }
    assert seen.balanced_accuracy == 0.5, "the mean over the classes that occur"


def test_decisions_are_counted() -> None:
    entries = scored(["rod"] * 3, ["rod"] * 3)
    entries[0] = entries[0].model_copy(update={"decision": "abstain"})
    assert figures(entries, THREE, 0).decisions == {"abstain": 1, "ungated": 2}


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_contains_the_estimate(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.choice(THREE, 80).tolist()
    answered = [t if random.random() < 0.8 else str(random.choice(THREE)) for t in true]
    seen = figures(scored(true, answered), THREE, seed)
    low, high = seen.balanced_accuracy_interval
    assert low < seen.balanced_accuracy < high
    assert 0.05 < high - low < 0.35


def test_the_interval_is_drawn_by_group() -> None:
    """Ten micrographs of one group are no more evidence than one."""
    true = ["rod", "round"] * 40
    answered = ["rod", "round"] * 34 + ["round", "rod"] * 6
    alone = figures(scored(true, answered), THREE, 0)
    groups = [f"session{index // 10}" for index in range(80)]
    together = figures(scored(true, answered, groups), THREE, 0)
    assert (alone.groups, together.groups) == (80, 8)
    assert alone.balanced_accuracy == together.balanced_accuracy

    def width(interval: tuple[float, float]) -> float:
        return interval[1] - interval[0]

    assert width(together.balanced_accuracy_interval) > 1.3 * width(alone.balanced_accuracy_interval)


def test_the_interval_follows_from_the_seed() -> None:
    entries = scored(["rod", "round"] * 20, ["rod", "round", "round", "round"] * 10)
    assert figures(entries, THREE, 1) == figures(entries, THREE, 1)
    assert figures(entries, THREE, 1) != figures(entries, THREE, 2)


def test_one_group_says_nothing_about_others() -> None:
    seen = figures(scored(["rod"], ["rod"]), THREE, 0)
    assert seen.balanced_accuracy_interval == (0.0, 1.0)


def test_balanced_accuracy_does_not_reward_the_largest_class() -> None:
    true = np.array([0] * 98 + [1] * 2)
    assert balanced_accuracy(true, np.zeros(100, dtype=np.intp)) == 0.5


# --- the pointing game ----------------------------------------------------------------------------


def cam(values: list[list[float]], box: tuple[int, int, int, int]) -> CamMap:
    return CamMap("rod", "cam", box, np.array(values, dtype=np.float32), "mean_where_overlapping")


QUARTER = np.zeros((40, 60), dtype=bool)
QUARTER[:20, :30] = True


@pytest.mark.parametrize(
    ("values", "hit", "energy"),
    [
        pytest.param([[9, 1], [1, 1]], True, 0.75, id="on it"),
        pytest.param([[1, 9], [1, 1]], False, 1 / 12, id="beside it"),
        pytest.param([[-1, -2], [-3, -4]], True, 0.25, id="nothing positive: a flat map"),
        pytest.param([[4, -9], [-9, -9]], True, 1.0, id="negative evidence does not count"),
    ],
)
def test_the_peak_and_the_share_of_evidence(values: list[list[float]], hit: bool, energy: float) -> None:
    seen = pointing(cam(values, (0, 0, 60, 40)), QUARTER)
    assert (seen.hit, seen.chance, seen.particle_share) == (hit, 0.25, 0.25)
    assert seen.energy == pytest.approx(energy)


def test_the_peak_may_lie_half_a_cell_off() -> None:
    touched = np.zeros((40, 60), dtype=bool)
    touched[19, 29] = True
    seen = pointing(cam([[1, 0], [0, 0]], (0, 0, 60, 40)), touched)
    assert seen.hit
    assert seen.chance == 0.25
    assert seen.particle_share == pytest.approx(1 / 2400)


def test_a_map_of_a_box_is_held_against_that_box() -> None:
    seen = pointing(cam([[1, 0], [0, 0]], (20, 10, 40, 30)), QUARTER)
    assert (seen.hit, seen.chance, seen.particle_share) == (True, 0.25, 0.25)
    assert not pointing(cam([[1.0]], (30, 20, 60, 40)), QUARTER).hit


def test_a_map_may_have_more_cells_than_the_picture_has_pixels() -> None:
    values = np.arange(17.0).reshape(1, 17).repeat(17, axis=0).tolist()
    seen = pointing(cam(values, (0, 0, 8, 8)), np.ones((8, 8), dtype=bool))
    assert (seen.hit, seen.chance, seen.particle_share) == (True, 1.0, 1.0)
    assert seen.energy == pytest.approx(1.0)


# --- evaluate -------------------------------------------------------------------------------------


def test_a_bundle_is_scored_on_held_out_source_micrographs(bundle: Path, dataset: DataSet) -> None:
    steps: list[tuple[str, int, int]] = []
    result = evaluate(bundle, dataset, "test", progress=lambda *step: steps.append(step))
    assert [entry.file for entry in result.predictions] == [crop.source for crop in dataset.test]
    assert result.figures == figures(result.predictions, LABELS, 0)
    assert result.figures.accuracy >= 0.75
    assert (result.bundle, result.part, result.labels) == ("toy-1", "test", LABELS)
    assert result.model_sha256 == open_bundle(bundle).sha256
    assert result.dataset_fingerprint == dataset.fingerprint
    assert (result.warnings, result.unreadable) == ((), {})
    assert steps[-1] == ("classified", 8, 8)


def test_the_evaluation_becomes_a_part_of_the_bundle(bundle: Path, dataset: DataSet) -> None:
    for seed in (0, 1):
        result = evaluate(bundle, dataset, "test", seed=seed)
        assert "evaluation.json" in open_bundle(bundle).manifest.sha256
        stored = (bundle / "evaluation.json").read_bytes()
        assert Evaluation.model_validate_json(stored) == result
        assert json.loads(stored)["schema"] == "scopewatch.evaluation/1"


def test_the_seed_draws_the_bootstrap_only(bundle: Path, dataset: DataSet) -> None:
    one, two = (evaluate(bundle, dataset, "train", seed=seed) for seed in (1, 1))
    assert one.figures == two.figures
    assert one.predictions == evaluate(bundle, dataset, "train", seed=2).predictions


def test_micrographs_that_cannot_be_read_are_reported_and_the_rest_is_scored(
    bundle: Path, raw: Path, dataset: DataSet, tmp_path: Path
) -> None:
    moved = replace(dataset, raw=shutil.copytree(raw, tmp_path / "raw"))
    gone, text, other = (crop.source for crop in dataset.test[:3])
    (moved.raw / gone).unlink()
    (moved.raw / text).write_text("this is no micrograph, and long enough to say so")
    Image.fromarray(mask("disc", 99) * 200).save(moved.raw / other)
    steps: list[int] = []
    result = evaluate(bundle, moved, "test", progress=lambda _, done, __: steps.append(done))
    assert set(result.unreadable) == {gone, text, other}
    assert "No such file" in result.unreadable[gone]
    assert "is neither DigitalMicrograph" in result.unreadable[text]
    assert result.unreadable[other].endswith("was changed since edge-trainer prepare; run that again")
    assert len(result.predictions) == result.figures.micrographs == 5
    assert steps[-1] == 8


def test_nothing_left_to_read_is_an_error(bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="none of the 8 micrographs can be read any more"):
        evaluate(bundle, replace(dataset, raw=tmp_path), "test")
    assert not (bundle / "evaluation.json").exists()


def test_an_empty_part_is_refused(bundle: Path, raw: Path, tmp_path: Path) -> None:
    data = prepared(raw, tmp_path / "data", split=SplitRule(test=0, validation=0.25))
    with pytest.raises(EvaluationError, match="no micrograph in the part test; prepare with another split"):
        evaluate(bundle, data, "test")


def test_classes_that_the_bundle_does_not_know_are_refused(bundle: Path, dataset: DataSet) -> None:
    crops = tuple(replace(crop, label="cube") if crop.label == "disc" else crop for crop in dataset.crops)
    with pytest.raises(EvaluationError, match="toy-1: does not know the classes cube of"):
        evaluate(bundle, replace(dataset, crops=crops), "test")


def leaked(dataset: DataSet) -> DataSet:
    """A test micrograph is put into the group of a training one."""
    group, victim = dataset.train[0].group, dataset.test[0]
    crops = [replace(crop, group=group) if crop is victim else crop for crop in dataset.crops]
    return replace(dataset, crops=tuple(crops))


FOLDS = CrossValidation(
    folds=2,
    seed=0,
    dataset_fingerprint="another",
    balanced_accuracy_mean=0.5,
    balanced_accuracy_standard_deviation=0.1,
    balanced_accuracy_standard_error=0.07,
    by_fold=(0.4, 0.6),
    pooled=figures(scored(["rod", "round"], ["rod", "rod"]), THREE, 0),
    recipe={},
)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        pytest.param("train", "these micrographs were trained on", id="training part"),
        pytest.param(
            "validation",
            "these micrographs chose the epoch that was kept: the figures flatter",
            id="validation part",
        ),
    ],
)
def test_figures_that_flatter_are_marked(bundle: Path, dataset: DataSet, part: str, text: str) -> None:
    (warning,) = evaluate(bundle, dataset, part).warnings  # type: ignore[arg-type]
    assert text in warning


def test_leaks_and_foreign_data_are_marked(bundle: Path, dataset: DataSet) -> None:
    foreign = replace(leaked(dataset), fingerprint="f" * 64)
    warnings = evaluate(bundle, foreign, "test", cross_validation=FOLDS).warnings
    assert len(warnings) == 3
    assert warnings[0].startswith("leak between parts: group ")
    assert "whether it saw these micrographs is not known" in warnings[1]
    assert warnings[2] == "the cross-validation recorded here was made on another data set"


def test_a_cross_validation_is_recorded_beside_the_figures(bundle: Path, dataset: DataSet) -> None:
    own = FOLDS.model_copy(update={"dataset_fingerprint": dataset.fingerprint})
    result = evaluate(bundle, dataset, "test", cross_validation=own)
    assert result.cross_validation == own
    assert result.warnings == ()


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "in class folders"])
def test_maps_are_held_against_masks(bundle: Path, dataset: DataSet, tmp_path: Path, nested: bool) -> None:
    for crop in dataset.test[1:]:
        name = crop.source if nested else crop.source.rpartition("/")[2]
        file = tmp_path / "masks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask(crop.label, int(crop.source[-6:-4]))).save(file)
    result = evaluate(bundle, dataset, "test", masks=tmp_path / "masks")
    assert result.predictions[0].peak_on_particle is None, "it has no mask"
    right = [entry for entry in result.predictions[1:] if entry.label == entry.predicted]
    seen = result.figures.cam
    assert seen is not None
    assert seen.micrographs == len(right)
    assert seen.peak_on_particle == pytest.approx(
        np.mean([bool(entry.peak_on_particle) for entry in right]), abs=1e-3
    )
    assert seen.chance == pytest.approx(np.mean([entry.chance for entry in right]), abs=1e-3)
    assert all(0 < (entry.particle_share or 0) < (entry.chance or 0) <= 1 for entry in right)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        pytest.param(
            np.ones((5, 5), np.uint8), r"the mask has shape \(5, 5\), the micrograph .* has ", id="size"
        ),
        pytest.param(
            np.ones((88, 72, 3), np.uint8),
            r"a mask is one grey picture of the micrograph's size",
            id="colour",
        ),
        pytest.param(None, "the mask cannot be read", id="no picture"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(
    bundle: Path, dataset: DataSet, tmp_path: Path, picture: np.ndarray | None, text: str
) -> None:
    file = tmp_path / dataset.test[0].source.rpartition("/")[2]
    if picture is None:
        file.write_text("no picture")
    else:
        Image.fromarray(picture).save(file)
    with pytest.raises(EvaluationError, match=text) as caught:
        evaluate(bundle, dataset, "test", masks=tmp_path)
    assert str(caught.value).startswith(str(file))


def test_a_micrograph_with_several_crops_is_scored_once(dataset: DataSet) -> None:
    crops = [crop for crop in dataset.test for _ in range(4)]
    assert [source.file for source in sources_of(crops)] == [crop.source for crop in dataset.test]
