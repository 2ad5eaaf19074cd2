"""The grey picture in a TIFF, PNG or JPEG export, through Pillow.

Only this module knows Pillow and how these three formats end, which is what tells a file that is still
being written from a damaged one. Colour becomes luminance; of several pages the middle one is taken.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from edge_agent.axis_units import nm_per_pixel
from edge_agent.unusable_file import DamagedFile, IncompleteFile, NotAnImage, UnusableFile

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

MAGIC: Final = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF",
}  # fmt: skip

# Modes that are already one real number a pixel; everything else goes through RGB.
_GREY_MODES: Final = frozenset({"L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR_STEP: Final = 32
_MOST_COLOURED: Final = 0.1
"""An export of a grey micrograph may carry a coloured scale bar or letters; more than that is a map in colours."""
_PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MOST_PAGES: Final = 100_000
_MOST_PIXELS_PER_BYTE: Final = 4096
"""No compression gives more (deflate 1,032, LZW about 2,700); headers that claim more claim too much."""
_MOST_SCANS: Final = 100
"""Progressive JPEGs have about ten; each costs the decoder a pass over the whole picture."""
_CHUNK_BYTES: Final = 1024 * 1024

# Private tags in which DigitalMicrograph keeps the calibration of its TIFF exports: units, then scales.
_DM_UNIT_TAGS: Final = (65003, 65004)
_DM_SCALE_TAGS: Final = (65009, 65010)
_DESCRIPTION_TAG, _X_RESOLUTION_TAG, _Y_RESOLUTION_TAG = 270, 282, 283
# Where the pixel data lie: strip or tile offsets, and their byte counts.
_DATA_TAGS: Final = {273: 279, 324: 325}


@dataclass(frozen=True, slots=True)
class Picture:
    """One grey page: pixels rows x columns, its number where there are several, nm a pixel where written."""

    pixels: np.ndarray
    page: int | None
    pixel_size_nm: tuple[float, float] | None


def read_picture(handle: BinaryIO, size_bytes: int, format_name: str, pixel_limit: int) -> Picture:
    """Read the middle page of an open file of `size_bytes` whose first bytes say `format_name`.

    Raises IncompleteFile when the format's own end is missing, NotAnImage for a bilevel mask, DamagedFile
    for anything that Pillow cannot read, that has more than `pixel_limit` pixels (Pillow's own limit against
    decompression bombs, about 179 million, holds as well) or more than its bytes can hold, and OSError when
    the disk fails.
    """
    _require_whole(handle, size_bytes, format_name)
    handle.seek(0)
    try:
        with warnings.catch_warnings(), _silence(format_name):
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which is none of our business
            with Image.open(handle, formats=(format_name,)) as image:
                return _middle_page(image, size_bytes, pixel_limit)
    except UnusableFile:
        raise
    except UnidentifiedImageError as error:  # its text names an object in memory
        raise DamagedFile(f"cannot be read as {format_name}: its header makes no sense") from error
    except OSError as error:
        if error.errno is not None:  # a disk that fails, not a file that is damaged
            raise
        raise DamagedFile(f"cannot be read as {format_name}: {error}") from error
    except Exception as error:
        seen = str(error) or type(error).__name__
        raise DamagedFile(f"cannot be read as {format_name}: {seen}") from error


@contextmanager
def _silence(format_name: str) -> Iterator[None]:
    """Send what libtiff prints on the standard error away: no setting of Pillow's stops it."""
    try:
        kept = os.dup(2) if format_name == "TIFF" else None
    except OSError:  # a program without a console
        kept = None
    if kept is None:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _middle_page(image: Image.Image, size_bytes: int, pixel_limit: int) -> Picture:
    pages = getattr(image, "n_frames", 1)
    page = pages // 2 if pages > 1 else None
    if page is not None:
        image.seek(page)
    columns, rows = image.size
    if columns * rows > pixel_limit:
        raise DamagedFile(f"has {rows} x {columns} pixels, more than the limit of {pixel_limit}")
    if columns * rows > _MOST_PIXELS_PER_BYTE * size_bytes:
        raise DamagedFile(f"claims {rows} x {columns} pixels, more than its {size_bytes} bytes can hold")
    if image.mode == "1":
        raise NotAnImage("is a mask of yes and no")
    return Picture(_grey(image), page, _pixel_size_nm(image))


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode in _GREY_MODES:
        pixels = np.asarray(image)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0))
    colours = image if image.mode == "RGB" else image.convert("RGB")
    red, green, blue = colours.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return np.asarray(red)
    share = _coloured_share(np.asarray(colours))
    if share > _MOST_COLOURED:
        raise NotAnImage(f"is a colour picture or map ({share:.0%} of its pixels are coloured)")
    return np.asarray(colours.convert("L"))  # luminance, ITU-R 601-2


def _coloured_share(channels: np.ndarray) -> float:
    """Return the share of pixels whose channels differ by more than JPEG makes them, from every fourth row."""
    rows = channels[::4].astype(np.int16)
    return float((rows.max(axis=2) - rows.min(axis=2) > _COLOUR_STEP).mean())


def _pixel_size_nm(image: Image.Image) -> tuple[float, float] | None:
    """Return (rows, columns) from the two programs that say it unambiguously; DPI says nothing."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    sizes = _imagej_sizes(tags) or _digitalmicrograph_sizes(tags)
    return None if sizes is None or None in sizes else (float(sizes[0]), float(sizes[1]))


def _imagej_sizes(tags: Any) -> tuple[Any, Any] | None:  # noqa: ANN401 - Pillow's tag directory is untyped
    description = str(tags.get(_DESCRIPTION_TAG, ""))
    unit = re.search(r"^unit=(.+)$", description, re.MULTILINE)
    if not description.startswith("ImageJ=") or unit is None:
        return None
    # ImageJ writes the micro sign as the six characters \u00B5.
    name = unit[1].strip().replace("\\u00B5", "\u00b5")
    per_unit = (float(tags.get(_Y_RESOLUTION_TAG, 0)), float(tags.get(_X_RESOLUTION_TAG, 0)))
    rows, columns = (nm_per_pixel(1 / number if number else None, name) for number in per_unit)
    return rows, columns


def _digitalmicrograph_sizes(tags: Any) -> tuple[Any, Any] | None:  # noqa: ANN401
    units = {str(tags.get(tag, "")).strip("\x00 ") for tag in _DM_UNIT_TAGS}
    scales = {tags.get(tag) for tag in _DM_SCALE_TAGS}
    # Which of the two is x is nowhere documented, so only square pixels are unambiguous.
    if len(units) != 1 or len(scales) != 1:
        return None
    scale = scales.pop()
    size = nm_per_pixel(float(scale), units.pop()) if isinstance(scale, (int, float)) else None
    return size, size


def _require_whole(handle: BinaryIO, size_bytes: int, format_name: str) -> None:
    missing = {"PNG": _png_end, "JPEG": _jpeg_end, "TIFF": _tiff_end}[format_name](handle, size_bytes)
    if missing:
        raise IncompleteFile(f"is a {format_name} file without {missing}; still being written, or cut off")


def _png_end(handle: BinaryIO, size_bytes: int) -> str | None:
    """Look for the end chunk at the end, then chunk by chunk; one of type zero is a hole not yet written."""
    handle.seek(max(0, size_bytes - len(_PNG_END)))
    if handle.read() == _PNG_END:
        return None
    place = 8
    while True:
        handle.seek(place)
        head = handle.read(8)
        place += 12 + int.from_bytes(head[:4], "big")
        if len(head) < 8 or head[4:] == bytes(4) or place > size_bytes:
            return "its end chunk (IEND)"
        if head[4:] == b"IEND":
            return None


def _jpeg_end(handle: BinaryIO, size_bytes: int) -> str | None:
    """Walk the segments to the first scan (an embedded preview has an end marker of its own), then search."""
    place = 2
    while True:
        handle.seek(place)
        head = handle.read(4)
        if len(head) < 4 or not any(head):
            return "a scan"
        if head[0] != 0xFF:
            return None  # no sequence of segments: damaged, and Pillow will say how
        place += 2 + int.from_bytes(head[2:], "big")
        if place > size_bytes:
            return "a scan"
        if head[1] == 0xDA:
            return _jpeg_scans_end(handle, place)


def _jpeg_scans_end(handle: BinaryIO, place: int) -> str | None:
    handle.seek(place)
    before, scans = b"", 1
    while block := handle.read(_CHUNK_BYTES):
        block = before + block
        scans += block.count(b"\xff\xda")
        if scans > _MOST_SCANS:
            raise DamagedFile(f"is a JPEG file of more than {_MOST_SCANS} scans, which no program writes")
        if b"\xff\xd9" in block:
            return None
        before = block[-1:]
    return "its end marker"


def _tiff_end(handle: BinaryIO, size_bytes: int) -> str | None:
    """Walk the directories; each, its values, and the pixel data it names must lie inside the file."""
    try:
        for end in _tiff_ends(handle, size_bytes):
            if end > size_bytes:
                return f"the data up to byte {end} that it refers to"
    except struct.error:
        return "its directory"
    return None


@dataclass(frozen=True, slots=True)
class _TiffLayout:
    order: str
    count: str
    offset: str
    entry_bytes: int
    first: int


def _tiff_layout(handle: BinaryIO) -> _TiffLayout:
    handle.seek(0)
    head = handle.read(16)
    order = "<" if head[:2] == b"II" else ">"
    if head[2:4] in (b"+\x00", b"\x00+"):
        return _TiffLayout(order, "Q", "Q", 20, struct.unpack(order + "Q", head[8:16])[0])
    return _TiffLayout(order, "H", "I", 12, struct.unpack(order + "I", head[4:8])[0])


def _tiff_ends(handle: BinaryIO, size_bytes: int) -> Iterator[int]:
    layout = _tiff_layout(handle)
    directory, seen, referred_bytes = layout.first, set[int](), 0
    if directory == 0:  # a writer's placeholder
        yield size_bytes + 1
    while directory and directory not in seen and len(seen) < _MOST_PAGES:
        seen.add(directory)
        count_bytes, offset_bytes = struct.calcsize(layout.count), struct.calcsize(layout.offset)
        handle.seek(min(directory, size_bytes))
        entries = struct.unpack(layout.order + layout.count, handle.read(count_bytes))[0]
        end = directory + count_bytes + entries * layout.entry_bytes
        yield end + offset_bytes
        block = handle.read(entries * layout.entry_bytes)
        referred_bytes += yield from _tiff_entry_ends(handle, layout, block)
        if referred_bytes > _MOST_REFERENCES * size_bytes + _CHUNK_BYTES:
            raise DamagedFile("is a TIFF file that refers to the same bytes again and again")
        handle.seek(end)
        directory = struct.unpack(layout.order + layout.offset, handle.read(offset_bytes))[0]


_MOST_REFERENCES: Final = 4
"""How often the values of all directories may cover the file: writers lay each down once."""
_TIFF_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_TIFF_TYPE_CODES: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff_entry_ends(handle: BinaryIO, layout: _TiffLayout, block: bytes) -> Generator[int, None, int]:
    """Yield where the values of a directory end, and the data they point at; return the values' length."""
    found: dict[int, tuple[int, ...]] = {}
    inline_bytes, referred_bytes = struct.calcsize(layout.offset), 0
    for place in range(0, len(block), layout.entry_bytes):
        entry = block[place : place + layout.entry_bytes]
        tag, kind, count = struct.unpack(f"{layout.order}HH{layout.offset}", entry[: 4 + inline_bytes])
        length = count * _TIFF_TYPE_BYTES.get(kind, 0)
        value = entry[4 + inline_bytes :]
        if length > inline_bytes:
            offset = struct.unpack(layout.order + layout.offset, value)[0]
            yield offset + length
            referred_bytes += length
            handle.seek(offset)
            is_wanted = tag not in found and (tag in _DATA_TAGS or tag in _DATA_TAGS.values())
            value = handle.read(length) if is_wanted else b""
        if value and kind in _TIFF_TYPE_CODES and tag not in found:
            found[tag] = struct.unpack(f"{layout.order}{count}{_TIFF_TYPE_CODES[kind]}", value[:length])
    for offsets, counts in _DATA_TAGS.items():
        for start, length in zip(found.get(offsets, ()), found.get(counts, ()), strict=False):
            yield start + length
    return referred_bytes
