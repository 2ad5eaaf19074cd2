"""Which maps a figure shows of a micrograph: by which method, and of which class.

Only this module knows where each method's map comes from: the bundle's own graph, the same graph with other nodes
for its map, or one pass for each place that is hidden.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.classifier import Classifier
from edge_agent.evidence import METHOD_NAMES, method_in_words
from trainer.scoring.occlusion import METHOD as OCCLUSION
from trainer.scoring.occlusion import occlude_every_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.classifier import Prediction
    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle

FigureMethod = Literal["bundle", "cam", "gradcam", "hirescam", "occlusion"]
EVERY: Final = "every"
ANSWERED: Final = "answered"


class ExplainError(Exception):
    """No figure can be made of this choice; the message says what was seen and what to do."""


@dataclass(frozen=True, slots=True)
class MapMaker:
    """Makes the maps of one figure, all by one method."""

    classifier: Classifier
    method: str
    map_of: str
    """A class, `answered`, or `every`."""
    forced: bool
    """Whether occlusion was taken because the bundle's graph has no map."""

    def predictions(
        self, micrograph: Micrograph, progress: Callable[[str, int, int], None]
    ) -> tuple[Prediction, ...]:
        """The answer with each map that is shown: one, or every class's in the order of the labels."""
        if self.method == OCCLUSION:
            every = occlude_every_class(self.classifier, micrograph, progress=progress)
            wanted = every[0].label if self.map_of == ANSWERED else self.map_of
            return every if self.map_of == EVERY else tuple(one for one in every if one.cam.label == wanted)
        if self.map_of == EVERY:
            return self.classifier.classify_every_class(micrograph)
        of = None if self.map_of == ANSWERED else self.map_of
        return (self.classifier.classify(micrograph, map_of=of),)


def map_maker(bundle: Bundle, method: FigureMethod, map_of: str | None) -> MapMaker:
    """Open a bundle for maps by this method: `bundle` is its own, or occlusion where its graph has none.

    `map_of` is a class, `every`, or None for the class answered.

    Raises:
        ExplainError: the bundle has no such map or no such class.

    """
    labels = bundle.manifest.labels
    if map_of not in (None, EVERY, *labels):
        raise ExplainError(
            f"{bundle.path}: knows no class {map_of!r}; it has {', '.join(labels)} (or {EVERY}, for all of them)"
        )
    own = bundle.manifest.cam.method
    wanted = own if method == "bundle" else method
    if wanted == OCCLUSION:
        # Hundreds of passes for each micrograph: nothing else waits for this PC's processor.
        classifier = Classifier(bundle, threads=os.cpu_count() or 1, without_map=True)
    else:
        classifier = Classifier(bundle if wanted == own else _by_method(bundle, wanted))
    forced = method == "bundle" and own == OCCLUSION
    return MapMaker(classifier, wanted, ANSWERED if map_of is None else map_of, forced)


def _by_method(bundle: Bundle, method: str) -> Bundle:
    from trainer.exporting.cam_graph import GraphError, by_method

    try:
        return by_method(bundle, method)  # type: ignore[arg-type]  # one of its methods: see FigureMethod
    except GraphError as error:
        raise ExplainError(
            f"{bundle.path}: has no map by {METHOD_NAMES[method]} ({error}); --method occlusion shows any network"
        ) from error


def method_sentence(method: str, settings: str, forced: bool) -> str:
    """What a map is, for a caption."""
    if method == OCCLUSION:
        because = "; the graph of this network computes no map" if forced else ""
        return (
            f"occlusion map: what the log-odds of the class lose where a place is hidden, {settings}{because}"
        )
    if method == "cam":
        return "class activation map (CAM) before the softmax"
    return f"{METHOD_NAMES[method]}, derived from the logit before the softmax"


def legend(maker: MapMaker) -> str:
    """What the colours stand for, to be written below them."""
    method = method_in_words(maker.method)
    if maker.map_of == EVERY:
        return (
            f"evidence for the class above each map ({method}), one scale a micrograph; line: half of it, "
            "for the answer"
        )
    whose = "the class answered" if maker.map_of == ANSWERED else maker.map_of
    return f"evidence for {whose} ({method}); the line, also drawn in the micrograph: half of the scale"
