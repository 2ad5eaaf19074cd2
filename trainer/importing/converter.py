"""The program that opens somebody's model and writes it as ONNX; it runs in a process of its own.

`python -m trainer.importing.converter FOLDER` reads FOLDER/request.json and writes FOLDER/model.onnx, cases.npz and
result.json there. TensorFlow, Keras and h5py see foreign bytes in this process only; `conversion` limits and
outlives it. Only this module knows which way each kind of file takes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.importing.foreign_file import ForeignModelError, recognise
from trainer.importing.hdf5_file import plain_hdf5, text_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.importing.checkpoint_reading import StoredWeights
    from trainer.importing.plain_onnx import LooseGraph

REQUEST, RESULT, MODEL, CASES, STAGES = "request.json", "result.json", "model.onnx", "cases.npz", "stages.txt"
EXIT_REFUSED: Final = 3
STEPS: Final = ("opening the model", "building its network", "converting it to ONNX", "asking it for answers")
_SPREADS: Final = (1.0, 1.0, 0.5, 2.0)
"""What each picture of the cases, 0 to 1, is multiplied by."""
_FREE_PX: Final = 128
_MADE_WITH: Final = ("tensorflow", "keras", "tf2onnx", "onnx", "h5py", "numpy")
_SAVE_AGAIN: Final = (
    "in the environment that it was made in, save it as .h5 or as a SavedModel, or export it to ONNX"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be converted, and how."""

    source: str
    architecture: str | None = None
    input_px: int | None = None
    classes: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it; `error` is the one line of a refusal."""

    kind: str = ""
    input_px: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Network:
    """A network as TensorFlow has it, before the conversion."""

    kind: str
    graph: LooseGraph
    shape: tuple[int | None, ...]
    classes: int | None
    facts: dict[str, str]
    input_px: int | None = None


def main() -> None:
    """Convert what FOLDER/request.json asks for; exit 3 and say why in result.json where it is refused."""
    folder = Path(sys.argv[1])
    _end_with_parent()
    request = Request(**json.loads((folder / REQUEST).read_text()))
    try:
        result, code = convert(request, folder), 0
    except ForeignModelError as error:
        result, code = Result(error=str(error)), EXIT_REFUSED
    (folder / RESULT).write_text(json.dumps(asdict(result)))
    raise SystemExit(code)


def _end_with_parent() -> None:
    """Stop when the process that started this one is gone: nobody reads the result, and nobody limits it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def convert(request: Request, folder: Path) -> Result:
    """Convert a model into FOLDER/model.onnx, with its framework's answers in FOLDER/cases.npz.

    Raises:
        ForeignModelError: the file cannot be imported; one line.

    """
    from trainer.importing.plain_onnx import GraphUnusable, answers, converted

    source = Path(request.source)
    try:
        network = _network(request, source, folder)
        _check_shape(network, request, source)
        _say(folder, 2)
        model = converted(network.graph)
        (folder / MODEL).write_bytes(model.SerializeToString())
        _say(folder, 3)
        pictures = _pictures(network, request)
        cases: dict[str, Any] = dict(zip(_names("input"), pictures, strict=False))
        cases |= zip(_names("output"), answers(network.graph, pictures), strict=False)
    except GraphUnusable as error:
        raise ForeignModelError(f"{source}: {error}; {_SAVE_AGAIN}") from error
    np.savez(folder / CASES, **cases)
    versions = {name: importlib.metadata.version(name) for name in _MADE_WITH}
    return Result(network.kind, _asked_px(network, request), versions, network.facts)


def _names(kind: str) -> list[str]:
    return [f"{kind}_{index}" for index in range(len(_SPREADS))]


def _network(request: Request, source: Path, folder: Path) -> _Network:
    _say(folder, 0)
    found = recognise(source)
    if found.family == "SavedModel":
        return _from_saved_model(source)
    if found.family == "TensorFlow checkpoint":
        return _from_checkpoint(request, source, found.path, folder)
    if found.family == "Keras 3 archive":
        return _from_archive(source, folder)
    return _from_hdf5(request, source, folder)


# --- the kinds of files -----------------------------------------------------------------------------------------


def _from_saved_model(source: Path) -> _Network:
    from trainer.importing.plain_onnx import loosened
    from trainer.importing.saved_model import read_saved_model

    serving = read_saved_model(source)
    return _Network(
        "SavedModel",
        loosened(serving.graph),
        serving.shape,
        serving.classes,
        {"written with": serving.written_with},
    )


def _from_checkpoint(request: Request, source: Path, prefix: Path, folder: Path) -> _Network:
    from trainer.importing.architectures import known_architecture
    from trainer.importing.checkpoint_reading import from_checkpoint

    kind = "TensorFlow checkpoint"
    known_architecture(request.architecture, source, "a TensorFlow checkpoint holds weights")
    return _rebuilt(request, source, kind, from_checkpoint(prefix), folder)


def _from_archive(source: Path, folder: Path) -> _Network:
    from trainer.importing.keras_archive import unpack

    archive = unpack(source, folder)
    with plain_hdf5(archive.weights, source):
        pass
    _say(folder, 1)
    import keras

    with _keras_reading(source):
        model = keras.saving.deserialize_keras_object(archive.config, safe_mode=True)
        model.load_weights(archive.weights)
    return _of_keras(model, "Keras 3 archive", source, {"written with": _keras_version(archive.metadata)})


def _from_hdf5(request: Request, source: Path, folder: Path) -> _Network:
    from trainer.importing.architectures import known_architecture
    from trainer.importing.checkpoint_reading import from_hdf5
    from trainer.importing.keras_config import read_config

    with plain_hdf5(source, source) as file:
        config = text_attribute(file, "model_config")
        if config is None:
            known_architecture(request.architecture, source, "an HDF5 file of weights alone")
            weights = from_hdf5(file, source)
            kind = "Keras 3 weights" if weights.told_by == "class" else "Keras HDF5 weights"
            return _rebuilt(request, source, kind, weights, folder)
        plain = read_config(config, source)
        facts = {"written with": f"Keras {text_attribute(file, 'keras_version') or 'of unknown version'}"}
    _say(folder, 1)
    import keras

    with _keras_reading(source):
        model = keras.models.load_model(_with_config(source, plain, folder), compile=False, safe_mode=True)
    return _of_keras(model, "Keras HDF5 model", source, facts)


def _with_config(source: Path, config: dict[str, Any], folder: Path) -> Path:
    """A copy of an HDF5 model whose description is the one that was looked through."""
    import h5py

    copy = folder / "model.h5"
    shutil.copyfile(source, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
        if "training_config" in file.attrs:
            del file.attrs["training_config"]
    return copy


def _rebuilt(request: Request, source: Path, kind: str, weights: StoredWeights, folder: Path) -> _Network:
    from trainer.importing.architectures import known_architecture, rebuild

    _say(folder, 1)
    architecture = known_architecture(request.architecture, source, kind)
    built = rebuild(architecture, weights, source, request.input_px)
    facts = {"architecture": built.architecture, "layer": built.layer, "head": built.head}
    return _of_keras(built.model, kind, source, facts, built.input_px)


@contextlib.contextmanager
def _keras_reading(source: Path) -> Iterator[None]:
    """Turn whatever Keras raises on a file into one line."""
    import keras

    try:
        with warnings.catch_warnings():
            # Keras only warns when the file lacks a layer, and leaves that layer's random weights.
            warnings.filterwarnings("error", "Skipping", UserWarning)
            yield
    except MemoryError:
        raise
    except Exception as error:
        seen = " ".join(str(error).split())[:200]
        raise ForeignModelError(
            f"{source}: Keras {keras.__version__} cannot read it ({type(error).__name__}: {seen}); "
            f"{_SAVE_AGAIN}"
        ) from error


def _of_keras(
    model: Any,  # noqa: ANN401 - Keras has no types
    kind: str,
    source: Path,
    facts: dict[str, str],
    input_px: int | None = None,
) -> _Network:
    import tensorflow as tf

    from trainer.importing.plain_onnx import bound_graph, loosened

    _one(source, [one.name for one in model.inputs], "inputs")
    _one(source, list(getattr(model, "output_names", ())) or [one.name for one in model.outputs], "outputs")
    shape = tuple(model.inputs[0].shape)
    spec = tf.TensorSpec((None, *shape[1:]), tf.float32, name="picture")
    traced = tf.function(lambda picture: model(picture, training=False), autograph=False)
    try:
        concrete = traced.get_concrete_function(spec)
    except Exception as error:
        seen = " ".join(str(error).split())[:200]
        raise ForeignModelError(f"{source}: its network cannot be run ({seen}); {_SAVE_AGAIN}") from error
    answer = concrete.outputs[0].shape
    classes = answer[-1] if answer.rank == 2 else None
    facts = {**facts, "layers": str(len(model.layers)), "parameters": str(model.count_params())}
    return _Network(kind, loosened(bound_graph(concrete)), shape, classes, facts, input_px)


# --- what is checked and asked ----------------------------------------------------------------------------------


def _one(source: Path, names: list[str], what: str) -> None:
    if len(names) != 1:
        raise ForeignModelError(
            f"{source}: has {len(names)} {what} ({', '.join(names)}); a classifier of one picture has one"
        )


def _check_shape(network: _Network, request: Request, source: Path) -> None:
    shown = [size or "?" for size in network.shape]
    if len(network.shape) != 4:
        raise ForeignModelError(f"{source}: its input {shown} is no picture of rows, columns and channels")
    _, rows, columns, channels = network.shape
    if channels not in (1, 3) or rows != columns:
        raise ForeignModelError(
            f"{source}: its input {shown} is no square picture of 1 or 3 channels, channels last"
        )
    if rows is not None and request.input_px not in (None, rows):
        raise ForeignModelError(
            f"{source}: takes pictures of {rows} x {columns} px only; leave --input-size {request.input_px} "
            "out"
        )
    if request.classes is not None and network.classes not in (None, request.classes):
        raise ForeignModelError(
            f"{source}: answers with {network.classes} numbers, and {request.classes} labels are given; "
            "give one for each"
        )


def _asked_px(network: _Network, request: Request) -> int | None:
    return network.shape[1] or network.input_px or request.input_px


def _pictures(network: _Network, request: Request) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """A few pictures in the network's own layout: noise of several sizes of grain, float32."""
    draw = np.random.default_rng(request.seed)
    px, channels = _asked_px(network, request) or _FREE_PX, int(network.shape[3] or 1)
    pictures = []
    for index, spread in enumerate(_SPREADS):
        coarse = draw.random(
            (1, -(-px // 2 ** (2 * index)), -(-px // 2 ** (2 * index)), channels), dtype=np.float32
        )
        fine = coarse.repeat(4**index, axis=1).repeat(4**index, axis=2)[:, :px, :px]
        pictures.append(np.ascontiguousarray(fine) * np.float32(spread))
    return pictures


def _keras_version(metadata: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return f"Keras {str(json.loads(metadata).get('keras_version'))[:20]}"
    return "Keras of unknown version"


def _say(folder: Path, step: int) -> None:
    with (folder / STAGES).open("a") as stages:
        stages.write(f"{step}\n")


if __name__ == "__main__":
    main()
