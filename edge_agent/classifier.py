"""A verified bundle -> answers: label, probabilities and the class activation map of a micrograph.

Only this module knows ONNX Runtime. One thread and no spinning by default: the PC it runs on is acquiring.
Nothing is reported to anybody: ONNX Runtime's telemetry is switched off before it is loaded.
"""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

# Seen with 1.32 on Linux: ten seconds after a model is loaded it looks up Microsoft's collector and keeps a
# database below ~/.cache; `disable_telemetry_events` does not stop that, this variable does.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from edge_agent.model_bundle import GOLDEN, Bundle, BundleRefused
from edge_agent.preprocessing import Box, CamMap, FieldStatistics, Tiles, compose_cam, cut_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.micrograph import Micrograph


@dataclass(frozen=True, slots=True)
class TilePrediction:
    """The answer for one box, averaged over its views; probabilities in the order of the labels."""

    box_px: Box
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The network's answer for a whole micrograph; probabilities in the order of `labels`."""

    label: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    novelty: float | None
    tiles: tuple[TilePrediction, ...]
    cam: CamMap
    field: FieldStatistics
    preprocess_ms: float
    infer_ms: float

    @property
    def probability(self) -> float:
        """Probability of the label."""
        return self.probabilities[self.labels.index(self.label)]


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of the golden replay: largest absolute differences from what was exported."""

    cases: int
    probabilities: float
    cam: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether this PC computes what the exporting PC computed."""
        return self.cases > 0 and max(self.probabilities, self.cam) <= self.tolerance


class Classifier:
    """An open ONNX Runtime session of one bundle. Not for use from several threads at once."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Open the session and warm it up.

        Raises:
            BundleRefused: ONNX Runtime cannot load or run the model.
        """
        self.bundle = bundle
        self._names = bundle.manifest.tensors
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # Left to itself it would also take its own format, which nobody has looked into.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Inputs change their shape with the micrograph's proportions: a plan for each shape would be kept for ever.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(
                bundle.model_bytes, options, providers=["CPUExecutionProvider"]
            )
            side = bundle.manifest.preprocessing.input_px
            answers = self.infer(np.zeros((1, 1, side, side), dtype=np.float32))
        except BundleRefused:
            raise
        except Exception as error:  # ONNX Runtime raises its own classes, one for each status code
            raise BundleRefused(f"{bundle.path}: ONNX Runtime cannot use the model ({error})") from error
        self._require_shapes(*answers)

    def infer(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the graph on [n, 1, rows, columns]; gives probabilities [n, labels] and cam [n, labels, h, w].

        Raises:
            BundleRefused: an answer is not finite.
        """
        names = [self._names.probabilities.name, self._names.cam.name]
        probabilities, cam = self._session.run(names, {self._names.input.name: inputs})
        if not (np.isfinite(probabilities).all() and np.isfinite(cam).all()):
            raise BundleRefused(
                f"{self.bundle.path}: the model's answers are not finite numbers; use another bundle"
            )
        return probabilities, cam

    def _require_shapes(self, probabilities: NDArray[np.float32], cam: NDArray[np.float32]) -> None:
        labels = len(self.bundle.manifest.labels)
        if probabilities.shape != (1, labels) or cam.ndim != 4 or cam.shape[:2] != (1, labels):
            raise BundleRefused(
                f"{self.bundle.path}: the model gives probabilities {probabilities.shape} and a cam {cam.shape} "
                f"for one input, the manifest names {labels} labels; use a bundle made by edge-trainer export"
            )

    def classify(self, micrograph: Micrograph) -> Prediction:
        """Classify a micrograph as the manifest's preprocessing demands.

        Raises:
            BundleRefused: the model's answers are not finite.
        """
        manifest = self.bundle.manifest
        started = time.perf_counter()
        tiles = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, manifest.preprocessing)
        cut = time.perf_counter()
        probabilities, maps = self._infer_tiles(tiles)
        mean = probabilities.mean(axis=0)
        winner = int(mean.argmax())
        shape = (int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1]))
        box, values = compose_cam(tiles.tiles, [cam[winner] for cam in maps], shape)
        label, rule = manifest.labels[winner], manifest.preprocessing
        done = time.perf_counter()
        return Prediction(
            label=label,
            labels=manifest.labels,
            probabilities=tuple(float(value) for value in mean),
            novelty=None,
            tiles=_by_box(tiles, probabilities),
            cam=CamMap(label, manifest.cam.method, box, values, rule.cam_composition),
            field=tiles.field,
            preprocess_ms=1000 * (cut - started),
            infer_ms=1000 * (done - cut),
        )

    def _infer_tiles(self, tiles: Tiles) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        # One by one: on one thread four inputs of 448 px at once took 1.7 times as long and 110 MB more.
        answers = [self.infer(tile.values[None]) for tile in tiles.tiles]
        return np.concatenate([probabilities for probabilities, _ in answers]), [cam[0] for _, cam in answers]

    def replay_golden(self) -> Replay:
        """Compute the bundle's golden cases on this PC and compare.

        Raises:
            BundleRefused: the golden file cannot be read or does not fit the model.
        """
        golden, file = self.bundle.manifest.golden, self.bundle.path / GOLDEN
        worst_probability = worst_cam = 0.0
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
                for case in range(golden.cases):
                    probabilities, cam = self.infer(stored[f"input_{case}"].astype(np.float32))
                    worst_probability = max(
                        worst_probability, _apart(probabilities, stored[f"probabilities_{case}"])
                    )
                    worst_cam = max(worst_cam, _apart(cam, stored[f"cam_{case}"]))
        except Exception as error:  # what a damaged archive or an unfit input raises is nobody's contract
            raise BundleRefused(f"{file}: the golden cases cannot be replayed ({error})") from error
        return Replay(golden.cases, worst_probability, worst_cam, golden.tolerance)


def _apart(seen: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if seen.shape != expected.shape:
        raise ValueError(f"an output has shape {seen.shape}, the golden file {expected.shape}")
    worst = float(np.abs(seen - expected).max())
    return worst if np.isfinite(worst) else float("inf")


def _by_box(tiles: Tiles, probabilities: NDArray[np.float32]) -> tuple[TilePrediction, ...]:
    rows: dict[Box, list[NDArray[np.float32]]] = {}
    for tile, row in zip(tiles.tiles, probabilities, strict=True):
        rows.setdefault(tile.box_px, []).append(row)
    return tuple(
        TilePrediction(box, tuple(float(value) for value in np.mean(same, axis=0)))
        for box, same in rows.items()
    )
