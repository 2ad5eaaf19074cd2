"""Weights without a network: every layer finds its place whatever it is called, and what does not fit is named."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import h5py  # noqa: TID251 - what the trainer reads
import numpy as np
import pytest
from foreign_models import CLASSES, INCEPTION_PX, LEGACY, PX, VGG, legacy_models, pictures

from trainer.importing.architectures import BACKBONES, Rebuilt, known_architecture, rebuild
from trainer.importing.checkpoint_reading import (
    StoredLayer,
    StoredTensor,
    StoredWeights,
    from_checkpoint,
    from_hdf5,
)
from trainer.importing.foreign_file import ForeignModelError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return legacy_models(tmp_path_factory)


def rebuilt(path: Path, architecture: str, input_px: int | None) -> Rebuilt:
    named = known_architecture(architecture, path, "weights")
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return rebuild(named, from_hdf5(file, path), path, input_px)
    return rebuild(named, from_checkpoint(path), path, input_px)


def size_of(name: str) -> int | None:
    if name == "average":
        return None
    return PX if LEGACY[name] == VGG else INCEPTION_PX


@pytest.mark.parametrize("file", ["weights.hdf5.ckpt", "weights.h5"])
@pytest.mark.parametrize("name", LEGACY)
def test_the_rebuilt_network_answers_as_the_one_that_was_saved(legacy: Path, name: str, file: str) -> None:
    built = rebuilt(legacy / name / file, LEGACY[name], size_of(name))
    with np.load(legacy / name / "answers.npz") as truth:
        seen = np.asarray(built.model(truth["pictures"], training=False))
        assert np.ptp(truth["answers"], axis=0).max() > 1e-4  # else a wrong weight would not be seen
        np.testing.assert_allclose(seen, truth["answers"], atol=2e-6)


def test_what_was_deduced_is_told(legacy: Path) -> None:
    built = rebuilt(legacy / "flat" / "weights.h5", VGG, PX)
    assert (built.architecture, built.layer, built.input_px) == ("VGG16", "block2_pool", PX)
    assert built.head == "flattened map of 8 x 8 cells, dense 6 relu, dense 5 relu, dense 3 softmax"
    built = rebuilt(legacy / "average" / "weights.hdf5.ckpt", "VGG16: block2_pool", 48)
    assert (built.input_px, built.head) == (
        48,
        "average of the map, dense 6 relu, dense 5 relu, dense 3 softmax",
    )


@pytest.mark.parametrize(("nested", "channels"), [(False, 3), (True, 1)], ids=["flat", "nested and grey"])
def test_weights_of_keras_3_find_their_layers_by_class(tmp_path: Path, nested: bool, channels: int) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    whole = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(PX, PX, channels))
    backbone = keras.Model(whole.input, whole.get_layer("block_2_add").output)
    head = [layers.RandomFlip(), layers.Flatten(), layers.Dropout(0.5), layers.Dense(1, activation="sigmoid")]
    if nested:
        model = keras.Sequential([backbone, *head])
    else:
        x = backbone.output
        for one in head:
            x = one(x)
        model = keras.Model(backbone.input, x)
    model.save_weights(tmp_path / "net.weights.h5")
    built = rebuilt(tmp_path / "net.weights.h5", "mobilenet-v2:block_2_add", PX)
    shown = pictures(PX, channels=channels)
    np.testing.assert_allclose(built.model(shown, training=False), model(shown, training=False), atol=1e-6)
    assert built.head.endswith("dense 1 sigmoid")


NOT_FITTING = {
    "another network": (
        "resnet50",
        PX,
        r"does not fit ResNet50 up to conv5_block3_out|holds 7 layers, ResNet50",
    ),
    "a later layer": (
        "vgg16:block3_pool",
        PX,
        r"the first layer that differs is block3_conv1, whose kernel is \[3, 3, 128",
    ),
    "an earlier layer": (
        "vgg16:block1_pool",
        PX,
        r"behind VGG16 up to block1_pool comes .*\[3, 3, 64, 128\].*no dense",
    ),
    "a layer that is none": ("vgg16:mixed7", PX, r"VGG16 has no layer 'mixed7'; perhaps "),
    "no size": (
        VGG,
        None,
        r"--input-size is not given: its first dense layer takes 8 x 8 cells, .* pictures of 32 to 35 px",
    ),
    "another size": (
        VGG,
        150,
        r"--input-size 150 does not fit: .* pictures of 32 to 35 px; give --input-size",
    ),
}


@pytest.mark.parametrize(("architecture", "input_px", "message"), NOT_FITTING.values(), ids=NOT_FITTING)
def test_what_does_not_fit_is_named(
    legacy: Path, architecture: str, input_px: int | None, message: str
) -> None:
    with pytest.raises(ForeignModelError, match=message):
        rebuilt(legacy / "flat" / "weights.hdf5.ckpt", architecture, input_px)


@pytest.mark.parametrize("architecture", ["vgg16:block3_pool", "inceptionv3:mixed0"])
def test_a_layer_that_a_file_of_names_lacks_is_named(legacy: Path, architecture: str) -> None:
    with pytest.raises(
        ForeignModelError, match=r"has no layer for .*; it has block1_conv1, block1_conv2, block2_conv1 ..."
    ):
        rebuilt(legacy / "flat" / "weights.h5", architecture, PX)


def test_every_name_is_one_of_keras_applications() -> None:
    import keras

    assert [name for name in BACKBONES.values() if not hasattr(keras.applications, name)] == []
    assert BACKBONES["inceptionv3"] == "InceptionV3"


def test_an_architecture_that_is_not_given_or_not_known_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with pytest.raises(
        ForeignModelError, match=r"name it with --architecture NAME\[:LAYER\], such as inceptionv3:mixed7"
    ):
        known_architecture(None, path, "an HDF5 file of weights alone")
    with pytest.raises(ForeignModelError, match=r"'inception' is not known; .* known: inceptionv3"):
        known_architecture("inception:mixed7", path, "weights")
    assert known_architecture("Inception-V3:mixed7", path, "weights") == ("InceptionV3", "mixed7")
    assert known_architecture("vgg16", path, "weights") == ("VGG16", None)


# --- heads that cannot be told -----------------------------------------------------------------------------------


def stored(*heads: StoredLayer) -> StoredWeights:
    """VGG16's first block, and a head behind it."""
    first = [((3, 3, 3, 64), (64,)), ((3, 3, 64, 64), (64,))]
    layers = [layer(f"conv{index}", *shapes) for index, shapes in enumerate(first)]
    return StoredWeights((*layers, *heads), "order", lambda _: np.zeros(0))


def layer(label: str, *shapes: tuple[int, ...]) -> StoredLayer:
    tensors = (StoredTensor(str(index), shape, f"{label}/{index}") for index, shape in enumerate(shapes))
    return StoredLayer(label, tuple(tensors))


HEADS = {
    "a normalisation": (
        [layer("bn", (64,), (64,), (64,), (64,))],
        r"comes bn \(0 \[64\].* which is no dense layer",
    ),
    "no bias of that length": ([layer("dense", (64, 3), (4,))], "which is no dense layer"),
    "a step between": (
        [layer("a", (64, 8), (8,)), layer("b", (9, 3), (3,))],
        "b .* does not follow on 8 numbers",
    ),
    "no square map": (
        [layer("a", (64 * 6, 3), (3,))],
        "its first dense layer takes 384 numbers; .* gives 64 channels",
    ),
    "nothing": ([], "nothing comes behind VGG16 up to block1_pool"),
}


@pytest.mark.parametrize(("heads", "message"), HEADS.values(), ids=HEADS)
def test_a_head_that_is_no_row_of_dense_layers_is_refused(
    tmp_path: Path, heads: list[StoredLayer], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.importing.architectures._fill", lambda *_: None)
    with pytest.raises(ForeignModelError, match=message):
        rebuild(("VGG16", "block1_pool"), stored(*heads), tmp_path / "w.ckpt", PX)


# --- damaged files -----------------------------------------------------------------------------------------------


def test_a_checkpoint_whose_data_were_cut_is_refused(legacy: Path, tmp_path: Path) -> None:
    for one in (legacy / "flat").glob("weights.hdf5.ckpt.*"):
        shutil.copy(one, tmp_path)
    data = next(tmp_path.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:200_000])
    with pytest.raises(
        ForeignModelError, match=r"a checkpoint that is damaged or cut off .* copy all of its files again"
    ):
        rebuilt(tmp_path / "weights.hdf5.ckpt", VGG, PX)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    tf.train.Checkpoint(step=tf.Variable(3.0)).write(str(tmp_path / "counter"))
    with pytest.raises(ForeignModelError, match="holds 'step', which is of no numbered layer"):
        from_checkpoint(tmp_path / "counter")


def test_files_of_weights_that_lack_what_they_list_or_hold_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_group("conv").attrs["weight_names"] = [b"conv/kernel:0"]
        file.attrs["layer_names"] = [b"conv", b"dense"]
    with h5py.File(path) as file, pytest.raises(ForeignModelError, match="lacks the weight 'conv/kernel:0'"):
        from_hdf5(file, path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
    with h5py.File(path) as file, pytest.raises(ForeignModelError, match="lacks the layer 'dense'"):
        from_hdf5(file, path)
    with h5py.File(path, "w") as file:
        file["optimizer/vars/0"] = np.ones(3)
    with h5py.File(path) as file, pytest.raises(ForeignModelError, match="holds no weights of layers"):
        from_hdf5(file, path)


def test_names_of_keras_2_with_a_slash_are_those_of_keras_3_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        for outer, name in (
            ("conv1/conv", "conv1/conv/kernel:0"),
            ("net", "net/conv1/bn/gamma:0"),
            ("dense", "kernel:0"),
        ):
            file[f"{outer}/{name}"] = np.ones(3)
            file[outer].attrs["weight_names"] = [name.encode()]
        file.attrs["layer_names"] = [b"conv1/conv", b"net", b"dense"]
    with h5py.File(path) as file:
        assert [str(one) for one in from_hdf5(file, path).layers] == [
            "conv1_conv (kernel [3])",
            "conv1_bn (gamma [3])",
            "dense (kernel [3])",
        ]


def test_long_lists_of_names_are_read_in_all_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        for part, name in enumerate(["conv", "dense"]):
            file[f"{name}/{name}/kernel:0"] = np.ones((3, CLASSES))
            file[name].attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            file.attrs[f"layer_names{part}"] = [name.encode()]
    with h5py.File(path) as file:
        weights = from_hdf5(file, path)
        assert [one.label for one in weights.layers] == ["conv", "dense"]
        assert weights.read(weights.layers[1].tensors[0].key).shape == (3, CLASSES)


def test_the_trainer_s_own_way_to_write_it_is_understood(tmp_path: Path) -> None:
    assert known_architecture("inceptionv3-mixed7", tmp_path, "weights") == ("InceptionV3", "mixed7")
    assert known_architecture("Inception-V3", tmp_path, "weights") == ("InceptionV3", None)
