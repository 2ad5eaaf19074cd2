"""The simulated bright-field picture: film, particles, electron optics, camera.

Only this module knows how a specimen becomes counts. The specimen absorbs (mass-thickness contrast,
exp(-t / mean free path)) and shifts the phase; one defocused, partially coherent lens images the exit
wave, which gives the Fresnel fringes at edges and the grain of the carbon film together; a camera with
a point spread, shot noise and X-ray hits counts the electrons. Wave aberration and envelope follow
L. Reimer and H. Kohl, Transmission Electron Microscopy (2008), sections 3.3 and 6.2 to 6.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from edge_agent.simulated_particles import SHAPES, Floats, Particle, paint, populate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DRAWN = (*SHAPES, "empty", "overfull", "blank", "saturated")

# The camera's width; with the magnification it gives the pixel size, whatever the number of pixels.
CAMERA_WIDTH_UM = 28_672.0
# A camera below the viewing screen magnifies more than the microscope indicates.
CAMERA_FACTOR = 1.335
_MAGNIFICATIONS = (5_000, 8_000, 10_000, 15_000, 20_000, 30_000, 50_000, 80_000, 100_000, 150_000, 200_000)
_PARTICLE_NM = (5.0, 200.0)
_COUNTS_PER_ELECTRON = 8.0
_FULL_SCALE = {"uint16": 65_535, "int16": 16_383, "int32": 65_535, "float32": 65_535}


@dataclass(frozen=True, slots=True)
class SimulatedField:
    """One simulated micrograph and what was drawn in it.

    `drawn` is one of `DRAWN`. `clear` is True where a person would have no doubt about the shape:
    enough separate, well-exposed particles of one shape. `pixels` is size_px x size_px, camera
    counts as uint16, int16, int32 or float32. `magnification` is the indicated one.
    """

    drawn: str
    clear: bool
    pixels: NDArray[Any]
    pixel_size_nm: float
    magnification: float
    voltage_kv: float


@dataclass(frozen=True, slots=True)
class View:
    """How the microscope was set. `dark_field` is a scanning picture by scattered electrons: matter is bright."""

    size_px: int
    margin_px: int
    voltage_kv: float
    magnification: float
    pixel_size_nm: float
    defocus_nm: float
    coherence_per_nm: float
    electrons_per_px: float
    dark_field: bool = False

    @property
    def canvas_px(self) -> int:
        """Side of the canvas: the field and a margin that keeps the FFT's wrap-around out of it."""
        return self.size_px + 2 * self.margin_px


@dataclass(frozen=True, slots=True)
class _Specimen:
    """What the beam passes: mean free paths, radians, and where there is film (0 to 1)."""

    absorption: Floats
    phase: Floats
    film: Floats


def draw_field(drawn: str, rng: np.random.Generator, size_px: int = 2048) -> SimulatedField:
    """Draw one micrograph of what is named in `DRAWN`; the same generator state gives the same picture.

    About one field in ten of a shape is not clear: crowded, or nearly lost in noise.
    "blank" is what a camera saves behind a closed valve: all zero, or read-out noise.
    Raises ValueError for another name or a side below 64 pixels.
    """
    if drawn not in DRAWN:
        raise ValueError(f"cannot draw {drawn!r}: choose one of {', '.join(DRAWN)}")
    if size_px < 64:
        raise ValueError(f"a field of {size_px} pixels is too small to draw: use 64 or more")
    flaw = str(rng.choice(["none", "crowded", "noisy"], p=[0.9, 0.05, 0.05])) if drawn in SHAPES else "none"
    particles = _particles(drawn, rng, size_px, crowded=flaw == "crowded")
    view = _choose_view(rng, size_px, particles, noisy=flaw == "noisy")
    blank = drawn == "blank"
    pixels = (
        _dark_frame(rng, size_px) if blank else expose(particles, view, rng, saturate=drawn == "saturated")
    )
    return SimulatedField(
        drawn=drawn,
        clear=drawn in SHAPES and flaw == "none",
        pixels=pixels,
        pixel_size_nm=view.pixel_size_nm,
        magnification=view.magnification,
        voltage_kv=view.voltage_kv,
    )


def expose(
    particles: Sequence[Particle],
    view: View,
    rng: np.random.Generator,
    *,
    saturate: bool = False,
    dtype: str | None = None,
) -> NDArray[Any]:
    """Record one picture of these particles on a carbon film: camera counts, size_px x size_px.

    `dtype` is the camera's number type (uint16, int16, int32 or float32); None draws one.
    """
    specimen = _prepare_specimen(particles, view, rng)
    electrons = _scanned(specimen, view, rng) if view.dark_field else _image(specimen, view, rng)
    return _read_out(electrons, view, rng, saturate=saturate, dtype=dtype)


def view_at(
    magnification: float,
    *,
    size_px: int,
    voltage_kv: float,
    fringe: float,
    coherence: float,
    electrons_per_px: float,
    dark_field: bool = False,
) -> View:
    """Set the microscope: `fringe` is the first Fresnel fringe's width as a fraction of the field.

    That is how operators focus. `coherence`, about one, is lower where the picture is more blurred.
    """
    field_nm = CAMERA_WIDTH_UM * 1e3 / (magnification * CAMERA_FACTOR)
    fringe_nm = fringe * field_nm
    return View(
        size_px=size_px,
        margin_px=size_px // 32,
        voltage_kv=voltage_kv,
        magnification=float(magnification),
        pixel_size_nm=field_nm / size_px,
        # The fringe's width is sqrt(wavelength x defocus).
        defocus_nm=fringe_nm**2 / wavelength_nm(voltage_kv),
        coherence_per_nm=coherence / fringe_nm,
        electrons_per_px=electrons_per_px,
        dark_field=dark_field,
    )


def wavelength_nm(voltage_kv: float) -> float:
    """Compute the relativistic wavelength of the electron (Reimer and Kohl, equation 2.12)."""
    volts = voltage_kv * 1e3
    return 1.226_426 / math.sqrt(volts * (1 + 0.978_476e-6 * volts))


def _particles(drawn: str, rng: np.random.Generator, size_px: int, *, crowded: bool) -> list[Particle]:
    if drawn in SHAPES:
        return populate(drawn, rng, size_px, crowding=4 if crowded else 1)
    if drawn == "overfull":
        return [p for shape in SHAPES for p in populate(shape, rng, size_px, crowding=3)]
    if drawn == "saturated":
        return populate(str(rng.choice(SHAPES)), rng, size_px)
    return []


def _choose_view(rng: np.random.Generator, size_px: int, particles: list[Particle], *, noisy: bool) -> View:
    """Choose settings at which the particles have a size that particles have."""
    widest = max((p.radius_px for p in particles), default=0.06 * size_px) * 2 / size_px
    narrowest = min((p.radius_px for p in particles), default=0.06 * size_px) * 2 / size_px
    fields_nm = {m: CAMERA_WIDTH_UM * 1e3 / (m * CAMERA_FACTOR) for m in _MAGNIFICATIONS}
    smallest_nm, largest_nm = _PARTICLE_NM
    fitting = [
        m for m, nm in fields_nm.items() if nm * narrowest >= smallest_nm and nm * widest <= largest_nm
    ]
    magnification = int(rng.choice(fitting or [20_000]))
    # Keyword arguments are drawn in this order, which decides what a seed draws.
    return view_at(
        magnification,
        size_px=size_px,
        voltage_kv=float(rng.choice([80, 120, 200, 300], p=[0.15, 0.25, 0.45, 0.15])),
        # A few thousandths of the field: visible on the screen and no more.
        fringe=rng.uniform(0.0015, 0.0055),
        coherence=rng.uniform(0.8, 1.4),
        electrons_per_px=rng.uniform(0.3, 1.0)
        if noisy
        else math.exp(rng.uniform(math.log(60), math.log(2000))),
    )


def _prepare_specimen(particles: Sequence[Particle], view: View, rng: np.random.Generator) -> _Specimen:
    """Lay out the film with its unevenness, what lies about on every grid, and the particles."""
    side = view.canvas_px
    absorption = rng.uniform(0.05, 0.25) * _uneven(rng, side, cells=5, strength=rng.uniform(0.02, 0.2))
    absorption += rng.uniform(0.004, 0.02) * _uneven(rng, side, cells=40, strength=1.0)
    film = _film_edge(rng, side, particles, view)
    absorption *= film
    if rng.random() < 0.25:
        absorption += _wrinkle(rng, side)
    if rng.random() < 0.06:
        absorption += _grid_bar(rng, side)
    particle_absorption, thickness = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    for particle in particles:
        paint(_shifted(particle, view.margin_px), particle_absorption, thickness)
    phase = rng.uniform(0.8, 2.4) * thickness + np.float32(0.25) * film
    return _Specimen(absorption + particle_absorption, phase.astype(np.float32), film)


def _shifted(particle: Particle, margin_px: int) -> Particle:
    return replace(particle, x_px=particle.x_px + margin_px, y_px=particle.y_px + margin_px)


def _uneven(rng: np.random.Generator, side: int, *, cells: int, strength: float) -> Floats:
    """Make a smooth random map about 1 with this relative spread, `cells` features across."""
    coarse = rng.normal(1, strength, (cells + 3, cells + 3)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.maximum(np.asarray(smooth, np.float32), 0)


def _radius_map(side: int, x: float, y: float) -> Floats:
    """Measure the distance of every pixel from a point, all in fractions of the side."""
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    distance: Floats = np.hypot(axis[None, :] - np.float32(x), axis[:, None] - np.float32(y))
    return distance


def _film_edge(rng: np.random.Generator, side: int, particles: Sequence[Particle], view: View) -> Floats:
    """Map the film: one everywhere, or nought in a hole that enters from outside, clear of particles."""
    if rng.random() > 0.15:
        return np.ones((side, side), np.float32)
    direction, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.9)
    for inward in (0.25, 0.18, 0.12):
        distance = math.sqrt(0.5) * 0.85 + radius - inward
        x, y = 0.5 + distance * math.cos(direction), 0.5 + distance * math.sin(direction)
        reach = [
            math.hypot((p.x_px + view.margin_px) / side - x, (p.y_px + view.margin_px) / side - y)
            - p.reach_px / side
            for p in particles
        ]
        if min(reach, default=1.0) > radius:
            film: Floats = np.clip((_radius_map(side, x, y) - np.float32(radius)) * side / 2 + 0.5, 0, 1)
            return film
    return np.ones((side, side), np.float32)


def _wrinkle(rng: np.random.Generator, side: int) -> Floats:
    """Draw a faint fold of the film: a long, thin arc."""
    direction, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 4)
    distance = radius + rng.uniform(-0.4, 0.4)
    x, y = 0.5 + distance * math.cos(direction), 0.5 + distance * math.sin(direction)
    width = np.float32(rng.uniform(0.002, 0.008))
    off = (_radius_map(side, x, y) - np.float32(radius)) / width
    return np.float32(rng.uniform(0.03, 0.12)) * np.exp(-off * off)


def _grid_bar(rng: np.random.Generator, side: int) -> Floats:
    """Draw the copper bar at the rim of the mesh: opaque, in one corner."""
    x, y = rng.choice([-0.08, 1.08], 2)
    depth = np.float32(rng.uniform(0.1, 0.24))
    bar: Floats = 6 * np.clip((depth - _radius_map(side, x, y)) * np.float32(120), 0, 1)
    return bar


def _image(specimen: _Specimen, view: View, rng: np.random.Generator) -> Floats:
    """Compute the expected electrons in every pixel of the field."""
    side, margin = view.canvas_px, view.margin_px
    frequency = np.fft.fftfreq(side, view.pixel_size_nm)
    squared = (frequency * frequency)[:, None]
    # exp(i pi lambda defocus q^2) and the coherence envelope both fall apart into rows times columns.
    aberration = 1j * math.pi * wavelength_nm(view.voltage_kv) * view.defocus_nm
    lens = np.exp((aberration - view.coherence_per_nm**-2) * squared).astype(np.complex64)
    # The film's grain is white phase noise, scaled to the contrast that this lens makes of it.
    grain = math.exp(rng.uniform(math.log(0.008), math.log(0.045))) / _phase_contrast(lens[:, 0])
    noise = rng.standard_normal((side, side), np.float32) * specimen.film
    phase = specimen.phase + np.float32(min(grain, 0.6)) * noise
    amplitude = np.exp(specimen.absorption / -2)
    wave = np.empty((side, side), np.complex64)
    wave.real, wave.imag = amplitude * np.cos(phase), amplitude * np.sin(phase)
    spectrum = np.fft.fft2(wave)
    spectrum *= lens
    spectrum *= lens.T
    image = np.fft.ifft2(spectrum)[margin : side - margin, margin : side - margin]
    intensity = image.real**2 + image.imag**2
    expected = intensity * _illumination(rng, view.size_px) * np.float32(view.electrons_per_px)
    return expected.astype(np.float32, copy=False)


def _scanned(specimen: _Specimen, view: View, rng: np.random.Generator) -> Floats:
    """Compute the electrons that an annular detector counts: those that the specimen took from the beam."""
    margin = view.margin_px
    scattered = 1 - np.exp(-specimen.absorption[margin:-margin, margin:-margin])
    spread_px = 0.5 / (view.coherence_per_nm * view.pixel_size_nm)
    for _ in range(max(1, round(spread_px**2 / 0.4))):
        scattered = _spread(scattered, 0.2)
    gain = np.float32(view.electrons_per_px * rng.uniform(0.8, 1.2))
    return (scattered + np.float32(0.02)) * gain


def _phase_contrast(lens: NDArray[np.complex64]) -> float:
    """Find the picture contrast for one radian of white phase noise, from every eighth frequency."""
    transfer = np.outer(lens[::8], lens[::8])
    return max(2 * float(np.sqrt(np.mean(transfer.imag**2))), 1e-3)


def _illumination(rng: np.random.Generator, size_px: int) -> Floats:
    """Spread the beam, whose centre is not the field's."""
    x, y = 0.5 + rng.normal(0, 0.2, 2)
    off = _radius_map(size_px, x, y) / np.float32(rng.uniform(0.9, 2.5))
    beam: Floats = np.exp(-off * off / 2)
    return beam


def _read_out(
    electrons: Floats, view: View, rng: np.random.Generator, *, saturate: bool, dtype: str | None
) -> NDArray[Any]:
    """Count the electrons: shot noise, scintillator spread, gain, read-out noise, X-ray hits, range."""
    if dtype is None:
        dtype = "uint16" if saturate else str(rng.choice(list(_FULL_SCALE), p=[0.55, 0.15, 0.2, 0.1]))
    full_scale = _FULL_SCALE[dtype]
    counts = _spread(_shot_noise(electrons, view.electrons_per_px, rng), rng.uniform(0.12, 0.2)) * np.float32(
        _COUNTS_PER_ELECTRON
    )
    counts *= 1 + np.float32(0.003) * rng.standard_normal((1, counts.shape[1]), np.float32)
    counts += 3 * rng.standard_normal(counts.shape, np.float32)
    if saturate:
        counts *= np.float32(rng.uniform(2, 4) * full_scale / max(float(np.median(counts)), 1.0))
    hits = rng.integers(0, counts.shape[0], (rng.integers(2, 25), 2))
    counts[hits[:, 0], hits[:, 1]] += rng.uniform(0.2, 1.0, len(hits)).astype(np.float32) * full_scale
    clipped: Floats = np.clip(np.rint(counts), 0, full_scale)
    return clipped.astype(dtype)


def _shot_noise(electrons: Floats, level: float, rng: np.random.Generator) -> Floats:
    """Draw how many electrons arrive where this many are expected."""
    if level < 20:
        return rng.poisson(electrons).astype(np.float32)
    # With many electrons a normal draw stands for the Poisson draw, at a sixth of the time.
    noise = rng.standard_normal(electrons.shape, np.float32)
    arrived: Floats = np.maximum(electrons + np.sqrt(electrons) * noise, 0)
    return arrived


def _dark_frame(rng: np.random.Generator, size_px: int) -> NDArray[np.uint16]:
    """Read out a camera that no electron reached, clipped at zero by its dark correction or above it."""
    if rng.random() < 0.5:
        return np.zeros((size_px, size_px), np.uint16)
    return np.rint(rng.normal(40, 3, (size_px, size_px))).astype(np.uint16)


def _spread(image: Floats, neighbour: float) -> Floats:
    """Blur by the three-tap kernel (n, 1 - 2n, n) along both axes."""
    side, centre = np.float32(neighbour), np.float32(1 - 2 * neighbour)
    padded: Floats = np.pad(image, 1, mode="edge")
    rows: Floats = centre * padded[1:-1] + side * (padded[:-2] + padded[2:])
    blurred: Floats = centre * rows[:, 1:-1] + side * (rows[:, :-2] + rows[:, 2:])
    return blurred
