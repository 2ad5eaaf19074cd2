"""A search on the toy data set: two stages, interruption and death, several processes, what must not happen."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from toy_stage import a_stage, tried
from toys import LABELS, LONG_TIER, RECIPE, prepared

from trainer.fitting.run_folder import Recipe
from trainer.fitting.training import TrainingFailed, train
from trainer.preparing.crops import PrepareError
from trainer.preparing.split import SplitRule
from trainer.searching import frozen_heads, study_claim, study_storage, tuning
from trainer.searching.search_space import SearchSpace
from trainer.searching.study_storage import TrialFailed, TuningError, opened, own_place
from trainer.searching.tuning import StudyResult, TuningFailed, study_text, tune

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.preparing.crops import DataSet
    from trainer.searching.study_storage import StageStudy

SPACE = SearchSpace(
    head_learning_rate=(1e-3, 1e-1),
    head_widths=(0, 4),
    strengths=(1.0,),
    batches=(4,),
    optimizers=("adamw",),
)
BASE = RECIPE.model_copy(update={"batch": 4, "head_epochs": 0, "epochs": 2})


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_heads, "EPOCHS", 2)
    monkeypatch.setattr(study_storage, "_WAIT_SECONDS", 0.02)


@pytest.fixture(scope="session")
def blinded(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """The toy data set with the pixels of its test part made unreadable."""
    dataset = prepared(raw, tmp_path_factory.mktemp("blinded"))
    for crop in dataset.test:
        (dataset.root / crop.cached).write_bytes(b"not to be looked at")
    return dataset


@pytest.fixture(scope="session")
def heads(blinded: DataSet, toy_backbone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search with three heads and no finalist; read only."""
    folder = tmp_path_factory.mktemp("studies") / "heads"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(frozen_heads, "EPOCHS", 2)
        tune(blinded, folder, trials=3, finalists=0, base=BASE, space=SPACE, seed=1)
    return folder


@pytest.fixture(scope="session")
def study(heads: Path, blinded: DataSet) -> StudyResult:
    """The same search with two finalists; read only."""
    folder = Path(shutil.copytree(heads, heads.parent / "study $1"))
    return tune(blinded, folder, trials=5, finalists=2, base=BASE, space=SPACE, seed=1)


@pytest.fixture
def begun(heads: Path, tmp_path: Path) -> Path:
    """A copy of the search without finalists, to be gone on with."""
    return Path(shutil.copytree(heads, tmp_path / "begun"))


def test_it_ends_with_heads_and_fine_tuned_recipes(study: StudyResult) -> None:
    assert [len(study.stage(stage)) for stage in ("head", "fine-tuning")] == [3, 2]
    for line in study.trials:
        assert line.state in ("complete", "pruned")
        assert line.seconds is not None
        assert line.recipe is not None
    complete = [line.score for line in study.stage("fine-tuning") if line.score is not None]
    assert complete == sorted(complete, reverse=True)
    assert study.best.score == complete[0]


def test_the_recipe_begun_with_is_tried_in_both_stages(study: StudyResult) -> None:
    begun = [line for line in study.trials if line.is_base]
    assert [line.recipe for line in begun] == [BASE, BASE]


def test_the_test_part_is_never_read(study: StudyResult, blinded: DataSet) -> None:
    """Its pixels are unreadable in this data set, and the search has ended well."""
    from trainer.preparing.crops import load_pixels

    with pytest.raises(PrepareError, match="cannot be read"):
        load_pixels(blinded, blinded.test[0])
    assert study.best.score is not None


def test_the_best_recipe_trains(study: StudyResult, dataset: DataSet, tmp_path: Path) -> None:
    recipe = Recipe.model_validate_json((study.folder / "best_recipe.json").read_bytes())
    assert recipe == study.best_recipe == study.best.recipe
    assert (recipe.views, recipe.epochs) == (BASE.views, BASE.epochs)
    assert train(dataset, tmp_path / "run", recipe, seed=1).is_file()


def test_the_command_names_data_recipe_and_seed(study: StudyResult, blinded: DataSet) -> None:
    import shlex

    words = shlex.split(study.command)
    assert words[:3] == ["edge-trainer", "train", str(blinded.root)]
    assert words[words.index("--recipe") + 1] == str(study.folder / "best_recipe.json")
    assert words[words.index("--seed") + 1] == "1"


def test_the_text_has_a_table_a_warning_and_the_command(study: StudyResult) -> None:
    text = study_text(study)
    assert "(begun with)" in text
    assert "too few to say" in text
    assert "one standard error" in text
    assert text.endswith(study.command)


def test_the_page_shows_pictures_and_escapes_names(study: StudyResult) -> None:
    page = (study.folder / "study.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(list(study.folder.glob("*.png"))) >= 2
    hostile = replace(study, notes=("<script>alert(1)</script>",))
    from trainer.searching.study_pictures import write_pages

    assert "<script>" not in write_pages(hostile).read_text(encoding="utf-8")
    write_pages(study)


def test_the_table_is_kept_for_a_spreadsheet(study: StudyResult) -> None:
    with (study.folder / "trials.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.trials)
    assert {row["stage"] for row in rows} == {"head", "fine-tuning"}
    assert all(row["head rate"] for row in rows)


def test_a_finished_search_computes_nothing_again(
    study: StudyResult, blinded: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "FrozenHeads", None)
    monkeypatch.setattr(tuning, "train", None)
    again = tune(blinded, study.folder, trials=5, finalists=2, base=BASE, space=SPACE, seed=1)
    assert again == study


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 2}, "another seed"),
        ({"folds": 2}, "another number of folds"),
        ({"base": RECIPE}, "another recipe to begin with"),
        ({"space": SearchSpace()}, "another search space"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_search_needs_another_folder(
    study: StudyResult, blinded: DataSet, changes: dict, what: str
) -> None:
    asked = {"base": BASE, "space": SPACE, "seed": 1, **changes}
    with pytest.raises(TuningError, match=what):
        tune(blinded, study.folder, trials=5, finalists=2, **asked)


def test_other_data_need_another_folder(study: StudyResult, raw: Path, tmp_path: Path) -> None:
    other = prepared(raw, tmp_path / "other", split=SplitRule(test=0, validation=0.5))
    with pytest.raises(TuningError, match="another data set"):
        tune(other, study.folder, trials=5, finalists=2, base=BASE, space=SPACE, seed=1)


# --- What cannot be searched ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "finalists", "folds", "message"),
    [
        (0, 0, 0, "leave no trial"),
        (4, 4, 0, "leave no trial"),
        (4, -1, 0, "leave no trial"),
        (4, 1, 1, "give 0"),
        (4, 1, -2, "give 0"),
    ],
)
def test_numbers_that_make_no_search(
    dataset: DataSet, tmp_path: Path, trials: int, finalists: int, folds: int, message: str
) -> None:
    with pytest.raises(TuningError, match=message):
        tune(dataset, tmp_path / "s", trials=trials, finalists=finalists, folds=folds)
    assert not (tmp_path / "s").exists()


def test_a_cluster_for_one_run_is_no_place_for_a_search(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(TuningError, match=r"TF_CONFIG is set.*the same --storage"):
        tune(dataset, tmp_path / "s", base=BASE)


def without(dataset: DataSet, part: str, label: str | None = None) -> DataSet:
    crops = [crop for crop in dataset.crops if crop.part != part or (label and crop.label != label)]
    return replace(dataset, crops=tuple(crops))


@pytest.mark.parametrize(
    ("part", "label", "message"),
    [
        ("validation", None, "no crop in the validation part.*--folds 5"),
        ("validation", LABELS[0], f"all crops of the validation part are {LABELS[1]}"),
        ("train", LABELS[0], f"no crop of {LABELS[0]} in the training part"),
    ],
)
def test_parts_that_nothing_can_be_chosen_by(
    dataset: DataSet, tmp_path: Path, part: str, label: str | None, message: str
) -> None:
    with pytest.raises(TuningError, match=message):
        tune(without(dataset, part, label), tmp_path / "s", base=BASE)


def test_one_class_is_nothing_to_choose_between(dataset: DataSet, tmp_path: Path) -> None:
    one = replace(
        dataset, labels=LABELS[:1], crops=tuple(crop for crop in dataset.crops if crop.label == LABELS[0])
    )
    with pytest.raises(TuningError, match="only one class"):
        tune(one, tmp_path / "s", base=BASE)


@pytest.mark.long
@LONG_TIER
def test_missing_pixels_end_the_search_and_the_trial_waits(
    raw: Path, toy_backbone: None, tmp_path: Path
) -> None:
    dataset = prepared(raw, tmp_path / "data")
    lost = dataset.root / dataset.train[3].cached
    pixels = lost.read_bytes()
    lost.unlink()
    with pytest.raises(PrepareError, match="cached pixels"):
        tune(dataset, tmp_path / "s", trials=1, finalists=0, base=BASE, space=SPACE)
    lost.write_bytes(pixels)
    result = tune(dataset, tmp_path / "s", trials=1, finalists=0, base=BASE, space=SPACE)
    assert [line.recipe for line in result.trials] == [BASE]


@pytest.mark.parametrize("storage", ["nonsense://x", "not a url", "postgresql://me:secret@nowhere/db"])
def test_a_storage_that_cannot_be_opened(dataset: DataSet, tmp_path: Path, storage: str) -> None:
    with pytest.raises(TuningError, match="cannot be opened as the storage") as caught:
        tune(dataset, tmp_path / "s", base=BASE, storage=storage)
    assert "secret" not in str(caught.value)


def test_a_database_that_is_damaged(dataset: DataSet, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(TuningError, match=r"study\.db: cannot be opened.*not a database"):
        tune(dataset, tmp_path, base=BASE)


def test_a_storage_that_fails_later(tmp_path: Path) -> None:
    with pytest.raises(TuningFailed, match=r"no such table.*the same command goes on"):
        with opened(None, tmp_path) as storage:
            with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
                connection.execute("DROP TABLE trials")
                connection.commit()
            a_stage(storage).run(lambda: 1, tried)


def test_a_study_note_that_is_damaged(dataset: DataSet, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(TuningError, match="not the note of a search"):
        tune(dataset, tmp_path, base=BASE)


# --- Grouped folds ----------------------------------------------------------------------------------------------


def test_folds_hold_every_crop_out_once_and_no_test_crop(dataset: DataSet) -> None:
    data = frozen_heads.head_data(dataset, 4, 0, 1000)
    held = [row for _, rows in data.folds for row in rows.tolist()]
    assert sorted(held) == list(range(len(data.crops)))
    assert {crop.part for crop in data.crops} == {"train", "validation"}
    for fitted, out in data.folds:
        assert {data.crops[row].group for row in fitted}.isdisjoint({data.crops[row].group for row in out})


def test_who_had_seen_the_answer_chooses_nothing(dataset: DataSet) -> None:
    led = {crop.crop_id for crop in dataset.train[:6]}
    told = replace(
        dataset,
        crops=tuple(
            replace(crop, correction="by ada" if crop.crop_id in led else "blind by ben")
            for crop in dataset.crops
        ),
    )
    data = frozen_heads.head_data(told, 4, 0, 1000)
    asked = {data.crops[row].crop_id for row in data.held_out}
    assert asked == {crop.crop_id for crop in (*dataset.train, *dataset.validation)} - led
    assert {data.crops[row].crop_id for train, _ in data.folds for row in train} >= led
    bare = replace(told, crops=told.train)
    searched = study_claim.searched_part(bare, 4, 0)
    assert searched.validation
    assert not led & {crop.crop_id for crop in searched.validation}
    assert not {crop.group for crop in searched.train} & {crop.group for crop in searched.validation}


def test_without_folds_the_validation_part_is_held_out(dataset: DataSet) -> None:
    data = frozen_heads.head_data(dataset, 0, 0, 1000)
    assert [data.crops[row].part for row in data.held_out] == ["validation"] * len(dataset.validation)
    assert [data.crops[row].part for row in data.fitted] == ["train"] * len(dataset.train)


def test_a_large_data_set_is_looked_at_in_part(dataset: DataSet) -> None:
    data = frozen_heads.head_data(dataset, 0, 0, 12)
    assert len(data.crops) == 12
    assert {(crop.part, crop.label) for crop in data.crops} == {
        (part, label) for part in ("train", "validation") for label in LABELS
    }


@pytest.mark.long
@LONG_TIER
def test_folds_serve_where_there_is_no_validation_part(raw: Path, toy_backbone: None, tmp_path: Path) -> None:
    dataset = prepared(raw, tmp_path / "data", split=SplitRule(test=0.25, validation=0))
    result = tune(dataset, tmp_path / "s", trials=2, finalists=1, folds=2, base=BASE, space=SPACE)
    assert result.stage("fine-tuning")[0].score is not None
    assert result.stage("head")[0].accuracy is not None


def test_balanced_score_gives_each_class_the_same_weight() -> None:
    import numpy as np

    logits = np.log(np.array([[0.9, 0.1]] * 9 + [[0.8, 0.2]], dtype=np.float32))
    found = frozen_heads.balanced_score(logits, np.array([0] * 9 + [1]))
    assert found.accuracy == pytest.approx(0.5)
    assert found.loss == pytest.approx((-np.log(0.9) - np.log(0.2)) / 2, rel=1e-5)
    assert found.score == pytest.approx(0.5 - found.loss / 10)


def test_a_head_without_width_is_fitted_on_averages(
    dataset: DataSet, toy_backbone: None, tmp_path: Path
) -> None:
    """Average and 1x1 convolution change places: the logits of averaged and of whole maps are the same."""
    import numpy as np

    heads = frozen_heads.FrozenHeads(dataset, BASE, tmp_path / "f", tmp_path / "own", strengths=1)
    whole = [heads._wholes[row] for row in heads.data.held_out]
    head = frozen_heads._Head(
        heads._network, heads._batches(BASE, heads._view_maps(BASE), heads.data.folds[0][0], 0)
    )
    one_by_one = [
        np.asarray(head._network.trainable(one[None].astype(np.float32), training=False))[0] for one in whole
    ]
    np.testing.assert_allclose(head.logits(whole), one_by_one, atol=2e-3)


# --- The trials of a stage --------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[StageStudy]:
    with opened(None, tmp_path / "stage") as storage:
        yield a_stage(storage)


def drawn(stage: StageStudy) -> list[float]:
    return [trial.params["x"] for trial in stage.counted()]


def test_the_same_seed_draws_the_same_in_one_go_and_in_pieces(tmp_path: Path) -> None:
    found = []
    for name, pieces in (("whole", [8]), ("pieces", [2, 3, 8])):
        for total in pieces:
            with opened(None, tmp_path / name) as storage:
                one = a_stage(storage)
                one.run(lambda total=total: total, tried)
                seen = drawn(one)
        found.append(seen)
    assert found[0] == found[1]
    assert len(set(found[0])) == 8


@pytest.mark.parametrize("name", ["with space", "{brace}", "per%20cent", "what?", "ünï"])
def test_the_database_lies_in_any_folder(tmp_path: Path, name: str) -> None:
    if os.name == "nt" and "?" in name:
        pytest.skip("not a name on Windows")
    with opened(None, tmp_path / name) as storage:
        a_stage(storage).run(lambda: 1, tried)
    assert (tmp_path / name / "study.db").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_journal_file_does_as_well(tmp_path: Path) -> None:
    journal = f"journal:{tmp_path / 'share' / 'study.log'}"
    for total in (2, 4):
        with opened(journal, tmp_path / "s") as storage:
            one = a_stage(storage)
            one.run(lambda total=total: total, tried)
    assert len(drawn(one)) == 4
    assert not (tmp_path / "s" / "study.db").exists()


def test_pruning(stage: StageStudy) -> None:
    def objective(trial: optuna.Trial) -> float:
        good = trial.number < 3
        for epoch in range(4):
            trial.report(0.9 if good else 0.1, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.9 if good else 0.1

    stage.run(lambda: 5, objective)
    assert [trial.state.name for trial in stage.counted()] == ["COMPLETE"] * 3 + ["PRUNED"] * 2


def test_a_failed_trial_keeps_its_reason_and_the_study_goes_on(stage: StageStudy) -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number == 1:
            raise TrialFailed("the loss is no number")
        return tried(trial)

    stage.run(lambda: 3, objective)
    assert [trial.state.name for trial in stage.counted()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study_storage.reason_of(stage.counted()[1]) == "the loss is no number"


def test_an_interrupted_trial_is_tried_again_with_the_same_parameters(stage: StageStudy) -> None:
    seen: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(tried(trial))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return seen[-1]

    with pytest.raises(KeyboardInterrupt):
        stage.run(lambda: 3, objective)
    stage.run(lambda: 3, objective)
    assert len(drawn(stage)) == 3
    assert seen[2] == seen[1]


def test_a_slot_is_filled_once(stage: StageStudy) -> None:
    for _ in range(2):
        stage.put_in_queue("base", {"x": 0.25}, {})
    # Another machine may not have seen the first one.
    stage.study.enqueue_trial({"x": 0.25}, user_attrs={"slot": "base"})
    stage.run(lambda: 3, tried)
    assert drawn(stage).count(0.25) == 1
    assert len(drawn(stage)) == 3


def process(folder: Path, *, total: int, seconds: float, storage: str | None = None) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    program = Path(__file__).parent / "toy_stage.py"
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), str(total), str(seconds), storage or ""]
    )


def wait_for(condition: object, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_killed_process_loses_only_its_running_trial(tmp_path: Path, kind: str) -> None:
    storage = f"journal:{tmp_path / 'study.log'}" if kind == "journal" else None
    child = process(tmp_path, total=3, seconds=600, storage=storage)
    wait_for(lambda: (tmp_path / "begun-0").exists())
    child.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    child.wait()
    with opened(storage, tmp_path) as kept:
        stage = a_stage(kept)
        (running,) = stage.counted()
        assert running.state.name == "RUNNING"
        stage.run(lambda: 3, tried)
        trials = stage.study.get_trials()
        assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
        assert trials[1].params == trials[0].params
        assert len(stage.counted()) == 3


@pytest.mark.long
@LONG_TIER
def test_what_kills_its_process_twice_has_failed(tmp_path: Path) -> None:
    for number in (0, 1):
        child = process(tmp_path, total=2, seconds=600)
        wait_for(lambda number=number: (tmp_path / f"begun-{number}").exists())
        child.kill()
        child.wait()
    with opened(None, tmp_path) as kept:
        stage = a_stage(kept)
        stage.run(lambda: 2, tried)
        reasons = [study_storage.reason_of(trial) for trial in stage.counted()]
    assert reasons == ["its process died 2 times, perhaps for want of memory", ""]


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    children = [process(tmp_path, total=6, seconds=0.3) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    with opened(None, tmp_path) as kept:
        trials = a_stage(kept).counted()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    assert len({tuple(trial.params.items()) for trial in trials}) == 6
    assert len({trial.user_attrs["process"][1] for trial in trials}) == 2


def test_a_silent_trial_of_another_machine_is_taken_back_in_time(
    stage: StageStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = stage.study.ask()
    tried(trial)
    trial.set_user_attr("process", ["another machine", 1, 0.0])
    trial.set_user_attr("alive", time.time())
    stage._take_back()
    assert [one.state.name for one in stage.counted()] == ["RUNNING"]
    monkeypatch.setattr(study_storage, "SILENCE_SECONDS", -1.0)
    stage._take_back()
    assert stage.counted() == []


def test_a_place_is_one_process_s_own(tmp_path: Path) -> None:
    with own_place(tmp_path, "features") as first, own_place(tmp_path, "features") as second:
        assert first != second
    with own_place(tmp_path, "features") as again:
        assert again == first


# --- A search that is disturbed ---------------------------------------------------------------------------------


def test_an_interrupted_search_goes_on(
    begun: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first finalist: the heads stand, and the finalist goes on from its last epoch."""
    real, runs = tuning.train, []

    def interrupted(*values: object, told: object, **options: object) -> Path:
        def stop_early(epoch: object) -> None:
            told(epoch)
            raise KeyboardInterrupt

        runs.append(values[1])
        return real(*values, told=stop_early if len(runs) == 1 else told, **options)

    monkeypatch.setattr(tuning, "train", interrupted)
    monkeypatch.setattr(tuning, "FrozenHeads", None)
    arguments = {"trials": 4, "finalists": 1, "base": BASE, "space": SPACE, "seed": 1}
    with pytest.raises(KeyboardInterrupt):
        tune(dataset, begun, **arguments)
    result = tune(dataset, begun, **arguments)
    assert runs[0] == runs[1]
    (finalist,) = result.stage("fine-tuning")
    assert len(finalist.curve) == BASE.epochs


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingFailed("the loss is nan"), "the loss is nan"),
        (MemoryError(), "out of memory"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating"), "out of memory \\(OOM"),
    ],
    ids=["not a number", "memory", "memory of TensorFlow"],
)
def test_a_search_whose_first_trials_all_fail_says_why(
    dataset: DataSet,
    toy_backbone: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    class Failing:
        def __init__(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(tuning, "FrozenHeads", Failing)
    with pytest.raises(TuningFailed, match=f"all 3 trials so far came to nothing.*{reason}"):
        tune(dataset, tmp_path, trials=20, finalists=2, base=BASE, space=SPACE)


@pytest.mark.long
@LONG_TIER
def test_a_failing_finalist_leaves_the_others(
    begun: Path, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tuning.train

    def sometimes(searched: DataSet, run: Path, *rest: object, **options: object) -> Path:
        if run.name.startswith("base"):
            raise TrainingFailed(f"{run}: the loss is nan")
        return real(searched, run, *rest, **options)

    monkeypatch.setattr(tuning, "train", sometimes)
    told: list[str] = []
    arguments = {"base": BASE, "space": SPACE, "seed": 1}
    result = tune(dataset, begun, trials=5, finalists=2, told=told.append, **arguments)
    assert sorted(line.state for line in result.stage("fine-tuning")) == ["complete", "failed"]
    assert "the loss is nan" in study_text(result)
    assert [line.split(" ")[0] for line in told] == ["fine-tuning"]


@pytest.mark.long
@LONG_TIER
def test_more_trials_may_be_asked_for_later(begun: Path, dataset: DataSet) -> None:
    arguments = {"finalists": 0, "base": BASE, "space": SPACE, "seed": 1}
    few = tune(dataset, begun, trials=3, **arguments)
    more = tune(dataset, begun, trials=4, **arguments)
    assert {line.number for line in few.trials} == {0, 1, 2}
    assert {line.number for line in more.trials} == {0, 1, 2, 3}
    assert all(line in more.trials for line in few.trials)


def test_a_head_whose_numbers_run_away_is_a_failed_trial(
    dataset: DataSet, toy_backbone: None, tmp_path: Path
) -> None:
    heads = frozen_heads.FrozenHeads(dataset, BASE, tmp_path / "f", tmp_path / "own", strengths=1)
    wild = BASE.model_copy(update={"head_learning_rate": 1e38, "optimizer": "sgd"})
    with pytest.raises(TrainingFailed, match="no number"):
        list(heads.fit(wild, seed=0))


# --- What mattered ----------------------------------------------------------------------------------------------


def synthetic(number: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("head_learning_rate", 1e-4, 1e-1, log=True)
        trial.suggest_float("dropout", 0, 0.5)
        trial.suggest_categorical("batch", (8, 16))
        return -abs(math.log10(rate) + 2)

    study.optimize(objective, n_trials=number)
    return study


def test_importance_tells_what_mattered_from_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.searching import study_result
    from trainer.searching.study_result import importance_of

    monkeypatch.setattr(study_result, "_SHUFFLES", 5)
    found = importance_of(synthetic(30), "head", 0)
    assert found is not None
    assert next(iter(found.shares)) == "head_learning_rate"
    assert found.shares["head_learning_rate"] > found.chance["head_learning_rate"]
    assert found.shares["batch"] < found.chance["batch"]


def test_too_few_trials_say_nothing() -> None:
    from trainer.searching.study_result import importance_of

    assert importance_of(synthetic(9), "head", 0) is None
