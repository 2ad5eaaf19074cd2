"""What a data set is taken for: one table, from the strongest mark to the weakest."""

from __future__ import annotations

import io

import pytest
from dm_builder import Image, dm_bytes, thumbnail

from edge_agent.data_kind import kind_of
from edge_agent.dm_file import read_contents

X = (8, 0.5, "nm")
Y = (6, 0.5, "nm")
NONE = (8, 1.0, "")
E = (16, 0.5, "eV")
Q = (8, 0.1, "1/nm")
T = (10, 0.1, "s")
FRAMES = (5, 1.0, "")
LAMBDA = (16, 0.2, "nm")
DIFFRACTING = {"Imaging Mode": "DIFFRACTION"}


def kind(*axes, data_type=10, pixel_bytes=2, name="image", **tags):
    image = Image(
        data_type, pixel_bytes, list(axes), name=name, tags={k.replace("_", " "): v for k, v in tags.items()}
    )
    data = dm_bytes(image)
    found = kind_of(read_contents(io.BytesIO(data), len(data)).data_sets[0])
    return found.name, found.reason


def microscope(imaging, operation, **more):
    return {"Imaging Mode": imaging, "Operation Mode": operation, **more}


@pytest.mark.parametrize(
    ("axes", "tags", "expected"),
    [
        pytest.param([X, Y], {}, "image", id="calibrated"),
        pytest.param([NONE, NONE], {}, "image", id="uncalibrated"),
        pytest.param([(2, 1.0, ""), (2, 1.0, "")], {}, "image", id="tiny"),
        pytest.param([(8, 1.0, "foo"), Y], {}, "image", id="unknown unit"),
        pytest.param([X, Y, (1, 1.0, "")], {}, "image", id="a stack of one is an image"),
        pytest.param([X, Y, FRAMES], {}, "stack", id="stack by index"),
        pytest.param([X, Y, T], {}, "stack", id="stack in time"),
        pytest.param([X, Y, (5, 2.0, "deg")], {}, "stack", id="tilt series"),
        pytest.param([X, Y, (5, 2.0, "nm")], {}, "stack", id="focal series or volume"),
        pytest.param([E], {}, "spectrum", id="energy loss"),
        pytest.param([(16, 0.01, "keV")], {}, "spectrum", id="X-ray"),
        pytest.param([LAMBDA], {"Meta_Data": {"Format": "Spectrum"}}, "spectrum", id="wavelength in nm"),
        pytest.param([LAMBDA, (1, 1.0, "")], {"Meta_Data": {"Format": "Spectrum"}}, "spectrum", id="one row"),
        pytest.param([X], {}, "line_scan", id="profile"),
        pytest.param([NONE], {}, "line_scan", id="profile without unit"),
        pytest.param([(1, 0.5, "nm"), Y], {}, "line_scan", id="one pixel wide"),
        pytest.param([X, (1, 0.5, "nm")], {}, "line_scan", id="one pixel high"),
        pytest.param([X, (1, 0.5, "nm"), FRAMES], {}, "line_scan", id="profiles in a stack"),
        pytest.param([X, T], {}, "line_scan", id="profile over time"),
        pytest.param([E, X], {}, "spectrum_image", id="line spectrum image"),
        pytest.param([X, Y, E], {}, "spectrum_image", id="energy slowest"),
        pytest.param([E, X, Y], {}, "spectrum_image", id="energy fastest"),
        pytest.param([E, Q], {}, "spectrum_image", id="momentum resolved"),
        pytest.param(
            [LAMBDA, X],
            {"Meta_Data": {"Format": "Spectrum image"}},
            "spectrum_image",
            id="cathodoluminescence",
        ),
        pytest.param([X, Y], {"Meta_Data": {"Signal": "EELS"}}, "elemental_map", id="energy-loss map"),
        pytest.param([X, Y], {"Meta_Data": {"Signal": "X-ray"}}, "elemental_map", id="X-ray map"),
        pytest.param(
            [X, Y], {"Meta_Data": {"Signal": "DigiScan", "Format": "Image"}}, "image", id="scan signal"
        ),
        pytest.param([Q, Q], {}, "diffraction", id="reciprocal axes"),
        pytest.param([(8, 0.1, "mrad")] * 2, {}, "diffraction", id="scattering angle"),
        pytest.param([Q, Q, FRAMES], {}, "diffraction", id="stack of patterns"),
        pytest.param(
            [NONE] * 2, {"Meta_Data": {"Format": "Diffraction image"}}, "diffraction", id="format tag"
        ),
        pytest.param(
            [NONE] * 2, {"Microscope_Info": microscope("DIFFRACTION", "IMAGING")}, "diffraction", id="mode"
        ),
        pytest.param(
            [NONE] * 2, {"Microscope_Info": microscope("", "DIFFRACTION")}, "diffraction", id="FEI mode"
        ),
        pytest.param(
            [NONE] * 2, {"Microscope_Info": microscope("DIFF", "TEM")}, "diffraction", id="JEOL mode"
        ),
        pytest.param(
            [X, Y], {"Microscope_Info": microscope("DIFFRACTION", "SCANNING")}, "image", id="the STEM trap"
        ),
        pytest.param(
            [NONE] * 2,
            {"Microscope_Info": microscope("EFTEM DIFFRACTION", "GIF SCANNING")},
            "image",
            id="STEM with filter",
        ),
        pytest.param(
            [NONE] * 2,
            {"Microscope_Info": DIFFRACTING, "DataBar": {"Device Name": "DigiScan"}},
            "image",
            id="scan generator",
        ),
        pytest.param(
            [X, Y], {"Microscope_Info": microscope("DIFFRACTION", "STEM")}, "image", id="FEI STEM image"
        ),
        pytest.param(
            [NONE] * 2,
            {"Microscope_Info": microscope("DIFFRACTION", "STEM")},
            "diffraction",
            id="FEI STEM camera",
        ),
        pytest.param([NONE] * 2, {"name": "D20cm"}, "diffraction", id="named by camera length"),
        pytest.param([NONE] * 2, {"name": "grain 3 SAED"}, "diffraction", id="named by method"),
        pytest.param([X, Y], {"name": "D20cm"}, "image", id="a name counts less than a unit"),
        pytest.param(
            [NONE] * 2,
            {"name": "SAED", "Microscope_Info": microscope("MAG", "TEM")},
            "image",
            id="and less than a mode",
        ),
        pytest.param([NONE] * 2, {"name": "used20cm stage"}, "image", id="a name that only contains it"),
        pytest.param([X, Y, Q, Q], {}, "4d_stem", id="4D-STEM, scan fastest"),
        pytest.param([Q, Q, X, Y], {}, "4d_stem", id="4D-STEM, pattern fastest"),
        pytest.param([X, Y, FRAMES, T], {}, "many_axes", id="four axes"),
        pytest.param([X, Y], {"data_type": 14, "pixel_bytes": 1}, "mask", id="mask"),
        pytest.param([X, Y], {"data_type": 23, "pixel_bytes": 4}, "rgb", id="colour"),
        pytest.param([X, Y], {"data_type": 3, "pixel_bytes": 8}, "complex", id="complex"),
        pytest.param([Q, Q], {"data_type": 27, "pixel_bytes": 8}, "fft", id="packed complex"),
        pytest.param([X, Y], {"data_type": 99, "pixel_bytes": 8}, "unknown", id="unknown type"),
    ],
)
def test_kind(axes, tags, expected):
    name, reason = kind(*axes, **tags)
    assert name == expected
    assert (reason is None) is (expected in ("image", "stack"))


@pytest.mark.parametrize(
    ("axes", "tags", "reason"),
    [
        ([E], {}, "is a spectrum of 16 channels (an axis in eV)"),
        (
            [LAMBDA],
            {"Meta_Data": {"Format": "Spectrum"}},
            "is a spectrum of 16 channels (its Format tag says so)",
        ),
        ([X, Y, E], {}, "is a spectrum image of 16 x 6 x 8 (an axis in eV)"),
        ([X], {}, "is a line profile of 8 points"),
        ([Q, Q], {}, "is a diffraction pattern or a Fourier transform (an axis in 1/nm)"),
        (
            [NONE] * 2,
            {"Microscope_Info": microscope("DIFFRACTION", "TEM")},
            "is a diffraction pattern (recorded in mode DIFFRACTION, not scanning)",
        ),
        ([NONE] * 2, {"name": "D20cm"}, "is a diffraction pattern (uncalibrated and named 'D20cm')"),
        (
            [X, Y],
            {"Meta_Data": {"Signal": "EELS"}},
            "is an elemental or spectroscopic map (made from the EELS signal)",
        ),
        ([Q, Q, X, Y], {}, "is a 4D-STEM data set of 6 x 8 x 8 x 8: a diffraction pattern a position"),
        ([X, Y, FRAMES, T], {}, "has 4 axes (10 x 5 x 6 x 8) and nothing that says which two make a picture"),
        (
            [X, Y],
            {"data_type": 99, "pixel_bytes": 8},
            "has pixels of DigitalMicrograph type 99, which holds no picture",
        ),
    ],
)
def test_the_reason_says_what_was_seen(axes, tags, reason):
    assert kind(*axes, **tags)[1] == reason


@pytest.mark.parametrize(
    ("declared", "shown", "kinds"),
    [
        pytest.param([0], [1], ["thumbnail", "image"], id="declared"),
        pytest.param(None, [1], ["thumbnail", "image"], id="undeclared, but nothing shows it"),
        pytest.param(None, [0, 1], ["rgb", "image"], id="a colour picture that the document shows"),
    ],
)
def test_which_colour_picture_is_the_thumbnail(declared, shown, kinds):
    data = dm_bytes(thumbnail(), Image(10, 2, [X, Y]), thumbnails=declared, shown=shown)
    data_sets = read_contents(io.BytesIO(data), len(data)).data_sets
    assert [kind_of(data_set).name for data_set in data_sets] == kinds


def test_a_lone_colour_picture_is_no_thumbnail():
    data = dm_bytes(thumbnail(), shown=[])
    assert kind_of(read_contents(io.BytesIO(data), len(data)).data_sets[0]).name == "rgb"
