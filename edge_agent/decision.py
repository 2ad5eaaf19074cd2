"""Accept or abstain, and why: what the agent claims to know about a micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from edge_agent.classifier import Answer
    from edge_agent.model_bundle import Manifest


SMALLEST_SIDE_PX: Final = 32
"""Fewer pixels than this on the shorter side show no shape; a network answers all the same."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`ungated` where the bundle carries no thresholds and nothing in the micrograph forbids an answer."""

    decision: Literal["accept", "abstain", "ungated"]
    reasons: tuple[str, ...]


def decide(answer: Answer, manifest: Manifest) -> Decision:
    """Weigh an answer: fields that cannot be judged abstain with any bundle, the rest by its thresholds."""
    field, thresholds = answer.field, manifest.thresholds
    reasons = []
    if _shorter_side_px(answer) < SMALLEST_SIDE_PX:
        reasons.append("too_small")
    if field.blank:
        reasons.append("blank")
    if field.saturated_fraction > manifest.saturated_fraction:
        reasons.append("saturated")
    if field.scale_missing:
        reasons.append("pixel_size_unknown")
    if thresholds is not None and not answer.probability >= thresholds.confidence:  # NaN is no confidence
        reasons.append("low_confidence")
    if reasons:
        return Decision("abstain", tuple(reasons))
    return Decision("ungated" if thresholds is None else "accept", ())


def _shorter_side_px(answer: Answer) -> int:
    """Of the part of the micrograph that the tiles cover together."""
    boxes = [tile.box_px for tile in answer.tiles]
    width = max(box[2] for box in boxes) - min(box[0] for box in boxes)
    height = max(box[3] for box in boxes) - min(box[1] for box in boxes)
    return min(width, height)
