"""Small JPEG pictures of crops beside a data set's page, drawn once and found again by what they show.

Kept crops come from the cached pixels. A dropped file has none: its source is read again by the agent's reader
and shown as the agent would show it, or it has no picture, with the reason why.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.preprocessing import describe_field, grey_field, input_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.preparing.crop_table import Crop, DataSet

FOLDER: Final = "contact_sheet"
LONGEST_PX: Final = 288
_QUALITY: Final = 78
_DRAWING: Final = "1"
"""Part of every name: raised when thumbnails are drawn in another way."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture's file name in the folder, or "" with the reason why there is none."""

    name: str
    absence: str = ""


def draw_thumbnails(
    dataset: DataSet, crops: Sequence[Crop], progress: Callable[[str, int, int], None] = lambda *_: None
) -> dict[str, Thumbnail]:
    """Draw what is missing of these crops' pictures, and give each crop's by its id.

    Pictures that no crop has any more are removed. `progress` is called in this thread. Raises OSError where the
    folder cannot be written.
    """
    folder = dataset.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()}
    names = {crop.crop_id: _name(dataset, crop) for crop in crops}
    found = {crop.crop_id: Thumbnail(names[crop.crop_id]) for crop in crops if names[crop.crop_id] in there}
    by_source: defaultdict[str, list[Crop]] = defaultdict(list)
    for crop in crops:
        if crop.crop_id not in found:
            by_source[crop.source].append(crop)
    progress("thumbnails", len(found), len(crops))
    # Threads: reading, shrinking and encoding let go of the interpreter, and starting processes takes a second.
    pool = ThreadPoolExecutor(_cores(), thread_name_prefix="thumbnails")
    try:
        waiting = [pool.submit(_drawn, dataset, mine, names) for mine in by_source.values()]
        for done in as_completed(waiting):
            found |= done.result()
            progress("thumbnails", len(found), len(crops))
    finally:
        pool.shutdown(cancel_futures=True)
    _remove(folder, there - set(names.values()))
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name(dataset: DataSet, crop: Crop) -> str:
    """Named by the pixels, which the cached file's own name is a hash of, or by file, box and contrast rule."""
    shown = crop.cached or f"{crop.crop_id} {dataset.preprocessing.clipped_fraction}"
    return hashlib.sha256(f"{_DRAWING} {shown}".encode()).hexdigest()[:32] + ".jpg"


def _drawn(dataset: DataSet, crops: Sequence[Crop], names: dict[str, str]) -> dict[str, Thumbnail]:
    """Draw the crops of one source, which is read once at most."""
    found: dict[str, Thumbnail] = {}
    unread = []
    for crop in crops:
        pixels = _cached_pixels(dataset, crop)
        if pixels is None:
            unread.append(crop)
        else:
            found[crop.crop_id] = _put(dataset, names[crop.crop_id], pixels)
    if unread and unread[0].shape_px == (0, 0):
        return found | {crop.crop_id: Thumbnail("", "no picture in this file") for crop in unread}
    return found | (_from_source(dataset, unread, names) if unread else {})


def _cached_pixels(dataset: DataSet, crop: Crop) -> NDArray[np.uint8] | None:
    if not crop.cached:
        return None
    try:
        pixels: NDArray[np.uint8] = np.load(dataset.root / crop.cached, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return pixels


def _from_source(dataset: DataSet, crops: Sequence[Crop], names: dict[str, str]) -> dict[str, Thumbnail]:
    first = crops[0]
    try:
        micrograph = read_micrograph(dataset.path_of(first.source))
    except UnusableFile as error:
        return {crop.crop_id: Thumbnail("", f"cannot be read: {error.reason}") for crop in crops}
    except OSError as error:
        return {crop.crop_id: Thumbnail("", f"cannot be read: {error.strerror or error}") for crop in crops}
    if None not in (first.sha256, micrograph.source.sha256) and first.sha256 != micrograph.source.sha256:
        return {crop.crop_id: Thumbnail("", "was changed since prepare") for crop in crops}
    rule = dataset.preprocessing.model_copy(update={"input_px": LONGEST_PX})
    limits = describe_field(micrograph.pixels, rule).contrast
    found = {}
    for crop in crops:
        shape = input_shape(crop.box_px, crop.pixel_size_nm, rule)
        grey = grey_field(micrograph.pixels, limits, shape, crop.box_px)
        pixels = np.rint(grey * 255).astype(np.uint8)
        found[crop.crop_id] = _put(dataset, names[crop.crop_id], pixels)
    return found


def _put(dataset: DataSet, name: str, pixels: NDArray[np.uint8]) -> Thumbnail:
    """Whole or absent; not forced to the disk, as it is drawn again when it is missing."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    path = dataset.root / FOLDER / name
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Thumbnail(name)


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove our own pictures of crops that are gone; what else lies there is not ours."""
    for name in names:
        if (name.startswith(".") and name.endswith(".tmp")) or (len(name) == 36 and name.endswith(".jpg")):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
