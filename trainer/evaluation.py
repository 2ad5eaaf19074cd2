"""A bundle on held-out micrographs, through the agent's own reader, preprocessing, classifier and decision.

What is scored is what runs on the microscope PC: source micrographs are opened, not cached crops. Intervals come
from resampling groups (sample, session, article), because micrographs of one group are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from edge_agent.classifier import Classifier
from edge_agent.decision import decide
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.model_bundle import Bundle, open_bundle
from trainer.bundle_writer import add_file
from trainer.split import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.classifier import Prediction
    from edge_agent.micrograph import Micrograph
    from edge_agent.preprocessing import CamMap
    from trainer.crops import Crop, DataSet

EVALUATION: Final = "evaluation.json"
BOOTSTRAP_ROUNDS: Final = 2000


class EvaluationError(Exception):
    """A bundle cannot be evaluated on this data; the message says what was seen."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scored(_Part):
    """The answer for one micrograph. `peak_on_particle` and `energy_on_particles` need masks."""

    file: str
    group: str
    label: str
    predicted: str
    probability: float
    decision: str
    peak_on_particle: bool | None = None
    energy_on_particles: float | None = None
    chance: float | None = None
    particle_share: float | None = None


class ClassFigures(_Part):
    """Figures of one class; None where nothing was predicted or present."""

    micrographs: int
    precision: float | None
    recall: float | None
    f1: float | None


class CamFigures(_Part):
    """Whether the map points at what a person masked, over correctly classified micrographs."""

    micrographs: int
    peak_on_particle: float
    chance: float
    """Share of positions that would count as a hit: the masks dilated by half a cell."""
    energy_on_particles: float
    particle_share: float


class Figures(_Part):
    """The figures of a set of scored micrographs."""

    micrographs: int
    groups: int
    accuracy: float
    balanced_accuracy: float
    balanced_accuracy_interval: tuple[float, float]
    """2.5 and 97.5 percent of bootstrap samples drawn by group."""
    classes: dict[str, ClassFigures]
    confusion: tuple[tuple[int, ...], ...]
    """Rows are the true classes, columns the answers, both in the order of the labels."""
    decisions: dict[str, int]
    cam: CamFigures | None = None


class CrossValidation(_Part):
    """Grouped folds: every micrograph scored by a network that saw none of its group."""

    folds: int
    seed: int
    dataset_fingerprint: str
    balanced_accuracy_mean: float
    balanced_accuracy_standard_deviation: float
    balanced_accuracy_standard_error: float
    by_fold: tuple[float, ...]
    pooled: Figures
    recipe: dict[str, object]
    unreadable: dict[str, str] = Field(default_factory=dict)
    """Micrographs that no network was asked about, by file, with the reason."""


class Evaluation(_Part):
    """The file `evaluation.json` of a bundle."""

    schema_: Literal["scopewatch.evaluation/1"] = Field(default="scopewatch.evaluation/1", alias="schema")
    bundle: str
    model_sha256: str
    dataset_fingerprint: str
    part: str
    made: datetime
    labels: tuple[str, ...]
    figures: Figures
    warnings: tuple[str, ...]
    unreadable: dict[str, str]
    predictions: tuple[Scored, ...]
    cross_validation: CrossValidation | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Source:
    """A micrograph to be scored."""

    file: str
    label: str
    group: str
    sha256: str | None
    """Of the file when the data set was prepared; None where it is not known."""


def evaluate(
    bundle_path: Path,
    dataset: DataSet,
    part: Literal["train", "validation", "test"],
    *,
    masks: Path | None = None,
    cross_validation: CrossValidation | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Evaluation:
    """Score a bundle on one part of a data set and put `evaluation.json` into the bundle.

    `masks` is a folder of instance masks (0 = ground) of the micrographs' size, each called like its source but
    `.png`, in class folders or not. `seed` draws the bootstrap samples.

    Raises:
        EvaluationError: the part is empty, its classes are not the bundle's, or a mask does not fit.

    """
    bundle = open_bundle(bundle_path)
    sources = sources_of(dataset.part(part))
    if not sources:
        raise EvaluationError(f"{dataset.root}: no micrograph in the part {part}; prepare with another split")
    scored, unreadable = score(bundle, dataset, sources, masks, progress)
    evaluation = Evaluation(
        bundle=f"{bundle.manifest.name}-{bundle.manifest.version}",
        model_sha256=bundle.sha256,
        dataset_fingerprint=dataset.fingerprint,
        part=part,
        made=datetime.now(UTC).replace(microsecond=0),
        labels=bundle.manifest.labels,
        figures=figures(scored, bundle.manifest.labels, seed),
        warnings=_warnings(bundle, dataset, part, cross_validation),
        unreadable=unreadable,
        predictions=scored,
        cross_validation=cross_validation,
    )
    text = evaluation.model_dump_json(indent=1, by_alias=True) + "\n"
    add_file(bundle_path, EVALUATION, text.encode())
    return evaluation


def sources_of(crops: Sequence[Crop]) -> tuple[Source, ...]:
    """The source micrographs of some crops, each once, in the crops' order."""
    found = {crop.source: Source(crop.source, crop.label, crop.group, crop.sha256) for crop in crops}
    return tuple(found.values())


def score(
    bundle: Bundle,
    dataset: DataSet,
    sources: Sequence[Source],
    masks: Path | None,
    progress: Callable[[str, int, int], None],
) -> tuple[tuple[Scored, ...], dict[str, str]]:
    """Classify source micrographs as the agent does; the second value says which could not be read, and why."""
    unknown = sorted({source.label for source in sources} - set(bundle.manifest.labels))
    if unknown:
        raise EvaluationError(
            f"{bundle.path}: does not know the classes {', '.join(unknown)} of {dataset.root}"
        )
    classifier = Classifier(bundle)
    scored, unreadable = [], {}
    for index, source in enumerate(sources):
        progress("classified", index, len(sources))
        try:
            micrograph = _read(dataset.raw / source.file, source)
        except (UnusableFile, OSError) as error:
            unreadable[source.file] = str(error)
            continue
        prediction = classifier.classify(micrograph)
        decision = decide(prediction, bundle.manifest).decision
        scored.append(_scored(source, prediction, decision, _mask(source, masks, micrograph.pixels.shape)))
    progress("classified", len(sources), len(sources))
    if not scored:
        raise EvaluationError(f"{dataset.raw}: none of the {len(sources)} micrographs can be read any more")
    return tuple(scored), unreadable


def _read(path: Path, source: Source) -> Micrograph:
    micrograph = read_micrograph(path)
    if None not in (source.sha256, micrograph.source.sha256) and source.sha256 != micrograph.source.sha256:
        raise UnusableFile("was changed since edge-trainer prepare; run that again", path)
    return micrograph


def _scored(source: Source, prediction: Prediction, decision: str, mask: NDArray[np.bool_] | None) -> Scored:
    entry = Scored(
        file=source.file,
        group=source.group,
        label=source.label,
        predicted=prediction.label,
        probability=round(prediction.probability, 4),
        decision=decision,
    )
    if mask is None:
        return entry
    seen = pointing(prediction.cam, mask)
    return entry.model_copy(
        update={
            "peak_on_particle": seen.hit,
            "chance": round(seen.chance, 4),
            "energy_on_particles": round(seen.energy, 4),
            "particle_share": round(seen.particle_share, 4),
        }
    )


def _mask(source: Source, masks: Path | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if masks is None:
        return None
    relative = PurePosixPath(source.file).with_suffix(".png")
    file = next((masks / name for name in (relative, relative.name) if (masks / name).is_file()), None)
    if file is None:
        return None
    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except OSError as error:
        raise EvaluationError(f"{file}: the mask cannot be read ({error}); repair or remove it") from error
    if values.shape != shape:
        raise EvaluationError(
            f"{file}: the mask has shape {values.shape}, the micrograph {source.file} has {shape}; "
            "a mask is one grey picture of the micrograph's size"
        )
    return np.asarray(values > 0)


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where a map points, against a mask of what should matter."""

    hit: bool
    """The peak's cell holds a masked pixel, i.e. the peak lies on the mask dilated by half a cell."""
    chance: float
    """Share of cells that would be hits."""
    energy: float
    """Share of the positive evidence, spread evenly over its cells, that falls on masked pixels."""
    particle_share: float
    """Share of masked pixels: the energy of a flat map."""


def pointing(cam: CamMap, mask: NDArray[np.bool_]) -> Pointing:
    """The pointing game (Zhang et al., ECCV 2016) and the share of evidence on the mask."""
    cells = _cell_shares(cam, mask)
    peak = np.unravel_index(int(cam.values.argmax()), cam.values.shape)
    positive = np.maximum(cam.values, 0)
    total = float(positive.sum())
    energy = float((positive * cells).sum() / total) if total > 0 else float(cells.mean())
    return Pointing(bool(cells[peak] > 0), float((cells > 0).mean()), energy, float(cells.mean()))


def _cell_shares(cam: CamMap, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of masked pixels in each cell of the map."""
    x0, y0, x1, y1 = cam.box_px
    part = mask[y0:y1, x0:x1]
    rows, columns = cam.values.shape
    down, across = _spans(part.shape[0], rows), _spans(part.shape[1], columns)
    return np.array([[part[down_one, across_one].mean() for across_one in across] for down_one in down])


def _spans(length: int, cells: int) -> list[slice]:
    """Divide an axis into cells of at least a pixel each (a small picture may have more cells than pixels)."""
    edges = np.linspace(0, length, cells + 1).round().astype(int)
    starts = np.minimum(edges[:-1], length - 1)
    return [
        slice(int(start), max(int(start) + 1, int(end))) for start, end in zip(starts, edges[1:], strict=True)
    ]


def figures(scored: Sequence[Scored], labels: Sequence[str], seed: int) -> Figures:
    """Per-class figures, confusion, class-balanced accuracy with its interval, CAM figures."""
    true = np.array([labels.index(entry.label) for entry in scored])
    answer = np.array([labels.index(entry.predicted) for entry in scored])
    groups = np.array([entry.group for entry in scored])
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (true, answer), 1)
    decisions = [entry.decision for entry in scored]
    return Figures(
        micrographs=len(scored),
        groups=len(set(groups.tolist())),
        accuracy=round(float((true == answer).mean()), 4),
        balanced_accuracy=round(balanced_accuracy(true, answer), 4),
        balanced_accuracy_interval=_interval(true, answer, groups, seed),
        classes={label: _class_figures(confusion, index) for index, label in enumerate(labels)},
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        decisions={name: decisions.count(name) for name in sorted(set(decisions))},
        cam=_cam_figures(scored),
    )


def balanced_accuracy(true: NDArray[np.intp], answer: NDArray[np.intp]) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([(answer[true == label] == label).mean() for label in np.unique(true)]))


def _interval(
    true: NDArray[np.intp], answer: NDArray[np.intp], groups: NDArray[np.str_], seed: int
) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:  # one sample, one session: nothing is known of how others would differ
        return 0.0, 1.0
    by_group = [np.nonzero(members == index)[0] for index in range(len(names))]
    classes, values = len(np.unique(true)), []
    for _ in range(BOOTSTRAP_ROUNDS):
        rows = np.concatenate([by_group[index] for index in draw.integers(0, len(names), len(names))])
        if len(np.unique(true[rows])) == classes:  # a sample without a class says nothing about it
            values.append(balanced_accuracy(true[rows], answer[rows]))
    if not values:
        return 0.0, 1.0
    low, high = np.percentile(values, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def _class_figures(confusion: NDArray[np.intp], index: int) -> ClassFigures:
    hits, present = int(confusion[index, index]), int(confusion[index].sum())
    answered = int(confusion[:, index].sum())
    precision = hits / answered if answered else None
    recall = hits / present if present else None
    f1 = 2 * hits / (present + answered) if present + answered else None
    rounded = (None if value is None else round(value, 4) for value in (precision, recall, f1))
    return ClassFigures(micrographs=present, **dict(zip(("precision", "recall", "f1"), rounded, strict=True)))


def _cam_figures(scored: Sequence[Scored]) -> CamFigures | None:
    right = [
        entry for entry in scored if entry.label == entry.predicted and entry.peak_on_particle is not None
    ]
    if not right:
        return None
    return CamFigures(
        micrographs=len(right),
        peak_on_particle=round(float(np.mean([bool(entry.peak_on_particle) for entry in right])), 4),
        chance=round(float(np.mean([entry.chance or 0.0 for entry in right])), 4),
        energy_on_particles=round(float(np.mean([entry.energy_on_particles or 0.0 for entry in right])), 4),
        particle_share=round(float(np.mean([entry.particle_share or 0.0 for entry in right])), 4),
    )


def _warnings(bundle: Bundle, dataset: DataSet, part: str, folds: CrossValidation | None) -> tuple[str, ...]:
    found = [f"leak between parts: {leak}" for leak in leaks(dataset.kept)]
    if bundle.manifest.dataset_fingerprint != dataset.fingerprint:
        found.append(
            "the bundle was trained on another data set: whether it saw these micrographs is not known"
        )
    elif part == "train":
        found.append("these micrographs were trained on: the figures say nothing about others")
    elif part == "validation" and bundle.manifest.network.weights_kept != "last epoch":
        found.append("these micrographs chose the epoch that was kept: the figures flatter")
    if folds is not None and folds.dataset_fingerprint != dataset.fingerprint:
        found.append("the cross-validation recorded here was made on another data set")
    return tuple(found)
