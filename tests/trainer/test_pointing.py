"""Where a map points, against a mask: the peak, the evidence, and what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edge_agent.preprocessing import CamMap
from trainer.scoring.pointing import MaskError, Pointing, mask_of, pointing, pointing_figures

if TYPE_CHECKING:
    from pathlib import Path


def cam(values: list[list[float]], box: tuple[int, int, int, int]) -> CamMap:
    return CamMap("rod", "cam", box, np.array(values, dtype=np.float32), "mean_where_overlapping")


QUARTER = np.zeros((40, 60), dtype=bool)
QUARTER[:20, :30] = True


@pytest.mark.parametrize(
    ("values", "hit", "energy"),
    [
        pytest.param([[9, 1], [1, 1]], True, 0.75, id="on it"),
        pytest.param([[1, 9], [1, 1]], False, 1 / 12, id="beside it"),
        pytest.param([[-1, -2], [-3, -4]], True, 0.25, id="nothing positive: a flat map"),
        pytest.param([[4, -9], [-9, -9]], True, 1.0, id="negative evidence does not count"),
    ],
)
def test_the_peak_and_the_share_of_evidence(values: list[list[float]], hit: bool, energy: float) -> None:
    seen = pointing(cam(values, (0, 0, 60, 40)), QUARTER)
    assert (seen.hit, seen.chance, seen.particle_share) == (hit, 0.25, 0.25)
    assert seen.energy == pytest.approx(energy)


def test_the_peak_may_lie_half_a_cell_off() -> None:
    touched = np.zeros((40, 60), dtype=bool)
    touched[19, 29] = True
    seen = pointing(cam([[1, 0], [0, 0]], (0, 0, 60, 40)), touched)
    assert seen.hit
    assert seen.chance == 0.25
    assert seen.particle_share == pytest.approx(1 / 2400)


def test_a_map_of_a_box_is_held_against_that_box() -> None:
    seen = pointing(cam([[1, 0], [0, 0]], (20, 10, 40, 30)), QUARTER)
    assert (seen.hit, seen.chance, seen.particle_share) == (True, 0.25, 0.25)
    assert not pointing(cam([[1.0]], (30, 20, 60, 40)), QUARTER).hit


def test_a_map_may_have_more_cells_than_the_picture_has_pixels() -> None:
    values = np.arange(17.0).reshape(1, 17).repeat(17, axis=0).tolist()
    seen = pointing(cam(values, (0, 0, 8, 8)), np.ones((8, 8), dtype=bool))
    assert (seen.hit, seen.chance, seen.particle_share) == (True, 1.0, 1.0)
    assert seen.energy == pytest.approx(1.0)


def test_an_ideal_map_of_a_grid_holds_each_cells_share() -> None:
    """Two of four cells are masked, one of them by half: 1 and 1/2, so (1 + 1/4) of (1 + 1/2)."""
    masked = np.zeros((40, 60), dtype=bool)
    masked[:20, :45] = True
    seen = pointing(cam([[1, 0], [0, 0]], (0, 0, 60, 40)), masked)
    assert seen.finest_energy == pytest.approx(1.25 / 1.5)
    drawn = pointing(cam([[1, 0.5], [0, 0]], (0, 0, 60, 40)), masked)
    assert drawn.energy == pytest.approx(seen.finest_energy)
    assert pointing(cam([[1, 0], [0, 0]], (0, 0, 60, 40)), ~masked & masked).finest_energy == 0


def test_figures_are_means_and_their_bounds() -> None:
    seen = pointing_figures(
        [Pointing(True, 0.6, 0.9, 0.5, 0.8), Pointing(False, 0.4, 0.3, 0.25, 0.7)], ["a", "b"], 0
    )
    assert seen is not None
    assert (seen.micrographs, seen.peak_on_particle, seen.chance) == (2, 0.5, 0.5)
    assert seen.peak_interval == pytest.approx((0.0945, 0.9055), abs=1e-3)
    assert seen.energy_over_share == pytest.approx(1.2 / 0.75)
    assert seen.energy_over_share_interval == pytest.approx((1.2, 1.8)), "one group alone, or the other"
    assert seen.finest == pytest.approx(1.5 / 0.75)
    assert seen.highest == pytest.approx(2 / 0.75, abs=1e-4)


@pytest.mark.parametrize(
    "seen", [pytest.param([], id="nothing"), pytest.param([Pointing(False, 0, 0.1, 0, 0)], id="empty masks")]
)
def test_without_a_particle_there_are_no_figures(seen: list[Pointing]) -> None:
    assert pointing_figures(seen, ["a"] * len(seen), 0) is None


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "in class folders"])
def test_a_mask_is_found_by_the_name_of_its_micrograph(tmp_path: Path, nested: bool) -> None:
    file = tmp_path / ("rod/a.png" if nested else "a.png")
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(file)
    seen = mask_of("rod/a.dm3", tmp_path, (2, 3))
    assert seen is not None
    assert seen.tolist() == [[False, True, True], [True, True, True]]
    assert mask_of("rod/b.dm3", tmp_path, (2, 3)) is None
    assert mask_of("rod/a.dm3", None, (2, 3)) is None


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(
        MaskError, match=r"the mask has shape \(2, 3\), the micrograph rod/a.dm3 has \(4, 4\)"
    ):
        mask_of("rod/a.dm3", tmp_path, (4, 4))
