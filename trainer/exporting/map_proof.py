"""Proof that a graph's map is what it claims to be, from the graph alone: no training framework, no gradient.

The mean of an exact map is its logit. The others claim derivatives, and those can be measured: the sum of a map
over some of its cells is the derivative of the logit along the features of these cells (HiResCAM), or along their
sum spread over all places (Grad-CAM); running the head on slightly more and slightly less of that gives it. A
transposed weight, a lost factor or a wrong mask cannot hide there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_head import CAM, CAM_EVERY_CLASS, INPUT, PROBABILITIES
from trainer.exporting.head_part import HeadPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.exporting.cam_graph import MappedGraph
    from trainer.exporting.head_walk import Head

PROOF_TOLERANCE: Final = 0.02
"""Finite steps cross kinks of rectifiers: trained ones were seen at up to 3e-4, random ones at 7e-3."""
_STEPS: Final = (1e-2, 1e-3, 1e-4)
"""Large ones cross kinks, small ones drown in rounding: the best of them counts. A wrong map fails at each."""
_NOTHING: Final = 1e-3
"""Maps smaller than this many logits are rounding."""


def map_gap(mapped: MappedGraph, pictures: Sequence[NDArray[np.float32]]) -> float:
    """How far maps are from what they must be: probabilities (exact maps), or relative to the map's own size.

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
        if part is None or mapped.head is None:
            worst = max(worst, _logit_gap(maps.mean(axis=(2, 3), dtype=np.float64)[0], probabilities[0]))
        else:
            worst = max(worst, _slope_gap(part, features[0], mapped.head, mapped.method, maps[0]))
    return worst


def _logit_gap(means: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """Logits are known up to a constant from the probabilities that they give."""
    raised = np.exp(means - means.max())
    return float(np.abs(raised / raised.sum() - probabilities).max())


def _slope_gap(
    part: HeadPart, features: NDArray[np.float32], head: Head, method: str, maps: NDArray[np.float32]
) -> float:
    """Compare the upper half's mean with a central difference, relative to the size of what it holds.

    The whole map would hide errors where a head does not care for the features' size. Half of it in one piece:
    equal values in one pooling window stay equal.
    """
    chosen = np.zeros(maps.shape[1:], dtype=bool)
    chosen[: max(1, maps.shape[1] // 2)] = True
    claimed = (maps * chosen).mean(axis=(1, 2), dtype=np.float64)
    size = float((np.abs(maps) * chosen).mean(axis=(1, 2), dtype=np.float64).max())
    places = (2, 3) if head.layout == "NCHW" else (1, 2)
    along = features * (chosen if head.layout == "NCHW" else chosen[:, :, None])
    if method == "gradcam":
        along = along.mean(axis=places, keepdims=True)
    gaps = []
    for step in _STEPS:
        more, less = (part((features + sign * step * along).astype(np.float32))[0][0] for sign in (1, -1))
        measured = (more.astype(np.float64) - less) / (2 * step)
        gaps.append(float(np.abs(claimed - measured).max() / max(size, _NOTHING)))
    return min(gaps)
