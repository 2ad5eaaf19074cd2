"""The pictures that no bundle should answer are what their names say, and differ from draw to draw."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.preprocessing import Preprocessing, describe_field
from edge_agent.simulated_strangers import STRANGERS, draw_stranger, moved

SIDE = 256


@pytest.mark.parametrize("kind", STRANGERS)
def test_one_state_one_picture(kind: str) -> None:
    first, again, other = (draw_stranger(kind, np.random.default_rng(seed), SIDE) for seed in (3, 3, 4))
    assert first.shape == (SIDE, SIDE)
    assert first.dtype == np.uint16
    assert np.array_equal(first, again)
    assert kind == "blank" or not np.array_equal(first, other)


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("seed", [11, 12])
def test_only_a_blank_is_blank_and_only_a_saturated_one_saturated(kind: str, seed: int) -> None:
    field = describe_field(draw_stranger(kind, np.random.default_rng(seed), SIDE), Preprocessing())
    assert field.blank == (kind == "blank")
    if not field.blank:
        assert (field.saturated_fraction > 0.25) == (kind == "saturated")


def test_motion_spreads_a_point_over_its_path() -> None:
    point = np.zeros((64, 64), np.float32)
    point[32, 32] = 1000
    found = moved(point, np.stack([np.zeros(200), np.linspace(0, 10, 200)], axis=1))
    assert found.sum() == pytest.approx(1000, rel=1e-4)
    assert found[32, 28:37].min() > 80
    assert found[30].max() < 1e-2


@pytest.mark.parametrize(
    ("kind", "side", "message"),
    [("ghost", 128, "cannot draw 'ghost': choose one of blank"), ("blank", 32, "use 64 or more")],
    ids=["no such kind", "too small"],
)
def test_what_cannot_be_drawn(kind: str, side: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_stranger(kind, np.random.default_rng(0), side)
