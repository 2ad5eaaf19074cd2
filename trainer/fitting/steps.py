"""The steps of one stage: what is fitted, at which rate, on all devices; and what an epoch of them cost.

A step splits its batch over the devices, adds up their gradients and changes every copy of the weights alike. The
loss is that of the whole batch, so the number of devices changes rounding only (and which dropout is drawn).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trainer.fitting.batches import Batch
    from trainer.fitting.devices import Devices
    from trainer.fitting.network import Network
    from trainer.fitting.run_folder import Epoch, Recipe

_TOLD_EVERY_S: Final = 0.25
"""Reading a loss makes a GPU wait for its host."""
_MOMENTUM: Final = 0.9
_DROPS_AFTER: Final = 3
_DROP: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run with its own length, peak learning rate and set of fitted weights."""

    name: str
    epochs: int
    rate: float
    whole_top: bool
    """Whether the upper part of the backbone is fitted too."""


@dataclass(frozen=True, slots=True)
class Step:
    """News from within an epoch, both counted from 1; `loss` is the mean over its steps so far."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Passed:
    """An epoch of steps: mean loss, share of right answers, and where the time went."""

    loss: float
    accuracy: float
    seconds: float
    waited_seconds: float
    """Of these, spent on waiting for input."""
    steps: int


def rates(stage: Stage, recipe: Recipe, epoch: int, steps: int, before: Sequence[Epoch]) -> list[float]:
    """Learning rate of each step of an epoch (from 0): warm-up over a fifth of the stage, then the schedule.

    `before` are the stage's epochs so far, from which `plateau` follows, so that a resumed run goes on alike.
    """
    total = stage.epochs * steps
    warm_up = max(1, total // 5)
    peak = stage.rate
    if recipe.schedule == "plateau":
        peak *= _DROP ** _plateaus(before)

    def rate(step: int) -> float:
        if step < warm_up:
            return peak * (1 / 20 + 19 / 20 * step / warm_up)
        if recipe.schedule != "cosine":
            return peak
        passed = min(1.0, (step - warm_up) / max(1, total - warm_up))
        return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * passed)))

    return [rate(step) for step in range(epoch * steps, (epoch + 1) * steps)]


def _plateaus(before: Sequence[Epoch]) -> int:
    """How often the loss (of validation, where there is one) has not fallen for some epochs."""
    count, best, since = 0, math.inf, 0
    for line in before:
        loss = line.loss if line.validation_loss is None else line.validation_loss
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since == _DROPS_AFTER:
            count, since = count + 1, 0
    return count


class Steps:
    """Optimizer and step of one stage; `variables` are all that the next step depends on."""

    def __init__(
        self, network: Network, recipe: Recipe, stage: Stage, devices: Devices, *, half: bool
    ) -> None:
        import keras

        self._model, self._recipe, self._stage, self._devices = network.trainable, recipe, stage, devices
        top = network.backbone.top
        top.trainable = stage.whole_top
        for layer in top.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # see trainer.fitting.network
        self._loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing, reduction="none", dtype="float32"
        )
        with devices.strategy.scope():
            self._optimizer = _optimizer(recipe, stage.rate)
            if half:
                # Gradients of half precision vanish below 6e-8: they are scaled up and the steps back down.
                self._optimizer = keras.optimizers.LossScaleOptimizer(self._optimizer)
            self._optimizer.build(self._model.trainable_variables)
        self._on_all = traced(self._on_all_devices)

    @property
    def variables(self) -> tuple[Any, ...]:
        """Weights, the state of the dropout's random numbers, and the optimizer's moments."""
        return (*self._model.variables, *self._optimizer.variables)

    def run(
        self, epoch: int, batches: Iterable[Batch], at_rates: Sequence[float], told: Callable[[Step], None]
    ) -> Passed:
        """Run the steps of an epoch (from 0), one for each learning rate."""
        losses: list[Any] = []
        right: list[Any] = []
        source, steps = iter(batches), len(at_rates)
        waited, read, sum_read = 0.0, 0, 0.0
        began = news = time.perf_counter()
        for step, rate in enumerate(at_rates, start=1):
            asked = time.perf_counter()
            batch = self._devices.dealt(next(source))
            waited += time.perf_counter() - asked
            self._optimizer.learning_rate = rate
            loss, hits = self._on_all(*batch)
            losses.append(loss)
            right.append(hits)
            if step == steps or time.perf_counter() - news > _TOLD_EVERY_S:
                for value in losses[
                    read:
                ]:  # one by one: how often news is told must not change the last bits
                    sum_read += float(value)
                read = step
                told(Step(self._stage.name, epoch + 1, self._stage.epochs, step, steps, sum_read / step))
                news = time.perf_counter()
        hits_share = sum(float(value) for value in right) / (steps * self._recipe.batch)
        return Passed(sum_read / steps, hits_share, time.perf_counter() - began, waited, steps)

    def _on_all_devices(self, *values: Any) -> tuple[Any, Any]:  # noqa: ANN401
        strategy = self._devices.strategy
        loss, hits = strategy.run(self._on_one_device, args=values)
        return strategy.reduce("SUM", loss, axis=None), strategy.reduce("SUM", hits, axis=None)

    def _on_one_device(self, views: Any, targets: Any, weights: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """A replica's share of the step: its part of the batch's mean loss, and how many answers are right."""
        import tensorflow as tf

        model, optimizer = self._model, self._optimizer
        with tf.GradientTape() as tape:
            logits = model(tf.cast(views, tf.float32), training=True)
            loss = tf.reduce_sum(self._loss(targets, logits) * weights) / self._recipe.batch
            scaled = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        hits = tf.reduce_sum(tf.cast(tf.argmax(logits, 1) == tf.argmax(targets, 1), tf.float32))
        return loss, hits


def traced(step: Callable[..., tuple[Any, Any]]) -> Any:  # noqa: ANN401
    """Let TensorFlow make one graph of a step (the first call takes longer, the rest much less)."""
    import tensorflow as tf

    return tf.function(step)


def _optimizer(recipe: Recipe, rate: float) -> Any:  # noqa: ANN401
    from keras import optimizers

    decay = recipe.weight_decay
    if recipe.optimizer == "sgd":
        return optimizers.SGD(rate, momentum=_MOMENTUM, nesterov=True, weight_decay=decay)
    if recipe.optimizer == "rmsprop":
        return optimizers.RMSprop(rate, weight_decay=decay)
    return optimizers.AdamW(rate, weight_decay=decay)
