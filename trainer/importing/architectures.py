"""Networks by name, for weights that come without one: a backbone cut after a layer, and a head told by tensors.

`--architecture inceptionv3:mixed7` is InceptionV3 up to the layer `mixed7`. What stands behind it is deduced: dense
layers, rectified but for the last, behind a flattened map or its average. Only this module knows
keras.applications, and how a stored layer finds its place; every shape is compared before it is assigned.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trainer.importing.checkpoint_reading import StoredLayer, StoredTensor, StoredWeights, split_number
from trainer.importing.foreign_file import ForeignModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BACKBONES: Final = {
    name.lower(): name
    for name in """
    DenseNet121 DenseNet169 DenseNet201 EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3
    EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7 EfficientNetV2B0 EfficientNetV2B1
    EfficientNetV2B2 EfficientNetV2B3 EfficientNetV2S EfficientNetV2M EfficientNetV2L InceptionResNetV2
    InceptionV3 MobileNet MobileNetV2 MobileNetV3Large MobileNetV3Small ResNet50 ResNet50V2 ResNet101
    ResNet101V2 ResNet152 ResNet152V2 VGG16 VGG19 Xception
    """.split()
}
"""Names for --architecture, and what keras.applications calls them. ConvNeXt and NASNet are left out:
Keras 3 builds them otherwise than Keras 2 did."""
_ORIGIN_PX: Final = 150
"""What is taken where no size is given and this one fits: the origin's."""
_HOW: Final = "--architecture NAME[:LAYER], such as inceptionv3:mixed7"
_LARGEST_PX: Final = 4096


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A network built by name with the weights of a file."""

    model: Any
    """Keras model: pictures [n, rows, columns, channels] -> answers [n, classes]."""
    input_px: int | None
    architecture: str
    layer: str
    head: str


@dataclass(frozen=True, slots=True)
class _Backbone:
    source: Path
    model: Any
    name: str
    layer: str

    @property
    def title(self) -> str:
        return f"{self.name} up to {self.layer}"


def known_architecture(text: str | None, source: Path, kind: str) -> tuple[str, str | None]:
    """The backbone (as keras.applications calls it) and the layer that `--architecture` names.

    Raises:
        ForeignModelError: not given, or not known.

    """
    if text is None:
        raise ForeignModelError(
            f"{source}: {kind}, without the network that they belong to; name it with {_HOW}"
        )
    name, _, layer = text.partition(":")
    plain = _plain(name)
    if plain not in BACKBONES and not layer and _plain(name.rpartition("-")[0]) in BACKBONES:
        name, _, layer = text.rpartition("-")  # as edge-trainer train calls its own: inceptionv3-mixed7
        plain = _plain(name)
    if plain not in BACKBONES:
        near = difflib.get_close_matches(plain, BACKBONES, 3, 0.5) or sorted(BACKBONES)
        raise ForeignModelError(
            f"--architecture {text}: {name!r} is not known; {_HOW}; known: {', '.join(near)}"
        )
    return BACKBONES[plain], layer.strip() or None


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def rebuild(
    architecture: tuple[str, str | None], weights: StoredWeights, source: Path, input_px: int | None
) -> Rebuilt:
    """Build the named network and fill it with the stored weights, completely.

    Raises:
        ForeignModelError: a layer that does not fit, a head of another kind, or a size that does not fit.

    """
    backbone = _cut(architecture, weights, source)
    pairs, rest = _paired(backbone, weights)
    for layer, stored in pairs:
        _fill(layer, stored, weights, backbone)
    dense = _dense_layers(backbone, rest)
    cells = _cells(backbone, dense[0])
    if cells is not None:
        input_px = _fitting_size(backbone, cells, input_px)
    model = _with_head(backbone, dense, input_px if cells is not None else None)
    for layer, stored in zip(model.layers[-len(dense) :], dense, strict=True):
        _fill(layer, stored, weights, backbone)
    return Rebuilt(
        model, input_px, backbone.name, backbone.layer, _head_text(cells, model.layers[-len(dense) :])
    )


def _cut(architecture: tuple[str, str | None], weights: StoredWeights, source: Path) -> _Backbone:
    import keras

    name, layer = architecture
    kernels = [one.shape for stored in weights.layers for one in stored.tensors if len(one.shape) == 4]
    channels = 3 if any(shape[2] == 3 for shape in kernels) else 1
    try:
        whole = getattr(keras.applications, name)(
            weights=None, include_top=False, input_shape=(None, None, channels)
        )
    except (ValueError, TypeError) as error:
        raise ForeignModelError(
            f"{source}: {name} cannot be built for {channels} channels: {_short(error)}"
        ) from error
    if layer is None:
        return _Backbone(source, whole, name, str(whole.layers[-1].name))
    names = [one.name for one in whole.layers]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, 4, 0.4) or names[-4:]
        raise ForeignModelError(
            f"{source}: {name} has no layer {layer!r}; perhaps {', '.join(near)} ({_HOW})"
        )
    return _Backbone(source, keras.Model(whole.input, whole.get_layer(layer).output), name, layer)


# --- which stored layer is which --------------------------------------------------------------------------------


def _paired(
    backbone: _Backbone, weights: StoredWeights
) -> tuple[list[tuple[Any, StoredLayer]], list[StoredLayer]]:
    """The backbone's layers with what is stored for them, and the layers that stand behind it."""
    layers = [layer for layer in backbone.model.layers if layer.weights]
    if weights.told_by == "order":
        if len(weights.layers) < len(layers):
            missing = layers[len(weights.layers)].name
            raise ForeignModelError(
                f"{backbone.source}: holds {len(weights.layers)} layers, {backbone.title} has {len(layers)} "
                f"(the first without weights: {missing}); give another LAYER or NAME"
            )
        return list(zip(layers, weights.layers, strict=False)), list(weights.layers[len(layers) :])
    labels = [layer.name for layer in layers] if weights.told_by == "name" else _class_labels(layers)
    stored = _by_rank(weights.layers)
    pairs = []
    for layer, place in zip(layers, _ranks(labels), strict=True):
        if place not in stored:
            raise ForeignModelError(
                f"{backbone.source}: has no layer for {layer.name} of {backbone.title} (number "
                f"{place[1] + 1} named "
                f"{place[0]!r}); it has {_shown(weights.layers)}; give another LAYER or NAME"
            )
        pairs.append((layer, stored.pop(place)))
    used = {id(one) for _, one in pairs}
    return pairs, [one for one in weights.layers if id(one) not in used]


def _class_labels(layers: Sequence[Any]) -> list[str]:
    """What Keras 3 calls each layer in a file: its class in snake case, numbered."""
    counts: dict[str, int] = {}
    labels = []
    for layer in layers:
        name = _snake_case(type(layer).__name__)
        counts[name] = counts.get(name, -1) + 1
        labels.append(f"{name}_{counts[name]}")
    return labels


def _snake_case(name: str) -> str:
    """Conv2D -> conv2d, BatchNormalization -> batch_normalization, DepthwiseConv2D -> depthwise_conv2d."""
    apart = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", apart).lower()


def _ranks(labels: Sequence[str]) -> list[tuple[str, int]]:
    """Each label's name and its rank among the numbers of that name: numbers go on from model to model."""
    numbers: dict[str, list[int]] = {}
    for name, number in map(split_number, labels):
        numbers.setdefault(name, []).append(number)
    for found in numbers.values():
        found.sort()
    return [(name, numbers[name].index(number)) for name, number in map(split_number, labels)]


def _by_rank(layers: Sequence[StoredLayer]) -> dict[tuple[str, int], StoredLayer]:
    """The stored layers of the largest (nested) model by name and rank."""
    sizes: dict[str, int] = {}
    for one in layers:
        sizes[one.container] = sizes.get(one.container, 0) + 1
    largest = max(sizes, key=lambda container: sizes[container])
    inside = [one for one in layers if one.container == largest]
    return dict(zip(_ranks([one.label for one in inside]), inside, strict=True))


def _shown(layers: Sequence[StoredLayer]) -> str:
    labels = [one.label for one in layers]
    return ", ".join(labels) if len(labels) <= 6 else f"{', '.join(labels[:3])} ... {', '.join(labels[-2:])}"


def _fill(layer: Any, stored: StoredLayer, weights: StoredWeights, backbone: _Backbone) -> None:  # noqa: ANN401
    """Assign a layer's variables; ForeignModelError at the first that is missing or has another shape."""
    for place, variable in enumerate(layer.weights):
        tensor = _tensor_for(variable.name, place, stored)
        wanted = tuple(variable.shape)
        if tensor is None or tensor.shape != wanted or len(stored.tensors) != len(layer.weights):
            raise ForeignModelError(
                f"{backbone.source}: does not fit {backbone.title}: the first layer that differs is "
                f"{layer.name}, whose "
                f"{variable.name} is {list(wanted)}; the file has {stored} there. Give another LAYER or "
                f"NAME: {_HOW}"
            )
        variable.assign(weights.read(tensor.key))


def _tensor_for(name: str, place: int, stored: StoredLayer) -> StoredTensor | None:
    for tensor in stored.tensors:
        # Keras 2 said depthwise_kernel where Keras 3 says kernel.
        if tensor.kind in (str(place), name, f"depthwise_{name}"):
            return tensor
    return None


# --- the head ---------------------------------------------------------------------------------------------------


def _dense_layers(backbone: _Backbone, rest: Sequence[StoredLayer]) -> list[StoredLayer]:
    before = None
    for one in rest:
        shapes = [tensor.shape for tensor in one.tensors]
        units = shapes[0][-1] if shapes[0] else 0
        if [len(shape) for shape in shapes] not in ([2], [2, 1]) or shapes[1:] not in ([], [(units,)]):
            raise ForeignModelError(
                f"{backbone.source}: behind {backbone.title} comes {one}, which is no dense layer; give "
                "another LAYER, or "
                "save the whole model"
            )
        if before not in (None, shapes[0][0]):
            raise ForeignModelError(
                f"{backbone.source}: {one} does not follow on {before} numbers; save the whole model"
            )
        before = units
    if not rest:
        raise ForeignModelError(
            f"{backbone.source}: nothing comes behind {backbone.title}; give an earlier LAYER"
        )
    return list(rest)


def _cells(backbone: _Backbone, first: StoredLayer) -> int | None:
    """How many cells along a side the flattened map has; None where its average is taken."""
    inputs, channels = first.tensors[0].shape[0], int(backbone.model.output_shape[-1])
    if inputs == channels:
        return None
    cells = math.isqrt(inputs // channels)
    if cells * cells * channels != inputs:
        raise ForeignModelError(
            f"{backbone.source}: its first dense layer takes {inputs} numbers; {backbone.title} gives "
            f"{channels} channels, "
            f"and neither they nor a square map of them are that many. Give another LAYER: {_HOW}"
        )
    return cells


def _fitting_size(backbone: _Backbone, cells: int, input_px: int | None) -> int:
    """The side of the pictures whose map has so many cells; where several have, the origin's, or it is asked."""
    for px in (input_px,) if input_px is not None else (_ORIGIN_PX,):
        if _side(backbone, px) == cells:
            return px
    first, last = _first_px(backbone, cells), _first_px(backbone, cells + 1) - 1
    if first > last or _side(backbone, first) != cells:
        raise ForeignModelError(
            f"{backbone.source}: its first dense layer takes {cells} x {cells} cells, which {backbone.title} "
            f"gives for no size; give another LAYER: {_HOW}"
        )
    if input_px is None and first == last:
        return first
    seen = f"--input-size {input_px} does not fit" if input_px is not None else "--input-size is not given"
    raise ForeignModelError(
        f"{backbone.source}: {seen}: its first dense layer takes {cells} x {cells} cells, which {backbone.title} "
        f"gives for pictures of {first} to {last} px; give --input-size, the size that it was trained with"
    )


def _first_px(backbone: _Backbone, cells: int) -> int:
    """The smallest side with at least so many cells."""
    low, high = 1, _LARGEST_PX
    while low < high:
        middle = (low + high) // 2
        if _side(backbone, middle) >= cells:
            high = middle
        else:
            low = middle + 1
    return low


def _side(backbone: _Backbone, px: int) -> int:
    """Cells along a side for pictures of so many pixels; 0 where they are too small for the network."""
    model = backbone.model
    try:
        shape = model.compute_output_shape((1, px, px, model.input_shape[-1]))
    except (ValueError, TypeError):
        return 0
    return max(0, int(shape[1] or 0))


def _with_head(backbone: _Backbone, dense: Sequence[StoredLayer], input_px: int | None) -> Any:  # noqa: ANN401
    import keras
    from keras import layers

    picture = keras.Input((input_px, input_px, backbone.model.input_shape[-1]), name="picture")
    features = backbone.model(picture)
    pool = layers.GlobalAveragePooling2D() if input_px is None else layers.Flatten()
    x = pool(features)
    for index, one in enumerate(dense):
        units = one.tensors[0].shape[1]
        last = index == len(dense) - 1
        activation = "relu" if not last else ("sigmoid" if units == 1 else "softmax")
        # Random numbers for 38 million weights would take a second, and are replaced anyway.
        x = layers.Dense(
            units, activation=activation, use_bias=len(one.tensors) == 2, kernel_initializer="zeros"
        )(x)
    return keras.Model(picture, x)


def _head_text(cells: int | None, dense: Sequence[Any]) -> str:
    start = "average of the map" if cells is None else f"flattened map of {cells} x {cells} cells"
    return ", ".join([start, *(f"dense {one.units} {one.activation.__name__}" for one in dense)])


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
