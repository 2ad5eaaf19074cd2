"""The figure an operator looks at: the micrograph, where the network found its evidence, what was decided.

Answers for everything that is drawn: arrangement, scale bar, colour bar, wording; the colours of the map are
`evidence`'s. It opens no file and needs no display.

Two panels of the same field: plain with the outline of the evidence, and covered by the evidence, so that the
map never hides what it marks.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np
from PIL import Image, ImageDraw

from edge_agent import __version__
from edge_agent.evidence import (
    CONTOUR_COLOUR,
    CONTOUR_LEVEL,
    METHOD_NAMES,
    Evidence,
    method_in_words,
    paint_panels,
    paint_table,
    spread_evidence,
)
from edge_agent.lettering import Lettering, width_px
from edge_agent.preprocessing import grey_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.classifier import Prediction
    from edge_agent.micrograph import Micrograph
    from edge_agent.preprocessing import Box, CamMap

LONGEST_PX: Final = 1024
"""Longest side of the whole figure."""
NARROWEST_PX: Final = 640
"""The caption needs this much, however narrow the micrograph."""
MARGIN_PX: Final = 12
CAPTION_PX: Final = 132
STACKED_FROM: Final = 1.4
"""The panels stand one above the other once that shows the micrograph this many times larger."""
COMPRESS_LEVEL: Final = 1
"""Higher levels take two times as long and more, and save a tenth of a noisy picture."""

PAPER: Final = (20, 22, 26)
INK: Final = (236, 238, 240)
FAINT_INK: Final = (165, 170, 176)
# Blue and orange of Okabe and Ito, told apart by the colour-blind; the words beside them say the same.
DECISION_COLOURS: Final = {"accept": (86, 180, 233), "abstain": (230, 159, 0), "ungated": FAINT_INK}
DECISION_WORDS: Final = {
    "accept": "accepted",
    "abstain": "no answer",
    "ungated": "not gated (model has no thresholds)",
}

LABEL_SIZE: Final = 34
DECISION_SIZE: Final = 21
TEXT_SIZE: Final = 17
SMALL_SIZE: Final = 14
MOST_REASONS: Final = 2
"""As many reasons are spelled out on the figure; the rest are counted, and stand in the text chunks."""


class Verdict(Protocol):
    """What is drawn of a `Decision`: the module that takes it stands beside this one, not below."""

    @property
    def decision(self) -> Literal["accept", "abstain", "ungated"]:
        """What became of the prediction."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it abstains, in words joined by underscores."""


def draw_heatmap(
    micrograph: Micrograph,
    prediction: Prediction,
    decision: Verdict,
    *,
    model: str | None = None,
    novelty_limit: float | None = None,
) -> bytes:
    """Draw the figure for one classified micrograph; `model` is the name to print.

    An abstention must not look like an answer: it has no large label. `novelty_limit` is the bundle's threshold,
    printed beside the novelty where there are both.

    Returns a PNG (RGB, at most 1024 px on its longest side) whose text chunks carry Title, Description,
    Software, Source (the file's name) and, where it is known, the SHA-256 of the source. Equal arguments give
    equal bytes. Pixels are drawn square; where their sizes differ, the scale bar holds horizontally only, and
    says so.
    """
    rows, columns = micrograph.pixels.shape
    arrangement = _arrange(rows, columns)
    grey = grey_field(micrograph.pixels, prediction.field.contrast, arrangement.panel_shape)
    evidence = spread_evidence(prediction.cam, (rows, columns), arrangement.panel_shape)
    image = Image.fromarray(_paint_panels(arrangement, grey, evidence))
    pen = Lettering(ImageDraw.Draw(image))
    _outline_examined(pen.draw, arrangement, prediction.cam.box_px, (rows, columns))
    left, right, top = arrangement.caption
    room = (right - left - MARGIN_PX) // 2
    _draw_scale_bar(pen, (left, top + 17), room, micrograph, arrangement.panel_shape[1])
    _draw_colour_bar(pen, (right - room, top + 17), room, evidence, prediction.cam)
    if decision.decision == "abstain":
        _write_abstention(pen, arrangement, prediction, decision)
    else:
        _write_answer(pen, arrangement, prediction, decision)
    _write_small_print(pen, arrangement, micrograph, _facts(micrograph, prediction, model, novelty_limit))
    return _png(np.asarray(image), _texts(micrograph, prediction, decision, model))


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Canvas size (width, height), and where the two panels stand on it, in pixels of the figure."""

    size: tuple[int, int]
    plain: Box
    covered: Box

    @property
    def panel_shape(self) -> tuple[int, int]:
        """Rows and columns of a panel."""
        return self.plain[3] - self.plain[1], self.plain[2] - self.plain[0]

    @property
    def caption(self) -> tuple[int, int, int]:
        """Left end, right end and top of the caption."""
        return MARGIN_PX, self.size[0] - MARGIN_PX, self.size[1] - CAPTION_PX


def _arrange(rows: int, columns: int) -> _Arrangement:
    """Stand the panels side by side, or one above the other where that shows a wide field much larger."""
    width, height = LONGEST_PX - 2 * MARGIN_PX, LONGEST_PX - CAPTION_PX - MARGIN_PX
    beside = min((width - MARGIN_PX) / 2 / columns, height / rows)
    stacked = min(width / columns, (height - MARGIN_PX) / 2 / rows)
    vertical = stacked > STACKED_FROM * beside
    scale = stacked if vertical else beside
    # Truncated, as rounding both panels up could pass the limit; the tiny sum undoes 493.99999 for 494.
    wide, high = max(1, int(columns * scale + 1e-6)), max(1, int(rows * scale + 1e-6))
    step_x, step_y = (0, high + MARGIN_PX) if vertical else (wide + MARGIN_PX, 0)
    canvas_width = max(NARROWEST_PX, wide + step_x + 2 * MARGIN_PX)
    left, top = (canvas_width - wide - step_x) // 2, MARGIN_PX
    plain = (left, top, left + wide, top + high)
    covered = (left + step_x, top + step_y, left + step_x + wide, top + step_y + high)
    return _Arrangement((canvas_width, covered[3] + CAPTION_PX), plain, covered)


def _paint_panels(
    arrangement: _Arrangement, grey: NDArray[np.float32], evidence: Evidence
) -> NDArray[np.uint8]:
    canvas = np.empty((*arrangement.size[::-1], 3), dtype=np.uint8)
    canvas[:] = PAPER
    plain, covered = paint_panels(grey, evidence)
    for (left, top, right, bottom), panel in ((arrangement.plain, plain), (arrangement.covered, covered)):
        canvas[top:bottom, left:right] = panel
    return canvas


def _outline_examined(
    draw: ImageDraw.ImageDraw, arrangement: _Arrangement, box_px: Box, field_shape: tuple[int, int]
) -> None:
    """Frame the part that the network was shown, where it is not the whole field."""
    rows, columns = field_shape
    if box_px == (0, 0, columns, rows):
        return
    high, wide = arrangement.panel_shape
    for left, top, _, _ in (arrangement.plain, arrangement.covered):
        x0, x1 = (left + round(x * wide / columns) for x in box_px[::2])
        y0, y1 = (top + round(y * high / rows) for y in box_px[1::2])
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=INK)


def _draw_scale_bar(
    pen: Lettering, at: tuple[int, int], room: int, micrograph: Micrograph, panel_width: int
) -> None:
    x, y = at
    if micrograph.pixel_size_nm is None:
        pen.write((x, y), "no scale: not calibrated", TEXT_SIZE, FAINT_INK, room=room)
        return
    down_nm, across_nm = micrograph.pixel_size_nm
    nm_per_px = across_nm * micrograph.pixels.shape[1] / panel_width
    length_nm = round_length(nm_per_px * min(panel_width, max(60.0, 0.4 * panel_width)))
    length_px = max(1, round(length_nm / nm_per_px))
    pen.draw.rectangle((x, y - 4, x + length_px - 1, y + 3), fill=INK)
    isotropic = abs(down_nm / across_nm - 1) < 0.01
    words, left = length_text(length_nm), room - length_px - 10
    if not isotropic and width_px(words + " horizontally", TEXT_SIZE) <= left:
        words += " horizontally"  # else the line below says it
    pen.write((x + length_px + 10, y), words, TEXT_SIZE, INK, room=left)
    pixel = f"{across_nm:.4g} nm per pixel" + ("" if isotropic else f" across, {down_nm:.4g} nm down")
    if micrograph.replaced is not None:
        pixel += ", as configured"
    pen.write((x, y + 23), pixel, SMALL_SIZE, FAINT_INK, room=room)


def round_length(longest: float) -> float:
    """Find the largest of 1, 2, 5 times a power of ten that is not above `longest`."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= longest * (1 + 1e-9))


def length_text(length_nm: float) -> str:
    """Write a length in the unit that suits it."""
    units = {"m": 1e9, "mm": 1e6, "µm": 1e3, "nm": 1.0}
    unit = next((unit for unit, size_nm in units.items() if length_nm >= size_nm * (1 - 1e-9)), "pm")
    return f"{length_nm / units.get(unit, 1e-3):.4g} {unit}"


def _draw_colour_bar(pen: Lettering, at: tuple[int, int], room: int, evidence: Evidence, cam: CamMap) -> None:
    x, y = at
    if evidence.values is None:
        pen.write(at, evidence.absence, TEXT_SIZE, INK, room=room)
        return
    start = pen.write(at, "0", TEXT_SIZE, INK) + 8
    width = min(240, room - 100)
    ramp = paint_table()[np.linspace(0, 255, width).astype(np.uint8), 128]
    for column, (red, green, blue) in enumerate(ramp.tolist(), start):
        pen.draw.line((column, y - 8, column, y + 7), fill=(red, green, blue))
    middle = start + round(CONTOUR_LEVEL * width)
    pen.draw.rectangle((middle - 2, y - 10, middle + 2, y + 9), fill=PAPER)
    pen.draw.rectangle((middle - 1, y - 10, middle + 1, y + 9), fill=CONTOUR_COLOUR)
    pen.write((start + width + 8, y), f"{evidence.scale:.3g}", TEXT_SIZE, INK)
    words = f"evidence for {cam.label} ({method_in_words(cam.method)}), line: half the scale"
    pen.write((x, y + 23), words, SMALL_SIZE, FAINT_INK, room=room)


def _write_answer(
    pen: Lettering, arrangement: _Arrangement, prediction: Prediction, decision: Verdict
) -> None:
    """Write label and probability, the decision, and the other classes where there is room left."""
    left, right, top = arrangement.caption
    y = top + 93
    words = f"{prediction.label} {_percent(prediction.probability)}"
    x = pen.write((left, y), words, LABEL_SIZE, INK, room=(right - left) // 2, anchor="ls") + 18
    colour = DECISION_COLOURS[decision.decision]
    pen.draw.rectangle((x, y - 14, x + 13, y - 1), fill=colour)
    x += 22
    words = DECISION_WORDS[decision.decision]
    x = pen.write((x, y), words, DECISION_SIZE, colour, room=right - x, anchor="ls")
    ranked = sorted(zip(prediction.probabilities, prediction.labels, strict=True), reverse=True)
    others = "    ".join(f"{label} {_percent(value)}" for value, label in ranked if label != prediction.label)
    if width_px(others, TEXT_SIZE) < right - x - 30:
        pen.write((right, y), others, TEXT_SIZE, FAINT_INK, anchor="rs")


def _write_abstention(
    pen: Lettering, arrangement: _Arrangement, prediction: Prediction, decision: Verdict
) -> None:
    """Write that there is no answer, and why; what the network leans to only small and faint."""
    left, right, top = arrangement.caption
    y, colour = top + 93, DECISION_COLOURS["abstain"]
    pen.draw.rectangle((left, y - 24, left + 23, y - 1), fill=colour)
    x = pen.write((left + 34, y), DECISION_WORDS["abstain"], LABEL_SIZE, colour, anchor="ls") + 18
    leaning = _leaning(prediction)
    leaning_px = min(math.ceil(width_px(leaning, SMALL_SIZE)), (right - left) // 3)
    pen.write((right, y), leaning, SMALL_SIZE, FAINT_INK, room=leaning_px, anchor="rs")
    room = right - leaning_px - 20 - x
    words, size = _reasons_to_fit(decision.reasons, room)
    pen.write((x, y), words, size, colour, room=room, anchor="ls")


def _reasons_to_fit(reasons: tuple[str, ...], room: int) -> tuple[str, int]:
    """Say as many reasons (the first ones) as large as `room` allows: the words, and their size."""
    counts = range(min(MOST_REASONS, len(reasons)), 0, -1)
    tries = [
        (_first_reasons(reasons, count), size) for count in counts for size in (DECISION_SIZE, TEXT_SIZE)
    ]
    return next(
        (found for found in tries if width_px(*found) <= room), (_first_reasons(reasons, 1), SMALL_SIZE)
    )


def _first_reasons(reasons: tuple[str, ...], count: int) -> str:
    rest = len(reasons) - count
    return ", ".join(map(_reason, reasons[:count])) + (f", +{rest} more" if rest > 0 else "")


def _reason(reason: str) -> str:
    return reason.replace("_", " ")


def _leaning(prediction: Prediction) -> str:
    return f"leans to {prediction.label} {_percent(prediction.probability)}"


def _facts(
    micrograph: Micrograph, prediction: Prediction, model: str | None, novelty_limit: float | None
) -> str:
    rows, columns = micrograph.pixels.shape
    facts = [f"{columns} × {rows} px", *([model] if model else [])]
    if prediction.novelty is not None and novelty_limit is not None:
        facts.insert(0, f"novelty {prediction.novelty:.2f} (limit {novelty_limit:.2f})")
    return " · ".join(facts)


def _write_small_print(pen: Lettering, arrangement: _Arrangement, micrograph: Micrograph, facts: str) -> None:
    left, right, top = arrangement.caption
    y, most = top + 114, (right - left) * 2 // 3
    pen.write((right, y), facts, SMALL_SIZE, FAINT_INK, room=most, anchor="rm")
    room = right - left - min(most, math.ceil(width_px(facts, SMALL_SIZE))) - 2 * MARGIN_PX
    pen.write((left, y), micrograph.source.path.name, SMALL_SIZE, FAINT_INK, room=room)


def _percent(probability: float) -> str:
    if probability > 0.995:
        return "> 99 %"
    return f"{probability * 100:.0f} %" if probability >= 0.005 else "< 1 %"


def _texts(
    micrograph: Micrograph, prediction: Prediction, decision: Verdict, model: str | None
) -> dict[str, str]:
    name, sha256 = micrograph.source.path.name, micrograph.source.sha256
    verdict = f"{prediction.label} {_percent(prediction.probability)}, {DECISION_WORDS[decision.decision]}"
    if decision.decision == "abstain":
        reasons = ", ".join(map(_reason, decision.reasons))
        verdict = f"{DECISION_WORDS['abstain']}: {reasons} ({_leaning(prediction)})"
    by_model = f" Classified by {model}." if model else ""
    cam = prediction.cam
    texts = {
        "Title": f"{name}: {verdict}",
        "Description": (
            f"Class evidence ({METHOD_NAMES.get(cam.method, cam.method)}) for {cam.label} over the micrograph."
            f"{by_model}"
        ),
        "Software": f"scopewatch {__version__}",
        "Source": name,
    }
    return texts | ({"Source SHA-256": sha256} if sha256 is not None else {})


def _png(pixels: NDArray[np.uint8], texts: dict[str, str]) -> bytes:
    """Encode RGB pixels, every row as its difference from the one above.

    Pillow tries all five filters on every row, which takes twice as long for a file 3 % smaller.
    """
    rows, columns, _ = pixels.shape
    lines = np.empty((rows, 1 + 3 * columns), dtype=np.uint8)
    lines[:, 0] = 2  # the filter "up"
    lines[0, 1:] = pixels[0].reshape(-1)
    np.subtract(pixels[1:].reshape(rows - 1, -1), pixels[:-1].reshape(rows - 1, -1), out=lines[1:, 1:])
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0))]
    for key, words in texts.items():
        # File names on Linux may hold bytes that are no text (lone surrogates), which PNG cannot carry.
        chunks.append(_chunk(b"iTXt", key.encode() + bytes(5) + words.encode("utf-8", "replace")))
    chunks += [_chunk(b"IDAT", zlib.compress(lines.tobytes(), COMPRESS_LEVEL)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
