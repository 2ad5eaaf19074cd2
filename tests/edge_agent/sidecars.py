"""A record as the contract has it, and files that are finished: with a sidecar and a heatmap beside them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from edge_agent.files import FileStamp, stamp_of
from edge_agent.sidecar import OutputPlan, Sidecar, source_record, write_record

if TYPE_CHECKING:
    from pathlib import Path

STAMP = FileStamp(size_bytes=8388608, modified_ns=1_777_777_777_123_456_789, device=1, inode=2)
CONTRACT = {
    "schema": "scopewatch.sidecar/1",
    "outcome": "classified",
    "reason": None,
    "source": {
        "path": "/data/a.dm3", "bytes": 8388608, "modified": "2026-05-03T03:09:37.123456Z",
        "sha256": "ab" * 32, "fingerprint": "fp1:1",
    },
    "micrograph": {
        "shape": [2048, 1024], "dtype": "int16", "pixel_size_nm": [0.12, 0.12], "dataset_index": 1,
        "frame_index": None, "datasets": ["thumbnail", "image"], "acquired": "2026-05-03T03:09:30Z",
        "acquired_text": "5/3/2026 5:09:30 AM",
        "instrument": {
            "voltage_kv": 200.0, "magnification": 40000.0, "imaging_mode": "IMAGING", "operation_mode": "TEM",
            "signal": "HAADF", "device": "camera",
        },
        "field": {
            "blank": False, "saturated_fraction": 0.001, "hot_pixels": 3, "sharpness": 0.2, "streaks": 1.1,
            "diffraction": 0.1, "contrast": 0.21, "skewness": 0.9,
        },
        "pixel_size_replaced": {"magnification": 40000.0, "file_pixel_size_nm": [0.11, 0.11]},
    },
    "prediction": {
        "label": "round", "decision": "accept", "reasons": [],
        "probabilities": {"faceted": 0.02, "rod": 0.01, "round": 0.97}, "novelty": 0.31,
        "novelty_threshold": 1.0,
        "tiles": [{"box_px": [0, 0, 1024, 2048], "probabilities": {"round": 1.0}}],
        "confidence_threshold": 0.5, "tile_disagreement": None, "doubts": {"novelty": 0.2, "confidence": 0.1},
    },
    "cam": {
        "label": "round", "method": "cam", "box_px": [0, 0, 1024, 2048], "grid": [1, 2],
        "values": [[0.0, 1.5]],
        "composition": "mean_where_overlapping",
        "heatmap": "a.dm3.heatmap.png", "heatmap_sha256": "cd" * 32,
    },
    "model": {"name": "particle-shape", "version": "1", "sha256": "ef" * 32},
    "agent": {
        "version": "0.1.0",
        "host": "scope",
        "settled": "2026-05-03T03:09:39Z",
        "finished": "2026-05-03T03:09:40Z",
        "milliseconds": {"read": 1.0, "preprocess": 2.0, "infer": 3.0, "heatmap": 4.0, "write": 5.0},
        "instrument": {"name": "Titan, room 12", "microscope": "FEI Titan", "camera": None},
    },
}  # fmt: skip


def record(**changes: object) -> Sidecar:
    return Sidecar.model_validate_json(json.dumps(CONTRACT | changes))


def finish(
    path: Path, *, content: bytes = b"micrograph", modified_ns: int = 10**18, **changes: object
) -> FileStamp:
    """Make a file that is done, as far as `stat` and its sidecar can tell; return its stamp."""
    path.write_bytes(content)
    os.utime(path, ns=(modified_ns, modified_ns))
    stamp = stamp_of(path)
    place = OutputPlan().place(path)
    place.heatmap.write_bytes(b"png")
    source = source_record(path, stamp, "ab" * 32, "fp1:1").model_dump(mode="json")
    cam = CONTRACT["cam"] | {"heatmap": place.heatmap.name.encode("utf-8", "backslashreplace").decode()}
    write_record(place, record(**({"source": source, "cam": cam} | changes)))
    return stamp
