"""Proof that a graph's map is what it claims to be, from the graph alone: no training framework, no gradient.

The mean of an exact map is its logit. The mean of the others is the derivative of the logit along the feature map
itself (HiResCAM) or along its mean over the places (Grad-CAM), and that derivative can be measured: by running the
head on slightly more and slightly less of it. A transposed weight, a lost factor or a wrong mask cannot hide there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_graph import HeadPart
from trainer.exporting.cam_head import CAM, CAM_EVERY_CLASS, INPUT, PROBABILITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.exporting.cam_graph import MappedGraph
    from trainer.exporting.head_walk import Head

PROOF_TOLERANCE: Final = 0.02
"""Finite steps cross kinks of rectifiers: sound graphs are a few parts in a thousand off, wrong ones far more."""
_STEP: Final = 1e-3


def map_gap(mapped: MappedGraph, pictures: Sequence[NDArray[np.float32]]) -> float:
    """How far the maps' means are from what they must be, relative to the largest of a picture's classes.

    `pictures` are inputs [1, 1, rows, columns]. The largest of all pictures is given.
    """
    import onnx

    every = CAM_EVERY_CLASS if mapped.winner_only else CAM
    asked = [PROBABILITIES, every] if mapped.head is None else [PROBABILITIES, every, mapped.tensor]
    probe = onnx.ModelProto()
    probe.CopyFrom(mapped.model)
    if mapped.head is not None:
        probe.graph.output.append(onnx.ValueInfoProto(name=mapped.tensor))
    session = onnx_session(probe.SerializeToString())
    del probe
    part = None if mapped.head is None else HeadPart(mapped.model, mapped.head, (mapped.head.logits,))
    worst = 0.0
    for picture in pictures:
        probabilities, maps, *features = session.run(asked, {INPUT: picture})
        means = maps.mean(axis=(2, 3), dtype=np.float64)[0]
        if part is None or mapped.head is None:
            worst = max(worst, _logit_gap(means, probabilities[0]))
        else:
            measured = _slope(part, features[0], mapped.head, mapped.method)
            worst = max(worst, _relative(means, measured))
    return worst


def _logit_gap(means: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """Logits are known up to a constant from the probabilities that they give."""
    raised = np.exp(means - means.max())
    return float(np.abs(raised / raised.sum() - probabilities).max())


def _slope(part: HeadPart, features: NDArray[np.float32], head: Head, method: str) -> NDArray[Any]:
    """Derivative of the logits along the features, or along their mean over the places, by a central difference."""
    places = (2, 3) if head.layout == "NCHW" else (1, 2)
    along = features if method == "hirescam" else features.mean(axis=places, keepdims=True)
    more, less = (part((features + sign * _STEP * along).astype(np.float32))[0] for sign in (1, -1))
    return np.asarray((more.astype(np.float64) - less)[0] / (2 * _STEP))


def _relative(seen: NDArray[Any], measured: NDArray[Any]) -> float:
    return float(np.abs(seen - measured).max() / max(1e-3, np.abs(measured).max()))
