"""What an axis measures, read from the unit that an instrument wrote beside it.

Only this module knows the spellings that DigitalMicrograph, ImageJ and people use for units.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final


class Quantity(Enum):
    """What an axis measures. `UNKNOWN` covers no unit, pixels, channels and anything not recognised."""

    LENGTH = "length"
    RECIPROCAL = "reciprocal length or scattering angle"
    ENERGY = "energy"
    TIME = "time"
    UNKNOWN = "unknown"


_NM_PER_UNIT: Final = {
    "pm": 1e-3, "a": 0.1, "å": 0.1, "angstrom": 0.1, "angstroms": 0.1, "ångström": 0.1,
    "nm": 1.0, "nanometer": 1.0, "nanometers": 1.0,
    # "µ" alone is what some programs other than DigitalMicrograph write for micrometres.
    "µ": 1e3, "µm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3, "micrometers": 1e3,
    "mm": 1e6, "cm": 1e7, "m": 1e9,
}  # fmt: skip
_SMALLEST_NM, _LARGEST_NM = 1e-6, 1e12
_ENERGY: Final = frozenset({"mev", "ev", "kev", "cm-1", "1/cm", "cm^-1", "hz"})
_TIME: Final = frozenset({"ns", "µs", "us", "ms", "s", "sec", "seconds", "min", "h"})
_ANGLE: Final = frozenset({"rad", "mrad", "µrad", "urad"})


def nm_per_pixel(scale: float | None, unit: str) -> float | None:
    """Return an axis' pixel size in nm, or None unless the unit is a length and the scale is usable.

    A scale of zero, below zero, not finite, or beyond what any microscope has means that the axis was never
    calibrated.
    """
    factor = _NM_PER_UNIT.get(_plain(unit))
    if factor is None or scale is None:
        return None
    size_nm = scale * factor
    return size_nm if math.isfinite(size_nm) and _SMALLEST_NM <= size_nm <= _LARGEST_NM else None


def quantity_of(unit: str) -> Quantity:
    """Say what an axis with this unit measures."""
    plain = _plain(unit)
    if plain in _NM_PER_UNIT:
        return Quantity.LENGTH
    if plain in _ENERGY:
        return Quantity.ENERGY
    if plain in _TIME:
        return Quantity.TIME
    if plain in _ANGLE or _inverse_of(plain) in _NM_PER_UNIT:
        return Quantity.RECIPROCAL
    return Quantity.UNKNOWN


def _plain(unit: str) -> str:
    # U+03BC (Greek mu) and U+00B5 (micro sign), U+212B (angstrom sign) and U+00C5 look alike and both occur.
    text = unit.strip().strip("()[]").replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5")
    return "".join(text.lower().split())


def _inverse_of(plain: str) -> str:
    if plain.startswith(("1/", "/")):
        return plain.removeprefix("1").removeprefix("/")
    for ending in ("^-1", "^(-1)", "-1", "⁻¹"):
        if plain.endswith(ending):
            return plain.removesuffix(ending)
    return ""
