"""The style of a report's charts, and how a figure becomes SVG that can stand in one HTML page with others.

Colours that the colour-blind tell apart (Okabe and Ito), a shape beside each colour so that a grey print says the
same, text that stays text and is taken literally: labels come from folder names. Equal figures give equal text.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WIDE_INCHES: Final = 6.5
NARROW_INCHES: Final = 4.2
INK: Final = "#1a1a1a"
FAINT: Final = "#767676"
RULE: Final = "#d4d4d4"
RIGHT: Final = "#0072b2"
WRONG: Final = "#d55e00"
CLASS_COLOURS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000", "#f0e442",
)  # fmt: skip
CLASS_MARKERS: Final = "os^DvP*X<>hp"
_NARROWEST_PX: Final = 420
"""On a narrow screen a chart is scrolled rather than made smaller than this: its letters would not be read."""
_FONTS: Final = "'DejaVu Sans', Verdana, 'Segoe UI', 'Noto Sans', sans-serif"
_SVG: Final = "http://www.w3.org/2000/svg"
_LINK: Final = "http://www.w3.org/1999/xlink"
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.6,
}


def figure_svg(draw: Callable[[], Any], name: str, words: str) -> str:
    """Make a part of the page of a figure that another module draws."""
    with _style(name):
        figure = draw()
        return _saved(figure, name, words)


@contextmanager
def drawn(
    width: float, height: float, name: str, words: str, **grid: object
) -> Iterator[tuple[Any, Any, list[str]]]:
    """Give a figure, its axes and a list that takes the SVG; `words` say what the chart shows."""
    from matplotlib.figure import Figure

    taken: list[str] = []
    with _style(name):
        figure: Any = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**grid), taken
        taken.append(_saved(figure, name, words))


@contextmanager
def _style(name: str) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The page's reader has fonts for scripts that matplotlib's own lacks; it only measures the text here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _saved(figure: Any, name: str, words: str) -> str:  # noqa: ANN401
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _embeddable(buffer.getvalue(), name, words, figure.get_figwidth() * 96)


def _embeddable(svg: bytes, name: str, words: str, width_px: float) -> str:
    """Make matplotlib's file a part of a page: ids of its own, no fixed size, words for a screen reader."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own output
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _renamed(key, value, name))
        if "style" in element.attrib and "font" in element.attrib["style"]:
            element.set("style", element.attrib["style"].replace("'DejaVu Sans'", _FONTS))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", words)
    root.set("style", f"width:{width_px:.0f}px;min-width:{min(width_px, _NARROWEST_PX):.0f}px")
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{_LINK}}}href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return value.replace("url(#", f"url(#{name}-")


def short(text: str, most: int = 24) -> str:
    """Cut a long name in the middle: its ends tell names apart."""
    if len(text) <= most:
        return text
    head = (most - 1 + 1) // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (most - 1 - head) :].lstrip()}"


def wrapped(text: str, width: int = 13, lines: int = 3) -> str:
    """Break a name into a few short lines."""
    return "\n".join(textwrap.wrap(short(text, width * lines - 2), width)[:lines]) or text


def percent(share: float) -> str:
    """Write a share; a share that is not quite all never reads as 100 %."""
    rounded = f"{100 * share:.0f}"
    if rounded == "100" and share < 1:
        return f"{math.floor(1000 * share) / 10:.1f} %"
    return f"{rounded} %"
