"""Pages of micrographs, each beside its evidence, lettered, with what was answered above them.

Pairs of a micrograph and its map stand side by side; a micrograph with the maps of several classes has a row of its
own, or as many as it needs, each map below its class and that one's probability.

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

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PANEL_DPI: Final = 300
PAGE_MM: Final = 180.0
_HIGHEST_MM: Final = 235.0
_GAP_MM: Final = 1.0
_CLASS_GAP_MM: Final = 2.5
_BETWEEN_MM: Final = 5.0
_HEAD_MM: Final = 7.6
_BELOW_MM: Final = 4.0
_FOOT_MM: Final = 11.0
_EDGE_MM: Final = 1.0
_NAME_MM: Final = 3.4
_DECIDED: Final = {"accept": "accepted", "abstain": "abstained", "ungated": "not gated"}


@dataclass(frozen=True, slots=True, eq=False)
class Shade:
    """A micrograph covered by the evidence for one class: uint8 [rows, columns, RGB]."""

    label: str
    probability: float
    pixels: NDArray[np.uint8]
    scale: float | None
    absence: str


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """One classified micrograph, painted: `plain` is uint8 [rows, columns, RGB], with one map's outline."""

    file: str
    label: str
    part: str
    sha256: str | None
    answer: str
    probability: float
    decision: str
    reasons: tuple[str, ...]
    plain: NDArray[np.uint8]
    shades: tuple[Shade, ...]
    panel_pixel_nm: tuple[float, float] | None
    """Size of a pixel of the painted panels: rows, columns."""
    pixel_size_nm: tuple[float, float] | None
    settings: str = ""
    """Of the maps' method, in words."""

    @property
    def right(self) -> bool:
        """Whether the class answered is the class of its folder."""
        return self.label == self.answer


def panel_mm(columns: int, classes: int = 1) -> float:
    """Width of one panel: `columns` pairs stand side by side, or the maps of several classes fill the page."""
    if classes > 1:
        across = _across(columns, classes)
        return (PAGE_MM - 2 * _EDGE_MM - (across - 1) * _CLASS_GAP_MM) / across
    pair = (PAGE_MM - 2 * _EDGE_MM - (columns - 1) * _BETWEEN_MM) / columns
    return (pair - _GAP_MM) / 2


def _across(columns: int, classes: int) -> int:
    """Panels in one line, of a micrograph and its maps of several classes."""
    return min(2 * columns, 1 + classes)


def letter(index: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    first, last = divmod(index, 26)
    return (letter(first - 1) if first else "") + chr(ord("a") + last)


def said(answer: str, probability: float, decision: str) -> str:
    """What was answered, in words."""
    return f"{answer} ({in_percent(probability)}, {_DECIDED[decision]})"


def in_percent(probability: float) -> str:
    """A probability in words, never 0 and never 100 %."""
    if probability > 0.995:
        return "> 99 %"
    return f"{probability:.0%}".replace("%", " %") if probability >= 0.005 else "< 1 %"


def draw_pages(exhibits: Sequence[Exhibit], columns: int, legend: str) -> tuple[list[Figure], list[str]]:
    """Draw the exhibits in order, as many a page as fit; also the length of each one's scale bar in words.

    `columns` pairs stand side by side; a micrograph with several maps has twice as many panels in a row. `legend`
    says below the colours what they stand for.
    """
    classes = len(exhibits[0].shades)
    room, across = panel_mm(columns, classes), 1 if classes > 1 else columns
    rows = [exhibits[start : start + across] for start in range(0, len(exhibits), across)]
    heights = [max(_height_mm(one, room, columns) for one in row) for row in rows]
    pages, bars, first = [], [], 0
    for last in _breaks(heights):
        page = blank_page(PAGE_MM, sum(heights[first:last]) + _FOOT_MM + 2 * _EDGE_MM)
        top = _EDGE_MM
        for number in range(first, last):
            for column, exhibit in enumerate(rows[number]):
                left = _EDGE_MM + column * (2 * room + _GAP_MM + _BETWEEN_MM)
                name = letter(number * across + column)
                if classes == 1:
                    bars.append(_draw_pair(page, (left, top), room, exhibit, name))
                else:
                    bars.append(_draw_classes(page, (left, top), _across(columns, classes), exhibit, name))
            top += heights[number]
        _draw_colour_bar(page, top, legend)
        pages.append(page)
        first = last
    return pages, bars


def _height_mm(exhibit: Exhibit, room: float, columns: int) -> float:
    """Of all that belongs to an exhibit."""
    panel = _panel_height_mm(exhibit, room)
    if len(exhibit.shades) == 1:
        return _HEAD_MM + panel + _BELOW_MM
    lines = -(-(1 + len(exhibit.shades)) // _across(columns, len(exhibit.shades)))
    return _HEAD_MM + lines * (_NAME_MM + panel) + _BELOW_MM


def _panel_height_mm(exhibit: Exhibit, room: float) -> float:
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
    height, (shade,) = _panel_height_mm(exhibit, room), exhibit.shades
    covered = place_panel(page, (left + room + _GAP_MM, top + _HEAD_MM), (room, height), shade.pixels)
    write_in(covered, (0.97, 0.97), shade.absence or _scale_in_words(shade), ha="right", va="top")
    return _draw_plain(page, (left, top + _HEAD_MM), (room, height), exhibit)


def _draw_classes(page: Figure, at_mm: tuple[float, float], across: int, exhibit: Exhibit, name: str) -> str:
    """The micrograph, then the map of each class under its name, `across` a line."""
    left, top = at_mm
    _write_head(page, at_mm, PAGE_MM - 2 * _EDGE_MM, exhibit, name)
    step = (PAGE_MM - 2 * _EDGE_MM + _CLASS_GAP_MM) / across
    room = step - _CLASS_GAP_MM
    height = _panel_height_mm(exhibit, room)
    places = [
        (left + place % across * step, top + _HEAD_MM + place // across * (_NAME_MM + height))
        for place in range(1 + len(exhibit.shades))
    ]
    for (x, y), shade in zip(places[1:], exhibit.shades, strict=True):
        percent, answered = in_percent(shade.probability), shade.label == exhibit.answer
        write(page, (x + room, y), percent, size=6.5, bold=answered, ha="right")
        left_over = room - width_mm(percent, 6.5, bold=answered) - 1
        write(page, (x, y), shade.label, size=6.5, bold=answered, room_mm=left_over)
        panel = place_panel(page, (x, y + _NAME_MM), (room, height), shade.pixels)
        words = shade.absence.replace(f" for {shade.label}", "") or _scale_in_words(shade)
        write_in(panel, (0.97, 0.97), words, ha="right", va="top")
    return _draw_plain(page, (left, places[0][1] + _NAME_MM), (room, height), exhibit)


def _draw_plain(
    page: Figure, at_mm: tuple[float, float], size_mm: tuple[float, float], exhibit: Exhibit
) -> str:
    plain = place_panel(page, at_mm, size_mm, exhibit.plain)
    rows, columns = exhibit.plain.shape[:2]
    bar = draw_scale_bar(plain, (rows, columns), exhibit.panel_pixel_nm)
    if not bar and len(exhibit.shades) == 1:
        write(page, (at_mm[0], at_mm[1] + size_mm[1] + 0.3), "not calibrated", colour=FAINT, size=5.5)
    elif not bar:  # another line of panels may follow below
        write(page, at_mm, "not calibrated", colour=FAINT, size=5.5, va="bottom")
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
    if len(exhibit.shades) == 1 and exhibit.shades[0].label != exhibit.answer:
        words += f"; map: {exhibit.shades[0].label} ({in_percent(exhibit.shades[0].probability)})"
    write(page, (left, top + 4.1), words, colour=FAINT, size=6.5, room_mm=room)


def _scale_in_words(shade: Shade) -> str:
    if shade.scale is None:
        return ""
    return f"0 – {shade.scale:.1f}" if shade.scale >= 1 else f"0 – {shade.scale:.2g}"


def _draw_colour_bar(page: Figure, top: float, legend: str) -> None:
    """The agent's own colours over mid-grey, with the outline's level."""
    wide = 60.0
    left = (PAGE_MM - wide) / 2
    ramp = paint_table()[np.arange(256), 128][None]
    axes = place_panel(page, (left, top + 0.5), (wide, 3.0))
    axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, 1))
    axes.axvline(CONTOUR_LEVEL, color=tuple(value / 255 for value in CONTOUR_COLOUR), linewidth=1.6)
    write(page, (left - 1.5, top + 0.8), "0", ha="right")
    write(page, (left + wide + 1.5, top + 0.8), "upper value in the map's corner")
    write(page, (PAGE_MM / 2, top + 4.6), legend, ha="center", colour=FAINT, room_mm=PAGE_MM - 2 * _EDGE_MM)
