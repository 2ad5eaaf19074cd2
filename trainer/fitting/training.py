"""Staged fine-tuning of a network on a prepared data set, in a run folder that can be resumed.

Stage one fits the head alone, stage two the head and the upper part of the backbone, with a warm-up and a cosine
schedule, on features of the frozen lower part (`fitting.features`).

A run that was killed goes on from its checkpoint (`fitting.checkpoint`) and ends with the weights that it would
have had, but for the rounding of another process. `state/best.weights.h5` are those of the epoch with the lowest
validation loss so far.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.files import write_durably
from trainer.fitting.backbones import BackboneError, build_backbone, load_weights
from trainer.fitting.batches import Batches
from trainer.fitting.checkpoint import Checkpoint
from trainer.fitting.curves import draw_curves
from trainer.fitting.devices import Devices, devices, half_precision, precision, settle
from trainer.fitting.features import view_features, whole_features
from trainer.fitting.network import Network, build_network
from trainer.fitting.provenance import session
from trainer.fitting.run_folder import (
    WEIGHTS,
    Epoch,
    Recipe,
    RunError,
    RunRecord,
    claim,
    note_session,
    read_history,
    read_record,
    versions,
    write_history,
)
from trainer.fitting.steps import Stage, Step, Steps, rates
from trainer.fitting.tensorboard_log import TensorBoardLog
from trainer.fitting.validation import validated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.fitting.provenance import Session
    from trainer.preparing.crops import Crop, DataSet

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
    resume: bool | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    told: Callable[[Epoch], None] = lambda _: None,
    watched: Callable[[Step], None] = lambda _: None,
) -> Path:
    """Train in the folder `run`, or go on where it was interrupted; returns the file of the weights kept.

    A finished run is left as it is. `without_groups` leaves groups of the training part out (cross-validation),
    `validate=False` ignores the validation part. `features` is where the views' intermediate features lie
    (default: inside the run); runs on the same data set and recipe may share it. `resume`: None goes on where
    there is a run, True wants one there, False wants none. `progress(what, done, total)` is called as work goes
    on, `watched` some times a second while steps are run, `told` after every epoch.

    On several GPUs, or with TF_CONFIG several machines, each step is split among them (`fitting.devices`).

    Raises:
        RunError: nothing to train on, or the folder holds a run of other data or another recipe.
        TrainingFailed: the loss is no number any more.

    """
    crops = tuple(crop for crop in dataset.train if crop.group not in without_groups)
    _check(dataset, crops)
    where = devices()
    where.share(recipe.batch)
    record = _record(dataset, recipe, seed, without_groups, len(crops))
    if where.is_chief:
        claim(run, record, resume=resume)
    if (run / WEIGHTS).is_file():
        return run / WEIGHTS
    settle(recipe, seed)
    with where.strategy.scope(), precision(recipe):
        network = new_network(dataset.labels, recipe, seed=seed)
    if not where.is_chief:
        where.of_chief([0.0])  # it has computed the features now
    store = features if features is not None else run / "features"
    views = view_features(dataset, recipe, network, store, seed, progress)
    validation = dataset.validation if validate else ()
    shown = whole_features(dataset, validation, network, run / "state", progress) if where.is_chief else ()
    if where.is_chief:
        where.of_chief([0.0])
    chosen = {crop.crop_id: index for index, crop in enumerate(dataset.train)}
    material = _Material(
        batches=Batches(
            views=views,
            rows=np.array([chosen[crop.crop_id] for crop in crops]),
            targets=np.array([dataset.labels.index(crop.label) for crop in crops]),
            classes=len(dataset.labels),
            recipe=recipe,
            seed=seed,
        ),
        validated=bool(validation),
        validation=shown,
        validation_targets=np.array([dataset.labels.index(crop.label) for crop in validation]),
    )
    return _Fit(network, material, run, where, _Listeners(progress, told, watched)).fit(record.sessions[0])


def new_network(
    labels: tuple[str, ...], recipe: Recipe, *, seed: int = 0, pretrained: bool = True
) -> Network:
    """Build the recipe's network; without `pretrained` its weights are random (to be loaded from a run)."""
    weights = recipe.weights if pretrained else "none"
    backbone = build_backbone(recipe.backbone, weights, split=recipe.fine_tune_from, seed=seed)
    return build_network(backbone, labels, recipe.dropout, recipe.head_width)


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
    here = session(versions())
    return RunRecord(
        recipe=recipe,
        seed=seed,
        dataset=str(dataset.root.resolve()),
        dataset_fingerprint=dataset.fingerprint,
        labels=dataset.labels,
        part={"train": count, "validation": len(dataset.validation), "test": len(dataset.test)},
        held_out=tuple(sorted(without)),
        versions=here.versions,
        hardware=str(here.machine),
        sessions=(here,),
    )


@dataclass(frozen=True, slots=True)
class _Material:
    batches: Batches
    validated: bool
    """Whether there is a validation part; its features are the chief's alone."""
    validation: tuple[NDArray[np.float16], ...]
    validation_targets: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Listeners:
    progress: Callable[[str, int, int], None]
    told: Callable[[Epoch], None]
    watched: Callable[[Step], None]


class _Fit:
    """Both stages of one run."""

    def __init__(
        self, network: Network, material: _Material, run: Path, where: Devices, listeners: _Listeners
    ) -> None:
        self._network, self._material, self._where, self._listeners = network, material, where, listeners
        self._recipe = material.batches.recipe
        self._run, self._state = run, run / "state"
        self._half = half_precision(self._recipe)
        self._history: list[Epoch] = []

    def fit(self, here: Session) -> Path:
        """Fit both stages; returns the file of the weights kept."""
        recipe = self._recipe
        stages = [
            Stage("head", recipe.head_epochs, recipe.head_learning_rate, whole_top=False),
            Stage("fine-tuning", recipe.epochs, recipe.learning_rate, whole_top=True),
        ]
        reached = Checkpoint.read(self._state)
        names = [stage.name for stage in stages]
        first = names.index(reached.stage) if reached else 0
        if reached:
            self._history = [line for line in read_history(self._run) if reached.contains(line, names)]
        with self._log() as log:
            for stage in stages[first:]:
                self._fit_stage(
                    stage, reached if reached and reached.stage == stage.name else None, here, log
                )
        if self._where.is_chief:
            self._finish(here)
        self._where.of_chief([0.0])
        return self._run / WEIGHTS

    def _log(self) -> contextlib.AbstractContextManager[TensorBoardLog | None]:
        if not self._where.is_chief:
            return contextlib.nullcontext()
        self._state.mkdir(exist_ok=True)
        write_history(self._run, self._history)
        return TensorBoardLog(self._run, self._network.labels, self._history)

    def _finish(self, here: Session) -> None:
        if self._recipe.keep == "best" and (self._state / _BEST).is_file():
            _load_weights(self._network, self._state / _BEST)
        draw_curves(self._run, self._history)
        note_session(self._run, here, finished=True)
        # Last: these weights say that the run is finished.
        _save_weights(self._network, self._run / WEIGHTS)

    def _fit_stage(
        self, stage: Stage, reached: Checkpoint | None, here: Session, log: TensorBoardLog | None
    ) -> None:
        steps = Steps(self._network, self._recipe, stage, self._where, half=self._half)
        if reached:
            reached.restore(steps.variables, self._state)
        for epoch in range(reached.epochs if reached else 0, stage.epochs):
            if self._is_patience_spent(stage):
                return
            entry = self._epoch(steps, stage, epoch)
            self._history.append(entry)
            if log is not None:
                self._keep(entry, here, log)
                # Last: until it is in place, the epoch did not happen.
                Checkpoint.of(steps.variables, stage.name, epoch + 1).write(self._state)
            self._listeners.told(entry)
            self._listeners.progress(stage.name, epoch + 1, stage.epochs)

    def _keep(self, entry: Epoch, here: Session, log: TensorBoardLog) -> None:
        """Put an epoch on the disk, all but the checkpoint."""
        if self._is_best(entry):
            _save_weights(self._network, self._state / _BEST)
        write_history(self._run, self._history)
        log.add(entry)
        note_session(self._run, here)

    def _epoch(self, steps: Steps, stage: Stage, epoch: int) -> Epoch:
        """Run one epoch (from 0); TrainingFailed where the numbers have run away."""
        began, batches = time.perf_counter(), self._material.batches
        before = [line for line in self._history if line.stage == stage.name]
        at_rates = rates(stage, self._recipe, epoch, batches.steps, before)
        first, share = epoch * batches.steps, self._where.share(self._recipe.batch)
        stream = batches.stream(stage.name, first, first + batches.steps, share)
        passed = steps.run(epoch, stream, at_rates, self._listeners.watched)
        scored = self._scored(Epoch(stage.name, epoch + 1, passed.loss, None, None))
        return replace(
            scored,
            learning_rate=at_rates[-1],
            training_accuracy=passed.accuracy,
            seconds=round(time.perf_counter() - began, 3),
            steps_per_second=round(passed.steps / passed.seconds, 3),
            input_wait_share=round(passed.waited_seconds / passed.seconds, 4),
        )

    def _scored(self, line: Epoch) -> Epoch:
        """Add the validation part's figures; the chief alone computes them, and tells the other workers."""
        material = self._material
        if material.validated:
            found = validated(self._network, material.validation, material.validation_targets)
            figures = (found.loss, found.balanced_accuracy) if found else (0.0, 0.0)
            loss, accuracy = self._where.of_chief(figures)
            line = replace(
                line,
                validation_loss=loss,
                validation_balanced_accuracy=accuracy,
                confusion=found.confusion if found else None,
            )
        if not (math.isfinite(line.loss) and math.isfinite(line.validation_loss or 0.0)):
            raise TrainingFailed(
                f"{self._run}: the loss is {line.loss:g} after epoch {line.epoch} of {line.stage}; "
                "give a lower --learning-rate and another --run folder"
            )
        return line

    def _is_best(self, entry: Epoch) -> bool:
        if entry.validation_loss is None or self._recipe.keep == "last":
            return False
        return entry.validation_loss <= min(_validation_losses(self._history))

    def _is_patience_spent(self, stage: Stage) -> bool:
        """Whether so many epochs of this stage have passed since the lowest validation loss."""
        losses = _validation_losses(self._history)
        if not losses or self._recipe.keep == "last":
            return False
        since_best = len(losses) - 1 - int(np.argmin(losses))
        in_stage = sum(line.stage == stage.name for line in self._history)
        return min(since_best, in_stage) >= self._recipe.patience


def _validation_losses(history: Sequence[Epoch]) -> list[float]:
    return [line.validation_loss for line in history if line.validation_loss is not None]
