"""Which listed pixel size is meant by what a file says of its magnification."""

from __future__ import annotations

import pytest

from edge_agent.config import InstrumentConfig
from edge_agent.instrument_profile import InstrumentProfile

PROFILE = InstrumentProfile(pixel_size_nm=((40_000.0, 0.25), (50_000.0, 0.2), (1.2e6, 0.008)))


@pytest.mark.parametrize(
    ("magnification", "size_nm"),
    [
        pytest.param(40_000.0, 0.25, id="as listed"),
        pytest.param(40_000, 0.25, id="a whole number"),
        pytest.param(39_999.998, 0.25, id="single precision"),
        pytest.param(1.2 * 1e6, 0.008, id="computed from 1.20 MX"),
        pytest.param(1_199_999.9999, 0.008, id="rounded down"),
        pytest.param(40_100.0, None, id="another step"),
        pytest.param(45_000.0, None, id="between two"),
        pytest.param(None, None, id="unknown"),
        pytest.param(float("nan"), None, id="no number"),
        pytest.param(float("inf"), None, id="without end"),
    ],
)
def test_a_magnification_is_recognised_however_it_is_written(magnification, size_nm):
    assert PROFILE.pixel_size_at(magnification) == size_nm


def test_the_configuration_gives_the_profile():
    config = InstrumentConfig(name="Titan", pixel_size_nm={"4e4": 0.25, "50000.0": 1})

    assert config.profile() == InstrumentProfile("Titan", None, None, ((40_000.0, 0.25), (50_000.0, 1.0)))
    assert InstrumentConfig().profile() == InstrumentProfile()


@pytest.mark.parametrize(
    ("profile", "says_nothing"),
    [(InstrumentProfile(), True), (PROFILE, True), (InstrumentProfile(camera="OneView"), False)],
    ids=["nothing", "pixel sizes", "a camera"],
)
def test_only_names_are_noted(profile, says_nothing):
    assert profile.says_nothing is says_nothing
