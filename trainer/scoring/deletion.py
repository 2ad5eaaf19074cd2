"""Deletion and insertion: whether an answer hangs on the cells that its map ranks highest.

After Petsiuk, Das and Saenko (RISE, BMVC 2018). Deletion takes the cells of a map away in falling order, insertion
starts from a field without any and gives them back in the same order; both follow the probability of the answered
class. Only this module knows what a cell is replaced by: the same field, blurred so far (Gaussian, standard
deviation a fourteenth of the input's side) that outlines and texture are gone while grey level and shading stay. A
black or grey patch instead would have corners of its own, which a network that knows shapes answers to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.scoring.intervals import middle_95, resampled_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edge_agent.preprocessing import CamMap, Tile, Tiles

    Probability = Callable[[Tiles], float]

STEPS: Final = 20
BLUR_SHARE: Final = 1 / 14
SUBSTITUTE: Final = (
    "the field itself, blurred by a Gaussian with a standard deviation of a fourteenth of the input's side: "
    "outlines and texture are gone, grey level and shading stay, and no flat patch with corners of its own, "
    "to which a network that knows shapes might answer, is put into the picture"
)


class Difference(BaseModel):
    """Mean of the differences of areas, micrograph by micrograph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    interval: tuple[float, float] | None
    """95 %, drawn by group; None where there is one group only."""


class Curve(BaseModel):
    """Mean probability of the answer against the share of cells replaced (deletion) or given back (insertion)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    """At 0, 1/20, 2/20 ... 1 of the cells."""
    area: float
    """Below the curve, mean over micrographs: low is good for deletion, high for insertion."""
    interval: tuple[float, float] | None
    """95 %, drawn by group; None where there is one group only."""
    beyond: dict[str, Difference]
    """Area less that of a map that knows nothing, on the same micrographs, by the name of that map."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The inputs of one micrograph, and what the network says of them whole and all blurred."""

    tiles: Tiles
    blurred: tuple[NDArray[np.float32], ...]
    probability: Probability
    """Of the answered class, for inputs in the place of those of the tiles."""
    whole: float
    blank: float


def subject_of(tiles: Tiles, probability: Probability) -> Subject:
    """Blur the inputs of a micrograph; `probability` is asked twice."""
    blurred = tuple(blur(tile.values) for tile in tiles.tiles)
    blank = probability(with_values(tiles, blurred))
    return Subject(tiles, blurred, probability, probability(tiles), blank)


def with_values(tiles: Tiles, values: Sequence[NDArray[np.float32]]) -> Tiles:
    """The same boxes and views with other inputs."""
    pairs = zip(tiles.tiles, values, strict=True)
    return replace(tiles, tiles=tuple(replace(tile, values=new) for tile, new in pairs))


def blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur an input [1, rows, columns]; at the border the kernel is cut and normalised."""
    rows, columns = values.shape[1:]
    width = BLUR_SHARE * float(np.sqrt(rows * columns))
    return np.ascontiguousarray(_kernel(rows, width) @ values[0] @ _kernel(columns, width).T)[None]


def _kernel(length: int, width: float) -> NDArray[np.float32]:
    at = np.arange(length)
    weights = np.exp(-0.5 * ((at[:, None] - at[None, :]) / width) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def deletion_and_insertion(
    subject: Subject, cam: CamMap, draw: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The probabilities [steps + 1] as the map's cells go, and as they come back; equal cells in random order."""
    rank = _falling_rank(cam.values, draw)
    of_pixels = [rank[_cells(tile, cam)] for tile in subject.tiles.tiles]
    deleted, inserted = [subject.whole], [subject.blank]
    for step in range(1, STEPS):
        count = round(step * rank.size / STEPS)
        first = [ranks < count for ranks in of_pixels]
        deleted.append(subject.probability(_mixed(subject, [~one for one in first])))
        inserted.append(subject.probability(_mixed(subject, first)))
    return np.array([*deleted, subject.blank]), np.array([*inserted, subject.whole])


def _falling_rank(values: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.intp]:
    """Place of each cell, counted in reading order, when the highest comes first."""
    flat = values.ravel()
    order = np.lexsort((draw.permutation(flat.size), -flat))
    rank = np.empty(flat.size, dtype=np.intp)
    rank[order] = np.arange(flat.size)
    return rank


def _cells(tile: Tile, cam: CamMap) -> NDArray[np.intp]:
    """Which cell of the map each pixel [rows, columns] of an input lies in."""
    rows, columns = tile.values.shape[1:]
    x0, y0, x1, y1 = tile.box_px
    left, top, right, bottom = cam.box_px
    down = _axis(rows, (y0, y1), (top, bottom), cam.values.shape[0])
    across = _axis(columns, (x0, x1), (left, right), cam.values.shape[1])
    down = down[::-1] if tile.view in ("flip_y", "rot180") else down
    across = across[::-1] if tile.view in ("flip_x", "rot180") else across
    return np.asarray(down[:, None] * cam.values.shape[1] + across[None, :], dtype=np.intp)


def _axis(count: int, span: tuple[int, int], covered: tuple[int, int], cells: int) -> NDArray[np.intp]:
    at = span[0] + (np.arange(count) + 0.5) / count * (span[1] - span[0])
    place = (at - covered[0]) / (covered[1] - covered[0]) * cells
    return np.clip(place, 0, cells - 1).astype(np.intp)


def _mixed(subject: Subject, kept: Sequence[NDArray[np.bool_]]) -> Tiles:
    each = zip(subject.tiles.tiles, subject.blurred, kept, strict=True)
    return with_values(subject.tiles, [np.where(here, tile.values, soft) for tile, soft, here in each])


def areas(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area below each curve [micrographs, steps + 1], by the trapezoidal rule."""
    return np.asarray((curves[:, :-1] + curves[:, 1:]).mean(axis=1) / 2)


def curve_figures(
    curves: NDArray[np.float64],
    baselines: Mapping[str, NDArray[np.float64]],
    groups: Sequence[str],
    seed: int,
) -> Curve:
    """Sum up the curves [micrographs, steps + 1] of a method beside those of maps that know nothing."""
    area = areas(curves)
    apart = {name: area - areas(other) for name, other in baselines.items()}
    return Curve(
        mean=tuple(round(float(value), 4) for value in curves.mean(axis=0)),
        area=round(float(area.mean()), 4),
        interval=mean_interval(area, groups, seed),
        beyond={
            name: Difference(mean=round(float(each.mean()), 4), interval=mean_interval(each, groups, seed))
            for name, each in apart.items()
        },
    )


def mean_interval(
    values: NDArray[np.float64], groups: Sequence[str], seed: int
) -> tuple[float, float] | None:
    """95 % interval of a mean over micrographs, drawn by group; None where there is one group only."""
    sums = resampled_sums(np.stack([values, np.ones_like(values)], axis=1), groups, seed)
    return None if sums is None else middle_95(sums[:, 0] / sums[:, 1])
