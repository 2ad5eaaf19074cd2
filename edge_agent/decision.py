"""Accept or abstain, and why: what the agent claims to know about a micrograph.

Only this module knows the reasons. Three kinds, in this order: the field cannot be judged by anybody; it is unlike
what the network was trained on, by its tags or by its look; the network itself is unsure, or saw nothing like it.
Every limit is the bundle's; what the bundle does not know is not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.field_look import polarity_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.classifier import Answer
    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Guards, Manifest, Thresholds, TrainingRanges


SMALLEST_SIDE_PX: Final = 32
"""Fewer pixels than this on the shorter side show no shape; a network answers all the same."""
_SMALLEST: Final = 1e-7
"""Probabilities are single precision: nearer to 0 or 1 they say no more."""
VOLTAGE_MARGIN: Final = 1.1
"""Nominal voltages are steps (80, 120, 200, 300 kV); within this factor it is the same step."""

_GENERAL_NAMES: Final = {
    "STEM": frozenset({"HAADF", "MAADF", "LAADF", "ADF", "DF", "ABF", "BF"}),
    "DF": frozenset({"HAADF", "MAADF", "LAADF", "ADF"}),
    "ADF": frozenset({"HAADF", "MAADF", "LAADF"}),
    "SEM": frozenset({"SE", "BSE"}),
}
"""What a general name may stand for; many files say no more than `STEM`."""

REASONS: Final = {
    "too_small": "too few pixels to show a shape",
    "blank": "nothing but noise, or constant",
    "saturated": "too many pixels stand at the largest value",
    "pixel_size_unknown": "the model cuts a fixed field of view, and the file has no pixel size",
    "uncalibrated": "the file has no pixel size, unlike every training micrograph",
    "pixel_size_out_of_range": "pixel size outside that of the training micrographs",
    "field_of_view_out_of_range": "field of view outside that of the training micrographs",
    "voltage_out_of_range": "acceleration voltage outside that of the training micrographs",
    "detector_unlike_training": "another detector than in training",
    "polarity_unlike_training": "bright where training micrographs are dark, or the other way round",
    "blurred": "too blurred",
    "drifted": "smeared along one direction: the specimen drifted",
    "looks_like_diffraction": "looks like a diffraction pattern or a Fourier transform",
    "tiles_disagree": "parts of the field are answered differently",
    "novel": "unlike the training micrographs, to the network",
    "low_confidence": "no class is probable enough",
    "unusual_and_unsure": "rather novel and rather unsure: one of both would pass, not both",
}
"""Why an answer abstains, with what each reason means."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`ungated` where the bundle carries no thresholds and nothing in the micrograph forbids an answer."""

    decision: Literal["accept", "abstain", "ungated"]
    reasons: tuple[str, ...]


def decide(answer: Answer, micrograph: Micrograph, manifest: Manifest) -> Decision:
    """Weigh an answer: fields that cannot be judged abstain with any bundle, the rest by what it carries."""
    reasons = (
        *_unjudgeable(answer, manifest),
        *_unlike_by_tags(micrograph, answer, manifest),
        *_unlike_by_look(answer, manifest.guards, manifest.training_ranges),
        *unsure(answer.novelty, answer.probability, answer.tile_disagreement, manifest.thresholds),
    )
    if reasons:
        return Decision("abstain", reasons)
    return Decision("ungated" if manifest.thresholds is None else "accept", ())


def _unjudgeable(answer: Answer, manifest: Manifest) -> Iterator[str]:
    if _shorter_side_px(answer) < SMALLEST_SIDE_PX:
        yield "too_small"
    if answer.field.blank:
        yield "blank"
    if answer.field.saturated_fraction > manifest.saturated_fraction:
        yield "saturated"
    if answer.field.scale_missing:
        yield "pixel_size_unknown"


def _unlike_by_tags(micrograph: Micrograph, answer: Answer, manifest: Manifest) -> Iterator[str]:
    known, margin = manifest.training_ranges, manifest.guards.scale_margin
    size_nm, instrument = micrograph.pixel_size_nm, micrograph.instrument
    if size_nm is None:
        if known.all_calibrated and not answer.field.scale_missing:
            yield "uncalibrated"
    else:
        if not _within(size_nm[1], known.pixel_size_nm, margin):
            yield "pixel_size_out_of_range"
        if not _within(_shown_nm(answer, size_nm[1]), known.field_of_view_nm, margin):
            yield "field_of_view_out_of_range"
    if instrument.voltage_kv is not None and not _within(
        instrument.voltage_kv, known.voltage_kv, VOLTAGE_MARGIN
    ):
        yield "voltage_out_of_range"
    if _is_another_detector(instrument.detector, known.detector):
        yield "detector_unlike_training"


def _unlike_by_look(answer: Answer, guards: Guards, known: TrainingRanges) -> Iterator[str]:
    look = answer.look
    if look is None or answer.field.blank or _shorter_side_px(answer) < SMALLEST_SIDE_PX:
        return  # an enlarged handful of pixels is smooth, and no lens is to blame
    polarity = polarity_of(look)
    if _is_another(polarity, known.polarity):
        yield "polarity_unlike_training"
    if guards.least_sharpness is not None and look.sharpness < guards.least_sharpness:
        yield "blurred"
    if guards.most_streaks is not None and look.streaks > guards.most_streaks:
        yield "drifted"
    if guards.most_diffraction is not None and look.diffraction > guards.most_diffraction:
        yield "looks_like_diffraction"


def unsure(
    novelty: float | None, probability: float, tile_disagreement: float, thresholds: Thresholds | None
) -> Iterator[str]:
    """The reasons that thresholds move. Written so that what is no number (NaN) is never good enough."""
    if thresholds is None:
        return
    limit = thresholds.tile_disagreement
    if limit is not None and not tile_disagreement <= limit:
        yield "tiles_disagree"
    by_novelty, by_confidence = doubts(novelty, probability, thresholds)
    if not by_novelty <= 1:
        yield "novel"
    if not by_confidence <= 1:
        yield "low_confidence"
    if by_novelty <= 1 and by_confidence <= 1 and by_novelty + by_confidence > 1:
        yield "unusual_and_unsure"


def doubts(novelty: float | None, probability: float, thresholds: Thresholds) -> tuple[float, float]:
    """How much of the limits on novelty and on confidence an answer uses up: 0 is usual, 1 is at the limit.

    Novelty is taken by its logarithm, the probability by that of its odds. What is not a number uses up all.
    """
    by_novelty = 0.0
    if thresholds.novelty is not None:
        seen = -math.inf if novelty is None or not novelty >= 0 else -math.log(max(novelty, _SMALLEST))
        usual = None if thresholds.novelty_usual is None else -math.log(thresholds.novelty_usual)
        by_novelty = _used_up(seen, -math.log(thresholds.novelty), usual)
    usual = None if thresholds.confidence_usual is None else _log_odds(thresholds.confidence_usual)
    return by_novelty, _used_up(_log_odds(probability), _log_odds(thresholds.confidence), usual)


def _used_up(seen: float, limit: float, usual: float | None) -> float:
    """Part of the way from the usual down to the limit; all or nothing where the usual is not above the limit."""
    if usual is None or usual <= limit:
        return 0.0 if seen >= limit else math.inf
    return max(0.0, (usual - seen) / (usual - limit)) if seen > -math.inf else math.inf


def _log_odds(probability: float) -> float:
    if not probability >= 0:  # NaN too
        return -math.inf
    held = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(held / (1 - held))


def _is_another(seen: str | None, known: tuple[str, ...] | None) -> bool:
    """Whether it is none of the training's; what is not known on either side is not judged."""
    return seen is not None and known is not None and seen not in known


def _is_another_detector(seen: str | None, known: tuple[str, ...] | None) -> bool:
    """The same; a general name may be any of what it stands for, on either side."""
    if seen is None or known is None:
        return False
    may_be = _GENERAL_NAMES.get(seen, frozenset())
    return not any(name == seen or name in may_be or seen in _GENERAL_NAMES.get(name, ()) for name in known)


def _within(value: float, limits: tuple[float, float] | None, margin: float) -> bool:
    """Whether a value lies in the range, or out of it by no more than a factor; with no range all do."""
    return limits is None or limits[0] / margin <= value <= limits[1] * margin


def _shown_nm(answer: Answer, pixel_size_nm: float) -> float:
    """Mean width of the boxes that the network was shown: what training states as its field of view."""
    widths = [tile.box_px[2] - tile.box_px[0] for tile in answer.tiles]
    return pixel_size_nm * sum(widths) / len(widths)


def _shorter_side_px(answer: Answer) -> int:
    """Of the part of the micrograph that the tiles cover together."""
    boxes = [tile.box_px for tile in answer.tiles]
    width = max(box[2] for box in boxes) - min(box[0] for box in boxes)
    height = max(box[3] for box in boxes) - min(box[1] for box in boxes)
    return min(width, height)
