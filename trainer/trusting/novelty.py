"""How far a picture is from the training pictures, and the same as nodes of the graph.

A picture is described by its feature map pooled over the field: mean and log of the spread of every channel. Of
the training pictures' descriptions the first principal components are kept, and a picture's novelty is its
Mahalanobis distance in them (K. Lee et al., NeurIPS 2018, there for each class; here for all together, since
what is asked is whether a picture is of the training's kind at all). How many components one keeps decides which
kind of strange picture is found, so the squared distances in the first 1, 2 ... `components` of them are averaged:
the same sum with weights that fall linearly. Only this module knows the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.node_writer import NodeWriter
from trainer.exporting.onnx_graph import OnnxGraph
from trainer.trusting.feature_tap import pooled_nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOVELTY: Final = "novelty"
MOST_COMPONENTS: Final = 24
MICROGRAPHS_A_COMPONENT: Final = 10
"""A variance that is measured on fewer micrographs says little."""
FEWEST_MICROGRAPHS: Final = 20
_SPREAD_FLOOR: Final = 1e-3
"""Of the median spread where there is any: keeps the logarithm finite for a field in which nothing changes."""


class TooFewMicrographs(ValueError):
    """Novelty cannot be measured from so few micrographs; the text says how many there are."""


@dataclass(frozen=True, slots=True, eq=False)
class NoveltyStatistics:
    """What the training pictures' descriptions are like.

    The novelty of a description d [2 x channels] is the length of (d - centre) @ projection, over `unit`.
    """

    tensor: str
    floor: float
    """Added to the spread before its logarithm is taken."""
    centre: NDArray[np.float64]
    projection: NDArray[np.float64]
    """[2 x channels, components]: principal components, each divided by its standard deviation and weighted."""
    micrographs: int
    unit: float = 1.0
    """The distance that counts as novelty 1."""

    @property
    def components(self) -> int:
        """How many principal components are read."""
        return int(self.projection.shape[1])

    def novelty(
        self, mean: NDArray[np.floating[Any]], spread: NDArray[np.floating[Any]]
    ) -> NDArray[np.float64]:
        """Novelty [n] of pictures whose map has this mean and spread over the field, both [n, channels]."""
        away = (_described(mean, spread, self.floor) - self.centre) @ self.projection
        return np.asarray(np.sqrt((away * away).sum(axis=1)) / self.unit)


def novelty_statistics(
    tensor: str, mean: NDArray[np.floating[Any]], spread: NDArray[np.floating[Any]], *, micrographs: int
) -> NoveltyStatistics:
    """Measure the statistics of training pictures, of which `tensor` has this mean and spread, [n, channels].

    `micrographs` is how many there are: several boxes or views of one are not so many pieces of evidence.

    Raises:
        TooFewMicrographs: fewer than `FEWEST_MICROGRAPHS`, or they do not differ.
    """
    if micrographs < FEWEST_MICROGRAPHS:
        raise TooFewMicrographs(
            f"novelty needs {FEWEST_MICROGRAPHS} training micrographs, there are {micrographs}"
        )
    floor = _SPREAD_FLOOR * float(np.median(spread[spread > 0])) if spread.any() else 1e-12
    described = _described(mean, spread, floor)
    centre, scale = described.mean(axis=0), described.std(axis=0)
    scale = np.where(scale > 1e-6 * scale.max(), scale, np.inf)  # what never changes says nothing
    _, singular, axes = np.linalg.svd((described - centre) / scale, full_matrices=False)
    deviation = singular / np.sqrt(len(mean) - 1)
    told = int((deviation > 1e-6 * deviation[0]).sum()) if deviation[0] > 0 else 0
    kept = min(MOST_COMPONENTS, micrographs // MICROGRAPHS_A_COMPONENT, told)
    if kept < 1:
        raise TooFewMicrographs("the training micrographs do not differ: their novelty has no measure")
    weight = np.sqrt(1 - np.arange(kept) / kept)
    projection = axes[:kept].T / scale[:, None] / deviation[:kept] * weight
    return NoveltyStatistics(tensor, floor, centre, projection, micrographs)


def _described(
    mean: NDArray[np.floating[Any]], spread: NDArray[np.floating[Any]], floor: float
) -> NDArray[np.float64]:
    return np.concatenate([mean, np.log(spread + floor)], axis=1).astype(np.float64)


def append_novelty(model: Any, statistics: NoveltyStatistics) -> None:  # noqa: ANN401 - onnx has no types
    """Append the output `novelty` [n] to a ModelProto."""
    from onnx import TensorProto, helper

    write = NodeWriter(NOVELTY, OnnxGraph(model).opset)
    mean, spread = pooled_nodes(write, statistics.tensor)
    logarithm = write("Log", write("Add", spread, write.number(statistics.floor)))
    described = write("Flatten", write("Concat", mean, logarithm, axis=1), axis=1)
    projection = statistics.projection / statistics.unit
    # Channels are centred before the product: their means are large beside what tells pictures apart.
    off = write("Sub", described, write.constant(statistics.centre.astype(np.float32)[None]))
    away = write("MatMul", off, write.constant(projection.astype(np.float32)))
    ones = write.constant(np.ones((statistics.components, 1), np.float32))
    squared = write("MatMul", write("Mul", away, away), ones)
    write.reshape(write("Sqrt", squared), (-1,), out=f"{NOVELTY}/flat")
    write("Identity", f"{NOVELTY}/flat", out=NOVELTY)
    write.nodes[-1].name = f"{NOVELTY}/output"
    model.graph.node.extend(write.nodes)
    model.graph.initializer.extend(write.constants)
    model.graph.output.append(helper.make_tensor_value_info(NOVELTY, TensorProto.FLOAT, ["batch"]))
