"""What became of one file, in short: what travels between processes, into the journal and to whoever listens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from edge_agent.files import FileStamp

Outcome = Literal["classified", "not_an_image", "unreadable", "quarantined"]
"""What a sidecar can say of a file."""
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
UNWRITABLE: Final = "outputs cannot be written"
"""How the reason of a `failed` finding begins when the fault is not the file's."""
RECORDED: Final[frozenset[str]] = frozenset({"classified", "not_an_image", "unreadable", "quarantined"})


def _as_json(value: object) -> object:
    if isinstance(value, FileStamp):
        return {name: getattr(value, name) for name in value.__slots__}
    return str(value)


_LINE: Final = json.JSONEncoder(default=_as_json, allow_nan=False)


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

    def to_json(self) -> str:
        """Return one line; names that are no UTF-8 survive, because JSON's escapes carry lone surrogates."""
        # Not asdict, which copies everything deeply: a start without a journal needs 100,000 of these lines.
        return _LINE.encode({name: getattr(self, name) for name in self.__slots__})

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
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Twin:
    """An earlier file of the same size and time whose answer holds for equal content (`sha256`) as well."""

    path: Path
    sha256: str
