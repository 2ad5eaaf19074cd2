"""Eight simulated materials: what a field of each holds, after how such materials look in a microscope.

Only this module knows their shapes and sizes. Everything is drawn from these few rules and a random generator: no
real micrograph went in, and no figure found on them says anything about a real material.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from edge_agent.simulated_particles import Floats, Particle, Polyhedron, Rod, Sphere

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_Vector = tuple[float, float, float]
_CLOUD_CELLS: Final = 256


@dataclass(frozen=True, slots=True)
class Batch:
    """One synthesis, which all pictures of a sample share; every number is relative to what is usual."""

    size: float
    opacity: float
    crowding: float


@dataclass(frozen=True, slots=True)
class Material:
    """One class: the folder's name, the length that `lay` is told in pixels, and the magnifications used."""

    name: str
    length_nm: float
    magnifications: tuple[int, ...]
    lay: Callable[[np.random.Generator, Batch, float, int], list[Particle]]
    """(generator, batch, length_px, size_px) -> the particles of one field."""


def draw_batch(rng: np.random.Generator) -> Batch:
    """Draw how one synthesis differs from the next."""
    size, opacity, crowding = np.exp(rng.normal(0, (0.14, 0.16, 0.3)))
    return Batch(float(size), float(opacity), float(crowding))


# --- bodies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spindle:
    """A body of revolution along x that narrows to both tips: `half_length` in radii, `fullness` above 1."""

    half_length: float
    fullness: float

    def thickness(self, x: Floats, y: Floats, pixel: float) -> Floats:
        """Chord of the circle that the body has at x."""
        along = np.minimum(np.abs(x) / np.float32(self.half_length), 1)
        radius = 1 - along ** np.float32(self.fullness)
        chord: Floats = 2 * np.sqrt(np.maximum(radius * radius - y * y, 0))
        return chord


@dataclass(frozen=True, slots=True)
class Cloud:
    """A shapeless body: a height map over the square from -1 to 1, taken where it exceeds 0.

    `softness` 0 gives the round shoulders of a fused solid, 1 the faint rim of something fluffy.
    """

    heights: Floats
    softness: float

    def thickness(self, x: Floats, y: Floats, pixel: float) -> Floats:
        """Height above 0, interpolated between the map's points."""
        x, y = np.broadcast_arrays(x, y)
        cells = self.heights.shape[0] - 2
        column, row = (np.clip((axis + 1) * np.float32(cells / 2), 0, cells) for axis in (x, y))
        left, top = column.astype(np.intp), row.astype(np.intp)
        right_share, bottom_share = column - left, row - top
        above = self.heights[top, left] * (1 - right_share) + self.heights[top, left + 1] * right_share
        below = (
            self.heights[top + 1, left] * (1 - right_share) + self.heights[top + 1, left + 1] * right_share
        )
        height = np.maximum(above * (1 - bottom_share) + below * bottom_share, 0)
        thick: Floats = height ** np.float32(0.5 + 0.5 * self.softness)
        return thick


def _crystal(
    normals: Sequence[_Vector], offsets: Sequence[float], rng: np.random.Generator, tilt: float
) -> Polyhedron:
    """Turn a crystal about a random axis in the film by about `tilt` radians; its farthest corner lies at 1."""
    angle, axis = rng.normal(0, tilt), rng.uniform(0, 2 * math.pi)
    turned = np.array(normals) @ (_about_z(axis) @ _about_x(angle) @ _about_z(-axis)).T
    return Polyhedron(tuple((float(x), float(y), float(z)) for x, y, z in turned), tuple(offsets))


def _about_x(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def _about_z(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


_CUBE: Final[tuple[_Vector, ...]] = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
_OCTAHEDRON: Final[tuple[_Vector, ...]] = tuple(
    (i / math.sqrt(3), j / math.sqrt(3), k / math.sqrt(3)) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)
)


def _noise(rng: np.random.Generator, cells: int, side: int) -> Floats:
    """Make a smooth random map about 0 with a spread of 1, `cells` features across."""
    coarse = rng.normal(0, 1, (cells + 2, cells + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _lumps(rng: np.random.Generator, number: int, radius: float, reach: float) -> Floats:
    """Add up bells along branching walks from the middle: what grew together from small pieces."""
    axis = np.linspace(-1, 1, _CLOUD_CELLS, dtype=np.float32)
    heights = np.zeros((_CLOUD_CELLS, _CLOUD_CELLS), np.float32)
    places = [(0.0, 0.0)]
    for _ in range(number):
        x, y = places[rng.integers(len(places))]
        direction, step = rng.uniform(0, 2 * math.pi), radius * rng.uniform(1.0, 1.7)
        x, y = x + step * math.cos(direction), y + step * math.sin(direction)
        if math.hypot(x, y) < reach:
            places.append((x, y))
    for x, y in places:
        width = np.float32(radius * math.exp(rng.normal(0, 0.25)))
        across, down = ((axis - np.float32(place)) / width for place in (x, y))
        heights += np.exp(-(across * across))[None, :] * np.exp(-(down * down))[:, None]
    return heights


# --- where particles lie --------------------------------------------------------------------------


def _place(rng: np.random.Generator, size_px: int) -> tuple[float, float]:
    x, y = rng.uniform(0.08, 0.92, 2) * size_px
    return float(x), float(y)


def _grown(
    particles: Sequence[Particle], rng: np.random.Generator, size_px: int, *, seeds: int, closeness: float
) -> list[Particle]:
    """Stick particles to those that lie already, from several seeds: 1 touches, below 1 overlaps."""
    laid: list[Particle] = []
    for at, particle in enumerate(particles):
        if at < seeds:
            x, y = _place(rng, size_px)
        else:
            other, direction = laid[rng.integers(len(laid))], rng.uniform(0, 2 * math.pi)
            gap = (other.radius_px + particle.radius_px) * closeness
            x, y = other.x_px + gap * math.cos(direction), other.y_px + gap * math.sin(direction)
        laid.append(replace(particle, x_px=x, y_px=y))
    return laid


def _apart(
    particles: Sequence[Particle], rng: np.random.Generator, size_px: int, gap: float
) -> list[Particle]:
    """Scatter particles, no two nearer than `gap` times touching; what finds no place is left out."""
    laid: list[Particle] = []
    places = np.empty((0, 2))
    for particle in particles:
        for _ in range(8):
            place = rng.uniform(0, size_px, 2)
            if not len(places) or np.hypot(*(places - place).T).min() > 2 * gap * particle.radius_px:
                laid.append(replace(particle, x_px=float(place[0]), y_px=float(place[1])))
                places = np.vstack([places, place])
                break
    return laid


def _spread(rng: np.random.Generator, number: int, spread: float) -> list[float]:
    return [float(value) for value in np.exp(rng.normal(0, spread, number))]


def _count(rng: np.random.Generator, low: float, high: float, batch: Batch) -> int:
    return max(1, round(rng.uniform(low, high) * batch.crowding))


def _at_origin(
    body: Rod | Sphere | Spindle | Polyhedron | Cloud, radius_px: float, opacity: float, angle: float
) -> Particle:
    half = body.half_length * radius_px if isinstance(body, Rod | Spindle) else 0.0
    return Particle(body, 0.0, 0.0, angle, radius_px, half, opacity)


def _turn(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * math.pi))


# --- the eight ------------------------------------------------------------------------------------


def _alumina(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """Al2O3: a porous felt of thin fibrils, with a few thin plates in it."""
    laid: list[Particle] = []
    for _ in range(_count(rng, 2, 4, batch)):
        x, y = _place(rng, size_px)
        spread = length_px * rng.uniform(0.8, 1.3)
        for size in _spread(rng, int(rng.integers(70, 130)), 0.3):
            radius = 0.028 * length_px * rng.uniform(0.7, 1.3)
            fibril = _at_origin(
                Rod(size * 0.5 * length_px / radius, False), radius, 0.17 * batch.opacity, _turn(rng)
            )
            dx, dy = rng.normal(0, spread, 2)
            laid.append(replace(fibril, x_px=x + float(dx), y_px=y + float(dy), phase=0.12))
        for size in _spread(rng, int(rng.integers(4, 9)), 0.3):
            sides = [(math.cos(k * math.pi / 3), math.sin(k * math.pi / 3), 0.0) for k in range(6)]
            plate = _crystal([*sides, (0, 0, 1), (0, 0, -1)], [0.8] * 6 + [0.1, 0.1], rng, 0.05)
            dx, dy = rng.normal(0, spread, 2)
            sheet = _at_origin(plate, 0.35 * size * length_px, 0.13 * batch.opacity, _turn(rng))
            laid.append(replace(sheet, x_px=x + float(dx), y_px=y + float(dy), phase=0.1))
    return laid


def _ceria(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """CeO2: small truncated octahedra, strongly absorbing, heaped together."""
    crystals = []
    for size in _spread(rng, _count(rng, 60, 140, batch), 0.15):
        body = _crystal((*_OCTAHEDRON, *_CUBE), [0.577] * 8 + [rng.uniform(0.68, 0.9)] * 6, rng, 1.0)
        opacity = 1.1 * size * batch.opacity * math.exp(rng.normal(0, 0.3))
        crystals.append(replace(_at_origin(body, 0.5 * size * length_px, opacity, _turn(rng)), phase=0.6))
    return _grown(crystals, rng, size_px, seeds=int(rng.integers(4, 9)), closeness=0.8)


def _magnesia(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """MgO: smoke, cubes of very unequal size that grew into one another."""
    cubes = []
    for size in _spread(rng, _count(rng, 16, 40, batch), 0.4):
        body = _crystal(_CUBE, [0.577] * 6, rng, 0.05 if rng.random() < 0.75 else 0.6)
        opacity = 0.75 * size * batch.opacity * math.exp(rng.normal(0, 0.15))
        cube = _at_origin(body, 0.87 * size * length_px, opacity, _turn(rng))
        fringes = rng.uniform(0.6, 2.5) if rng.random() < 0.3 else 0.0
        cubes.append(replace(cube, fringes=fringes, phase=0.7))
    return _grown(cubes, rng, size_px, seeds=int(rng.integers(3, 8)), closeness=0.72)


def _dots(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """Nanoparticles: small dark dots of nearly one size, apart from one another, all over the film."""
    dots = []
    for size in _spread(rng, _count(rng, 110, 300, batch), 0.12):
        waves = ((2, rng.normal(0, 0.03), _turn(rng)), (3, rng.normal(0, 0.02), _turn(rng)))
        opacity = 1.5 * size * batch.opacity * math.exp(rng.normal(0, 0.2))
        dots.append(
            replace(_at_origin(Sphere(waves), 0.5 * size * length_px, opacity, _turn(rng)), phase=0.7)
        )
    return _apart(dots, rng, size_px, gap=1.4)


def _framework(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """POF, a porous organic framework: fluffy lumps of low contrast, riddled with pores."""
    clouds = []
    for size in _spread(rng, _count(rng, 4, 8, batch), 0.25):
        heights = _lumps(rng, 45, 0.17, 0.62)
        heights = heights / heights.max() + 0.12 * _noise(rng, 7, _CLOUD_CELLS) - np.float32(0.22)
        pores = 1 + 0.45 * _noise(rng, 26, _CLOUD_CELLS) + 0.25 * _noise(rng, 52, _CLOUD_CELLS)
        body = Cloud(_fading(heights * np.maximum(pores, 0.1)), softness=1.0)
        opacity = 0.55 * batch.opacity * math.exp(rng.normal(0, 0.15))
        clouds.append(replace(_at_origin(body, 0.75 * size * length_px, opacity, _turn(rng)), phase=0.25))
    return _grown(clouds, rng, size_px, seeds=int(rng.integers(2, 4)), closeness=0.5)


def _balls(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """SiO2 nano-balls: spheres of one size, in rafts that touch."""
    number = _count(rng, 10, 30, batch)
    balls = []
    for size in _spread(rng, 3 * number, 0.025):
        waves = ((2, rng.normal(0, 0.008), _turn(rng)),)
        balls.append(_at_origin(Sphere(waves), 0.5 * size * length_px, 1.2 * batch.opacity, _turn(rng)))
    laid: list[Particle] = []
    for ball in _grown(balls, rng, size_px, seeds=3, closeness=1.01):
        gaps = [math.hypot(ball.x_px - other.x_px, ball.y_px - other.y_px) for other in laid]
        if min(gaps, default=math.inf) > 1.9 * ball.radius_px and len(laid) < number:
            laid.append(ball)
    return laid


def _silica(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """Amorphous SiO2: branched aggregates of small pieces fused beyond recognition."""
    clouds = []
    for size in _spread(rng, _count(rng, 4, 9, batch), 0.25):
        heights = _lumps(rng, int(rng.integers(50, 110)), 0.065, 0.8) - np.float32(0.4)
        body = Cloud(_fading(heights + 0.04 * _noise(rng, 12, _CLOUD_CELLS)), softness=0.0)
        opacity = 0.8 * batch.opacity * math.exp(rng.normal(0, 0.12))
        clouds.append(replace(_at_origin(body, 0.5 * size * length_px, opacity, _turn(rng)), phase=0.5))
    return _grown(clouds, rng, size_px, seeds=int(rng.integers(2, 4)), closeness=0.6)


def _titania(rng: np.random.Generator, batch: Batch, length_px: float, size_px: int) -> list[Particle]:
    """TiO2: anatase spindles and some rods, crossing one another or side by side."""
    spindles = []
    aspect, fullness = rng.uniform(2.8, 4.5), rng.uniform(1.7, 2.6)
    common = _turn(rng)
    for size in _spread(rng, _count(rng, 18, 45, batch), 0.2):
        long = aspect * math.exp(rng.normal(0, 0.1))
        body = Spindle(long, fullness) if rng.random() < 0.8 else Rod(long - 1, False)
        angle = common + rng.normal(0, 0.25) if rng.random() < 0.3 else _turn(rng)
        opacity = 0.8 * size * batch.opacity * math.exp(rng.normal(0, 0.2))
        spindle = _at_origin(body, 0.5 * size * length_px / long, opacity, float(angle))
        spindles.append(
            replace(spindle, band_strength=rng.uniform(0, 0.5), band_offset=rng.normal(0, 1.0), phase=0.7)
        )
    return _grown(spindles, rng, size_px, seeds=int(rng.integers(3, 8)), closeness=1.3)


def _fading(heights: Floats) -> Floats:
    """Let a height map end inside its square, so that no cloud has a straight rim."""
    axis = np.linspace(-1, 1, heights.shape[0], dtype=np.float32)
    beyond = np.maximum(np.hypot(axis[:, None], axis[None, :]) - np.float32(0.8), 0)
    ended: Floats = heights - 12 * beyond
    return ended


MATERIALS: Final = (
    Material("Al2O3", 90.0, (20_000, 30_000, 50_000), _alumina),
    Material("CeO2", 16.0, (50_000, 80_000, 100_000), _ceria),
    Material("MgO", 45.0, (20_000, 30_000, 50_000), _magnesia),
    Material("nanoparticles", 6.0, (50_000, 80_000, 100_000), _dots),
    Material("POF", 600.0, (10_000, 15_000, 20_000), _framework),
    Material("SiO2 nano-balls", 220.0, (8_000, 10_000, 15_000, 20_000), _balls),
    Material("amorphous SiO2", 420.0, (15_000, 20_000, 30_000), _silica),
    Material("TiO2", 80.0, (30_000, 50_000, 80_000), _titania),
)
"""The origin project's eight classes, simulated."""
