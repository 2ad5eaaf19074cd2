"""What a DigitalMicrograph 3 or 4 file contains: its data sets, where their pixels lie, what is shown.

Only this module knows which tags describe a data set. Pixels are never touched here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from edge_agent.dm_tags import read_tags
from edge_agent.unusable_file import DamagedFile

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_AXES: Final = 16
_RGB_TYPE: Final = 23
_IMAGE_TAG: Final = re.compile(r"\.ImageList\.(\d{1,6})\.(.+)", re.DOTALL)
_SHOWN_TAG: Final = re.compile(
    r"\.DocumentObjectList\.\d{1,6}(?:\.AnnotationGroupList\.\d{1,6})*\.ImageSource"
)
_THUMBNAIL_TAG: Final = re.compile(r"\.Thumbnails\.\d{1,6}\.ImageIndex")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a data set. `scale` and `unit` are as written; an axis without them has None and ""."""

    size: int
    scale: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags below one place of the tree. Absent, empty and zero all read as None."""

    _values: Mapping[str, object]

    def text(self, name: str) -> str | None:
        """Return a text tag without surrounding space and control characters, at most 200 characters."""
        value = self._values.get(name)
        if not isinstance(value, str):
            return None
        printable = "".join(c if c.isprintable() else " " for c in value[:200])
        return printable.strip() or None

    def number(self, name: str) -> float | None:
        """Return a numeric tag when it is finite and not zero."""
        value = self._values.get(name)
        if not isinstance(value, (int, float, np.integer, np.floating)):
            return None
        number = float(value)
        return number if np.isfinite(number) and number else None


@dataclass(frozen=True, slots=True)
class DataSet:
    """One entry of the ImageList. `axes` run from the fastest (columns) to the slowest.

    `data_type` is DigitalMicrograph's number for the type of a pixel, `pixel_bytes` its PixelDepth;
    the pixels are the `size_bytes` bytes from `offset` on, which lie inside the file.
    """

    name: str | None
    data_type: int
    pixel_bytes: int
    axes: tuple[Axis, ...]
    offset: int
    size_bytes: int
    is_thumbnail: bool
    tags: Tags


@dataclass(frozen=True, slots=True)
class DMContents:
    """The data sets in the order of the ImageList, those that the document shows, and the root's tags."""

    data_sets: tuple[DataSet, ...]
    shown: tuple[int, ...]
    tags: Tags


def read_contents(handle: BinaryIO, size_bytes: int) -> DMContents:
    """Return what an open DM3 or DM4 file of `size_bytes` contains. Raises as `read_tags` does."""
    return _contents_of(read_tags(handle, size_bytes))


def _contents_of(values: dict[str, object]) -> DMContents:
    by_image: dict[int, dict[str, object]] = {}
    elsewhere: dict[str, object] = {}
    for name, value in values.items():
        found = _IMAGE_TAG.fullmatch(name)
        if found:
            by_image.setdefault(int(found[1]), {})[found[2]] = value
        else:
            elsewhere[name] = value
    shown = _shown_images(elsewhere)
    thumbnails = _thumbnails(elsewhere, by_image, shown)
    ordered = sorted(by_image)
    data_sets = tuple(
        _data_set(index, by_image[number], index in thumbnails) for index, number in enumerate(ordered)
    )
    return DMContents(data_sets, tuple(i for i in shown if i < len(data_sets)), Tags(_without_dot(elsewhere)))


def _without_dot(values: dict[str, object]) -> dict[str, object]:
    return {name.removeprefix("."): value for name, value in values.items()}


def _shown_images(values: Mapping[str, object]) -> tuple[int, ...]:
    """Return indices into the ImageList in the document's order: a picture before what lies on it."""
    places = []
    for name, value in values.items():
        found = _SHOWN_TAG.fullmatch(name)
        source = _whole(value)
        if found and source is not None:
            order = tuple(int(part) for part in re.findall(r"\d+", found[0]))
            image = _whole(values.get(f".ImageSourceList.{source + 1}.ImageRef"))
            if image is not None and image >= 0:
                places.append((order, image))
    return tuple(dict.fromkeys(image for _, image in sorted(places)))


def _thumbnails(
    values: Mapping[str, object], by_image: Mapping[int, Mapping[str, object]], shown: tuple[int, ...]
) -> frozenset[int]:
    """Return the declared thumbnails; without a declaration, a leading RGB that nothing shows."""
    declared = frozenset(
        index
        for name, value in values.items()
        if _THUMBNAIL_TAG.fullmatch(name) and (index := _whole(value)) is not None
    )
    if declared or len(by_image) < 2:
        return declared
    first = by_image[min(by_image)]
    leading_rgb = _whole(first.get("ImageData.DataType")) == _RGB_TYPE and 0 not in shown
    return frozenset({0}) if leading_rgb else declared


def _data_set(index: int, values: Mapping[str, object], is_thumbnail: bool) -> DataSet:
    required = {
        name: _whole(values.get(f"ImageData.{name}"))
        for name in ("DataType", "PixelDepth", "Data.arrayOffset", "Data.arraySize")
    }
    data_type, pixel_bytes, offset, size_bytes = required.values()
    axes = _axes(values)
    if data_type is None or pixel_bytes is None or offset is None or size_bytes is None or not axes:
        missing = [name for name, value in required.items() if value is None] or ["Dimensions"]
        raise DamagedFile(f"has no usable {', '.join(missing)} for its data set {index}")
    tags = {name.removeprefix("ImageTags."): v for name, v in values.items() if name.startswith("ImageTags.")}
    name = Tags(values).text("Name")
    return DataSet(name, data_type, pixel_bytes, axes, offset, size_bytes, is_thumbnail, Tags(tags))


def _axes(values: Mapping[str, object]) -> tuple[Axis, ...]:
    axes = []
    for number in range(1, _MOST_AXES + 1):
        size = _whole(values.get(f"ImageData.Dimensions.{number}"))
        if size is None:
            break
        if size < 1:
            return ()
        place = f"ImageData.Calibrations.Dimension.{number}"
        written = Tags(values)
        axes.append(Axis(size, written.number(f"{place}.Scale"), written.text(f"{place}.Units") or ""))
    return tuple(axes)


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, (int, np.integer)) else None
