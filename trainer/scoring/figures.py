"""The figures of a set of scored micrographs: right answers by class, how sure that is, what they depend on.

Everything here follows from the answers alone (`Scored`), so that the figures of an evaluation can be computed
again from its file; the report shows these and computes none of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge_agent.preprocessing import Box
from trainer.scoring.calibration import Calibration, calibration
from trainer.scoring.intervals import UNKNOWN, middle_95, resampled_sums, share_interval
from trainer.scoring.selective import RiskCoverage, accuracy_interval, risk_coverage, sureness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

MOST_SIZE_BINS: Final = 6
MICROGRAPHS_A_SIZE_BIN: Final = 8


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scored(_Part):
    """The answer for one micrograph, or for one crop of it. `peak_on_particle` and what follows need masks."""

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
    probabilities: dict[str, float] = Field(default_factory=dict)
    """By class; empty in evaluations of scopewatch 0.2 and before."""
    pixel_size_nm: float | None = None
    """Width of a pixel; None where the file is not calibrated."""
    acquired: str = ""
    """ISO 8601 UTC."""
    microscope: str = ""
    near: str = ""
    """Cluster of near-duplicates that it belongs to."""
    box_px: Box | None = None
    """Which crop was scored; None: the whole micrograph."""
    reasons: tuple[str, ...] = ()
    """Why it abstained."""
    novelty: float | None = None
    """In the bundle's own unit; None where its graph gives none."""
    tile_disagreement: float = 0.0
    told: dict[str, str] = Field(default_factory=dict)
    """What a labels table says of it, by column."""

    @property
    def right(self) -> bool:
        """Whether the answer is the person's."""
        return self.label == self.predicted


class ClassFigures(_Part):
    """Figures of one class; None where nothing was predicted or present."""

    micrographs: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_interval: tuple[float, float] | None = None
    """95 % (Wilson), taken micrograph by micrograph."""


class CamFigures(_Part):
    """Whether the map points at what a person masked, over correctly classified micrographs."""

    micrographs: int
    peak_on_particle: float
    chance: float
    """Share of positions that would count as a hit: the masks dilated by half a cell."""
    energy_on_particles: float
    particle_share: float


class Accepted(_Part):
    """The answers that the agent gives at the bundle's own limits."""

    micrographs: int
    coverage: float
    """Share of all scored micrographs."""
    accuracy: float | None
    """None where none was accepted."""
    interval: tuple[float, float]
    """95 % of the accuracy, groups drawn anew."""


class Slice(_Part):
    """The micrographs that have something in common: a sample, a microscope, a range of pixel sizes."""

    name: str
    micrographs: int
    groups: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    """95 % (Wilson), each group counted as one micrograph; within one group by micrograph."""
    classes: dict[str, int]
    """Micrographs of each class that occurs."""


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
    balanced_accuracy_interval_by_micrograph: tuple[float, float] | None = None
    """The same drawn by micrograph: too narrow where those of one group resemble each other."""
    calibration: Calibration | None = None
    slices: dict[str, tuple[Slice, ...]] = Field(default_factory=dict)
    """By what they differ ("pixel size", "group", "microscope" ...) -> the slices, where there are two or more."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Micrographs that abstained for each reason; one may have several."""
    accepted: Accepted | None = None
    """None where the bundle carries no thresholds."""
    selective: RiskCoverage | None = None
    """Along the limit of confidence; None in evaluations of scopewatch 0.4 and before."""


def figures(scored: Sequence[Scored], labels: Sequence[str], seed: int) -> Figures:
    """Count confusions, and compute what follows from them and from the probabilities."""
    true = np.array([labels.index(entry.label) for entry in scored])
    answer = np.array([labels.index(entry.predicted) for entry in scored])
    groups = [entry.group for entry in scored]
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (true, answer), 1)
    return Figures(
        micrographs=len(scored),
        groups=len(set(groups)),
        accuracy=round(float((true == answer).mean()), 4),
        balanced_accuracy=round(balanced_accuracy(true, answer), 4),
        balanced_accuracy_interval=_interval(true, answer, groups, seed),
        balanced_accuracy_interval_by_micrograph=_interval(
            true, answer, [entry.file for entry in scored], seed
        ),
        classes={label: _class_figures(confusion, index) for index, label in enumerate(labels)},
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        decisions=dict(sorted(Counter(entry.decision for entry in scored).items())),
        cam=_cam_figures(scored),
        calibration=_calibration(scored, labels, true, seed),
        slices=slices(scored),
        reasons=dict(sorted(Counter(reason for entry in scored for reason in entry.reasons).items())),
        accepted=_accepted(scored, seed),
        selective=_selective(scored, seed),
    )


def balanced_accuracy(true: NDArray[np.intp], answer: NDArray[np.intp]) -> float:
    """Mean recall over the classes that occur."""
    return float(np.mean([(answer[true == label] == label).mean() for label in np.unique(true)]))


def _interval(
    true: NDArray[np.intp], answer: NDArray[np.intp], groups: Sequence[str], seed: int
) -> tuple[float, float]:
    names = np.asarray(groups)
    if any(len(np.unique(names[true == label])) < 2 for label in np.unique(true)):
        return UNKNOWN  # how another group of that class would differ is not known
    member = (true[:, None] == np.unique(true)).astype(float)
    sums = resampled_sums(np.concatenate([member * (true == answer)[:, None], member], axis=1), groups, seed)
    if sums is None:
        return UNKNOWN
    hits, present = np.split(sums, 2, axis=1)
    whole = present.min(axis=1) > 0  # a sample without a class says nothing about it
    return middle_95((hits[whole] / present[whole]).mean(axis=1))


def _class_figures(confusion: NDArray[np.intp], index: int) -> ClassFigures:
    hits, present = int(confusion[index, index]), int(confusion[index].sum())
    answered = int(confusion[:, index].sum())
    precision = hits / answered if answered else None
    recall = hits / present if present else None
    f1 = 2 * hits / (present + answered) if present + answered else None
    rounded = (None if value is None else round(value, 4) for value in (precision, recall, f1))
    return ClassFigures(
        micrographs=present,
        **dict(zip(("precision", "recall", "f1"), rounded, strict=True)),
        recall_interval=share_interval(hits, present) if present else None,
    )


def _cam_figures(scored: Sequence[Scored]) -> CamFigures | None:
    right = [entry for entry in scored if entry.right and entry.peak_on_particle is not None]
    if not right:
        return None
    return CamFigures(
        micrographs=len(right),
        peak_on_particle=round(float(np.mean([bool(entry.peak_on_particle) for entry in right])), 4),
        chance=round(float(np.mean([entry.chance or 0.0 for entry in right])), 4),
        energy_on_particles=round(float(np.mean([entry.energy_on_particles or 0.0 for entry in right])), 4),
        particle_share=round(float(np.mean([entry.particle_share or 0.0 for entry in right])), 4),
    )


def _calibration(
    scored: Sequence[Scored], labels: Sequence[str], true: NDArray[np.intp], seed: int
) -> Calibration:
    """By the answers' own probability alone where an old evaluation knows no other."""
    confidence = np.array([entry.probability for entry in scored])
    right = np.array([entry.right for entry in scored])
    groups = [entry.group for entry in scored]
    if not all(set(labels) == set(entry.probabilities) for entry in scored):
        return calibration(confidence, right, groups, seed)
    known = np.array([[entry.probabilities[label] for label in labels] for entry in scored])
    return calibration(confidence, right, groups, seed, probabilities=known, true=true)


def _accepted(scored: Sequence[Scored], seed: int) -> Accepted | None:
    if any(entry.decision == "ungated" for entry in scored):
        return None
    kept = np.array([float(entry.decision == "accept") for entry in scored])
    right = np.array([entry.right for entry in scored])
    count = int(kept.sum())
    return Accepted(
        micrographs=count,
        coverage=round(count / len(scored), 4),
        accuracy=round(float(kept @ right) / count, 4) if count else None,
        interval=accuracy_interval(kept, right, [entry.group for entry in scored], seed),
    )


def _selective(scored: Sequence[Scored], seed: int) -> RiskCoverage:
    score = np.array([sureness(entry.probability, _reasons(entry)) for entry in scored])
    right = np.array([entry.right for entry in scored])
    return risk_coverage(score, right, [entry.group for entry in scored], seed)


def _reasons(entry: Scored) -> tuple[str, ...]:
    """Why it abstained; scopewatch 0.4 and before recorded that it did, and knew no limit of confidence."""
    return entry.reasons or (("not recorded",) if entry.decision == "abstain" else ())


def slices(scored: Sequence[Scored]) -> dict[str, tuple[Slice, ...]]:
    """Accuracy within groups, sub-folders, microscopes, days, pixel sizes, and values of a labels table.

    What is unknown of every micrograph, the same for all, or different for each, divides nothing and is left out.
    """
    ways: dict[str, Callable[[Scored], str]] = {
        "group": lambda entry: entry.group,
        "sub-folder": lambda entry: "/".join(PurePosixPath(entry.file).parts[1:-1]),
        "microscope": lambda entry: entry.microscope,
        "day of acquisition": lambda entry: _day(entry.acquired),
    }
    for column in sorted({column for entry in scored for column in entry.told}):
        ways[column] = lambda entry, column=column: entry.told.get(column, "")  # type: ignore[misc]
    found = {way: _slices_by(scored, name) for way, name in ways.items()}
    found["pixel size"] = _pixel_size_slices(scored)
    groups = [(one.name, one.micrographs) for one in found["group"]]
    if [(one.name, one.micrographs) for one in found["sub-folder"]] == groups:
        found.pop("sub-folder")  # the groups are the sub-folders
    return {way: each for way, each in found.items() if len(each) > 1}


def _day(acquired: str) -> str:
    return datetime.fromisoformat(acquired).date().isoformat() if acquired else ""


def _slices_by(scored: Sequence[Scored], name: Callable[[Scored], str]) -> tuple[Slice, ...]:
    members: dict[str, list[Scored]] = {}
    for entry in scored:
        members.setdefault(name(entry), []).append(entry)
    known = {key: entries for key, entries in members.items() if key}
    if all(len({entry.file for entry in entries}) == 1 for entries in known.values()):
        return ()
    unknown = {"not known": members[""]} if "" in members and known else {}
    return tuple(_slice(key, known[key]) for key in sorted(known)) + tuple(
        _slice(key, entries) for key, entries in unknown.items()
    )


def _pixel_size_slices(scored: Sequence[Scored]) -> tuple[Slice, ...]:
    """Ranges of pixel size with equal numbers of micrographs, at most so many that each holds a few."""
    sized = [(entry.pixel_size_nm, entry) for entry in scored if entry.pixel_size_nm is not None]
    if not sized:
        return ()
    sizes = np.array([size for size, _ in sized])
    bins = max(1, min(MOST_SIZE_BINS, len(sized) // MICROGRAPHS_A_SIZE_BIN))
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, bins + 1))[1:-1])
    at = np.searchsorted(edges, sizes)
    found = []
    for index in np.unique(at):
        entries = [entry for (_, entry), place in zip(sized, at, strict=True) if place == index]
        low, high = float(sizes[at == index].min()), float(sizes[at == index].max())
        found.append(_slice(_range_text(low, high), entries))
    unknown = [entry for entry in scored if entry.pixel_size_nm is None]
    return (*found, *([_slice("not known", unknown)] if unknown else []))


def _range_text(low_nm: float, high_nm: float) -> str:
    same = math.isclose(low_nm, high_nm, rel_tol=1e-3)
    return f"{low_nm:.3g} nm" if same else f"{low_nm:.3g} to {high_nm:.3g} nm"


def _slice(name: str, entries: Sequence[Scored]) -> Slice:
    right = sum(entry.right for entry in entries)
    groups = len({entry.group for entry in entries})
    counted = groups if groups > 1 else len(entries)
    return Slice(
        name=name,
        micrographs=len(entries),
        groups=groups,
        right=right,
        accuracy=round(right / len(entries), 4),
        interval=share_interval(counted * right / len(entries), counted),
        classes=_ordered_counts(entries),
    )


def _ordered_counts(entries: Sequence[Scored]) -> Mapping[str, int]:
    return dict(sorted(Counter(entry.label for entry in entries).items()))
