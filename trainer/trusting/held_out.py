"""What is learnt from training micrographs, and which micrographs a network did not see.

Statistics, guards and ranges are a `Lesson` of the training micrographs of one network. A held-out micrograph goes
with the lesson of the network that did not see it: the bundle's own, or that of the fold that held it out. So no
limit is measured on a micrograph that had a part in the statistics it is judged by.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.model_bundle import Bundle, Guards, Manifest, TrainingRanges, Usual, open_bundle
from trainer.exporting.onnx_graph import GraphError
from trainer.fitting.run_folder import read_record
from trainer.scoring.evaluation import Source, readable, sources_of
from trainer.trusting.guard_limits import guard_limits, taught_by, training_ranges
from trainer.trusting.novelty import NoveltyStatistics, TooFewMicrographs, novelty_statistics
from trainer.trusting.observing import Observation, Observer, observe_all
from trainer.trusting.trust_record import TrustError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.preprocessing import Preprocessing
    from trainer.preparing.crops import DataSet
    from trainer.preparing.split import Part

    Progress = Callable[[str, int, int], None]

FEWEST: Final = 20
"""Micrographs, below which the middle nine in ten are not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What the training micrographs of one network say."""

    statistics: NoveltyStatistics | None
    guards: Guards
    ranges: TrainingRanges
    usual: Usual
    """Contrast and pixel size; confidence and novelty need held-out micrographs."""
    note: str = ""
    """Why there are no statistics."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A micrograph that a network did not see, what it made of it, and the lesson that it had had."""

    seen: Observation
    lesson: Lesson
    part: str


def observer_of(bundle: Bundle, rule: Preprocessing | None = None) -> Observer:
    """Open a bundle to be looked into. Raises TrustError where its graph has no place for that."""
    try:
        return Observer(bundle, rule)
    except GraphError as error:
        raise TrustError(f"{bundle.path}: {error}; it cannot be given limits") from error


def learnt(
    observer: Observer, dataset: DataSet, sources: Sequence[Source], progress: Progress, whose: str = ""
) -> Lesson:
    """Look at training micrographs and take down what they are like."""
    seen = _observed(observer, dataset, sources, f"{whose}training", progress)
    if not seen:
        raise TrustError(
            f"{dataset.raw}: none of the {len(sources)} training micrographs can be read any more"
        )
    taught = [taught_by(one.micrograph, one.boxes, one.look) for one in seen]
    looks = [one.look for one in seen if one.look is not None]
    sizes = [one.micrograph.pixel_size_nm[1] for one in seen if one.micrograph.pixel_size_nm is not None]
    statistics, note = _statistics(observer, seen)
    return Lesson(
        statistics=statistics,
        guards=guard_limits(looks),
        ranges=training_ranges(taught),
        usual=Usual(contrast=middle([look.contrast for look in looks]), pixel_size_nm=middle(sizes)),
        note=note,
    )


def _statistics(observer: Observer, seen: Sequence[Observation]) -> tuple[NoveltyStatistics | None, str]:
    mean = np.concatenate([one.mean for one in seen])
    spread = np.concatenate([one.spread for one in seen])
    try:
        return novelty_statistics(observer.tensor, mean, spread, micrographs=len(seen)), ""
    except TooFewMicrographs as error:
        return None, str(error)


def held_out_part(
    observer: Observer, lesson: Lesson, dataset: DataSet, part: Part, progress: Progress
) -> tuple[HeldOut, ...]:
    """The micrographs of a part that the bundle was not trained on."""
    seen = _observed(observer, dataset, sources_of(dataset.part(part)), str(part), progress)
    return tuple(HeldOut(one, lesson, str(part)) for one in seen)


def held_out_by_folds(
    run: Path, manifest: Manifest, dataset: DataSet, progress: Progress
) -> tuple[HeldOut, ...]:
    """The training micrographs, each by the fold that did not see it; `manifest` is that of the bundle in question.

    They are shown as that bundle shows them, in all its views. Nothing is asked about those of validation and test,
    though networks of other folds were taught with them.
    """
    folders = sorted(run.glob("fold-*/bundle"))
    if not folders:
        raise TrustError(f"{run}: no folds here; run edge-trainer crossvalidate first")
    folds = [open_bundle(folder) for folder in folders]
    for fold in folds:  # before the minutes of work
        _require_alike(fold, manifest, dataset)
    _require_once(run, [read_record(folder.parent).held_out for folder in folders])
    rule = manifest.preprocessing
    return tuple(one for fold in folds for one in _held_out_by(fold, rule, dataset, progress))


def _require_once(run: Path, unseen: Sequence[Sequence[str]]) -> None:
    """Folders of an earlier run with more folds stay when there are fewer."""
    twice = [
        group for group, count in Counter(group for each in unseen for group in each).items() if count > 1
    ]
    if twice:
        raise TrustError(
            f"{run}: {len(twice)} groups are held out by two folds, so these are of two cross-validations; remove "
            "the older fold folders"
        )


def _require_alike(fold: Bundle, manifest: Manifest, dataset: DataSet) -> None:
    """What another kind of network answers says nothing of this one."""
    its = fold.manifest
    if its.dataset_fingerprint != dataset.fingerprint:
        raise TrustError(
            f"{fold.path}: a fold of another data set than {dataset.root}; give the run made on it"
        )
    if (its.labels, its.network.backbone) != (manifest.labels, manifest.network.backbone):
        raise TrustError(
            f"{fold.path}: a fold of {its.network.backbone} ({', '.join(its.labels)}), the bundle is of "
            f"{manifest.network.backbone} ({', '.join(manifest.labels)}); give folds of the same recipe"
        )


def _held_out_by(fold: Bundle, rule: Preprocessing, dataset: DataSet, progress: Progress) -> list[HeldOut]:
    folder, name = fold.path, fold.path.parent.name
    unseen = set(read_record(folder.parent).held_out)
    observer = observer_of(fold, rule)
    known = [source for source in sources_of(dataset.kept) if source.group not in unseen]
    lesson = learnt(observer, dataset, known, progress, f"{name}: ")
    fit = [crop for crop in dataset.train if not crop.answer_seen]
    asked = [source for source in sources_of(fit) if source.group in unseen]
    seen = _observed(observer, dataset, asked, f"{name}: held-out", progress)
    return [HeldOut(one, lesson, name) for one in seen]


def _observed(
    observer: Observer, dataset: DataSet, sources: Sequence[Source], which: str, progress: Progress
) -> list[Observation]:
    return observe_all(
        observer,
        readable(dataset, sources),
        len(sources),
        lambda at, total: progress(f"{which} micrographs", at, total),
    )


def middle(values: Sequence[float]) -> tuple[float, float] | None:
    """Between which nine in ten lie; None for too few to tell."""
    if len(values) < FEWEST:
        return None
    low, high = np.quantile(np.array(values), (0.05, 0.95))
    return float(f"{low:.5g}"), float(f"{high:.5g}")
