"""A verified bundle -> answers: label, probabilities and the class activation map of a micrograph.

Only this module knows ONNX Runtime. One thread and no spinning by default: the PC it runs on is acquiring.
Nothing is reported to anybody: ONNX Runtime's telemetry is switched off before it is loaded.
"""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

# Seen with 1.32 on Linux: ten seconds after a model is loaded it looks up Microsoft's collector and keeps a
# database below ~/.cache; `disable_telemetry_events` does not stop that, this variable does.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from edge_agent.answer import Answer, Outputs, Prediction, TilePrediction, answer_of, with_map
from edge_agent.field_look import look_at
from edge_agent.model_bundle import GOLDEN, Bundle, BundleRefused
from edge_agent.onnx_file import cut_to_outputs
from edge_agent.preprocessing import Box, CamMap, Tiles, compose_cam, cut_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edge_agent.micrograph import Micrograph

__all__ = [
    "Answer",
    "Classifier",
    "Outputs",
    "Prediction",
    "Replay",
    "TilePrediction",
    "answer_of",
    "prove",
    "with_map",
]


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of the golden replay: largest differences from what was exported.

    Those of the map and of the novelty are fractions of a case's largest value (of 1, where that is smaller).
    """

    cases: int
    probabilities: float
    cam: float
    tolerance: float
    novelty: float = 0.0

    @property
    def worst(self) -> float:
        """The largest of the differences."""
        return max(self.probabilities, self.cam, self.novelty)

    @property
    def passed(self) -> bool:
        """Whether this PC computes what the exporting PC computed."""
        return self.cases > 0 and self.worst <= self.tolerance


class Classifier:
    """An open bundle. Not for use from several threads at once.

    A graph that computes the maps of every class apart from the winner's is run cut to what is asked for, each
    form in an ONNX Runtime session of its own, opened when it is first needed.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, *, without_map: bool = False) -> None:
        """Open the session that the bundle's preprocessing needs, and warm it up.

        `without_map` opens bundles whose graph has no map, too, and computes none where it has: for `infer` and
        `answer` only.

        Raises:
            BundleRefused: the graph has no map, or ONNX Runtime cannot load or run the model.
        """
        self.bundle = bundle
        self.labels = bundle.manifest.labels
        self._names = bundle.manifest.tensors
        self._threads = threads
        self._without_map = without_map
        self._sessions: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}
        self._require_map()
        try:
            side = bundle.manifest.preprocessing.input_px
            first = np.zeros((1, 1, side, side), dtype=np.float32)
            answers = self.run(first, every_class=self._often_several())
        except BundleRefused:
            raise
        except Exception as error:  # ONNX Runtime raises its own classes, one for each status code
            said = " ".join(str(error).split())
            raise BundleRefused(f"{bundle.path}: ONNX Runtime cannot use the model ({said})") from error
        self._require_shapes(answers)

    def infer(
        self, inputs: NDArray[np.float32], every_class: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Run the graph on [n, 1, rows, columns]; gives probabilities [n, labels] and the maps, as `run` does.

        The maps are [n, labels, h, w], or [n, 1, h, w] (each of the class that its input was given) where the
        graph computes those apart and `every_class` does not ask for all; None for a classifier without map.

        Raises:
            BundleRefused: an answer is not finite.
        """
        return self.run(inputs, every_class)[:2]

    def run(self, inputs: NDArray[np.float32], every_class: bool = False) -> Outputs:
        """`infer` with the novelty of each input beside."""
        names, session = self._session(every_class)
        # A graph that states its batch takes one input at a time.
        step = self._names.input.shape[0] or len(inputs)
        answers = [
            session.run(names, {self._names.input.name: inputs[at : at + step]})
            for at in range(0, len(inputs), step)
        ]
        found = (
            answers[0]
            if len(answers) == 1
            else [np.concatenate(parts) for parts in zip(*answers, strict=True)]
        )
        if not all(np.isfinite(values).all() for values in found):
            raise BundleRefused(
                f"{self.bundle.path}: the model's answers are not finite numbers; use another bundle"
            )
        by_name = dict(zip(names, found, strict=True))
        novelty = by_name.pop(self._names.novelty.name, None) if self._names.novelty else None
        cam = found[-1] if len(by_name) > 1 else None
        return Outputs(found[0], cam, None if novelty is None else novelty.reshape(len(inputs)))

    def _session(self, every_class: bool) -> tuple[tuple[str, ...], onnxruntime.InferenceSession]:
        """The outputs to ask for (probabilities, novelty and map, where there are such), and who gives them."""
        names = self._names
        cam = names.cam_every_class if every_class and names.cam_every_class else names.cam
        given = (names.probabilities, names.novelty, None if self._without_map else cam)
        wanted = tuple(tensor.name for tensor in given if tensor is not None)
        session = self._sessions.get(wanted)
        if session is None:
            model = self.bundle.model_bytes
            if len(wanted) < len(names.outputs):
                model = cut_to_outputs(model, wanted)
            session = self._sessions[wanted] = _opened(model, self._threads)
        return wanted, session

    def _often_several(self) -> bool:
        """Whether most micrographs become several inputs: their mean may be of a class that no input was given."""
        rule = self.bundle.manifest.preprocessing
        several = rule.tiles.divisions > 1 or rule.tiles.field_of_view_nm is not None
        return several or len(rule.views) > 1

    def _require_map(self) -> None:
        if self._names.cam is None and not self._without_map:
            method = self.bundle.manifest.cam.method
            raise BundleRefused(
                f"{self.bundle.path}: has no class activation map in its graph (method {method}): the agent needs "
                "one; look at it with edge-trainer explain"
            )

    def _require_shapes(self, answers: Outputs) -> None:
        probabilities, cam, _ = answers
        labels = len(self.labels)
        one_class = self._names.cam_every_class is not None and not self._often_several()
        fits = cam is None or (cam.ndim == 4 and cam.shape[:2] == (1, 1 if one_class else labels))
        if probabilities.shape != (1, labels) or not fits:
            shape = "" if cam is None else f" and a cam {cam.shape}"
            raise BundleRefused(
                f"{self.bundle.path}: the model gives probabilities {probabilities.shape}{shape} "
                f"for one input, the manifest names {labels} labels; use a bundle made by edge-trainer export"
            )

    def answer(self, micrograph: Micrograph) -> Answer:
        """What the network says of a micrograph, without a map.

        Raises:
            BundleRefused: the model's answers are not finite.
        """
        started = time.perf_counter()
        tiles = self._cut(micrograph)
        cut = time.perf_counter()
        answer = self.answer_tiles(tiles)
        done = time.perf_counter()
        return replace(answer, preprocess_ms=1000 * (cut - started), infer_ms=1000 * (done - cut))

    def answer_tiles(self, tiles: Tiles) -> Answer:
        """The same for inputs that are cut already; times are 0. Raises BundleRefused as `answer` does."""
        return self._answer(tiles, [self.run(tile.values[None]) for tile in tiles.tiles])

    def classify(self, micrograph: Micrograph, *, map_of: str | None = None) -> Prediction:
        """Classify a micrograph as the manifest's preprocessing demands; its map is the winner's, or `map_of`'s.

        Raises:
            BundleRefused: the model's answers are not finite.
            ValueError: there is no such class.
        """
        started = time.perf_counter()
        tiles = self._cut(micrograph)
        cut = time.perf_counter()
        prediction = self.classify_tiles(tiles, _shape(micrograph), map_of=map_of)
        done = time.perf_counter()
        return replace(prediction, preprocess_ms=1000 * (cut - started), infer_ms=1000 * (done - cut))

    def classify_tiles(
        self, tiles: Tiles, shape_px: tuple[int, int], *, map_of: str | None = None
    ) -> Prediction:
        """The same for inputs that are cut already from a micrograph of `shape_px` (rows, columns); times are 0."""
        return self._predictions(tiles, shape_px, (None if map_of is None else self.place_of(map_of),))[0]

    def classify_every_class(self, micrograph: Micrograph) -> tuple[Prediction, ...]:
        """The answer with the map of each class in turn, in the order of the labels; times are 0."""
        return self._predictions(self._cut(micrograph), _shape(micrograph), range(len(self.labels)))

    def place_of(self, label: str) -> int:
        """Place of a class among the labels. Raises ValueError where there is no such class."""
        if label not in self.labels:
            raise ValueError(f"{self.bundle.path}: knows no class {label!r}; it has {', '.join(self.labels)}")
        return self.labels.index(label)

    def _cut(self, micrograph: Micrograph) -> Tiles:
        return cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, self.bundle.manifest.preprocessing)

    def _predictions(
        self, tiles: Tiles, shape_px: tuple[int, int], classes: Sequence[int | None]
    ) -> tuple[Prediction, ...]:
        """One for each class whose map is wanted, None for the winner's."""
        every_class = len(tiles.tiles) > 1 or self._often_several() or tuple(classes) != (None,)
        # One by one: on one thread four inputs of 448 px at once took 1.7 times as long and 110 MB more.
        answers = [self.run(tile.values[None], every_class) for tile in tiles.tiles]
        answer = self._answer(tiles, answers)
        found = []
        for wanted in classes:
            place = self.labels.index(answer.label) if wanted is None else wanted
            cams = [one.cam for one in answers if one.cam is not None]
            maps = [cam[0, place if cam.shape[1] > 1 else 0] for cam in cams]
            if not maps:
                raise BundleRefused(f"{self.bundle.path}: opened without a map; nothing to classify with")
            box, values = compose_cam(tiles.tiles, maps, shape_px)
            found.append(self._with_map(answer, place, box, values))
        return tuple(found)

    def _answer(self, tiles: Tiles, answers: Sequence[Outputs]) -> Answer:
        novelties = [one.novelty for one in answers if one.novelty is not None]
        outputs = Outputs(
            np.concatenate([one.probabilities for one in answers]),
            None,
            np.concatenate(novelties) if novelties else None,
        )
        boxes = tuple(tile.box_px for tile in tiles.tiles)
        look = look_at(tiles, self.bundle.manifest.preprocessing.value_range)
        return answer_of(self.labels, boxes, outputs, tiles.field, look)

    def _with_map(self, answer: Answer, place: int, box_px: Box, values: NDArray[np.float32]) -> Prediction:
        manifest = self.bundle.manifest
        composition = manifest.preprocessing.cam_composition
        return with_map(answer, CamMap(self.labels[place], manifest.cam.method, box_px, values, composition))

    def replay_golden(self) -> Replay:
        """Compute the bundle's golden cases on this PC and compare.

        Raises:
            BundleRefused: the golden file cannot be read or does not fit the model.
        """
        golden, file = self.bundle.manifest.golden, self.bundle.path / GOLDEN
        worst_probability = worst_cam = worst_novelty = 0.0
        try:
            with np.load(io.BytesIO(self.bundle.golden_bytes), allow_pickle=False) as stored:
                for case in range(golden.cases):
                    inputs = stored[f"input_{case}"].astype(np.float32)
                    probabilities, cam, novelty = self.run(inputs)
                    worst_probability = max(
                        worst_probability, _apart(probabilities, stored[f"probabilities_{case}"])
                    )
                    if self._names.novelty is not None:
                        worst_novelty = max(worst_novelty, _apart_of_peak(novelty, stored[f"novelty_{case}"]))
                    if cam is None:
                        continue
                    worst_cam = max(worst_cam, _apart_of_peak(cam, stored[f"cam_{case}"]))
                    if f"cam_every_class_{case}" in stored:
                        every = self.infer(inputs, every_class=True)[1]
                        worst_cam = max(worst_cam, _apart_of_peak(every, stored[f"cam_every_class_{case}"]))
        except MemoryError:
            raise
        except Exception as error:  # what a damaged archive or an unfit input raises is nobody's contract
            raise BundleRefused(f"{file}: the golden cases cannot be replayed ({error})") from error
        return Replay(golden.cases, worst_probability, worst_cam, golden.tolerance, worst_novelty)


def prove(classifier: Classifier) -> Replay:
    """Replay the golden cases, and refuse a model that this PC does not compute as it was exported.

    Raises:
        BundleRefused: out of tolerance, or the golden file does not fit the model.
    """
    replay = classifier.replay_golden()
    if not replay.passed:
        seen = (
            f"is off by {replay.worst:.1e}, {replay.tolerance:.0e} allowed"
            if replay.cases
            else "has no cases"
        )
        raise BundleRefused(
            f"{classifier.bundle.path}: the golden replay {seen}; this PC does not compute what was exported"
        )
    return replay


def _opened(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # Left to itself it would also take its own format, which nobody has looked into.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Inputs change their shape with the micrograph's proportions: a plan for each shape would be kept for ever.
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _shape(micrograph: Micrograph) -> tuple[int, int]:
    return int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1])


def _apart(seen: NDArray[np.float32] | None, expected: NDArray[np.float32]) -> float:
    shape = None if seen is None else seen.shape
    if seen is None or shape != expected.shape:
        raise ValueError(f"an output has shape {shape}, the golden file {expected.shape}")
    worst = float(np.abs(seen - expected).max())
    return worst if np.isfinite(worst) else float("inf")


def _apart_of_peak(seen: NDArray[np.float32] | None, expected: NDArray[np.float32]) -> float:
    """Evidence has no bound, and rounding grows with it: a fraction of its largest value, at the least of 1."""
    return _apart(seen, expected) / max(1.0, float(np.abs(expected).max()))
