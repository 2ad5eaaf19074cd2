"""What the trainer's tests train: pictures that anyone can tell apart, and a network of two layers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edge_agent.preprocessing import Preprocessing
from trainer.fitting.augmentation import Augmentation
from trainer.fitting.backbones import Architecture
from trainer.fitting.run_folder import Recipe
from trainer.preparing.crops import DataSet, Order, prepare
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LABELS = ("disc", "stripes")
LONG_TIER = pytest.mark.skipif(
    "SCOPEWATCH_LONG" not in os.environ,
    reason="long tier: SCOPEWATCH_LONG=1 python -m pytest -m long tests/trainer",
)

RECIPE = Recipe(
    backbone="toy",
    weights="none",
    views=2,
    augmentation=Augmentation(window_px=48, rotation_degrees=10, zoom=(0.9, 1.1), polarity=0, gamma=0.1),
    head_epochs=1,
    epochs=2,
    batch=2,
    learning_rate=1e-2,
    head_learning_rate=1e-2,
    dropout=0,
)


def picture(label: str, seed: int) -> NDArray[np.uint8]:
    """A bright disc, or vertical stripes, anywhere in a noisy field of 72 x 88 or 88 x 72 pixels."""
    random = np.random.default_rng([seed, len(label)])
    shape = (72, 88) if seed % 3 else (88, 72)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = random.uniform(0.35, 0.65, 2) * shape
    if label == "disc":
        drawn = np.hypot(y - centre[0], x - centre[1]) < 20
    else:
        drawn = np.sin((x - centre[1]) * 2 * np.pi / 14) > 0
    return np.clip(60 + 120 * drawn + random.normal(0, 6, shape), 0, 255).astype(np.uint8)


def mask(label: str, seed: int) -> NDArray[np.uint8]:
    """What is bright in the picture."""
    return (picture(label, seed) > 120).astype(np.uint8)


def draw_raw(raw: Path, labels: Sequence[str] = LABELS, each: int = 16) -> Path:
    """Class folders with `each` pictures."""
    for label in labels:
        (raw / label).mkdir(parents=True)
        for seed in range(each):
            Image.fromarray(picture(label, seed)).save(raw / label / f"{label}{seed:02}.png")
    return raw


def prepared(raw: Path, out: Path, *, split: SplitRule | None = None, input_px: int = 64) -> DataSet:
    """A data set of those pictures."""
    order = Order(
        preprocessing=Preprocessing(input_px=input_px),
        split=split or SplitRule(test=0.25, validation=0.25),
        cache_px=input_px,
        screening=ScreeningRule(on=False),
    )
    return prepare(raw, out, order, workers=1)


def toy_architecture() -> Architecture:
    """Two convolutions with batch normalisation, one on each side of the split; a map cell is 8 px wide."""
    return Architecture("toy", (-1.0, 1.0), 8, _build, "lower", "nowhere")


def _build(weights: str, seed: int | None) -> Any:
    import keras
    from keras import layers

    del weights
    keras.utils.set_random_seed(seed or 0)
    picture = keras.Input((None, None, 1), name="micrograph")
    x = layers.Conv2D(12, 7, strides=4, padding="same", name="lower")(picture)
    x = layers.ReLU()(layers.BatchNormalization(name="lower_bn")(x))
    x = layers.Conv2D(16, 3, strides=2, padding="same", name="upper")(x)
    x = layers.ReLU(name="last")(layers.BatchNormalization(name="upper_bn")(x))
    return keras.Model(picture, x, name="toy")
