"""Where the network found its evidence, as colour over a micrograph: for every figure that shows a map.

Only this module knows how class evidence becomes colour. Evidence is drawn from zero to its peak, or to a fixed
value where the peak is weak: nothing at or below zero is coloured, and a map without structure is given none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edge_agent.preprocessing import CamMap

FLAT_FRACTION: Final = 0.05
"""Values that differ by less than this fraction of the largest one have no structure worth a drawing."""
WEAKEST_SCALE_LOGITS: Final = 3.0
"""No colour scale in logits ends below this, lest a weak map look sure: 3 all over a field is odds of 20 to 1."""
METHOD_NAMES: Final = {"cam": "CAM", "gradcam": "Grad-CAM", "hirescam": "HiResCAM", "occlusion": "occlusion"}
# The mean of a CAM or HiResCAM is the class's logit. Grad-CAM averages the derivatives over the places first: what
# speaks for a class here and against it there cancels, so a small value is no weak evidence, and has no unit.
UNITS: Final = {"cam": "logits", "hirescam": "logits", "occlusion": "log-odds lost"}
CONTOUR_LEVEL: Final = 0.5
CONTOUR_PX: Final = 1.6
FULL_COLOUR_FROM: Final = 0.4
"""Fraction of the scale from which the colours stand at their full opacity."""
OPACITY: Final = 0.7

# Violet over red to yellow, ever lighter, in steps that look equal (17 points at equal distances on a cubic
# Bezier curve in Oklab, Ottosson 2020). Lightness alone orders the colours: they read the same to the
# colour-blind and in a grey print.
COLOUR_POINTS: Final = (
    "3d1c93 531e93 682292 7b288f 8e308b a03a86 b04580 be517a cb5e73 "
    "d76c6c e17b65 ea8b5e f19b57 f7ac52 fbbd4f fdcf51 fee157"
)
CONTOUR_COLOUR: Final = (253, 207, 81)


@dataclass(frozen=True, slots=True)
class Evidence:
    """`values` 0..1 over a panel, relative to `scale`; None with the reason where there is nothing to draw."""

    values: NDArray[np.float32] | None
    scale: float
    absence: str = ""


def method_in_words(method: str) -> str:
    """How a map was made and what its values are: "CAM, logits"."""
    name = METHOD_NAMES.get(method, method)
    return f"{name}, {UNITS[method]}" if method in UNITS else name


def colour_scale(maps: Sequence[CamMap]) -> float:
    """Evidence at which the colours end, for maps of one method that are shown together."""
    peak = max(float(_finite(cam).max()) for cam in maps)
    return max(peak, WEAKEST_SCALE_LOGITS) if UNITS.get(maps[0].method) == "logits" else peak


def spread_evidence(
    cam: CamMap, field_shape: tuple[int, int], panel_shape: tuple[int, int], *, scale: float | None = None
) -> Evidence:
    """Spread the positive part of the map smoothly over the panel, as a fraction of the colour scale.

    Shapes are (rows, columns) of the whole micrograph and of the panel that shows it. `scale` is the end of the
    colours where maps are to be compared; by default it is the map's own.
    """
    values = _finite(cam)
    peak = float(values.max())
    if peak - float(values.min()) <= FLAT_FRACTION * float(np.abs(values).max()):
        return Evidence(None, peak, f"no localised evidence for {cam.label}")
    if peak <= 0:
        return Evidence(None, peak, f"no evidence for {cam.label} anywhere")
    scale = colour_scale([cam]) if scale is None else scale
    x0, y0, x1, y1 = cam.box_px
    down = _interpolation(panel_shape[0], field_shape[0], (y0, y1), values.shape[0])
    across = _interpolation(panel_shape[1], field_shape[1], (x0, x1), values.shape[1])
    # The positive part first: a strongly negative cell would otherwise ring and fake evidence two cells away.
    spread = down @ (np.maximum(values, 0) / np.float32(scale)) @ across.T
    return Evidence(np.clip(spread, 0, 1), scale)


def _finite(cam: CamMap) -> NDArray[np.float32]:
    return np.where(np.isfinite(cam.values), cam.values, 0).astype(np.float32)


def _interpolation(count: int, length: int, span: tuple[int, int], cells: int) -> NDArray[np.float32]:
    """Give the weights [count, cells] that take cell values along one axis to `count` panel pixels.

    The panel covers `length` pixels of the micrograph, the cells cover `span` of them in equal parts, and
    their values stand at their centres. Cubic convolution (Keys 1981, a = -1/2); the outermost cells continue
    beyond their centres; pixels outside `span` get no weight.
    """
    at = (np.arange(count) + 0.5) * length / count
    position = (at - span[0]) / (span[1] - span[0]) * cells - 0.5
    first = np.floor(position).astype(np.intp)
    weights = np.zeros((count, cells), dtype=np.float32)
    for cell in (first - 1, first, first + 1, first + 2):
        np.add.at(weights, (np.arange(count), np.clip(cell, 0, cells - 1)), _cubic(np.abs(position - cell)))
    weights[(at < span[0]) | (at >= span[1])] = 0
    return weights


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


@cache
def _colours() -> NDArray[np.float32]:
    """Return the colour map, float32 [256, 3], 0..255."""
    points = np.array([list(bytes.fromhex(point)) for point in COLOUR_POINTS.split()], dtype=np.float32)
    stops = np.linspace(0, len(points) - 1, 256)
    at = np.arange(len(points))
    return np.stack([np.interp(stops, at, channel) for channel in points.T], axis=1).astype(np.float32)


@cache
def paint_table() -> NDArray[np.uint8]:
    """Tabulate the covered panel's colour, uint8 [evidence 0..255, grey 0..255, RGB].

    The colour bar is painted from the same table, so it shows the colours that the panel has. The micrograph
    is darkened below the colours, which on a bright film would otherwise have no order of lightness.
    """
    evidence = np.linspace(0, 1, 256, dtype=np.float32)[:, None, None]
    opacity = OPACITY * np.minimum(evidence / FULL_COLOUR_FROM, 1)
    below = 12 + 0.55 * np.arange(256, dtype=np.float32)[None, :, None]
    painted = below * (1 - opacity) + _colours()[:, None, :] * opacity
    return np.asarray(np.rint(painted), dtype=np.uint8)


def paint_panels(
    grey: NDArray[np.float32], evidence: Evidence
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint the plain panel with the evidence's outline, and the covered one, as uint8 [rows, columns, RGB].

    `grey` (0..1) has the panel's shape.
    """
    shades = np.rint(grey * 255).astype(np.uint8)
    plain = np.repeat(shades[:, :, None], 3, axis=2)
    if evidence.values is None:
        return plain, plain
    steps = np.rint(evidence.values * 255).astype(np.intp)
    covered = paint_table().reshape(-1, 3).take(steps * 256 + shades, axis=0)
    return _with_contour(plain, evidence.values), covered


def _with_contour(panel: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw the line of half the scale: a bright core in a dark rim, to stand out from any grey."""
    if min(values.shape) < 2:
        return panel
    slope_y, slope_x = np.gradient(values)
    distance = np.abs(values - CONTOUR_LEVEL) / np.maximum(np.hypot(slope_y, slope_x), np.float32(1e-6))
    near = np.nonzero(distance < CONTOUR_PX / 2 + 1.5)
    beyond = distance[near][:, None] - CONTOUR_PX / 2
    rimmed = panel[near] * (1 - 0.6 * np.clip(1.5 - beyond, 0, 1))
    core = np.clip(0.5 - beyond, 0, 1)
    panel[near] = np.rint(rimmed * (1 - core) + np.array(CONTOUR_COLOUR) * core).astype(np.uint8)
    return panel
