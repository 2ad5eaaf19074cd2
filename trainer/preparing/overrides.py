"""What a person decided about crops against the screening: read from a CSV, applied to the table's rows.

Only this module knows that file (made by the contact sheet or by hand): columns `file` (relative to the raw
folder), `box` ("x0 y0 x1 y1", empty for every crop of the file), `decision` (keep or drop), `label` (another
class, for what is kept), `by`, `note`. A row about a box goes before one about its whole file.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, cast

from trainer.preparing.split import PrepareError, file_key, listed, noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from edge_agent.preprocessing import Box
    from trainer.preparing.crop_table import Crop

COLUMNS: Final = ("file", "box", "decision", "label", "by", "note")
_NEEDED: Final = ("file", "decision")
OVERRULED: Final = "overruled"
"""Kind of the reason of a crop that a person dropped."""


@dataclass(frozen=True, slots=True)
class Override:
    """One row: what becomes of a crop, or of all crops of a file."""

    row: int
    """Its line in the file, the header being 1."""
    file: str
    box_px: Box | None
    """None for every crop of the file."""
    decision: Literal["keep", "drop"]
    label: str
    """Another class, "" for the one it has."""
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Overrides:
    """All rows of one file, in its order; no two of them contradict each other."""

    path: Path
    rows: tuple[Override, ...]

    def by_place(self) -> dict[tuple[str, Box | None], Override]:
        """The rows under the file and box that they are about."""
        return {(file_key(row.file), row.box_px): row for row in self.rows}

    @property
    def kept_files(self) -> frozenset[str]:
        """The files (`file_key`) of which at least a box is to be kept."""
        return frozenset(file_key(row.file) for row in self.rows if row.decision == "keep")


def read_overrides(path: Path) -> Overrides:
    """Read a CSV (comma, semicolon or tab, UTF-8) of overrides.

    Raises PrepareError when it cannot be read, lacks a column, holds a row that says nothing that can be done, or
    two rows that contradict each other.
    """
    text = _text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    columns = tuple(name.strip().lower() for name in reader.fieldnames or ())
    for column in _NEEDED:
        if column not in columns:
            seen = ", ".join(columns) or "nothing"
            raise PrepareError(
                f"{path}: has no column {column!r} (its columns: {seen}); an overrides file has "
                f"{', '.join(COLUMNS)}"
            )
    found: dict[tuple[str, Box | None], Override] = {}
    try:
        for cells in reader:
            given = {str(name).strip().lower(): str(cell or "").strip() for name, cell in cells.items()}
            if any(given.get(column) for column in COLUMNS):
                _add(found, _override(path, reader.line_num, given), path)
    except csv.Error as error:
        raise PrepareError(f"{path}: row {reader.line_num} is no CSV ({error}); repair it") from error
    return Overrides(path, tuple(found.values()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PrepareError(f"{path}: the overrides cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise PrepareError(f'{path}: is not UTF-8 text; save it as "CSV UTF-8" and try again') from error


def _override(path: Path, row: int, given: dict[str, str]) -> Override:
    decision, label = given["decision"].lower(), given.get("label", "")
    if not given["file"]:
        raise PrepareError(f"{path}: row {row} names no file; give it one, or remove the row")
    if decision != "keep" and decision != "drop":
        raise PrepareError(
            f"{path}: row {row} decides {decision!r} for {given['file']}; it takes keep or drop"
        )
    if decision == "drop" and label:
        raise PrepareError(
            f"{path}: row {row} drops {given['file']} and gives it the class {label!r}; empty one of the two"
        )
    box = _box(path, row, given.get("box", ""))
    said = cast("Literal['keep', 'drop']", decision)
    return Override(row, given["file"], box, said, label, given.get("by", ""), given.get("note", ""))


def _box(path: Path, row: int, text: str) -> Box | None:
    numbers = text.replace(",", " ").split()
    if not numbers:
        return None
    if len(numbers) == 4 and all(number.isdecimal() for number in numbers):
        x0, y0, x1, y1 = map(int, numbers)
        if x0 < x1 and y0 < y1:
            return x0, y0, x1, y1
    raise PrepareError(
        f"{path}: row {row} has the box {text!r}; it takes four whole numbers x0 y0 x1 y1, or nothing for all "
        "crops of the file"
    )


def _add(found: dict[tuple[str, Box | None], Override], row: Override, path: Path) -> None:
    place = file_key(row.file), row.box_px
    first = found.setdefault(place, row)
    if (first.decision, first.label) != (row.decision, row.label):
        where = row.file if row.box_px is None else f"{row.file} {box_text(row.box_px)}"
        raise PrepareError(
            f"{path}: rows {first.row} and {row.row} contradict each other about {where} "
            f"({_said(first)}; {_said(row)}); remove one"
        )


def _said(row: Override) -> str:
    return f"{row.decision} as {row.label}" if row.label else row.decision


def box_text(box_px: Box) -> str:
    """Write a box as the column `box` has it."""
    return " ".join(map(str, box_px))


def matched(rows: Iterable[Crop], overrides: Overrides) -> dict[str, Override]:
    """Which override each crop has, by crop id; that of its box before that of its file."""
    places = overrides.by_place()
    found = {
        crop.crop_id: places.get((key, crop.box_px)) or places.get((key, None))
        for crop in rows
        for key in (file_key(crop.source),)
    }
    return {crop_id: override for crop_id, override in found.items() if override is not None}


def unmatched(rows: Iterable[Crop], overrides: Overrides) -> tuple[Override, ...]:
    """The overrides that are about no crop here: unknown files, and boxes that were not cut."""
    places: set[tuple[str, Box | None]] = set()
    for crop in rows:
        places |= {(file_key(crop.source), None), (file_key(crop.source), crop.box_px)}
    return tuple(row for row in overrides.rows if (file_key(row.file), row.box_px) not in places)


def overruled(rows: Sequence[Crop], overrides: Overrides) -> tuple[list[Crop], tuple[str, ...]]:
    """Apply a person's decisions to screened rows, before groups are dealt to parts; also what to tell about it.

    A kept crop whose twin was kept too shares its `near` afterwards, so that no split tears the two. Raises
    PrepareError for a class that no row has: a slip of the pen would become a class of its own.
    """
    decided = matched(rows, overrides)
    _require_known_labels(rows, decided, overrides)
    done: list[Crop] = []
    refused: dict[str, str] = {}
    for crop in rows:
        override = decided.get(crop.crop_id)
        if override is not None and override.decision == "keep" and not (crop.kept or crop.cached):
            refused[crop.source] = f"{crop.source} ({crop.reason})"
        elif override is not None:
            crop = _decided(crop, override)
        done.append(crop)
    done = _twins_together(rows, done)
    name = overrides.path.name
    notes = (
        *_told(name, rows, done),
        *_unmatched_notes(name, rows, overrides),
        *noted(f"{name}: cannot be kept, as there are no pixels of it", list(refused.values())),
        *_two_classes(name, rows, done),
    )
    return done, notes


def _require_known_labels(rows: Sequence[Crop], decided: dict[str, Override], overrides: Overrides) -> None:
    known = sorted({crop.label for crop in rows} - {""})
    for override in decided.values():
        if override.label and override.label not in known:
            raise PrepareError(
                f"{overrides.path}: row {override.row} gives {override.file} the class {override.label!r}, which "
                f"is none of {listed(known, 12)}; correct it, or make a class folder of that name"
            )


def _decided(crop: Crop, override: Override) -> Crop:
    who = f" by {override.by}" if override.by else ""
    if override.decision == "drop":
        why = f" ({override.note})" if override.note else ""
        return replace(crop, kept=False, reason=f"{OVERRULED}: dropped{who}{why}") if crop.kept else crop
    notes = [crop.note] if crop.note else []
    if not crop.kept:
        notes.append(f"kept by override{who}, was {crop.reason}")
    if override.label not in ("", crop.label):
        notes.append(f"class by override{who}, was {crop.label}")
    label = override.label or crop.label
    return replace(crop, kept=True, reason="", label=label, note="; ".join(notes))


def _twins_together(before: Sequence[Crop], after: Sequence[Crop]) -> list[Crop]:
    """Give a resurrected copy and its original one `near`: on two sides of a split they would be a leak."""
    names = {crop.source: crop.near for crop in after if crop.near}
    for was, crop in zip(before, after, strict=True):
        if was.kept or not crop.kept:
            continue
        family = {crop.source, *(other.source for other in after if other.kept and _same_picture(was, other))}
        if len(family) > 1:
            old = {names[source] for source in family if source in names}
            name = min(old, default=min(family))
            names |= {source: name for source in names if names[source] in old}
            names |= dict.fromkeys(family, name)
    return [replace(crop, near=names.get(crop.source, "")) for crop in after]


def _same_picture(was: Crop, other: Crop) -> bool:
    """Whether a crop was dropped as a copy of the other one, whatever found that out."""
    if was.source == other.source:
        return False
    same_bytes = was.sha256 is not None and was.sha256 == other.sha256
    return same_bytes or was.cached == other.cached or was.reason.endswith(f" as {other.source}")


def _told(name: str, before: Sequence[Crop], after: Sequence[Crop]) -> Iterator[str]:
    pairs = list(zip(before, after, strict=True))
    counts = {
        "dropped": sum(was.kept and not crop.kept for was, crop in pairs),
        "kept against the screening": sum(crop.kept and not was.kept for was, crop in pairs),
        "given another class": sum(was.label != crop.label for was, crop in pairs),
    }
    done = [f"{count} {what}" for what, count in counts.items() if count]
    if done:
        yield f"{name}: {', '.join(done)}"


def _unmatched_notes(name: str, rows: Sequence[Crop], overrides: Overrides) -> Iterator[str]:
    lost = unmatched(rows, overrides)
    files = {file_key(crop.source) for crop in rows}
    unknown = [row.file for row in lost if file_key(row.file) not in files]
    boxes = [
        f"{row.file} {box_text(row.box_px)}" for row in lost if row.box_px and file_key(row.file) in files
    ]
    yield from noted(f"{name}: files that are not in the raw folder", list(dict.fromkeys(unknown)))
    yield from noted(f"{name}: boxes that are no crop of their file (cut by another tile plan?)", boxes)


def _two_classes(name: str, before: Sequence[Crop], after: Sequence[Crop]) -> Iterator[str]:
    """Name pictures that a person kept in two classes: one of them teaches the contrary of the other."""
    by_pixels: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for was, crop in zip(before, after, strict=True):
        if crop.kept and (was.cached or crop.cached):
            by_pixels[crop.cached].add((crop.label, crop.source))
    torn = [pair for pair in by_pixels.values() if len({label for label, _ in pair}) > 1]
    names = [" and ".join(source for _, source in sorted(pair)) for pair in torn]
    yield from noted(f"{name}: the same picture is kept in two classes", names)
