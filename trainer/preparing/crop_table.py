"""The data set folder: which crops there are, where their pixels lie, which part each one is in.

Only this module knows its layout: `dataset.csv` (a row for every crop, and for every file that was dropped,
with the reason; UTF-8 with a byte order mark, so that a spreadsheet shows every name), `dataset.json`
(everything else; written last, so a folder without it is unfinished) and `cache/` (see `preparing.cutting`; it
may be deleted, `prepare` fills it again).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent import __version__
from edge_agent.files import write_durably
from edge_agent.preprocessing import Preprocessing
from trainer.preparing.corrections import BLIND
from trainer.preparing.corrections_record import CorrectionsRecord, aligned, corrections_text
from trainer.preparing.leaks import leak_report
from trainer.preparing.quality import MEASURE_NAMES, Measures
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import PARTS, Part, PrepareError, SplitRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from edge_agent.preprocessing import Box

_TABLE: Final = "dataset.csv"
_REST: Final = "dataset.json"
_COLUMNS: Final = (
    "crop_id", "kept", "reason", "part", "label", "group", "source", "sha256", "x0", "y0", "x1", "y1",
    "rows", "columns", "pixel_height_nm", "pixel_width_nm", "cached",
)  # fmt: skip
# What says nothing about what is learnt, and what data sets of versions before 0.3 do not have.
_LATER_COLUMNS: Final = ("acquired", "microscope", *MEASURE_NAMES, "near", "note", "correction")


@dataclass(frozen=True, slots=True)
class Crop:
    """One box of one micrograph, or a file that was dropped."""

    crop_id: str
    source: str
    """Path relative to the raw folder, with forward slashes."""
    sha256: str | None
    """Of the source file; None above the reader's snapshot limit, and where it was not read."""
    label: str
    """The class folder; "" for a file outside any."""
    group: str
    """What must never be torn apart; "" where the file was not read."""
    box_px: Box
    """(x0, y0, x1, y1), all 0 where the file gave no pixels."""
    shape_px: tuple[int, int]
    """Rows and columns of the source micrograph."""
    pixel_size_nm: tuple[float, float] | None
    """Of the source micrograph: rows, columns."""
    part: Part | Literal[""]
    """"" for a dropped file."""
    kept: bool
    reason: str
    """Why it was dropped: a kind, a colon, the particulars. "" when kept."""
    cached: str
    """Path of the cached pixels relative to the data set folder, "" when dropped."""
    acquired: str = ""
    """ISO 8601, UTC; "" where the file does not say."""
    microscope: str = ""
    """As written in the file; "" where it says nothing."""
    measures: Measures | None = None
    """Of the whole micrograph; None where it was not measured."""
    near: str = ""
    """The same for micrographs of about the same area, of which at least two were kept; else ""."""
    note: str = ""
    """What a person should know of it: a burnt-in scale bar, a reason that was overruled."""
    correction: str = ""
    """Who gave its class on the operator's page, and whether blind; "" where its folder did."""

    @property
    def answer_seen(self) -> bool:
        """Whether who gave its class had seen an answer before: it may train, but no figure may rest on it."""
        return bool(self.correction) and not self.correction.startswith(BLIND)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A prepared data set. `crops` is ordered by source, then by box in reading order."""

    root: Path
    labels: tuple[str, ...]
    """The classes that have crops, sorted."""
    crops: tuple[Crop, ...]
    preprocessing: Preprocessing
    raw: Path
    seed: int
    fingerprint: str
    """Hash of everything that decides what is learnt: the kept crops with pixels, labels, groups, parts."""
    split: SplitRule
    cache_px: int
    notes: tuple[str, ...]
    """What a person should know before training: gaps of the labels table, classes missing in a part."""
    screening: ScreeningRule | None = None
    """What pictures had to be; None in data sets that were never screened."""
    corrections: CorrectionsRecord | None = None
    """What was taken from label files; None in data sets that were made without."""

    @property
    def kept(self) -> tuple[Crop, ...]:
        """The crops that were not dropped."""
        return tuple(crop for crop in self.crops if crop.kept)

    @property
    def train(self) -> tuple[Crop, ...]:
        """The crops to fit on."""
        return self.part("train")

    @property
    def validation(self) -> tuple[Crop, ...]:
        """The crops to choose by: stopping, best checkpoint."""
        return self.part("validation")

    @property
    def test(self) -> tuple[Crop, ...]:
        """The crops that nothing was fitted to or chosen by."""
        return self.part("test")

    def part(self, name: Part) -> tuple[Crop, ...]:
        """Return the kept crops of one part."""
        return tuple(crop for crop in self.crops if crop.kept and crop.part == name)

    def path_of(self, source: str) -> Path:
        """Where a source lies: below the raw folder, or where labels found it."""
        elsewhere = self.corrections.files if self.corrections else {}
        return Path(elsewhere[source]) if source in elsewhere else self.raw / source


class _Rest(BaseModel):
    """The file `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["scopewatch.dataset/1"] = "scopewatch.dataset/1"
    scopewatch: str
    raw: str
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]] = Field(description="kept crops: class -> part -> number")
    split: SplitRule
    seed: int
    cache_px: int
    preprocessing: Preprocessing
    notes: tuple[str, ...]
    fingerprint: str
    screening: ScreeningRule | None = None
    corrections: CorrectionsRecord | None = None


def load_dataset(out: Path) -> DataSet:
    """Read a data set folder. PrepareError when it is unfinished, damaged, or was edited by hand."""
    try:
        rest = _Rest.model_validate_json((out / _REST).read_bytes())
        with (out / _TABLE).open(encoding="utf-8-sig", newline="") as handle:
            crops = tuple(_crop_of(row) for row in csv.DictReader(handle))
    except FileNotFoundError as error:
        raise PrepareError(
            f"{out}: has no {Path(error.filename).name}, so it is no finished data set; "
            "run `edge-trainer prepare`"
        ) from error
    except (OSError, ValidationError, ValueError, KeyError) as error:
        raise PrepareError(f"{out}: is no data set ({error}); run `edge-trainer prepare` again") from error
    made = fingerprint_of(rest.labels, crops, rest.preprocessing, rest.cache_px, rest.corrections)
    if made != rest.fingerprint:
        raise PrepareError(
            f"{out / _TABLE}: does not match {_REST}: it was edited, or `edge-trainer prepare` was "
            "interrupted while it wrote; run that again"
        )
    return DataSet(
        out, rest.labels, crops, rest.preprocessing, Path(rest.raw), rest.seed,
        rest.fingerprint, rest.split, rest.cache_px, rest.notes, rest.screening,
        rest.corrections,
    )  # fmt: skip


def load_pixels(dataset: DataSet, crop: Crop) -> NDArray[np.uint8]:
    """Return a kept crop's cached pixels, uint8 [rows, columns], read-only; PrepareError if they are gone."""
    path = dataset.root / crop.cached
    try:
        if not crop.kept:
            raise ValueError(f"{crop.source} was dropped ({crop.reason})")
        pixels: NDArray[np.uint8] = np.load(path, allow_pickle=False)
        if pixels.dtype != np.uint8 or pixels.ndim != 2:
            raise ValueError(f"holds {pixels.dtype} {pixels.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise PrepareError(
            f"{path}: the cached pixels of {crop.source} cannot be read ({error}); "
            "run `edge-trainer prepare` again"
        ) from error
    pixels.flags.writeable = False
    return pixels


def save(dataset: DataSet) -> None:
    """Write `dataset.csv`, then `dataset.json`. Raises PrepareError where the folder cannot be written."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, *_LATER_COLUMNS))
    writer.writerows((*_row_of(crop), *_later_of(crop)) for crop in dataset.crops)
    counts = {label: _counts(dataset, label) for label in dataset.labels}
    rest = _Rest(
        scopewatch=__version__,
        raw=str(dataset.raw),
        labels=dataset.labels,
        counts=counts,
        split=dataset.split,
        seed=dataset.seed,
        cache_px=dataset.cache_px,
        preprocessing=dataset.preprocessing,
        notes=dataset.notes,
        fingerprint=dataset.fingerprint,
        screening=dataset.screening,
        corrections=dataset.corrections,
    )
    try:
        dataset.root.mkdir(parents=True, exist_ok=True)
        write_durably(dataset.root / _TABLE, text.getvalue().encode("utf-8-sig"))
        write_durably(dataset.root / _REST, rest.model_dump_json(indent=2).encode())
    except OSError as error:
        raise PrepareError(
            f"{dataset.root}: cannot be written ({error.strerror or error}); make room there or choose "
            "another folder, then run the command again"
        ) from error


def _counts(dataset: DataSet, label: str) -> dict[str, int]:
    return {part: sum(crop.label == label for crop in dataset.part(part)) for part in PARTS}


def _row_of(crop: Crop) -> tuple[object, ...]:
    shape = crop.shape_px if crop.shape_px != (0, 0) else ("", "")
    box = crop.box_px if crop.shape_px != (0, 0) else ("", "", "", "")
    size = crop.pixel_size_nm or ("", "")
    return (
        crop.crop_id, "yes" if crop.kept else "no", crop.reason, crop.part, crop.label, crop.group,
        crop.source, crop.sha256 or "", *box, *shape, *size, crop.cached,
    )  # fmt: skip


def _later_of(crop: Crop) -> tuple[object, ...]:
    measures = asdict(crop.measures).values() if crop.measures else [""] * len(MEASURE_NAMES)
    return (crop.acquired, crop.microscope, *measures, crop.near, crop.note, crop.correction)


def _crop_of(row: dict[str, str]) -> Crop:
    x0, y0, x1, y1 = (int(row[name] or 0) for name in ("x0", "y0", "x1", "y1"))
    part, kept = row["part"], row["kept"]
    if part not in ("", *get_args(Part)) or kept not in ("yes", "no"):
        raise ValueError(f"{row['source']}: part {part!r}, kept {kept!r}")
    height_nm, width_nm = row["pixel_height_nm"], row["pixel_width_nm"]
    return Crop(
        crop_id=row["crop_id"],
        source=row["source"],
        sha256=row["sha256"] or None,
        label=row["label"],
        group=row["group"],
        box_px=(x0, y0, x1, y1),
        shape_px=(int(row["rows"] or 0), int(row["columns"] or 0)),
        pixel_size_nm=(float(height_nm), float(width_nm)) if height_nm else None,
        part=part,  # type: ignore[arg-type]  # compared with the literal's values above
        kept=kept == "yes",
        reason=row["reason"],
        cached=row["cached"],
        acquired=row.get("acquired", ""),
        microscope=row.get("microscope", ""),
        measures=_measures_of(row),
        near=row.get("near", ""),
        note=row.get("note", ""),
        correction=row.get("correction", ""),
    )


def _measures_of(row: dict[str, str]) -> Measures | None:
    if not row.get(MEASURE_NAMES[0]):
        return None
    return Measures(**{name: float(row[name]) for name in MEASURE_NAMES})


def fingerprint_of(
    labels: Sequence[str],
    crops: Iterable[Crop],
    preprocessing: Preprocessing,
    cache_px: int,
    corrections: CorrectionsRecord | None = None,
) -> str:
    """Hash everything that decides what is learnt; pixels enter by their cached name, itself a hash."""
    kept = [_row_of(crop) for crop in crops if crop.kept]
    stated = preprocessing.model_dump(mode="json")
    if preprocessing.proportions == "specimen":  # data sets of before that choice keep their fingerprint
        del stated["proportions"]
    content = [list(labels), stated, cache_px, kept]
    if corrections is not None:  # data sets without keep theirs too
        content.append(corrections.fingerprint)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def dropped_files(crops: Iterable[Crop]) -> dict[str, int]:
    """Count the dropped files by kind of reason, most first."""
    reasons = {crop.source: crop.reason for crop in crops if not crop.kept}
    return dict(Counter(reason.partition(":")[0] for reason in reasons.values()).most_common())


def noted_files(crops: Iterable[Crop]) -> dict[str, int]:
    """Count the notes on files that were kept by kind, most first."""
    notes = {crop.source: crop.note for crop in crops if crop.kept and crop.note}
    kinds = (one.partition(":")[0] for note in notes.values() for one in note.split("; "))
    return dict(Counter(kinds).most_common())


def summary(dataset: DataSet) -> str:
    """Describe the data set in a few lines: crops by class and part, groups, files dropped or noted, leaks."""
    kept = dataset.kept
    table = [("class", *PARTS, "all", "groups"), *(_class_row(dataset, label) for label in dataset.labels)]
    lines = [
        f"{len(kept)} crops of {len({crop.source for crop in kept})} micrographs, "
        f"{len({crop.group for crop in kept})} groups (by {dataset.split.by})",
        "",
        *aligned(table),
    ]
    dropped = dropped_files(dataset.crops)
    if dropped:
        lines += ["", f"{sum(dropped.values())} files dropped:"]
        lines += [f"  {number:6d}  {kind}" for kind, number in dropped.items()]
    noted = noted_files(dataset.crops)
    if noted:
        lines += ["", "kept, with a note:", *(f"  {number:6d}  {kind}" for kind, number in noted.items())]
    clusters = {crop.near for crop in kept if crop.near}
    if clusters:
        views = len({crop.source for crop in kept if crop.near})
        lines += ["", f"{views} micrographs show about the same area as another ({len(clusters)} areas)"]
    if dataset.corrections:
        lines += ["", *corrections_text(dataset.corrections, dataset.crops)]
    if dataset.notes:
        lines += ["", *(f"note: {note}" for note in dataset.notes)]
    lines += ["", *leak_report(kept, dataset.split).text()]
    return "\n".join(lines)


def _class_row(dataset: DataSet, label: str) -> tuple[str, ...]:
    mine = [crop for crop in dataset.kept if crop.label == label]
    counts = _counts(dataset, label).values()
    return (label, *map(str, counts), str(len(mine)), str(len({crop.group for crop in mine})))
