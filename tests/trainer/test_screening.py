"""From figures to reasons and notes: every sentence, both sides of every threshold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from trainer.preparing.cutting import CutFile
from trainer.preparing.quality import Measures
from trainer.preparing.screening import ScreeningRule, screened

GOOD = Measures(
    noise=0.02,
    texture=40.0,
    distinctness=12.0,
    sharpness=0.3,
    saturated_fraction=0.001,
    point_symmetry=0.0,
    info_bar_fraction=0.0,
    scale_bar_fraction=0.0,
)


def cut(
    source: str = "rod/a", *, size_nm: float | None = None, reason: str = "", note: str = "", **measures
) -> CutFile:
    pixel_size_nm = (size_nm, size_nm) if size_nm else None
    return CutFile(
        source=source,
        pixel_size_nm=pixel_size_nm,
        reason=reason,
        note=note,
        measures=replace(GOOD, **measures),
    )


def reason_of(one: CutFile, **rule) -> str:
    (answer,) = screened([one], ScreeningRule(**rule))
    return answer.reason


def note_of(one: CutFile, **rule) -> str:
    (answer,) = screened([one], ScreeningRule(**rule))
    assert answer.reason == ""
    return answer.note


@pytest.mark.parametrize(
    ("measures", "rule", "reason"),
    [
        pytest.param({}, {}, "", id="a good picture"),
        pytest.param(
            {"distinctness": 0.42, "texture": 1.2}, {}, "empty field: distinctness 0.42 is below 0.6", id="empty"
        ),
        pytest.param(
            {"distinctness": 0.42, "texture": 1.5}, {},
            "support film only: distinctness 0.42 is below 0.6", id="film",
        ),
        pytest.param({"distinctness": 0.6}, {}, "", id="distinct enough"),
        pytest.param({"distinctness": 0.42}, {"least_distinctness": 0}, "", id="empty fields are wanted"),
        pytest.param(
            {"saturated_fraction": 0.88}, {},
            "saturated: 88% of the pixels stand at the largest value, more than 30%", id="saturated",
        ),
        pytest.param({"saturated_fraction": 0.3}, {}, "", id="not saturated enough"),
        pytest.param({"sharpness": 0.0041}, {}, "blurred: sharpness 0.0041 is below 0.005", id="blurred"),
        pytest.param({"sharpness": 0.0041}, {"least_sharpness": 0.004}, "", id="another threshold"),
        pytest.param(
            {"point_symmetry": 0.97}, {},
            "not_an_image: looks like a Fourier transform: point symmetry 0.97 is above 0.6", id="FFT",
        ),
        pytest.param(
            {"saturated_fraction": 0.9, "distinctness": 0.1, "sharpness": 0.0}, {},
            "saturated: 90% of the pixels stand at the largest value, more than 30%", id="the gravest reason",
        ),
        pytest.param({"distinctness": 0, "sharpness": 0, "saturated_fraction": 1}, {"on": False}, "", id="off"),
        pytest.param(
            {"scale_bar_fraction": 0.2}, {"info_bars": "drop"},
            "scale bar: burnt in, 20% of the width", id="scale bars are not wanted",
        ),
        pytest.param(
            {"info_bar_fraction": 0.06}, {"info_bars": "drop"},
            "info bar: burnt in, 6% of the height", id="info bars are not wanted",
        ),
    ],
)  # fmt: skip
def test_reasons(measures, rule, reason):
    assert reason_of(cut(**measures), **rule) == reason


@pytest.mark.parametrize(
    ("size_nm", "rule", "reason"),
    [
        pytest.param(0.5, {}, "", id="any size by default"),
        pytest.param(
            0.05,
            {"smallest_pixel_size_nm": 0.1},
            "pixel size out of range: 0.05 nm is below 0.1 nm",
            id="small",
        ),
        pytest.param(
            12.5, {"largest_pixel_size_nm": 3}, "pixel size out of range: 12.5 nm is above 3 nm", id="large"
        ),
        pytest.param(3, {"smallest_pixel_size_nm": 3, "largest_pixel_size_nm": 3}, "", id="at the limits"),
        pytest.param(None, {"smallest_pixel_size_nm": 0.1}, "", id="uncalibrated"),
    ],
)
def test_pixel_sizes(size_nm, rule, reason):
    assert reason_of(cut(size_nm=size_nm), **rule) == reason


@pytest.mark.parametrize(
    ("measures", "rule", "note"),
    [
        pytest.param({}, {}, "", id="nothing to note"),
        pytest.param({"info_bar_fraction": 0.06}, {}, "info bar: burnt in, 6% of the height", id="info bar"),
        pytest.param(
            {"info_bar_fraction": 0.06, "scale_bar_fraction": 0.1}, {"info_bars": "crop"},
            "info bar: burnt in, 6% of the height, cropped away", id="cropped",
        ),
        pytest.param(
            {"scale_bar_fraction": 0.21}, {"info_bars": "crop"},
            "scale bar: burnt in, 21% of the width", id="a scale bar cannot be cropped",
        ),
    ],
)  # fmt: skip
def test_notes(measures, rule, note):
    assert note_of(cut(**measures), **rule) == note


def test_an_earlier_note_stays():
    assert note_of(cut(note="kept by override", scale_bar_fraction=0.2)) == (
        "kept by override; scale bar: burnt in, 20% of the width"
    )


def test_a_pixel_size_far_off_the_others_is_noted():
    cuts = [cut(f"rod/{at}", size_nm=size) for at, size in enumerate((0.1, 0.1, 0.12, 5.0))]
    notes = [one.note for one in screened(cuts, ScreeningRule())]
    assert notes == ["", "", "", "pixel size: 5 nm, 45 times off the median of 0.11 nm"]


def test_what_was_dropped_before_keeps_its_reason_and_counts_for_nothing():
    dropped = cut("rod/b", reason="duplicate content: same sha256 as rod/a", sharpness=0.0, size_nm=900.0)
    kept = cut("rod/a", size_nm=1.0)
    assert screened([dropped, kept], ScreeningRule()) == [dropped, kept]


def test_what_was_not_measured_is_kept():
    assert reason_of(CutFile(source="rod/small")) == ""


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        pytest.param({"sharpness": 0.1}, "Extra inputs are not permitted", id="no such threshold"),
        pytest.param({"least_sharpness": -1}, "greater than or equal to 0", id="out of range"),
        pytest.param({"info_bars": "erase"}, "Input should be 'flag', 'crop' or 'drop'", id="no such way"),
        pytest.param({"likeness": {"bits": 3}}, "Unexpected keyword argument", id="no such limit"),
        pytest.param(
            {"smallest_pixel_size_nm": 3, "largest_pixel_size_nm": 1},
            "no pixel size lies between 3 and 1 nm", id="an empty range",
        ),
    ],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(rule, message):
    with pytest.raises(ValidationError, match=message):
        ScreeningRule(**rule)


def test_a_rule_survives_its_file():
    rule = ScreeningRule(least_sharpness=0.1, likeness={"hash_bits": 8})
    assert ScreeningRule.model_validate_json(rule.model_dump_json()) == rule
