"""The simulated specimen's particles: their bodies, where they lie, and how thick each is along the beam.

Only this module knows the geometry of round, rod-shaped and faceted particles. A body is given in
units of its own radius and is looked at along z; what comes out is the relative thickness on the
pixel grid, which `simulated_field` turns into absorption and phase. No picture is made here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SHAPES = ("round", "rod", "faceted")

# A face steeper than this is drawn as an outline (with its pixel coverage), not as a slope: the
# slope would rise to its full height within a pixel and leave a staircase.
_STEEP = 0.08
_PLACING_ATTEMPTS = 60


class Body(Protocol):
    """A solid in units of its own radius, seen along z."""

    def thickness(self, x: Floats, y: Floats, pixel: float) -> Floats:
        """Thickness along z at (x, y), in radii; `pixel` is a pixel's width in radii."""
        ...


@dataclass(frozen=True, slots=True)
class Sphere:
    """A sphere with a slightly uneven outline; `hollow` is the radius of its cavity."""

    waves: tuple[tuple[int, float, float], ...] = ()
    hollow: float = 0.0

    def thickness(self, x: Floats, y: Floats, pixel: float) -> Floats:
        """Chord of the sphere, minus that of the cavity."""
        squared = x * x + y * y
        if self.waves:
            angle = np.arctan2(y, x)
            outline = np.ones_like(x)
            for order, amplitude, phase in self.waves:
                outline += np.float32(amplitude) * np.cos(order * angle + np.float32(phase))
            squared = squared / (outline * outline)
        chord: Floats = np.sqrt(np.maximum(1 - squared, 0))
        if self.hollow:
            chord -= np.sqrt(np.maximum(np.float32(self.hollow**2) - squared, 0))
        return 2 * chord


@dataclass(frozen=True, slots=True)
class Rod:
    """A cylinder along x: `half_length` of its straight part in radii, tips rounded or cut flat."""

    half_length: float
    flat_tips: bool

    def thickness(self, x: Floats, y: Floats, pixel: float) -> Floats:
        """Chord of the cylinder; towards a round tip that of a sphere."""
        if self.flat_tips:
            chord: Floats = 2 * np.sqrt(np.maximum(1 - y * y, 0))
            return chord * _coverage(np.float32(self.half_length + 1) - np.abs(x), pixel)
        beyond = np.maximum(np.abs(x) - np.float32(self.half_length), 0)
        chord = 2 * np.sqrt(np.maximum(1 - y * y - beyond * beyond, 0))
        return chord


@dataclass(frozen=True, slots=True)
class Polyhedron:
    """A convex body between planes `normal . r <= offset`; `corner` is the radius its corners are worn to."""

    normals: tuple[tuple[float, float, float], ...]
    offsets: tuple[float, ...]
    corner: float = 1.0

    def thickness(self, x: Floats, y: Floats, pixel: float) -> Floats:
        """Height between the lowest upper face and the highest lower face."""
        top, bottom = np.full_like(x, 9), np.full_like(x, -9)
        cover = _coverage(np.float32(self.corner) - np.hypot(x, y), pixel)
        for (nx, ny, nz), offset in zip(self.normals, self.offsets, strict=True):
            inside = np.float32(offset) - np.float32(nx) * x - np.float32(ny) * y
            if abs(nz) < _STEEP:
                cover *= _coverage(inside, pixel)
            elif nz > 0:
                np.minimum(top, inside / np.float32(nz), out=top)
            else:
                np.maximum(bottom, inside / np.float32(nz), out=bottom)
        height: Floats = cover * np.maximum(top - bottom, 0)
        return height


@dataclass(frozen=True, slots=True)
class Particle:
    """One particle where it lies: the capsule that bounds it (pixels), and how it darkens the beam.

    `opacity` is the absorption (mean free paths) where the particle is thickest. The three
    `band_` values are a bend contour: a dark band across a crystal where it diffracts strongly.
    `fringes` is the number of thickness fringes from rim to centre, 0 for none. `phase` is the phase
    shift where it is thickest, compared with that of a whole particle: thin sheets have less.
    """

    body: Body
    x_px: float
    y_px: float
    angle: float
    radius_px: float
    half_length_px: float
    opacity: float
    band_strength: float = 0.0
    band_offset: float = 0.0
    band_angle: float = 0.0
    fringes: float = 0.0
    phase: float = 1.0

    @property
    def reach_px(self) -> float:
        """Radius of the circle that holds the whole particle."""
        return self.radius_px + self.half_length_px

    def spine(self) -> NDArray[np.float64]:
        """Seven points along the axis, for the distance between two particles."""
        along = np.linspace(-self.half_length_px, self.half_length_px, 7)
        x, y = self.x_px + along * math.cos(self.angle), self.y_px + along * math.sin(self.angle)
        return np.stack([x, y], axis=1)


def paint(particle: Particle, absorption: Floats, relative_thickness: Floats) -> None:
    """Add a particle to two maps of the field (mean free paths; thickness over the thickest place)."""
    height, width = absorption.shape
    reach = math.ceil(particle.reach_px * 1.1) + 2
    left, top = max(0, int(particle.x_px) - reach), max(0, int(particle.y_px) - reach)
    right, bottom = min(width, int(particle.x_px) + reach + 1), min(height, int(particle.y_px) + reach + 1)
    if left >= right or top >= bottom:
        return
    x = ((np.arange(left, right) - particle.x_px) / particle.radius_px).astype(np.float32)[None, :]
    y = ((np.arange(top, bottom) - particle.y_px) / particle.radius_px).astype(np.float32)[:, None]
    cosine, sine = np.float32(math.cos(particle.angle)), np.float32(math.sin(particle.angle))
    u, v = x * cosine + y * sine, y * cosine - x * sine
    relative = particle.body.thickness(u, v, 1 / particle.radius_px)
    relative /= max(float(relative.max()), 1e-6)
    relative_thickness[top:bottom, left:right] += np.float32(particle.phase) * relative
    absorption[top:bottom, left:right] += _darkening(particle, u, v, relative)


def populate(shape: str, rng: np.random.Generator, size_px: int, *, crowding: float = 1.0) -> list[Particle]:
    """Lay particles of one shape on a field: one material and one synthesis, so alike but not equal.

    `crowding` 1 gives separate or touching particles; above 1 more of them, and overlaps are
    allowed. Diameters follow a log-normal law about a median of 6 to 18 % of the field width.
    """
    recipe = _RECIPES[shape](rng)
    wanted = math.ceil(recipe.count * crowding)
    laid: list[Particle] = []
    for _ in range(wanted * _PLACING_ATTEMPTS):
        if len(laid) == wanted:
            break
        candidate = _candidate(recipe, rng, size_px, laid)
        if crowding > 1 or (_is_free(candidate, laid) and _is_well_placed(candidate, len(laid), size_px)):
            laid.append(candidate)
    return laid


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What all particles of one field have in common; radii as fractions of the field width."""

    shape: str
    count: int
    radius: float
    spread: float
    aspect: float
    family: str
    opacity: float
    crystal: float
    clustering: float
    wear: float


def _round_recipe(rng: np.random.Generator) -> _Recipe:
    radius = rng.uniform(0.03, 0.085)
    family = str(rng.choice(["solid", "hollow"], p=[0.9, 0.1]))
    return _recipe(rng, "round", radius, 9 * radius**2, family, crystal=rng.choice([0.03, 0.15]))


def _rod_recipe(rng: np.random.Generator) -> _Recipe:
    aspect, radius = rng.uniform(3.2, 7.0), rng.uniform(0.014, 0.03)
    family = str(rng.choice(["rounded", "flat"], p=[0.7, 0.3]))
    return _recipe(rng, "rod", radius, 9 * aspect * radius**2, family, aspect=aspect, crystal=0.25)


def _faceted_recipe(rng: np.random.Generator) -> _Recipe:
    radius = rng.uniform(0.05, 0.11)
    family = str(rng.choice(list(_FAMILIES), p=[weight for _, weight in _FAMILIES.values()]))
    return _recipe(rng, "faceted", radius, 7 * radius**2, family, crystal=0.25)


_RECIPES = {"round": _round_recipe, "rod": _rod_recipe, "faceted": _faceted_recipe}


def _recipe(
    rng: np.random.Generator,
    shape: str,
    radius: float,
    footprint: float,
    family: str,
    *,
    crystal: float,
    aspect: float = 1.0,
) -> _Recipe:
    """Fill in what does not depend on the shape; `footprint` bounds the number that fits."""
    return _Recipe(
        shape=shape,
        count=int(np.clip(rng.uniform(0.25, 0.5) / footprint, 6, 32)),
        radius=radius,
        spread=rng.uniform(0.03, 0.16),
        aspect=aspect,
        family=family,
        opacity=math.exp(rng.uniform(math.log(0.8), math.log(2.8))),
        crystal=crystal,
        clustering=rng.uniform(0, 0.6),
        wear=rng.uniform(0.0, 0.09),
    )


def _candidate(recipe: _Recipe, rng: np.random.Generator, size_px: int, laid: list[Particle]) -> Particle:
    """One more particle at a place that may still be taken."""
    size = math.exp(rng.normal(0, recipe.spread))
    radius = recipe.radius * size * size_px
    half_length = (recipe.aspect * math.exp(rng.normal(0, 0.12)) - 1) * radius if recipe.aspect > 1 else 0.0
    angle = rng.uniform(0, 2 * math.pi)
    margin = 0.02 * size_px
    x, y = rng.uniform(margin, size_px - margin, 2)
    if laid and rng.random() < recipe.clustering:
        x, y, angle = _beside(laid[rng.integers(len(laid))], radius, angle, rng)
    brightness = math.exp(rng.normal(0, recipe.crystal))
    return Particle(
        body=_body(recipe, rng, half_length / radius),
        x_px=x,
        y_px=y,
        angle=angle,
        radius_px=radius,
        half_length_px=half_length,
        opacity=recipe.opacity * size * brightness,
        band_strength=rng.uniform(0, 2.5 * recipe.crystal) if recipe.crystal > 0.1 else 0.0,
        band_offset=rng.normal(0, 0.5 + 0.4 * half_length / radius),
        band_angle=rng.uniform(0, math.pi),
        fringes=rng.uniform(0.6, 2.5) if recipe.shape == "faceted" and rng.random() < 0.35 else 0.0,
    )


def _beside(
    neighbour: Particle, radius_px: float, angle: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Find a place that touches a neighbour; rods like to lie side by side."""
    gap = (neighbour.radius_px + radius_px) * rng.uniform(1.02, 1.12)
    if neighbour.half_length_px == 0:
        direction = rng.uniform(0, 2 * math.pi)
        return (
            neighbour.x_px + gap * math.cos(direction),
            neighbour.y_px + gap * math.sin(direction),
            angle,
        )
    side = neighbour.angle + math.copysign(math.pi / 2, rng.random() - 0.5)
    slide = rng.normal(0, 0.3) * neighbour.half_length_px
    x = neighbour.x_px + gap * math.cos(side) + slide * math.cos(neighbour.angle)
    y = neighbour.y_px + gap * math.sin(side) + slide * math.sin(neighbour.angle)
    return x, y, neighbour.angle + rng.normal(0, 0.05)


def _is_free(candidate: Particle, laid: list[Particle]) -> bool:
    """Whether the candidate overlaps nothing; polygons may come closer than their corners' circle."""
    spine = candidate.spine()
    closeness = 0.92 if isinstance(candidate.body, Polyhedron) else 1.0
    for other in laid:
        gaps = spine[:, None, :] - other.spine()[None, :, :]
        if np.hypot(gaps[..., 0], gaps[..., 1]).min() < closeness * (candidate.radius_px + other.radius_px):
            return False
    return True


def _is_well_placed(candidate: Particle, already: int, size_px: int) -> bool:
    """Whether it lies on the field: the first six as a whole, the others may be cut by its rim."""
    inset = candidate.reach_px if already < 6 else -0.3 * candidate.radius_px
    return all(inset <= place <= size_px - inset for place in (candidate.x_px, candidate.y_px))


def _body(recipe: _Recipe, rng: np.random.Generator, half_length: float) -> Body:
    if recipe.shape == "rod":
        return Rod(half_length, recipe.family == "flat")
    if recipe.shape == "faceted":
        make, _ = _FAMILIES[recipe.family]
        return make(rng, 1 - recipe.wear * rng.uniform(0.6, 1.4))
    waves = tuple((order, rng.normal(0, 0.012 / order), rng.uniform(0, 6.3)) for order in (2, 3, 4))
    return Sphere(waves, rng.uniform(0.55, 0.75) if recipe.family == "hollow" else 0.0)


def _tilted(
    normals: list[tuple[float, float, float]], offsets: list[float], rng: np.random.Generator, corner: float
) -> Polyhedron:
    """Make a body that lies almost flat on the film: turned by a degree or two about an axis in it."""
    tilt = rng.normal(0, 0.03)
    direction = rng.uniform(0, 2 * math.pi)
    turned = np.array(normals) @ (_about_z(direction) @ _about_x(tilt) @ _about_z(-direction)).T
    return Polyhedron(tuple((float(x), float(y), float(z)) for x, y, z in turned), tuple(offsets), corner)


def _about_x(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def _about_z(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _prism(sides: int, half_height: float, rng: np.random.Generator, corner: float) -> Polyhedron:
    """Make a plate with a regular polygon, corners at radius 1, as its slightly uneven outline."""
    azimuths = [2 * math.pi * k / sides for k in range(sides)]
    normals = [(math.cos(azimuth), math.sin(azimuth), 0.0) for azimuth in azimuths]
    offsets = [math.cos(math.pi / sides) * (1 + rng.normal(0, 0.025)) for _ in azimuths]
    return _tilted([*normals, (0, 0, 1), (0, 0, -1)], [*offsets, half_height, half_height], rng, corner)


def _cube(rng: np.random.Generator, corner: float) -> Polyhedron:
    return _prism(4, math.sqrt(0.5), rng, corner)


def _triangle(rng: np.random.Generator, corner: float) -> Polyhedron:
    return _prism(3, 0.25, rng, corner - 0.06)


def _hexagon(rng: np.random.Generator, corner: float) -> Polyhedron:
    return _prism(6, 0.3, rng, 1 - (1 - corner) / 3)


def _octahedron(rng: np.random.Generator, corner: float) -> Polyhedron:
    """Join eight triangles to an octahedron that rests on a face (hexagon) or on an edge (rhombus)."""
    signs = [(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    normals = np.array(signs) / math.sqrt(3)
    tip = math.pi / 2 if rng.random() < 0.55 else math.acos(1 / math.sqrt(3))
    normals = normals @ (_about_x(tip) @ _about_z(math.pi / 4)).T
    faces = [(float(x), float(y), float(z)) for x, y, z in normals]
    return _tilted(faces, [1 / math.sqrt(3)] * 8, rng, corner)


def _decahedron(rng: np.random.Generator, corner: float) -> Polyhedron:
    """Join ten triangles to a pentagonal bipyramid, its rim cut off so that it is not infinitely thin."""
    slope = math.radians(60)
    azimuths = [2 * math.pi * k / 5 for k in range(5)]
    normals = [
        (math.sin(slope) * math.cos(azimuth), math.sin(slope) * math.sin(azimuth), up * math.cos(slope))
        for azimuth in azimuths
        for up in (-1, 1)
    ]
    rim = [(math.cos(azimuth), math.sin(azimuth), 0.0) for azimuth in azimuths]
    offsets = [math.sin(slope) * math.cos(math.pi / 5) * 1.25] * 10 + [math.cos(math.pi / 5)] * 5
    return _tilted([*normals, *rim], offsets, rng, 1 - (1 - corner) / 2)


_FAMILIES = {
    "cubes": (_cube, 0.34),
    "triangles": (_triangle, 0.2),
    "hexagons": (_hexagon, 0.16),
    "octahedra": (_octahedron, 0.2),
    "decahedra": (_decahedron, 0.1),
}


def _darkening(particle: Particle, u: Floats, v: Floats, relative: Floats) -> Floats:
    """Compute one particle's absorption with the diffraction contrast of a crystal."""
    absorption = np.float32(particle.opacity) * relative
    if particle.band_strength:
        across = u * math.cos(particle.band_angle) + v * math.sin(particle.band_angle)
        band = np.exp(-(((across - np.float32(particle.band_offset)) / np.float32(0.22)) ** 2))
        absorption *= 1 + np.float32(particle.band_strength) * band
    if particle.fringes:
        # Two-beam thickness fringes: the direct beam swings as cos^2 of thickness over extinction length.
        absorption *= 1 + np.float32(0.3) * np.sin(np.float32(math.pi * particle.fringes) * relative) ** 2
    return absorption.astype(np.float32, copy=False)


def _coverage(distance: Floats, pixel: float) -> Floats:
    """Find how much of a pixel lies inside an edge at this signed distance (inside positive)."""
    cover: Floats = np.clip(distance / np.float32(pixel) + np.float32(0.5), 0, 1)
    return cover
