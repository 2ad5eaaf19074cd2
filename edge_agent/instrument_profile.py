"""What a laboratory knows of its microscope better than the files: names, and pixel sizes by magnification.

Only this module knows when a magnification is one that is listed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

SAME_MAGNIFICATION: Final = 1e-3
"""Relative: instruments write 40000, 4e4 or 39999.998 for one step; steps differ by a tenth and more."""


@dataclass(frozen=True, slots=True)
class InstrumentProfile:
    """Names that every sidecar notes, and pairs of (magnification, pixel size in nm). None is not said."""

    name: str | None = None
    microscope: str | None = None
    camera: str | None = None
    pixel_size_nm: tuple[tuple[float, float], ...] = ()

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing to be noted."""
        return (self.name, self.microscope, self.camera) == (None, None, None)

    def pixel_size_at(self, magnification: float | None) -> float | None:
        """Return the pixel size that is listed for a magnification, None where none is."""
        if magnification is None:
            return None
        for listed, size_nm in self.pixel_size_nm:
            if are_one_magnification(listed, magnification):
                return size_nm
        return None


NO_PROFILE: Final = InstrumentProfile()


def are_one_magnification(one: float, other: float) -> bool:
    """Whether two numbers are one step of the instrument, however they are written."""
    return math.isclose(one, other, rel_tol=SAME_MAGNIFICATION)
