"""Two bundles on the same micrographs: which answers the later one mended, and which it broke.

Both answer through the agent's own classifier (`scoring.evaluation`). Looked at are a held-out part and, where the
data set has any, the micrographs whose label came from the operator's page; of these those that trained say only
that the network learnt what it was told, so they are counted apart.
"""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.model_bundle import Bundle, open_bundle
from trainer.exporting.training_facts import read_training_facts
from trainer.preparing.corrections_record import HELD_BACK
from trainer.preparing.joining import KIN
from trainer.preparing.split import tears_micrographs
from trainer.scoring.evaluation import EvaluationError, crop_sources, score, sources_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from trainer.preparing.crops import Crop, DataSet
    from trainer.preparing.split import Part
    from trainer.scoring.figures import Scored

TRAINED: Final = "labelled on the page, trained on"
UNTRAINED: Final = "labelled on the page, not trained on"
_WIDTH: Final = 6


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Flip(_Record):
    """One micrograph that one of the two bundles gets right and the other does not."""

    file: str
    label: str
    before: str
    before_probability: float
    after: str
    after_probability: float


class FlipSet(_Record):
    """The flips on one set of micrographs."""

    name: str
    micrographs: int
    groups: int
    both_right: int
    both_wrong: int
    fixed: tuple[Flip, ...]
    """Wrong before, right now; the surest answers first."""
    broken: tuple[Flip, ...]
    """Right before, wrong now."""
    p_value: float
    """By McNemar's exact test, two-sided: how often chance alone would flip as unevenly as that."""


class Flips(_Record):
    """What `edge-trainer flips` prints as JSON."""

    schema_: Literal["scopewatch.flips/1"] = Field(default="scopewatch.flips/1", alias="schema")
    before: str
    before_sha256: str
    after: str
    after_sha256: str
    dataset_fingerprint: str
    sets: tuple[FlipSet, ...]
    warnings: tuple[str, ...]
    unreadable: dict[str, str]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def find_flips(
    before_path: Path,
    after_path: Path,
    dataset: DataSet,
    part: Part,
    *,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Flips:
    """Let both bundles answer for the micrographs of a part and for those that people labelled on the page.

    Raises EvaluationError where the part is empty or a bundle does not know its classes, BundleRefused as
    `open_bundle` does.
    """
    before, after = open_bundle(before_path), open_bundle(after_path)
    if not dataset.part(part):
        raise EvaluationError(f"{dataset.root}: no micrograph in the part {part}; prepare with another split")
    sets: list[FlipSet] = []
    unreadable: dict[str, str] = {}
    for name, crops in _sets(dataset, part, after):
        sources = crop_sources(crops) if tears_micrographs(dataset.split) else sources_of(crops)
        first, gone = score(before, dataset, sources, None, progress)
        second, _ = score(after, dataset, sources, None, progress)
        unreadable |= gone
        sets.append(compared(name, first, second))
    return Flips(
        before=_named(before),
        before_sha256=before.sha256,
        after=_named(after),
        after_sha256=after.sha256,
        dataset_fingerprint=dataset.fingerprint,
        sets=tuple(sets),
        warnings=tuple(_warnings(before, after, dataset, part)),
        unreadable=unreadable,
    )


def compared(name: str, before: Sequence[Scored], after: Sequence[Scored]) -> FlipSet:
    """Count and list what changed between two bundles' answers for the same micrographs, in the same order."""
    pairs = list(zip(before, after, strict=True))
    fixed = [_flip(old, new) for old, new in pairs if new.right and not old.right]
    broken = [_flip(old, new) for old, new in pairs if old.right and not new.right]
    return FlipSet(
        name=name,
        micrographs=len(pairs),
        groups=len({old.group or old.file for old in before}),
        both_right=sum(old.right and new.right for old, new in pairs),
        both_wrong=sum(not (old.right or new.right) for old, new in pairs),
        fixed=tuple(sorted(fixed, key=lambda flip: -flip.after_probability)),
        broken=tuple(sorted(broken, key=lambda flip: -flip.after_probability)),
        p_value=mcnemar(len(fixed), len(broken)),
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Two-sided p of McNemar's test (1947) in its exact form: a fair coin, thrown once for every flip."""
    flips = fixed + broken
    tail = sum(comb(flips, heads) for heads in range(min(fixed, broken) + 1))
    return float(min(1.0, 2 * tail / 2**flips))


def flips_text(flips: Flips) -> str:
    """Say it: a line for each set, then each flip."""
    lines = [f"from {flips.before} to {flips.after}"]
    for one in flips.sets:
        right = one.both_right + len(one.broken), one.both_right + len(one.fixed)
        lines.append(
            f"{one.name}: {one.micrographs} micrographs of {one.groups} groups, {right[0]} right before, "
            f"{right[1]} now: {len(one.fixed)} fixed, {len(one.broken)} broken, "
            f"{one.both_right + one.both_wrong} the same; p = {one.p_value:.2g} (McNemar, exact)"
        )
        for word, found in (("fixed", one.fixed), ("broken", one.broken)):
            lines += [
                f"  {word.ljust(_WIDTH)}  {flip.file}: is {flip.label}, was {flip.before} "
                f"{flip.before_probability:.2f}, now {flip.after} {flip.after_probability:.2f}"
                for flip in found
            ]
    lines += [f"warning: {warning}" for warning in flips.warnings]
    lines += [f"not read: {file}: {reason}" for file, reason in flips.unreadable.items()]
    return "\n".join(lines)


def _sets(dataset: DataSet, part: Part, after: Bundle) -> Iterator[tuple[str, list[Crop]]]:
    yield part, list(dataset.part(part))
    labelled = [
        crop
        for crop in dataset.crops
        if crop.correction and (crop.kept or crop.reason.startswith((HELD_BACK, KIN)))
    ]
    parts = _trained_parts(after)
    for name, trained in ((TRAINED, True), (UNTRAINED, False)):
        crops = [crop for crop in labelled if (crop.kept and crop.part in parts) is trained]
        if crops:
            yield name, crops


def _trained_parts(bundle: Bundle) -> tuple[str, ...]:
    facts = read_training_facts(bundle.path)
    return ("train",) if facts is None else tuple(facts.trained_parts)


def _flip(before: Scored, after: Scored) -> Flip:
    return Flip(
        file=before.file,
        label=before.label,
        before=before.predicted,
        before_probability=before.probability,
        after=after.predicted,
        after_probability=after.probability,
    )


def _warnings(before: Bundle, after: Bundle, dataset: DataSet, part: Part) -> Iterator[str]:
    for bundle in (before, after):
        if bundle.manifest.dataset_fingerprint != dataset.fingerprint:
            yield (
                f"{_named(bundle)} was trained on another data set: it has not seen what is held out here only "
                "if that one was prepared from the same raw folder with the same split and seed"
            )
        elif part in _trained_parts(bundle):
            yield f"{_named(bundle)} was trained on the part {part}: it says nothing about others"
    yield "micrographs of one group are not independent: where groups hold several, p is too small"


def _named(bundle: Bundle) -> str:
    return f"{bundle.manifest.name}-{bundle.manifest.version}"
