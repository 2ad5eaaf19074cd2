"""What a network was taught and what it was asked: never the same micrograph, in whichever way it is held out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from limited import Look, Spy, changed_manifest

from edge_agent.model_bundle import open_bundle
from trainer.fitting.run_folder import read_record
from trainer.scoring.evaluation import sources_of
from trainer.trusting import held_out as module
from trainer.trusting.held_out import (
    HeldOut,
    held_out_by_folds,
    held_out_part,
    learnt,
    middle,
    observer_of,
)
from trainer.trusting.trust_record import TrustError

if TYPE_CHECKING:
    from pathlib import Path

    from limited import Limited


def silent(*_: object) -> None:
    """Show no progress."""


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy()
    monkeypatch.setattr(module, "observe_all", found)
    return found


ByFolds = tuple[list[Look], tuple[HeldOut, ...]]

# --- by folds -------------------------------------------------------------------------------------


def test_no_fold_learns_from_a_group_that_it_is_asked_about(
    limited_by_folds: ByFolds, limited_folds: Path
) -> None:
    looks, _ = limited_by_folds
    assert len(looks) == 6
    for taught, asked in zip(looks[::2], looks[1::2], strict=True):
        assert taught.folder == asked.folder
        unseen = set(read_record(taught.folder.parent).held_out)
        assert {source.group for source in asked.sources} <= unseen
        assert not {source.group for source in taught.sources} & unseen
        assert not {one.file for one in taught.sources} & {one.file for one in asked.sources}


def test_each_training_micrograph_is_asked_about_once_and_no_other(
    limited_by_folds: ByFolds, limited: Limited
) -> None:
    _, held = limited_by_folds
    files = [one.seen.source.file for one in held]
    assert sorted(files) == sorted(source.file for source in sources_of(limited.dataset.train))
    others = {crop.source for part in ("validation", "test") for crop in limited.dataset.part(part)}  # type: ignore[arg-type]
    assert not others & set(files)
    assert {one.part for one in held} == {"fold-0", "fold-1", "fold-2"}


def test_who_had_seen_the_answer_teaches_and_is_not_asked_about(
    limited: Limited, limited_folds: Path, spy: Spy
) -> None:
    led = limited.dataset.train[0].source
    crops = tuple(
        replace(crop, correction="by ada" if crop.source == led else "") for crop in limited.dataset.crops
    )
    manifest = open_bundle(limited.bare).manifest
    held = held_out_by_folds(limited_folds, manifest, replace(limited.dataset, crops=crops), silent)
    asked = {one.seen.source.file for one in held}
    assert asked == {crop.source for crop in limited.dataset.train} - {led}


def test_each_goes_with_the_lesson_of_the_fold_that_did_not_see_it(
    limited_by_folds: ByFolds, limited: Limited, limited_folds: Path
) -> None:
    _, held = limited_by_folds
    fold = "fold-2"
    bundle = open_bundle(limited_folds / fold / "bundle")
    unseen = set(read_record(limited_folds / fold).held_out)
    taught = [one for one in sources_of(limited.dataset.kept) if one.group not in unseen]
    alone = learnt(observer_of(bundle), limited.dataset, taught, silent)
    (lesson,) = {id(one.lesson): one.lesson for one in held if one.part == fold}.values()
    assert alone.statistics is not None
    assert lesson.statistics is not None
    np.testing.assert_array_equal(lesson.statistics.centre, alone.statistics.centre)
    assert (lesson.guards, lesson.ranges, lesson.usual) == (alone.guards, alone.ranges, alone.usual)


def test_folds_are_shown_micrographs_in_the_views_of_the_bundle(
    limited: Limited, limited_folds: Path
) -> None:
    manifest = open_bundle(limited.bare).manifest
    rule = manifest.preprocessing.model_copy(update={"views": ("identity", "flip_x")})
    few = replace(limited.dataset, crops=limited.dataset.train[:24])
    viewed = manifest.model_copy(update={"preprocessing": rule})
    held = held_out_by_folds(limited_folds, viewed, few, silent)
    assert {len(one.seen.logits) for one in held} == {2}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param({"dataset_fingerprint": "other"}, "a fold of another data set than", id="another data set"),
        pytest.param(
            {"labels": ("stripes", "disc")},
            r"a fold of tiny \(stripes, disc\), the bundle is of tiny \(disc, stripes\); give folds of the same",
            id="other labels",
        ),
        pytest.param({"network": "mobilenetv2"}, "a fold of mobilenetv2", id="another backbone"),
    ],
)  # fmt: skip
def test_folds_of_something_else_are_refused_before_any_work(
    limited: Limited, limited_folds: Path, tmp_path: Path, spy: Spy, change: dict[str, Any], text: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(limited_folds, run)
    if "network" in change:
        network = open_bundle(run / "fold-2" / "bundle").manifest.network
        change = {"network": network.model_copy(update={"backbone": change["network"]})}
    changed_manifest(limited_folds / "fold-2" / "bundle", tmp_path / "new", **change)
    shutil.rmtree(run / "fold-2" / "bundle")
    (tmp_path / "new").rename(run / "fold-2" / "bundle")
    with pytest.raises(TrustError, match=text):
        held_out_by_folds(run, open_bundle(limited.bare).manifest, limited.dataset, silent)
    assert spy.looks == []


def test_folds_of_two_runs_in_one_folder_are_refused(
    limited: Limited, limited_folds: Path, tmp_path: Path
) -> None:
    shutil.copytree(limited_folds, tmp_path / "run")
    shutil.copytree(limited_folds / "fold-1", tmp_path / "run" / "fold-3")
    with pytest.raises(
        TrustError, match="20 groups are held out by two folds, so these are of two cross-val"
    ):
        held_out_by_folds(tmp_path / "run", open_bundle(limited.bare).manifest, limited.dataset, silent)


def test_a_folder_without_folds_says_what_to_run(limited: Limited, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="no folds here; run edge-trainer crossvalidate first"):
        held_out_by_folds(tmp_path, open_bundle(limited.bare).manifest, limited.dataset, silent)


# --- by a part ------------------------------------------------------------------------------------


def test_a_part_is_asked_about_with_the_lesson_of_the_training_part(limited: Limited, spy: Spy) -> None:
    steps: list[tuple[str, int, int]] = []
    observer = observer_of(open_bundle(limited.bare))
    lesson = learnt(
        observer, limited.dataset, sources_of(limited.dataset.train), lambda *step: steps.append(step)
    )
    held = held_out_part(observer, lesson, limited.dataset, "test", lambda *step: steps.append(step))
    taught, asked = spy.looks
    assert {source.file for source in taught.sources} == {crop.source for crop in limited.dataset.train}
    assert {source.file for source in asked.sources} == {crop.source for crop in limited.dataset.test}
    assert {id(one.lesson) for one in held} == {id(lesson)}
    assert [steps[0], steps[24], steps[-1]] == [
        ("training micrographs", 0, 24),
        ("training micrographs", 24, 24),
        ("test micrographs", 12, 12),
    ]


def test_files_that_are_gone_are_left_out(limited: Limited, tmp_path: Path) -> None:
    raw = shutil.copytree(limited.dataset.raw, tmp_path / "raw")
    moved = replace(limited.dataset, raw=raw)
    for crop in limited.dataset.train[:2]:
        (raw / crop.source).unlink()
    observer = observer_of(open_bundle(limited.bare))
    lesson = learnt(observer, moved, sources_of(moved.train), silent)
    assert lesson.statistics is not None
    assert lesson.statistics.micrographs == 22
    with pytest.raises(TrustError, match="none of the 24 training micrographs can be read any more"):
        learnt(observer, replace(moved, raw=tmp_path / "gone"), sources_of(moved.train), silent)


def test_a_few_training_micrographs_teach_no_novelty_and_no_guards(limited: Limited) -> None:
    observer = observer_of(open_bundle(limited.bare))
    lesson = learnt(observer, limited.dataset, sources_of(limited.dataset.train[:12]), silent)
    assert lesson.statistics is None
    assert lesson.note == "novelty needs 20 training micrographs, there are 12"
    assert lesson.guards.least_sharpness is None
    assert lesson.usual.contrast is None


def test_what_is_kept_of_a_micrograph_is_small(limited: Limited) -> None:
    """Ten thousand of them must fit into memory: no pixels, no maps."""
    observer = observer_of(open_bundle(limited.bare))
    (one, *_) = held_out_part(
        observer, learnt(observer, limited.dataset, sources_of(limited.dataset.train), silent),
        limited.dataset, "test", silent,
    )  # fmt: skip
    arrays = [one.seen.logits, one.seen.mean, one.seen.spread, one.seen.micrograph.pixels]
    assert sum((array if array.base is None else array.base).nbytes for array in arrays) < 200


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([1.0] * 19, None, id="too few"),
        pytest.param([float(at) for at in range(101)], (5.0, 95.0), id="nine in ten"),
        pytest.param([0.123456789] * 30, (0.12346, 0.12346), id="five digits"),
    ],
)
def test_the_middle_nine_in_ten(values: list[float], expected: tuple[float, float] | None) -> None:
    assert middle(values) == expected
