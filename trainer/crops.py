"""Folders of labelled micrographs -> a data set: which crops, of which class, in which part, or why not.

Only this module knows which files below the raw folder are taken, and in which order their fate is decided:
chosen by folder, read and cut (`trainer.cutting`, with the agent's own code), screened for copies, grouped,
dealt to the parts. Nothing is ever written below the raw folder.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from trainer.crop_table import (
    Crop,
    DataSet,
    dropped_files,
    fingerprint_of,
    load_dataset,
    load_pixels,
    save,
    summary,
)
from trainer.cutting import CutFile, CutPlan, cut_files
from trainer.duplicates import without_copies
from trainer.split import (
    PARTS,
    LabelsTable,
    PrepareError,
    SplitRule,
    assign_parts,
    group_of,
    listed,
    read_labels_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edge_agent.preprocessing import Preprocessing

__all__ = ["Crop", "DataSet", "PrepareError", "load_dataset", "load_pixels", "prepare", "summary"]

PICTURE_SUFFIXES: Final = frozenset({".dm3", ".dm4", ".tif", ".tiff", ".png", ".jpg", ".jpeg"})


def prepare(
    raw: Path,
    out: Path,
    *,
    preprocessing: Preprocessing,
    split: SplitRule,
    cache_px: int,
    labels_table: Path | None = None,
    classes: tuple[str, ...] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> DataSet:
    """Make the data set folder `out` from the class folders below `raw`; a rerun skips files done before.

    `cache_px` is the side of the square whose area a cached crop has (no crop is enlarged). `classes` chooses
    class folders; by default all with at least one usable picture are taken. `progress(done, total)` counts
    files. A file that cannot be used is dropped with its reason; PrepareError is raised where no data set for
    a classifier can come of it, or a path, table or option is wrong.
    """
    _check_call(raw, out, cache_px, split, labels_table)
    needed = [column for column in (split.group_column, split.part_column) if column]
    table = read_labels_table(labels_table, needed) if labels_table else None
    found, others = _scan(raw, classes)
    plan = CutPlan(raw, out, preprocessing, cache_px)
    cuts = cut_files([source for source, reason in found if not reason], plan, progress, workers)
    rows = _parted(_rows(found, cuts, split, table), split, table, seed)
    labels = _labels(raw, rows, classes)
    notes = (*_other_files(others), *_table_notes(rows, split, table), *_part_notes(rows, labels, split))
    crops = tuple(rows)
    dataset = DataSet(
        out, labels, crops, preprocessing, raw.resolve(), seed,
        fingerprint_of(labels, crops, preprocessing, cache_px), split, cache_px, notes,
    )  # fmt: skip
    save(dataset)
    return dataset


def _check_call(raw: Path, out: Path, cache_px: int, split: SplitRule, labels_table: Path | None) -> None:
    if not raw.is_dir():
        raise PrepareError(f"{raw}: there is no such folder; name the folder that holds the class folders")
    if out.resolve().is_relative_to(raw.resolve()):
        raise PrepareError(f"{out}: lies inside the raw folder {raw}, which stays untouched; choose another")
    if out.exists() and not out.is_dir():
        raise PrepareError(f"{out}: is a file; name a folder for the data set")
    if not 16 <= cache_px <= 8192:
        raise PrepareError(f"cache_px is {cache_px}; it must lie between 16 and 8192")
    for column in (split.group_column, split.part_column):
        if column and labels_table is None:
            raise PrepareError(f"the split uses column {column!r} of a labels table; name that CSV file too")


def _scan(raw: Path, classes: tuple[str, ...] | None) -> tuple[list[tuple[str, str]], Counter[str]]:
    """Every picture file below `raw` with "" or the reason not to read it; what other files there are."""
    try:
        names = sorted(path.name for path in raw.iterdir() if path.is_dir() and not path.name.startswith("."))
        files = sorted(path.relative_to(raw).as_posix() for path in _walk(raw, set()))
    except OSError as error:
        raise PrepareError(f"{error.filename}: cannot be listed ({error.strerror}); allow it") from error
    if not names:
        raise PrepareError(f"{raw}: has no class folders; put each class's micrographs into its own folder")
    for label in classes or ():
        if label not in names:
            raise PrepareError(f"{raw}: has no class folder {label!r}; it has {listed(names)}")
    pictures = [file for file in files if PurePosixPath(file).suffix.lower() in PICTURE_SUFFIXES]
    suffixes = Counter(PurePosixPath(file).suffix.lower() or "no suffix" for file in files)
    others = Counter({name: number for name, number in suffixes.items() if name not in PICTURE_SUFFIXES})
    return [(_printable(file), _unread(file, classes)) for file in pictures], others


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """All files below a folder; linked folders are followed, each real folder once."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _walk(path, seen)
        else:
            yield path


def _printable(name: str) -> str:
    """Return the name itself, unless it holds bytes that are no text (Linux allows any)."""
    return name.encode("utf-8", "backslashreplace").decode()


def _unread(source: str, classes: tuple[str, ...] | None) -> str:
    folders = PurePosixPath(source).parts[:-1]
    if not folders:
        return "outside any class folder"
    if any(name.startswith(".") for name in PurePosixPath(source).parts):
        return "hidden file or folder"
    if classes is not None and folders[0] not in classes:
        return f"class folder excluded: {folders[0]}"
    return "" if source == _printable(source) else "file name is not Unicode: rename it"


def _rows(
    found: Sequence[tuple[str, str]], cuts: Sequence[CutFile], split: SplitRule, table: LabelsTable | None
) -> list[Crop]:
    by_source = {cut.source: cut for cut in without_copies(cuts)}
    rows: list[Crop] = []
    for source, reason in found:
        cut = by_source.get(source) or CutFile(source=source, reason=reason)
        rows += _crops_of(cut, group_of(source, cut.content, split, table) if cut.content else "")
    return rows


def _crops_of(cut: CutFile, group: str) -> list[Crop]:
    source = cut.source
    folders = PurePosixPath(source).parts[:-1]
    boxes = [(crop.box_px, crop.cached) for crop in cut.crops] if not cut.reason else []
    return [
        Crop(
            crop_id=hashlib.sha256(f"{source}\0{cut.content}\0{box}".encode()).hexdigest()[:16],
            source=source,
            sha256=cut.sha256,
            label=folders[0] if folders else "",
            group=group,
            box_px=box,
            shape_px=cut.shape_px,
            pixel_size_nm=cut.pixel_size_nm,
            part="",
            kept=not cut.reason,
            reason=cut.reason,
            cached=cached,
        )
        for box, cached in boxes or [((0, 0, cut.shape_px[1], cut.shape_px[0]), "")]
    ]


def _labels(raw: Path, rows: Iterable[Crop], classes: tuple[str, ...] | None) -> tuple[str, ...]:
    rows = list(rows)
    labels = sorted({crop.label for crop in rows if crop.kept})
    for label in sorted(set(classes or ()) - set(labels)):
        reasons = Counter(crop.reason for crop in rows if crop.label == label).most_common(3)
        seen = "; ".join(f"{number} x {reason}" for reason, number in reasons) or "no picture file in it"
        raise PrepareError(
            f"{raw / label}: class {label!r} has no usable micrograph ({seen}); "
            "add some or leave the class out"
        )
    if len(labels) < 2:
        why = listed([f"{number} x {kind}" for kind, number in dropped_files(rows).items()])
        raise PrepareError(
            f"{raw}: a classifier needs two classes with usable micrographs, found "
            f"{listed(labels) or 'none'} (dropped: {why or 'no file'}); "
            f"put {' '.join(sorted(PICTURE_SUFFIXES))} files into two class folders or more"
        )
    return tuple(labels)


def _parted(rows: Sequence[Crop], split: SplitRule, table: LabelsTable | None, seed: int) -> list[Crop]:
    if split.part_column and table is not None:
        return [_told_part(crop, table, split.part_column) if crop.kept else crop for crop in rows]
    kept = [crop for crop in rows if crop.kept]
    parts = iter(assign_parts(kept, split, seed))
    return [replace(crop, part=next(parts)) if crop.kept else crop for crop in rows]


def _told_part(crop: Crop, table: LabelsTable, column: str) -> Crop:
    part = table.part(crop.source, column)
    if part is None:
        return replace(crop, kept=False, cached="", reason=f"no part: the labels table's {column} is empty")
    return replace(crop, part=part)


def _table_notes(rows: Sequence[Crop], split: SplitRule, table: LabelsTable | None) -> Iterator[str]:
    sources = sorted({crop.source for crop in rows})
    kept = sorted({crop.source for crop in rows if crop.kept})
    if split.by == "folder":
        loose = [source for source in kept if len(PurePosixPath(source).parts) < 3]
        yield from _note("files in no sub-folder, each a group of its own", loose)
    if table is None:
        return
    yield from _note(f"rows of {table.path.name} without a file", table.without_file(sources))
    unknown = [source for source in kept if not table.covers(source)]
    yield from _note(f"files without a row in {table.path.name}", unknown)
    column = split.group_column
    if column:
        empty = [source for source in kept if table.covers(source) and not table.value(source, column)]
        yield from _note(f"files with an empty {column}, each a group of its own", empty)


def _note(what: str, files: Sequence[str]) -> Iterator[str]:
    if files:
        yield f"{what}: {len(files)} ({listed(files)})"


def _other_files(others: Counter[str]) -> Iterator[str]:
    if others:
        yield f"files of other kinds, not looked at: {others.total()} ({listed(sorted(others))})"


def _part_notes(rows: Sequence[Crop], labels: Sequence[str], split: SplitRule) -> Iterator[str]:
    there = {(crop.label, crop.part) for crop in rows if crop.kept}
    asked = {"train": True, "validation": split.validation > 0, "test": split.test > 0}
    why = "too few groups for the split"
    if split.part_column is not None:  # a part that the column never names was not asked for
        asked = {part: any(part == seen for _, seen in there) for part in PARTS}
        why = f"the column {split.part_column!r} puts none there"
    for label in labels:
        missing = [part for part in PARTS if asked[part] and (label, part) not in there]
        if missing:
            yield f"class {label!r} has no crop in {' and '.join(missing)}: {why}"
