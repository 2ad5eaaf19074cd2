"""A program for a process of its own, with Keras 2: trains nothing, saves a CNN and its maps by two other ways.

`TF_USE_LEGACY_KERAS=1 python keras_vis_maps.py FOLDER` reads FOLDER/pictures.npy [n, 48, 48] and writes model.h5
and maps.npz: Grad-CAM of every class by tf-keras-vis and by a GradientTape, raw, channels summed, from the logit.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers
from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
from tf_keras_vis.utils.scores import CategoricalScore

CLASSES = 4


def main(folder: Path) -> None:
    tf_keras.utils.set_random_seed(2)
    pictures = np.load(folder / "pictures.npy")
    coloured = np.repeat(pictures[..., None], 3, axis=-1)
    model = network(pictures.shape[1])
    model.save(folder / "model.h5")
    linear = ReplaceToLinear()(model)
    vis = Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)
    found = {"tape": [], "keras_vis": []}
    for label in range(CLASSES):
        found["tape"].append(taped(linear or model, label, coloured))
        found["keras_vis"].append(
            vis(
                CategoricalScore(label),
                coloured,
                penultimate_layer="last",
                seek_penultimate_conv_layer=False,
                activation_modifier=None,
                normalize_cam=False,
                expand_cam=False,
            )
        )
    np.savez(folder / "maps.npz", **{name: np.stack(maps, axis=1) for name, maps in found.items()})


def network(side: int) -> tf_keras.Model:
    picture = layers.Input((side, side, 3))
    x = layers.Conv2D(8, 5, strides=4, activation="relu", padding="same")(picture)
    x = layers.Conv2D(16, 3, activation="relu", padding="same", name="last")(x)
    x = layers.Dropout(0.2)(layers.Dense(32, activation="relu")(layers.Flatten()(x)))
    return tf_keras.Model(picture, layers.Dense(CLASSES, activation="softmax")(x))


def taped(model: tf_keras.Model, label: int, coloured: np.ndarray) -> np.ndarray:
    both = tf_keras.Model(model.inputs, [model.get_layer("last").output, model.output])
    with tf.GradientTape() as tape:
        features, answers = both(coloured)
        chosen = tf.reduce_sum(answers[:, label])
    slope = tape.gradient(chosen, features)
    return tf.reduce_sum(tf.reduce_mean(slope, axis=(1, 2), keepdims=True) * features, axis=-1).numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
