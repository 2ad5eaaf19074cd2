"""On what a run computes: one device, several GPUs of a machine, or several machines; and in which precision.

Only this module knows `tf.distribute` and `TF_CONFIG` (how TensorFlow is told of the other machines). Every worker
runs the same command on the same run folder, which all of them must see; the first, the chief, alone writes. With
one device nothing is distributed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.fitting.run_folder import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trainer.fitting.run_folder import Recipe

CLUSTER: Final = "TF_CONFIG"


@dataclass(frozen=True, slots=True)
class Devices:
    """Where a run computes: `replicas` copies of the network, `workers` processes, and which one this is."""

    strategy: Any
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """Copies of the network that see different parts of each batch."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.worker == 0

    def share(self, batch: int) -> slice:
        """Return the part of each batch that this process needs.

        Raises:
            RunError: the batch cannot be dealt evenly.

        """
        if batch % self.replicas:
            raise RunError(
                f"a batch of {batch} cannot be dealt evenly to {self.replicas} devices; "
                f"give --batch {batch // self.replicas * self.replicas or self.replicas}"
            )
        size = batch // self.workers
        return slice(self.worker * size, (self.worker + 1) * size)

    def dealt(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Deal the arrays of this process's share to its own replicas."""
        here = self.replicas // self.workers
        if here == 1:
            return tuple(values)
        import tensorflow as tf

        first, size = self.worker * here, len(values[0]) // here

        def part(whole: Any) -> Callable[[Any], Any]:  # noqa: ANN401
            def of_replica(context: Any) -> Any:  # noqa: ANN401
                at = (context.replica_id_in_sync_group - first) * size
                return tf.constant(whole[at : at + size])

            return of_replica

        deal = self.strategy.experimental_distribute_values_from_function
        return tuple(deal(part(whole)) for whole in values)

    def of_chief(self, values: Sequence[float]) -> list[float]:
        """Give every worker what the chief gives; returns when all of them have come here."""
        if self.workers == 1:
            return list(values)
        mine = np.array(values, dtype=np.float64)
        return [float(value) for value in _agreement(self)(mine if self.is_chief else mine * 0).numpy()]


@functools.cache
def _agreement(where: Devices) -> Any:  # noqa: ANN401
    """A function that all workers call at the same place, and that gives all of them the chief's numbers."""
    import tensorflow as tf

    first = where.replicas // where.workers * where.worker

    def together(mine: Any) -> Any:  # noqa: ANN401
        def once() -> Any:  # noqa: ANN401
            # A worker with several GPUs says it once.
            here = tf.distribute.get_replica_context().replica_id_in_sync_group
            return tf.where(tf.equal(here, first), mine, tf.zeros_like(mine))

        return where.strategy.reduce("SUM", where.strategy.run(once), axis=None)

    return tf.function(together, reduce_retracing=True)


@functools.cache
def devices() -> Devices:
    """Find out on what this process computes; TensorFlow wants several workers announced before anything else.

    Raises:
        RunError: TF_CONFIG cannot be understood.

    """
    import tensorflow as tf

    workers, index = _cluster()
    if workers > 1:
        return Devices(tf.distribute.MultiWorkerMirroredStrategy(), index, workers)
    names = accelerators()
    if len(names) > 1:
        return Devices(tf.distribute.MirroredStrategy(names))
    return Devices(tf.distribute.get_strategy())


def accelerators() -> list[str]:
    """Names of the GPUs that TensorFlow can use here."""
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("GPU")]


def _cluster() -> tuple[int, int]:
    """How many workers TF_CONFIG tells of, and which of them this process is."""
    text = os.environ.get(CLUSTER, "")
    if not text.strip():
        return 1, 0
    try:
        told = json.loads(text)
        kinds = [
            (kind, number)
            for kind in ("chief", "worker")
            for number in range(len(told["cluster"].get(kind, ())))
        ]
        return len(kinds), kinds.index((told["task"]["type"], int(told["task"]["index"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{CLUSTER} is {text!r}: not a cluster of workers with this process among them ({error}); "
            "unset it to train on this machine alone"
        ) from error


def half_precision(recipe: Recipe) -> bool:
    """Whether this run computes in half precision: asked for, and on a GPU (a CPU is slower with it)."""
    return recipe.mixed_precision and bool(accelerators())


@contextlib.contextmanager
def precision(recipe: Recipe) -> Iterator[None]:
    """Layers built inside compute in the recipe's precision; their weights are in single precision either way."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if half_precision(recipe) else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def settle(recipe: Recipe, seed: int) -> None:
    """Seed all that Keras and TensorFlow draw; refuse what cannot be repeated where the recipe says so."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
