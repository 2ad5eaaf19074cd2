"""Staged training: it learns, may be killed at any moment and ends the same, and refuses what makes no sense."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from toys import LABELS, RECIPE, prepared

from trainer.fitting import devices, steps, training
from trainer.fitting.batches import Batches
from trainer.fitting.checkpoint import Checkpoint
from trainer.fitting.features import shown
from trainer.fitting.run_folder import Recipe, RunError, read_history, read_record
from trainer.fitting.training import TrainingFailed, load_run, train
from trainer.fitting.validation import Validation
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainer.fitting.network import Network
    from trainer.fitting.run_folder import Epoch
    from trainer.preparing.crops import DataSet

TRACED = steps.traced

pytestmark = pytest.mark.usefixtures("toy_backbone")


@pytest.fixture(scope="module", autouse=True)
def untraced(shared_run: Path) -> Iterator[None]:
    """Steps run without being traced first, which takes longer than they do.

    `shared_run` was trained as users train, and one test below trains a second one like it.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(steps, "traced", lambda step: step)
        # Each run draws its curves; here one does.
        patched.setattr(training, "draw_curves", lambda *_: None)
        yield


def changed(**values: object) -> Recipe:
    return Recipe.model_validate({**RECIPE.model_dump(), **values})


QUICK = changed(batch=16, dropout=0.2)
"""One step an epoch, untraced: what is tested with it is the order of things, not what is learnt."""


def quick(**values: object) -> Recipe:
    return changed(**{"batch": 16, "dropout": 0.2, **values})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The views' features, shared by all runs of this file: they have the same data, views and seed."""
    return tmp_path_factory.mktemp("features")


def values(network: Network) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in network.scoring.weights]


def assert_equal_weights(one: Path, other: Path) -> None:
    for left, right in zip(values(load_run(one)[1]), values(load_run(other)[1]), strict=True):
        np.testing.assert_array_equal(left, right)


class Stopped(Exception):
    """Stands for a kill: nothing of ours catches it."""


# --- what a run learns and leaves -----------------------------------------------------------------


def test_a_class_that_anyone_can_tell_apart_is_learnt(shared_run: Path, dataset: DataSet) -> None:
    _, network = load_run(shared_run)
    right = []
    for crop in dataset.test:
        probabilities, _ = network.scoring(shown(dataset, crop)[None, :, :, None] * 2 - 1, training=False)
        right.append(LABELS[int(np.argmax(probabilities))] == crop.label)
    assert len(right) == 8
    assert sum(right) >= 7


def test_the_history_has_a_line_for_each_epoch_of_each_stage(shared_run: Path) -> None:
    history = read_history(shared_run)
    assert [(line.stage, line.epoch) for line in history] == [
        ("head", 1),
        ("fine-tuning", 1),
        ("fine-tuning", 2),
    ]
    assert all(
        math.isfinite(line.loss) and math.isfinite(line.validation_loss or math.nan) for line in history
    )
    assert history[-1].loss < history[0].loss


def test_the_record_says_what_was_trained_on_what(shared_run: Path, dataset: DataSet) -> None:
    record = read_record(shared_run)
    assert (record.recipe, record.seed, record.labels) == (RECIPE, 3, LABELS)
    assert record.dataset_fingerprint == dataset.fingerprint
    assert record.dataset == str(dataset.root.resolve())
    assert record.part == {"train": 16, "validation": 8, "test": 8}
    assert record.versions["tensorflow"]
    assert "cores" in record.hardware


def test_the_lower_part_and_the_statistics_of_batches_are_left_as_they_were(shared_run: Path) -> None:
    before = training.new_network(LABELS, RECIPE, seed=3)
    _, after = load_run(shared_run)
    for old, new in zip(before.trunk.weights, after.trunk.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    frozen, fitted = (network.backbone.top.get_layer for network in (before, after))
    for old, new in zip(frozen("upper_bn").get_weights(), fitted("upper_bn").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(frozen("upper").get_weights()[0], fitted("upper").get_weights()[0])


def test_the_head_stage_leaves_the_backbone_alone(dataset: DataSet, store: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "run", changed(epochs=0), features=store)
    before = training.new_network(LABELS, RECIPE, seed=0)
    _, after = load_run(tmp_path / "run")
    for old, new in zip(before.backbone.top.weights, after.backbone.top.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(before.head[0], after.head[0])


def test_a_seed_says_it_all(
    dataset: DataSet, shared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "traced", TRACED)
    for name, seed in (("same", 3), ("other", 4)):
        train(dataset, tmp_path / name, RECIPE, seed=seed)
    assert_equal_weights(tmp_path / "same", shared_run)
    assert read_history(tmp_path / "same") == read_history(shared_run)
    assert read_history(tmp_path / "other") != read_history(shared_run)


# --- interruption ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(
    dataset: DataSet, store: Path, tmp_path_factory: pytest.TempPathFactory, toy_backbone: None
) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(dataset, run, QUICK, features=store)
    return run


@pytest.mark.parametrize(
    "after", [1, 2, 3], ids=["after the head", "in the second stage", "before the last save"]
)
def test_a_run_stopped_after_an_epoch_ends_as_if_it_had_not_been(
    dataset: DataSet, store: Path, tmp_path: Path, uninterrupted: Path, after: int
) -> None:
    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        if len(seen) == after:
            raise Stopped

    run, seen = tmp_path / "run", []
    with pytest.raises(Stopped):
        train(dataset, run, QUICK, features=store, told=stop)
    with pytest.raises(RunError, match=r"training has not finished here \(no best.weights.h5\)"):
        load_run(run)
    rest: list[Epoch] = []
    train(dataset, run, QUICK, features=store, told=rest.append)
    assert (*seen, *rest) == read_history(run) == read_history(uninterrupted)
    assert_equal_weights(run, uninterrupted)


@pytest.mark.parametrize("call", ["_save_weights", "write_history"])
def test_a_run_killed_between_two_writes_ends_as_if_it_had_not_been(
    dataset: DataSet,
    store: Path,
    tmp_path: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """The checkpoint is the last file that an epoch writes: what the others say beyond it is done again."""
    real, count = getattr(training, call), []

    def killed_after_the_second(*arguments: Any) -> None:
        real(*arguments)
        count.append(1)
        if len(count) == 2:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(training, call, killed_after_the_second)
        with pytest.raises(Stopped):
            train(dataset, tmp_path / "run", QUICK, features=store)
    train(dataset, tmp_path / "run", QUICK, features=store)
    assert read_history(tmp_path / "run") == read_history(uninterrupted)
    assert_equal_weights(tmp_path / "run", uninterrupted)


def test_a_run_killed_in_an_epoch_repeats_that_epoch(
    dataset: DataSet, store: Path, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = training._Fit._scored, []

    def killed(self: Any, *arguments: Any) -> Any:
        count.append(1)
        if len(count) == 3:
            raise Stopped
        return real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training._Fit, "_scored", killed)
        with pytest.raises(Stopped):
            train(dataset, tmp_path / "run", QUICK, features=store)
    assert len(read_history(tmp_path / "run")) == 2
    train(dataset, tmp_path / "run", QUICK, features=store)
    assert read_history(tmp_path / "run") == read_history(uninterrupted)
    assert_equal_weights(tmp_path / "run", uninterrupted)


def test_a_finished_run_is_not_trained_again(dataset: DataSet, shared_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shared_run.rglob("*") if path.is_file()}
    told: list[object] = []
    kept = train(
        dataset, shared_run, RECIPE, seed=3, told=told.append, progress=lambda *step: told.append(step)
    )
    assert kept == shared_run / "best.weights.h5"
    assert told == []
    assert before == {path: path.stat().st_mtime_ns for path in shared_run.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_refused_with_a_way_out(
    dataset: DataSet, store: Path, tmp_path: Path
) -> None:
    def stop(_: Epoch) -> None:
        raise Stopped

    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(dataset, run, QUICK, features=store, told=stop)
    file = run / "state" / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        RunError, match=r"checkpoint.npz: cannot be read .* the run begins with its first epoch"
    ):
        train(dataset, run, QUICK, features=store)
    file.unlink()
    train(dataset, run, QUICK, features=store)
    assert len(read_history(run)) == 3


def test_damaged_weights_are_refused_by_name(
    dataset: DataSet, store: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    train(dataset, tmp_path / "run", quick(epochs=0), features=store)
    file = tmp_path / "run" / "best.weights.h5"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(
        RunError, match=r"best.weights.h5: these weights do not fit .* run edge-trainer train again"
    ):
        load_run(tmp_path / "run")


# --- best, last, early stopping -------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[list[np.ndarray]]:
    """Give these validation losses, one an epoch, and note the weights at each."""
    noted: list[list[np.ndarray]] = []

    def validate(network: Network, *_: Any) -> Validation:
        noted.append(values(network))
        return Validation(losses[len(noted) - 1], 0.5, ((1, 2), (3, 4)))

    monkeypatch.setattr(training, "validated", validate)
    return noted


@pytest.mark.parametrize(
    ("keep", "kept"), [pytest.param("best", 1, id="best"), pytest.param("last", 3, id="last")]
)
def test_the_weights_of_the_best_or_of_the_last_epoch_are_kept(
    dataset: DataSet, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, kept: int
) -> None:
    noted = scripted(monkeypatch, [0.9, 0.2, 0.5, 0.4])
    train(dataset, tmp_path / "run", quick(epochs=3, keep=keep), features=store)
    for expected, seen in zip(noted[kept], values(load_run(tmp_path / "run")[1]), strict=True):
        np.testing.assert_array_equal(expected, seen)


@pytest.mark.parametrize(
    ("losses", "patience", "epochs"),
    [
        pytest.param([0.9, 0.5, 0.6, 0.1], 1, 2, id="best in the second stage"),
        pytest.param([0.1, 0.5, 0.6, 0.7], 2, 2, id="best in the first stage"),
        pytest.param([0.9, 0.5, 0.6, 0.4], 2, 3, id="better just in time"),
        pytest.param([0.9, 0.5, 0.6, 0.7], 9, 3, id="patient"),
    ],
)
def test_training_stops_when_the_validation_loss_rises_for_long(
    dataset: DataSet,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    patience: int,
    epochs: int,
) -> None:
    scripted(monkeypatch, losses)
    train(dataset, tmp_path / "run", quick(epochs=3, patience=patience), features=store)
    assert [line.epoch for line in read_history(tmp_path / "run")[1:]] == list(range(1, epochs + 1))


def test_a_run_stopped_early_and_killed_before_its_end_trains_no_further(
    dataset: DataSet, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.9, 0.5, 0.6, 0.1])
    recipe = quick(epochs=3, patience=1)

    def stop(epoch: Epoch) -> None:
        if epoch.validation_loss == 0.6:
            raise Stopped

    with pytest.raises(Stopped):
        train(dataset, tmp_path / "run", recipe, features=store, told=stop)
    train(dataset, tmp_path / "run", recipe, features=store)
    assert [line.validation_loss for line in read_history(tmp_path / "run")] == [0.9, 0.5, 0.6]


def test_without_validation_the_last_weights_are_kept(dataset: DataSet, store: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "run", QUICK, validate=False, features=store)
    assert {line.validation_loss for line in read_history(tmp_path / "run")} == {None}
    assert not (tmp_path / "run" / "state" / "best.weights.h5").exists()
    load_run(tmp_path / "run")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "seed", "without", "named"),
    [
        pytest.param(changed(epochs=5), 3, frozenset(), "recipe", id="recipe"),
        pytest.param(RECIPE, 4, frozenset(), "seed", id="seed"),
        pytest.param(RECIPE, 3, "one group", "held out", id="fold"),
    ],
)
def test_another_question_in_the_folder_of_a_run_is_refused(
    dataset: DataSet, shared_run: Path, recipe: Recipe, seed: int, without: Any, named: str
) -> None:
    groups = frozenset({dataset.train[0].group}) if without else frozenset()
    with pytest.raises(RunError, match=f"holds a run with another {named}; give another --run folder"):
        train(dataset, shared_run, recipe, seed=seed, without_groups=groups)


def test_other_data_in_the_folder_of_a_run_is_refused(raw: Path, shared_run: Path, tmp_path: Path) -> None:
    other = prepared(raw, tmp_path / "other", split=SplitRule(test=0, validation=0.25))
    with pytest.raises(RunError, match="holds a run with another dataset fingerprint"):
        train(other, shared_run, RECIPE, seed=3)


def test_a_class_without_training_crops_is_refused(dataset: DataSet, tmp_path: Path) -> None:
    discs = frozenset(crop.group for crop in dataset.train if crop.label == "disc")
    with pytest.raises(
        RunError, match="no training crop of disc; add micrographs of it, or leave the class out"
    ):
        train(dataset, tmp_path / "run", QUICK, without_groups=discs)
    everything = frozenset(crop.group for crop in dataset.train)
    with pytest.raises(RunError, match="no crop in the training part; prepare with another split"):
        train(dataset, tmp_path / "run", QUICK, without_groups=everything)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_the_run_with_advice(
    dataset: DataSet, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5, math.nan])
    with pytest.raises(TrainingFailed, match="after epoch 1 of fine-tuning; give a lower --learning-rate"):
        train(dataset, tmp_path / "run", QUICK, features=store)
    assert len(read_history(tmp_path / "run")) == 1


# --- batches --------------------------------------------------------------------------------------


def batches(recipe: Recipe, targets: list[int], steps: int) -> np.ndarray:
    """The classes drawn: [steps, batch]."""
    given = Batches(
        views=np.arange(len(targets) * 2, dtype=np.float16).reshape(len(targets), 2, 1, 1, 1),
        rows=np.arange(len(targets)),
        targets=np.array(targets),
        classes=len(LABELS),
        recipe=recipe,
        seed=0,
    )
    drawn = list(given.drawn("head", 0, steps))
    for views, one_hot, _ in drawn:
        assert views.shape == (recipe.batch, 1, 1, 1)
        rows = (views.reshape(-1) // 2).astype(int)
        np.testing.assert_array_equal(np.array(targets)[rows], one_hot.argmax(axis=1))
    return np.stack([one_hot.argmax(axis=1) for _, one_hot, _ in drawn])


@pytest.mark.parametrize(
    ("balance", "share"),
    [
        pytest.param(1.0, 0.5, id="equal"),
        pytest.param(0.0, 0.9, id="as they are"),
        pytest.param(0.5, 0.75, id="half"),
    ],
)
def test_classes_are_drawn_as_the_recipe_balances_them(balance: float, share: float) -> None:
    drawn = batches(quick(balance=balance, batch=20), [0] * 18 + [1] * 2, steps=200)
    assert np.mean(drawn == 0) == pytest.approx(share, abs=0.02)


def test_a_batch_follows_from_its_step_alone() -> None:
    recipe = quick(batch=6)
    long = batches(recipe, [0, 0, 1, 1, 1], steps=5)
    np.testing.assert_array_equal(batches(recipe, [0, 0, 1, 1, 1], steps=3), long[:3])
    assert not np.array_equal(long[0], long[1]) or not np.array_equal(long[1], long[2])


def test_groups_left_out_are_never_drawn(dataset: DataSet, store: Path, tmp_path: Path) -> None:
    out = frozenset({dataset.train[0].group, dataset.train[-1].group})
    run = tmp_path / "run"
    train(dataset, run, quick(epochs=0), without_groups=out, features=store)
    record = read_record(run)
    assert record.part["train"] == 14
    assert set(record.held_out) == out
    without = replace(dataset, crops=tuple(crop for crop in dataset.crops if crop.group not in out))
    assert len(without.train) == 14


# --- what else a run says, and what else it can do -------------------------------------------------


def test_the_whole_run_is_seen_in_its_folder(dataset: DataSet, shared_run: Path) -> None:
    (session,) = read_record(shared_run).sessions
    assert session.finished
    assert session.command
    assert read_record(shared_run).seconds == session.seconds > 0
    for line in read_history(shared_run):
        assert line.confusion is not None
        assert [sum(row) for row in line.confusion] == [4, 4], "each validation crop once"
        assert line.learning_rate is not None
        assert 0 <= (line.training_accuracy or 0) <= 1
        assert 0 <= (line.input_wait_share or 0) < 1
        assert (line.steps_per_second or 0) > 0
    assert (shared_run / "curves.png").is_file()
    assert len(list((shared_run / "tensorboard").iterdir())) == 1


def test_an_interrupted_run_has_two_sessions_and_each_point_once(
    dataset: DataSet, store: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    import tensorflow as tf

    def stop(_: Epoch) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(dataset, tmp_path / "run", QUICK, features=store, told=stop)
    train(dataset, tmp_path / "run", QUICK, features=store, resume=True)
    sessions = read_record(tmp_path / "run").sessions
    assert [session.finished for session in sessions] == [False, True]
    steps_seen = []
    for folder in (tmp_path / "run", uninterrupted):
        (file,) = (folder / "tensorboard").iterdir()
        events = tf.compat.v1.train.summary_iterator(str(file))
        steps_seen.append([event.step for event in events if event.summary.value])
    assert steps_seen == [[1, 2, 3]] * 2
    with pytest.raises(RunError, match="holds a run already"):
        train(dataset, tmp_path / "run", QUICK, features=store, resume=False)
    with pytest.raises(RunError, match="no run to resume here"):
        train(dataset, tmp_path / "other", QUICK, features=store, resume=True)


def test_the_checkpoint_of_another_version_is_refused_with_a_way_out(
    dataset: DataSet, store: Path, tmp_path: Path
) -> None:
    def stop(_: Epoch) -> None:
        raise Stopped

    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(dataset, run, QUICK, features=store, told=stop)
    reached = Checkpoint.read(run / "state")
    assert reached is not None
    replace(reached, values=reached.values[:-1]).write(run / "state")
    with pytest.raises(RunError, match="of another version of edge-trainer; remove it, and the run begins"):
        train(dataset, run, QUICK, features=store)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(
            {
                "optimizer": "sgd",
                "schedule": "plateau",
                "head_width": 6,
                "class_weights": True,
                "balance": 0.5,
            },
            id="sgd, plateau, narrow head, class weights",
        ),
        pytest.param(
            {"optimizer": "rmsprop", "schedule": "constant", "mixed_precision": True, "deterministic": True},
            id="rmsprop, constant, half precision",
        ),
    ],
)
def test_every_way_to_train_resumes_to_the_same_bits(
    dataset: DataSet, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, object]
) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.stage == "fine-tuning":
            raise Stopped

    import tensorflow as tf

    if "mixed_precision" in values:
        monkeypatch.setattr(devices, "accelerators", lambda: ["CPU:0"])
        store = tmp_path / "features"
    asked: list[bool] = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    train(dataset, tmp_path / "whole", quick(**values), features=store)
    with pytest.raises(Stopped):
        train(dataset, tmp_path / "run", quick(**values), features=store, told=stop)
    train(dataset, tmp_path / "run", quick(**values), features=store)
    assert read_history(tmp_path / "run") == read_history(tmp_path / "whole")
    assert_equal_weights(tmp_path / "run", tmp_path / "whole")
    assert bool(asked) == ("deterministic" in values)


def test_steps_are_told_as_they_go(dataset: DataSet, store: Path, tmp_path: Path) -> None:
    seen: list[steps.Step] = []
    train(dataset, tmp_path / "run", quick(batch=4), features=store, watched=seen.append)
    ends = [one for one in seen if one.step == one.steps]
    assert [(one.stage, one.epoch, one.epochs, one.steps) for one in ends] == [
        ("head", 1, 1, 4),
        ("fine-tuning", 1, 2, 4),
        ("fine-tuning", 2, 2, 4),
    ]
    assert [one.loss for one in ends] == [line.loss for line in read_history(tmp_path / "run")]


@pytest.mark.parametrize(
    ("balance", "weights"),
    [
        pytest.param(1.0, [1.0, 1.0], id="drawn equally: nothing left to weigh"),
        pytest.param(0.0, [20 / 36, 20 / 4], id="drawn as they are"),
        pytest.param(0.5, [(18**0.5 + 2**0.5) / (2 * 18**0.5), (18**0.5 + 2**0.5) / (2 * 2**0.5)], id="half"),
    ],
)
def test_class_weights_make_up_for_what_drawing_leaves(balance: float, weights: list[float]) -> None:
    recipe = quick(class_weights=True, balance=balance)
    given = Batches(
        np.zeros((20, 2, 1, 1, 1), np.float16), np.arange(20), np.array([0] * 18 + [1] * 2), 2, recipe, 0
    )
    np.testing.assert_allclose(given.class_weights(), weights, rtol=1e-6)
    drawn = np.concatenate([weight for _, _, weight in given.drawn("head", 0, 300)])
    assert drawn.mean() == pytest.approx(1, abs=0.05)


def test_a_worker_is_given_its_share_of_the_very_batches(dataset: DataSet) -> None:
    views = np.arange(40, dtype=np.float16).reshape(20, 2, 1, 1, 1)
    given = Batches(views, np.arange(20), np.arange(20) % 2, 2, quick(batch=6), 0)
    for whole, first, second in zip(
        given.stream("head", 3, 8),
        given.stream("head", 3, 8, slice(0, 3)),
        given.stream("head", 3, 8, slice(3, 6)),
        strict=True,
    ):
        for all_of, part, rest in zip(whole, first, second, strict=True):
            np.testing.assert_array_equal(all_of, np.concatenate([part, rest]))
