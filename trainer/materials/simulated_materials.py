"""A simulated laboratory: class folders of eight materials, five years of sessions, six microscopes, bad pictures.

Only this module knows how such a folder is laid out: `CLASS/SAMPLE/NNN.dm3`, and `drawn.csv` beside the class
folders, which says of every file what was drawn (it is a labels table too: sample, session, microscope). Every
picture depends on the seed and its own place alone, so a run that was interrupted goes on, file by file.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from PIL import Image

from edge_agent.files import write_durably
from edge_agent.simulated_field import SimulatedField, expose, view_at
from edge_agent.simulation import SimulatedInstrument, diffraction_dm3_bytes, dm3_bytes, spectrum_dm3_bytes
from trainer.materials.material_shapes import MATERIALS, Material, draw_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.simulated_field import View
    from edge_agent.simulated_particles import Floats

TABLE: Final = "drawn.csv"
Flaw = Literal["", "blurred", "empty", "saturated", "re-saved", "tilted", "diffraction", "spectrum"]
FLAWS: Final = tuple(flaw for flaw in get_args(Flaw) if flaw)
_FIRST_DAY: Final = datetime(2021, 1, 4, tzinfo=UTC)
_DAYS: Final = 5 * 365
_FILES_A_FLAW: Final = 6
_FRINGE: Final = (0.0015, 0.004)
_BLUR: Final = 0.02


class MaterialsError(Exception):
    """The folder cannot be drawn; the message says what was seen and what to do."""


@dataclass(frozen=True, slots=True)
class DrawnFile:
    """One file of the laboratory, relative to its folder with forward slashes; `flaw` is "" for a good picture.

    A "re-saved" or "tilted" picture shows what `base` shows.
    """

    file: str
    material: str
    sample: str
    session: str
    microscope: str
    flaw: Flaw
    base: str = ""


@dataclass(frozen=True, slots=True)
class _Microscope:
    """One instrument: its names, and what its pictures have in common."""

    by: SimulatedInstrument
    voltage_kv: float
    dtype: str
    electrons_per_px: float
    coherence: float


def _names(number: int, *, scanning: bool = False) -> SimulatedInstrument:
    kind = "STEM" if scanning else "TEM"
    return SimulatedInstrument(f"Simulated {kind} {number}", f"Simulated camera {number}", scanning)


_MICROSCOPES: Final = (
    _Microscope(_names(1), 80.0, "int16", 90.0, 0.8),
    _Microscope(_names(2), 120.0, "uint16", 250.0, 1.0),
    _Microscope(_names(3), 200.0, "uint16", 600.0, 1.2),
    _Microscope(_names(4), 200.0, "int32", 150.0, 1.0),
    _Microscope(_names(5), 300.0, "float32", 900.0, 1.4),
    _Microscope(_names(6, scanning=True), 200.0, "uint16", 700.0, 1.0),
)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place in the laboratory: class `material`, its sample number, the file's number in its class."""

    drawn: DrawnFile
    material: int
    sample: int
    number: int
    base: int
    microscope: _Microscope
    acquired: datetime


@dataclass(frozen=True, slots=True)
class _Size:
    files: int
    samples: int
    size_px: int
    seed: int


def draw_materials(
    folder: Path,
    *,
    files_per_class: int = 24,
    samples_per_class: int = 4,
    size_px: int = 1024,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    flaws: bool = True,
) -> tuple[DrawnFile, ...]:
    """Draw the simulated laboratory into `folder`; files that are there from an earlier run are kept.

    With `flaws`, one file in six is a bad one of `FLAWS`. `progress(what, done, total)` counts files.

    Raises:
        MaterialsError: the numbers make no sense, or the folder holds something else.

    """
    if not 1 <= samples_per_class <= files_per_class or size_px < 128:
        raise MaterialsError(
            f"cannot draw {files_per_class} files of {samples_per_class} samples at {size_px} px: "
            "give at least a file a sample, and at least 128 px"
        )
    size = _Size(files_per_class, samples_per_class, size_px, seed)
    slots = _plan(size, flaws=flaws)
    _claim(folder, _table(slots, size))
    for done, slot in enumerate(slots):
        if progress:
            progress("files drawn", done, len(slots))
        path = folder / slot.drawn.file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, _content(slot, size))
    if progress:
        progress("files drawn", len(slots), len(slots))
    return tuple(slot.drawn for slot in slots)


def read_drawn(folder: Path) -> tuple[DrawnFile, ...]:
    """Read what was drawn into a folder."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = ("file", "material", "sample", "session", "microscope", "flaw", "base")
    return tuple(DrawnFile(**{name: row[name] for name in names}) for row in rows)  # type: ignore[arg-type]


def _claim(folder: Path, table: bytes) -> None:
    """Take the folder, or see that it is this very laboratory's."""
    there = folder / TABLE
    if there.is_file():
        if there.read_bytes() != table:
            raise MaterialsError(f"{folder}: holds other simulated materials; give another folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MaterialsError(f"{folder}: is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(there, table)


def _table(slots: list[_Slot], size: _Size) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "material", "sample", "session", "microscope", "flaw", "base", "px", "seed"))
    for slot in slots:
        drawn = slot.drawn
        row = (
            drawn.file,
            drawn.material,
            drawn.sample,
            drawn.session,
            drawn.microscope,
            drawn.flaw,
            drawn.base,
        )
        writer.writerow((*row, size.size_px, size.seed))
    return text.getvalue().encode()


# --- which files there are ------------------------------------------------------------------------


def _plan(size: _Size, *, flaws: bool) -> list[_Slot]:
    """Lay out every class's samples over the sessions; about two samples, of any class, share a session."""
    rng = np.random.default_rng([size.seed, 0])
    samples = len(MATERIALS) * size.samples
    session_of = rng.permutation(samples) // 2
    days = np.sort(rng.choice(_DAYS, math.ceil(samples / 2), replace=False))
    microscopes = rng.permutation(np.arange(len(days)) % len(_MICROSCOPES))
    slots = []
    for at, material in enumerate(MATERIALS):
        kinds = _flaws(np.random.default_rng([size.seed, 1, at]), size, at) if flaws else {}
        for number in range(size.files):
            sample = number * size.samples // size.files
            session = int(session_of[at * size.samples + sample])
            start = _FIRST_DAY + timedelta(days=int(days[session]), hours=9, minutes=10 * at)
            place = (at, sample, number)
            slots.append(_slot(material, place, kinds, _MICROSCOPES[microscopes[session]], start))
    return slots


def _flaws(rng: np.random.Generator, size: _Size, material: int) -> dict[int, tuple[Flaw, int]]:
    """Choose bad files of one class: number -> (flaw, number of the picture it repeats).

    Its neighbours stay good, so that it can repeat the one before.
    """
    kinds: dict[int, tuple[Flaw, int]] = {}
    sample_of = [number * size.samples // size.files for number in range(size.files)]
    for number in rng.permutation(size.files).tolist():
        if len(kinds) >= size.files // _FILES_A_FLAW:
            break
        lone = all(abs(number - other) > 1 for other in kinds)
        if number > 0 and sample_of[number - 1] == sample_of[number] and lone:
            flaw = FLAWS[(len(kinds) + 3 * material) % len(FLAWS)]
            kinds[number] = (flaw, number - 1 if flaw in ("re-saved", "tilted") else -1)
    return kinds


def _slot(
    material: Material,
    place: tuple[int, int, int],
    kinds: dict[int, tuple[Flaw, int]],
    microscope: _Microscope,
    start: datetime,
) -> _Slot:
    at, sample, number = place
    flaw, base = kinds.get(number, ("", -1))
    name = f"S{at + 1}{sample + 1:02}"
    suffix = "jpg" if flaw == "re-saved" and number % 2 else "dm3"
    drawn = DrawnFile(
        file=f"{material.name}/{name}/{name}_{number + 1:04}.{suffix}",
        material=material.name,
        sample=name,
        session=f"{start:%Y-%m-%d}",
        microscope=microscope.by.camera,
        flaw=flaw,
        base=f"{material.name}/{name}/{name}_{base + 1:04}.dm3" if base >= 0 else "",
    )
    acquired = start + timedelta(minutes=2 * number % 60, seconds=7 * number)
    return _Slot(drawn, at, sample, number, base, microscope, acquired)


# --- what one file holds --------------------------------------------------------------------------


def _content(slot: _Slot, size: _Size) -> bytes:
    """Draw one file, whole."""
    rng = np.random.default_rng([size.seed, 2, slot.material, slot.number])
    name, flaw = Path(slot.drawn.file).stem, slot.drawn.flaw
    if flaw == "spectrum":
        return spectrum_dm3_bytes(rng, acquired=slot.acquired, name=name)
    if flaw == "diffraction":
        return diffraction_dm3_bytes(rng, size_px=size.size_px // 2, acquired=slot.acquired, name=name)
    if flaw in ("re-saved", "tilted"):
        shown = _field(replace(slot, number=slot.base, drawn=replace(slot.drawn, flaw="")), size)
        if flaw == "tilted":
            shown = _tilted(shown, rng, slot.microscope.dtype)
        elif slot.drawn.file.endswith(".jpg"):
            return _exported(shown)
    else:
        shown = _field(slot, size)
    return dm3_bytes(shown, acquired=slot.acquired, name=name, by=slot.microscope.by)


def _field(slot: _Slot, size: _Size) -> SimulatedField:
    """Expose one field of the slot's sample, with the flaw where it has one."""
    material, flaw = MATERIALS[slot.material], slot.drawn.flaw
    common = np.random.default_rng([size.seed, 3, slot.material, slot.sample])
    rng = np.random.default_rng([size.seed, 4, slot.material, slot.number])
    batch, usual = draw_batch(common), int(common.choice(material.magnifications))
    magnification = int(rng.choice(material.magnifications)) if rng.random() < 0.3 else usual
    view = _view(slot, rng, magnification, size.size_px)
    length_px = material.length_nm * batch.size / view.pixel_size_nm
    particles = material.lay(rng, batch, length_px, size.size_px) if flaw != "empty" else []
    pixels = expose(particles, view, rng, saturate=flaw == "saturated", dtype=slot.microscope.dtype)
    return SimulatedField(
        drawn=f"{material.name}{f', {flaw}' if flaw else ''}",
        clear=not flaw,
        pixels=pixels,
        pixel_size_nm=view.pixel_size_nm,
        magnification=view.magnification,
        voltage_kv=view.voltage_kv,
    )


def _view(slot: _Slot, rng: np.random.Generator, magnification: int, size_px: int) -> View:
    microscope = slot.microscope
    blurred = slot.drawn.flaw == "blurred"
    return view_at(
        magnification,
        size_px=size_px,
        voltage_kv=microscope.voltage_kv,
        fringe=rng.uniform(*_FRINGE),
        coherence=microscope.coherence * (_BLUR if blurred else rng.uniform(0.85, 1.15)),
        electrons_per_px=microscope.electrons_per_px * math.exp(rng.normal(0, 0.3)),
        dark_field=microscope.by.scanning,
    )


def _tilted(field: SimulatedField, rng: np.random.Generator, dtype: str) -> SimulatedField:
    """Show the same area after the holder was turned by some degrees: wider along one axis, moved, new noise."""
    side = field.pixels.shape[0]
    along, across = 0.97 * math.cos(math.radians(rng.uniform(8, 18))), 0.97
    (x, y), (right, down) = (
        rng.uniform(-0.01, 0.01, 2) * side,
        ((1 - along) / 2 * side, (1 - across) / 2 * side),
    )
    counts = np.asarray(field.pixels, np.float32)
    turned = Image.fromarray(counts).transform(
        (side, side),
        Image.Transform.AFFINE,
        (along, 0, right + x, 0, across, down + y),
        Image.Resampling.BICUBIC,
    )
    moved: Floats = np.asarray(turned, np.float32)
    moved = moved + np.float32(2) * np.sqrt(np.maximum(moved, 1)) * rng.standard_normal(
        moved.shape, np.float32
    )
    highest = float(np.iinfo(dtype).max) if dtype != "float32" else math.inf
    return replace(field, pixels=np.clip(np.rint(moved), 0, highest).astype(dtype))


def _exported(field: SimulatedField) -> bytes:
    """Save the picture a second time as people do for a slide: stretched, 8 bits, half the size, JPEG."""
    low, high = np.percentile(field.pixels[::4, ::4], (0.5, 99.5))
    grey = np.clip((field.pixels - low) * (255 / max(float(high - low), 1.0)), 0, 255).astype(np.uint8)
    half = field.pixels.shape[0] // 2
    buffer = io.BytesIO()
    Image.fromarray(grey).resize((half, half), Image.Resampling.BOX).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
