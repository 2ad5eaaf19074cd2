"""Which map is faithful where dense layers follow the flattened feature map: a network of that kind, trained here.

    python tests/benchmarks/dense_head.py DATASET OUT.keras [--px 224] [--hidden 256] [--epochs 40]

Trains Flatten, Dense, Dense, softmax on the frozen ImageNet features of EfficientNet-Lite0 (squares of `--px`, each
training crop in eight positions), saves the whole network as Keras does, and prints its class-balanced accuracy on
the validation part. Then, as any lab would:

    edge-trainer import-checkpoint OUT.keras BUNDLE --labels faceted,rod,round --value-range=-0.9921875..1
    edge-trainer faithfulness BUNDLE DATASET --split validation --masks MASKS

compares Grad-CAM and HiResCAM of that network against masks, deletion, insertion and random weights.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    import keras
    from keras import layers

    from trainer.fitting.backbones import build_backbone
    from trainer.preparing.crops import load_dataset

    keras.utils.set_random_seed(0)
    dataset = load_dataset(given.dataset)
    backbone = build_backbone("efficientnet-lite0")
    picture = keras.Input((given.px, given.px, 1))
    features = backbone.top(backbone.trunk(picture))
    low, high = backbone.value_range
    parts = {part: squares(dataset, part, given.px) for part in ("train", "validation")}
    reader = keras.Model(picture, features)
    seen = {
        part: (reader.predict(grey * (high - low) + low, batch_size=8, verbose=0), answers)
        for part, (grey, answers) in parts.items()
    }
    dense = keras.Input(features.shape[1:])
    x = layers.Dropout(0.5)(layers.Flatten()(dense))
    x = layers.Dropout(0.5)(layers.Dense(given.hidden, activation="relu")(x))
    head = keras.Model(dense, layers.Dense(len(dataset.labels), activation="softmax")(x))
    head.compile(keras.optimizers.AdamW(3e-4, weight_decay=1e-3), "sparse_categorical_crossentropy")
    values, answers = seen["train"]
    weights = {
        index: len(answers) / max(1, int((answers == index).sum())) for index in range(len(dataset.labels))
    }
    head.fit(values, answers, batch_size=32, epochs=given.epochs, class_weight=weights, verbose=0)
    values, answers = seen["validation"]
    right = head.predict(values, verbose=0).argmax(axis=1) == answers
    recalls = [right[answers == index].mean() for index in np.unique(answers)]
    print(
        f"class-balanced accuracy on {len(answers)} validation crops in eight positions: {np.mean(recalls):.3f}"
    )
    keras.Model(picture, head(features)).save(given.out)
    print(f"labels in order: {','.join(dataset.labels)}; value range {low}..{high}")


def squares(dataset: Any, part: str, px: int) -> tuple[np.ndarray, np.ndarray]:
    """Each crop stretched to a square, in its eight positions: [n, px, px, 1], and its class."""
    from PIL import Image

    from trainer.fitting.features import shown

    found, answers = [], []
    for crop in dataset.part(part):
        whole = Image.fromarray(shown(dataset, crop)).resize((px, px), Image.Resampling.BOX)
        grey = np.asarray(whole, np.float32)
        for turns in range(4):
            for mirrored in (grey, grey[:, ::-1]):
                found.append(np.rot90(mirrored, turns))
                answers.append(dataset.labels.index(crop.label))
    return np.stack(found)[..., None], np.array(answers)


if __name__ == "__main__":
    main()
