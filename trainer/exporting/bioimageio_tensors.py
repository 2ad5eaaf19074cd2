"""The test tensors of a package for bioimage.io, and what they prove of the sizes that a network takes.

Counts are a golden case's picture as whole grey values; the answers are the graph's to them after the description's
own preprocessing, which is the manifest's contrast rule in bioimage.io's words. Only changing the size is left out
of that: the format has no operation for it.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.model_bundle import GOLDEN
from trainer.exporting.bundle_writer import onnx_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Bundle, Manifest

SMALLEST_SHARE: Final = 0.009
"""bioimage.io takes tolerances up to 1 % of an output's largest value."""
_WHITE: Final = 255.0
"""Counts of the test picture reach from 0 to this."""
_EPSILON: Final = 1e-6
_STRIDES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class PackageError(Exception):
    """A bundle cannot become a package for bioimage.io; the message says what was seen and what to do."""


@dataclass(frozen=True, slots=True)
class Tested:
    """Counts [1, 1, rows, columns] and the answers to them, by role in the order of the graph's outputs."""

    counts: NDArray[np.float32]
    answers: dict[str, NDArray[np.float32]]
    stride: int | None
    """Pixels of the input a map's cell; sizes that are multiples of it are taken. None: this size only."""
    least_px: int
    """The smallest of those sizes that was tried."""


def tested_on(bundle: Bundle) -> Tested:
    """The golden case with the strongest map, answered anew.

    Raises:
        PackageError: no case has a map that is not near zero, or the graph has an output nobody describes.

    """
    network = _Network(bundle)
    inputs = list(_golden_inputs(bundle))
    least = min(side for one in inputs for side in one.shape[2:])
    stride = network.stride(least)
    cases = []
    for one in inputs:
        rows, columns = (side // stride * stride if stride else side for side in one.shape[2:])
        counts = _counts(one[:, :, :rows, :columns], bundle.manifest)
        answers = network.answers(preprocessed(counts, bundle.manifest))
        cases.append((min(float(values.max()) for values in answers.values()), counts, answers))
    weakest, counts, answers = max(cases, key=lambda case: case[0])
    if weakest * SMALLEST_SHARE <= _EPSILON:
        raise PackageError(
            f"{bundle.path}: no golden case has a map with evidence for a class (at most {weakest:.1e}); "
            "bioimage.io wants a test output that is not near zero"
        )
    return Tested(counts, answers, stride, least // stride * stride if stride else least)


def preprocessing(manifest: Manifest) -> list[dict[str, Any]]:
    """The contrast rule and the value range as bioimage.io's operations; the contrast is the picture's own."""
    clipped, (low, high) = manifest.preprocessing.clipped_fraction, manifest.preprocessing.value_range
    percentiles = {"min_percentile": 100 * clipped, "max_percentile": 100 * (1 - clipped)}
    return [
        {"id": "scale_range", "kwargs": {"axes": ["channel", "y", "x"], **percentiles, "eps": _EPSILON}},
        {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}},
        {"id": "scale_linear", "kwargs": {"gain": high - low, "offset": low}},
    ]


def preprocessed(counts: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """What `preprocessing` says, for one picture."""
    clipped = manifest.preprocessing.clipped_fraction
    low, high = manifest.preprocessing.value_range
    black, white = np.quantile(counts, (clipped, 1 - clipped))
    grey = np.clip((counts - black) / (white - black + _EPSILON), 0, 1)
    return np.asarray(grey * (high - low) + low, dtype=np.float32)


class _Network:
    """The bundle's graph, asked for all its outputs as bioimage.io's tools do: by their place."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = onnx_session(bundle.model_bytes)
        self._input = bundle.manifest.tensors.input
        self._roles = _roles(bundle, [put.name for put in self._session.get_outputs()])

    def answers(self, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        found = self._session.run(None, {self._input.name: inputs})
        return dict(zip(self._roles, found, strict=True))

    def stride(self, least_px: int) -> int | None:
        """Pixels a cell, where three sizes in a row prove it: a multiple more is a cell more."""
        if self._input.shape[2] is not None:
            return None
        if "cam" not in self._roles:
            return 1
        for stride in _STRIDES:
            first = least_px // stride * stride
            if first and self._proven(first, stride):
                return stride
        return None

    def _proven(self, first: int, stride: int) -> bool:
        sizes = (first, first + stride, first + 2 * stride)
        inputs = (np.zeros((1, 1, size, size), dtype=np.float32) for size in sizes)
        try:
            cells = [self.answers(one)["cam"].shape[2:] for one in inputs]
        except Exception:  # ONNX Runtime raises its own classes, one for each status code
            return False
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(cells)]
        return steps == [(1, 1), (1, 1)]


def _roles(bundle: Bundle, outputs: list[str]) -> list[str]:
    tensors = bundle.manifest.tensors
    named = {
        "probabilities": tensors.probabilities,
        "cam": tensors.cam,
        "cam_every_class": tensors.cam_every_class,
        "novelty": tensors.novelty,
    }
    roles = {tensor.name: role for role, tensor in named.items() if tensor is not None}
    unknown = sorted(set(outputs) - set(roles))
    if unknown:
        raise PackageError(
            f"{bundle.path}: the graph has outputs that the manifest does not describe: {', '.join(unknown)}"
        )
    return [roles[name] for name in outputs]


def _golden_inputs(bundle: Bundle) -> Iterator[NDArray[np.float32]]:
    with np.load(io.BytesIO((bundle.path / GOLDEN).read_bytes()), allow_pickle=False) as stored:
        for case in range(bundle.manifest.golden.cases):
            yield stored[f"input_{case}"].astype(np.float32)


def _counts(inputs: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    low, high = manifest.preprocessing.value_range
    grey = (inputs - np.float32(low)) / np.float32(high - low)
    return np.asarray(np.rint(grey * np.float32(_WHITE)), dtype=np.float32)
