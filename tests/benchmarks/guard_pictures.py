"""One simulated picture for each reason to abstain, as the agent draws it: the README's `.github/abstentions.png`.

    python tests/benchmarks/guard_pictures.py [--model NAME|PATH] [--out .github/abstentions.png]

Every micrograph goes through the agent's classifier, decision and figure; of the figure the left half is shown. To
show one reason each, a bundle keeps the one limit that the picture is about: its own where it has one that the
picture passes, otherwise one made for the picture. Prints which, and ends with 1 where another reason comes out.
Without a novelty in the bundle's graph, that picture is left out and said so. `pixel_size_unknown` has no picture
of its own: it looks as `uncalibrated` does.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from edge_agent.classifier import Classifier
from edge_agent.decision import decide
from edge_agent.files import FileStamp, SourceFile
from edge_agent.heatmap import FAINT_INK, INK, PAPER, draw_heatmap
from edge_agent.lettering import Lettering
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import Bundle, Guards, Thresholds, TrainingRanges, open_bundle
from edge_agent.preprocessing import TilePlan
from edge_agent.simulated_field import draw_field, expose, view_at
from edge_agent.simulated_particles import SHAPES, populate
from edge_agent.simulated_strangers import draw_stranger

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge_agent.classifier import Prediction

SIDE_PX = 1024
SHEET_PX = 1020
"""A little more than a README's width on GitHub, for four in a row."""
COLUMNS = 4
GAP_PX = 10
CAPTION_PX = 42
LARGEST_BYTES = 600_000
EDGE = (255, 255, 255)
COLOURS = (256, 192, 128, 96, 64, 48, 32)
UNKNOWN = Instrument(None, None, None, None, None, None)


@dataclass(frozen=True)
class Subject:
    """What the file holds."""

    pixels: NDArray[Any]
    pixel_size_nm: float | None = 0.5
    instrument: Instrument = UNKNOWN


@dataclass(frozen=True)
class Case:
    """One reason: its picture, what the caption says of it, and the limit that it passes.

    `limit` names the part of the manifest and the field in it ("": several); `made` gives a value that the picture
    passes (by field, where there are several).
    """

    reason: str
    caption: str
    draw: Callable[[], Subject]
    limit: tuple[str, str] | None = None
    made: Callable[[Prediction], Any] = lambda seen: None
    divisions: int = 1


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=Path(".github/abstentions.png"))
    given = parser.parse_args()
    bundle = open_bundle(given.model)
    cells, wrong = [], 0
    for case in CASES:
        if case.reason == "novel" and bundle.manifest.tensors.novelty is None:
            print("novel: left out, the bundle's graph gives no novelty")
            continue
        figure, came_out, limit = drawn(case, bundle)
        print(f"{case.reason}: {', '.join(came_out) or 'no reason'} ({limit})")
        wrong += came_out != (case.reason,)
        cells.append((case, figure))
    content = as_png(composed(cells))
    given.out.write_bytes(content)
    print(f"{given.out}: {len(content)} bytes")
    sys.exit(1 if wrong else 0)


def drawn(case: Case, bundle: Bundle) -> tuple[Image.Image, tuple[str, ...], str]:
    """The agent's figure, the reasons that came out, and the limit that was passed, in words."""
    subject = case.draw()
    micrograph = as_micrograph(case.reason, subject)
    found, said = without_limits(bundle, case.divisions), "whatever the bundle's limits"
    prediction = Classifier(found).classify(micrograph)
    if case.limit is not None:
        part, name = case.limit
        own = getattr(getattr(bundle.manifest, part), name, None) if name else None
        found, said = with_limit(found, part, name, own), f"the bundle's {name} {own}"
        if own is None or name == "" or decide(prediction, micrograph, found.manifest).decision == "accept":
            made = case.made(prediction)
            found, said = with_limit(found, part, name, made), f"{name} made for the picture: {made}"
    decision = decide(prediction, micrograph, found.manifest)
    png = draw_heatmap(micrograph, prediction, decision)
    return Image.open(io.BytesIO(png)).convert("RGB"), decision.reasons, said


def without_limits(bundle: Bundle, divisions: int) -> Bundle:
    """The same network with nothing to abstain for but what no picture can be judged with."""
    tiles = {"tiles": TilePlan(divisions=divisions)}
    changes = {
        "thresholds": Thresholds(confidence=0.0),
        "training_ranges": TrainingRanges(),
        "guards": Guards(scale_margin=bundle.manifest.guards.scale_margin),
        "preprocessing": bundle.manifest.preprocessing.model_copy(update=tiles),
    }
    return replace(bundle, manifest=bundle.manifest.model_copy(update=changes))


def with_limit(bundle: Bundle, part: str, name: str, limit: Any) -> Bundle:
    changes = {name: limit} if name else limit or {}
    changed = getattr(bundle.manifest, part).model_copy(update=changes)
    return replace(bundle, manifest=bundle.manifest.model_copy(update={part: changed}))


def as_micrograph(name: str, subject: Subject) -> Micrograph:
    source = SourceFile(Path(f"simulated {name.replace('_', ' ')}"), FileStamp(0, 0, 0, 0), None, "")
    size_nm = None if subject.pixel_size_nm is None else (subject.pixel_size_nm, subject.pixel_size_nm)
    return Micrograph(source, subject.pixels, size_nm, 0, None, ("image",), None, None, subject.instrument)


def composed(cells: list[tuple[Case, Image.Image]]) -> Image.Image:
    """Left halves of the figures in rows, each over its caption."""
    wide = (SHEET_PX - (COLUMNS + 1) * GAP_PX) // COLUMNS
    halves = [figure.crop((0, 0, figure.width // 2, figure.height)) for _, figure in cells]
    high = max(round(half.height * wide / half.width) for half in halves)
    rows = -(-len(cells) // COLUMNS)
    step = high + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (SHEET_PX, rows * step + GAP_PX), EDGE)
    pen = Lettering(ImageDraw.Draw(sheet))
    for index, ((case, _), half) in enumerate(zip(cells, halves, strict=True)):
        left = GAP_PX + index % COLUMNS * (wide + GAP_PX)
        top = GAP_PX + index // COLUMNS * step
        pen.draw.rectangle((left, top, left + wide - 1, top + high + CAPTION_PX - 1), fill=PAPER)
        shown = half.resize((wide, round(half.height * wide / half.width)), Image.Resampling.LANCZOS)
        sheet.paste(shown, (left, top + high - shown.height))
        pen.write((left + 8, top + high + 10), case.reason, 14, INK, room=wide - 16)
        pen.write((left + 8, top + high + 29), case.caption, 12, FAINT_INK, room=wide - 16)
    return sheet


def as_png(sheet: Image.Image) -> bytes:
    """With as many colours as `LARGEST_BYTES` allows."""
    for colours in COLOURS:
        stream = io.BytesIO()
        few = sheet.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(stream, "PNG", optimize=True)
        if stream.tell() <= LARGEST_BYTES:
            return stream.getvalue()
    raise SystemExit(f"more than {LARGEST_BYTES} bytes even with {COLOURS[-1]} colours")


def a_field(shape: str, seed: int, **view: Any) -> NDArray[Any]:
    """A sharp, well exposed micrograph, 4:3; "mixed" has particles of every shape."""
    rng = np.random.default_rng(seed)
    shapes = SHAPES if shape == "mixed" else (shape,)
    particles = [particle for one in shapes for particle in populate(one, rng, SIDE_PX)]
    setting = {
        "voltage_kv": 200.0, "fringe": 0.003, "coherence": 1.0, "electrons_per_px": 800.0,
    } | view  # fmt: skip
    return cropped(expose(particles, view_at(20_000, size_px=SIDE_PX, **setting), rng, dtype="uint16"))


def a_stranger(kind: str, seed: int) -> Subject:
    return Subject(cropped(draw_stranger(kind, np.random.default_rng(seed), SIDE_PX)))


def cropped(pixels: NDArray[Any]) -> NDArray[Any]:
    """The middle, four to three: lower than a square, for a sheet of many."""
    rows, columns = pixels.shape
    margin = (rows - columns * 3 // 4) // 2
    return np.ascontiguousarray(pixels[margin : rows - margin])


def quarters(*shapes: str) -> NDArray[Any]:
    """Four fields of different shapes side by side, as a stitched overview has."""
    parts = [a_field(shape, seed).astype(np.float32) for seed, shape in enumerate(shapes, 40)]
    halved = [np.asarray(Image.fromarray(part).resize((512, 384), Image.Resampling.BOX)) for part in parts]
    return np.block([halved[:2], halved[2:]])


def small() -> Subject:
    picture = Image.fromarray(a_field("round", 7).astype(np.float32))
    return Subject(np.asarray(picture.resize((28, 21), Image.Resampling.BOX)), 18.0)


def below(value: float) -> float:
    """A limit that the value is clearly above."""
    return value - max(0.3 * abs(value), 0.01)


def above(value: float) -> float:
    return value + max(0.3 * abs(value), 0.01)


def two_thirds_of_both(seen: Prediction) -> dict[str, float]:
    """Limits of which the picture uses up two thirds each."""
    odds = seen.probability / (1 - seen.probability)
    return {
        "novelty_usual": seen.novelty / 1.6, "novelty": seen.novelty * 1.25,
        "confidence_usual": 4 * odds / (1 + 4 * odds), "confidence": odds / 2 / (1 + odds / 2),
    }  # fmt: skip


SCANNED = Instrument(200.0, None, None, "SCANNING", "HAADF", None)
LOW_VOLTAGE = Instrument(60.0, None, "IMAGING", "TEM", None, None)
CASES = (
    Case("blank", "nothing but read-out noise", lambda: a_stranger("blank", 2)),
    Case("saturated", "the beam was too bright for the camera", lambda: a_stranger("saturated", 3)),
    Case("too_small", "28 x 21 pixels show no shape", small),
    Case(
        "blurred", "far out of focus", lambda: a_stranger("blurred", 1),
        ("guards", "least_sharpness"), lambda seen: above(seen.look.sharpness),
    ),
    Case(
        "drifted", "the specimen moved meanwhile", lambda: a_stranger("drifted", 5),
        ("guards", "most_streaks"), lambda seen: below(seen.look.streaks),
    ),
    Case(
        "looks_like_diffraction", "exported without its 1/nm", lambda: a_stranger("diffraction", 2),
        ("guards", "most_diffraction"), lambda seen: below(seen.look.diffraction),
    ),
    Case(
        "pixel_size_out_of_range", "atoms, where training had particles",
        lambda: replace(a_stranger("lattice", 5), pixel_size_nm=0.02),
        ("training_ranges", "pixel_size_nm"), lambda seen: (0.1, 2.0),
    ),
    Case(
        "field_of_view_out_of_range", "an overview of a whole grid square",
        lambda: Subject(cropped(draw_field("overfull", np.random.default_rng(5), SIDE_PX).pixels), 20.0),
        ("training_ranges", "field_of_view_nm"), lambda seen: (100.0, 2000.0),
    ),
    Case(
        "uncalibrated", "the file has no pixel size", lambda: Subject(a_field("round", 7), None),
        ("training_ranges", "all_calibrated"), lambda seen: True,
    ),
    Case(
        "voltage_out_of_range", "60 kV, where training had 200 and 300",
        lambda: Subject(a_field("faceted", 8, voltage_kv=60.0), 0.5, LOW_VOLTAGE),
        ("training_ranges", "voltage_kv"), lambda seen: (200.0, 300.0),
    ),
    Case(
        "detector_unlike_training", "HAADF, where training had TEM",
        lambda: Subject(a_field("round", 9, dark_field=True), 0.5, SCANNED),
        ("training_ranges", "detector"), lambda seen: ("TEM",),
    ),
    Case(
        "polarity_unlike_training", "bright, where training was dark",
        lambda: Subject(a_field("faceted", 11, dark_field=True)),
        ("training_ranges", "polarity"), lambda seen: ("dark on bright",),
    ),
    Case(
        "tiles_disagree", "quarters with different particles",
        lambda: Subject(quarters("round", "rod", "rod", "round")),
        ("thresholds", "tile_disagreement"), lambda seen: below(seen.tile_disagreement), 2,
    ),
    Case(
        "novel", "the network has seen nothing like it", lambda: a_stranger("lattice", 8),
        ("thresholds", "novelty"), lambda seen: below(seen.novelty),
    ),
    Case(
        "low_confidence", "every shape in one field", lambda: Subject(a_field("mixed", 12)),
        ("thresholds", "confidence"), lambda seen: (1 + seen.probability) / 2,
    ),
    Case(
        "unusual_and_unsure", "a little of both", lambda: Subject(a_field("mixed", 17)),
        ("thresholds", ""), lambda seen: two_thirds_of_both(seen),
    ),
)  # fmt: skip


if __name__ == "__main__":
    main()
