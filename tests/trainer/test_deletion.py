"""Deletion and insertion: a map that knows the answer's cell does well, its opposite badly, whatever the view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.preprocessing import CamMap, Preprocessing, Tiles, cut_tiles
from trainer.scoring.deletion import (
    STEPS,
    areas,
    blur,
    curve_figures,
    deletion_and_insertion,
    mean_interval,
    subject_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.preprocessing import View

SIDE_PX = 80
CELLS = 4


def checks(shape: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> np.ndarray:
    """A chessboard of single pixels: intact it is all contrast, blurred it has none."""
    return (np.indices(shape).sum(axis=0) % 2 * 200 + 20).astype(np.uint8)


def tiles_of(view: View = "identity", divisions: int = 1) -> Tiles:
    rule = Preprocessing.model_validate(
        {"input_px": SIDE_PX // divisions, "views": [view], "tiles": {"divisions": divisions}}
    )
    return cut_tiles(checks(), None, rule)


def intact(tile_at: int, rows: slice, columns: slice) -> Callable[[Tiles], float]:
    """A network that answers with the contrast that is left in one place of one input."""

    def probability(tiles: Tiles) -> float:
        return float(np.abs(tiles.tiles[tile_at].values[0, rows, columns]).mean())

    return probability


def cam_of(cell: tuple[int, int], sign: float = 1.0) -> CamMap:
    values = np.zeros((CELLS, CELLS), dtype=np.float32)
    values[cell] = sign
    return CamMap("rod", "cam", (0, 0, SIDE_PX, SIDE_PX), values, "")


FIRST, LAST = slice(0, 20), slice(60, 80)


@pytest.mark.parametrize(
    ("view", "cell", "rows", "columns"),
    [
        pytest.param("identity", (0, 3), FIRST, LAST, id="as it is"),
        pytest.param("flip_x", (0, 3), FIRST, FIRST, id="left for right"),
        pytest.param("flip_y", (0, 3), LAST, LAST, id="upside down"),
        pytest.param("rot180", (0, 3), LAST, FIRST, id="turned"),
    ],
)
def test_the_cell_that_the_map_names_goes_first(
    view: View, cell: tuple[int, int], rows: slice, columns: slice
) -> None:
    subject = subject_of(tiles_of(view), intact(0, rows, columns))
    assert subject.whole > 0.9
    assert subject.blank < 0.1
    deleted, inserted = deletion_and_insertion(subject, cam_of(cell), np.random.default_rng(0))
    one_cell = -(-STEPS // CELLS**2)
    assert len(deleted) == len(inserted) == STEPS + 1
    assert deleted[0] > 0.9
    assert deleted[one_cell:] == pytest.approx(deleted[-1], abs=1e-6), "gone at the first cell"
    assert inserted[0] < 0.1
    assert inserted[one_cell:] == pytest.approx(inserted[-1], abs=1e-6), "there at the first cell"
    late, back = deletion_and_insertion(subject, cam_of(cell, -1.0), np.random.default_rng(0))
    assert late[:-2] == pytest.approx(late[0], abs=1e-6), "the worst map keeps it to the end"
    assert back[:-2] == pytest.approx(back[0], abs=1e-6)


def test_a_map_of_the_field_is_laid_over_each_of_its_tiles() -> None:
    subject = subject_of(tiles_of(divisions=2), intact(3, slice(20, 40), slice(20, 40)))
    deleted, _ = deletion_and_insertion(subject, cam_of((3, 3)), np.random.default_rng(0))
    assert deleted[0] > 0.9
    assert deleted[2:] == pytest.approx(deleted[-1], abs=1e-6)


def test_equal_cells_go_in_an_order_drawn_by_the_seed() -> None:
    subject = subject_of(tiles_of(), intact(0, FIRST, FIRST))
    flat = CamMap("rod", "cam", (0, 0, SIDE_PX, SIDE_PX), np.ones((CELLS, CELLS), np.float32), "")
    falls = [
        tuple(deletion_and_insertion(subject, flat, np.random.default_rng(seed))[0].round(6))
        for seed in (0, 0, 1, 2, 3)
    ]
    assert falls[0] == falls[1]
    assert len(set(falls)) > 1


def test_blurring_takes_texture_and_keeps_what_is_even() -> None:
    textured = checks((64, 96)).astype(np.float32)[None]
    assert np.ptp(blur(textured)) < 0.02 * np.ptp(textured)
    assert blur(textured).mean() == pytest.approx(textured.mean(), rel=1e-3)
    even = np.full((1, 30, 50), 0.25, dtype=np.float32)
    assert blur(even) == pytest.approx(even, abs=1e-6)


@pytest.mark.parametrize(
    ("curve", "area"),
    [
        pytest.param(np.ones(STEPS + 1), 1.0, id="nothing lost"),
        pytest.param(np.linspace(1, 0, STEPS + 1), 0.5, id="evenly"),
        pytest.param(np.eye(STEPS + 1)[0], 0.5 / STEPS, id="at once"),
    ],
)
def test_the_area_is_the_trapezoidal_one(curve: np.ndarray, area: float) -> None:
    assert areas(curve[None]) == pytest.approx([area])


def test_figures_stand_beside_maps_that_know_nothing_on_the_same_micrographs() -> None:
    levels = np.linspace(0.2, 0.8, 8)[:, None]
    random = np.repeat(levels, STEPS + 1, axis=1)
    groups = [f"g{at // 2}" for at in range(8)]
    seen = curve_figures(random - 0.1, {"random": random, "centre": random - 0.3}, groups, 0)
    assert seen.area == pytest.approx(0.4)
    assert seen.beyond["random"].mean == pytest.approx(-0.1)
    assert seen.beyond["random"].interval == pytest.approx((-0.1, -0.1)), "the same on every micrograph"
    assert seen.beyond["centre"].mean == pytest.approx(0.2)
    assert seen.interval is not None
    assert seen.interval[0] < 0.4 < seen.interval[1], "though the micrographs differ"
    assert len(seen.mean) == STEPS + 1
    assert mean_interval(levels[:, 0], ["one"] * 8, 0) is None
