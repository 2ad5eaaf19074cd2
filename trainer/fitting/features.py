"""What the frozen lower part of a backbone makes of the training pictures, computed once for many epochs.

Each training crop is drawn in several augmented views, and the views' intermediate features are kept on disk in
half precision. Epochs then cost only the upper part, which makes fine-tuning a matter of minutes on two cores.

Only this module knows the files: `views.npy` (written front to back by plain writes, so that a full disk is an
error and not the signal that a mapped page would give), `views.json` (for which data, recipe and seed, and how
many crops of it are done), `whole.f16` (the validation crops, made anew by each process).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from edge_agent.files import write_durably
from edge_agent.preprocessing import ContrastLimits, grey_field, input_shape
from trainer.fitting.augmentation import Augmenter
from trainer.fitting.devices import half_precision
from trainer.fitting.run_folder import RunError
from trainer.preparing.crops import load_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from trainer.fitting.network import Network
    from trainer.fitting.run_folder import Recipe
    from trainer.preparing.crops import Crop, DataSet

_NOTED_EVERY: Final = 20
_WINDOWS_AT_ONCE: Final = 16
"""Bounds the memory of one crop's views."""


def shown(dataset: DataSet, crop: Crop) -> NDArray[np.float32]:
    """A crop as the agent shows it to the network: float32 [rows, columns] in 0..1, at the agent's input size.

    The cache enlarges nothing, to save space; the agent does enlarge a small micrograph.
    """
    pixels = load_pixels(dataset, crop)
    shape = input_shape(crop.box_px, crop.pixel_size_nm, dataset.preprocessing)
    if shape == pixels.shape:
        return np.asarray(pixels.astype(np.float32) / np.float32(255))
    return grey_field(pixels, ContrastLimits(0.0, 255.0), shape)


def whole_features(
    dataset: DataSet,
    crops: Sequence[Crop],
    network: Network,
    store: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[NDArray[np.float16], ...]:
    """Compute the intermediate features [rows, columns, channels] of whole crops, as the agent will show them.

    They lie on disk, mapped: there may be more of them than fit into memory.
    """
    if not crops:
        return ()
    store.mkdir(parents=True, exist_ok=True)
    file, shapes = store / "whole.f16", []
    file.unlink(missing_ok=True)  # an older mapping keeps its own bytes
    with file.open("xb") as handle:
        for index, crop in enumerate(crops):
            inputs = _scaled(shown(dataset, crop), network)[None, :, :, None]
            features = _halved(network.trunk(inputs, training=False), network)[0]
            shapes.append(features.shape)
            handle.write(features.tobytes())
            progress("validation crops", index + 1, len(crops))
    flat = np.memmap(file, dtype=np.float16, mode="r")
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return tuple(
        flat[end - math.prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)
    )


def view_features(
    dataset: DataSet,
    recipe: Recipe,
    network: Network,
    store: Path,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> NDArray[np.float16]:
    """Compute intermediate features [crops, views, h, w, channels] of augmented windows of every training crop.

    Kept in one file for all runs on this data set, recipe and seed; an interrupted file is completed. The array
    is mapped from the file, read-only.
    """
    import tensorflow as tf

    size = recipe.augmentation.window_px
    shape = network.trunk(tf.zeros((1, size, size, 1)), training=False).shape[1:]
    full = (len(dataset.train), recipe.views, *(int(length) for length in shape))
    key = _key(dataset, recipe, seed, full)
    store.mkdir(parents=True, exist_ok=True)
    file, note = store / "views.npy", store / "views.json"
    done = _done(file, note, key, full)
    if done < len(dataset.train):
        trunk = tf.function(lambda batch: network.trunk(batch, training=False), reduce_retracing=True)
        with _opened(file, note, full, done) as handle:
            for index, crop in enumerate(dataset.train[done:], start=done):
                augmenter = Augmenter(recipe.augmentation, seed=crop_seed(seed, crop))
                for windows in _drawn(augmenter, shown(dataset, crop), recipe.views):
                    features = trunk(_scaled(windows, network)[..., None])
                    handle.write(_halved(features, network).tobytes())
                if (index + 1) % _NOTED_EVERY == 0 or index + 1 == len(dataset.train):
                    _note_done(handle, note, key, index + 1)
                progress("augmented views", index + 1, len(dataset.train))
    views: NDArray[np.float16] = np.load(file, mmap_mode="r", allow_pickle=False)
    return views


def _drawn(augmenter: Augmenter, grey: NDArray[np.float32], views: int) -> Iterator[NDArray[np.float32]]:
    """All views of one picture, a few at a time."""
    for start in range(0, views, _WINDOWS_AT_ONCE):
        count = min(_WINDOWS_AT_ONCE, views - start)
        yield np.stack([augmenter.window(grey) for _ in range(count)])


def _scaled(grey: NDArray[np.float32], network: Network) -> NDArray[np.float32]:
    low, high = network.backbone.value_range
    return np.asarray(grey * np.float32(high - low) + np.float32(low), dtype=np.float32)


def _halved(features: object, network: Network) -> NDArray[np.float16]:
    """Round to half precision, which ends at 65,504: beyond, training would go on with infinities."""
    values = np.asarray(features, dtype=np.float32)
    largest = float(np.abs(values).max())
    if not largest <= float(np.finfo(np.float16).max):
        raise RunError(
            f"{network.backbone.name}: its intermediate features reach {largest:.3g}, more than the half "
            "precision in which they are kept can hold; choose other --weights or another --fine-tune-from"
        )
    return values.astype(np.float16)


def _key(dataset: DataSet, recipe: Recipe, seed: int, full: tuple[int, ...]) -> str:
    """Everything that decides the file's content."""
    drawn = [recipe.augmentation.model_dump(mode="json"), recipe.views, seed]
    computed = [recipe.backbone, recipe.weights, recipe.fine_tune_from]
    weights = Path(recipe.weights)
    content = [hashlib.sha256(weights.read_bytes()).hexdigest()] if weights.is_file() else []
    rounded = ["half precision"] if half_precision(recipe) else []
    return json.dumps([dataset.fingerprint, *drawn, *computed, list(full), *content, *rounded])


def _done(file: Path, note: Path, key: str, full: tuple[int, ...]) -> int:
    """How many crops of the feature file are finished and belong to this key."""
    try:
        state = json.loads(note.read_bytes())
        done = int(state["done"]) if state["key"] == key else 0
        with file.open("rb") as handle:
            there = file.stat().st_size - _skip_header(handle, full)
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return done if 0 <= done <= full[0] and there >= done * _bytes_a_crop(full) else 0


def _opened(file: Path, note: Path, full: tuple[int, ...], done: int) -> IO[bytes]:
    """Open the feature file behind its first `done` crops; begins it anew where there are none."""
    handle: IO[bytes]
    if done:
        handle = file.open("r+b")
        handle.seek(_skip_header(handle, full) + done * _bytes_a_crop(full))
        handle.truncate()
        return handle
    # First the note: an old one must never vouch for the new file's content.
    note.unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    handle = file.open("xb")
    np.lib.format.write_array_header_1_0(
        handle, {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": full}
    )
    return handle


def _skip_header(handle: IO[bytes], full: tuple[int, ...]) -> int:
    """Read the header of a .npy file and return where its values begin; ValueError if they are others."""
    if np.lib.format.read_magic(handle) != (1, 0):
        raise ValueError("not version 1.0 of the npy format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
    if shape != full or fortran or dtype != np.float16:
        raise ValueError(f"holds {shape} {dtype}, not {full} in half precision")
    return handle.tell()


def _bytes_a_crop(full: tuple[int, ...]) -> int:
    return math.prod(full[1:]) * np.dtype(np.float16).itemsize


def _note_done(handle: IO[bytes], note: Path, key: str, done: int) -> None:
    handle.flush()
    os.fsync(handle.fileno())
    write_durably(note, json.dumps({"key": key, "done": done}).encode())


def crop_seed(seed: int, crop: Crop) -> int:
    """A seed of the crop's own, whatever its place in the data set."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{crop.crop_id}".encode()).digest()[:8], "big")
