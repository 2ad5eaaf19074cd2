"""What a network makes of micrographs before any temperature or threshold: answers, pooled features, look and tags.

Micrographs are opened, cut and looked at by the agent's own code, and the answers that come of it are the agent's,
with the temperature and the novelty still open. Only this module runs a bundle with its feature map as an output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.classifier import Outputs, answer_of
from edge_agent.field_look import look_at
from edge_agent.preprocessing import Tiles, cut_tiles
from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_head import PROBABILITIES
from trainer.exporting.head_walk import find_logits
from trainer.exporting.onnx_graph import OnnxGraph
from trainer.trusting.feature_tap import MEAN, SPREAD, feature_tap, with_pooled_outputs
from trainer.trusting.temperature import tempered
from trainer.trusting.trusted_graph import bare_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from edge_agent.classifier import Answer
    from edge_agent.field_look import Look
    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle
    from edge_agent.preprocessing import Box, FieldStatistics, Preprocessing
    from trainer.scoring.evaluation import Source
    from trainer.trusting.novelty import NoveltyStatistics


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One micrograph. Arrays have a row for each network input (box and view), in the agent's order."""

    source: Source
    micrograph: Micrograph
    """Its tags; the pixels are gone."""
    labels: tuple[str, ...]
    field: FieldStatistics
    look: Look | None
    boxes: tuple[Box, ...]
    logits: NDArray[np.float32]
    """[inputs, labels] before temperature and softmax."""
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    """[inputs, channels] of the feature map over the field."""

    def answered(self, temperature: float, statistics: NoveltyStatistics | None) -> Answer:
        """The answer that a graph with this temperature and novelty gives."""
        rows = tempered(self.logits, temperature).astype(np.float32)
        novelty = None
        if statistics is not None:
            novelty = statistics.novelty(self.mean, self.spread).astype(np.float32)
        return answer_of(self.labels, self.boxes, Outputs(rows, None, novelty), self.field, self.look)


class Observer:
    """A bundle with its feature map within reach. Raises GraphError where it has none.

    `rule` is how micrographs are shown to it, by default as the bundle says.
    """

    def __init__(self, bundle: Bundle, rule: Preprocessing | None = None) -> None:
        self.bundle, self.rule = bundle, rule or bundle.manifest.preprocessing
        model = bare_model(bundle)
        self.tensor = feature_tap(model, PROBABILITIES, self.rule.input_px)
        self._outputs = (find_logits(OnnxGraph(model)), MEAN, SPREAD)
        self._session = onnx_session(with_pooled_outputs(model, self.tensor, self._outputs[:1]))
        self._input = bundle.manifest.tensors.input.name

    def observe(self, source: Source, micrograph: Micrograph) -> Observation:
        """Look at one micrograph, or at one crop of it."""
        tiles = _tiles_of(micrograph, source, self.rule)
        answers = [self._session.run(self._outputs, {self._input: tile.values[None]}) for tile in tiles.tiles]
        logits, mean, spread = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return Observation(
            source=source,
            micrograph=replace(micrograph, pixels=np.empty((0, 0), micrograph.pixels.dtype)),
            labels=self.bundle.manifest.labels,
            field=tiles.field,
            look=look_at(tiles, self.rule.value_range),
            boxes=tuple(tile.box_px for tile in tiles.tiles),
            logits=logits,
            mean=mean.reshape(len(mean), -1),
            spread=spread.reshape(len(spread), -1),
        )


def _tiles_of(micrograph: Micrograph, source: Source, rule: Preprocessing) -> Tiles:
    every = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, rule)
    if source.box_px is None:
        return every
    return Tiles(tuple(tile for tile in every.tiles if tile.box_px == source.box_px), every.field)


def observe_all(
    observer: Observer,
    opened: Iterable[tuple[Source, Micrograph | str]],
    count: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Observation]:
    """Look at all micrographs that can be opened, in their order."""
    seen = []
    for index, (source, micrograph) in enumerate(opened):
        progress(index, count)
        if not isinstance(micrograph, str):
            seen.append(observer.observe(source, micrograph))
    progress(count, count)
    return seen
