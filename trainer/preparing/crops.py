"""Folders of labelled micrographs -> a data set: which crops, of which class, in which part, or why not.

Only this module knows in which order the fate of the files is decided: chosen by folder, read and cut
(`preparing.cutting`, with the agent's own code), screened for copies and quality, overruled by a person, grouped,
dealt to the parts. Nothing is ever written below the raw folder.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trainer.preparing.crop_table import (
    Crop,
    DataSet,
    dropped_files,
    fingerprint_of,
    load_dataset,
    load_pixels,
    save,
    summary,
)
from trainer.preparing.cutting import CutFile, CutPlan, cut_files
from trainer.preparing.duplicates import without_copies, without_near_copies
from trainer.preparing.grouping import Provenance, group_files
from trainer.preparing.joining import Newcomers, doubted, joined, relabelled
from trainer.preparing.newcomers import Taken, notes_of, record_of, take
from trainer.preparing.overrides import Overrides, matched, overruled
from trainer.preparing.raw_folder import PICTURE_SUFFIXES, RawFolder, read_raw_folder
from trainer.preparing.screening import ScreeningRule, screened
from trainer.preparing.split import (
    PARTS,
    LabelsTable,
    PrepareError,
    SplitRule,
    assign_parts,
    listed,
    noted,
    read_labels_table,
    tears_micrographs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edge_agent.preprocessing import Preprocessing
    from trainer.preparing.corrections import Corrections
    from trainer.preparing.near_duplicates import Embed

__all__ = ["Crop", "DataSet", "Order", "PrepareError", "load_dataset", "load_pixels", "prepare", "summary"]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of a raw folder, and how."""

    preprocessing: Preprocessing
    split: SplitRule
    cache_px: int
    """Side of the square whose area a cached crop has; no crop is enlarged."""
    screening: ScreeningRule = field(default_factory=ScreeningRule)
    labels_table: Path | None = None
    classes: tuple[str, ...] | None = None
    """Class folders to take; None: all with at least one usable picture."""
    overrides: Overrides | None = None
    corrections: Corrections | None = None
    """What people said of micrographs on the operator's page."""
    corrections_share: float = 0.3
    """The largest part of a class's training micrographs that corrections not given blind may add."""
    as_laid_out: bool = True
    """Whether train, val and test folders, where there are such, decide the parts."""
    seed: int = 0


def prepare(
    raw: Path,
    out: Path,
    order: Order,
    *,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    embed: Embed | None = None,
    workers: int | None = None,
) -> DataSet:
    """Make the data set folder `out` from the class folders below `raw`; a rerun skips files done before.

    `embed` is what tells near-duplicates apart (`preparing.near_duplicates`). A file that cannot be used is dropped
    with its reason; PrepareError is raised where no data set for a classifier can come of it, or a path, table or
    option is wrong.
    """
    split, table = order.split, _check(raw, out, order)
    folder = read_raw_folder(raw, order.classes)
    split = _rule_for(folder, split, order.as_laid_out)
    plan = _plan(raw, out, order)
    cuts = _screened(folder, plan, order.screening, progress, embed, workers)
    taken = Taken()
    if order.corrections is not None:
        taken = take(
            order.corrections, folder, cuts, plan, order.screening,
            kept=order.overrides.kept_files if order.overrides else (),
            progress=progress, embed=embed, workers=workers,
        )  # fmt: skip
    rows, new, overruling = _overruled(_rows(folder, cuts, taken), _new_rows(taken), order.overrides)
    contents = {cut.source: cut.content for cut in (*cuts, *taken.cuts)}
    rows, grouped = _grouped(rows, folder, contents, split, table)
    rows = _parted(rows, folder, split, table, order.seed)
    record, unheeded = None, []
    if order.corrections is not None:
        unheeded = doubted(rows, taken.verdict_of, folder.classes, split)
        rows = _corrected(rows, new, folder, taken, contents, split, table, order)
        record = record_of(order.corrections, taken, folder.classes, order.corrections_share)
    labels = _labels(raw, rows, folder.classes if order.classes else None)
    notes = (
        *folder.notes,
        *_other_files(Counter(folder.others)),
        *_table_notes(rows, table),
        *overruling,
        *grouped,
        *(notes_of(order.corrections, record) if order.corrections and record else ()),
        *noted(
            "corrections: held out, named otherwise by people who saw the answer, kept as they are", unheeded
        ),
        *_part_notes(rows, labels, split),
    )
    crops = tuple(rows)
    dataset = DataSet(
        out, labels, crops, order.preprocessing, raw.resolve(), order.seed,
        fingerprint_of(labels, crops, order.preprocessing, order.cache_px, record), split, order.cache_px, notes,
        order.screening, record,
    )  # fmt: skip
    save(dataset)
    return dataset


def _plan(raw: Path, out: Path, order: Order) -> CutPlan:
    crop = order.screening.on and order.screening.info_bars == "crop"
    return CutPlan(raw, out, order.preprocessing, order.cache_px, "crop" if crop else "keep")


def _check(raw: Path, out: Path, order: Order) -> LabelsTable | None:
    """Refuse what cannot come to anything before any work; return the labels table."""
    _check_call(raw, out, order.cache_px, order.split, order.labels_table)
    needed = [column for column in (order.split.group_column, order.split.part_column) if column]
    return read_labels_table(order.labels_table, needed) if order.labels_table else None


def _screened(
    folder: RawFolder,
    plan: CutPlan,
    rule: ScreeningRule,
    progress: Callable[[str, int, int], None],
    embed: Embed | None,
    workers: int | None,
) -> list[CutFile]:
    """Read and cut the files, and give those a reason that are copies or not worth learning from."""
    sources = [file.source for file in folder.to_read]
    cut = cut_files(sources, plan, lambda done, total: progress("micrographs", done, total), workers)
    cuts = screened(without_copies(cut, folder.label_of), rule)
    if not (rule.on and rule.near_duplicates):
        return cuts
    return without_near_copies(
        cuts, folder.label_of, plan.out, limits=rule.likeness, embed=embed, progress=progress
    )


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


def _rule_for(folder: RawFolder, split: SplitRule, as_laid_out: bool) -> SplitRule:
    """Note in the rule that the folders gave the parts, unless a table or every-third makes them."""
    made = split.part_column is not None or tears_micrographs(split)
    if folder.layout == "classes" or not as_laid_out or made:
        return split
    return split.model_copy(update={"part_folders": True})


def _rows(folder: RawFolder, cuts: Sequence[CutFile], taken: Taken) -> list[Crop]:
    """The class folders' files, but for those that come in by what a person said of them."""
    by_source = {cut.source: cut for cut in cuts}
    settled = {cut.source for cut in taken.cuts}
    rows: list[Crop] = []
    for file in folder.files:
        if file.source not in settled:
            cut = by_source.get(file.source) or CutFile(source=file.source, reason=file.reason)
            rows += _crops_of(cut, file.label)
    return rows


def _new_rows(taken: Taken) -> list[Crop]:
    rows: list[Crop] = []
    for cut in taken.cuts:
        verdict = taken.verdict_of[cut.source]
        told = f"correction: {verdict.label} {verdict.who}"
        note = "; ".join(filter(None, (cut.note, told)))
        rows += [replace(crop, correction=verdict.who, note=note) for crop in _crops_of(cut, verdict.label)]
    return rows


def _overruled(
    rows: list[Crop], new: list[Crop], overrides: Overrides | None
) -> tuple[list[Crop], list[Crop], tuple[str, ...]]:
    """Apply what was decided on the contact sheet; the last value is what to tell about it."""
    if overrides is None:
        return rows, new, ()
    done, notes = overruled([*rows, *new], overrides)
    return done[: len(rows)], done[len(rows) :], notes


def _corrected(
    dealt: list[Crop],
    new: list[Crop],
    folder: RawFolder,
    taken: Taken,
    contents: Mapping[str, str],
    split: SplitRule,
    table: LabelsTable | None,
    order: Order,
) -> list[Crop]:
    """Apply what people said to a data set whose parts are dealt, and let newcomers join it."""
    decided = matched([*dealt, *new], order.overrides) if order.overrides else {}
    rows = relabelled(dealt, taken.verdict_of, decided, folder.classes, split)
    files = {
        crop.source: Provenance(
            crop.source, contents[crop.source], taken.folders[crop.source], crop.acquired, crop.microscope
        )
        for crop in new
    }
    kept = {crop.source for crop in new if crop.crop_id in decided and crop.kept}
    newcomers = Newcomers(new, taken.verdict_of, files, taken.near, kept)
    share = order.corrections_share
    done = joined(dealt, rows, newcomers, split, table=table, share=share, seed=order.seed)
    return sorted(done, key=lambda crop: crop.source)


def _crops_of(cut: CutFile, label: str) -> list[Crop]:
    """A row for each box; one that was dropped for its picture keeps its pixels, for whoever overrules that."""
    source = cut.source
    boxes = [(crop.box_px, crop.cached) for crop in cut.crops]
    return [
        Crop(
            crop_id=hashlib.sha256(f"{source}\0{cut.content}\0{box}".encode()).hexdigest()[:16],
            source=source,
            sha256=cut.sha256,
            label=label,
            group="",
            box_px=box,
            shape_px=cut.shape_px,
            pixel_size_nm=cut.pixel_size_nm,
            part="",
            kept=not cut.reason,
            reason=cut.reason,
            cached=cached,
            acquired=cut.acquired,
            microscope=cut.microscope,
            measures=cut.measures,
            near=cut.near,
            note=cut.note,
        )
        for box, cached in boxes or [((0, 0, cut.shape_px[1], cut.shape_px[0]), "")]
    ]


def _grouped(
    rows: Sequence[Crop],
    folder: RawFolder,
    contents: Mapping[str, str],
    split: SplitRule,
    table: LabelsTable | None,
) -> tuple[list[Crop], tuple[str, ...]]:
    """Give the crops of the micrographs that are kept their group; the second value is what to tell about it."""
    below = {file.source: file.folders_below_class for file in folder.files}
    files = {
        crop.source: Provenance(
            crop.source, contents[crop.source], below[crop.source], crop.acquired, crop.microscope, crop.near
        )
        for crop in rows
        if crop.kept
    }
    grouping = group_files(tuple(files.values()), split, table)
    return [replace(crop, group=grouping.groups.get(crop.source, "")) for crop in rows], grouping.notes


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


def _parted(
    rows: Sequence[Crop], folder: RawFolder, split: SplitRule, table: LabelsTable | None, seed: int
) -> list[Crop]:
    if split.part_column and table is not None:
        return [_told_part(crop, table, split.part_column) if crop.kept else crop for crop in rows]
    if split.part_folders:
        part_of = {file.source: file.part for file in folder.files}
        return [replace(crop, part=part_of[crop.source]) if crop.kept else crop for crop in rows]
    kept = [crop for crop in rows if crop.kept]
    parts = iter(assign_parts(kept, split, seed))
    return [replace(crop, part=next(parts)) if crop.kept else crop for crop in rows]


def _told_part(crop: Crop, table: LabelsTable, column: str) -> Crop:
    part = table.part(crop.source, column)
    if part is None:
        return replace(crop, kept=False, cached="", reason=f"no part: the labels table's {column} is empty")
    return replace(crop, part=part)


def _table_notes(rows: Sequence[Crop], table: LabelsTable | None) -> Iterator[str]:
    if table is None:
        return
    sources = sorted({crop.source for crop in rows})
    unknown = sorted({crop.source for crop in rows if crop.kept and not table.covers(crop.source)})
    yield from noted(f"rows of {table.path.name} without a file", table.without_file(sources))
    yield from noted(f"files without a row in {table.path.name}", unknown)


def _other_files(others: Counter[str]) -> Iterator[str]:
    if others:
        yield f"files of other kinds, not looked at: {others.total()} ({listed(sorted(others))})"


def _part_notes(rows: Sequence[Crop], labels: Sequence[str], split: SplitRule) -> Iterator[str]:
    there = {(crop.label, crop.part) for crop in rows if crop.kept}
    asked = {"train": True, "validation": split.validation > 0, "test": split.test > 0}
    why = "too few groups for the split"
    if tears_micrographs(split):
        asked, why = dict.fromkeys(PARTS, True), "too few crops"
    if split.part_column is not None or split.part_folders:  # a part that is never named was not asked for
        asked = {part: any(part == seen for _, seen in there) for part in PARTS}
        why = "the raw folder has none there"
        if split.part_column is not None:
            why = f"the column {split.part_column!r} puts none there"
    for label in labels:
        missing = [part for part in PARTS if asked[part] and (label, part) not in there]
        if missing:
            yield f"class {label!r} has no crop in {' and '.join(missing)}: {why}"
