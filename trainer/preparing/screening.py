"""What a picture must be to be learnt from: thresholds, and the reason or the note that follows from each.

Only this module knows the thresholds. They are applied to figures that were measured when the files were cut, so
another threshold costs no reading. They are set so that a doubtful picture stays: of the published micrographs that
`tests/benchmarks/screening_rates.py` screens none is dropped.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.preparing.near_duplicates import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.preparing.cutting import CutFile
    from trainer.preparing.quality import Measures


class ScreeningRule(BaseModel):
    """When a picture is dropped or noted. What the figures mean says `preparing.quality.Measures`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    on: bool = True
    """False: nothing is judged, and near-duplicates are not looked for."""
    least_distinctness: float = Field(default=0.6, ge=0)
    """Below: an empty field, or film and nothing on it. 0 keeps all."""
    film_texture: float = Field(default=1.5, ge=0)
    """From this texture on a field without objects is called support film, below it empty."""
    most_saturated_fraction: float = Field(default=0.3, ge=0, le=1)
    """Above: saturated. 1 keeps all."""
    least_sharpness: float = Field(default=0.005, ge=0)
    """Below: blurred. 0 keeps all."""
    most_point_symmetry: float = Field(default=0.6, ge=0, le=1)
    """Above: the Fourier transform of a picture. 1 keeps all."""
    smallest_pixel_size_nm: float | None = Field(default=None, gt=0)
    largest_pixel_size_nm: float | None = Field(default=None, gt=0)
    """Uncalibrated pictures are kept."""
    unusual_pixel_size: float = Field(default=20.0, ge=1)
    """A pixel size that is so many times larger or smaller than the median of all pictures is noted."""
    info_bars: Literal["flag", "crop", "drop"] = "flag"
    """What becomes of pictures with a burnt-in info bar or scale bar; only an info bar can be cropped away."""
    near_duplicates: bool = True
    """Whether pictures saved twice and neighbouring views are looked for."""
    likeness: Limits = Limits()

    @model_validator(mode="after")
    def _sizes_in_order(self) -> ScreeningRule:
        smallest, largest = self.smallest_pixel_size_nm, self.largest_pixel_size_nm
        if smallest is not None and largest is not None and smallest > largest:
            raise ValueError(f"no pixel size lies between {smallest:g} and {largest:g} nm")
        return self


def screened(cuts: Sequence[CutFile], rule: ScreeningRule) -> list[CutFile]:
    """Give a reason to every picture that is not worth learning from, and notes to those that stay."""
    if not rule.on:
        return list(cuts)
    sizes = [_pixel_size_nm(cut) for cut in cuts if not cut.reason]
    known = [size for size in sizes if size is not None]
    usual = median(known) if known else None
    return [cut if cut.reason else _judged(cut, rule, usual) for cut in cuts]


def _judged(cut: CutFile, rule: ScreeningRule, usual_nm: float | None) -> CutFile:
    found = cut.measures
    reason = next(_reasons(cut, rule), "")
    if found is not None:
        reason = reason or next(_reasons_of_pixels(found, rule), "")
    notes = [] if reason else [*_notes(cut, rule, usual_nm)]
    return cut.model_copy(update={"reason": reason, "note": "; ".join(filter(None, (cut.note, *notes)))})


def _reasons_of_pixels(found: Measures, rule: ScreeningRule) -> Iterator[str]:
    """The gravest first."""
    if found.saturated_fraction > rule.most_saturated_fraction:
        yield (
            f"saturated: {found.saturated_fraction:.0%} of the pixels stand at the largest value, "
            f"more than {rule.most_saturated_fraction:.0%}"
        )
    if found.point_symmetry > rule.most_point_symmetry:
        yield (
            "not_an_image: looks like a Fourier transform: point symmetry "
            f"{found.point_symmetry:.2f} is above {rule.most_point_symmetry:g}"
        )
    if found.distinctness < rule.least_distinctness:
        kind = "support film only" if found.texture >= rule.film_texture else "empty field"
        yield f"{kind}: distinctness {found.distinctness:.2f} is below {rule.least_distinctness:g}"
    if found.sharpness < rule.least_sharpness:
        yield f"blurred: sharpness {found.sharpness:.4f} is below {rule.least_sharpness:g}"
    if rule.info_bars == "drop" and (drawn := _drawn(found)):
        yield drawn


def _reasons(cut: CutFile, rule: ScreeningRule) -> Iterator[str]:
    size_nm = _pixel_size_nm(cut)
    if size_nm is None:
        return
    if rule.smallest_pixel_size_nm is not None and size_nm < rule.smallest_pixel_size_nm:
        yield f"pixel size out of range: {size_nm:.4g} nm is below {rule.smallest_pixel_size_nm:g} nm"
    if rule.largest_pixel_size_nm is not None and size_nm > rule.largest_pixel_size_nm:
        yield f"pixel size out of range: {size_nm:.4g} nm is above {rule.largest_pixel_size_nm:g} nm"


def _notes(cut: CutFile, rule: ScreeningRule, usual_nm: float | None) -> Iterator[str]:
    size_nm = _pixel_size_nm(cut)
    if size_nm is not None and usual_nm is not None:
        times = max(size_nm / usual_nm, usual_nm / size_nm)
        if times > rule.unusual_pixel_size:
            yield f"pixel size: {size_nm:.3g} nm, {times:.0f} times off the median of {usual_nm:.3g} nm"
    if cut.measures is not None and (drawn := _drawn(cut.measures)):
        yield f"{drawn}, cropped away" if rule.info_bars == "crop" and drawn.startswith("info") else drawn


def _drawn(found: Measures) -> str:
    """Name what is burnt in, "" if nothing is."""
    if found.info_bar_fraction > 0:
        return f"info bar: burnt in, {found.info_bar_fraction:.0%} of the height"
    if found.scale_bar_fraction > 0:
        return f"scale bar: burnt in, {found.scale_bar_fraction:.0%} of the width"
    return ""


def _pixel_size_nm(cut: CutFile) -> float | None:
    return math.sqrt(cut.pixel_size_nm[0] * cut.pixel_size_nm[1]) if cut.pixel_size_nm else None
