"""Micrograph -> network input, and the way back: where a cell of the class activation map lies on the micrograph.

One implementation for trainer and agent. Only this module knows which boxes are cut, at which size the network
sees them, and how the maps of several boxes become one; how counts become grey values is `grey_scale`'s.

The aspect ratio of the specimen is kept without padding: the network is fully convolutional, so a box is given
to it as the rectangle that has the box's proportions and the area of an `input_px` x `input_px` square. Nothing
that was not on the detector enters the average pooling or the map. A network that takes one size only is shown
every box stretched to a square instead; its map covers the box all the same, with cells of the box's proportions.

Magnification is never used for scale (what it refers to differs between microscopes and exports); a fixed field
of view is cut by the calibrated pixel size only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_agent.grey_scale import Box, ContrastLimits, FieldStatistics, field_statistics, grey_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

View = Literal["identity", "flip_x", "flip_y", "rot180"]

ANISOTROPY_LIMIT: Final = 20.0

__all__ = [
    "Box",
    "CamMap",
    "ContrastLimits",
    "FieldStatistics",
    "Preprocessing",
    "Tile",
    "TilePlan",
    "Tiles",
    "View",
    "compose_cam",
    "cut_tiles",
    "describe_field",
    "grey_field",
    "input_shape",
    "plan_boxes",
]


class TilePlan(BaseModel):
    """Which boxes of a micrograph the network sees."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    divisions: int = Field(default=1, ge=1, le=8)
    """1 is the whole field, 2 the quadrants (the origin's convention), n an n x n grid without overlap."""
    field_of_view_nm: float | None = Field(default=None, gt=0)
    """Side of square boxes in nm, spread evenly over the field; takes the place of `divisions`."""
    most_per_axis: int = Field(default=4, ge=1, le=8)
    """With a fixed field of view: at most this many boxes along one axis, however large the field."""


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] >= values[1]:
        raise ValueError(f"the range {values[0]} to {values[1]} is empty")
    return values


class Preprocessing(BaseModel):
    """How a micrograph becomes network input; part of a bundle's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clipped_fraction: float = Field(default=0.0002, ge=0, le=0.05)
    """Fraction of all pixels of the micrograph clipped at each end of the grey scale, after hot pixels."""
    tiles: TilePlan = TilePlan()
    input_px: int = Field(default=448, ge=16, le=2048)
    """Side of the square whose area a network input has."""
    proportions: Literal["specimen", "square"] = "specimen"
    """`square` stretches every box to exactly `input_px` x `input_px`: a network with dense layers on a flattened
    map takes one size only, and was trained on stretched pictures."""
    longest_px: int = Field(default=2048, ge=16, le=8192)
    """Upper limit of an input's longer side: very long strips become smaller, never distorted (not of squares)."""
    value_range: Annotated[tuple[float, float], AfterValidator(_rising)] = (-1.0, 1.0)
    """What black and white become."""
    views: tuple[View, ...] = Field(default=("identity",), min_length=1)
    """Each box is shown to the network in each of these views; the answers are averaged."""
    aggregation: Literal["mean_probability"] = "mean_probability"
    cam_composition: Literal["mean_where_overlapping"] = "mean_where_overlapping"


@dataclass(frozen=True, slots=True)
class Tile:
    """One network input. `values` is float32 [1, rows, columns] in the manifest's value range."""

    box_px: Box
    view: View
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tiles:
    """All inputs of one micrograph."""

    tiles: tuple[Tile, ...]
    field: FieldStatistics


@dataclass(frozen=True, slots=True)
class CamMap:
    """Class evidence on a regular grid over `box_px`: cell (0, 0) is the upper left one."""

    label: str
    method: str
    box_px: Box
    values: NDArray[np.float32]
    composition: str
    settings: str = ""
    """How it was made, in words, where the method alone does not say it (size and step of what was hidden)."""


def cut_tiles(pixels: NDArray[Any], pixel_size_nm: tuple[float, float] | None, rule: Preprocessing) -> Tiles:
    """Cut a micrograph (2-D, any real number type) into network inputs.

    `pixel_size_nm` is (rows, columns). Every box in every view, boxes in reading order, views innermost.
    """
    statistics = describe_field(pixels, rule)
    boxes = plan_boxes(_shape(pixels), pixel_size_nm, rule)
    missing = rule.tiles.field_of_view_nm is not None and pixel_size_nm is None
    low, high = rule.value_range
    tiles = []
    for box in boxes:
        shape = input_shape(box, pixel_size_nm, rule)
        grey = grey_field(pixels, statistics.contrast, shape, box)
        values = grey * np.float32(high - low) + np.float32(low)
        tiles += [Tile(box, view, np.ascontiguousarray(_turn(values, view))[None]) for view in rule.views]
    if missing:
        statistics = replace(statistics, scale_missing=True)
    return Tiles(tuple(tiles), statistics)


def describe_field(pixels: NDArray[Any], rule: Preprocessing) -> FieldStatistics:
    """Contrast limits, hot pixels, blankness and saturation of a whole micrograph (2-D, any real type)."""
    return field_statistics(pixels, rule.clipped_fraction)


def plan_boxes(
    shape_px: tuple[int, int], pixel_size_nm: tuple[float, float] | None, rule: Preprocessing
) -> tuple[Box, ...]:
    """The boxes that the tile plan cuts from a micrograph of this shape (rows, columns), in reading order."""
    rows, columns = shape_px
    view_nm = rule.tiles.field_of_view_nm
    if view_nm is not None and pixel_size_nm is not None:
        down = _spread(rows, view_nm / pixel_size_nm[0], rule.tiles.most_per_axis)
        across = _spread(columns, view_nm / pixel_size_nm[1], rule.tiles.most_per_axis)
    else:
        divisions = 1 if view_nm is not None else rule.tiles.divisions
        down, across = _divide(rows, divisions), _divide(columns, divisions)
    return tuple((x0, y0, x1, y1) for y0, y1 in down for x0, x1 in across)


def _divide(length: int, divisions: int) -> list[tuple[int, int]]:
    parts = min(divisions, length)
    edges = [round(index * length / parts) for index in range(parts + 1)]
    return list(pairwise(edges))


def _spread(length: int, side: float, most: int) -> list[tuple[int, int]]:
    side_px = max(1, min(length, round(side)))
    count = min(most, math.ceil(length / side_px))
    step = (length - side_px) / (count - 1) if count > 1 else 0.0
    start = 0.0 if count > 1 else (length - side_px) / 2
    return [(round(start + index * step), round(start + index * step) + side_px) for index in range(count)]


def input_shape(
    box_px: Box, pixel_size_nm: tuple[float, float] | None, rule: Preprocessing
) -> tuple[int, int]:
    """(rows, columns) at which a box is shown: the rule's proportions, the area of `input_px` squared."""
    if rule.proportions == "square":
        return rule.input_px, rule.input_px
    height, width = float(box_px[3] - box_px[1]), float(box_px[2] - box_px[0])
    if pixel_size_nm is not None:
        ratio = pixel_size_nm[0] / pixel_size_nm[1]
        if 1 / ANISOTROPY_LIMIT <= ratio <= ANISOTROPY_LIMIT:
            height *= ratio
    scale = rule.input_px / math.sqrt(height * width)
    scale = min(scale, rule.longest_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def compose_cam(
    tiles: Sequence[Tile], maps: Sequence[NDArray[np.float32]], shape_px: tuple[int, int]
) -> tuple[Box, NDArray[np.float32]]:
    """Join the maps (2-D) of all tiles: turned back from their views, averaged where boxes overlap.

    Returns the box that the joined map covers and its values. One box keeps its own grid; several are laid on a
    common grid over the whole micrograph (`shape_px` rows, columns) with cells of the finest tile's size.
    """
    by_box: dict[Box, list[NDArray[np.float32]]] = {}
    for tile, values in zip(tiles, maps, strict=True):
        by_box.setdefault(tile.box_px, []).append(_turn(values, tile.view))
    joined = {box: np.asarray(np.stack(same).mean(axis=0)) for box, same in by_box.items()}
    if len(joined) == 1:
        return next(iter(joined.items()))
    rows, columns = shape_px
    cell_y = min((box[3] - box[1]) / grid.shape[0] for box, grid in joined.items())
    cell_x = min((box[2] - box[0]) / grid.shape[1] for box, grid in joined.items())
    # Rounded up: with cells no larger than the tiles' own, no tile's cell falls between two of the grid.
    total = np.zeros((math.ceil(rows / cell_y - 1e-6), math.ceil(columns / cell_x - 1e-6)), dtype=np.float32)
    weight = np.zeros_like(total)
    for box, grid in joined.items():
        inside_y, source_y = _cells_inside(total.shape[0], rows, (box[1], box[3]), grid.shape[0])
        inside_x, source_x = _cells_inside(total.shape[1], columns, (box[0], box[2]), grid.shape[1])
        total[np.ix_(inside_y, inside_x)] += grid[np.ix_(source_y, source_x)]
        weight[np.ix_(inside_y, inside_x)] += 1
    return (0, 0, columns, rows), np.asarray(total / np.maximum(weight, 1), dtype=np.float32)


def _cells_inside(
    cells: int, length: int, span: tuple[int, int], source_cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of `cells` along an axis have their centre in `span`, and the tile's cell that lies there."""
    # A centre that lies exactly between two cells must fall to the same side everywhere, however it is rounded.
    centres = (np.arange(cells) + 0.5) * length / cells + 1e-6
    inside = np.nonzero((centres >= span[0]) & (centres < span[1]))[0]
    source = ((centres[inside] - span[0]) / (span[1] - span[0]) * source_cells).astype(np.intp)
    return inside, np.minimum(source, source_cells - 1)


def _turn(values: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """A view of a picture or a map; each view is its own inverse."""
    if view == "flip_x":
        return values[:, ::-1]
    if view == "flip_y":
        return values[::-1]
    if view == "rot180":
        return values[::-1, ::-1]
    return values


def _shape(pixels: NDArray[Any]) -> tuple[int, int]:
    return int(pixels.shape[0]), int(pixels.shape[1])
