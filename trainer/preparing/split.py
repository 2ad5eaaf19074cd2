"""Which crops train, which validate, which test: never two crops of one group on different sides.

Only this module knows which rules there are and how groups are dealt out: stratified by class, the same on every
machine for the same seed. Two crops of one micrograph, or two micrographs of one session, on both sides of a
split measure memory, not recognition. (What belongs together under a rule is `preparing.grouping`'s.)

One rule does tear micrographs apart, "every-third": it is what this project replaces, kept so that its figures
can be compared.
"""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")
_PART_WORDS: Final[Mapping[str, Part]] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_COLUMN: Final = "column:"
_RULES: Final = ("micrograph", "folder", "session", "day", "every-third")


class PrepareError(Exception):
    """The data, as it lies there, cannot become a data set; the text says what was seen and what to do."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join the first few of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def part_named(word: str) -> Part | None:
    """Return the part that a word in a table or a folder's name stands for, in any case; None for other words."""
    return _PART_WORDS.get(word.strip().lower())


def noted(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """What a person should know of some files, as a note that counts and names them; () for no file."""
    return (f"{what}: {len(names)} ({listed(names)})",) if names else ()


class SplitRule(BaseModel):
    """What must stay together, and how much goes where. What is neither test nor validation trains."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: str = "micrograph"
    """What is never torn apart (see `preparing.grouping`): "micrograph", "folder", "session", "day" or
    "column:NAME" of the labels table. Or "every-third": every third crop tests, every sixth validates, and
    micrographs are torn."""
    test: float = Field(default=0.2, ge=0, lt=1)
    validation: float = Field(default=0.15, ge=0, lt=1)
    part_column: str | None = None
    """Column of the labels table with ready-made parts; then `test` and `validation` are not used."""
    part_folders: bool = False
    """The raw folder's own train, val and test folders gave the parts; then the fractions are not used either."""
    session_gap_hours: float = Field(default=2.0, gt=0, le=24 * 7)
    """A longer pause between two micrographs of one microscope begins a new session."""
    utc_offset_hours: float = Field(default=0.0, ge=-14, le=14)
    """The laboratory's time minus UTC: decides on which day a session began."""

    @field_validator("by")
    @classmethod
    def _known(cls, by: str) -> str:
        if by not in _RULES and not (by.startswith(_COLUMN) and by.removeprefix(_COLUMN).strip()):
            raise ValueError(f"a split is by {', '.join(_RULES)} or column:NAME, not by {by!r}")
        return by

    @model_validator(mode="after")
    def _something_trains(self) -> SplitRule:
        if self.train < 0.05:
            raise ValueError(
                f"test ({self.test:g}) and validation ({self.validation:g}) leave less than 0.05 for training"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_parts(self) -> SplitRule:
        if self.part_column is not None and self.part_folders:
            raise ValueError("ready-made parts come from a column or from folders, not from both")
        if tears_micrographs(self) and (self.part_column is not None or self.part_folders):
            raise ValueError("every-third makes the parts itself; leave the ready-made ones out")
        return self

    @property
    def train(self) -> float:
        """Fraction of the crops that train."""
        return 1.0 - self.test - self.validation

    @property
    def group_column(self) -> str | None:
        """The labels table's column that names the group, where the rule asks for one."""
        return self.by.removeprefix(_COLUMN).strip() if self.by.startswith(_COLUMN) else None


def tears_micrographs(rule: SplitRule) -> bool:
    """Whether crops of one micrograph may stand in several parts, so that only crops can be scored."""
    return rule.by == "every-third"


class Splittable(Protocol):
    """What this module reads of a crop."""

    @property
    def crop_id(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str | None: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102
    @property
    def part(self) -> str: ...  # noqa: D102
    @property
    def kept(self) -> bool: ...  # noqa: D102


class Fold(NamedTuple):
    """One fold of a cross-validation: crop ids, in the order in which the crops were given."""

    train_ids: tuple[str, ...]
    held_out_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelsTable:
    """A CSV with one row a file: which sample, article or session it is from, perhaps which part."""

    path: Path
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, str]]

    def value(self, source: str, column: str) -> str:
        """Return the cell of `source` (relative to the raw folder), "" where the table has no such row."""
        return self.rows.get(file_key(source), {}).get(column, "")

    def covers(self, source: str) -> bool:
        """Whether the table has a row for this file."""
        return file_key(source) in self.rows

    def without_file(self, sources: Iterable[str]) -> tuple[str, ...]:
        """Return the rows' files that are not among `sources`, in the table's order."""
        there = {file_key(source) for source in sources}
        return tuple(file for file in self.rows if file not in there)

    def part(self, source: str, column: str) -> Part | None:
        """Return the ready-made part of a file, None for an empty cell; PrepareError for any other word."""
        word = self.value(source, column).lower()
        part = part_named(word)
        if word and part is None:
            raise PrepareError(
                f"{self.path}: column {column!r} says {word!r} for {source}; "
                "it takes train, val (or validation) and test"
            )
        return part


def read_labels_table(path: Path, needed_columns: Iterable[str] = ()) -> LabelsTable:
    """Read a CSV (comma, semicolon or tab, UTF-8) with a `file` column relative to the raw folder.

    Raises PrepareError when it cannot be read, lacks a column, or says two things about one file.
    """
    text = _table_text(path)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    columns = tuple(name.strip() for name in reader.fieldnames or ())
    for column in ("file", *needed_columns):
        if column not in columns:
            seen = ", ".join(columns) or "nothing"
            raise PrepareError(f"{path}: has no column {column!r} (its columns: {seen}); name one it has")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in enumerate(reader, start=2):
        row = {str(name).strip(): str(cell or "").strip() for name, cell in cells.items() if name is not None}
        if row["file"] and rows.setdefault(file_key(row["file"]), row) != row:
            raise PrepareError(f"{path}: row {number} says something else about {row['file']}; keep one row")
    return LabelsTable(path, columns, rows)


def _table_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PrepareError(f"{path}: the labels table cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PrepareError(f'{path}: is not UTF-8 text; save it as "CSV UTF-8" and try again') from error


def file_key(file: str) -> str:
    """One spelling for one file: macOS decomposes accents, Windows writes backslashes."""
    return PurePosixPath(unicodedata.normalize("NFC", file).replace("\\", "/")).as_posix()


def assign_parts(crops: Sequence[Splittable], rule: SplitRule, seed: int) -> tuple[Part, ...]:
    """Deal whole groups to the parts, so that every class is divided as the rule's fractions say.

    One answer a crop, in their order. A class with as many groups as parts stands in every part; one with
    fewer groups fills train first, then test. The crops' own `part` is not looked at. "every-third" counts crops
    instead, and there `seed` says where the counting begins.
    """
    if tears_micrographs(rule):
        return _every_third(crops, seed)
    shares = {"train": rule.train, "test": rule.test, "validation": rule.validation}
    used = [part for part in ("train", "test", "validation") if shares[part] > 0]
    groups = _count_groups(crops)
    dealt = _deal(groups, [shares[part] for part in used], seed)
    return tuple(_PART_WORDS[used[dealt[crop.group]]] for crop in crops)


def _every_third(crops: Sequence[Splittable], shift: int) -> tuple[Part, ...]:
    """Every third crop of a class tests, every sixth validates, the others train: half of all.

    Counted in the order of files and, within a file, in the order given (of boxes).
    """
    cycle: tuple[Part, ...] = ("train", "train", "test", "validation", "train", "test")
    parts: dict[int, Part] = {}
    counts: Counter[str] = Counter()
    for at in sorted(range(len(crops)), key=lambda at: crops[at].source):
        parts[at] = cycle[(counts[crops[at].label] + shift) % len(cycle)]
        counts[crops[at].label] += 1
    return tuple(parts[at] for at in range(len(crops)))


def grouped_folds(crops: Iterable[Splittable], folds: int, seed: int) -> tuple[Fold, ...]:
    """Divide the kept crops into `folds` held-out sets, grouped, and stratified by class.

    Every crop is held out exactly once, and every fold holds out something of each class. Raises PrepareError
    where that is impossible (a class with fewer groups than folds) or was not reached (classes share groups).
    """
    kept = [crop for crop in crops if crop.kept]
    if folds < 2:
        raise PrepareError(f"{folds} folds were asked for; a cross-validation needs at least 2")
    groups = _count_groups(kept)
    for column, label in enumerate(groups.labels):
        found = int(np.count_nonzero(groups.counts[:, column]))
        if found < folds:
            raise PrepareError(
                f"class {label!r} has {found} groups, {folds} folds need at least {folds}; "
                "ask for fewer folds, or add micrographs of that class"
            )
    dealt = _deal(groups, [1 / folds] * folds, seed)
    if len({(dealt[crop.group], crop.label) for crop in kept}) < folds * len(groups.labels):
        raise PrepareError(
            f"{folds} folds: one would hold out nothing of some class, because groups are shared by several "
            f"classes; ask for fewer folds, or another seed than {seed}"
        )
    return tuple(
        Fold(
            tuple(crop.crop_id for crop in kept if dealt[crop.group] != fold),
            tuple(crop.crop_id for crop in kept if dealt[crop.group] == fold),
        )
        for fold in range(folds)
    )


@dataclass(frozen=True, slots=True)
class _Groups:
    """How many crops of each class each group holds: `counts` is [groups, classes]."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    counts: NDArray[np.float64]


def _count_groups(crops: Sequence[Splittable]) -> _Groups:
    tally = Counter((crop.group, crop.label) for crop in crops)
    names = tuple(sorted({group for group, _ in tally}))
    labels = tuple(sorted({label for _, label in tally}))
    counts = np.zeros((len(names), len(labels)))
    rows = {name: at for at, name in enumerate(names)}
    columns = {label: at for at, label in enumerate(labels)}
    for (group, label), number in tally.items():
        counts[rows[group], columns[label]] = number
    return _Groups(names, labels, counts)


def _deal(groups: _Groups, shares: Sequence[float], seed: int) -> dict[str, int]:
    """Give each group to one of `shares`' places; group name -> place.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) on whole groups: the group that holds the
    largest shares of the classes goes first, each to the place that lacks most of what it holds.
    """
    totals = groups.counts.sum(axis=0)
    fractions = groups.counts / totals
    wanted = np.outer(shares, np.ones_like(totals))
    filled = np.zeros_like(wanted)
    waiting = np.count_nonzero(groups.counts, axis=0)
    placed: dict[str, int] = {}
    lots = [_draw(seed, name) for name in groups.names]
    for at in sorted(range(len(lots)), key=lambda at: (-fractions[at].sum(), lots[at])):
        held = fractions[at] > 0
        # Squared distance to the wanted fractions; its quadratic term is the same for every place.
        lacking = np.round((wanted - filled) @ fractions[at], 9)
        fullness = np.round(filled.sum(axis=1) / np.asarray(shares), 9)
        place = min(_open_places(held, filled, waiting), key=lambda p: (-lacking[p], fullness[p], p))
        placed[groups.names[at]] = place
        filled[place] += fractions[at]
        waiting[held] -= 1
    return placed


def _open_places(
    held: NDArray[np.bool_], filled: NDArray[np.float64], waiting: NDArray[np.intp]
) -> list[int]:
    """All places, or only those still without a class whose remaining groups just suffice to reach them."""
    places = set(range(len(filled)))
    for column in np.flatnonzero(held):
        empty = set(np.flatnonzero(filled[:, column] == 0).tolist())
        if empty & places and waiting[column] <= len(empty):
            places &= empty
    return sorted(places)


def _draw(seed: int, name: str) -> bytes:
    """Draw a group's lot from seed and name alone: no random stream that a new numpy may change."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
