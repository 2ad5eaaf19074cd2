"""Pages of pairs: a micrograph and its evidence side by side, lettered, with what was answered above them.

Only this module knows the arrangement, in millimetres on a page as wide as two columns of a journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.evidence import CONTOUR_COLOUR, CONTOUR_LEVEL, paint_table
from trainer.showing.micrograph_panels import (
    FAINT,
    RIGHT,
    WRONG,
    blank_page,
    draw_scale_bar,
    place_panel,
    width_mm,
    write,
    write_in,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PANEL_DPI: Final = 300
PAGE_MM: Final = 180.0
_HIGHEST_MM: Final = 235.0
_GAP_MM: Final = 1.0
_BETWEEN_MM: Final = 5.0
_HEAD_MM: Final = 7.6
_BELOW_MM: Final = 4.0
_FOOT_MM: Final = 11.0
_EDGE_MM: Final = 1.0
_DECIDED: Final = {"accept": "accepted", "abstain": "abstained", "ungated": "not gated"}


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """One classified micrograph, painted: `plain` and `covered` are uint8 [rows, columns, RGB]."""

    file: str
    label: str
    part: str
    sha256: str | None
    answer: str
    probability: float
    decision: str
    reasons: tuple[str, ...]
    plain: NDArray[np.uint8]
    covered: NDArray[np.uint8]
    panel_pixel_nm: tuple[float, float] | None
    """Size of a pixel of the painted panels: rows, columns."""
    pixel_size_nm: tuple[float, float] | None
    evidence_scale: float | None
    absence: str

    @property
    def right(self) -> bool:
        """Whether the class answered is the class of its folder."""
        return self.label == self.answer


def panel_mm(columns: int) -> float:
    """Width of one panel where `columns` pairs stand side by side."""
    pair = (PAGE_MM - 2 * _EDGE_MM - (columns - 1) * _BETWEEN_MM) / columns
    return (pair - _GAP_MM) / 2


def letter(index: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    first, last = divmod(index, 26)
    return (letter(first - 1) if first else "") + chr(ord("a") + last)


def said(answer: str, probability: float, decision: str) -> str:
    """What was answered, in words."""
    percent = "> 99 %" if probability > 0.995 else f"{probability:.0%}".replace("%", " %")
    return f"{answer} ({percent}, {_DECIDED[decision]})"


def draw_pages(exhibits: Sequence[Exhibit], columns: int) -> tuple[list[Figure], list[str]]:
    """Draw the pairs in order, as many rows a page as fit; also the length of each one's scale bar in words."""
    room = panel_mm(columns)
    rows = [exhibits[start : start + columns] for start in range(0, len(exhibits), columns)]
    heights = [_HEAD_MM + _BELOW_MM + max(_height_mm(one, room) for one in row) for row in rows]
    pages, bars, first = [], [], 0
    for last in _breaks(heights):
        page = blank_page(PAGE_MM, sum(heights[first:last]) + _FOOT_MM + 2 * _EDGE_MM)
        top = _EDGE_MM
        for number in range(first, last):
            for column, exhibit in enumerate(rows[number]):
                left = _EDGE_MM + column * (2 * room + _GAP_MM + _BETWEEN_MM)
                bars.append(_draw_pair(page, (left, top), room, exhibit, letter(number * columns + column)))
            top += heights[number]
        _draw_colour_bar(page, top)
        pages.append(page)
        first = last
    return pages, bars


def _height_mm(exhibit: Exhibit, room: float) -> float:
    rows, columns = exhibit.plain.shape[:2]
    return float(room * rows / max(rows, columns))


def _breaks(heights: Sequence[float]) -> list[int]:
    """After which rows a page ends."""
    ends, used = [], 0.0
    for index, height in enumerate(heights):
        if used and used + height > _HIGHEST_MM - _FOOT_MM:
            ends.append(index)
            used = 0.0
        used += height
    return [*ends, len(heights)]


def _draw_pair(page: Figure, at_mm: tuple[float, float], room: float, exhibit: Exhibit, name: str) -> str:
    left, top = at_mm
    _write_head(page, at_mm, 2 * room + _GAP_MM, exhibit, name)
    height = _height_mm(exhibit, room)
    plain = place_panel(page, (left, top + _HEAD_MM), (room, height), exhibit.plain)
    covered = place_panel(page, (left + room + _GAP_MM, top + _HEAD_MM), (room, height), exhibit.covered)
    _name_scale(covered, exhibit)
    rows, columns = exhibit.plain.shape[:2]
    bar = draw_scale_bar(plain, (rows, columns), exhibit.panel_pixel_nm)
    if not bar:
        write(page, (left, top + _HEAD_MM + height + 0.3), "not calibrated", colour=FAINT, size=5.5)
    return bar


def _write_head(page: Figure, at_mm: tuple[float, float], room: float, exhibit: Exhibit, name: str) -> None:
    """The letter and the class that is right; below, what was answered."""
    left, top = at_mm
    write(page, (left, top), name, size=9, bold=True)
    mark, colour = ("✓ right", RIGHT) if exhibit.right else ("✗ wrong", WRONG)
    write(page, (left + room, top + 0.5), mark, colour=colour, ha="right", bold=True)
    start = width_mm(name, 9, bold=True) + 2
    left_over = room - start - width_mm(mark, 7, bold=True) - 1
    write(page, (left + start, top + 0.3), exhibit.label, size=8, bold=True, room_mm=left_over)
    answer = f"answer: {said(exhibit.answer, exhibit.probability, exhibit.decision)}"
    reasons = ", ".join(reason.replace("_", " ") for reason in exhibit.reasons)
    words = f"{answer}: {reasons}" if reasons else answer
    write(page, (left, top + 4.1), words, colour=FAINT, size=6.5, room_mm=room)


def _name_scale(axes: Axes, exhibit: Exhibit) -> None:
    words = exhibit.absence if exhibit.evidence_scale is None else f"0 – {exhibit.evidence_scale:.1f}"
    write_in(axes, (0.97, 0.97), words, ha="right", va="top")


def _draw_colour_bar(page: Figure, top: float) -> None:
    """The agent's own colours over mid-grey, with the outline's level."""
    wide = 60.0
    left = (PAGE_MM - wide) / 2
    ramp = paint_table()[np.arange(256), 128][None]
    axes = place_panel(page, (left, top + 0.5), (wide, 3.0))
    axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, 1))
    axes.axvline(CONTOUR_LEVEL, color=tuple(value / 255 for value in CONTOUR_COLOUR), linewidth=1.6)
    write(page, (left - 1.5, top + 0.8), "0", ha="right")
    write(page, (left + wide + 1.5, top + 0.8), "upper value in the map's corner")
    words = (
        "evidence for the class answered (logits); the line, also drawn in the micrograph: half of the scale"
    )
    write(page, (PAGE_MM / 2, top + 4.6), words, ha="center", colour=FAINT)
