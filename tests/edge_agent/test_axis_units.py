"""How units are understood, in every spelling that was seen."""

from __future__ import annotations

import math

import pytest

from edge_agent.axis_units import Quantity, nm_per_pixel, quantity_of


@pytest.mark.parametrize(
    ("unit", "expected_nm"),
    [
        ("nm", 2.0), ("NM", 2.0), (" nm ", 2.0), ("pm", 0.002), ("A", 0.2), ("Å", 0.2), ("\u212b", 0.2),
        ("angstrom", 0.2), ("um", 2e3), ("µm", 2e3), ("\u03bcm", 2e3), ("µ", 2e3), ("micron", 2e3),
        ("m", 2e9),
        ("mm", 2e6), ("", None), ("px", None), ("1/nm", None), ("eV", None), ("µn", None),
    ],
)  # fmt: skip
def test_pixel_size_in_nm(unit, expected_nm):
    size = nm_per_pixel(2.0, unit)
    assert size == (None if expected_nm is None else pytest.approx(expected_nm, rel=1e-12))


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, math.nan, math.inf, -math.inf, 1e308])
def test_a_scale_that_is_none_is_not_invented(scale):
    assert nm_per_pixel(scale, "m") is None


@pytest.mark.parametrize(
    ("unit", "quantity"),
    [
        ("nm", Quantity.LENGTH), ("Å", Quantity.LENGTH), ("1/nm", Quantity.RECIPROCAL),
        ("1 / nm", Quantity.RECIPROCAL),
        ("nm^-1", Quantity.RECIPROCAL), ("nm-1", Quantity.RECIPROCAL), ("nm⁻¹", Quantity.RECIPROCAL),
        ("1/A", Quantity.RECIPROCAL), ("1/Å", Quantity.RECIPROCAL), ("1/µm", Quantity.RECIPROCAL),
        ("(1/nm)", Quantity.RECIPROCAL), ("mrad", Quantity.RECIPROCAL), ("rad", Quantity.RECIPROCAL),
        ("eV", Quantity.ENERGY), ("keV", Quantity.ENERGY), ("1/cm", Quantity.ENERGY), ("s", Quantity.TIME),
        ("ms", Quantity.TIME), ("", Quantity.UNKNOWN), ("px", Quantity.UNKNOWN), ("deg", Quantity.UNKNOWN),
        ("1/", Quantity.UNKNOWN), ("-1", Quantity.UNKNOWN),
    ],
)  # fmt: skip
def test_what_an_axis_measures(unit, quantity):
    assert quantity_of(unit) is quantity
