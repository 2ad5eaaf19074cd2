"""Temperature, unit of the novelty and limits from held-out micrographs, and what these are answered with then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.decision import Decision, decide
from edge_agent.model_bundle import Manifest, NoveltyFacts, Tensor
from trainer.trusting.held_out import middle
from trainer.trusting.novelty import NOVELTY
from trainer.trusting.operating_point import Goal, Judged, choose_thresholds, doubt_of, rounded, upper_limit
from trainer.trusting.temperature import fit_temperature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.classifier import Answer
    from trainer.trusting.held_out import HeldOut, Lesson
    from trainer.trusting.novelty import NoveltyStatistics

TRUE_ACCEPTANCE: Final = 0.95
"""Share of good micrographs whose novelty is at most 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a bundle is to carry, and the held-out answers with it, each by the network that did not see it."""

    manifest: Manifest
    """Of the new bundle, without what follows from its files."""
    statistics: NoveltyStatistics | None
    held: tuple[HeldOut, ...]
    answers: tuple[Answer, ...]
    guards: tuple[tuple[str, ...], ...]
    """Reasons that no threshold moves, of each held-out micrograph."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What would be decided of each held-out micrograph."""
        return tuple(
            decide(answer, one.seen.micrograph, with_lesson(self.manifest, one.lesson))
            for one, answer in zip(self.held, self.answers, strict=True)
        )

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each is answered as a person did."""
        return tuple(
            one.seen.source.label == answer.label for one, answer in zip(self.held, self.answers, strict=True)
        )

    def doubt(self, answer: Answer, guards: Sequence[str] = ()) -> float:
        """How much of the limits an answer uses up; far more than all where a guard or its tiles refuse it."""
        if self.manifest.thresholds is None:
            raise ValueError("no limits were chosen yet")
        return doubt_of(judged(answer, guards), self.manifest.thresholds)


def fit(manifest: Manifest, lesson: Lesson, held: tuple[HeldOut, ...], goal: Goal) -> Fitted:
    """Fit everything; `manifest` is that of the bundle as it is, `lesson` what its network was taught."""
    labels = manifest.labels
    temperature = fit_temperature(
        [one.seen.logits for one in held],
        [labels.index(one.seen.source.label) for one in held],
        [one.seen.source.group for one in held],
    )
    statistics = _in_unit(lesson, held, temperature)
    answers = tuple(_answer(one, temperature, statistics) for one in held)
    draft = _draft(manifest, lesson, statistics, answers).model_copy(update={"temperature": temperature})
    guards = tuple(
        decide(answer, one.seen.micrograph, with_lesson(draft, one.lesson)).reasons
        for one, answer in zip(held, answers, strict=True)
    )
    seen = [
        judged(answer, why, right=answer.label == one.seen.source.label)
        for one, answer, why in zip(held, answers, guards, strict=True)
    ]
    thresholds = choose_thresholds(seen, goal)
    chosen = Fitted(draft.model_copy(update={"thresholds": thresholds}), statistics, held, answers, guards)
    accepted = np.mean([one.decision == "accept" for one in chosen.decisions])
    stated = thresholds.model_copy(update={"acceptance": round(float(accepted), 4)})
    return replace(chosen, manifest=draft.model_copy(update={"thresholds": stated}))


def with_lesson(manifest: Manifest, lesson: Lesson) -> Manifest:
    """A manifest with the guards and ranges of a lesson."""
    return manifest.model_copy(update={"guards": lesson.guards, "training_ranges": lesson.ranges})


def _in_unit(lesson: Lesson, held: Sequence[HeldOut], temperature: float) -> NoveltyStatistics | None:
    """The statistics in the unit that holds for new micrographs; None where some network has none."""
    if lesson.statistics is None or any(one.lesson.statistics is None for one in held):
        return None
    away = [one.seen.answered(temperature, one.lesson.statistics).novelty for one in held]
    # Rounded up, so that the micrograph that sets the unit is not beyond 1.
    unit = rounded(upper_limit(np.array(away, float), TRUE_ACCEPTANCE))
    return replace(lesson.statistics, unit=unit)


def _answer(held: HeldOut, temperature: float, statistics: NoveltyStatistics | None) -> Answer:
    """By the statistics of the network that did not see it, in the new bundle's unit."""
    own = held.lesson.statistics
    if statistics is None or own is None:
        return held.seen.answered(temperature, None)
    return held.seen.answered(temperature, replace(own, unit=statistics.unit))


def judged(answer: Answer, guards: Sequence[str], *, right: bool = False) -> Judged:
    """What thresholds and rank go by."""
    return Judged(
        confidence=answer.probability,
        novelty=answer.novelty,
        tile_disagreement=answer.tile_disagreement,
        passes=not guards,
        right=right,
    )


def _draft(
    manifest: Manifest,
    lesson: Lesson,
    statistics: NoveltyStatistics | None,
    answers: Sequence[Answer],
) -> Manifest:
    """Everything but temperature and thresholds."""
    away = [answer.novelty for answer in answers if answer.novelty is not None]
    tensor = None if statistics is None else Tensor(name=NOVELTY, shape=manifest.tensors.input.shape[:1])
    usual = {"confidence": middle([answer.probability for answer in answers]), "novelty": middle(away)}
    return with_lesson(manifest, lesson).model_copy(
        update={
            "created": datetime.now(UTC).replace(microsecond=0),
            "tensors": manifest.tensors.model_copy(update={"novelty": tensor}),
            "novelty": None if statistics is None else _facts(statistics, away),
            "thresholds": None,
            "usual": lesson.usual.model_copy(update=usual),
        }
    )


def _facts(statistics: NoveltyStatistics, away: Sequence[float]) -> NoveltyFacts:
    return NoveltyFacts(
        tensor=statistics.tensor,
        components=statistics.components,
        micrographs=statistics.micrographs,
        true_acceptance=round(float(np.mean(np.array(away) <= 1)), 4),
        description=(
            "Mahalanobis distance of mean and log spread of a feature map over the field from those of the "
            f"training micrographs, averaged over the first 1 to {statistics.components} principal components."
        ),
    )
