"""Weights drawn anew: whether a map shows what was learnt, or only what is in the picture.

After Adebayo et al. (Sanity Checks for Saliency Maps, NeurIPS 2018): from the last layer to the first, more and
more weights are replaced by random ones, and each time the map is compared with the original. A map that stays as
it was does not depend on what was learnt. Only this module knows which constants of an ONNX graph are weights.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.exporting.cam_graph import by_method
from trainer.scoring.deletion import mean_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Bundle

DRAWS: Final = 3
UNRELATED: Final = 5
"""With how many other micrographs' maps each map is compared."""
FALLEN: Final = 0.15
"""Of the way from a map's likeness to itself (1) down to that of unrelated maps, this may be left at the end."""
HALFWAY: Final = 0.5
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_HANDED_ON: Final = frozenset({"DequantizeLinear", "Identity", "Reshape", "Transpose"})

Layer = tuple[str, ...]
"""Names of the constants of one layer."""


class Stage(BaseModel):
    """How alike the maps are when the last `layers` layers hold random weights; 1 is the same order of cells."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int
    absolute: float
    """Mean rank correlation (Spearman) of the maps' absolute values."""
    absolute_interval: tuple[float, float] | None
    positive: float
    """The same of the positive parts, which are what is drawn; a map without any counts 0."""
    positive_interval: tuple[float, float] | None


class Randomised(BaseModel):
    """The cascade of one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws: int
    layers: int
    """Layers with weights in the graph."""
    micrographs: int
    stages: tuple[Stage, ...]
    """The first is the untouched network."""
    unrelated_absolute: float
    """The same measure between maps of different micrographs, of the untouched network."""
    unrelated_positive: float
    left_absolute: float
    """What is left at the end beyond `unrelated_absolute`."""
    left_absolute_interval: tuple[float, float] | None
    left_positive: float
    left_positive_interval: tuple[float, float] | None
    verdict: str
    """"falls", "falls in part" or "stays"."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Rank correlations of two sets of maps, micrograph by micrograph."""

    absolute: NDArray[np.float64]
    positive: NDArray[np.float64]


def weight_layers(model: Any, answer: str) -> tuple[Layer, ...]:  # noqa: ANN401 - onnx has no types
    """The constants of convolutions and dense layers (ModelProto), the layer farthest from the input first.

    Only nodes that the output `answer` needs are looked at: the map's own analytic back-propagation uses the very
    same weights, and its seeds are none. Normalisation keeps its numbers.
    """
    constants = {one.name: int(np.prod(one.dims)) for one in model.graph.initializer}
    handed = {node.output[0]: node for node in model.graph.node if node.op_type in _HANDED_ON}
    layers: list[tuple[int, Layer]] = []
    claimed: set[str] = set()
    for depth, node in _in_depth(model.graph, answer):
        if node.op_type in _WEIGHTED:
            names = [_constant(name, handed, constants) for name in node.input]
            fresh = tuple(name for name in names if name not in claimed and constants.get(name, 0) > 1)
            claimed.update(fresh)
            layers += [(depth, fresh)] if fresh else []
    return tuple(names for _, names in sorted(layers, key=lambda layer: -layer[0]))


def _constant(name: str, handed: dict[str, Any], constants: dict[str, int]) -> str:
    while name in handed:
        name = handed[name].input[0]
    return name if name in constants else ""


def _in_depth(graph: Any, answer: str) -> list[tuple[int, Any]]:  # noqa: ANN401
    """The nodes that an output needs, each with how many nodes lie at most between it and the input."""
    needed = {answer}
    for node in reversed(graph.node):  # nodes come in order
        if needed.intersection(node.output):
            needed.update(node.input)
    depth: dict[str, int] = {}
    found = []
    for node in graph.node:
        below = max((depth.get(name, 0) for name in node.input), default=0)
        depth |= dict.fromkeys(node.output, below + 1)
        if needed.intersection(node.output):
            found.append((below + 1, node))
    return sorted(found, key=lambda one: one[0])


def stage_counts(layers: int) -> tuple[int, ...]:
    """After how many layers the maps are compared: 1, 2, 4 ... all."""
    counts, at = [], 1
    while at < layers:
        counts.append(at)
        at *= 2
    return (*counts, layers)


def redrawn(bundle: Bundle, names: Iterable[str], seed: int) -> Bundle:
    """The bundle in memory with these constants drawn anew: normal, with each one's own mean and deviation.

    A constant's numbers depend on its name and the seed alone, so a further stage keeps those drawn before.
    """
    import onnx
    from onnx import numpy_helper

    model, wanted = onnx.load_model_from_string(bundle.model_bytes), set(names)
    for constant in model.graph.initializer:
        if constant.name in wanted:
            values = _drawn_like(numpy_helper.to_array(constant), [seed, zlib.crc32(constant.name.encode())])
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    drawn = replace(bundle, model_bytes=model.SerializeToString())
    # Grad-CAM behind a flattened map holds averages of a weight as numbers of their own: made anew with it.
    return by_method(drawn, "gradcam") if bundle.manifest.cam.method == "gradcam" else drawn


def _drawn_like(values: NDArray[Any], seed: list[int]) -> NDArray[Any]:
    plain = values.astype(np.float64)
    drawn = np.random.default_rng(seed).normal(plain.mean(), plain.std(), values.shape)
    if np.issubdtype(values.dtype, np.integer):  # weights of a quantised graph
        limits = np.iinfo(values.dtype)
        drawn = np.clip(np.rint(drawn), limits.min, limits.max)
    return drawn.astype(values.dtype)


# --- how alike two maps are -----------------------------------------------------------------------


def alike(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32] | None]) -> Alike:
    """Compare maps pairwise; None stands for a map that could not be computed, which resembles nothing."""
    pairs = list(zip(one, other, strict=True))
    return Alike(
        np.array([0.0 if b is None else rank_correlation(np.abs(a), np.abs(b)) for a, b in pairs]),
        np.array(
            [0.0 if b is None else rank_correlation(np.maximum(a, 0), np.maximum(b, 0)) for a, b in pairs]
        ),
    )


def unrelated(maps: Sequence[NDArray[np.float32]], seed: int) -> Alike:
    """Compare each map with some of other micrographs, fitted to its grid: what chance and habit give."""
    draw = np.random.default_rng(seed)
    absolute, positive = np.zeros(len(maps)), np.zeros(len(maps))
    for at, own in enumerate(maps):
        others = draw.permutation([place for place in range(len(maps)) if place != at])[:UNRELATED]
        if len(others):
            against = alike([own] * len(others), [_fitted(maps[int(place)], own.shape) for place in others])
            absolute[at], positive[at] = against.absolute.mean(), against.positive.mean()
    return Alike(absolute, positive)


def _fitted(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A map on another grid, each cell the nearest one's value."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) / new * old).astype(int), old - 1)
        for new, old in zip(shape, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Spearman's correlation of two maps of one shape, ties at their mean rank; 0 where one map is flat."""
    a, b = _mean_ranks(one), _mean_ranks(other)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def _mean_ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    _, place, number = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(number)
    return np.asarray((last - (number - 1) / 2)[place.ravel()], dtype=np.float64)


# --- figures --------------------------------------------------------------------------------------


def randomised(
    stages: Sequence[tuple[int, Sequence[Alike]]],
    others: Alike,
    groups: Sequence[str],
    seed: int,
) -> Randomised:
    """Sum up a cascade: for each stage the number of layers and the comparisons of every draw."""
    means = [
        (
            layers,
            Alike(
                np.mean([draw.absolute for draw in draws], axis=0),
                np.mean([draw.positive for draw in draws], axis=0),
            ),
        )
        for layers, draws in stages
    ]
    layers, end = means[-1]
    left = Alike(end.absolute - others.absolute, end.positive - others.positive)
    untouched = Stage(layers=0, absolute=1.0, absolute_interval=None, positive=1.0, positive_interval=None)
    left_interval = mean_interval(left.absolute, groups, seed)
    return Randomised(
        draws=len(stages[-1][1]),
        layers=layers,
        micrographs=len(groups),
        stages=(untouched, *(_stage(count, one, groups, seed) for count, one in means)),
        unrelated_absolute=_rounded(others.absolute),
        unrelated_positive=_rounded(others.positive),
        left_absolute=_rounded(left.absolute),
        left_absolute_interval=left_interval,
        left_positive=_rounded(left.positive),
        left_positive_interval=mean_interval(left.positive, groups, seed),
        verdict=_verdict(end, others),
    )


def _stage(layers: int, seen: Alike, groups: Sequence[str], seed: int) -> Stage:
    return Stage(
        layers=layers,
        absolute=_rounded(seen.absolute),
        absolute_interval=mean_interval(seen.absolute, groups, seed),
        positive=_rounded(seen.positive),
        positive_interval=mean_interval(seen.positive, groups, seed),
    )


def _rounded(values: NDArray[np.float64]) -> float:
    return round(float(values.mean()), 4)


def _verdict(end: Alike, others: Alike) -> str:
    """The worse of both measures decides."""
    shares = [
        (seen.mean() - unlike.mean()) / max(1 - unlike.mean(), 1e-9)
        for seen, unlike in ((end.absolute, others.absolute), (end.positive, others.positive))
    ]
    left = max(shares)
    return "falls" if left <= FALLEN else "falls in part" if left <= HALFWAY else "stays"
