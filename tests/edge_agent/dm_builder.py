"""Builds DM3 and DM4 files for tests, byte by byte, also such as no instrument would write.

Independent of `edge_agent.dm_writer`, so that reader and writer cannot share a mistake. A file is a list of
pieces; a `Hole` is a run of zeros that is never held in memory, so that sparse files of any size are cheap.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


# numpy's name -> DM data type, bytes a pixel, tag type of one element
TYPES = {
    "int16": (1, 2, 2), "float32": (2, 4, 6), "uint8": (6, 1, 10), "int32": (7, 4, 3), "int8": (9, 1, 9),
    "uint16": (10, 2, 4), "uint32": (11, 4, 5), "float64": (12, 8, 7),
    "int64": (39, 8, 11), "uint64": (40, 8, 12),
}  # fmt: skip
ELEMENT_BYTES = {element: pixel_bytes for _, pixel_bytes, element in TYPES.values()}


class Hole(int):
    """That many zero bytes."""


@dataclass
class Array:
    """An array tag: its element type, the element count that it claims, and the bytes that follow."""

    kind: int
    count: int
    data: bytes | Hole


@dataclass
class Image:
    """One entry of the ImageList; `axes` are (size, scale, unit), fastest first."""

    data_type: int
    pixel_bytes: int
    axes: list[tuple[int, float, str]]
    data: bytes | Hole | None = None
    name: str = "image"
    tags: dict[str, Any] = field(default_factory=dict)
    element: int = 10

    def tree(self) -> dict[str, Any]:
        size = self.pixel_bytes * int(np.prod([axis[0] for axis in self.axes], dtype=object))
        data = Hole(size) if self.data is None else self.data
        length = int(data) if isinstance(data, Hole) else len(data)
        return {
            "ImageData": {
                "Calibrations": {
                    "Dimension": [
                        {"Origin": 0.0, "Scale": scale, "Units": unit} for _, scale, unit in self.axes
                    ]
                },
                "Data": Array(self.element, length // ELEMENT_BYTES[self.element], data),
                "DataType": self.data_type,
                "Dimensions": [axis[0] for axis in self.axes],
                "PixelDepth": self.pixel_bytes,
            },
            "ImageTags": self.tags,
            "Name": self.name,
        }


def image_of(values: np.ndarray, unit: str = "nm", scale: float = 1.0, **more: Any) -> Image:
    data_type, pixel_bytes, element = TYPES[values.dtype.name]
    axes = [(size, scale, unit) for size in reversed(values.shape)]
    return Image(data_type, pixel_bytes, axes, values.tobytes(), element=element, **more)


def thumbnail() -> Image:
    return Image(23, 4, [(4, 1.0, ""), (4, 1.0, "")], bytes(range(64)), "Image Of image", element=3)


def document(
    *images: Image, shown: list[int] | None = None, thumbnails: list[int] | None = None
) -> dict[str, Any]:
    """Return the tag tree of a file that shows the images with these indices (all, when not given)."""
    shown = list(range(len(images))) if shown is None else shown
    tree: dict[str, Any] = {
        "DocumentObjectList": [{"AnnotationType": 20, "ImageSource": place} for place in range(len(shown))],
        "ImageList": [image.tree() for image in images],
        "ImageSourceList": [{"ClassName": "ImageSource:Simple", "ImageRef": index} for index in shown],
    }
    if thumbnails:
        tree["Thumbnails"] = [{"ImageIndex": index} for index in thumbnails]
    return tree


def dm_pieces(tree: dict[str, Any], version: int = 3, length: int | None = None) -> list[bytes | Hole]:
    """Return a whole file; `length` replaces what the header says of the file's size."""
    pieces = [*_group(tree, version), bytes(8)]
    word, uncounted = (">I", 20) if version == 3 else (">Q", 24)
    head_bytes = 8 + struct.calcsize(word)
    size = head_bytes + sum(int(p) if isinstance(p, Hole) else len(p) for p in pieces)
    promised = size - uncounted if length is None else length
    return [struct.pack(">I", version) + struct.pack(word, promised % 2**32) + struct.pack(">I", 1), *pieces]


def dm_bytes(*images: Image, version: int = 3, **how: Any) -> bytes:
    return b"".join(bytes(p) for p in dm_pieces(document(*images, **how), version))


def write_pieces(path: Path, pieces: list[bytes | Hole]) -> Path:
    """Write a file; holes stay holes on the disk."""
    with path.open("wb") as handle:
        for piece in pieces:
            if isinstance(piece, Hole):
                handle.seek(int(piece), 1)
            else:
                handle.write(piece)
    return path


def _group(tree: dict[str, Any] | list[Any], version: int) -> list[bytes | Hole]:
    entries = [("", value) for value in tree] if isinstance(tree, list) else sorted(tree.items())
    pieces: list[bytes | Hole] = [b"\x01\x00" + _word(len(entries), version)]
    for name, value in entries:
        pieces += _entry(name, value, version)
    return pieces


def _entry(name: str, value: Any, version: int) -> list[bytes | Hole]:
    is_group = isinstance(value, (dict, list))
    content = _group(value, version) if is_group else _value(value, version)
    label = name.encode("latin-1")
    head = bytes([20 if is_group else 21]) + struct.pack(">H", len(label)) + label
    if version == 4:
        head += struct.pack(">Q", sum(int(p) if isinstance(p, Hole) else len(p) for p in content))
    return [head, *content]


def _value(value: Any, version: int) -> list[bytes | Hole]:
    if isinstance(value, str):
        value = Array(4, len(value.encode("utf-16-le")) // 2, value.encode("utf-16-le"))
    if isinstance(value, Array):
        return [b"%%%%" + b"".join(_word(w, version) for w in (3, 20, value.kind, value.count)), value.data]
    kind, code = (3, "<i") if isinstance(value, int) else (7, "<d")
    return [b"%%%%" + _word(1, version) + _word(kind, version) + struct.pack(code, value)]


def _word(number: int, version: int) -> bytes:
    return struct.pack(">I" if version == 3 else ">Q", number)
