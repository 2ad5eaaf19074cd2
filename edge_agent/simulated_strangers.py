"""Simulated pictures that no bundle should answer: what a microscope saves besides good micrographs.

Only this module knows how they go wrong. They are built on the simulated micrographs (`simulated_field`), in camera
counts and without tags, as if an operator had exported them: the guards have to go by the look alone. What moves is
moved before the electrons are counted, so that noise and X-ray hits stay sharp, as in a real long exposure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.grey_scale import field_statistics
from edge_agent.simulated_field import draw_field, expose, view_at
from edge_agent.simulated_particles import SHAPES, Floats, populate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Counts = NDArray[np.uint16]

_FULL_SCALE: Final = 65_535
_COUNTS_PER_ELECTRON: Final = 8.0
_FCC: Final = (3, 4, 8, 11, 12, 16, 19, 20, 24, 27)
"""h^2 + k^2 + l^2 of the reflections that a face-centred cubic crystal has: squared radii of its rings."""
_BCC: Final = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)


def draw_stranger(kind: str, rng: np.random.Generator, size_px: int = 1024) -> NDArray[np.uint16]:
    """Draw one picture of what is named in `STRANGERS`, size_px x size_px counts; one generator state, one picture.

    Raises ValueError for another name or a side below 64 pixels.
    """
    if kind not in _DRAWN_BY:
        raise ValueError(f"cannot draw {kind!r}: choose one of {', '.join(STRANGERS)}")
    if size_px < 64:
        raise ValueError(f"a field of {size_px} pixels is too small to draw: use 64 or more")
    return _DRAWN_BY[kind](rng, size_px)


def moved(electrons: Floats, path_px: NDArray[np.float64]) -> Floats:
    """Expose a picture while it wanders along a path: [n, 2] rows and columns in pixels, in equal times.

    A picture point is spread over the path between two pixels in proportion to its nearness (bilinear).
    """
    centred = path_px - path_px.mean(axis=0)
    down_px, across_px = centred[:, 0], centred[:, 1]
    first_row, first_column = np.floor(down_px).astype(np.intp), np.floor(across_px).astype(np.intp)
    side_down, side_across = electrons.shape
    kernel = np.zeros((side_down, side_across))
    for down in (0, 1):
        for across in (0, 1):
            rows, columns = first_row + down, first_column + across
            weight = (1 - np.abs(down_px - rows)) * (1 - np.abs(across_px - columns))
            np.add.at(kernel, (rows % side_down, columns % side_across), weight)
    spectrum = np.fft.rfft2(electrons) * np.fft.rfft2(kernel / kernel.sum())
    return np.maximum(np.fft.irfft2(spectrum, electrons.shape), 0).astype(np.float32)


def blurred_by(electrons: Floats, sigma_px: float) -> Floats:
    """Blur by a Gaussian of this standard deviation."""
    down, across = np.fft.fftfreq(electrons.shape[0]), np.fft.rfftfreq(electrons.shape[1])
    lens = np.exp(-2 * (math.pi * sigma_px) ** 2 * (down[:, None] ** 2 + across[None] ** 2))
    found = np.fft.irfft2(np.fft.rfft2(electrons) * lens, electrons.shape)
    return np.maximum(found, 0).astype(np.float32)


def counted(electrons: Floats, rng: np.random.Generator) -> Counts:
    """Count expected electrons: shot noise, gain, read-out noise, a few X-ray hits, the camera's range."""
    arrived = rng.poisson(np.minimum(electrons, _FULL_SCALE)).astype(np.float32)
    counts = arrived * np.float32(_COUNTS_PER_ELECTRON) + rng.normal(40, 3, arrived.shape).astype(np.float32)
    rows, columns = rng.integers(0, arrived.shape[0], (2, rng.integers(2, 25)))
    counts[rows, columns] += rng.uniform(0.2, 1.0, rows.size).astype(np.float32) * _FULL_SCALE
    return np.asarray(np.clip(np.rint(counts), 0, _FULL_SCALE).astype(np.uint16))


def _specimen(rng: np.random.Generator, size_px: int) -> Floats:
    """Particles of one shape on film, bright field or scanned dark field, 0 to about 1, with next to no noise."""
    view = view_at(
        float(rng.choice([10_000, 20_000, 50_000])),
        size_px=size_px,
        voltage_kv=200.0,
        fringe=rng.uniform(0.0015, 0.0055),
        coherence=rng.uniform(0.8, 1.4),
        electrons_per_px=4000.0,
        dark_field=bool(rng.random() < 0.4),
    )
    shape, crowding = str(rng.choice(SHAPES)), float(rng.choice([1, 1, 2]))
    counts = expose(populate(shape, rng, size_px, crowding=crowding), view, rng, dtype="float32")
    hits = field_statistics(counts, 0.0002).contrast.hot
    clean: Floats = counts.copy()
    clean[hits[:, 0].astype(np.intp), hits[:, 1].astype(np.intp)] = hits[:, 2]
    return clean / np.float32(clean.max())


def _dose(rng: np.random.Generator) -> float:
    """Electrons a pixel where the picture is brightest."""
    return math.exp(rng.uniform(math.log(30), math.log(2000)))


def _blank(rng: np.random.Generator, size_px: int) -> Counts:
    return np.asarray(draw_field("blank", rng, size_px).pixels)


def _saturated(rng: np.random.Generator, size_px: int) -> Counts:
    return np.asarray(draw_field("saturated", rng, size_px).pixels)


def _blurred(rng: np.random.Generator, size_px: int) -> Counts:
    """So far out of focus that no outline is left: a Gaussian of 1.2 to 4 % of the field."""
    electrons = blurred_by(_specimen(rng, size_px), rng.uniform(0.012, 0.04) * size_px)
    return counted(electrons * np.float32(_dose(rng)), rng)


def _drifted(rng: np.random.Generator, size_px: int) -> Counts:
    """Moved by 2 to 15 % of the field during the exposure: straight, curved or coming to rest."""
    return _exposed_moving(
        rng, size_px, str(rng.choice(["straight", "curved", "to rest"], p=[0.5, 0.3, 0.2]))
    )


def _doubled(rng: np.random.Generator, size_px: int) -> Counts:
    """Two exposures in one picture: a jump by 2 to 15 % of the field."""
    return _exposed_moving(rng, size_px, "jump")


def _exposed_moving(rng: np.random.Generator, size_px: int, kind: str) -> Counts:
    margin = round(0.1 * size_px)
    length = rng.uniform(0.02, 0.15) * size_px
    electrons = moved(_specimen(rng, size_px + 2 * margin), _path(rng, kind, length))
    return counted(electrons[margin:-margin, margin:-margin] * np.float32(_dose(rng)), rng)


def _path(rng: np.random.Generator, kind: str, length_px: float) -> NDArray[np.float64]:
    """Where the specimen is at equally spaced times: [n, 2] in pixels."""
    time = np.linspace(0, 1, max(16, round(4 * length_px)))
    direction = rng.uniform(0, 2 * math.pi)
    along, aside = time, np.zeros_like(time)
    if kind == "curved":  # an arc of up to a sixth of a circle
        bend = rng.uniform(0.05, 0.13)
        aside = 4 * bend * time * (1 - time)
    elif kind == "to rest":
        along = -np.expm1(-rng.uniform(0.5, 2) * time)
        along = along / along[-1]
    elif kind == "jump":  # two exposures in one picture
        along = (time > rng.uniform(0.35, 0.65)).astype(np.float64)
    turned = np.array(
        [[math.sin(direction), math.cos(direction)], [math.cos(direction), -math.sin(direction)]]
    )
    return np.asarray(length_px * np.stack([along, aside], axis=1) @ turned)


def _line_shifted(rng: np.random.Generator, size_px: int) -> Counts:
    """Scanned while the probe shook: every line is displaced along itself, by 0.5 to 3 % of the field."""
    electrons = _specimen(rng, size_px)
    lines = np.arange(size_px)
    wave = np.sin(2 * math.pi * rng.uniform(0.02, 0.45) * lines + rng.uniform(0, 2 * math.pi))
    noise = rng.standard_normal(size_px)
    share = rng.uniform(0, 1)
    shift_px = rng.uniform(0.005, 0.03) * size_px * (share * wave + (1 - share) * noise)
    shifted = [np.roll(line, round(by)) for line, by in zip(electrons, shift_px, strict=True)]
    return counted(np.stack(shifted) * np.float32(_dose(rng)), rng)


def _lattice(rng: np.random.Generator, size_px: int) -> Counts:
    """Atomic columns, bright or dark, of one or two kinds, on a slope of thickness."""
    y, x = np.mgrid[:size_px, :size_px].astype(np.float32)
    first, spacing = rng.uniform(0, math.pi), rng.uniform(0.012, 0.06) * size_px
    second = first + math.radians(float(rng.choice([60, 75, 90])))
    wave = [
        2 * math.pi / px * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 2 * math.pi)
        for angle, px in ((first, spacing), (second, spacing * rng.uniform(0.8, 1.25)))
    ]
    columns = ((1 + np.cos(wave[0])) * (1 + np.cos(wave[1])) / 4) ** rng.uniform(0.5, 3)
    columns += rng.uniform(0, 0.6) * ((1 - np.cos(wave[0])) * (1 - np.cos(wave[1])) / 4)
    slope = rng.uniform(-0.4, 0.4) * (y / size_px - 0.5) + rng.uniform(-0.4, 0.4) * (x / size_px - 0.5)
    bright = columns if rng.random() < 0.7 else 1 - 0.6 * columns
    electrons = np.maximum(rng.uniform(0.1, 0.5) + 0.7 * bright + slope, 0.01)
    return counted((electrons * rng.uniform(5, 300)).astype(np.float32), rng)


def _diffraction(rng: np.random.Generator, size_px: int) -> Counts:
    """A diffraction pattern without its reciprocal units: spots, rings or discs, with or without beam stop."""
    centre = size_px / 2 + rng.normal(0, size_px / 40, 2)
    y, x = np.mgrid[:size_px, :size_px].astype(np.float32)
    y, x = y - np.float32(centre[0]), x - np.float32(centre[1])
    radius = np.hypot(x, y) / np.float32(size_px)
    width = rng.uniform(0.03, 0.12)
    inelastic = rng.uniform(0.3, 3) * (1 + (radius / width) ** 2) ** -rng.uniform(0.8, 1.6)
    pattern = inelastic + rng.uniform(0.003, 0.03)
    kind = rng.choice(["spots", "rings", "spotted rings", "discs"])
    if kind in ("spots", "discs"):
        pattern += _reflections(x / size_px, y / size_px, rng, discs=kind == "discs")
    else:
        pattern += _rings(x, y, radius, rng, spotted=kind == "spotted rings")
    spot = rng.uniform(0.003, 0.012)
    pattern += rng.uniform(5, 40) * np.exp(-((radius / spot) ** 2) / 2)
    if rng.random() < 0.35:
        pattern *= _beam_stop(x / size_px, y / size_px, rng)
    counts = counted((pattern * math.exp(rng.uniform(math.log(20), math.log(1500)))).astype(np.float32), rng)
    return _displayed(counts, str(rng.choice(["linear", "square root", "logarithm"], p=[0.6, 0.2, 0.2])))


def _displayed(counts: Counts, curve: str) -> Counts:
    """As an export shows them: few look at a diffraction pattern linearly."""
    if curve == "linear":
        return counts
    above = np.maximum(counts.astype(np.float32) - 30, 0)
    shown = np.sqrt(above) if curve == "square root" else np.log1p(above / 20)
    return np.asarray(np.rint(shown / shown.max() * 60_000).astype(np.uint16))


def _reflections(x: Floats, y: Floats, rng: np.random.Generator, *, discs: bool) -> Floats:
    """The zero-order zone of one crystal; x and y in fractions of the side. Discs: by a convergent beam."""
    first, spacing = rng.uniform(0, math.pi), rng.uniform(0.04, 0.14)
    second, ratio = first + math.radians(rng.uniform(55, 120)), rng.uniform(0.7, 1.4)
    width = spacing * rng.uniform(0.2, 0.4) if discs else rng.uniform(0.002, 0.006)
    falling, tilt = rng.uniform(0.12, 0.3), rng.normal(0, 0.06, 2)
    found = np.zeros_like(x)
    most = math.ceil(0.8 / (spacing * min(1, ratio)))
    for h in range(-most, most + 1):
        for k in range(-most, most + 1):
            across = spacing * (h * math.cos(first) + k * ratio * math.cos(second))
            down = spacing * (h * math.sin(first) + k * ratio * math.sin(second))
            if max(abs(across), abs(down)) > 0.55:
                continue
            off = math.hypot(across - tilt[0], down - tilt[1])
            strength = rng.uniform(0.3, 8) * math.exp(-((off / falling) ** 2))
            rows = np.flatnonzero(np.abs(y[:, 0] - down) < 4 * width)
            columns = np.flatnonzero(np.abs(x[0] - across) < 4 * width)
            if not (rows.size and columns.size):
                continue
            place = np.ix_(rows, columns)
            distance = np.hypot(x[place] - across, y[place] - down) / width
            found[place] += strength * (distance < 1 if discs else np.exp(-(distance**2) / 2))
    return found


def _rings(x: Floats, y: Floats, radius: Floats, rng: np.random.Generator, *, spotted: bool) -> Floats:
    """Many crystals at once: rings of a cubic metal, even or made of spots; or the halos of a glass."""
    glass = rng.random() < 0.25
    orders = (1, 3.2, 7) if glass else tuple(_FCC if rng.random() < 0.5 else _BCC)
    unit = rng.uniform(0.1, 0.18) / math.sqrt(orders[0])
    width = rng.uniform(0.015, 0.03) if glass else rng.uniform(0.002, 0.006)
    falling = rng.uniform(0.1, 0.25)
    angle = np.arctan2(y, x)
    found = np.zeros_like(radius)
    for order in orders:
        ring = unit * math.sqrt(order)
        profile = np.exp(-(((radius - ring) / width) ** 2) / 2)
        if spotted:
            cells = rng.gamma(0.15, 6, 720).astype(np.float32)
            profile *= cells[((angle / (2 * math.pi) + 0.5) * 719).astype(np.intp)]
        found += rng.uniform(0.2, 1.5) * math.exp(-ring / falling) * profile
    return found


def _beam_stop(x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """A needle with a tip over the direct beam, from any side; what passes of the light."""
    direction = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(direction) + y * math.sin(direction)
    aside = np.abs(y * math.cos(direction) - x * math.sin(direction))
    needle = (aside < rng.uniform(0.006, 0.02)) & (along > 0)
    tip = np.hypot(x, y) < rng.uniform(0.02, 0.045)
    return np.where(needle | tip, np.float32(0.02), np.float32(1))


def _fourier_transform(rng: np.random.Generator, size_px: int) -> Counts:
    """The logarithm of the power spectrum (or its modulus) of a lattice or of particles, as programs show it."""
    drawn = _lattice(rng, size_px) if rng.random() < 0.6 else draw_field("round", rng, size_px).pixels
    picture = drawn.astype(np.float32)
    if rng.random() < 0.5:
        window = np.hanning(size_px).astype(np.float32)
        picture = (picture - picture.mean()) * window[:, None] * window
    modulus = np.abs(np.fft.fftshift(np.fft.fft2(picture - picture.mean())))
    usual = float(np.median(modulus)) * rng.uniform(0.1, 3)
    shown = np.log1p(modulus / usual)
    return np.asarray(np.rint(shown / shown.max() * float(rng.choice([255, 4095, 60_000]))).astype(np.uint16))


_DRAWN_BY: Final[dict[str, Callable[[np.random.Generator, int], Counts]]] = {
    "blank": _blank,
    "diffraction": _diffraction,
    "drifted": _drifted,
    "doubled": _doubled,
    "line_shifted": _line_shifted,
    "lattice": _lattice,
    "blurred": _blurred,
    "saturated": _saturated,
    "fourier_transform": _fourier_transform,
}
STRANGERS: Final = tuple(_DRAWN_BY)
