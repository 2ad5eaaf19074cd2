"""Somebody's model -> plain ONNX, whatever kind of file it is.

ONNX files are taken as they are, once they are found whole. Everything else is opened by TensorFlow or Keras, in a
process of its own: with a limit on time and memory, without a keyboard, without the network's or the GPU's use, in
a private folder that is gone afterwards. Only this module knows that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import psutil

from trainer.importing.converter import (
    CASES,
    EXIT_REFUSED,
    MODEL,
    REQUEST,
    RESULT,
    STAGES,
    STEPS,
    Request,
    Result,
)
from trainer.importing.foreign_file import ForeignFile, ForeignModelError, recognise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Kind = Literal[
    "ONNX file",
    "Keras 3 archive",
    "Keras HDF5 model",
    "Keras HDF5 weights",
    "Keras 3 weights",
    "SavedModel",
    "TensorFlow checkpoint",
]
TIME_LIMIT_SECONDS: Final = 600.0
MEMORY_LIMIT_BYTES: Final = 6 * 2**30
_PAUSE_SECONDS: Final = 0.05
_PACKAGES: Final = Path(__file__).resolve().parents[2]
_ENVIRONMENT: Final = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
    # tf2onnx copies the whole graph before each of its passes, to go on when one of them fails.
    "TF2ONNX_CATCH_ERRORS": "FALSE",
    # HDF5 would look for a foreign filter's program on this machine, and load it.
    "HDF5_PLUGIN_PRELOAD": "::",
}
_NOT_INHERITED: Final = (
    "TF_USE_LEGACY_KERAS",
    "TF_CONFIG",
    "PYTHONSTARTUP",
    "HDF5_PLUGIN_PATH",
    "PYTHONINSPECT",
)
_AS_ONNX: Final = "convert it to ONNX where it was trained, and import the .onnx file"


@dataclass(frozen=True, slots=True)
class Converted:
    """A model as plain ONNX, with one input and one output as its source computes it."""

    model: bytes
    kind: Kind
    sha256: str
    """Of the file; of a folder or a checkpoint, over its files' names, lengths and contents in order."""
    input_px: int | None
    """The size that it takes, or that was asked for; None where any size goes and none was asked for."""
    cases: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...] = ()
    """Pictures in the network's own layout, and what its own framework answers; none for an ONNX file."""
    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the conversion may take."""

    seconds: float = TIME_LIMIT_SECONDS
    memory_bytes: int = MEMORY_LIMIT_BYTES


class ConverterOutput(Exception):
    """What the converting process said on stderr; the cause of a ForeignModelError, shown by --verbose."""


def to_onnx(
    source: Path,
    *,
    architecture: str | None = None,
    input_px: int | None = None,
    classes: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    limits: Limits | None = None,
) -> Converted:
    """Bring a model into plain ONNX; nothing that the file says is ever run but its network.

    Raises:
        ForeignModelError: the file cannot be imported; one line with what was seen and what to do.

    """
    found = recognise(source)
    progress("reading the file", 0, len(STEPS))
    digest = found.sha256()
    if found.family == "ONNX file":
        return _as_it_is(found, digest, input_px, architecture)
    if architecture is not None and found.family in ("SavedModel", "Keras 3 archive"):
        raise ForeignModelError(f"{source}: a {found.family} holds its own network; leave --architecture out")
    request = Request(str(source.resolve()), architecture, input_px, classes, seed)
    with _private_folder() as folder:
        result = _run(request, folder, source, progress, limits or Limits())
        if recognise(source).sha256() != digest:
            raise ForeignModelError(f"{source}: was changed while it was read; import it again")
        return _collect(result, folder, digest)


# --- ONNX files -------------------------------------------------------------------------------------------------


def _as_it_is(found: ForeignFile, digest: str, input_px: int | None, architecture: str | None) -> Converted:
    import onnx
    from google.protobuf.message import DecodeError

    source = found.path
    if architecture is not None:
        raise ForeignModelError(f"{source}: an ONNX file holds its own network; leave --architecture out")
    data = source.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ForeignModelError(
            f"{source}: an ONNX file that is damaged or cut off; copy it again"
        ) from error
    _check_onnx(model, source)
    facts = {"written with": f"{model.producer_name} {model.producer_version}".strip() or "unknown"}
    return Converted(data, "ONNX file", digest, input_px, (), {"onnx": onnx.__version__}, facts)


def _check_onnx(model: Any, source: Path) -> None:  # noqa: ANN401 - onnx has no types
    if not model.graph.node or not model.opset_import:
        raise ForeignModelError(
            f"{source}: an ONNX file without a network in it, or cut off; export it again"
        )
    if any(_is_external(tensor) for tensor in _tensors(model.graph)):
        raise ForeignModelError(
            f"{source}: keeps its weights in other files (external data); save it as one file: "
            "onnx.save(onnx.load(FILE), NEW, save_as_external_data=False)"
        )
    constants = {one.name for one in model.graph.initializer}
    inputs = [one.name for one in model.graph.input if one.name not in constants]
    for names, what in ((inputs, "inputs"), ([one.name for one in model.graph.output], "outputs")):
        if len(names) != 1:
            raise ForeignModelError(
                f"{source}: has {len(names)} {what} ({', '.join(names)}); a classifier of one picture has one"
            )


def _tensors(graph: Any) -> Iterator[Any]:  # noqa: ANN401
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)


def _is_external(tensor: Any) -> bool:  # noqa: ANN401
    return bool(tensor.external_data) or tensor.data_location != 0


# --- everything else: the converting process --------------------------------------------------------------------


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="scopewatch-import-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _run(
    request: Request, folder: Path, source: Path, progress: Callable[[str, int, int], None], limits: Limits
) -> Result:
    (folder / REQUEST).write_text(json.dumps(asdict(request)))
    # -P: nothing beside the converter may be imported in the place of a library.
    command = [sys.executable, "-P", "-m", "trainer.importing.converter", str(folder)]
    with (folder / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
        try:
            reason = _watched(process, folder, progress, limits)
        finally:
            _end(process)
    said = ConverterOutput((folder / "stderr.txt").read_text(errors="replace")[-20_000:])
    if reason is not None:
        raise ForeignModelError(f"{source}: {reason}; {_AS_ONNX}") from said
    return _result(process.returncode, folder, source, said)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A person's keras.json may say that channels come first.
    own = {"KERAS_HOME": str(folder / "keras"), "PYTHONPATH": os.pathsep.join(paths)}
    return kept | _ENVIRONMENT | own


def _watched(
    process: subprocess.Popen[bytes], folder: Path, progress: Callable[[str, int, int], None], limits: Limits
) -> str | None:
    """Wait for the process; the reason why it had to be stopped, if it had to."""
    started, told = time.monotonic(), -1
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        step = _step(folder)
        if step != told:
            told = step
            progress(STEPS[step], step, len(STEPS))
        with contextlib.suppress(psutil.Error):
            if watched.memory_info().rss > limits.memory_bytes:
                gibibytes = limits.memory_bytes / 2**30
                return f"its conversion took more than {gibibytes:.2g} GiB of memory and was stopped"
        if time.monotonic() - started > limits.seconds:
            return f"its conversion took longer than {limits.seconds:.0f} s and was stopped"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PAUSE_SECONDS)
    return None


def _step(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return min(int((folder / STAGES).read_text().split()[-1]), len(STEPS) - 1)
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process whatever it does, and wait until it is gone."""
    if process.poll() is None:
        process.kill()
    process.wait()


def _result(code: int, folder: Path, source: Path, said: ConverterOutput) -> Result:
    if code in (0, EXIT_REFUSED):
        with contextlib.suppress(OSError, ValueError, TypeError):
            result = Result(**json.loads((folder / RESULT).read_text()))
            if result.error is None:
                return result
            raise ForeignModelError(result.error) from said
    lines = [line for line in str(said).splitlines() if line.strip()]
    seen = lines[-1].strip()[:200] if code > 0 and lines else f"it ended with {code}"
    raise ForeignModelError(f"{source}: its conversion broke off ({seen}); {_AS_ONNX}") from said


def _collect(result: Result, folder: Path, digest: str) -> Converted:
    with np.load(folder / CASES, allow_pickle=False) as stored:
        count = len(stored.files) // 2
        cases = tuple((stored[f"input_{index}"], stored[f"output_{index}"]) for index in range(count))
    model = (folder / MODEL).read_bytes()
    kind = cast("Kind", result.kind)
    return Converted(model, kind, digest, result.input_px, cases, result.versions, result.facts)
