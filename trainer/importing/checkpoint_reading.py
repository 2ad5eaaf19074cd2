"""Weights without their network: which layers a file has, in which order, and of which shapes.

Only this module knows how weights are named in a TensorFlow checkpoint (`layer_with_weights-7/kernel`), in the HDF5
files of Keras 2 (`conv2d_7/kernel:0`) and of Keras 3 (`layers/conv2d_7/vars/0`). Optimizer states are left out.
Nothing is read but shapes until `read` is called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trainer.importing.foreign_file import ForeignModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

_VALUE: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
_NUMBERED: Final = re.compile(r"layer_with_weights-(\d+)")
_NOT_WEIGHTS: Final = ("optimizer", "save_counter", "keras_api", "_CHECKPOINTABLE_OBJECT_GRAPH")
_KINDS: Final = tuple(
    """
    kernel depthwise_kernel pointwise_kernel gamma beta bias moving_mean moving_variance mean variance count
    """.split()
)
_KERAS_2_NAMES: Final = "layer_names"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One array of a file. `kind` is what it is called in its layer, or its position there."""

    kind: str
    shape: tuple[int, ...]
    key: str

    def __str__(self) -> str:
        return f"{self.kind} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer of a file. `container` tells the layers of a nested model from those around it."""

    label: str
    tensors: tuple[StoredTensor, ...]
    container: str = ""

    def __str__(self) -> str:
        return f"{self.label} ({', '.join(map(str, self.tensors))})"


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """What a file of weights holds; `told_by` says what finds a layer: its place, its name, or its class."""

    layers: tuple[StoredLayer, ...]
    told_by: Literal["order", "name", "class"]
    read: Callable[[str], NDArray[Any]]


def from_checkpoint(prefix: Path) -> StoredWeights:
    """The layers of a TensorFlow checkpoint of Keras 2 (`model.save_weights("NAME")`).

    Raises:
        ForeignModelError: damaged, cut off, or of something else than a model of numbered layers.

    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
    except Exception as error:  # TensorFlow raises what its C++ raises
        raise _unreadable(prefix, error) from error

    def read(key: str) -> NDArray[Any]:
        try:
            return np.asarray(reader.get_tensor(key))
        except Exception as error:
            raise _unreadable(prefix, error) from error

    found: dict[tuple[int, ...], list[StoredTensor]] = {}
    for key, shape in shapes.items():
        name = key.removesuffix(_VALUE)
        if name == key or key.startswith(_NOT_WEIGHTS) or "/.OPTIMIZER_SLOT/" in key:
            continue
        *path, kind = name.split("/")
        numbers = tuple(int(one[1]) for one in map(_NUMBERED.fullmatch, path) if one)
        if not numbers:
            if "optimizer" not in name:
                raise ForeignModelError(
                    f"{prefix}: holds {name!r}, which is of no numbered layer (a model written as a class "
                    "of its own, "
                    "or not of Keras); save the whole model as a SavedModel, or export it to ONNX"
                )
            continue
        found.setdefault(numbers, []).append(StoredTensor(kind, tuple(shape), key))
    layers = (StoredLayer(f"layer {'.'.join(map(str, at))}", _in_order(found[at])) for at in sorted(found))
    return _not_empty(prefix, StoredWeights(tuple(layers), "order", read))


def from_hdf5(file: Any, source: Path) -> StoredWeights:  # noqa: ANN401 - h5py has no types
    """The layers of an open HDF5 file of weights, of Keras 2 or 3.

    Raises:
        ForeignModelError: no such file.

    """

    def read(key: str) -> NDArray[Any]:
        return np.asarray(file[key])

    if _KERAS_2_NAMES in file.attrs or f"{_KERAS_2_NAMES}0" in file.attrs:
        return _not_empty(source, StoredWeights(_of_keras_2(file, source), "name", read))
    return _not_empty(source, StoredWeights(_of_keras_3(file), "class", read))


def _of_keras_2(file: Any, source: Path) -> tuple[StoredLayer, ...]:  # noqa: ANN401
    found: dict[str, list[StoredTensor]] = {}
    for outer in _names(file, _KERAS_2_NAMES):
        if outer not in file:
            raise ForeignModelError(f"{source}: lacks the layer {outer!r} that it lists; copy it again")
        for name in _names(file[outer], "weight_names"):
            if name not in file[outer]:
                raise ForeignModelError(f"{source}: lacks the weight {name!r} that it lists; copy it again")
            *path, kind = name.partition(":")[0].split("/")
            tensor = StoredTensor(kind, tuple(file[outer][name].shape), f"{outer}/{name}")
            found.setdefault(_label(outer, path), []).append(tensor)
    return tuple(StoredLayer(label, _in_order(tensors)) for label, tensors in found.items())


def _label(outer: str, path: list[str]) -> str:
    """A layer's name as Keras 3 has it, without the nested model around it; Keras 2 allowed `conv1/conv`."""
    inside = path[1:] if len(path) > 1 and path[0] == outer else path
    return "_".join(inside) or outer


def _names(group: Any, attribute: str) -> list[str]:  # noqa: ANN401
    """A list of names; Keras divides a long one into `attribute0`, `attribute1` and so on."""
    attributes = group.attrs
    keys = [attribute] if attribute in attributes else []
    while not keys or keys != [attribute]:
        following = f"{attribute}{len(keys)}"
        if following not in attributes:
            break
        keys.append(following)
    names: list[str] = []
    for key in keys:
        names += [
            one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in attributes[key]
        ]
    return names


def _of_keras_3(file: Any) -> tuple[StoredLayer, ...]:  # noqa: ANN401
    import h5py

    found: dict[str, list[StoredTensor]] = {}

    def visit(path: str, item: object) -> None:
        layer, _, place = path.rpartition("/vars/")
        if isinstance(item, h5py.Dataset) and layer and place.isdigit() and not path.startswith(_NOT_WEIGHTS):
            found.setdefault(layer, []).append(StoredTensor(place, tuple(item.shape), path))

    file.visititems(visit)
    layers = []
    for path in sorted(found, key=_natural):
        container, _, label = path.rpartition("/")
        if label != "seed_generator":  # the state of a dropout
            tensors = tuple(sorted(found[path], key=lambda one: int(one.kind)))
            layers.append(StoredLayer(label, tensors, container))
    return tuple(layers)


def _natural(path: str) -> list[tuple[str, int]]:
    """Order of names with numbers: dense, dense_1, dense_2, dense_10."""
    return [split_number(part) for part in path.split("/")]


def split_number(label: str) -> tuple[str, int]:
    """The name and the number that Keras put behind it: `dense_2` -> (dense, 2), `dense` -> (dense, 0)."""
    name, _, number = label.rpartition("_")
    return (name, int(number)) if name and number.isdigit() else (label, 0)


def _in_order(tensors: Iterable[StoredTensor]) -> tuple[StoredTensor, ...]:
    return tuple(
        sorted(tensors, key=lambda one: _KINDS.index(one.kind) if one.kind in _KINDS else len(_KINDS))
    )


def _not_empty(source: Path, weights: StoredWeights) -> StoredWeights:
    if not weights.layers:
        raise ForeignModelError(
            f"{source}: holds no weights of layers; save the whole model, or its weights, again"
        )
    return weights


def _unreadable(prefix: Path, error: Exception) -> ForeignModelError:
    seen = " ".join(str(error).split())[:160]
    return ForeignModelError(
        f"{prefix}: a checkpoint that is damaged or cut off ({seen}); copy all of its files again"
    )
