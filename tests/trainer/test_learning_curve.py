"""Accuracy against the number of micrographs: nested, grouped, and no more claimed than the folds bear out."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from toys import LABELS, RECIPE

from trainer.exporting.export import BundleNotes, export
from trainer.fitting.run_folder import read_record
from trainer.scoring import learning_curve as measuring
from trainer.scoring.accuracy_curve import Measured, Setting, concluded
from trainer.scoring.learning_curve import (
    CURVE,
    LearningCurve,
    LearningCurveError,
    draw_learning_curve,
    frozen_learning_curve,
    full_learning_curve,
    pooled_features,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import CrossValidation

QUICK = RECIPE.model_copy(update={"epochs": 1, "keep": "best"})
SIZES = (30, 60, 120, 180, 240)


def setting(folds: int = 5, repeats: int = 3) -> Setting:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return Setting("frozen features", "toy", "f" * 64, ("a", "b", "c"), folds, repeats, 0, when)


def curve(accuracy: Callable[[int], float], spread: float, sizes: tuple[int, ...] = SIZES) -> LearningCurve:
    """What is concluded of folds that scatter around a law, each fold in its own way, alike at all sizes."""
    draw = np.random.default_rng(1)
    own, rest = draw.normal(0, spread, 15), draw.normal(0, spread / 4, (len(sizes), 15))
    measured = [
        Measured(
            size / sizes[-1],
            (size,) * 15,
            (size // 2,) * 15,
            tuple(float(value) for value in np.clip(accuracy(size) + own + rest[at], 0, 1)),
        )
        for at, size in enumerate(sizes)
    ]
    return concluded(setting(), measured)


# --- what it says ---------------------------------------------------------------------------------


def law(size: int) -> float:
    return 0.98 - 2.0 * size**-0.6


def test_a_law_that_the_points_determine_is_found_and_carried_on() -> None:
    seen = curve(law, 0.004)
    assert seen.verdict == "rising"
    assert seen.law is not None
    assert seen.law.limit == pytest.approx(0.98, abs=0.02)
    np.testing.assert_allclose(seen.law.at(np.array([480.0])), law(480), atol=0.01)
    # Half of the error of 0.0946 at 240 is reached where 0.02 + 2 n^-0.6 = 0.0473: at n = 1288.
    assert seen.more_per_class == pytest.approx((1288 - 240) / 3, rel=0.35)
    assert seen.more_per_class_interval is not None
    assert seen.more_per_class_interval[0] < seen.more_per_class
    assert f"About {seen.more_per_class} more micrographs a class" in seen.statement
    assert "if the curve goes on as it has begun" in seen.statement


@pytest.mark.parametrize(
    ("accuracy", "spread", "verdict", "text"),
    [
        pytest.param(
            lambda size: 0.9 - 5 * size**-2.0, 0.003, "at its limit", "will hardly help", id="level"
        ),
        pytest.param(
            lambda size: 0.5 + 0.1 * np.log10(size), 0.004, "rising", "How many more would halve .* cannot be told",
            id="no end in sight",
        ),
        pytest.param(law, 0.2, "undecided", "the folds differ too much", id="noise"),
        pytest.param(lambda size: 1.0, 0.0, "at its limit", "will hardly help", id="no error left"),
    ],
)  # fmt: skip
def test_it_says_no_more_than_the_folds_bear_out(
    accuracy: Callable[[int], float], spread: float, verdict: str, text: str
) -> None:
    seen = curve(accuracy, spread)
    assert seen.verdict == verdict
    assert seen.more_per_class is seen.law is None
    assert re.search(text, seen.statement)


def test_the_gain_of_a_doubling_is_paired_over_the_folds() -> None:
    seen = curve(lambda size: 0.5 + 0.05 * np.log2(size / 30), 0.05)
    assert seen.doubling_gain == pytest.approx(0.05, abs=0.01)
    assert seen.doubling_standard_error is not None
    assert seen.doubling_standard_error < seen.points[-1].standard_error / 2


def test_repeats_make_the_standard_error_no_smaller() -> None:
    values = (0.7, 0.8, 0.9, 0.8, 0.7)
    once = concluded(setting(5, 1), [Measured(1.0, (9,) * 5, (3,) * 5, values)])
    thrice = concluded(setting(5, 3), [Measured(1.0, (9,) * 15, (3,) * 15, values * 3)])
    assert once.points[0].standard_error == thrice.points[0].standard_error
    assert once.points[0].standard_error == pytest.approx(np.std(values, ddof=1) / 5**0.5, abs=1e-4)
    assert once.verdict == "undecided"
    assert once.statement.startswith("One number of micrographs was measured")


# --- which micrographs ----------------------------------------------------------------------------


def many(dataset: DataSet) -> DataSet:
    """96 micrographs of two classes, 3 to 1, in 48 groups of two."""
    base, labels = dataset.kept[0], ["disc", "disc", "disc", "stripes"]
    crops = tuple(
        replace(base, crop_id=f"{at}", source=f"{at}.png", label=labels[at // 2 % 4], group=f"g{at // 2}")
        for at in range(96)
    )
    return replace(dataset, crops=crops)


def test_smaller_sets_are_part_of_larger_ones_and_never_of_the_held_out(dataset: DataSet) -> None:
    crops = many(dataset).kept
    for one in measuring._rounds(crops, 4, (0.125, 0.25, 0.5), 0):
        assert len(one.nested) == 4, "all of them is always measured"
        for smaller, larger in zip(one.nested, one.nested[1:], strict=False):
            assert smaller < larger
        assert not one.nested[-1] & one.held_out
        assert one.nested[-1] | one.held_out == {crop.group for crop in crops}


def test_every_size_has_the_classes_in_their_proportions(dataset: DataSet) -> None:
    crops = many(dataset).kept
    for one in measuring._rounds(crops, 4, (0.25, 0.5), 7):
        for groups in one.nested:
            counts = Counter(crop.label for crop in crops if crop.group in groups)
            assert counts["disc"] / counts.total() == pytest.approx(0.75, abs=0.1)


def test_the_smallest_set_has_every_class(dataset: DataSet) -> None:
    crops = many(dataset).kept
    for one in measuring._rounds(crops, 4, (0.001,), 0):
        assert {crop.label for crop in crops if crop.group in one.nested[0]} == set(LABELS)


def test_sets_follow_from_the_seed(dataset: DataSet) -> None:
    crops = many(dataset).kept
    drawn = [measuring._rounds(crops, 3, (0.25,), seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


# --- frozen ---------------------------------------------------------------------------------------


@pytest.fixture
def frozen(dataset: DataSet, toy_backbone: None, tmp_path: Path) -> LearningCurve:
    return frozen_learning_curve(
        dataset, tmp_path / "store", backbone="toy", weights="none", folds=4, repeats=2, seed=0
    )


def test_the_frozen_curve_counts_micrographs_and_groups(frozen: LearningCurve, dataset: DataSet) -> None:
    assert (frozen.kind, frozen.folds, frozen.repeats) == ("frozen features", 4, 2)
    assert frozen.dataset_fingerprint == dataset.fingerprint
    last = frozen.points[-1]
    assert (last.micrographs, last.groups, last.fraction) == (24, 24, 1.0)
    sizes = [point.micrographs for point in frozen.points]
    assert sizes == sorted(set(sizes))
    assert sizes[0] < 5
    assert all(len(point.by_fold) == 8 for point in frozen.points)
    assert last.balanced_accuracy > 0.8, "discs and stripes are told apart by any convolution"


def test_features_are_computed_once(
    dataset: DataSet, toy_backbone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pooled_features(dataset, tmp_path, "toy", "none")
    assert first.shape == (32, 16)
    monkeypatch.setattr(measuring, "build_backbone", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(pooled_features(dataset, tmp_path, "toy", "none"), first)


def test_an_interrupted_computation_goes_on(
    dataset: DataSet, toy_backbone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pooled_features(dataset, tmp_path / "whole", "toy", "none")
    monkeypatch.setattr(measuring, "_SAVED_EVERY", 10)

    def stopped(what: str, done: int, total: int) -> None:
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pooled_features(dataset, tmp_path / "part", "toy", "none", stopped)
    steps: list[int] = []
    again = pooled_features(
        dataset, tmp_path / "part", "toy", "none", lambda what, done, total: steps.append(done)
    )
    assert steps == list(range(21, 33))
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize(
    "content", [b"", b"PK not really", None], ids=["empty", "damaged", "another data set's"]
)
def test_features_that_do_not_serve_are_computed_again(
    dataset: DataSet, toy_backbone: None, tmp_path: Path, content: bytes | None
) -> None:
    expected = pooled_features(dataset, tmp_path / "a", "toy", "none")
    if content is None:
        pooled_features(replace(dataset, fingerprint="0" * 64), tmp_path / "b", "toy", "none")
    else:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "pooled.npz").write_bytes(content)
    np.testing.assert_array_equal(pooled_features(dataset, tmp_path / "b", "toy", "none"), expected)


def test_crops_of_one_micrograph_answer_together(dataset: DataSet) -> None:
    base = dataset.kept[0]
    rows = [("a", "disc", 0.0), ("b", "stripes", 1.0)] * 4
    rows += [("x", "disc", -1.0), ("x", "disc", -1.0), ("x", "disc", 1.5)]
    crops = [
        replace(base, crop_id=str(at), source=f"{name}{at}" if name != "x" else "x", group=name, label=label)
        for at, (name, label, _) in enumerate(rows)
    ]
    features = np.array([[value] for _, _, value in rows], dtype=np.float32)
    score = measuring._linear(crops, features, LABELS, frozenset({"a", "b"}), frozenset({"x"}))
    assert score == 1.0, "two of three crops say disc, and more surely"


def test_few_groups_make_fewer_folds_and_one_makes_none(dataset: DataSet) -> None:
    crops = many(dataset).kept
    few = [crop for crop in crops if crop.label == "disc" or crop.group in ("g3", "g7", "g11")]
    assert measuring._possible(few, 5) == 3
    one = [crop for crop in crops if crop.label == "disc" or crop.group == "g3"]
    with pytest.raises(
        LearningCurveError, match="class 'stripes' has a single group: a learning curve needs"
    ):
        measuring._possible(one, 5)


# --- full -----------------------------------------------------------------------------------------


def test_the_full_curve_goes_on_from_a_cross_validation(
    shared_folds: tuple[Path, CrossValidation],
    dataset: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(shutil.copytree(shared_folds[0], tmp_path / "run"))
    seen = full_learning_curve(dataset, run, QUICK, folds=2, fractions=(0.25,), seed=0)
    assert seen.kind == "fine-tuning"
    assert seen.points[-1].by_fold == shared_folds[1].by_fold, "the folds that were there already"
    assert [point.micrographs for point in seen.points] == [4, 16]
    folders = sorted((run / "curve").iterdir())
    assert [folder.name for folder in folders] == ["fold-0-crops-4", "fold-1-crops-4"]
    for at, folder in enumerate(folders):
        record = read_record(folder)
        assert set(record.held_out) > set(read_record(run / f"fold-{at}").held_out)
        assert record.part["train"] == 4
        assert (record.recipe.epochs, record.recipe.head_epochs) == (4, 4), "as many steps as all 16 make"
        assert not (folder / "bundle").exists()
    monkeypatch.setattr(
        "trainer.scoring.cross_validation.train", lambda *_, **__: pytest.fail("trained again")
    )
    again = full_learning_curve(dataset, run, QUICK, folds=2, fractions=(0.25,), seed=0)
    assert again.points == seen.points


# --- the file, the picture, the bundle ------------------------------------------------------------


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    seen = curve(law, 0.004)
    seen.write(tmp_path / CURVE)
    assert LearningCurve.read(tmp_path) == LearningCurve.read(tmp_path / CURVE) == seen


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"], ids=["none", "another", "damaged"])
def test_what_is_no_curve_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / CURVE).write_bytes(content)
    with pytest.raises(
        LearningCurveError, match=r"learning_curve\.json: no result of edge-trainer learning-"
    ):
        LearningCurve.read(tmp_path)


def test_the_picture_shows_every_point_and_the_law_beyond_them(tmp_path: Path) -> None:
    rising = curve(law, 0.004)
    full = rising.model_copy(update={"kind": "fine-tuning", "law": None})
    figure = draw_learning_curve(rising, full)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [f"{tick:.0f}" for tick in axes.get_xticks()] == [str(size) for size in (*SIZES, 960)]
    assert max(line.get_xdata().max() for line in axes.get_lines()) == pytest.approx(4 * SIZES[-1])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "fine-tuned network" in texts
    assert "power law, extrapolated" in texts
    figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_a_curve_in_the_run_folder_goes_into_the_bundle(
    shared_run: Path, dataset: DataSet, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(shared_run, tmp_path / "run"))
    seen = curve(law, 0.004).model_copy(update={"dataset_fingerprint": dataset.fingerprint})
    seen.write(run / CURVE)
    bundle = export(run, dataset, tmp_path / "b", BundleNotes("toy", "1"))
    assert LearningCurve.read(bundle.path) == seen
    assert {CURVE, "learning_curve.png", "training.json"} <= bundle.manifest.sha256.keys()
    card = (bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"## Would more micrographs help?\n\n{seen.statement}" in card
    assert "](learning_curve.png)" in card


def test_the_curve_of_another_data_set_stays_out(shared_run: Path, dataset: DataSet, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shared_run, tmp_path / "run"))
    curve(law, 0.004).write(run / CURVE)
    bundle = export(run, dataset, tmp_path / "b", BundleNotes("toy", "1"))
    assert CURVE not in bundle.manifest.sha256
