"""A made-up record of trust: calibrated answers, and strangers of four kinds, one of them hard to tell."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
from answered import THREE

from trainer.scoring.calibration import calibration
from trainer.scoring.selective import risk_coverage, sureness
from trainer.trusting.trust_record import Held, StrangerKind, TrustRecord

KINDS = {
    "superalloy surfaces (SEM)": (3.2, "given"),
    "oxide coatings (SEM)": (1.15, "given"),
    "atomic lattices": (7.0, "given"),
    "diffraction patterns": (22.0, "simulated"),
}
LIMITS = {"confidence": 0.46, "novelty": 1.0, "tile_disagreement": None}


def trust_record(count: int = 240, seed: int = 0) -> TrustRecord:
    """Held-out micrographs of three classes, two to a group, sharpened to be too sure before temperature."""
    random = np.random.default_rng(seed)
    held = []
    for at in range(count):
        known = random.dirichlet(np.ones(3) * 0.35)
        true, given = int(random.choice(3, p=known)), int(known.argmax())
        sharp = known**1.7
        held.append(
            Held(
                file=f"{THREE[true]}/{at:03}.dm3",
                group=f"sample {at // 2}",
                label=THREE[true],
                predicted=THREE[given],
                probabilities={label: float(one) for label, one in zip(THREE, known, strict=True)},
                probability_before=float(sharp[given] / sharp.sum()),
                novelty=float(0.55 * random.lognormal(0, 0.3)),
                guards=("blurred",) if at % 40 == 7 else (),
                part=f"fold {at % 5 + 1}",
            )
        )
    return _recorded(held, tuple(_kind(random, name, *what) for name, what in KINDS.items()))


def reasons_of(one: Held) -> tuple[str, ...]:
    """Why it is refused at these limits."""
    novel = one.novelty is not None and one.novelty > 1
    unsure = max(one.probabilities.values()) < LIMITS["confidence"]  # type: ignore[operator]
    return (*one.guards, *(["novel"] * novel), *(["low_confidence"] * unsure))


def _recorded(held: list[Held], strangers: tuple[StrangerKind, ...]) -> TrustRecord:
    after = np.array([max(one.probabilities.values()) for one in held])
    right = np.array([one.label == one.predicted for one in held])
    groups = [one.group for one in held]
    score = np.array([sureness(float(sure), reasons_of(one)) for sure, one in zip(after, held, strict=True)])
    kept = np.array([not reasons_of(one) for one in held])
    return TrustRecord(
        made=datetime(2026, 12, 1, 10, tzinfo=UTC),
        source="five grouped folds of made-up answers",
        temperature=1.7,
        before=calibration(np.array([one.probability_before for one in held]), right, groups, 0),
        after=calibration(after, right, groups, 0),
        held=tuple(held),
        selective=risk_coverage(score, right, groups, 0),
        acceptance=0.9,
        thresholds=LIMITS,
        accepted=round(float(kept.mean()), 4),
        accepted_accuracy=round(float(right[kept].mean()), 4),
        strangers=strangers,
        notes=("The made-up micrographs all come from one made-up microscope.",),
    )


def _kind(random: np.random.Generator, name: str, middle: float, source: str) -> StrangerKind:
    novelty = middle * random.lognormal(0, 0.35, 60)
    confidence = random.uniform(0.4, 1, 60)
    reasons = Counter(
        ["novel"] * int((novelty > 1).sum()) + ["low_confidence"] * int((confidence < 0.46).sum())
    )
    return StrangerKind(
        kind=name,
        source=source,  # type: ignore[arg-type]
        pictures=60,
        abstained=int(((novelty > 1) | (confidence < 0.46)).sum()),
        reasons=dict(sorted(reasons.items())),
        novelty_auroc=0.97,
        confidence_auroc=0.71,
        energy_auroc=None if source == "simulated" else 0.68,
        combined_auroc=0.98,
        novelty=tuple(round(float(one), 4) for one in novelty),
        confidence=tuple(round(float(one), 4) for one in confidence),
    )
