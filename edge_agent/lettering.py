"""Single lines of text on a figure, in a font that every PC has.

Only this module knows the font: Pillow's own, which needs no file and looks the same everywhere, but has
little more than ASCII. Text that it cannot show is written with the nearest characters and never raises.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL import ImageDraw

UNBOUNDED_PX: Final = 100_000
ASCII_FOR: Final = {"µ": "u", "μ": "u", "×": "x", "–": "-", "—": "-", "−": "-"}


@dataclass(frozen=True, slots=True)
class Lettering:
    """Writes on one figure."""

    draw: ImageDraw.ImageDraw

    def write(
        self,
        at: tuple[int, int],
        words: str,
        size: int,
        fill: tuple[int, int, int],
        *,
        room: int = UNBOUNDED_PX,
        anchor: str = "lm",
    ) -> int:
        """Write `words`, shortened to `room` pixels; gives the column of their end (left anchors)."""
        font = _font(size)
        line = _fitting(drawable(words), font, room)
        self.draw.text(at, line, fill=fill, font=font, anchor=anchor)
        return math.ceil(at[0] + font.getlength(line))


def width_px(words: str, size: int) -> float:
    """Width of the whole line in pixels of the figure."""
    return _font(size).getlength(drawable(words))


def drawable(words: str) -> str:
    """Replace what the font lacks: µ by u, × by x, letters with accents by those without, the rest by "?"."""
    return "".join(_drawable_character(character) for character in words)


@cache
def _drawable_character(character: str) -> str:
    font = _font(14)
    missing = bytes(font.getmask("\uffff"))
    plain = unicodedata.normalize("NFKD", character)[0]
    for candidate in (character, ASCII_FOR.get(character, plain)):
        if candidate.isprintable() and bytes(font.getmask(candidate)) != missing:
            return candidate
    return "?"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Asked for a size, Pillow answers with its scalable font or, built without FreeType, with an ImportError.
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size=size))


def _fitting(words: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """Leave the middle out of a line that is too long: a file's name is told by its start and its end."""
    if font.getlength(words) <= room:
        return words
    for kept in range(min(len(words) - 1, room), 1, -1):
        shorter = f"{words[: (kept + 1) // 2]}…{words[len(words) - kept // 2 :]}"
        if font.getlength(shorter) <= room:
            return shorter
    return "…"
