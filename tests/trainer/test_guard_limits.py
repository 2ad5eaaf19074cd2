"""What limits and ranges follow from training micrographs, and when none do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_agent.field_look import Look
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import Guards, TrainingRanges
from trainer.trusting.guard_limits import Taught, guard_limits, taught_by, training_ranges

DARK_ON_BRIGHT = Look(sharpness=0.9, streaks=1.1, diffraction=0.01, contrast=0.2, skewness=-1.5)
BRIGHT_ON_DARK = replace(DARK_ON_BRIGHT, skewness=1.5)
EVEN = replace(DARK_ON_BRIGHT, skewness=0.0)
TAUGHT = Taught(DARK_ON_BRIGHT, 1.0, 1000.0, 200.0, "HAADF")


def looks(count: int, seed: int = 0) -> list[Look]:
    """Figures spread as those of published micrographs are."""
    draw = np.random.default_rng(seed)
    return [
        Look(
            sharpness=float(0.95 * np.exp(-draw.exponential(0.1))),
            streaks=float(np.exp(draw.exponential(0.1))),
            diffraction=float(min(1, draw.exponential(0.04))),
            contrast=0.2,
            skewness=0.0,
        )
        for _ in range(count)
    ]


def refused(seen: list[Look], limits: Guards) -> float:
    wrong = [
        look.sharpness < limits.least_sharpness
        or look.streaks > limits.most_streaks
        or look.diffraction > limits.most_diffraction
        for look in seen
    ]
    return sum(wrong) / len(wrong)


@pytest.mark.parametrize("seed", range(3))
def test_good_pictures_of_the_same_kind_are_almost_never_refused(seed: int) -> None:
    assert refused(looks(5000, seed + 50), guard_limits(looks(150, seed))) < 0.015


def test_limits_are_not_loose_where_the_training_is_even() -> None:
    limits = guard_limits([DARK_ON_BRIGHT] * 50)
    assert limits == Guards(least_sharpness=0.42, most_streaks=1.4, most_diffraction=0.45)
    wild = [replace(look, streaks=4 * look.streaks) for look in looks(100)]
    assert guard_limits(wild).most_streaks > 4


def test_few_looks_give_no_limits() -> None:
    assert guard_limits(looks(19)) == Guards()
    assert guard_limits(looks(20)).most_streaks is not None


@pytest.mark.parametrize(
    ("taught", "expected"),
    [
        pytest.param([], TrainingRanges(), id="nothing"),
        pytest.param([TAUGHT] * 19, TrainingRanges(), id="too few"),
        pytest.param(
            [TAUGHT] * 40,
            TrainingRanges(
                pixel_size_nm=(1.0, 1.0),
                field_of_view_nm=(1000.0, 1000.0),
                polarity=("dark on bright",),
                voltage_kv=(200.0, 200.0),
                detector=("HAADF",),
                all_calibrated=True,
            ),
            id="all alike",
        ),
        pytest.param(
            [Taught(EVEN, None, None, None, None)] * 40, TrainingRanges(), id="exports without tags"
        ),
        pytest.param([Taught(None, None, None, None, None)] * 40, TrainingRanges(), id="looks not measured"),
    ],
)
def test_what_the_training_covered(taught: list[Taught], expected: TrainingRanges) -> None:
    assert training_ranges(taught) == expected


def with_few(few: int, **changed: object) -> TrainingRanges:
    """Ranges of a hundred micrographs of which some are different."""
    return training_ranges([TAUGHT] * (100 - few) + [replace(TAUGHT, **changed)] * few)


def test_what_a_fifth_does_not_say_is_not_known() -> None:
    assert with_few(20, voltage_kv=None, detector=None).voltage_kv == (200.0, 200.0)
    silent = with_few(21, voltage_kv=None, detector=None, pixel_size_nm=None)
    assert (silent.voltage_kv, silent.detector, silent.pixel_size_nm) == (None, None, None)
    assert silent.field_of_view_nm == (1000.0, 1000.0)


def test_one_without_pixel_size_and_not_all_are_calibrated() -> None:
    assert with_few(1, pixel_size_nm=None).all_calibrated is False


def test_a_stray_unit_does_not_widen_the_range() -> None:
    assert with_few(0).pixel_size_nm == with_few(1, pixel_size_nm=1e-3).pixel_size_nm
    assert with_few(5, pixel_size_nm=0.5).pixel_size_nm == (0.5, 1.0)


@pytest.mark.parametrize(
    ("few", "look", "expected"),
    [
        pytest.param(1, BRIGHT_ON_DARK, ("dark on bright",), id="one in a hundred"),
        pytest.param(2, BRIGHT_ON_DARK, None, id="two in a hundred: both occur"),
        pytest.param(50, BRIGHT_ON_DARK, None, id="half and half"),
        pytest.param(60, EVEN, ("dark on bright",), id="the clear ones agree"),
        pytest.param(90, EVEN, None, id="too few are clear"),
    ],
)
def test_polarity_counts_where_the_training_has_one(
    few: int, look: Look, expected: tuple[str, ...] | None
) -> None:
    assert with_few(few, look=look).polarity == expected


def test_detectors_that_occur() -> None:
    assert with_few(30, detector="TEM").detector == ("HAADF", "TEM")


@pytest.mark.parametrize("pixel_size_nm", [None, (2.0, 3.0)], ids=["uncalibrated", "calibrated"])
def test_what_a_micrograph_teaches(pixel_size_nm: tuple[float, float] | None) -> None:
    source = SourceFile(None, FileStamp(1, 2, 3, 4), "ab" * 32, "1-2-3")
    instrument = Instrument(300.0, None, None, "IMAGING", None, None)
    pixels = np.zeros((64, 64), np.uint16)
    micrograph = Micrograph(source, pixels, pixel_size_nm, 0, None, ("image",), None, None, instrument)

    found = taught_by(micrograph, ((0, 0, 20, 64), (20, 0, 64, 64)), EVEN)

    calibrated = pixel_size_nm is not None
    assert found == Taught(EVEN, 3.0 if calibrated else None, 96.0 if calibrated else None, 300.0, "TEM")
