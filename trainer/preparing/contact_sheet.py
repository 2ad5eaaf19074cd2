"""The contact sheet: one page with every crop, kept or dropped and why, where a person overrules the screening.

Only this module knows the page's files in the data set folder: `contact_sheet.html` (opens by double-click, asks
no network) and the small pictures in `contact_sheet/`, named by what they show, so that a rerun draws new ones
only. Crops that deserve a look come first; how much one deserves it is decided here.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Final

from edge_agent.files import write_durably
from trainer.preparing.overrides import COLUMNS, Override, Overrides, box_text, matched, unmatched
from trainer.preparing.split import PARTS, PrepareError
from trainer.preparing.thumbnails import FOLDER, draw_thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.preparing.crop_table import Crop, DataSet
    from trainer.preparing.thumbnails import Thumbnail

PAGE: Final = "contact_sheet.html"
_TEMPLATES: Final = Path(__file__).parent.parent / "templates"
_UNUSUAL: Final = 4.0
"""A measure so many robust standard deviations from its class's median is pointed out."""
_FEWEST_TO_COMPARE: Final = 8
_COPIES: Final = frozenset({"duplicate content", "duplicate pixels"})
_WITHOUT_PIXELS: Final = frozenset({"unreadable", "not_an_image"})


@dataclass(frozen=True, slots=True)
class Card:
    """What the page shows of one crop; texts are escaped by the template."""

    crop: Crop
    thumbnail: Thumbnail
    unusual: str
    """The measures in which it stands far from its class, in words."""
    override: Override | None
    rank: int
    """Place among all crops, the most doubtful first."""

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.crop.source).name

    @property
    def kind(self) -> str:
        """The kind of the reason why it was dropped, "" when kept."""
        return kind_of(self.crop)

    @property
    def box(self) -> str:
        """The box as the overrides file writes it, "" where the file gave no pixels."""
        return box_text(self.crop.box_px) if self.crop.shape_px != (0, 0) else ""

    @property
    def size(self) -> str:
        """Columns x rows of the crop."""
        x0, y0, x1, y1 = self.crop.box_px
        return f"{x1 - x0} × {y1 - y0} px" if self.box else ""

    @property
    def place(self) -> str:
        """Where the crop lies, "" where it is the whole micrograph."""
        rows, columns = self.crop.shape_px
        x0, y0, x1, y1 = self.crop.box_px
        return "" if (x0, y0, x1, y1) == (0, 0, columns, rows) else f"at {x0}, {y0}"

    @property
    def pixel_size(self) -> str:
        """Pixel size in words, "" where it is unknown."""
        size = self.crop.pixel_size_nm
        if size is None:
            return ""
        down, across = (f"{value:.4g}" for value in size)
        return f"{across} nm/px" if down == across else f"{across} × {down} nm/px"

    @property
    def measured(self) -> dict[str, float]:
        """The measures of quality, by name."""
        return _measures(self.crop)

    @property
    def keepable(self) -> bool:
        """Whether there are pixels that a person can decide to keep."""
        return self.crop.kept or bool(self.crop.cached)


def write_contact_sheet(
    dataset: DataSet,
    *,
    overrides: Overrides | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Path:
    """Write the page into the data set folder and return its path; `overrides` are those already applied.

    Raises PrepareError where the folder cannot be written.
    """
    crops = [crop for crop in dataset.crops if _was_examined(crop)]
    try:
        thumbnails = draw_thumbnails(dataset, crops, progress)
        page = _page(dataset, _cards(crops, thumbnails, overrides), overrides)
        path = dataset.root / PAGE
        write_durably(path, page.encode("utf-8", "replace"))
    except OSError as error:
        raise PrepareError(
            f"{dataset.root}: the contact sheet cannot be written ({error.strerror or error}); make room there, "
            "then run the command again, or give --no-contact-sheet"
        ) from error
    return path


def kind_of(crop: Crop) -> str:
    """The part of a reason before its particulars."""
    return crop.reason.partition(":")[0]


def _was_examined(crop: Crop) -> bool:
    """Files that were left out by their place (another class folder, hidden) are listed, not shown."""
    return crop.kept or crop.shape_px != (0, 0) or kind_of(crop) in _WITHOUT_PIXELS


def _is_fact(crop: Crop) -> bool:
    """Whether a drop leaves nothing to judge by eye; all others were judged by a threshold or a person."""
    kind = kind_of(crop)
    return kind in _COPIES or (kind in _WITHOUT_PIXELS and not crop.cached)


def _cards(
    crops: Sequence[Crop], thumbnails: dict[str, Thumbnail], overrides: Overrides | None
) -> list[Card]:
    decided = matched(crops, overrides) if overrides else {}
    values = [tuple(_measures(crop).values()) for crop in crops]
    far = _deviations(crops, values)
    order = sorted(range(len(crops)), key=lambda index: _doubt(crops[index], far[index], decided))
    names = _measure_names(crops)
    return [
        Card(
            crop=crops[index],
            thumbnail=thumbnails[crops[index].crop_id],
            unusual=", ".join(
                name.replace("_", " ") for name, one in zip(names, far[index], strict=False) if one > _UNUSUAL
            ),
            override=decided.get(crops[index].crop_id),
            rank=rank,
        )
        for rank, index in enumerate(order)
    ]


def _measures(crop: Crop) -> dict[str, float]:
    return asdict(crop.measures) if crop.measures is not None else {}


def _measure_names(crops: Sequence[Crop]) -> list[str]:
    return next(([*named] for crop in crops if (named := _measures(crop))), [])


def _doubt(
    crop: Crop, far: Sequence[float], decided: dict[str, Override]
) -> tuple[int, float, str, tuple[int, ...]]:
    """Order: judged by a threshold (the least unusual first), overruled, flagged, kept, dropped for a fact.

    Among kept crops the most unusual one of its class comes first.
    """
    unusual = max(far, default=0.0)
    place = crop.source, crop.box_px
    if not crop.kept and _is_fact(crop):
        return 4, 0.0, *place
    if not crop.kept:
        return 0, unusual, *place
    if crop.crop_id in decided:
        return 1, 0.0, *place
    return (2 if crop.note or crop.near else 3), -unusual, *place


def _deviations(crops: Sequence[Crop], values: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """How far each measure stands from the median of its class's kept crops, in robust standard deviations."""
    rules = {label: _spread(crops, values, label) for label in {crop.label for crop in crops}}
    return [
        tuple(
            abs(value - middle) / width
            for value, (middle, width) in zip(row, rules[crop.label], strict=False)
        )
        for crop, row in zip(crops, values, strict=True)
    ]


def _spread(
    crops: Sequence[Crop], values: Sequence[tuple[float, ...]], label: str
) -> list[tuple[float, float]]:
    mine = [row for crop, row in zip(crops, values, strict=True) if crop.kept and crop.label == label and row]
    if len(mine) < _FEWEST_TO_COMPARE:
        return []
    return [_middle_and_width(column) for column in zip(*mine, strict=True)]


def _middle_and_width(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust standard deviation; where most values are equal, from the mean deviation instead."""
    middle = median(values)
    off = [abs(value - middle) for value in values]
    return middle, 1.4826 * median(off) or 1.2533 * mean(off) or math.inf


def _page(dataset: DataSet, cards: Sequence[Card], overrides: Overrides | None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style, script = (
        (_TEMPLATES / f"contact_sheet.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js")
    )
    return environment.get_template(PAGE).render(
        dataset=dataset,
        sections=_sections(dataset, cards),
        counts=_counts(dataset, cards),
        choices=_choices(cards),
        unseen=_unseen(dataset),
        measure_names=_measure_names([card.crop for card in cards]),
        parts=PARTS,
        state=_state(dataset, cards, overrides),
        folder=FOLDER,
        style=Markup(style),  # noqa: S704  # our own files, not data
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """Name the page's own style and script for its content policy, which forbids all others."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sections(dataset: DataSet, cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    labels = [*dataset.labels, *sorted({card.crop.label for card in cards} - set(dataset.labels))]
    return [(label, [card for card in cards if card.crop.label == label]) for label in labels]


def _counts(dataset: DataSet, cards: Sequence[Card]) -> dict[str, dict[str, Any]]:
    """Per class: crops by part, kept, dropped, and dropped by kind of reason."""
    return {
        label: {
            **{part: sum(card.crop.part == part for card in mine if card.crop.kept) for part in PARTS},
            "kept": sum(card.crop.kept for card in mine),
            "dropped": sum(not card.crop.kept for card in mine),
            "kinds": Counter(card.kind for card in mine if card.kind),
        }
        for label, mine in _sections(dataset, cards)
    }


def _choices(cards: Sequence[Card]) -> dict[str, dict[str, int]]:
    """What the filters offer, each with its number of crops."""
    kinds = Counter(card.kind for card in cards if card.kind)
    near = Counter(card.crop.near for card in cards if card.crop.near)
    return {"kinds": dict(kinds.most_common()), "near": dict(sorted(near.items()))}


def _unseen(dataset: DataSet) -> dict[str, list[str]]:
    """Files that were never looked at, by reason."""
    found: dict[str, list[str]] = {}
    for crop in dataset.crops:
        if not _was_examined(crop):
            found.setdefault(crop.reason, []).append(crop.source)
    return found


def _state(dataset: DataSet, cards: Sequence[Card], overrides: Overrides | None) -> dict[str, Any]:
    """What the page's script needs to know beyond the cards."""
    decided = {
        card.crop.crop_id: {
            "decision": card.override.decision, "label": card.override.label, "by": card.override.by,
            "note": card.override.note,
        }
        for card in cards
        if card.override is not None
    }  # fmt: skip
    others = unmatched([card.crop for card in cards], overrides) if overrides else ()
    return {
        "fingerprint": dataset.fingerprint,
        "labels": dataset.labels,
        "columns": COLUMNS,
        "measures": _measure_names([card.crop for card in cards]),
        "decided": decided,
        "others": [
            [row.file, box_text(row.box_px) if row.box_px else "", row.decision, row.label, row.by, row.note]
            for row in others
        ],
    }
