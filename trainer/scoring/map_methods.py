"""Which maps can be had of a bundle: its own, others of the same graph, occlusion, and two that know nothing.

Only this module knows how a map of a named class is asked of each, and when two methods give the same map.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from edge_agent.preprocessing import CamMap, Tiles, cut_tiles
from trainer.exporting import cam_graph
from trainer.scoring.occlusion import occlude_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edge_agent.classifier import Classifier
    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle
    from trainer.scoring.evaluation import Source

GRAPH_METHODS: Final = cam_graph.METHODS
OCCLUSION: Final = "occlusion"
CENTRE: Final = "centre"
RANDOM: Final = "random"
BASELINES: Final = (CENTRE, RANDOM)
SAME_WITHIN: Final = 1e-3
"""Of a map's span: maps closer than this, up to a positive factor and an offset, are the same map."""
_CENTRE_WIDTH: Final = 0.25


class MapError(Exception):
    """A map cannot be had; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One micrograph as the network is shown it, and what it answers."""

    source: Source
    tiles: Tiles
    shape_px: tuple[int, int]
    """Rows and columns of the micrograph."""
    answer: str
    probability: float


@dataclass(frozen=True, slots=True)
class Found:
    """Methods with the bundle in memory whose graph gives their map, and why there are not others."""

    bundles: Mapping[str, Bundle]
    absent: Mapping[str, str]


def shown(classifier: Classifier, micrograph: Micrograph, source: Source) -> Shown:
    """Cut a micrograph, or the one crop of it that the source names, and ask what it is.

    Raises:
        MapError: the bundle's tile plan has no such crop.

    """
    rule = classifier.bundle.manifest.preprocessing
    every = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, rule)
    tiles = Tiles(tuple(tile for tile in every.tiles if source.box_px in (None, tile.box_px)), every.field)
    if not tiles.tiles:
        raise MapError(
            f"{source.file}: the bundle's tile plan has no box {source.box_px}; the data set was prepared with "
            "another one"
        )
    answer = classifier.answer_tiles(tiles)
    shape = (int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1]))
    return Shown(source, tiles, shape, answer.label, answer.probability)


def graph_map(classifier: Classifier, seen: Shown) -> CamMap:
    """The graph's map of the class that the untouched network answered."""
    return classifier.classify_tiles(seen.tiles, seen.shape_px, map_of=seen.answer).cam


def occlusion_map(classifier: Classifier, seen: Shown) -> CamMap:
    """What the answer loses when a place is hidden; a classifier without map is enough."""
    every = occlude_tiles(classifier, seen.tiles, seen.shape_px)
    return next(one.cam for one in every if one.cam.label == seen.answer)


def own_method(bundle: Bundle) -> str:
    """The method of the map that the agent draws."""
    return bundle.manifest.cam.method


def find_methods(bundle: Bundle, asked: Sequence[str] = ()) -> Found:
    """The bundle's own method first, then what else its graph has a closed form for.

    `asked` names the methods wanted, by default all; occlusion is no method of a graph and is not looked for.

    Raises:
        MapError: a method of that name is not known.

    """
    unknown = sorted(set(asked) - {*GRAPH_METHODS, OCCLUSION})
    if unknown:
        raise MapError(
            f"no method is called {', '.join(unknown)}; there are {', '.join((*GRAPH_METHODS, OCCLUSION))}"
        )
    own = own_method(bundle)
    wanted = [
        name
        for name in (own, *GRAPH_METHODS)
        if name != OCCLUSION and name in (asked or (own, *GRAPH_METHODS))
    ]
    found: dict[str, Bundle] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        given = bundle_of(bundle, name)
        if isinstance(given, str):
            absent[name] = given
        else:
            found[name] = given
    return Found(found, absent)


def bundle_of(bundle: Bundle, method: str) -> Bundle | str:
    """The bundle in memory with the map of a method in its graph, or why there is none."""
    if method == own_method(bundle):
        return bundle
    try:
        return cam_graph.by_method(bundle, cast("cam_graph.Method", method))
    except cam_graph.GraphError as error:
        return str(error)


def baseline_map(name: str, seen: Shown, like: CamMap, seed: int) -> CamMap:
    """A map that knows nothing of the picture, on the grid of another one: a bump in the middle, or noise.

    The noise depends on the seed and the micrograph's name, so that the order of micrographs plays no part.
    """
    if name == CENTRE:
        values = _bump(*like.values.shape)
    else:
        own = zlib.crc32(f"{seen.source.file} {seen.source.box_px}".encode())
        values = np.random.default_rng([seed, own]).random(like.values.shape, dtype=np.float32)
    return replace(like, method=name, values=values)


def _bump(rows: int, columns: int) -> NDArray[np.float32]:
    """A Gaussian in the middle, its standard deviation a quarter of each side."""
    down, across = (((np.arange(count) + 0.5) / count - 0.5) / _CENTRE_WIDTH for count in (rows, columns))
    return np.exp(-0.5 * (down[:, None] ** 2 + across[None, :] ** 2)).astype(np.float32)


def same_maps(one: Sequence[CamMap], other: Sequence[CamMap]) -> bool:
    """Whether two methods give the same map, up to a positive factor and an offset, on all of these micrographs."""
    return all(_same(a.values, b.values) for a, b in zip(one, other, strict=True))


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    if one.shape != other.shape:
        return False
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (one, other))
    a, b = a - a.mean(), b - b.mean()
    if not a.any() or not b.any():
        return not a.any() and not b.any()
    factor = float(a @ b / (a @ a))
    return factor > 0 and bool(np.abs(factor * a - b).max() <= SAME_WITHIN * np.ptp(b))
