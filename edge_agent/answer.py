"""What the network says of a micrograph: outputs of the graph, joined to one answer, with the map where asked for.

Only this module knows how the outputs of several boxes and views become one: the mean of the probabilities and of
the novelty, and how much the boxes disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edge_agent.field_look import Look
    from edge_agent.preprocessing import Box, CamMap, FieldStatistics


@dataclass(frozen=True, slots=True)
class TilePrediction:
    """The answer for one box, averaged over its views; probabilities in the order of the labels."""

    box_px: Box
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network says of a whole micrograph; probabilities in the order of `labels`."""

    label: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    novelty: float | None
    """Mean over the tiles, in the bundle's own unit; None where its graph gives none."""
    tiles: tuple[TilePrediction, ...]
    field: FieldStatistics
    look: Look | None
    """None where the field is too small to tell."""
    tile_disagreement: float
    """How much the tiles' answers differ, 0 to 1: what knowing the tile tells of the class (the entropy of the
    mean less the mean entropy), as a fraction of log(classes). 0 for one tile."""
    preprocess_ms: float
    infer_ms: float

    @property
    def probability(self) -> float:
        """Probability of the label."""
        return self.probabilities[self.labels.index(self.label)]


@dataclass(frozen=True, slots=True)
class Prediction(Answer):
    """The answer with its map: of the label, unless another class's was asked for (`cam.label` says which)."""

    cam: CamMap


def with_map(answer: Answer, cam: CamMap) -> Prediction:
    """The same answer with this map."""
    return Prediction(**{of.name: getattr(answer, of.name) for of in fields(Answer)}, cam=cam)


class Outputs(NamedTuple):
    """What one run of the graph gave: [n, labels], the maps, and [n]; None for what was not asked for."""

    probabilities: NDArray[np.float32]
    cam: NDArray[np.float32] | None
    novelty: NDArray[np.float32] | None


def _disagreement(probabilities: NDArray[np.float64]) -> float:
    """The Jensen-Shannon divergence of the rows (Lin, IEEE Trans. Inf. Theory 37 (1991))."""
    if len(probabilities) < 2:
        return 0.0
    found = _entropy(probabilities.mean(axis=0)) - np.mean([_entropy(row) for row in probabilities])
    return max(0.0, float(found)) / float(np.log(probabilities.shape[1]))


def _entropy(probabilities: NDArray[np.float64]) -> float:
    present = probabilities[probabilities > 0]
    return -float((present * np.log(present)).sum())


def answer_of(
    labels: tuple[str, ...],
    boxes: Sequence[Box],
    outputs: Outputs,
    field: FieldStatistics,
    look: Look | None,
) -> Answer:
    """Join what the graph gave for each network input, whose box is in `boxes`; times are 0."""
    mean = outputs.probabilities.mean(axis=0)
    tiles = _by_box(boxes, outputs.probabilities)
    return Answer(
        label=labels[int(mean.argmax())],
        labels=labels,
        probabilities=tuple(float(value) for value in mean),
        novelty=None if outputs.novelty is None else float(outputs.novelty.mean()),
        tiles=tiles,
        field=field,
        look=look,
        tile_disagreement=_disagreement(np.array([tile.probabilities for tile in tiles])),
        preprocess_ms=0.0,
        infer_ms=0.0,
    )


def _by_box(boxes: Sequence[Box], probabilities: NDArray[np.float32]) -> tuple[TilePrediction, ...]:
    rows: dict[Box, list[NDArray[np.float32]]] = {}
    for box, row in zip(boxes, probabilities, strict=True):
        rows.setdefault(box, []).append(row)
    return tuple(
        TilePrediction(box, tuple(float(value) for value in np.mean(same, axis=0)))
        for box, same in rows.items()
    )
