"""A bundle -> a bundle that knows when not to answer: temperature, novelty, limits of its guards, operating point.

Answers for what is fitted on what. Statistics, guards and training ranges come from the training micrographs;
temperature and limits from micrographs that the network did not see: those of a held-out part, or, with the folds
of a cross-validation, each training micrograph as the fold that held it out answers it. The second leaves the other
parts untouched, so that they can measure the decision. What was found stands in the bundle's `trust.json`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import UNKNOWN_DATASET, Bundle, open_bundle
from trainer.preparing.split import tears_micrographs
from trainer.scoring.calibration import calibration
from trainer.scoring.evaluation import readable, sources_of
from trainer.scoring.selective import risk_coverage
from trainer.trusting.fitted import Fitted, fit
from trainer.trusting.held_out import HeldOut, Lesson, held_out_by_folds, held_out_part, learnt, observer_of
from trainer.trusting.operating_point import Goal, missed
from trainer.trusting.rewriting import rewritten, with_version
from trainer.trusting.strangers import Strangers, measured_strangers, stranger_files
from trainer.trusting.trust_record import Held, NothingHeldOut, TrustError, TrustRecord
from trainer.trusting.trusted_graph import trusted_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.classifier import Answer
    from trainer.preparing.crops import DataSet
    from trainer.scoring.calibration import Calibration
    from trainer.trusting.observing import Observer

    Progress = Callable[[str, int, int], None]

__all__ = [
    "FEWEST_HELD", "Goal", "NothingHeldOut", "Strangers", "TrustError", "TrustOrder", "trust", "trust_in_place",
]  # fmt: skip

FEWEST_HELD: Final = 20
"""Held-out micrographs, below which no limit can be measured."""
ALIKE: Final = 1e-3
"""How far the written bundle may be from what was fitted: in probabilities, and of the novelty."""
_COMPARED: Final = 5


@dataclass(frozen=True, slots=True)
class TrustOrder:
    """What to fit on, and what the operating point is for."""

    part: Literal["validation", "test"] = "validation"
    folds: Path | None = None
    """Run folder of a cross-validation of the same data set; takes the place of `part`."""
    goal: Goal = field(default_factory=Goal)
    strangers: Strangers = field(default_factory=Strangers)
    version: str | None = None
    """Of the new bundle; by default the old one's."""
    seed: int = 0


def trust(
    bundle_path: Path,
    dataset: DataSet,
    out: Path,
    order: TrustOrder | None = None,
    *,
    progress: Progress = lambda *_: None,
) -> tuple[Bundle, TrustRecord]:
    """Write a bundle of the same network that knows when not to answer into the new folder `out`.

    An earlier evaluation does not go along: probabilities and decisions are others now.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        FileExistsError: `out` is there already.
        NothingHeldOut: there are too few held-out micrographs.
        TrustError: the data set is not the network's, or the written bundle does not answer as what was fitted.
        ValidationError: the version asked for cannot be one.

    """
    order = order or TrustOrder()
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder or remove it first")
    bundle = open_bundle(bundle_path)
    manifest = with_version(bundle.manifest, order.version)
    _require_own(bundle, dataset)
    _require_whole(dataset, order)
    _require_unseen(bundle, order)
    stranger_files(order.strangers.folder)  # before the minutes of work, not after
    observer = observer_of(bundle)
    lesson, held = _lesson_and_held_out(observer, dataset, order, progress)
    _require_enough(bundle, held)
    fitted = fit(manifest, lesson, held, order.goal)
    kinds, unread = measured_strangers(observer, fitted, order.strangers, order.seed, progress)
    record = _record(fitted, order)
    notes = (*_notes(fitted, lesson.note, order), *unread, *missed(order.goal, record.accepted_accuracy))
    record = record.model_copy(update={"strangers": kinds, "notes": notes})
    progress("golden cases and manifest", 0, 1)
    model = trusted_model(bundle, fitted.manifest.temperature, fitted.statistics)
    written = rewritten(bundle, out, model, fitted.manifest, record)
    try:
        _compare(written, dataset, observer, fitted)
    except TrustError:
        shutil.rmtree(out)
        raise
    progress("golden cases and manifest", 1, 1)
    return written, record


def trust_in_place(
    bundle_path: Path, dataset: DataSet, order: TrustOrder, *, progress: Progress = lambda *_: None
) -> TrustRecord:
    """The same with the new bundle in the old one's place; raises as `trust`, and then leaves the old one there."""
    with tempfile.TemporaryDirectory(prefix=".trusted-", dir=bundle_path.parent) as draft:
        _, record = trust(bundle_path, dataset, Path(draft) / "new", order, progress=progress)
        bundle_path.rename(Path(draft) / "old")
        try:
            (Path(draft) / "new").rename(bundle_path)
        except BaseException:  # Ctrl-C too: the draft's folder goes, and the old bundle is in it
            (Path(draft) / "old").rename(bundle_path)
            raise
    return record


def _lesson_and_held_out(
    observer: Observer, dataset: DataSet, order: TrustOrder, progress: Progress
) -> tuple[Lesson, tuple[HeldOut, ...]]:
    by_folds = None
    if order.folds is not None:
        by_folds = held_out_by_folds(order.folds, observer.bundle.manifest, dataset, progress)
    lesson = learnt(observer, dataset, sources_of(dataset.train), progress)
    if by_folds is not None:
        return lesson, by_folds
    return lesson, held_out_part(observer, lesson, dataset, order.part, progress)


def _require_own(bundle: Bundle, dataset: DataSet) -> None:
    if bundle.manifest.dataset_fingerprint not in (UNKNOWN_DATASET, dataset.fingerprint):
        raise TrustError(
            f"{bundle.path}: was trained on another data set than {dataset.root}; give its own, or limits would be "
            "measured on micrographs that it may have seen"
        )
    strange = sorted(set(dataset.labels) - set(bundle.manifest.labels))
    if strange:
        raise TrustError(f"{bundle.path}: does not know the classes {', '.join(strange)} of {dataset.root}")


def _require_whole(dataset: DataSet, order: TrustOrder) -> None:
    if order.folds is None and tears_micrographs(dataset.split):
        raise NothingHeldOut(
            f"{dataset.root}: the split {dataset.split.by} puts crops of one micrograph into several parts, so no "
            "whole micrograph was held out; prepare with --split micrograph, or give --folds of a cross-validation"
        )


def _require_unseen(bundle: Bundle, order: TrustOrder) -> None:
    """An ensemble of folds has seen every part."""
    if order.folds is None and order.part in bundle.manifest.network.trained_parts:
        raise NothingHeldOut(
            f"{bundle.path}: was trained on the part {order.part} too; give --folds of a cross-validation"
        )


def _require_enough(bundle: Bundle, held: Sequence[HeldOut]) -> None:
    labels = {one.seen.source.label for one in held}
    if len(held) < FEWEST_HELD or len(labels) < 2:
        raise NothingHeldOut(
            f"{bundle.path}: {len(held)} held-out micrographs of {len(labels)} classes are too few for limits "
            f"({FEWEST_HELD} of two classes at the least); label more, or give --folds of a cross-validation"
        )


def _record(fitted: Fitted, order: TrustOrder) -> TrustRecord:
    held, manifest = fitted.held, fitted.manifest
    groups, right = [one.seen.source.group for one in held], np.array(fitted.right)
    accepted = np.array([one.decision == "accept" for one in fitted.decisions])
    doubt = [fitted.doubt(answer, why) for answer, why in zip(fitted.answers, fitted.guards, strict=True)]
    thresholds = manifest.thresholds
    return TrustRecord(
        made=datetime.now(UTC).replace(microsecond=0),
        source=_source(order, len(held)),
        temperature=manifest.temperature,
        before=_calibration([one.seen.answered(1.0, None) for one in held], held, order.seed),
        after=_calibration(fitted.answers, held, order.seed),
        held=tuple(
            _held(one, answer, why)
            for one, answer, why in zip(held, fitted.answers, fitted.guards, strict=True)
        ),
        selective=risk_coverage(-np.array(doubt), right, groups, order.seed),
        acceptance=order.goal.acceptance,
        thresholds={} if thresholds is None else thresholds.model_dump(),
        accepted=round(float(accepted.mean()), 4),
        accepted_accuracy=round(float(right[accepted].mean()), 4) if accepted.any() else 0.0,
    )


def _source(order: TrustOrder, count: int) -> str:
    if order.folds is None:
        return f"the {count} micrographs of the part {order.part}, which the network was not trained on"
    return (
        f"the {count} training micrographs, each as a network of the same recipe answers it that saw none of its "
        "group (grouped folds)"
    )


def _held(held: HeldOut, answer: Answer, guards: tuple[str, ...]) -> Held:
    before = held.seen.answered(1.0, None)
    return Held(
        file=held.seen.source.file,
        group=held.seen.source.group,
        label=held.seen.source.label,
        predicted=answer.label,
        probabilities={
            label: float(f"{value:.6g}")
            for label, value in zip(answer.labels, answer.probabilities, strict=True)
        },
        probability_before=float(f"{before.probabilities[before.labels.index(answer.label)]:.6g}"),
        novelty=None if answer.novelty is None else float(f"{answer.novelty:.6g}"),
        tile_disagreement=round(answer.tile_disagreement, 6),
        guards=guards,
        part=held.part,
    )


def _calibration(answers: Sequence[Answer], held: Sequence[HeldOut], seed: int) -> Calibration:
    true = np.array(
        [one.labels.index(seen.seen.source.label) for one, seen in zip(answers, held, strict=True)]
    )
    told = np.array([one.probabilities for one in answers], float)
    groups = [one.seen.source.group for one in held]
    return calibration(
        told.max(axis=1), told.argmax(axis=1) == true, groups, seed, probabilities=told, true=true
    )


def _notes(fitted: Fitted, no_novelty: str, order: TrustOrder) -> list[str]:
    """What a reader of the limits has to know."""
    found = [f"no novelty is computed: {no_novelty}"] if fitted.statistics is None else []
    chose = fitted.manifest.network.weights_kept == "lowest validation loss" and order.part == "validation"
    if fitted.manifest.dataset_fingerprint == UNKNOWN_DATASET:
        found.append(
            "the network was trained elsewhere: whether it saw the held-out micrographs is not known"
        )
    elif chose and order.folds is None:
        found.append(
            "the held-out micrographs chose the epoch that was kept: temperature and limits flatter a little"
        )
    members = fitted.manifest.network.members
    if members > 1 and order.folds is not None:
        found.append(
            f"limits are those of single networks, this bundle averages {members}: how far they hold for it "
            "was not measured"
        )
    refused = sum(bool(why) for why in fitted.guards)
    if refused:
        found.append(
            f"{refused} of {len(fitted.held)} held-out micrographs are refused by guards (tags or look), which no "
            "threshold moves"
        )
    groups = len({one.seen.source.group for one in fitted.held})
    if groups < FEWEST_HELD:
        found.append(
            f"the held-out micrographs are of {groups} groups only: limits may be off for another sample or session"
        )
    return found


def _compare(written: Bundle, dataset: DataSet, observer: Observer, fitted: Fitted) -> None:
    """Hold the written bundle, through the agent's classifier, against what was fitted, on training micrographs."""
    classifier = Classifier(written, without_map=written.manifest.tensors.cam is None)
    for source, micrograph in readable(dataset, sources_of(dataset.train)[:_COMPARED]):
        if isinstance(micrograph, str):
            continue
        expected = observer.observe(source, micrograph).answered(
            fitted.manifest.temperature, fitted.statistics
        )
        seen = classifier.answer(micrograph)
        apart = _apart(seen, expected)
        if not apart <= ALIKE:  # NaN too
            raise TrustError(
                f"{written.path}: answers {source.file} otherwise than was fitted (by {apart:.1e}); do not use it"
            )


def _apart(seen: Answer, expected: Answer) -> float:
    """The larger of the differences in probabilities and, of itself, in novelty; NaN where one is no number."""
    differences = np.abs(np.subtract(seen.probabilities, expected.probabilities)).tolist()
    if expected.novelty is not None:
        novelty = np.nan if seen.novelty is None else seen.novelty
        differences.append(abs(novelty / max(expected.novelty, 1e-9) - 1))
    return float(np.max(differences))
