"""Micrographs of each class by part: from the data set, or from the table of it in the bundle."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle
    from trainer.preparing.crops import DataSet

_LABELS: Final = "labels.csv"


def class_counts(bundle: Bundle, data: DataSet | None) -> list[tuple[str, dict[str, int], int]]:
    """Micrographs by class and part, and groups by class: from the data set, or from the bundle's own table."""
    rows = (
        [(crop.source, crop.label, crop.group, str(crop.part)) for crop in data.kept]
        if data is not None
        else _recorded_labels(bundle)
    )
    found = []
    for label in sorted({row[1] for row in rows}):
        mine = {(source, part) for source, its, _, part in rows if its == label}
        groups = len({group for _, its, group, _ in rows if its == label})
        found.append((label, dict(Counter(part for _, part in mine)), groups))
    return found


def _recorded_labels(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    if _LABELS not in bundle.manifest.sha256:
        return []
    text = (bundle.path / _LABELS).read_text(encoding="utf-8-sig")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = ("file", "label", "group", "part")
    return [tuple(row.get(name) or "" for name in columns) for row in reader]  # type: ignore[misc]
