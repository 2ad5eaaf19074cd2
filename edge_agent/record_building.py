"""What was found, in the words of the sidecar: the parts of a record on a classified file, and on who wrote it.

Only this module knows how exactly numbers are kept.
"""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from edge_agent import __version__
from edge_agent.decision import doubts
from edge_agent.sidecar import (
    AgentRecord,
    CamRecord,
    DoubtsRecord,
    FieldRecord,
    InstrumentRecord,
    MicrographRecord,
    Milliseconds,
    PredictionRecord,
    ProfileRecord,
    ReplacedPixelSize,
    TileRecord,
)

if TYPE_CHECKING:
    from edge_agent.classifier import Prediction
    from edge_agent.decision import Decision
    from edge_agent.instrument_profile import InstrumentProfile
    from edge_agent.micrograph import Micrograph, Replaced
    from edge_agent.model_bundle import Thresholds

_DIGITS: Final = 7
"""Significant digits kept of probabilities and map values: all that float32 has."""


def micrograph_record(micrograph: Micrograph, prediction: Prediction) -> MicrographRecord:
    """Return the record's part on the picture that was classified."""
    instrument = {key: _known(value) for key, value in asdict(micrograph.instrument).items()}
    rows, columns = micrograph.pixels.shape
    return MicrographRecord(
        shape=(rows, columns),
        dtype=micrograph.pixels.dtype.name,
        pixel_size_nm=micrograph.pixel_size_nm,
        dataset_index=micrograph.dataset_index,
        frame_index=micrograph.frame_index,
        datasets=micrograph.datasets,
        acquired=micrograph.acquired,
        acquired_text=micrograph.acquired_text,
        instrument=InstrumentRecord(**instrument),
        field=_field_record(prediction),
        pixel_size_replaced=_replaced_record(micrograph.replaced),
    )


def _replaced_record(replaced: Replaced | None) -> ReplacedPixelSize | None:
    return None if replaced is None else ReplacedPixelSize(**asdict(replaced))


def _field_record(prediction: Prediction) -> FieldRecord:
    field, look = prediction.field, prediction.look
    measured = {} if look is None else {key: _shortened(value) for key, value in asdict(look).items()}
    names = ("sharpness", "streaks", "diffraction", "contrast", "skewness")
    return FieldRecord(
        blank=field.blank,
        saturated_fraction=_shortened(field.saturated_fraction),
        hot_pixels=field.hot_pixels,
        **{name: measured.get(name) for name in names},
    )


def prediction_record(
    prediction: Prediction, decision: Decision, thresholds: Thresholds | None
) -> PredictionRecord:
    """Return the record's part on the answer."""
    tiles = (
        TileRecord(box_px=tile.box_px, probabilities=_named(prediction, tile.probabilities))
        for tile in prediction.tiles
    )
    return PredictionRecord(
        label=prediction.label,
        decision=decision.decision,
        reasons=decision.reasons,
        probabilities=_named(prediction, prediction.probabilities),
        novelty=None if prediction.novelty is None else _shortened(prediction.novelty),
        novelty_threshold=thresholds.novelty if thresholds else None,
        tiles=tuple(tiles),
        confidence_threshold=thresholds.confidence if thresholds else None,
        tile_disagreement=_shortened(prediction.tile_disagreement) if len(prediction.tiles) > 1 else None,
        doubts=None if thresholds is None else _doubts_record(prediction, thresholds),
    )


def _doubts_record(prediction: Prediction, thresholds: Thresholds) -> DoubtsRecord:
    found = doubts(prediction.novelty, prediction.probability, thresholds)
    novelty, confidence = (_shortened(value) if math.isfinite(value) else None for value in found)
    return DoubtsRecord(novelty=novelty, confidence=confidence)


def cam_record(prediction: Prediction) -> CamRecord:
    """Return the record's part on the class activation map, with no heatmap named yet."""
    cam = prediction.cam
    rows, columns = cam.values.shape
    return CamRecord(
        label=cam.label,
        method=cam.method,
        box_px=cam.box_px,
        grid=(rows, columns),
        values=tuple(tuple(_shortened(value) for value in row) for row in cam.values.tolist()),
        composition=cam.composition,
        heatmap=None,
        heatmap_sha256=None,
    )


def agent_record(settled: datetime | None, times: Milliseconds, profile: InstrumentProfile) -> AgentRecord:
    """Return the record's part on who wrote it, and at which instrument; it is finished now."""
    names = {"name": profile.name, "microscope": profile.microscope, "camera": profile.camera}
    return AgentRecord(
        version=__version__,
        host=_host(),
        settled=settled,
        finished=datetime.now(UTC),
        milliseconds=times,
        instrument=None if profile.says_nothing else ProfileRecord(**names),
    )


@cache
def _host() -> str:
    return platform.node()


def _named(prediction: Prediction, probabilities: tuple[float, ...]) -> dict[str, float]:
    return {label: _shortened(value) for label, value in zip(prediction.labels, probabilities, strict=True)}


def _known(value: object) -> object:
    """Tags can hold NaN; unknown is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shortened(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
