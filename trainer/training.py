"""Staged fine-tuning of a network on a prepared data set, in a run folder that can be resumed.

Stage one fits the head alone, stage two the head and the upper part of the backbone, with a warm-up and a cosine
schedule, on features of the frozen lower part (`trainer.features`).

Only this module knows `state/` in the run folder: `checkpoint.npz` (everything that the next epoch depends on, put
in place whole after each epoch) and `best.weights.h5`. A run that was killed goes on from the checkpoint and ends
with the weights that it would have had; what the history says beyond the checkpoint is computed again.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.files import write_durably
from trainer.backbones import BackboneError, build_backbone, load_weights
from trainer.features import view_features, whole_features
from trainer.network import Network, build_network
from trainer.run_folder import (
    WEIGHTS,
    Epoch,
    Recipe,
    RunError,
    RunRecord,
    claim,
    read_history,
    read_record,
    versions,
    write_history,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.crops import Crop, DataSet


_CHECKPOINT: Final = "checkpoint.npz"
_BEST: Final = "best.weights.h5"


class TrainingFailed(Exception):
    """Training ran and came to nothing; the message says what was seen and what to change."""


def train(
    dataset: DataSet,
    run: Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    without_groups: frozenset[str] = frozenset(),
    validate: bool = True,
    features: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    told: Callable[[Epoch], None] = lambda _: None,
) -> Path:
    """Train in the folder `run`, or go on where it was interrupted; returns the file of the weights kept.

    A finished run is left as it is. `without_groups` leaves groups of the training part out (cross-validation),
    `validate=False` ignores the validation part. `features` is where the views' intermediate features lie
    (default: inside the run); runs on the same data set and recipe may share it. `progress(what, done, total)`
    is called as work goes on, `told` after every epoch.

    Raises:
        RunError: nothing to train on, or the folder holds a run of other data or another recipe.
        TrainingFailed: the loss is no number any more.

    """
    import keras

    crops = tuple(crop for crop in dataset.train if crop.group not in without_groups)
    _check(dataset, crops)
    record = _record(dataset, recipe, seed, without_groups, len(crops))
    claim(run, record)
    if (run / WEIGHTS).is_file():
        return run / WEIGHTS
    keras.utils.set_random_seed(seed)
    network = new_network(dataset.labels, recipe, seed=seed)
    store = features if features is not None else run / "features"
    views = view_features(dataset, recipe, network, store, seed, progress)
    chosen = {crop.crop_id: index for index, crop in enumerate(dataset.train)}
    validation = dataset.validation if validate else ()
    material = _Material(
        views=views,
        rows=np.array([chosen[crop.crop_id] for crop in crops]),
        targets=np.array([dataset.labels.index(crop.label) for crop in crops]),
        validation=whole_features(dataset, validation, network, run / "state", progress),
        validation_targets=np.array([dataset.labels.index(crop.label) for crop in validation]),
    )
    return _Fit(network, material, recipe, run, seed, progress, told).fit()


def new_network(
    labels: tuple[str, ...], recipe: Recipe, *, seed: int = 0, pretrained: bool = True
) -> Network:
    """Build the recipe's network; without `pretrained` its weights are random (to be loaded from a run)."""
    weights = recipe.weights if pretrained else "none"
    backbone = build_backbone(recipe.backbone, weights, split=recipe.fine_tune_from, seed=seed)
    return build_network(backbone, labels, recipe.dropout)


def load_run(run: Path) -> tuple[RunRecord, Network]:
    """Read the record of a finished run and build its network with the weights kept.

    Raises:
        RunError: not a run folder, or not finished.

    """
    record = read_record(run)
    if not (run / WEIGHTS).is_file():
        raise RunError(f"{run}: training has not finished here (no {WEIGHTS}); run edge-trainer train again")
    network = new_network(record.labels, record.recipe, pretrained=False)
    _load_weights(network, run / WEIGHTS)
    return record, network


def _load_weights(network: Network, file: Path) -> None:
    try:
        load_weights(network.scoring, file)
    except BackboneError as error:
        raise RunError(f"{error}; remove the file and run edge-trainer train again") from error


def _save_weights(network: Network, file: Path) -> None:
    """Write weights so that the file is there whole or not at all; Keras itself writes in place."""
    draft = file.parent / f"draft-{file.name}"
    network.scoring.save_weights(draft)
    write_durably(file, draft.read_bytes())
    draft.unlink()


def _check(dataset: DataSet, crops: Sequence[Crop]) -> None:
    if not crops:
        raise RunError(f"{dataset.root}: no crop in the training part; prepare with another split")
    missing = sorted(set(dataset.labels) - {crop.label for crop in crops})
    if missing:
        raise RunError(
            f"{dataset.root}: no training crop of {', '.join(missing)}; "
            "add micrographs of it, or leave the class out in edge-trainer prepare"
        )


def _record(dataset: DataSet, recipe: Recipe, seed: int, without: frozenset[str], count: int) -> RunRecord:
    return RunRecord(
        recipe=recipe,
        seed=seed,
        dataset=str(dataset.root.resolve()),
        dataset_fingerprint=dataset.fingerprint,
        labels=dataset.labels,
        part={"train": count, "validation": len(dataset.validation), "test": len(dataset.test)},
        held_out=tuple(sorted(without)),
        versions=versions(),
        hardware=f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
    )


@dataclass(frozen=True, slots=True)
class _Material:
    views: NDArray[np.float16]
    rows: NDArray[np.intp]
    targets: NDArray[np.intp]
    validation: tuple[NDArray[np.float16], ...]
    validation_targets: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Stage:
    name: str
    epochs: int
    rate: float
    whole_top: bool
    """Whether the upper part of the backbone is fitted too."""


class _Fit:
    """Both stages of one run."""

    def __init__(
        self,
        network: Network,
        material: _Material,
        recipe: Recipe,
        run: Path,
        seed: int,
        progress: Callable[[str, int, int], None],
        told: Callable[[Epoch], None],
    ) -> None:
        self._network, self._material, self._recipe = network, material, recipe
        self._run, self._seed, self._progress, self._told = run, seed, progress, told
        self._state = run / "state"
        self._steps = max(1, len(material.rows) // recipe.batch)
        self._history: list[Epoch] = []

    def fit(self) -> Path:
        """Fit both stages; returns the file of the weights kept."""
        self._state.mkdir(exist_ok=True)
        recipe = self._recipe
        stages = [
            _Stage("head", recipe.head_epochs, recipe.head_learning_rate, whole_top=False),
            _Stage("fine-tuning", recipe.epochs, recipe.learning_rate, whole_top=True),
        ]
        reached = _Checkpoint.read(self._state / _CHECKPOINT)
        names = [stage.name for stage in stages]
        first = names.index(reached.stage) if reached else 0
        self._history = [line for line in read_history(self._run) if _is_before(line, names, reached)]
        write_history(self._run, self._history)
        for stage in stages[first:]:
            self._fit_stage(stage, reached if reached and reached.stage == stage.name else None)
        if recipe.keep == "best" and (self._state / _BEST).is_file():
            _load_weights(self._network, self._state / _BEST)
        _save_weights(self._network, self._run / WEIGHTS)
        return self._run / WEIGHTS

    def _fit_stage(self, stage: _Stage, reached: _Checkpoint | None) -> None:
        model = self._compiled(stage)
        if reached:
            reached.restore(model)
        for epoch in range(reached.epochs if reached else 0, stage.epochs):
            if self._is_patience_spent(stage):
                return
            seen = model.fit(self._data(stage, epoch), epochs=1, shuffle=False, verbose=0)
            entry = self._scored(stage, epoch, float(seen.history["loss"][0]))
            self._history.append(entry)
            if self._is_best(entry):
                _save_weights(self._network, self._state / _BEST)
            write_history(self._run, self._history)
            # Last: until it is in place, the epoch did not happen.
            _Checkpoint.of(model, stage.name, epoch + 1).write(self._state / _CHECKPOINT)
            self._told(entry)
            self._progress(stage.name, epoch + 1, stage.epochs)

    def _compiled(self, stage: _Stage) -> Any:  # noqa: ANN401
        """The trainable part with a fresh optimizer; batch normalisation stays frozen (see trainer.network)."""
        import keras

        top, model = self._network.backbone.top, self._network.trainable
        top.trainable = stage.whole_top
        for layer in top.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        optimizer = self._optimizer(stage.rate, stage.epochs)
        optimizer.build(model.trainable_variables)
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=self._recipe.label_smoothing
        )
        model.compile(optimizer, loss, jit_compile=False)
        return model

    def _optimizer(self, rate: float, epochs: int) -> Any:  # noqa: ANN401
        import keras

        total = epochs * self._steps
        warm_up = max(1, total // 5)
        schedule = keras.optimizers.schedules.CosineDecay(
            rate / 20, max(1, total - warm_up), alpha=0.01, warmup_target=rate, warmup_steps=warm_up
        )
        return keras.optimizers.AdamW(schedule, weight_decay=self._recipe.weight_decay)

    def _data(self, stage: _Stage, epoch: int) -> Any:  # noqa: ANN401
        import tensorflow as tf

        spec = (
            tf.TensorSpec((None, *self._material.views.shape[2:]), tf.float16),
            tf.TensorSpec((None, len(self._network.labels)), tf.float32),
        )
        first = epoch * self._steps
        data = tf.data.Dataset.from_generator(
            lambda: self._batches(stage.name, first, first + self._steps), output_signature=spec
        )
        # Keras takes the end of data of unknown length for a fault.
        return data.apply(tf.data.experimental.assert_cardinality(self._steps)).prefetch(2)

    def _batches(self, stage: str, first: int, end: int) -> Iterator[tuple[NDArray[np.float16], Any]]:
        """Batches balanced over the classes; each follows from seed, stage and step, so a run can be resumed."""
        material, recipe = self._material, self._recipe
        counts = np.bincount(material.targets, minlength=len(self._network.labels)).astype(np.float64)
        weight = (1 / counts[material.targets]) ** recipe.balance
        one_hot = np.eye(len(self._network.labels), dtype=np.float32)
        for step in range(first, end):
            draw = np.random.default_rng([self._seed, *stage.encode(), step])
            chosen = draw.choice(len(material.rows), recipe.batch, p=weight / weight.sum())
            view = draw.integers(0, recipe.views, recipe.batch)
            yield material.views[material.rows[chosen], view], one_hot[material.targets[chosen]]

    def _scored(self, stage: _Stage, epoch: int, loss: float) -> Epoch:
        """The epoch's line of the history; TrainingFailed where the numbers have run away."""
        validation_loss, accuracy = self._validate() or (None, None)
        if not (math.isfinite(loss) and math.isfinite(validation_loss or 0.0)):
            raise TrainingFailed(
                f"{self._run}: the loss is {loss:g} after epoch {epoch + 1} of {stage.name}; "
                "give a lower --learning-rate and another --run folder"
            )
        return Epoch(stage.name, epoch + 1, loss, validation_loss, accuracy)

    def _is_best(self, entry: Epoch) -> bool:
        if entry.validation_loss is None or self._recipe.keep == "last":
            return False
        return entry.validation_loss <= min(_validation_losses(self._history))

    def _is_patience_spent(self, stage: _Stage) -> bool:
        """Whether so many epochs of this stage have passed since the lowest validation loss."""
        losses = _validation_losses(self._history)
        if not losses or self._recipe.keep == "last":
            return False
        since_best = len(losses) - 1 - int(np.argmin(losses))
        in_stage = sum(line.stage == stage.name for line in self._history)
        return min(since_best, in_stage) >= self._recipe.patience

    def _validate(self) -> tuple[float, float] | None:
        """Class-balanced cross-entropy and accuracy on whole validation crops."""
        material = self._material
        if not material.validation:
            return None
        logits = np.stack(
            [
                np.asarray(self._network.trainable(features[None].astype(np.float32), training=False))[0]
                for features in material.validation
            ]
        )
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        targets = material.validation_targets
        own = log_probabilities[np.arange(len(targets)), targets]
        right = logits.argmax(axis=1) == targets
        present = sorted(set(targets.tolist()))
        loss = float(np.mean([-own[targets == label].mean() for label in present]))
        accuracy = float(np.mean([right[targets == label].mean() for label in present]))
        return loss, accuracy


def _validation_losses(history: Sequence[Epoch]) -> list[float]:
    return [line.validation_loss for line in history if line.validation_loss is not None]


def _is_before(line: Epoch, stages: Sequence[str], reached: _Checkpoint | None) -> bool:
    """Whether a line of the history is of an epoch that the checkpoint contains."""
    if reached is None or line.stage not in stages:
        return False
    return (stages.index(line.stage), line.epoch) <= (stages.index(reached.stage), reached.epochs)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Weights, optimizer and the state of the dropout's random numbers after `epochs` epochs of a stage."""

    stage: str
    epochs: int
    values: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, model: Any, stage: str, epochs: int) -> _Checkpoint:  # noqa: ANN401
        values = [np.asarray(variable) for variable in (*model.variables, *model.optimizer.variables)]
        return cls(stage, epochs, tuple(values))

    @classmethod
    def read(cls, file: Path) -> _Checkpoint | None:
        """None where there is no checkpoint; RunError where it is damaged."""
        try:
            # From memory: numpy leaves the file open where it is damaged, and Windows could not replace it.
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
                stage, epochs = json.loads(str(stored["reached"]))
                values = tuple(stored[f"value_{index}"] for index in range(len(stored.files) - 1))
                return cls(str(stage), int(epochs), values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{file}: cannot be read ({error}); remove it, and the run begins with its first epoch"
            ) from error

    def write(self, file: Path) -> None:
        buffer = io.BytesIO()
        named = {f"value_{index}": value for index, value in enumerate(self.values)}
        named["reached"] = np.array(json.dumps([self.stage, self.epochs]))
        np.savez(buffer, **named)  # type: ignore[arg-type]
        write_durably(file, buffer.getvalue())

    def restore(self, model: Any) -> None:  # noqa: ANN401
        variables = (*model.variables, *model.optimizer.variables)
        for variable, value in zip(variables, self.values, strict=True):
            variable.assign(value)
