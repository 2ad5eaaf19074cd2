"""A bundle on held-out micrographs, through the agent's own reader, preprocessing, classifier and decision.

What is scored is what runs on the microscope PC: source micrographs are opened, not cached crops. Intervals come
from resampling groups (sample, session, article), because micrographs of one group are not independent.

Where the split tears micrographs apart (`every-third`), scoring whole micrographs would score what was trained on;
then each held-out crop is scored by itself, with the contrast of its whole field, as the agent would cut it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.classifier import Answer, Classifier, Prediction
from edge_agent.decision import decide
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.model_bundle import UNKNOWN_DATASET, Bundle, open_bundle
from edge_agent.preprocessing import Tiles, cut_tiles
from trainer.exporting.bundle_writer import add_file
from trainer.exporting.training_facts import read_training_facts
from trainer.preparing.leaks import leak_report
from trainer.preparing.split import tears_micrographs
from trainer.scoring.figures import Figures, Scored, figures
from trainer.scoring.pointing import MaskError, mask_of, pointing
from trainer.trusting.trust_record import TrustError, read_trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edge_agent.decision import Decision
    from edge_agent.micrograph import Micrograph
    from edge_agent.preprocessing import Box
    from trainer.preparing.crops import Crop, DataSet
    from trainer.preparing.split import LabelsTable

EVALUATION: Final = "evaluation.json"

__all__ = [
    "EVALUATION",
    "CrossValidation",
    "Evaluation",
    "EvaluationError",
    "Figures",
    "Scored",
    "Source",
    "answer",
    "evaluate",
    "figures",
    "read_evaluation",
    "readable",
    "score",
    "sources_of",
]


class EvaluationError(Exception):
    """A bundle cannot be evaluated on this data; the message says what was seen."""


class CrossValidation(BaseModel):
    """Grouped folds: every micrograph scored by a network that saw none of its group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class Evaluation(BaseModel):
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
    dataset: str = ""
    """Folder of the data set, when it was evaluated; "" in evaluations of scopewatch 0.2 and before."""
    seed: int = 0
    """Of the bootstrap samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Source:
    """A micrograph to be scored, or one crop of it."""

    file: str
    label: str
    group: str
    sha256: str | None
    """Of the file when the data set was prepared; None where it is not known."""
    near: str = ""
    box_px: Box | None = None
    """The crop; None for the whole micrograph."""


def evaluate(
    bundle_path: Path,
    dataset: DataSet,
    part: Literal["train", "validation", "test"],
    *,
    masks: Path | None = None,
    cross_validation: CrossValidation | None = None,
    table: LabelsTable | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Evaluation:
    """Score a bundle on one part of a data set and put `evaluation.json` into the bundle.

    `masks` is a folder of instance masks (0 = ground) of the micrographs' size, each called like its source but
    `.png`, in class folders or not. The columns of `table` (sample, session, operator ...) are ways to look at
    the accuracy. `seed` draws the bootstrap samples.

    Raises:
        EvaluationError: the part is empty, its classes are not the bundle's, or a mask does not fit.

    """
    bundle = open_bundle(bundle_path)
    crops = dataset.part(part)
    if not crops:
        raise EvaluationError(f"{dataset.root}: no micrograph in the part {part}; prepare with another split")
    sources = crop_sources(crops) if tears_micrographs(dataset.split) else sources_of(crops)
    scored, unreadable = score(bundle, dataset, sources, masks, progress, table)
    evaluation = Evaluation(
        bundle=f"{bundle.manifest.name}-{bundle.manifest.version}",
        model_sha256=bundle.sha256,
        dataset_fingerprint=dataset.fingerprint,
        part=part,
        made=datetime.now(UTC).replace(microsecond=0),
        labels=bundle.manifest.labels,
        figures=figures(scored, bundle.manifest.labels, seed),
        warnings=(
            *_warnings(bundle, dataset, part, cross_validation),
            *_limits_measured_here(bundle, dataset, sources),
        ),
        unreadable=unreadable,
        predictions=scored,
        cross_validation=cross_validation,
        dataset=str(dataset.root.resolve()),
        seed=seed,
    )
    text = evaluation.model_dump_json(indent=1, by_alias=True) + "\n"
    add_file(bundle_path, EVALUATION, text.encode())
    return evaluation


def read_evaluation(bundle: Bundle) -> Evaluation:
    """Read the evaluation in a bundle.

    Raises:
        EvaluationError: there is none, it cannot be read, or it is another model's.

    """
    file = bundle.path / EVALUATION
    if EVALUATION not in bundle.manifest.sha256:
        raise EvaluationError(
            f"{bundle.path}: not evaluated; run edge-trainer evaluate {bundle.path} DATASET first"
        )
    try:
        found = Evaluation.model_validate_json(file.read_bytes())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{file}: not an evaluation that this version reads ({error}); evaluate again"
        ) from error
    if found.model_sha256 != bundle.sha256:
        raise EvaluationError(
            f"{file}: evaluates another model ({found.model_sha256[:12]}...); run edge-trainer evaluate again"
        )
    return found


def sources_of(crops: Sequence[Crop]) -> tuple[Source, ...]:
    """The source micrographs of some crops, each once, in the crops' order."""
    found = {crop.source: _source(crop) for crop in crops}
    return tuple(found.values())


def crop_sources(crops: Sequence[Crop]) -> tuple[Source, ...]:
    """Each crop by itself, for a split that tears micrographs apart."""
    return tuple(_source(crop, crop.box_px) for crop in crops)


def _source(crop: Crop, box_px: Box | None = None) -> Source:
    return Source(crop.source, crop.label, crop.group, crop.sha256, crop.near, box_px)


def score(
    bundle: Bundle,
    dataset: DataSet,
    sources: Sequence[Source],
    masks: Path | None,
    progress: Callable[[str, int, int], None],
    table: LabelsTable | None = None,
) -> tuple[tuple[Scored, ...], dict[str, str]]:
    """Classify source micrographs as the agent does; the second value says which could not be read, and why."""
    unknown = sorted({source.label for source in sources} - set(bundle.manifest.labels))
    if unknown:
        raise EvaluationError(
            f"{bundle.path}: does not know the classes {', '.join(unknown)} of {dataset.root}"
        )
    classifier = Classifier(bundle, without_map=bundle.manifest.tensors.cam is None)
    scored, unreadable = [], {}
    for index, (source, micrograph) in enumerate(readable(dataset, sources)):
        progress("classified", index, len(sources))
        if isinstance(micrograph, str):
            unreadable[source.file] = micrograph
            continue
        prediction = answer(classifier, micrograph, source)
        decision = decide(prediction, micrograph, bundle.manifest)
        entry = _scored(source, micrograph, prediction, decision)
        told = {} if table is None else _told(table, source)
        seen = _pointing(source, prediction, masks, micrograph)
        scored.append(entry.model_copy(update={**seen, "told": told}))
    progress("classified", len(sources), len(sources))
    if not scored:
        raise EvaluationError(f"{dataset.raw}: none of the {len(sources)} micrographs can be read any more")
    return tuple(scored), unreadable


def readable(dataset: DataSet, sources: Sequence[Source]) -> Iterator[tuple[Source, Micrograph | str]]:
    """Open each source, or say why it cannot be; crops of one micrograph that follow each other open it once."""
    file, opened = None, None
    for source in sources:
        if opened is None or source.file != file:
            file, opened = source.file, _opened(dataset.path_of(source.file), source)
        yield source, opened


def _opened(path: Path, source: Source) -> Micrograph | str:
    try:
        micrograph = read_micrograph(path)
    except (UnusableFile, OSError) as error:
        return str(error)
    if None not in (source.sha256, micrograph.source.sha256) and source.sha256 != micrograph.source.sha256:
        return f"{path}: was changed since edge-trainer prepare; run that again"
    return micrograph


def answer(classifier: Classifier, micrograph: Micrograph, source: Source) -> Answer:
    """The network's answer for a source: the agent's own, or that for one of the agent's boxes alone.

    It is a `Prediction`, with a map, where the bundle's graph has one.
    """
    without_map = classifier.bundle.manifest.tensors.cam is None
    if source.box_px is None:
        return classifier.answer(micrograph) if without_map else classifier.classify(micrograph)
    manifest, box = classifier.bundle.manifest, source.box_px
    every = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, manifest.preprocessing)
    tiles = Tiles(tuple(tile for tile in every.tiles if tile.box_px == box), every.field)
    if not tiles.tiles:
        raise EvaluationError(
            f"{source.file}: the bundle's tile plan has no box {box}; the data set was prepared with another one"
        )
    shape = (int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1]))
    return classifier.answer_tiles(tiles) if without_map else classifier.classify_tiles(tiles, shape)


def _scored(source: Source, micrograph: Micrograph, prediction: Answer, decision: Decision) -> Scored:
    return Scored(
        file=source.file,
        group=source.group,
        label=source.label,
        predicted=prediction.label,
        probability=round(prediction.probability, 4),
        decision=decision.decision,
        reasons=decision.reasons,
        novelty=None if prediction.novelty is None else float(f"{prediction.novelty:.6g}"),
        tile_disagreement=round(prediction.tile_disagreement, 6),
        probabilities={
            label: float(f"{value:.6g}")
            for label, value in zip(prediction.labels, prediction.probabilities, strict=True)
        },
        pixel_size_nm=micrograph.pixel_size_nm[1] if micrograph.pixel_size_nm is not None else None,
        acquired=micrograph.acquired.isoformat() if micrograph.acquired is not None else "",
        microscope=micrograph.instrument.device or "",
        near=source.near,
        box_px=source.box_px,
    )


def _told(table: LabelsTable, source: Source) -> dict[str, str]:
    values = {column: table.value(source.file, column) for column in table.columns if column != "file"}
    return {column: value for column, value in values.items() if value}


def _pointing(
    source: Source, prediction: Answer, masks: Path | None, micrograph: Micrograph
) -> dict[str, bool | float]:
    try:
        mask = mask_of(source.file, masks, micrograph.pixels.shape)
    except MaskError as error:
        raise EvaluationError(str(error)) from error
    if mask is None or not isinstance(prediction, Prediction):
        return {}
    seen = pointing(prediction.cam, mask)
    return {
        "peak_on_particle": seen.hit,
        "chance": round(seen.chance, 4),
        "energy_on_particles": round(seen.energy, 4),
        "particle_share": round(seen.particle_share, 4),
    }


def _warnings(bundle: Bundle, dataset: DataSet, part: str, folds: CrossValidation | None) -> tuple[str, ...]:
    kin = leak_report(dataset.kept, dataset.split).leaks
    found = [f"leak between parts: {leak.text()}" for leak in kin if leak.severity == "leak"]
    found += [
        f"the figures may flatter: {leak.text()}"
        for leak in kin
        if leak.severity == "warning" and leak.held_out == part
    ]
    if tears_micrographs(dataset.split):
        found.insert(
            0,
            f"the split {dataset.split.by} puts crops of one micrograph into several parts: the figures measure "
            "memory beside recognition, and flatter; crops were scored, not micrographs",
        )
    trained = read_training_facts(bundle.path)
    if bundle.manifest.dataset_fingerprint == UNKNOWN_DATASET:
        found.append("the network was trained elsewhere: whether it saw these micrographs is not known")
    elif bundle.manifest.dataset_fingerprint != dataset.fingerprint:
        found.append(
            "the bundle was trained on another data set: whether it saw these micrographs is not known"
        )
    elif part == "train" or (trained is not None and part in trained.trained_parts):
        found.append("these micrographs were trained on: the figures say nothing about others")
    elif part == "validation" and bundle.manifest.network.weights_kept != "last epoch":
        found.append("these micrographs chose the epoch that was kept: the figures flatter")
    if folds is not None and folds.dataset_fingerprint != dataset.fingerprint:
        found.append("the cross-validation recorded here was made on another data set")
    return tuple(found)


def _limits_measured_here(bundle: Bundle, dataset: DataSet, sources: Sequence[Source]) -> tuple[str, ...]:
    """A warning where micrographs that are scored are those that temperature and limits were fitted to."""
    if bundle.manifest.dataset_fingerprint not in (UNKNOWN_DATASET, dataset.fingerprint):
        return ()
    try:
        record = read_trust(bundle)
    except TrustError as error:
        raise EvaluationError(str(error)) from error
    held = set() if record is None else {one.file for one in record.held}
    if not any(source.file in held for source in sources):
        return ()
    return ("limits and temperature were measured on these micrographs: acceptance and calibration flatter",)
