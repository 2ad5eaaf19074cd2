"""When the agent accepts an answer and when it abstains, and with which reasons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import LABELS, tiny_manifest

from edge_agent.classifier import Prediction, TilePrediction
from edge_agent.decision import REASONS, Decision, decide
from edge_agent.field_look import Look
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import Guards, Manifest, Thresholds, TrainingRanges
from edge_agent.preprocessing import Box, CamMap, ContrastLimits, FieldStatistics

CLEAR = FieldStatistics(ContrastLimits(0.0, 1.0), blank=False, saturated_fraction=0.0, hot_pixels=0)
BLANK = replace(CLEAR, blank=True)
SATURATED = replace(CLEAR, saturated_fraction=0.3)
UNCALIBRATED = replace(CLEAR, scale_missing=True)


def predicted(
    field: FieldStatistics, probability: float, boxes: tuple[Box, ...] = ((0, 0, 64, 64),)
) -> Prediction:
    rest = (1 - probability) / 2
    cam = CamMap("round", "cam", boxes[0], np.zeros((1, 1), np.float32), "mean_where_overlapping")
    tiles = tuple(TilePrediction(box, (rest, rest, probability)) for box in boxes)
    answer = (rest, rest, probability)
    return Prediction("round", LABELS, answer, None, tiles, field, None, 0.0, 0.0, 0.0, cam)


SOURCE = SourceFile(Path("/data/a.dm3"), FileStamp(1, 2, 3, 4), "ab" * 32, "1-2-3")
PLAIN = Micrograph(
    SOURCE, np.zeros((64, 64), np.uint16), None, 0, None, ("image",), None, None,
    Instrument(None, None, None, None, None, None),
)  # fmt: skip


@pytest.mark.parametrize(
    ("boxes", "reasons"),
    [
        pytest.param(((0, 0, 2, 2),), ("too_small",), id="2 x 2"),
        pytest.param(((0, 0, 400, 31),), ("too_small",), id="a narrow strip"),
        pytest.param(((0, 0, 32, 32),), (), id="just large enough"),
        pytest.param(
            ((0, 0, 20, 20), (20, 0, 40, 20), (0, 20, 20, 40), (20, 20, 40, 40)), (), id="quadrants"
        ),
    ],
)
def test_pictures_too_small_to_show_a_shape_abstain(boxes: tuple[Box, ...], reasons: tuple[str, ...]) -> None:
    decision = "abstain" if reasons else "ungated"
    assert decide(predicted(CLEAR, 1.0, boxes), PLAIN, tiny_manifest()) == Decision(decision, reasons)


@pytest.mark.parametrize(
    ("field", "probability", "confidence", "expected"),
    [
        pytest.param(CLEAR, 0.4, None, Decision("ungated", ()), id="no threshold"),
        pytest.param(CLEAR, 0.9, 0.8, Decision("accept", ()), id="above"),
        pytest.param(CLEAR, 0.8, 0.8, Decision("accept", ()), id="at the threshold"),
        pytest.param(CLEAR, 0.79, 0.8, Decision("abstain", ("low_confidence",)), id="below"),
        pytest.param(CLEAR, float("nan"), 0.8, Decision("abstain", ("low_confidence",)), id="no number"),
        pytest.param(CLEAR, 0.0, 0.0, Decision("accept", ()), id="threshold that lets all pass"),
        pytest.param(BLANK, 1.0, None, Decision("abstain", ("blank",)), id="blank without threshold"),
        pytest.param(BLANK, 1.0, 0.5, Decision("abstain", ("blank",)), id="blank, however sure"),
        pytest.param(SATURATED, 1.0, None, Decision("abstain", ("saturated",)), id="saturated"),
        pytest.param(
            replace(CLEAR, saturated_fraction=0.25),
            1.0,
            None,
            Decision("ungated", ()),
            id="just not saturated",
        ),
        pytest.param(
            UNCALIBRATED, 1.0, 0.5, Decision("abstain", ("pixel_size_unknown",)), id="no calibration"
        ),
        pytest.param(
            FieldStatistics(ContrastLimits(0.0, 0.0), True, 1.0, 0, scale_missing=True),
            0.1,
            0.5,
            Decision("abstain", ("blank", "saturated", "pixel_size_unknown", "low_confidence")),
            id="all of it, in this order",
        ),
    ],
)
def test_decisions(field, probability, confidence, expected):
    thresholds = None if confidence is None else Thresholds(confidence=confidence)
    manifest = tiny_manifest().model_copy(update={"thresholds": thresholds})

    assert decide(predicted(field, probability), PLAIN, manifest) == expected


def test_the_bundle_says_how_much_saturation_is_too_much():
    manifest = tiny_manifest().model_copy(update={"saturated_fraction": 0.9})

    assert decide(predicted(SATURATED, 1.0), PLAIN, manifest).decision == "ungated"


ORDINARY = Look(sharpness=0.8, streaks=1.1, diffraction=0.0, contrast=0.2, skewness=-1.0)
BEAM = Instrument(200.0, None, None, "SCANNING", "HAADF", None)
CALIBRATED = replace(PLAIN, pixel_size_nm=(2.0, 2.0), instrument=BEAM)
GATED = tiny_manifest().model_copy(
    update={
        "thresholds": Thresholds(confidence=0.7, tile_disagreement=0.3),
        "guards": Guards(least_sharpness=0.4, most_streaks=1.8, most_diffraction=0.5, scale_margin=1.5),
        "training_ranges": TrainingRanges(
            pixel_size_nm=(1.0, 4.0),
            field_of_view_nm=(64.0, 256.0),
            polarity=("dark on bright",),
            voltage_kv=(200.0, 200.0),
            detector=("HAADF",),
            all_calibrated=True,
        ),
    }
)
GOOD = replace(predicted(CLEAR, 0.95), look=ORDINARY, tile_disagreement=0.1)


def seen_by(**instrument: object) -> Micrograph:
    return replace(CALIBRATED, instrument=replace(BEAM, **instrument))


def at_pixel_size(size_nm: float) -> Micrograph:
    return replace(CALIBRATED, pixel_size_nm=(size_nm, size_nm))


def shown(*box: int) -> Prediction:
    return replace(GOOD, tiles=(TilePrediction(box, GOOD.probabilities),))


def that_looks(**figures: float) -> Prediction:
    return replace(GOOD, look=replace(ORDINARY, **figures))


def novel(score: float | None) -> Prediction:
    return replace(GOOD, novelty=score)


WITH_NOVELTY = GATED.model_copy(update={"thresholds": Thresholds(confidence=0.7, novelty=1.0)})
USUAL = GATED.model_copy(
    update={"thresholds": Thresholds(confidence=0.7, novelty=1.0, confidence_usual=0.99, novelty_usual=0.5)}
)
EACH_REASON = [
    pytest.param(GOOD, CALIBRATED, GATED, None, id="a good one"),
    pytest.param(shown(0, 0, 40, 20), at_pixel_size(4.0), GATED, "too_small", id="too small"),
    pytest.param(replace(GOOD, field=BLANK), CALIBRATED, GATED, "blank", id="blank"),
    pytest.param(replace(GOOD, field=SATURATED), CALIBRATED, GATED, "saturated", id="saturated"),
    pytest.param(
        replace(GOOD, field=UNCALIBRATED), PLAIN, GATED, "pixel_size_unknown", id="pixel size needed to cut"
    ),
    pytest.param(GOOD, PLAIN, GATED, "uncalibrated", id="no pixel size, in training always"),
    pytest.param(
        shown(0, 0, 40, 64), at_pixel_size(6.1), GATED, "pixel_size_out_of_range", id="coarse pixels"
    ),
    pytest.param(GOOD, at_pixel_size(0.667), GATED, None, id="fine pixels, within the margin"),
    pytest.param(shown(0, 0, 193, 193), CALIBRATED, GATED, "field_of_view_out_of_range", id="wide field"),
    pytest.param(GOOD, seen_by(voltage_kv=80.0), GATED, "voltage_out_of_range", id="80 kV"),
    pytest.param(GOOD, seen_by(voltage_kv=197.0), GATED, None, id="nearly 200 kV"),
    pytest.param(GOOD, seen_by(voltage_kv=None), GATED, None, id="voltage not said"),
    pytest.param(GOOD, seen_by(signal="BF"), GATED, "detector_unlike_training", id="another detector"),
    pytest.param(GOOD, seen_by(signal=None), GATED, None, id="STEM may be HAADF"),
    pytest.param(
        GOOD,
        seen_by(signal=None, operation_mode="IMAGING"),
        GATED,
        "detector_unlike_training",
        id="TEM is not HAADF",
    ),
    pytest.param(
        that_looks(skewness=1.0), CALIBRATED, GATED, "polarity_unlike_training", id="bright on dark"
    ),
    pytest.param(that_looks(skewness=0.3), CALIBRATED, GATED, None, id="no clear polarity"),
    pytest.param(that_looks(sharpness=0.3), CALIBRATED, GATED, "blurred", id="blurred"),
    pytest.param(that_looks(streaks=2.0), CALIBRATED, GATED, "drifted", id="drifted"),
    pytest.param(that_looks(diffraction=0.9), CALIBRATED, GATED, "looks_like_diffraction", id="diffraction"),
    pytest.param(replace(GOOD, look=None), CALIBRATED, GATED, None, id="look not measured"),
    pytest.param(
        replace(GOOD, tile_disagreement=0.31), CALIBRATED, GATED, "tiles_disagree", id="tiles disagree"
    ),
    pytest.param(novel(1.01), CALIBRATED, WITH_NOVELTY, "novel", id="novel"),
    pytest.param(novel(1.0), CALIBRATED, WITH_NOVELTY, None, id="as novel as allowed"),
    pytest.param(novel(None), CALIBRATED, WITH_NOVELTY, "novel", id="novelty missing"),
    pytest.param(novel(float("nan")), CALIBRATED, WITH_NOVELTY, "novel", id="novelty no number"),
    pytest.param(
        replace(predicted(CLEAR, 0.6), look=ORDINARY), CALIBRATED, GATED, "low_confidence", id="unsure"
    ),
    pytest.param(
        novel(0.5), CALIBRATED, USUAL, None, id="of usual novelty, 0.43 of the doubt as to the class"
    ),
    pytest.param(
        replace(predicted(CLEAR, 0.9), look=ORDINARY, novelty=0.5),
        CALIBRATED,
        USUAL,
        None,
        id="0.64 of the doubt as to the class",
    ),
    pytest.param(
        replace(predicted(CLEAR, 0.99), look=ORDINARY, novelty=0.76),
        CALIBRATED,
        USUAL,
        None,
        id="0.60 of the doubt as to the kind",
    ),
    pytest.param(
        replace(predicted(CLEAR, 0.9), look=ORDINARY, novelty=0.76),
        CALIBRATED,
        USUAL,
        "unusual_and_unsure",
        id="both together",
    ),
    pytest.param(novel(1.01), CALIBRATED, USUAL, "novel", id="beyond one limit, the sum is not asked"),
]


@pytest.mark.parametrize(("answer", "micrograph", "manifest", "reason"), EACH_REASON)
def test_each_reason_alone(
    answer: Prediction, micrograph: Micrograph, manifest: Manifest, reason: str | None
) -> None:
    expected = Decision("accept", ()) if reason is None else Decision("abstain", (reason,))
    assert decide(answer, micrograph, manifest) == expected


def test_every_reason_has_a_case_and_a_meaning() -> None:
    assert {case.values[3] for case in EACH_REASON} - {None} == set(REASONS)


def test_what_the_bundle_does_not_know_is_not_judged() -> None:
    strange = replace(that_looks(sharpness=0.0, streaks=9.0, diffraction=1.0, skewness=5.0), novelty=99.0)
    assert decide(strange, at_pixel_size(1e6), tiny_manifest()) == Decision("ungated", ())


@pytest.mark.parametrize(
    ("known", "seen", "unlike"),
    [
        pytest.param(("STEM",), "HAADF", False, id="training said only STEM"),
        pytest.param(("HAADF",), "STEM", False, id="file says only STEM"),
        pytest.param(("HAADF", "TEM"), "BF", True, id="none of several"),
        pytest.param(("ADF",), "HAADF", False, id="annular dark field of any angle"),
        pytest.param(("HAADF",), "LAADF", True, id="another angle"),
        pytest.param(("SEM",), "SE", False, id="secondary electrons"),
        pytest.param(("STEM",), "SE", True, id="not transmitted"),
    ],
)
def test_general_names_of_detectors(known: tuple[str, ...], seen: str, unlike: bool) -> None:
    ranges = TrainingRanges(detector=known)
    manifest = tiny_manifest().model_copy(update={"training_ranges": ranges})
    micrograph = seen_by(signal=None if seen == "STEM" else seen)

    found = decide(GOOD, micrograph, manifest).reasons
    assert found == (("detector_unlike_training",) if unlike else ())
