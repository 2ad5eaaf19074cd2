"""When the agent accepts an answer and when it abstains, and with which reasons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import LABELS, tiny_manifest

from edge_agent.classifier import Prediction, TilePrediction
from edge_agent.decision import Decision, decide
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import Thresholds
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
