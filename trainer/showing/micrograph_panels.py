"""Grey pictures on a matplotlib figure: panels in millimetres, scale bars, text of any origin, and saving.

Only this module knows how a figure is set: sizes in millimetres from the upper left corner, one font that comes
with matplotlib and is embedded as text in PDF. File names and class names are foreign text: never read as
formulas, and letters that the font lacks are written with the nearest ones.
"""

from __future__ import annotations

import io
import math
import unicodedata
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from edge_agent import __version__
from edge_agent.files import write_durably
from edge_agent.heatmap import length_text, round_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MM_PER_INCH: Final = 25.4
FONT: Final = "DejaVu Sans"
INK: Final = "#1b1d20"
FAINT: Final = "#5a6068"
# Darkened from Okabe and Ito's bluish green and vermilion, so that small text stands out from paper.
RIGHT: Final = "#00694c"
WRONG: Final = "#a34700"
_STYLE: Final = {
    "font.family": [FONT],
    "font.size": 7.0,
    "pdf.fonttype": 42,  # whole outlines: journals refuse matplotlib's default, Type 3
    "axes.linewidth": 0.5,
    "savefig.facecolor": "white",
}
_BAR_FRACTION: Final = 0.35
"""A scale bar is the longest round length up to this part of the panel."""
_NOT_ISOTROPIC: Final = 0.01


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and save in the one style of all these figures."""
    import matplotlib as mpl

    style: Any = _STYLE  # typed in matplotlib by a list of all its settings
    with mpl.rc_context(style):
        yield


def blank_page(width_mm: float, height_mm: float) -> Figure:
    """An empty figure of this size."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH))


def place_panel(
    page: Figure, at_mm: tuple[float, float], size_mm: tuple[float, float], pixels: NDArray[Any] | None = None
) -> Axes:
    """Put a picture (grey 0..1, or RGB) on a page: its upper left corner and its room, both (across, down).

    The picture keeps its proportions, at the top of its room and in the middle; without one, the panel is empty.
    """
    width, height = page.get_size_inches() * MM_PER_INCH
    (left, top), (wide, high) = at_mm, size_mm
    axes = page.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
    axes.set_axis_off()
    if pixels is not None:
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        axes.set_anchor("N")
    return axes


def write(
    page: Figure,
    at_mm: tuple[float, float],
    words: str,
    *,
    size: float = 7.0,
    colour: str = INK,
    bold: bool = False,
    ha: Literal["left", "center", "right"] = "left",
    va: Literal["top", "bottom"] = "top",
    room_mm: float = math.inf,
) -> None:
    """Write words on a page; `at_mm` is their upper left corner unless `ha` and `va` say otherwise.

    Words that are wider than `room_mm` lose their middle: a name is told by its start and its end.
    """
    width, height = page.get_size_inches() * MM_PER_INCH
    at = at_mm[0] / width, 1 - at_mm[1] / height
    line, weight = _fitting(legible(words), size, bold, room_mm), "bold" if bold else "normal"
    page.text(*at, line, fontsize=size, color=colour, fontweight=weight, ha=ha, va=va, parse_math=False)


def width_mm(words: str, size: float, bold: bool = False) -> float:
    """How wide legible words stand on a page."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=FONT, size=size, weight="bold" if bold else "normal")
    points = text_to_path.get_text_width_height_descent(words, font, ismath=False)[0]
    return float(points) / 72 * MM_PER_INCH


def _fitting(words: str, size: float, bold: bool, room_mm: float) -> str:
    room_mm *= 0.98  # on a grid of pixels letters stand up to 2 % wider than their outlines
    if room_mm == math.inf or width_mm(words, size, bold) <= room_mm:
        return words
    for kept in range(len(words) - 1, 1, -1):
        shorter = f"{words[: (kept + 1) // 2]}…{words[len(words) - kept // 2 :]}"
        if width_mm(shorter, size, bold) <= room_mm:
            return shorter
    return "…"


def write_in(
    axes: Axes,
    at: tuple[float, float],
    words: str,
    ha: Literal["left", "right"] = "left",
    va: Literal["top", "bottom"] = "bottom",
) -> None:
    """Write words in a panel, at fractions of its picture from the lower left; white with a dark rim."""
    from matplotlib.patheffects import withStroke

    axes.text(
        *at,
        legible(words),
        transform=axes.transAxes,
        ha=ha,
        va=va,
        fontsize=6.0,
        color="white",
        path_effects=[withStroke(linewidth=1.4, foreground="black")],
        parse_math=False,
    )


def draw_scale_bar(axes: Axes, shown_px: tuple[int, int], pixel_size_nm: tuple[float, float] | None) -> str:
    """Draw the scale bar into a panel of `shown_px` (rows, columns), each pixel of this size (rows, columns).

    Returns the bar's length in words, "" where the pixel size is not known (then nothing is drawn).
    """
    if pixel_size_nm is None:
        return ""
    from matplotlib.patches import Rectangle

    rows, columns = shown_px
    down_nm, across_nm = pixel_size_nm
    length_nm = round_length(_BAR_FRACTION * columns * across_nm)
    words = length_text(length_nm)
    if abs(down_nm / across_nm - 1) > _NOT_ISOTROPIC:
        words += " horizontally"
    thick, margin = 0.016 * min(rows, columns), 0.04 * min(rows, columns)
    corner = margin - 0.5, rows - 0.5 - margin - thick
    axes.add_patch(
        Rectangle(corner, length_nm / across_nm, thick, facecolor="white", edgecolor="black", linewidth=0.4)
    )
    write_in(axes, ((margin + 0.5) / columns, (margin + 2 * thick) / rows), words)
    return words


def draw_scale_below(page: Figure, at_mm: tuple[float, float], width_mm: float, width_nm: float) -> None:
    """Draw a scale bar on the page, for a picture of this width on the page and on the specimen."""
    length_nm = round_length(_BAR_FRACTION * width_nm)
    long_mm = length_nm / width_nm * width_mm
    axes = place_panel(page, at_mm, (long_mm, 0.7))
    axes.axhspan(0, 1, color=INK, linewidth=0)
    write(page, (at_mm[0] + long_mm + 1, at_mm[1] - 0.7), length_text(length_nm), size=6.5)


def legible(words: str) -> str:
    """Words that the font can write, in one line: accents and signs it lacks are left out or become "?"."""
    return "".join(_legible_character(character) for character in words)


@cache
def _legible_character(character: str) -> str:
    if character.isspace():
        return " "
    plain = unicodedata.normalize("NFKD", character)[0]
    known = _characters()
    return next((one for one in (character, plain) if ord(one) in known and one.isprintable()), "?")


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, fontManager
    from matplotlib.ft2font import FT2Font

    font = FT2Font(fontManager.findfont(FontProperties(family=FONT)))
    return frozenset(font.get_charmap())


def save_png(page: Figure, path: Path, dpi: int, title: str) -> None:
    """Write a page as PNG, whole or not at all. Raises OSError."""
    buffer = io.BytesIO()
    page.savefig(buffer, format="png", dpi=dpi, metadata={"Title": legible(title), "Software": _software()})
    write_durably(path, buffer.getvalue())


def save_pdf(pages: Sequence[Figure], path: Path, dpi: int, title: str) -> None:
    """Write pages as one PDF: text and lines as such, pictures at `dpi`. Equal pages give equal bytes."""
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    about = {"Title": legible(title), "Creator": _software(), "CreationDate": None}
    with PdfPages(buffer, metadata=about) as book:
        for page in pages:
            page.savefig(book, format="pdf", dpi=dpi)
    write_durably(path, buffer.getvalue())


def _software() -> str:
    return f"scopewatch {__version__}"
