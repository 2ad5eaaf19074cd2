"""Whether a data set of a DigitalMicrograph file is a micrograph, and if not, what it is.

Only this module knows how electron microscopes mark what they recorded. The pixels are never looked at:
the type of a pixel, the axes with their units, and a few tags decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.axis_units import Quantity, quantity_of

if TYPE_CHECKING:
    from edge_agent.dm_file import Axis, DataSet

# DigitalMicrograph's numbers for real-valued pixels. 39 and 40 are the 64-bit integers of GMS 3.
_REAL_TYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<i2"), 2: np.dtype("<f4"), 6: np.dtype("u1"), 7: np.dtype("<i4"), 9: np.dtype("i1"),
    10: np.dtype("<u2"), 11: np.dtype("<u4"), 12: np.dtype("<f8"), 39: np.dtype("<i8"), 40: np.dtype("<u8"),
}  # fmt: skip
_OTHER_TYPES: Final = {
    3: ("complex", "holds complex numbers"),
    13: ("complex", "holds complex numbers"),
    5: ("fft", "is a Fourier transform (packed complex numbers)"),
    27: ("fft", "is a Fourier transform (packed complex numbers)"),
    28: ("fft", "is a Fourier transform (packed complex numbers)"),
    8: ("rgb", "is a colour picture or map (RGB)"),
    23: ("rgb", "is a colour picture or map (RGB)"),
    14: ("mask", "is a mask of yes and no"),
}
_SPECTROSCOPY: Final = frozenset(
    {"EELS", "X-RAY", "EDS", "EDX", "XEDS", "EDXS", "WDS", "CL", "RAMAN", "AES", "XPS"}
)

# How an operator names a diffraction pattern that carries no other mark: the method, or only the camera
# length, which no image has ("D20cm").
_DIFFRACTION_NAME: Final = re.compile(
    r"(?i)(.*\b(saed|sadp|saedp|cbed|nbed|diffraction pattern)\b.*|(d|cl|l)\s*=?\s*\d+([.,]\d+)?\s*[cm]m)"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a data set is: a short name, and why it is no micrograph (None where it is one)."""

    name: str
    reason: str | None = None

    @property
    def is_micrograph(self) -> bool:
        """Whether the data set holds one micrograph, or a stack of them."""
        return self.reason is None


def kind_of(data_set: DataSet) -> Kind:
    """Return the kind of a data set, from the strongest mark to the weakest."""
    if data_set.is_thumbnail:
        return Kind("thumbnail", "is the thumbnail")
    axes = _extended_axes(data_set)
    return (
        _by_pixel_type(data_set)
        or _by_spectral_axis(data_set, axes)
        or _by_shape(axes)
        or _by_diffraction(data_set, axes)
        or _by_signal(data_set)
        or _by_dimensions(data_set, axes)
    )


def real_dtype(data_set: DataSet) -> np.dtype[Any] | None:
    """Return the number type of the pixels, or None when they are not real-valued."""
    return _REAL_TYPES.get(data_set.data_type)


def _extended_axes(data_set: DataSet) -> tuple[Axis, ...]:
    """Leave out slow axes of length one: a picture saved as a stack of one is that picture."""
    axes = data_set.axes
    while len(axes) > 2 and axes[-1].size == 1:
        axes = axes[:-1]
    return axes


def _by_pixel_type(data_set: DataSet) -> Kind | None:
    if data_set.data_type in _REAL_TYPES:
        return None
    seen = f"has pixels of DigitalMicrograph type {data_set.data_type}, which holds no picture"
    name, reason = _OTHER_TYPES.get(data_set.data_type, ("unknown", seen))
    return Kind(name, reason)


def _by_spectral_axis(data_set: DataSet, axes: tuple[Axis, ...]) -> Kind | None:
    # Cathodoluminescence has its spectral axis in nm like a picture, so the Format tag counts first.
    declared = (data_set.tags.text("Meta Data.Format") or "").lower().startswith("spectrum")
    unit = next((axis.unit for axis in axes if quantity_of(axis.unit) is Quantity.ENERGY), None)
    if not declared and unit is None:
        return None
    seen = f"an axis in {unit}" if unit else "its Format tag says so"
    if sum(axis.size > 1 for axis in axes) < 2:
        return Kind("spectrum", f"is a spectrum of {_channels(axes)} channels ({seen})")
    return Kind("spectrum_image", f"is a spectrum image of {_shape(axes)} ({seen})")


def _by_shape(axes: tuple[Axis, ...]) -> Kind | None:
    if len(axes) == 1 or min(axes[0].size, axes[1].size) == 1:
        return Kind("line_scan", f"is a line profile of {_channels(axes)} points")
    timed = next((axis.unit for axis in axes[:2] if quantity_of(axis.unit) is Quantity.TIME), None)
    if timed:
        return Kind("line_scan", f"is a profile over time (an axis in {timed})")
    return None


def _by_diffraction(data_set: DataSet, axes: tuple[Axis, ...]) -> Kind | None:
    unit = next((axis.unit for axis in axes if quantity_of(axis.unit) is Quantity.RECIPROCAL), None)
    if unit and len(axes) > 3:
        return Kind("4d_stem", f"is a 4D-STEM data set of {_shape(axes)}: a diffraction pattern a position")
    if unit:
        return Kind("diffraction", f"is a diffraction pattern or a Fourier transform (an axis in {unit})")
    if "diffraction" in (data_set.tags.text("Meta Data.Format") or "").lower():
        return Kind("diffraction", "is a diffraction pattern (its Format tag says so)")
    mode = _diffraction_mode(data_set, axes)
    if mode:
        return Kind("diffraction", f"is a diffraction pattern (recorded in mode {mode}, not scanning)")
    if _is_named_diffraction(data_set, axes):
        return Kind("diffraction", f"is a diffraction pattern (uncalibrated and named {data_set.name!r})")
    return None


def _diffraction_mode(data_set: DataSet, axes: tuple[Axis, ...]) -> str | None:
    """Return the mode that says diffraction, where the beam did not scan.

    A STEM image carries `Imaging Mode` = DIFFRACTION as well, because its detector lies in the diffraction
    plane. There the scan tells: `Operation Mode` SCANNING, or a picture from the scan generator, or (older
    FEI columns say only STEM) axes that are calibrated in lengths, which a camera's pattern never has.
    """
    tags = data_set.tags
    imaging = tags.text("Microscope Info.Imaging Mode") or ""
    operation = (tags.text("Microscope Info.Operation Mode") or "").upper()
    mode = next((text for text in (imaging, operation) if "DIFF" in text.upper()), None)
    by_scan = "DigiScan" in (tags.text("DataBar.Device Name"), tags.text("Meta Data.Signal"))
    lengths = all(quantity_of(axis.unit) is Quantity.LENGTH for axis in axes[:2])
    scanning = "SCANNING" in operation or by_scan or ("STEM" in operation and lengths)
    return None if scanning else mode


def _is_named_diffraction(data_set: DataSet, axes: tuple[Axis, ...]) -> bool:
    """Take the name's word only where there is no mode and no unit, that is no other evidence at all."""
    tags = data_set.tags
    modes = (tags.text("Microscope Info.Imaging Mode"), tags.text("Microscope Info.Operation Mode"))
    silent = modes == (None, None)
    unknown = all(quantity_of(axis.unit) is Quantity.UNKNOWN for axis in axes[:2])
    return silent and unknown and bool(_DIFFRACTION_NAME.fullmatch(data_set.name or ""))


def _by_signal(data_set: DataSet) -> Kind | None:
    signal = data_set.tags.text("Meta Data.Signal") or ""
    if signal.upper() not in _SPECTROSCOPY:
        return None
    return Kind("elemental_map", f"is an elemental or spectroscopic map (made from the {signal} signal)")


def _by_dimensions(data_set: DataSet, axes: tuple[Axis, ...]) -> Kind:
    if len(axes) == 2:
        return Kind("image")
    if len(axes) == 3:
        return Kind("stack")
    seen = f"has {len(axes)} axes ({_shape(axes)}) and nothing that says which two make a picture"
    return Kind("many_axes", seen)


def _channels(axes: tuple[Axis, ...]) -> int:
    return max(axis.size for axis in axes)


def _shape(axes: tuple[Axis, ...]) -> str:
    return " x ".join(str(axis.size) for axis in reversed(axes))
