"""Whether a class activation map points at what a person masked.

Only this module knows how masks are found beside micrographs and how a map's cells are held against their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from trainer.scoring.intervals import middle_95, resampled_sums, share_interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.preprocessing import CamMap


class MaskError(Exception):
    """A mask cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where a map points, against a mask of what should matter."""

    hit: bool
    """The peak's cell holds a masked pixel, i.e. the peak lies on the mask dilated by half a cell."""
    chance: float
    """Share of cells that would be hits."""
    energy: float
    """Share of the positive evidence, spread evenly over its cells, that falls on masked pixels."""
    particle_share: float
    """Share of masked pixels: the energy of a flat map."""
    finest_energy: float = 1.0
    """Energy of a map whose cells hold exactly their share of masked pixels: what an ideal map of this grid has."""


def mask_of(source: str, masks: Path | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Read the instance mask of a micrograph (its path below the raw folder), None where there is none.

    Raises:
        MaskError: the picture cannot be read, or is not of the micrograph's `shape`.

    """
    if masks is None:
        return None
    relative = PurePosixPath(source).with_suffix(".png")
    file = next((masks / name for name in (relative, relative.name) if (masks / name).is_file()), None)
    if file is None:
        return None
    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except OSError as error:
        raise MaskError(f"{file}: the mask cannot be read ({error}); repair or remove it") from error
    if values.shape != shape:
        raise MaskError(
            f"{file}: the mask has shape {values.shape}, the micrograph {source} has {shape}; "
            "a mask is one grey picture of the micrograph's size"
        )
    return np.asarray(values > 0)


def pointing(cam: CamMap, mask: NDArray[np.bool_]) -> Pointing:
    """The pointing game (Zhang et al., ECCV 2016) and the share of evidence on the mask."""
    cells = _cell_shares(cam, mask)
    peak = np.unravel_index(int(cam.values.argmax()), cam.values.shape)
    positive = np.maximum(cam.values, 0)
    total = float(positive.sum())
    energy = float((positive * cells).sum() / total) if total > 0 else float(cells.mean())
    finest = float((cells**2).sum() / cells.sum()) if cells.any() else 0.0
    return Pointing(bool(cells[peak] > 0), float((cells > 0).mean()), energy, float(cells.mean()), finest)


class PointingFigures(BaseModel):
    """A method's maps against masks, over micrographs that have one and were answered rightly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    micrographs: int
    peak_on_particle: float
    peak_interval: tuple[float, float]
    """95 % (Wilson), each micrograph by itself."""
    chance: float
    """Peaks that would lie on a particle if they lay anywhere."""
    energy_on_particles: float
    particle_share: float
    energy_over_share: float
    """Energy on particles over the area they cover, both means over the micrographs; 1 is a flat map."""
    energy_over_share_interval: tuple[float, float] | None
    """95 %, drawn by group; None where there is one group only."""
    finest: float
    """The same of ideal maps of these grids, whose cells hold their share of particle."""
    highest: float
    """The same of maps with all their energy on particles: one over the area they cover."""


def pointing_figures(seen: Sequence[Pointing], groups: Sequence[str], seed: int) -> PointingFigures | None:
    """Sum up a method's maps; None where there is none to sum up, or no particle on any mask."""
    share = np.array([one.particle_share for one in seen])
    if not share.any():
        return None
    energy = np.array([one.energy for one in seen])
    finest = np.array([one.finest_energy for one in seen])
    hits = sum(one.hit for one in seen)
    sums = resampled_sums(np.stack([energy, share], axis=1), groups, seed)
    return PointingFigures(
        micrographs=len(seen),
        peak_on_particle=round(hits / len(seen), 4),
        peak_interval=share_interval(hits, len(seen)),
        chance=round(float(np.mean([one.chance for one in seen])), 4),
        energy_on_particles=round(float(energy.mean()), 4),
        particle_share=round(float(share.mean()), 4),
        energy_over_share=round(float(energy.sum() / share.sum()), 4),
        energy_over_share_interval=None if sums is None else middle_95(sums[:, 0] / sums[:, 1]),
        finest=round(float(finest.sum() / share.sum()), 4),
        highest=round(float(len(seen) / share.sum()), 4),
    )


def _cell_shares(cam: CamMap, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of masked pixels in each cell of the map."""
    x0, y0, x1, y1 = cam.box_px
    part = mask[y0:y1, x0:x1]
    rows, columns = cam.values.shape
    down, across = _spans(part.shape[0], rows), _spans(part.shape[1], columns)
    return np.array([[part[down_one, across_one].mean() for across_one in across] for down_one in down])


def _spans(length: int, cells: int) -> list[slice]:
    """Divide an axis into cells of at least a pixel each (a small picture may have more cells than pixels)."""
    edges = np.linspace(0, length, cells + 1).round().astype(int)
    starts = np.minimum(edges[:-1], length - 1)
    return [
        slice(int(start), max(int(start) + 1, int(end))) for start, end in zip(starts, edges[1:], strict=True)
    ]
