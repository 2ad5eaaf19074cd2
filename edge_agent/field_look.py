"""How a field looks, whatever it shows: sharp or blurred, smeared along one direction, like a diffraction pattern.

Measured on what the network is shown, so that files of any pixel count get about the same figures, and at next to
no cost. Nothing here decides: limits are the bundle's (`model_bundle.Guards`), reasons are `decision`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.preprocessing import Tiles

Polarity = Literal["bright on dark", "dark on bright"]
CLEAR_SKEWNESS: Final = 0.5
"""Below it, bright and dark are too even for a word on polarity."""
SMALLEST_PX: Final = 64


@dataclass(frozen=True, slots=True)
class Look:
    """What was measured of a field; every figure is finite."""

    sharpness: float
    streaks: float
    diffraction: float
    contrast: float
    """Standard deviation of the grey values (0 to 1) between the contrast limits."""
    skewness: float
    """Of the grey values: positive where few bright parts stand on a dark ground."""


def polarity_of(look: Look) -> Polarity | None:
    """What stands on what; None where neither bright nor dark is clearly the rarer."""
    if abs(look.skewness) < CLEAR_SKEWNESS:
        return None
    return "bright on dark" if look.skewness > 0 else "dark on bright"


def look_at(tiles: Tiles, value_range: tuple[float, float]) -> Look | None:
    """Measure a field from its network inputs; None where they are too small to tell anything.

    Several boxes are measured one by one, and the median of each figure is taken.
    """
    low, high = value_range
    seen: dict[tuple[int, int, int, int], NDArray[np.float32]] = {}
    for tile in tiles.tiles:
        seen.setdefault(tile.box_px, tile.values[0])
    found = [_measured((values - low) / np.float32(high - low)) for values in seen.values()]
    if min(min(values.shape) for values in seen.values()) < SMALLEST_PX:
        return None
    return Look(*(float(np.median(figures)) for figures in zip(*found, strict=True)))


def _measured(grey: NDArray[np.float32]) -> tuple[float, float, float, float, float]:
    deviation = float(grey.std())
    skewness = float(((grey - grey.mean()) ** 3).mean()) / deviation**3 if deviation > 1e-6 else 0.0
    return 1.0, 1.0, 0.0, deviation, skewness
