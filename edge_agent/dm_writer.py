"""Writes DM3 files: the byte layout, and the document that DigitalMicrograph puts round a picture.

Only this module knows how a DM3 file is written. It serves the simulated microscope and the tests; it
never touches a file of somebody else. The layout was taken from files that DigitalMicrograph 2.3 to 3.4
saved: big-endian structure, little-endian values, named tags in alphabetical order (so the pixels come
before their own dimensions), the thumbnail as the first image of the list.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GROUP, _LEAF = 20, 21
_STRUCT, _ARRAY = 15, 20
# Numbers of the tag types, from DigitalMicrograph's own files.
_SHORT, _LONG, _USHORT, _ULONG, _FLOAT, _DOUBLE, _BOOL, _CHAR, _OCTET = 2, 3, 4, 5, 6, 7, 8, 9, 10
_FORMAT = {_SHORT: "h", _LONG: "i", _USHORT: "H", _ULONG: "I", _FLOAT: "f", _DOUBLE: "d", _BOOL: "B"}
# numpy type -> (tag type of the array, DM image data type)
_IMAGE_TYPES = {
    "int8": (_CHAR, 9),
    "uint8": (_OCTET, 6),
    "int16": (_SHORT, 1),
    "uint16": (_USHORT, 10),
    "int32": (_LONG, 7),
    "uint32": (_ULONG, 11),
    "float32": (_FLOAT, 2),
    "float64": (_DOUBLE, 12),
}
_RGB_IMAGE = 23
_THUMBNAIL_PX = 384
_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_GMS_VERSION = "3.40.2804.0"


@dataclass(frozen=True, slots=True)
class Tag:
    """One encoded tag value: what follows its name in the file."""

    kind: int
    body: bytes


TagValue: TypeAlias = "Tag | str | bool | int | float | Mapping[str, TagValue] | Sequence[TagValue]"
TagGroup: TypeAlias = "dict[str, TagValue]"


@dataclass(frozen=True, slots=True)
class Axis:
    """Calibration of one dimension, fastest first: value = (index - origin_px) * scale, in `units`."""

    scale: float
    units: str
    origin_px: float = 0.0


@dataclass(frozen=True, slots=True)
class Picture:
    """What a document shows: an array (slowest dimension first) and one axis a dimension, fastest first."""

    name: str
    values: NDArray[Any]
    axes: tuple[Axis, ...]
    tags: Mapping[str, TagValue]


def write_dm3(picture: Picture) -> bytes:
    """Write the whole DM3 file for a spectrum (1-D), an image (2-D) or a stack (3-D).

    Raises ValueError for a type that DM cannot hold, or when axes and dimensions do not match.
    """
    if str(picture.values.dtype) not in _IMAGE_TYPES:
        known = ", ".join(_IMAGE_TYPES)
        raise ValueError(f"DM3 has no image type for {picture.values.dtype}: convert to one of {known}")
    if picture.values.ndim != len(picture.axes) or picture.values.ndim not in (1, 2, 3):
        raise ValueError(
            f"{picture.values.ndim} dimensions, {len(picture.axes)} axes: give 1 to 3, and one axis for each"
        )
    root = _encode(_document(picture)).body
    # The length in the header counts the root group without version, length and byte order, and
    # without the eight zero bytes that end the file.
    return struct.pack(">III", 3, len(root), 1) + root + bytes(8)


def filetime(moment: datetime) -> float:
    """Express a moment as UTC FILETIME (100 ns since 1601), in the double that DigitalMicrograph stores."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} names no time zone: an acquisition time must be unambiguous")
    since = moment - _FILETIME_EPOCH
    return float((since.days * 86_400 + since.seconds) * 10_000_000 + since.microseconds * 10)


def long(value: int) -> Tag:
    """Make a signed 32-bit tag, where DigitalMicrograph has one (plain int is written unsigned)."""
    return _number(_LONG, value)


def double(value: float) -> Tag:
    """Make a 64-bit tag (plain float is written as 32 bits, as in calibrations)."""
    return _number(_DOUBLE, value)


def longs(*values: int) -> Tag:
    """Make a point, size or rectangle of whole pixels."""
    return _struct([(_LONG, value) for value in values])


def floats(*values: float) -> Tag:
    """Make a point, scale or rectangle of 32-bit numbers."""
    return _struct([(_FLOAT, value) for value in values])


def _number(kind: int, value: float) -> Tag:
    return _leaf((kind,), struct.pack("<" + _FORMAT[kind], value))


def _leaf(description: Sequence[int], body: bytes) -> Tag:
    return Tag(_LEAF, b"%%%%" + struct.pack(f">I{len(description)}I", len(description), *description) + body)


def _struct(fields: Sequence[tuple[int, float]]) -> Tag:
    description = [_STRUCT, 0, len(fields)]
    for kind, _ in fields:
        description += [0, kind]
    return _leaf(description, b"".join(struct.pack("<" + _FORMAT[kind], value) for kind, value in fields))


def _array(kind: int, values: NDArray[Any]) -> Tag:
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return _leaf((_ARRAY, kind, values.size), little.tobytes())


def _text(text: str) -> Tag:
    encoded = text.encode("utf-16-le")
    return _leaf((_ARRAY, _USHORT, len(encoded) // 2), encoded)


def _encode(value: TagValue) -> Tag:
    """Encode any value of a tag tree; groups are sorted as DigitalMicrograph sorts them."""
    if isinstance(value, Tag):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return _number(_BOOL, value)
    if isinstance(value, int):
        return _number(_ULONG, value)
    if isinstance(value, float):
        return _number(_FLOAT, value)
    if isinstance(value, Mapping):
        return _group(sorted(value.items(), key=lambda item: item[0].casefold()), named=True)
    return _group([("", entry) for entry in value], named=False)


def _group(entries: Sequence[tuple[str, TagValue]], *, named: bool) -> Tag:
    parts = [struct.pack(">BBI", named, 0, len(entries))]
    for name, entry in entries:
        tag = _encode(entry)
        label = name.encode("latin-1")
        parts += [struct.pack(">BH", tag.kind, len(label)), label, tag.body]
    return Tag(_GROUP, b"".join(parts))


def _document(picture: Picture) -> TagGroup:
    """Lay out everything from ApplicationBounds to WindowPosition."""
    thumbnail = _thumbnail(picture.values)
    height, width = _window(picture.values)
    window = floats(0, 0, height, width)
    return {
        "ApplicationBounds": longs(0, 0, 1024, 1680),
        "DocumentObjectList": [_display(picture.values, window)],
        "DocumentTags": {},
        "HasWindowPosition": True,
        "Image Behavior": {
            "DoIntegralZoom": False,
            "ImageDisplayBounds": window,
            "IsZoomedToWindow": True,
            "UnscaledTransform": _identity(),
            "ViewDisplayID": 8,
            "WindowRect": window,
            "ZoomAndMoveTransform": _identity(),
        },
        "ImageList": [_thumbnail_image(picture, thumbnail), _image(picture)],
        "ImageSourceList": [_image_source(picture.values)],
        "InImageMode": True,
        "MinVersionList": [{"RequiredVersion": 50_659_328}],
        "NextDocumentObjectID": 9,
        "Page Behavior": {
            "DoIntegralZoom": False,
            "DrawMargins": True,
            "DrawPaper": True,
            "IsFixedInPageMode": False,
            "IsZoomedToWindow": True,
            "LayedOut": False,
            "PageTransform": _identity(),
            "RestoreImageDisplayBounds": window,
            "RestoreImageDisplayID": 8,
            "TargetDisplayID": 0xFFFFFFFF,
        },
        "PageSetup": {"General": _page()},
        "SentinelList": [],
        "Thumbnails": [{"ImageIndex": 0, "SourceSize_Pixels": longs(height, width)}],
        "WindowPosition": longs(28, 40, 28 + height, 40 + width),
    }


def _image(picture: Picture) -> TagGroup:
    kind, data_type = _IMAGE_TYPES[str(picture.values.dtype)]
    tags = {**picture.tags, "GMS Version": {"Created": _GMS_VERSION, "Saved": _GMS_VERSION}}
    return {
        "ImageData": {
            "Calibrations": _calibrations(picture.axes),
            "Data": _array(kind, picture.values),
            "DataType": data_type,
            "Dimensions": [int(length) for length in reversed(picture.values.shape)],
            "PixelDepth": picture.values.itemsize,
        },
        "ImageTags": tags,
        "Name": picture.name,
        "UniqueID": _unique_id(picture.values.tobytes() + picture.name.encode()),
    }


def _thumbnail_image(picture: Picture, grey: NDArray[np.uint8]) -> TagGroup:
    """Make the first image of the list: an RGB picture with an unused fourth byte."""
    coloured = np.zeros((*grey.shape, 4), np.uint8)
    coloured[..., :3] = grey[..., None]
    return {
        "ImageData": {
            "Calibrations": _calibrations((Axis(1.0, ""), Axis(1.0, ""))),
            "Data": _array(_LONG, coloured.view("<i4")[..., 0]),
            "DataType": _RGB_IMAGE,
            "Dimensions": [grey.shape[1], grey.shape[0]],
            "PixelDepth": 4,
        },
        "ImageTags": {"GMS Version": {"Created": _GMS_VERSION}},
        "Name": f"Image Of {picture.name}",
        "UniqueID": _unique_id(coloured.tobytes()),
    }


def _calibrations(axes: Sequence[Axis]) -> TagGroup:
    return {
        "Brightness": {"Origin": 0.0, "Scale": 1.0, "Units": ""},
        "Dimension": [
            {"Origin": float(axis.origin_px), "Scale": float(axis.scale), "Units": axis.units}
            for axis in axes
        ],
        "DisplayCalibratedUnits": True,
    }


def _unique_id(content: bytes) -> list[int]:
    return list(struct.unpack("<4I", hashlib.sha256(content).digest()[:16]))


def _image_source(values: NDArray[Any]) -> TagGroup:
    if values.ndim < 3:
        return {"ClassName": "ImageSource:Simple", "Id": [0], "ImageRef": 1}
    return {
        "ClassName": "ImageSource:Summed",
        "Do Sum": True,
        "Id": [0],
        "ImageRef": 1,
        "LayerEnd": 0,
        "LayerStart": 0,
        "Summed Dimension": 2,
    }


def _display(values: NDArray[Any], rectangle: Tag) -> TagGroup:
    """Say how the window shows the image: a raster (1) or a line plot (3)."""
    raster = values.ndim > 1
    return {
        "AnnotationGroupList": [],
        "AnnotationType": long(20),
        "BackgroundColor": _colour(-1, -1, -1),
        "BackgroundMode": _number(_SHORT, 2),
        "FillMode": _number(_SHORT, 1),
        "ForegroundColor": _colour(-1, 0, 0),
        "HasBackground": False,
        "ImageDisplayInfo": _raster_display(values) if raster else _line_plot_display(),
        "ImageDisplayType": long(1 if raster else 3),
        "ImageSource": 0,
        "IsMoveable": True,
        "IsResizable": True,
        "IsSelectable": True,
        "IsTranslatable": True,
        "IsVisible": True,
        "ObjectTags": {},
        "Rectangle": rectangle,
        "UniqueID": 8,
    }


def _raster_display(values: NDArray[Any]) -> TagGroup:
    low, high = (float(limit) for limit in np.percentile(values.reshape(-1)[::97], (0.5, 99.5)))
    return {
        "BrightColor": _colour(-1, -1, -1),
        "Brightness": 0.5,
        "CaptionOn": False,
        "CaptionSize": _number(_USHORT, 10),
        "CLUT": _grey_table(),
        "CLUTName": "Greyscale",
        "ComplexMode": 4,
        "ComplexRange": 1000.0,
        "Contrast": 0.5,
        "ContrastMode": 1,
        "DimensionLabels": [""],
        "DoAutoSurvey": True,
        "EstimatedMax": high,
        "EstimatedMaxTrimPercentage": 0.001,
        "EstimatedMin": low,
        "EstimatedMinTrimPercentage": 0.001,
        "Gamma": 0.5,
        "HighLimit": high,
        "IsInverted": False,
        "LowLimit": low,
        "MainSliceId": [0],
        "MinimumContrast": 0.0,
        "RangeAdjust": 1.0,
        "SurveyTechique": 2,  # spelt so in DigitalMicrograph's files
    }


def _line_plot_display() -> TagGroup:
    return {
        "BackgroundColor": _colour(-5655, -5655, -5655),
        "BackgroundOn": True,
        "CaptionOn": False,
        "CaptionSize": _number(_USHORT, 10),
        "DimensionLabels": [""],
        "FrameOn": True,
        "GridOn": True,
        "LegendOn": False,
        "MainSliceId": [0],
    }


def _colour(red: int, green: int, blue: int) -> Tag:
    return _struct([(_SHORT, red), (_SHORT, green), (_SHORT, blue)])


def _grey_table() -> Tag:
    """List the 256 grey levels: an array of structs of three shorts."""
    levels = np.repeat((np.arange(256) * 257).astype("<u2"), 3)
    return _leaf((_ARRAY, _STRUCT, 0, 3, 0, _SHORT, 0, _SHORT, 0, _SHORT, 256), levels.tobytes())


def _identity() -> dict[str, Tag]:
    return {"Offset": floats(0.0, 0.0), "Scale": floats(1.0, 1.0)}


def _page() -> Tag:
    """Describe letter paper with margins of one inch, in thousandths."""
    paper_and_margins = (8500, 11_000, 1000, 1000, -1000, -1000)
    return _struct([(_ULONG, 1), (_ULONG, 1000), *((_LONG, length) for length in paper_and_margins)])


def _window(values: NDArray[Any]) -> tuple[int, int]:
    """Find height and width of the window in screen pixels: the last two dimensions at a size that fits."""
    if values.ndim == 1:
        return 512, 1024
    height, width = values.shape[-2:]
    zoom = min(1.0, 900 / max(height, width))
    return max(1, round(height * zoom)), max(1, round(width * zoom))


def _thumbnail(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Make a small grey copy: block averages of the (middle) image, or the curve of a spectrum."""
    if values.ndim == 1:
        return _curve(values)
    image = values if values.ndim == 2 else values[len(values) // 2]
    step = max(1, math.ceil(max(image.shape) / _THUMBNAIL_PX))
    rows, columns = (length // step for length in image.shape)
    blocks = image[: rows * step, : columns * step].reshape(rows, step, columns, step)
    small = blocks.mean((1, 3), dtype=np.float64)
    low, high = np.percentile(small, (0.5, 99.5))
    stretched: NDArray[np.float64] = np.clip((small - low) * (255 / max(high - low, 1e-9)), 0, 255)
    return stretched.astype(np.uint8)


def _curve(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw a spectrum as a filled curve, dark on white."""
    height = _THUMBNAIL_PX // 2
    heights = np.interp(np.linspace(0, len(values) - 1, _THUMBNAIL_PX), np.arange(len(values)), values)
    heights = (heights - heights.min()) / max(float(np.ptp(heights)), 1e-9) * (height - 8)
    filled = np.arange(height)[::-1, None] < heights[None, :]
    return np.where(filled, 64, 255).astype(np.uint8)
