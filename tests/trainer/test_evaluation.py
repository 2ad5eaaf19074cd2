"""The figures of a bundle: right, by group, and honest about what could not be read or may have leaked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from answered import THREE, answered, reopened, scored
from bundles import tiny_bundle
from PIL import Image
from toys import LABELS, mask, prepared

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from trainer.exporting.bundle_writer import add_file
from trainer.preparing.split import LabelsTable, SplitRule
from trainer.scoring.evaluation import (
    CrossValidation,
    Evaluation,
    EvaluationError,
    evaluate,
    figures,
    read_evaluation,
    sources_of,
)

if TYPE_CHECKING:
    from trainer.preparing.crops import DataSet

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
    assert warnings[0].startswith(
        "leak between parts: 1 of 8 test crops have a micrograph of the same group in train"
    )
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


# --- crops, tables, older files -------------------------------------------------------------------


def test_a_split_that_tears_micrographs_apart_is_scored_crop_by_crop(tmp_path: Path) -> None:
    made = answered(tmp_path, count=6, divisions=2, by="every-third")
    held_out = [
        replace(crop, part="test" if at % 3 == 0 else "train") for at, crop in enumerate(made.data.crops)
    ]
    data = replace(made.data, crops=tuple(held_out))
    result = evaluate(made.bundle, data, "test")
    assert [(one.file, one.box_px) for one in result.predictions] == [
        (crop.source, crop.box_px) for crop in data.test
    ]
    assert result.figures.micrographs == len(data.test) == 8
    assert result.warnings[0].startswith(
        "the split every-third puts crops of one micrograph into several parts"
    )
    assert any("leak between parts" in warning for warning in result.warnings)


def test_a_crop_is_answered_as_the_agent_answers_its_tile(tmp_path: Path) -> None:
    made = answered(tmp_path, count=2, divisions=2, by="every-third")
    result = evaluate(made.bundle, made.data, "test")
    classifier = Classifier(reopened(made))
    for crop, one in zip(made.data.crops, result.predictions, strict=True):
        tiles = classifier.classify(read_micrograph(made.data.raw / crop.source)).tiles
        (tile,) = [tile for tile in tiles if tile.box_px == crop.box_px]
        assert list(one.probabilities.values()) == pytest.approx(tile.probabilities, abs=1e-5)


@pytest.mark.parametrize("by", ["folder", "every-third"])
def test_a_network_without_a_map_is_scored_without_one(tmp_path: Path, by: str) -> None:
    made = answered(tmp_path, count=2, divisions=2, by=by, calibrated=False)
    rule = reopened(made).manifest.preprocessing
    mapless = tiny_bundle(tmp_path / "mapless-1", labels=THREE, preprocessing=rule, form="no map")
    for crop in made.data.crops:
        file = tmp_path / "masks" / crop.source
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones(crop.shape_px, np.uint8)).save(file)

    seen, expected = (
        evaluate(path, made.data, "test", masks=tmp_path / "masks") for path in (mapless, made.bundle)
    )

    assert (seen.figures.cam, expected.figures.cam is None) == (None, False)
    assert [one.predicted for one in seen.predictions] == [one.predicted for one in expected.predictions]


def test_a_box_that_the_bundle_does_not_cut_is_refused(tmp_path: Path) -> None:
    made = answered(tmp_path, count=1, by="every-third")
    moved = tuple(replace(crop, box_px=(1, 1, 9, 9)) for crop in made.data.crops)
    with pytest.raises(EvaluationError, match=r"the bundle's tile plan has no box \(1, 1, 9, 9\)"):
        evaluate(made.bundle, replace(made.data, crops=moved), "test")


def test_what_the_files_say_is_recorded_with_each_answer(tmp_path: Path) -> None:
    made = answered(tmp_path, count=2)
    first = evaluate(made.bundle, made.data, "test").predictions[0]
    assert list(first.probabilities) == list(THREE)
    assert sum(first.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert first.pixel_size_nm == pytest.approx(0.2, rel=1e-3)
    assert first.acquired == "2024-03-04T09:30:00+00:00"
    assert first.microscope
    assert first.box_px is None


def test_a_labels_table_is_a_way_to_look_at_the_accuracy(tmp_path: Path) -> None:
    made = answered(tmp_path, count=4, group_of=1)
    files = [crop.source for crop in made.data.crops]
    rows = {file: {"file": file, "operator": "Ann" if at < 2 else "Bo"} for at, file in enumerate(files[:3])}
    table = LabelsTable(tmp_path / "labels.csv", ("file", "operator"), rows)
    result = evaluate(made.bundle, made.data, "test", table=table)
    assert [one.told for one in result.predictions] == [
        {"operator": "Ann"},
        {"operator": "Ann"},
        {"operator": "Bo"},
        {},
    ]
    seen = {one.name: one.micrographs for one in result.figures.slices["operator"]}
    assert seen == {"Ann": 2, "Bo": 1, "not known": 1}


OLD = """{
 "schema": "scopewatch.evaluation/1", "bundle": "toy-1", "model_sha256": "SHA", "dataset_fingerprint": "f",
 "part": "test", "made": "2026-11-22T16:12:01Z", "labels": ["disc", "stripes"],
 "figures": {"micrographs": 1, "groups": 1, "accuracy": 1.0, "balanced_accuracy": 1.0,
  "balanced_accuracy_interval": [0.0, 1.0],
  "classes": {"disc": {"micrographs": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0},
              "stripes": {"micrographs": 0, "precision": null, "recall": null, "f1": null}},
  "confusion": [[1, 0], [0, 0]], "decisions": {"ungated": 1}, "cam": null},
 "warnings": [], "unreadable": {},
 "predictions": [{"file": "disc/a.png", "group": "g", "label": "disc", "predicted": "disc", "probability": 0.9,
  "decision": "ungated", "peak_on_particle": null, "energy_on_particles": null, "chance": null,
  "particle_share": null}],
 "cross_validation": null}"""


def test_an_evaluation_of_an_older_version_is_read(bundle: Path) -> None:
    add_file(bundle, "evaluation.json", OLD.replace("SHA", open_bundle(bundle).sha256).encode())
    seen = read_evaluation(open_bundle(bundle))
    assert seen.predictions[0].probabilities == {}
    assert (seen.dataset, seen.figures.calibration) == ("", None)
    assert (seen.figures.selective, seen.figures.accepted, seen.figures.reasons) == (None, None, {})


def test_the_shipped_evaluation_is_read() -> None:
    shipped = open_bundle(Path(__file__).parents[2] / "models" / "particle-shape-1.2")
    seen = read_evaluation(shipped)
    again = figures(seen.predictions, seen.labels, seen.seed)
    assert again.balanced_accuracy == seen.figures.balanced_accuracy
    assert again.balanced_accuracy_interval == seen.figures.balanced_accuracy_interval


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, "not evaluated; run edge-trainer evaluate", id="none"),
        pytest.param(OLD, r"evaluates another model \(SHA", id="of another model"),
        pytest.param("{", "not an evaluation that this version reads", id="damaged"),
    ],
)
def test_an_evaluation_that_is_none_is_refused(bundle: Path, content: str | None, text: str) -> None:
    if content is not None:
        add_file(bundle, "evaluation.json", content.encode())
    with pytest.raises(EvaluationError, match=text):
        read_evaluation(open_bundle(bundle))
