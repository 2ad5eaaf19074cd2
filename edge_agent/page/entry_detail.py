"""Everything that is known of one entry: its row, what its sidecar says, and what people said of it.

Only this module knows how a sidecar is told to the page, and when one belongs to an entry.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from edge_agent.output_places import NameTooLong, OutputPlan
from edge_agent.page.entry_row import iso
from edge_agent.sidecar import read_record

if TYPE_CHECKING:
    import sqlite3

    from edge_agent.page.entry_row import EntryRow
    from edge_agent.sidecar import CamRecord, PredictionRecord, Sidecar

MOST_EVENTS: Final = 200
_EVENTS: Final = "SELECT record, void FROM labels WHERE content = ? ORDER BY at_us DESC, number DESC LIMIT ?"


def record_of(row: EntryRow, plan: OutputPlan) -> Sidecar | None:
    """Return the sidecar that says of this entry's bytes what this entry says, or None. Waits for its disk."""
    try:
        record = read_record(plan.place(row.path).sidecar)
    except NameTooLong:
        return None
    if record is None or row.content is None or record.model.sha256 != row.model_sha256:
        return None
    return record if row.content in (record.source.sha256, record.source.fingerprint) else None


def record_json(record: Sidecar | None) -> dict[str, Any]:
    """Return what a sidecar says as the page is told it; all null where there is none."""
    micrograph = record.micrograph if record else None
    return {
        **_prediction_json(record.prediction if record else None),
        "cam": _cam_json(record.cam) if record and record.cam else None,
        "shape": micrograph.shape if micrograph else None,
        "pixel_size_nm": micrograph.pixel_size_nm if micrograph else None,
        "acquired": iso(micrograph.acquired) if micrograph and micrograph.acquired else None,
        "instrument": micrograph.instrument.model_dump() if micrograph else None,
        "model": {"name": record.model.name, "version": record.model.version} if record else None,
    }


def read_events(connection: sqlite3.Connection, content: str | None) -> list[dict[str, Any]]:
    """Return what people said of these bytes, the oldest first, each with `void`. Raises what SQLite does."""
    rows = connection.execute(_EVENTS, (content, MOST_EVENTS)).fetchall()
    return [event for record, void in reversed(rows) for event in _event(record, bool(void))]


def _prediction_json(prediction: PredictionRecord | None) -> dict[str, Any]:
    if prediction is None:
        return {
            "probabilities": [],
            "novelty": None,
            "novelty_threshold": None,
            "confidence_threshold": None,
            "tiles": 0,
        }
    return {
        # A record keeps them in the order of the model's manifest.
        "probabilities": [
            {"label": label, "probability": value} for label, value in prediction.probabilities.items()
        ],
        "novelty": prediction.novelty,
        "novelty_threshold": prediction.novelty_threshold,
        "confidence_threshold": prediction.confidence_threshold,
        "tiles": len(prediction.tiles),
    }


def _cam_json(cam: CamRecord) -> dict[str, Any]:
    return {
        "label": cam.label,
        "method": cam.method,
        "box_px": cam.box_px,
        "grid": cam.grid,
        "values": cam.values,
    }


def _event(record: str, void: bool) -> list[dict[str, Any]]:
    """Return the event with whether it still counts; none where the journal holds something else."""
    try:
        return [{**json.loads(record), "void": void}]
    except (ValueError, TypeError, RecursionError):
        return []
