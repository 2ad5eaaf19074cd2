"""Another operating point for a bundle that has limits: the same network, the line drawn elsewhere.

Everything follows from the held-out answers and strangers in the bundle's `trust.json`; no micrograph is opened.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.decision import unsure
from edge_agent.model_bundle import Bundle, Thresholds, open_bundle
from trainer.scoring.selective import risk_coverage
from trainer.trusting.operating_point import MISSED, Goal, Judged, choose_thresholds, doubt_of, missed
from trainer.trusting.rewriting import rewritten, with_version
from trainer.trusting.strangers import auroc
from trainer.trusting.trust_record import TrustError, TrustRecord, read_trust

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trainer.trusting.trust_record import Held, StrangerKind


def move_operating_point(
    bundle_path: Path,
    out: Path,
    goal: Goal,
    *,
    confidence: float | None = None,
    novelty: float | None = None,
    version: str | None = None,
    seed: int = 0,
) -> tuple[Bundle, TrustRecord]:
    """Write a bundle with other limits into the new folder `out`: those that reach the goal, or those given.

    `seed` draws the bootstrap samples.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        FileExistsError: `out` is there already.
        TrustError: nothing was measured of this bundle, or a limit makes no sense for it.
        ValidationError: the version asked for cannot be one.

    """
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder or remove it first")
    bundle = open_bundle(bundle_path)
    manifest = with_version(bundle.manifest, version)
    record = read_trust(bundle)
    if record is None:
        raise TrustError(f"{bundle_path}: has no limits to be moved; run edge-trainer trust on it first")
    if novelty is not None and bundle.manifest.novelty is None:
        raise TrustError(f"{bundle_path}: its graph gives no novelty; leave --novelty out")
    limits = choose_thresholds([_judged(one) for one in record.held], goal)
    given = {"confidence": confidence, "novelty": novelty}
    limits = limits.model_copy(update={name: value for name, value in given.items() if value is not None})
    moved = _moved(record, limits, goal, seed)
    stated = {
        "thresholds": limits.model_copy(update={"acceptance": moved.accepted}),
        "created": datetime.now(UTC).replace(microsecond=0),
    }
    return rewritten(bundle, out, bundle.model_bytes, manifest.model_copy(update=stated), moved), moved


def _judged(held: Held) -> Judged:
    return Judged(
        confidence=held.probabilities[held.predicted],
        novelty=held.novelty,
        tile_disagreement=held.tile_disagreement,
        passes=not held.guards,
        right=held.label == held.predicted,
    )


def _moved(record: TrustRecord, limits: Thresholds, goal: Goal, seed: int) -> TrustRecord:
    """The same measurements at other limits; what a doubt is follows from them, and so does the order by doubt."""
    accepted = np.array([not _reasons(one.guards, _judged(one), limits) for one in record.held])
    right = np.array([one.label == one.predicted for one in record.held])
    doubt = [doubt_of(_judged(one), limits) for one in record.held]
    groups = [one.group for one in record.held]
    accuracy = round(float(right[accepted].mean()), 4) if accepted.any() else 0.0
    share = round(float(accepted.mean()), 4)
    notes = [note for note in record.notes if not note.startswith(MISSED)]
    return record.model_copy(
        update={
            "made": datetime.now(UTC).replace(microsecond=0),
            "selective": risk_coverage(-np.array(doubt), right, groups, seed),
            "acceptance": goal.acceptance,
            "thresholds": limits.model_copy(update={"acceptance": share}).model_dump(),
            "accepted": share,
            "accepted_accuracy": accuracy,
            "strangers": tuple(_kind_at(kind, limits, doubt) for kind in record.strangers),
            "notes": (*notes, *missed(goal, accuracy)),
        }
    )


def _kind_at(kind: StrangerKind, limits: Thresholds, good: Sequence[float]) -> StrangerKind:
    seen = tuple(_strangers(kind))
    reasons = [_reasons(guards, one, limits) for guards, one in seen]
    counted = Counter(reason for each in reasons for reason in each)
    return kind.model_copy(
        update={
            "abstained": sum(map(bool, reasons)),
            "reasons": dict(sorted(counted.items())),
            "combined_auroc": auroc(good, [doubt_of(one, limits) for _, one in seen]),
        }
    )


def _strangers(kind: StrangerKind) -> Iterator[tuple[tuple[str, ...], Judged]]:
    """What refuses each picture, and what else counts of it."""
    for at, confidence in enumerate(kind.confidence):
        guards = kind.guards[at] if kind.guards else ()
        novelty = kind.novelty[at] if kind.novelty else None
        apart = kind.tile_disagreement[at] if kind.tile_disagreement else 0.0
        yield guards, Judged(confidence, novelty, apart, not guards, right=False)


def _reasons(guards: Sequence[str], judged: Judged, limits: Thresholds) -> tuple[str, ...]:
    return (*guards, *unsure(judged.novelty, judged.confidence, judged.tile_disagreement, limits))
