"""A program: trains the toy network on virtual devices of this PC, or as one of several workers (TF_CONFIG).

python tests/trainer/distributed.py DATASET RUN REPLICAS [--recipe JSON] [--stop EPOCHS]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import tensorflow as tf

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("replicas", type=int)
    parser.add_argument("--recipe", default="{}")
    parser.add_argument("--stop", type=int, default=0)
    given = parser.parse_args()
    if given.replicas > 1:
        (processor,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * given.replicas
        tf.config.set_logical_device_configuration(processor, parts)
    train_toy(given)


def train_toy(given: argparse.Namespace) -> None:
    import json

    from toys import RECIPE, toy_architecture

    from trainer.fitting import backbones, devices, training
    from trainer.fitting.run_folder import Recipe
    from trainer.preparing.crops import load_dataset

    table = {**backbones.architectures(), "toy": toy_architecture()}
    backbones.architectures = lambda: table
    # Stand in for GPUs, which this PC need not have.
    devices.accelerators = lambda: [f"CPU:{index}" for index in range(given.replicas)]
    recipe = Recipe.model_validate({**RECIPE.model_dump(), **json.loads(given.recipe)})

    def told(_: object) -> None:
        given.stop -= 1
        if given.stop == 0:
            raise InterruptedError

    if given.stop:
        with contextlib.suppress(InterruptedError):
            training.train(load_dataset(given.dataset), given.run, recipe, seed=3, told=told)
    training.train(load_dataset(given.dataset), given.run, recipe, seed=3)


if __name__ == "__main__":
    main()
