"""Scale bars and info bars that were drawn into the pixels, as exports and published figures have them.

Only this module knows how a drawing differs from a specimen: it is of one exact value, and its edges run along the
pixels. DigitalMicrograph keeps its own scale bars beside the pixels, so its files have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_LOOKED_AT_PX: Final = 1024
"""Larger pictures are looked at in every second (third, ...) pixel: drawings grow with them."""
_SAME: Final = 10 / 255
"""Part of the grey scale within which a value is the drawing's own: JPEG compression blurs its edges."""
_SMALLEST_SIDE_PX: Final = 96

_BAR_ROWS: Final = (0.025, 0.25)
"""Height of an info bar over the height of the picture."""
_BAR_GROUND: Final = 0.55
"""Part of a row of an info bar that has the ground's value; the rest are letters."""
_GAP_ROWS: Final = 0.015
"""Rows of a bar that may be otherwise (a frame, a ruled line), over the height."""
_EDGE_COLUMNS: Final = 0.85
"""Part of the columns in which the picture above an info bar has another value than its ground."""

_LENGTH: Final = (0.06, 0.6)
"""Length of a scale bar over the width of the picture."""
_SLENDER: Final = 5.0
"""Length of a scale bar over its height, at least."""
_FREE: Final = 0.35
"""Part of the row above and of that below a scale bar which may have the bar's value (ticks, letters)."""
_SHORTEST_PX: Final = 24
"""Of a shorter line nothing says that it was drawn."""
_APART: Final = 3.0
"""What surrounds a scale bar stands so many times further from the extreme value than the bar itself may."""
_MOST_RUNS: Final = 4000
"""A picture with more long lines of its extreme values is saturated; no bar can be told from it."""


@dataclass(frozen=True, slots=True)
class BurntIn:
    """What was drawn into a micrograph, in its pixels; 0 where nothing was found."""

    info_bar_rows: int = 0
    """Rows at the lower edge."""
    scale_bar_px: int = 0
    """Length of the longest scale bar."""


def find_burnt_in(pixels: NDArray[Any]) -> BurntIn:
    """Look for an info bar along the lower edge and for a scale bar anywhere (2-D, any real type).

    What is drawn in a value that is neither the picture's lowest nor its highest is not found, except in an info
    bar, whose ground may have any value.
    """
    step = max(1, math.ceil(min(pixels.shape) / _LOOKED_AT_PX))
    seen = np.ascontiguousarray(pixels[::-step][::-1, ::step])
    low, high = float(seen.min()), float(seen.max())
    if min(seen.shape) < _SMALLEST_SIDE_PX or not (math.isfinite(low) and math.isfinite(high) and high > low):
        return BurntIn()
    same = _SAME * (high - low)
    bar_rows = _info_bar_rows(seen, same)
    above = seen[: seen.shape[0] - bar_rows]
    dark = _longest_bar(above <= low + same, above <= low + _APART * same)
    bright = _longest_bar(above >= high - same, above >= high - _APART * same)
    length = max(dark, bright)
    return BurntIn(bar_rows * step, length * step)


def _info_bar_rows(seen: NDArray[Any], same: float) -> int:
    """Rows of a band along the lower edge whose ground has one value from side to side."""
    rows = seen.shape[0]
    lower = seen[-math.ceil((_BAR_ROWS[1] + 0.05) * rows) :].astype(np.float64)
    ground = float(np.median(lower[-max(3, rows // 100) :]))
    share = (np.abs(lower - ground) <= same).mean(axis=1)[::-1]
    gap, height = max(2, math.ceil(_GAP_ROWS * rows)), 0
    for row, part in enumerate(share):
        if part >= _BAR_GROUND:
            height = row + 1
        elif row - height >= gap:
            break
    if not _BAR_ROWS[0] * rows <= height <= _BAR_ROWS[1] * rows:
        return 0
    band = lower[-height:]
    exact = np.abs(band - ground) <= same
    if float(np.abs(band[exact] - ground).mean()) > same / 5 or exact.mean() < _BAR_GROUND:
        return 0  # an even part of the specimen, which is never exactly even
    above = lower[-height - 3 : -height]
    other = (np.abs(above - ground) > same).any(axis=0).mean()
    return height if other >= _EDGE_COLUMNS else 0


def _longest_bar(mask: NDArray[np.bool_], about: NDArray[np.bool_]) -> int:
    """Length of the longest slender rectangle in a mask that stands free in a wider one, 0 if there is none."""
    found = [
        end - start for top, bottom, start, end in _rectangles(mask) if _free(about, top, bottom, start, end)
    ]
    return max(found, default=0)


def _rectangles(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    """(top, bottom, start, end) of runs of one place and length in consecutive rows; bottom and end excluded."""
    open_runs: dict[tuple[int, int], list[int]] = {}
    for row, start, end in _long_runs(mask):
        for key in [key for key, (_, last) in open_runs.items() if last < row - 1]:
            yield (*_rows_of(open_runs, key), *key)
        same = next((key for key in open_runs if abs(key[0] - start) <= 2 and abs(key[1] - end) <= 2), None)
        if same is None:
            open_runs[start, end] = [row, row]
        else:
            open_runs[same][1] = row
    for key in list(open_runs):
        yield (*_rows_of(open_runs, key), *key)


def _rows_of(open_runs: dict[tuple[int, int], list[int]], key: tuple[int, int]) -> tuple[int, int]:
    top, last = open_runs.pop(key)
    return top, last + 1


def _long_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(row, start, end) of runs along rows that are as long as a scale bar."""
    columns = mask.shape[1]
    shortest = max(_SHORTEST_PX, _LENGTH[0] * columns)
    enough = np.flatnonzero(np.count_nonzero(mask, axis=1) >= shortest)
    padded = np.zeros((enough.size, columns + 2), np.bool_)
    padded[:, 1:-1] = mask[enough]
    changes = padded[:, 1:] != padded[:, :-1]
    places, ends = np.nonzero(changes)  # of each run: where it starts, where it ends
    rows, starts, ends = enough[places[::2]], ends[::2], ends[1::2]
    long = (ends - starts >= shortest) & (ends - starts <= _LENGTH[1] * columns)
    if np.count_nonzero(long) > _MOST_RUNS:
        return []
    return list(zip(rows[long].tolist(), starts[long].tolist(), ends[long].tolist(), strict=True))


def _free(mask: NDArray[np.bool_], top: int, bottom: int, start: int, end: int) -> bool:
    """Whether a rectangle is slender, at least two rows high, and stands free above, below and at its ends."""
    if bottom - top < 2 or (end - start) < _SLENDER * (bottom - top):
        return False
    around = []
    for row in (top - 3, bottom + 2):
        if 0 <= row < mask.shape[0]:
            around.append(float(mask[row, start:end].mean()))
    for column in (start - 4, end + 3):
        if 0 <= column < mask.shape[1]:
            around.append(float(mask[top:bottom, column].mean()))
    return len(around) >= 3 and max(around) <= _FREE
