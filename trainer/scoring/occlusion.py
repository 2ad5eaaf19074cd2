"""Occlusion maps: what the answer loses when a place of the field is hidden, for any network at all.

After Zeiler and Fergus (Visualizing and Understanding Convolutional Networks, ECCV 2014). A patch is slid over each
network input, the network is asked again, and the loss is written where the patch stood: one pass for each place,
no derivative, no look into the graph. A negative value says that the answer is surer without the place.

Only this module knows how a place is hidden. Under the patch the field is blurred away rather than painted grey,
and the patch's rim is soft: a grey square has edges and corners of its own, which a network trained on shapes
answers to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.classifier import with_map
from edge_agent.preprocessing import CamMap, compose_cam, cut_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from edge_agent.classifier import Classifier, Prediction
    from edge_agent.micrograph import Micrograph
    from edge_agent.preprocessing import Tiles

METHOD: Final = "occlusion"
PATCH_CELLS: Final = 2.0
"""Width of a patch, in steps from one place to the next: neighbours overlap, and nothing lies between them."""
RIM: Final = 0.25
"""Part of a patch's width, at each side, over which it comes and goes."""
BLUR: Final = 0.5
"""Standard deviation of the blurring, as a part of the patch's width."""
LEAST: Final = float(np.finfo(np.float32).tiny)


def occlude(
    classifier: Classifier,
    micrograph: Micrograph,
    *,
    map_of: str | None = None,
    cells: int = 14,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Prediction:
    """The answer for a micrograph with its occlusion map: of the class answered, or of `map_of`.

    `cells` is how many places a square input is asked at along one side; an oblong one is asked at as many in all.
    A classifier opened `without_map` spares the maps of the graph. Times in the prediction are 0.

    Raises:
        BundleRefused: the model's answers are not finite.
        ValueError: there is no such class, or fewer than one place is asked for.

    """
    if map_of is not None:
        classifier.place_of(map_of)
    every = occlude_every_class(classifier, micrograph, cells=cells, progress=progress)
    return next(one for one in every if one.cam.label == (map_of or one.label))


def occlude_every_class(
    classifier: Classifier,
    micrograph: Micrograph,
    *,
    cells: int = 14,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Prediction, ...]:
    """The answer with the occlusion map of each class in turn, in the order of the labels, of the same passes.

    Raises as `occlude` does.
    """
    tiles = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, classifier.bundle.manifest.preprocessing)
    shape = (int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1]))
    return occlude_tiles(classifier, tiles, shape, cells=cells, progress=progress)


def occlude_tiles(
    classifier: Classifier,
    tiles: Tiles,
    shape_px: tuple[int, int],
    *,
    cells: int = 14,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Prediction, ...]:
    """The same for inputs that are cut already from a micrograph of `shape_px` (rows, columns)."""
    if cells < 1:
        raise ValueError(f"{cells} places along a side were asked for; ask for 1 at least")
    answer = classifier.answer_tiles(tiles)
    grids = [grid_of(_size(tile.values), cells) for tile in tiles.tiles]
    total, done = sum(rows * columns for rows, columns in grids), 0
    lost = []
    for tile, (rows, columns) in zip(tiles.tiles, grids, strict=True):
        lost.append(_lost(classifier, tile.values[0], (rows, columns), done, total, progress))
        done += rows * columns
    progress("hidden", total, total)
    rule, found = classifier.bundle.manifest.preprocessing, []
    for place, label in enumerate(classifier.labels):
        box, values = compose_cam(tiles.tiles, [maps[place] for maps in lost], shape_px)
        settings = _settings(rule.input_px, cells)
        found.append(with_map(answer, CamMap(label, METHOD, box, values, rule.cam_composition, settings)))
    return tuple(found)


def grid_of(size_px: tuple[int, int], cells: int) -> tuple[int, int]:
    """Rows and columns of the map of an input of this size: places as far apart down as across."""
    step = math.sqrt(size_px[0] * size_px[1]) / cells
    return max(1, round(size_px[0] / step)), max(1, round(size_px[1] / step))


def _size(values: NDArray[np.float32]) -> tuple[int, int]:
    return int(values.shape[-2]), int(values.shape[-1])


def _step(size_px: tuple[int, int], grid: tuple[int, int]) -> float:
    """From one place to the next, in pixels of the network's input."""
    return math.sqrt(size_px[0] * size_px[1] / (grid[0] * grid[1]))


def _settings(input_px: int, cells: int) -> str:
    step = input_px / cells
    return (
        f"patches {PATCH_CELLS * step:.0f} px wide, {step:.0f} px apart, blurred away in a network input with the "
        f"area of {input_px} x {input_px} px"
    )


def _lost(
    classifier: Classifier,
    values: NDArray[np.float32],
    grid: tuple[int, int],
    done: int,
    total: int,
    progress: Callable[[str, int, int], None],
) -> NDArray[np.float32]:
    """What each class's log-odds lose when a place is hidden, float32 [labels, rows, columns of the grid]."""
    whole = _log_odds(classifier.infer(values[None, None])[0])
    lost: list[NDArray[np.float64]] = []
    # One by one: eight inputs of 448 px or 150 px at once took up to 1.5 times as long, as for the agent.
    for hidden in _hidden(values, grid):
        progress("hidden", done + len(lost), total)
        lost.append((whole - _log_odds(classifier.infer(hidden[None, None])[0]))[0])
    return np.ascontiguousarray(np.stack(lost, axis=1).reshape(-1, *grid), dtype=np.float32)


def _hidden(values: NDArray[np.float32], grid: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    """The input with each place hidden in turn, in reading order."""
    width = PATCH_CELLS * _step(_size(values), grid)
    blurred = _blurring(values.shape[0], width) @ values @ _blurring(values.shape[1], width).T
    down, across = (
        _windows(length, places, width) for length, places in zip(values.shape, grid, strict=True)
    )
    for row in down:
        for column in across:
            yield values + (blurred - values) * (row[:, None] * column[None])


def _windows(length: int, places: int, width: float) -> NDArray[np.float32]:
    """How far each of `length` pixels is hidden by a patch at each place, [places, length], from 0 to 1."""
    middles = (np.arange(places)[:, None] + 0.5) * length / places
    inside = width / 2 - np.abs(np.arange(length)[None] + 0.5 - middles)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(inside / (RIM * width), 0, 1)), dtype=np.float32)


def _blurring(length: int, width: float) -> NDArray[np.float32]:
    """Weights [length, length] of a Gaussian blur along one axis; at the border, of what is inside."""
    at = np.arange(length)
    weights = np.exp(-0.5 * ((at[:, None] - at[None]) / (BLUR * width)) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """ln(p / (1 - p)) of each class, where 1 - p is the sum of the others: exact though p is rounded to 1."""
    p = np.maximum(probabilities.astype(np.float64), LEAST)
    others = np.stack([np.delete(p, place, axis=1).sum(axis=1) for place in range(p.shape[1])], axis=1)
    return np.asarray(np.log(p) - np.log(others))
