"""Several forms of one network, asked about the same micrographs: how fast, how right, how alike what they say.

Everything goes through the agent's own classifier on one thread. The forms are asked in turn about each input, so
that whatever else the machine does slows them alike; the first of them is what the others are compared with: in
their maps and, where the bundle has limits, in novelty and decision.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.classifier import Classifier
from edge_agent.decision import Decision, decide
from edge_agent.preprocessing import Tiles, cut_tiles
from trainer.scoring.evaluation import Source, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from edge_agent.classifier import Answer, Prediction
    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle
    from trainer.preparing.crops import DataSet

_FEWEST_TIMES: Final = 30
_SMALLEST_NOVELTY: Final = 1e-6


class OptimiseError(Exception):
    """A bundle cannot be optimised on this data; the message says what was seen."""


@dataclass(slots=True)
class Tally:
    """What one form answered, picture by picture."""

    milliseconds: list[float] = field(default_factory=list)
    right: list[tuple[str, bool]] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    same_peak: list[bool] = field(default_factory=list)
    same_decision: list[bool] = field(default_factory=list)
    novelty_apart: float | None = None
    """The largest change against the first form, as a fraction of that one's; None where the graph gives none."""
    probabilities_apart: float = 0.0
    cam_apart: float = 0.0
    cam_apart_of_peak: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.mean([right for _, right in self.right]))

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of their share of right answers."""
        by_class: dict[str, list[bool]] = {}
        for label, right in self.right:
            by_class.setdefault(label, []).append(right)
        return float(np.mean([np.mean(one) for one in by_class.values()]))

    @property
    def cam_agreement(self) -> float | None:
        """Mean correlation with the first form's maps; None without maps."""
        return float(np.mean(self.agreement)) if self.agreement else None

    @property
    def peaks_kept(self) -> float | None:
        """Share of maps whose largest value lies in the same cell as the first form's; None without maps."""
        return float(np.mean(self.same_peak)) if self.same_peak else None

    @property
    def decisions_kept(self) -> float | None:
        """Share of micrographs that are decided as by the first form; None where the bundle has no limits."""
        return float(np.mean(self.same_decision)) if self.same_decision else None


@dataclass(frozen=True, slots=True)
class _Told:
    """What one form says of a micrograph."""

    answer: Answer | Prediction
    decision: Decision


def measure(
    forms: Mapping[str, Bundle],
    dataset: DataSet,
    sources: Sequence[Source],
    progress: Callable[[str, int, int], None],
) -> dict[str, Tally]:
    """Ask every form, by name, about every micrograph.

    Raises:
        OptimiseError: none of the micrographs can be read.

    """
    first = next(iter(forms))
    bundle = forms[first]
    without_map = bundle.manifest.tensors.cam is None
    asked = {name: Classifier(form, without_map=without_map) for name, form in forms.items()}
    tallies = {name: Tally() for name in forms}
    times = math.ceil(_FEWEST_TIMES / len(sources))
    for index, (source, micrograph) in enumerate(readable(dataset, sources)):
        progress("measured", index, len(sources))
        if isinstance(micrograph, str):
            continue
        tiles = _tiles_of(bundle, micrograph, source)
        for name, milliseconds in _timed(asked, tiles.tiles[0].values[None], times, index):
            tallies[name].milliseconds.append(milliseconds)
        _ask(asked, tallies, tiles, source, micrograph)
    progress("measured", len(sources), len(sources))
    if not tallies[first].right:
        raise OptimiseError(f"{dataset.raw}: none of the {len(sources)} micrographs can be read any more")
    return tallies


def _timed(
    asked: dict[str, Classifier], inputs: NDArray[np.float32], times: int, turn: int
) -> Iterator[tuple[str, float]]:
    """Form and milliseconds for one input; another form begins each time."""
    names = list(asked)
    for round_ in range(times):
        first = (turn + round_) % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            asked[name].infer(inputs)
            yield name, 1000 * (time.perf_counter() - started)


def _ask(
    asked: dict[str, Classifier],
    tallies: dict[str, Tally],
    tiles: Tiles,
    source: Source,
    micrograph: Micrograph,
) -> None:
    expected: _Told | None = None
    for name, classifier in asked.items():
        manifest = classifier.bundle.manifest
        answer = _answered(classifier, tiles, expected.answer.label if expected is not None else None)
        seen = _Told(answer, decide(answer, micrograph, manifest))
        expected = expected or seen
        _count(tallies[name], expected.answer, seen.answer, source.label)
        if manifest.thresholds is not None:
            tallies[name].same_decision.append(seen.decision.decision == expected.decision.decision)


def _answered(classifier: Classifier, tiles: Tiles, map_of: str | None) -> Answer | Prediction:
    """With the map of `map_of`, by default of the winner; without one where the graph computes none."""
    if classifier.bundle.manifest.tensors.cam is None:
        return classifier.answer_tiles(tiles)
    height, width = (max(tile.box_px[side] for tile in tiles.tiles) for side in (3, 2))
    seen = classifier.classify_tiles(tiles, (height, width))
    if map_of in (None, seen.label):
        return seen
    return classifier.classify_tiles(tiles, (height, width), map_of=map_of)


def _count(tally: Tally, expected: Answer | Prediction, seen: Answer | Prediction, label: str) -> None:
    tally.right.append((label, seen.label == label))
    apart = float(np.abs(np.subtract(seen.probabilities, expected.probabilities)).max())
    tally.probabilities_apart = max(tally.probabilities_apart, apart)
    if seen.novelty is not None and expected.novelty is not None:
        apart = abs(seen.novelty - expected.novelty) / max(expected.novelty, _SMALLEST_NOVELTY)
        tally.novelty_apart = max(tally.novelty_apart or 0.0, apart)
    _count_map(tally, expected, seen)


def _count_map(tally: Tally, expected: Answer | Prediction, seen: Answer | Prediction) -> None:
    maps = [getattr(answer, "cam", None) for answer in (expected, seen)]
    if None in maps:
        return
    before, after = (one.values for one in maps if one is not None)
    tally.agreement.append(agreement(before, after))
    tally.same_peak.append(int(before.argmax()) == int(after.argmax()))
    apart = float(np.abs(after - before).max())
    tally.cam_apart = max(tally.cam_apart, apart)
    tally.cam_apart_of_peak = max(tally.cam_apart_of_peak, apart / max(1.0, float(np.abs(before).max())))


def agreement(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Pearson's correlation of two maps of one shape; two without any structure agree, one without does not."""
    flat = [
        float(np.ptp(values)) <= 1e-6 * max(1.0, float(np.abs(values).max())) for values in (before, after)
    ]
    if any(flat):
        return float(all(flat))
    return float(np.corrcoef(before.ravel(), after.ravel())[0, 1])


def _tiles_of(bundle: Bundle, micrograph: Micrograph, source: Source) -> Tiles:
    every = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, bundle.manifest.preprocessing)
    if source.box_px is None:
        return every
    chosen = Tiles(tuple(tile for tile in every.tiles if tile.box_px == source.box_px), every.field)
    if not chosen.tiles:
        raise OptimiseError(
            f"{source.file}: the bundle's tile plan has no box {source.box_px}; the data set was prepared with "
            "another one"
        )
    return chosen
