"""A finding: what became of one file, in the short form that travels between processes and into the journal.

Only this module knows its form as a line of text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from edge_agent.files import FileStamp

FindingOutcome = Literal[
    "classified",
    "not_an_image",
    "unreadable",
    "quarantined",
    "incomplete",
    "vanished",
    "refused",
    "failed",
    "crashed",
    "interrupted",
]
"""What one examination can come to. Of the last six no sidecar is written: `incomplete` (somebody is still
writing), `vanished` (deleted meanwhile), `refused` (its outputs have no possible name), `failed` (the outputs
could not be written, or a fault of ours), `crashed` (the worker died of it, or took too long), `interrupted`
(the worker was ended while it waited for a disk, or to let other files pass: nothing against the file)."""


class Milliseconds(BaseModel):
    """Time spent in each stage; null where it did not run. `write` is the heatmap's, written before this."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    read: float | None = None
    preprocess: float | None = None
    infer: float | None = None
    heatmap: float | None = None
    write: float | None = None


def _as_json(value: object) -> object:
    if isinstance(value, FileStamp):
        return {name: getattr(value, name) for name in value.__slots__}
    if isinstance(value, Milliseconds):
        return value.model_dump(exclude_none=True)
    return value.isoformat() if isinstance(value, datetime) else str(value)


_LINE: Final = json.JSONEncoder(default=_as_json, allow_nan=False)
_TIMES: Final = ("stages", "settled", "finished")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one file. `sidecar` and `heatmap` are None where none was written."""

    path: Path
    outcome: FindingOutcome
    reason: str | None = None
    label: str | None = None
    probability: float | None = None
    decision: str | None = None
    reasons: tuple[str, ...] = ()
    sidecar: Path | None = None
    heatmap: Path | None = None
    stamp: FileStamp | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    model_sha256: str | None = None
    milliseconds: float = 0.0
    novelty: float | None = None
    contrast: float | None = None
    pixel_size_nm: float | None = None
    """Along a row."""
    inferred: bool = True
    """False where the answer is that of the same content under an earlier name."""
    stages: Milliseconds = field(default=Milliseconds(), compare=False)
    """Of the examination; these three times are no part of what was found, and the journal keeps none of them."""
    settled: datetime | None = field(default=None, compare=False)
    finished: datetime | None = field(default=None, compare=False)

    def to_json(self, *, times: bool = True) -> str:
        """Return one line; names that are no UTF-8 survive, because JSON's escapes carry lone surrogates."""
        # Not asdict, which copies everything deeply: a start without a journal needs 100,000 of these lines.
        return _LINE.encode(
            {name: getattr(self, name) for name in self.__slots__ if times or name not in _TIMES}
        )

    @classmethod
    def from_json(cls, text: str) -> Finding:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError on anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
        except RecursionError:
            raise ValueError("brackets in brackets without end") from None
        for key in ("path", "sidecar", "heatmap"):
            values[key] = None if values[key] is None else Path(values[key])
        values["stamp"] = None if values["stamp"] is None else FileStamp(**values["stamp"])
        values["reasons"] = tuple(values["reasons"])
        values["stages"] = Milliseconds(**values.get("stages", {}))
        for key in ("settled", "finished"):
            values[key] = _moment(values.get(key))
        return cls(**values)


def _moment(text: str | None) -> datetime | None:
    """Read a time with its offset from UTC: without one it cannot be compared with others."""
    moment = None if text is None else datetime.fromisoformat(text)
    if moment is not None and moment.tzinfo is None:
        raise ValueError(f"{text} is a time without its offset from UTC")
    return moment


@dataclass(frozen=True, slots=True)
class Twin:
    """An earlier file of the same size and time whose answer holds for equal content (`sha256`) as well."""

    path: Path
    sha256: str
