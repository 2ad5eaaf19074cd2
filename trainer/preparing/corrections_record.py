"""What a data set says of the corrections that went into it, as a part of `dataset.json` and in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import BaseModel, ConfigDict

from trainer.preparing.corrections import BLIND
from trainer.preparing.split import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HELD_BACK: Final = "held back"
"""Kind of the reason of a corrected micrograph that would make corrections too large a share of its class."""
_COLUMNS: Final = (*PARTS, "blind", HELD_BACK, "of the raw folder")


class CorrectionsRecord(BaseModel):
    """Where labels came from, what they decided, and where the micrographs lie that were found by them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roots: tuple[str, ...]
    fingerprint: str
    """Hash of what was decided about which contents."""
    share: float
    """The largest part of a class's training micrographs that corrections not given blind may add."""
    label_files: int
    verdicts: int
    """Micrographs of which people said something that counts."""
    people: dict[str, int]
    """Who said something of how many micrographs."""
    files: dict[str, str]
    """Micrographs that do not lie in the class folders: source -> path."""
    missing: dict[str, str]
    """Labelled contents that no file holds any more -> the file's name."""
    disputed: dict[str, str]
    """Contents about which people disagree -> who said what."""
    not_in_list: tuple[str, ...]
    """Contents that are no class of the model."""
    unknown_class: dict[str, str]
    """Contents with a class that the raw folder has not -> that class."""
    unreadable: tuple[str, ...]
    """Label files that could not be read, each with the reason."""


class Corrected(Protocol):
    """What is read of a crop."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def part(self) -> str: ...  # noqa: D102
    @property
    def kept(self) -> bool: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def correction(self) -> str: ...  # noqa: D102


def corrections_text(record: CorrectionsRecord, crops: Iterable[Corrected]) -> list[str]:
    """Say in a few lines what corrections gave, by class and by person, and what of them was left out."""
    people = ", ".join(f"{name} ({number})" for name, number in record.people.items()) or "nobody"
    lines = [
        f"corrections: {record.label_files} label files, labels of {record.verdicts} micrographs by {people}"
    ]
    by_label: dict[str, Counter[str]] = {}
    for crop in {crop.source: crop for crop in crops if crop.correction}.values():
        counts = by_label.setdefault(crop.label, Counter())
        if crop.kept:
            counts[crop.part] += 1
            counts["blind"] += crop.correction.startswith(BLIND)
            counts["of the raw folder"] += crop.source not in record.files
        counts[HELD_BACK] += crop.reason.startswith(HELD_BACK)
    if by_label:
        rows = [
            (label, *(str(counts[name]) for name in _COLUMNS)) for label, counts in sorted(by_label.items())
        ]
        lines += aligned([("class by a person", *_COLUMNS), *rows])
    return lines


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
