"""Small models as other people's programs leave them on a disk, of every kind that import-checkpoint takes.

Those of Keras 2 are written by tf_keras in a process of its own (`legacy_models`), with what tf_keras itself
answers beside them. All are made once a session and read only; a test that damages one takes a copy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pytest
    from numpy.typing import NDArray

PX = 32
CLASSES = 3
VGG = "vgg16:block2_pool"
INCEPTION = "inceptionv3:mixed0"
INCEPTION_PX = 75

LEGACY = {
    "flat": VGG,
    "nested": VGG,
    "average": VGG,
    "inception": INCEPTION,
    "frozen": INCEPTION,
}
"""Models that `legacy_models` writes, and the --architecture of each. FOLDER/NAME holds weights.hdf5.ckpt.*,
weights.h5 and answers.npz (pictures, answers); of `flat` and `nested` also model.h5, model.keras, saved_model/."""


def small_network(*, px: int | None = PX, classes: int = CLASSES, channels: int = 3, dense: int = 6) -> Any:
    """A Keras 3 classifier with every common layer: two convolutions, normalisation, a shortcut, a dense head."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(7)
    picture = keras.Input((px, px, channels), name="photo")
    x = layers.Rescaling(2.0, -1.0)(picture)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    x = layers.MaxPooling2D()(layers.Add()([x, layers.ReLU()(y)]))
    x = layers.Flatten()(x) if px else layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3)(layers.Dense(dense, activation="relu")(x))
    model = keras.Model(picture, layers.Dense(classes, activation="softmax")(x))
    _move_averages(model)
    return model


def _move_averages(model: Any) -> None:
    """Statistics and scales that are not the initial ones, so that a lost normalisation is seen."""
    draw = np.random.default_rng(3)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            _move_averages(layer)
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([draw.uniform(0.5, 1.5, one.shape) for one in layer.get_weights()])


def pictures(px: int, count: int = 2, channels: int = 3) -> NDArray[np.float32]:
    """Noise, 0 to 1."""
    return np.random.default_rng(1).random((count, px, px, channels), dtype=np.float32)


def small_onnx(path: Path, *, outputs: int = 1, inputs: int = 1, external: bool = False) -> Path:
    """An ONNX classifier in the layout of PyTorch: a convolution, an average and a softmax."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).normal(size=(CLASSES, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["picture", "kernel"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, PX, PX])
            for name in ("picture", "second")[:inputs]
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", CLASSES])
            for name in ("answer", "logits")[:outputs]
        ],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="a lab")
    if external:
        onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    else:
        path.write_bytes(model.SerializeToString())
    return path


def legacy_models(factory: pytest.TempPathFactory) -> Path:
    """The folder with the models of Keras 2; made on the first call of a session."""
    folder = factory.getbasetemp() / "legacy-models"
    if not (folder / "done").exists():
        environment = os.environ | {
            "TF_USE_LEGACY_KERAS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        command = [sys.executable, "-W", "ignore", __file__, str(folder), *LEGACY]
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr[-3000:]
    return folder


def origin_models(folder: Path) -> Path:
    """The origin's checkpoint in full size: InceptionV3 to mixed7, two dense layers of 1024, 150 px, 190 MB."""
    environment = os.environ | {
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(folder), "origin"], env=environment, check=True
    )
    return folder / "origin"


# --- what runs under tf_keras ------------------------------------------------------------------------------------


def _write_legacy(folder: Path, names: list[str]) -> None:
    import tf_keras as keras

    for name in names:
        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
        if name != "flat":  # numbers of layer names that do not start at zero
            keras.layers.Dense(2)
            keras.layers.Conv2D(2, 3)
        place = folder / name
        place.mkdir(parents=True)
        model, px = _legacy_network(name)
        _move_averages(model)
        if name == "flat":  # the optimizer gets its slots
            model.compile(optimizer=keras.optimizers.legacy.RMSprop(1e-4), loss="categorical_crossentropy")
            model.train_on_batch(pictures(px), np.eye(CLASSES, dtype=np.float32)[:2])
        shown = pictures(px)
        np.savez(place / "answers.npz", pictures=shown, answers=np.asarray(model(shown, training=False)))
        model.save_weights(place / "weights.hdf5.ckpt")
        if name != "origin":
            model.save_weights(place / "weights.h5")
        if name in ("flat", "nested"):
            model.save(place / "model.h5")
            model.save(place / "model.keras")
            model.save(place / "saved_model")
    (folder / "done").write_text(json.dumps(names))


def _legacy_network(name: str) -> tuple[Any, int]:
    """A model and its input size; some are functional, some Sequential around a nested backbone."""
    import tf_keras as keras
    from tf_keras import layers

    if name in ("flat", "nested", "average"):
        px, layer, build = PX, "block2_pool", keras.applications.VGG16
    else:
        px, layer, build = INCEPTION_PX, "mixed0", keras.applications.InceptionV3
    if name == "origin":
        px, layer = 150, "mixed7"
    whole = build(weights=None, include_top=False, input_shape=(px, px, 3))
    backbone = keras.Model(whole.input, whole.get_layer(layer).output)
    if name == "frozen":  # as in fine-tuning: files then list the frozen weights last
        for one in backbone.layers[:20]:
            one.trainable = False
    units = {"origin": [1024, 1024, 10], "nested": [6, CLASSES]}.get(name, [6, 5, CLASSES])
    head = [layers.GlobalAveragePooling2D() if name == "average" else layers.Flatten()]
    for one in units[:-1]:
        head += [layers.Dense(one, activation="relu"), layers.Dropout(0.2)]
    head.append(layers.Dense(units[-1], activation="softmax"))
    if name in ("nested", "average", "frozen"):
        return keras.Sequential([backbone, *head]), px
    x = backbone.output
    for one in head:
        x = one(x)
    return keras.Model(backbone.input, x), px


if __name__ == "__main__":
    _write_legacy(Path(sys.argv[1]), sys.argv[2:])
