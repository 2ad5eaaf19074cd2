"""The description of a Keras model that may come from anyone: nothing but built-in parts is ever made from it.

Keras builds whatever classes a description names; `safe_mode` has had holes (CVE-2025-1550, -8747, -9906,
CVE-2026-1462), and does not apply to HDF5 files at all (CVE-2025-9905). So every object in it has to stand in the
list below, and in Keras's own namespace, before Keras sees it. Only this module knows that list, and what
tf_keras (Keras 2) wrote differently.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from trainer.importing.foreign_file import ForeignModelError

if TYPE_CHECKING:
    from pathlib import Path

TEXT_LIMIT_BYTES: Final = 16 * 2**20
_DEEPEST: Final = 80
_LAYERS: Final = frozenset(
    """
    Functional Model Sequential InputLayer
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling2D BatchNormalization CenterCrop
    Concatenate Conv2D Conv2DTranspose Convolution2D Cropping2D Dense DepthwiseConv2D Dot Dropout ELU Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling2D GlobalAvgPool2D GlobalMaxPool2D GlobalMaxPooling2D
    GroupNormalization Identity LayerNormalization LeakyReLU MaxPool2D MaxPooling2D Maximum Minimum Multiply
    Normalization PReLU Permute RandomBrightness RandomContrast RandomCrop RandomFlip RandomHeight RandomRotation
    RandomTranslation RandomWidth RandomZoom ReLU Rescaling Reshape Resizing SeparableConv2D SeparableConvolution2D
    Softmax SpatialDropout2D SpectralNormalization Subtract UnitNormalization UpSampling2D ZeroPadding2D
    """.split()
)
_PARTS: Final = frozenset(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform IdentityInitializer LecunNormal LecunUniform Ones
    Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
    L1 L1L2 L2 OrthogonalRegularizer MaxNorm MinMaxNorm NonNeg UnitNorm
    DTypePolicy Policy FloatDTypePolicy
    """.split()
)
_OPERATIONS: Final = frozenset(
    """
    Absolute Add Clip Concatenate Divide Exp ExpandDims Flip GetItem HardSigmoid HardSwish Max Maximum Mean Minimum
    Multiply Negative Pad Power Relu Relu6 Reshape Sigmoid Silu Softmax Sqrt Square Squeeze Subtract Sum Tanh
    Transpose TrueDivide
    """.split()
)
"""What stands in a functional model where its author computed with tensors, such as picture / 127.5 - 1."""
_PLACES: Final = frozenset({"__keras_tensor__", "__ellipsis__", "__slice__", "__tuple__", "TensorShape"})
_FUNCTIONS: Final = frozenset(
    """
    elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear log_softmax mish relu relu6 selu
    sigmoid silu softmax softplus softsign swish tanh
    """.split()
)
_RUNS_CODE: Final = {
    "Lambda": "carries Python code of its own",
    "__lambda__": "carries Python code of its own",
    "TFSMLayer": "loads another model from the disk",
    "TorchModuleWrapper": "holds a pickle",
    "JaxLayer": "carries Python code of its own",
    "FlaxLayer": "carries Python code of its own",
    "StringLookup": "reads a vocabulary file",
    "IntegerLookup": "reads a vocabulary file",
    "TextVectorization": "reads a vocabulary file",
}
_OF_OLD: Final = frozenset({"TFOpLambda", "SlicingOpLambda", "ClassMethod", "TensorFlowOpLayer"})
_MODULES: Final = ("keras", "builtins")
_NOT_RUN: Final = ("compile_config", "training_config")
_ELSEWHERE: Final = "export it to ONNX, or to a SavedModel, where its code is, and import that"


def read_config(data: bytes | str, source: Path) -> dict[str, Any]:
    """The description of a model as Keras 3 is to see it: plain, and without what is only for training.

    Raises:
        ForeignModelError: no JSON, or it names anything but built-in parts; with the name.

    """
    if len(data) > TEXT_LIMIT_BYTES:
        raise ForeignModelError(
            f"{source}: its description is {len(data) / 2**20:.0f} MiB of text; no model has that"
        )
    try:
        config = json.loads(data, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ForeignModelError(
            f"{source}: its description is no sound JSON ({error}); save it again"
        ) from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise ForeignModelError(f"{source}: its description names no model; save it again")
    modern = _modern(config, source, 0)
    _check(modern, source, "the model")
    return dict(modern)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _modern(part: Any, source: Path, depth: int) -> Any:  # noqa: ANN401 - JSON
    """The same description in the words of Keras 3; tf_keras named its own modules, and listed single tensors."""
    if depth > _DEEPEST:
        raise ForeignModelError(f"{source}: its description is nested deeper than {_DEEPEST}; no model's is")
    if isinstance(part, list):
        return [_modern(one, source, depth + 1) for one in part]
    if not isinstance(part, dict):
        return part
    # Also of a nested model, which Keras would compile though the whole is not to be.
    new = {key: _modern(value, source, depth + 1) for key, value in part.items() if key not in _NOT_RUN}
    name, config = new.get("class_name"), new.get("config")
    if str(new.get("module")).partition(".")[0] == "tf_keras":
        new["module"] = "keras.src.models.functional" if name == "Functional" else "keras"
        new["registered_name"] = None
    if isinstance(config, dict):
        _modernise(str(name), config)
    return new


def _modernise(name: str, config: dict[str, Any]) -> None:
    axis = config.get("axis")
    if name in ("BatchNormalization", "LayerNormalization") and isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
    if name in ("Functional", "Model"):
        for ends in ("input_layers", "output_layers"):
            tensors = config.get(ends)
            # A list of one tensor would come out of a nested model as a list.
            if isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], list):
                config[ends] = tensors[0]


def _check(part: Any, source: Path, within: str) -> None:  # noqa: ANN401
    if isinstance(part, list):
        for one in part:
            _check(one, source, within)
    if not isinstance(part, dict):
        return
    if "class_name" in part:
        within = _check_object(part, source, within)
    elif {"module", "registered_name"} & part.keys():
        raise ForeignModelError(f"{source}: {within} has a part without a class, which nothing is made from")
    for value in part.values():
        _check(value, source, within)


def _check_object(part: dict[str, Any], source: Path, within: str) -> str:
    """Refuse an object that is not built in, by name; returns how to speak of it."""
    name, module, registered = str(part["class_name"]), part.get("module"), part.get("registered_name")
    config = part.get("config")
    called = config.get("name") if isinstance(config, dict) else None
    shown = f"the {name} {called!r}" if isinstance(called, str) else f"a {name} of {within}"
    if name in _RUNS_CODE:
        raise ForeignModelError(f"{source}: {shown} {_RUNS_CODE[name]}, which is never run; {_ELSEWHERE}")
    if name in _OF_OLD:
        raise ForeignModelError(
            f"{source}: {shown} is an operation of Keras 2 that Keras 3 does not know; {_ELSEWHERE}"
        )
    if name == "function":
        _check_function(config, source, within)
    elif name not in _LAYERS | _PARTS | _OPERATIONS | _PLACES or not _built_in(name, module, registered):
        origin = f" (registered as {registered!r})" if registered not in (None, name) else ""
        raise ForeignModelError(
            f"{source}: {shown}{origin} is a custom layer or none of a classifier of pictures, and custom "
            f"code is never run; {_ELSEWHERE}"
        )
    return shown if name in _LAYERS else within


def _built_in(name: str, module: object, registered: object) -> bool:
    if registered not in (None, name):
        return False
    if module is None:
        return True
    return (
        isinstance(module, str)
        and module.partition(".")[0] in _MODULES
        and (module != "builtins" or name in _PLACES)
    )


def _check_function(config: object, source: Path, within: str) -> None:
    if not isinstance(config, str) or config not in _FUNCTIONS:
        raise ForeignModelError(
            f"{source}: {within} calls the function {config!r}, which is no activation of Keras and is "
            f"never run; {_ELSEWHERE}"
        )
