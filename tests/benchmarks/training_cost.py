"""What training costs beside the origin's recipe in Keras: same machine, same network, same crops.

    python tests/benchmarks/training_cost.py DATASET [--seconds 40] [--px 150 320] [--batch 16]

DATASET is a folder made by `edge-trainer prepare`. The network is InceptionV3 up to `mixed7` with random weights
(their values do not change the work). The origin's recipe: crops as files in class folders, decoded anew in each
epoch by `ImageDataGenerator` (rescale 1/255, random turns, shifts, zooms, mirrors), the network cut at `mixed7`,
Flatten, Dense 1024, softmax, RMSprop. Ours: `trainer`'s own steps on the features of the frozen part, computed once
for all epochs. Each row is timed for `--seconds` after its first steps, which build graphs. Read the table; nothing
is asserted. Needs the `train` extra (and scipy, which ncempy brings).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BACKBONE, LAST, UPPER, LOWER = "inceptionv3-mixed7", "mixed7", "mixed6", "mixed0"
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Pace:
    """Crops a second, and the share of the time that was spent on waiting for input."""

    crops_per_second: float
    waiting: float


def timed(step: Any, batch: int, seconds: float) -> Pace:
    """Run `step() -> seconds waited` for so long."""
    for _ in range(WARM_UP_STEPS):
        step()
    began, steps, waited = time.perf_counter(), 0, 0.0
    while (passed := time.perf_counter() - began) < seconds or steps < 2:
        waited += step()
        steps += 1
    return Pace(steps * batch / passed if steps else 0.0, waited / passed)


# --- the origin's recipe ------------------------------------------------------------------------------------------


def write_crops(dataset: Any, folder: Path, px: int) -> None:
    """The training crops as square files in class folders, as the origin had them."""
    from PIL import Image

    from trainer.preparing.crops import load_pixels

    for crop in dataset.train:
        (folder / crop.label).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(load_pixels(dataset, crop)).resize((px, px), Image.Resampling.BOX)
        picture.save(folder / crop.label / f"{crop.crop_id}.png")


def origin_files(folder: Path, px: int, batch: int) -> Any:
    """Batches as `ImageDataGenerator` makes them: every file opened, decoded, turned and scaled in every epoch."""
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=180,
        width_shift_range=0.2,
        height_shift_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
        fill_mode="reflect",
    )
    return generator.flow_from_directory(
        str(folder), target_size=(px, px), batch_size=batch, class_mode="categorical", seed=0
    )


def origin_model(px: int, classes: int, fitted_after: str | None) -> Any:
    """InceptionV3 cut at mixed7, Flatten, Dense 1024, softmax; the layers after `fitted_after` are fitted too."""
    import keras
    from keras import layers

    whole = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(px, px, 3))
    fitted = False
    for layer in whole.layers:
        layer.trainable = fitted
        fitted = fitted or layer.name == fitted_after
    last = whole.get_layer(LAST).output
    x = layers.Dense(1024, activation="relu")(layers.Flatten()(last))
    model = keras.Model(whole.input, layers.Dense(classes, activation="softmax")(x))
    model.compile(keras.optimizers.RMSprop(1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return model


def origin_pace(folder: Path, px: int, batch: int, classes: int, seconds: float, after: str | None) -> Pace:
    model, files = origin_model(px, classes, after), origin_files(folder, px, batch)

    def step() -> float:
        asked = time.perf_counter()
        pictures, answers = next(files)
        while len(pictures) < batch:  # the last batch of an epoch
            pictures, answers = next(files)
        waited = time.perf_counter() - asked
        model.train_on_batch(pictures, answers)
        return waited

    return timed(step, batch, seconds)


# --- ours ---------------------------------------------------------------------------------------------------------


def ours_pace(
    dataset: Any, px: int, batch: int, seconds: float, after: str, *, whole_top: bool
) -> tuple[Pace, float]:
    """Pace of the steps, and crops a second of computing the frozen part's features once."""
    from trainer.fitting.augmentation import Augmentation
    from trainer.fitting.batches import Batches
    from trainer.fitting.devices import devices
    from trainer.fitting.features import view_features
    from trainer.fitting.run_folder import Recipe
    from trainer.fitting.steps import Stage, Steps
    from trainer.fitting.training import new_network

    recipe = Recipe(
        backbone=BACKBONE, weights="none", fine_tune_from=after, batch=batch, views=2,
        augmentation=Augmentation(window_px=px),
    )  # fmt: skip
    network = new_network(dataset.labels, recipe)
    few = replace(dataset, crops=dataset.train[:64])
    steps = Steps(network, recipe, Stage("measured", 1, 1e-4, whole_top), devices(), half=False)
    with tempfile.TemporaryDirectory(prefix="training-cost-") as store:
        view_features(replace(few, crops=few.train[:2]), recipe, network, Path(store), 0)
        began = time.perf_counter()
        views = view_features(few, recipe, network, Path(store) / "timed", 0)
        once = len(few.train) * recipe.views / (time.perf_counter() - began)
        targets = np.array([dataset.labels.index(crop.label) for crop in few.train])
        batches = Batches(views, np.arange(len(few.train)), targets, len(dataset.labels), recipe, 0)
        source = iter(batches.stream("measured", 0, 1_000_000))
        shared = _Endless(source)

        def step() -> float:
            return steps.run(0, shared, [1e-4], lambda _: None).waited_seconds

        return timed(step, batch, seconds), once


class _Endless:
    """One iterator for many short epochs, so that each step is timed as in a long one."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> Any:
        return self._source


def measured(dataset: Any, px: int, batch: int, seconds: float) -> list[str]:
    """The rows of the table for one side of the input."""
    small = replace(dataset, preprocessing=dataset.preprocessing.model_copy(update={"input_px": max(px, 32)}))
    rows = []
    parts = {
        "frozen stage": (None, LAST, False),
        f"fine-tuning after {UPPER}": (UPPER, UPPER, True),
        f"fine-tuning after {LOWER}": (LOWER, LOWER, True),
    }
    with tempfile.TemporaryDirectory(prefix="training-cost-files-") as folder:
        write_crops(small, Path(folder), px)
        for name, (theirs, after, whole_top) in parts.items():
            origin = origin_pace(Path(folder), px, batch, len(dataset.labels), seconds, theirs)
            ours, once = ours_pace(small, px, batch, seconds, after, whole_top=whole_top)
            ratio = ours.crops_per_second / origin.crops_per_second
            rows.append(
                f"| {name} | {px} | {origin.crops_per_second:.1f} | {origin.waiting:.1%} | "
                f"{ours.crops_per_second:.1f} | {ours.waiting:.2%} | {once:.1f} | {ratio:.1f} |"
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of six rates and side")
    parser.add_argument("--px", type=int, nargs="+", default=[150, 320])
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    warnings.simplefilter("ignore")

    from trainer.fitting.provenance import machine
    from trainer.fitting.run_folder import versions
    from trainer.preparing.crops import load_dataset

    dataset = load_dataset(given.dataset)
    print(f"{machine()}; " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"batch {given.batch}, {len(dataset.train)} training crops, {given.seconds:g} s for each rate\n")
    print("| stage | px | origin, crops/s | waits for input | ours, crops/s | waits for input | "
          "features once, crops/s | ratio |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for px in given.px:
        measured(dataset, px, given.batch, given.seconds)


if __name__ == "__main__":
    main()
