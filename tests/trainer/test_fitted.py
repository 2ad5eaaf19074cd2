"""All that is fitted: temperature, novelty's unit, limits; each answer by the network that did not see it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.decision import decide
from edge_agent.model_bundle import Guards, Manifest, TrainingRanges, open_bundle
from trainer.scoring.evaluation import sources_of
from trainer.trusting.fitted import TRUE_ACCEPTANCE, Fitted, fit, with_lesson
from trainer.trusting.held_out import HeldOut, Lesson, held_out_part, learnt, observer_of
from trainer.trusting.operating_point import REFUSED, Goal, upper_limit
from trainer.trusting.temperature import fit_temperature

if TYPE_CHECKING:
    from limited import Limited


def silent(*_: object) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def manifest(limited: Limited) -> Manifest:
    return open_bundle(limited.bare).manifest


@pytest.fixture(scope="module")
def lesson(limited: Limited) -> Lesson:
    observer = observer_of(open_bundle(limited.bare))
    return learnt(observer, limited.dataset, sources_of(limited.dataset.train), silent)


@pytest.fixture(scope="module")
def held(limited: Limited, lesson: Lesson) -> tuple[HeldOut, ...]:
    observer = observer_of(open_bundle(limited.bare))
    return held_out_part(observer, lesson, limited.dataset, "validation", silent)


@pytest.fixture(scope="module")
def by_folds(limited_by_folds: tuple[object, tuple[HeldOut, ...]]) -> tuple[HeldOut, ...]:
    return limited_by_folds[1]


@pytest.fixture(scope="module", params=["part", "folds"])
def fitted(
    request: pytest.FixtureRequest,
    manifest: Manifest,
    lesson: Lesson,
    held: tuple[HeldOut, ...],
    by_folds: tuple[HeldOut, ...],
) -> Fitted:
    return fit(manifest, lesson, held if request.param == "part" else by_folds, Goal(0.9))


def test_the_temperature_is_that_of_the_held_out_answers(fitted: Fitted, manifest: Manifest) -> None:
    assert fitted.manifest.temperature == fit_temperature(
        [one.seen.logits for one in fitted.held],
        [manifest.labels.index(one.seen.source.label) for one in fitted.held],
        [one.seen.source.group for one in fitted.held],
    )
    assert fitted.manifest.temperature > 1.2, "the toy is too sure of itself"


def test_a_new_micrograph_s_novelty_is_at_most_one_as_often_as_is_stated(fitted: Fitted) -> None:
    statistics, facts = fitted.statistics, fitted.manifest.novelty
    assert statistics is not None
    assert facts is not None
    away = [
        one.seen.answered(1.0, one.lesson.statistics).novelty for one in fitted.held if one.lesson.statistics
    ]
    assert statistics.unit == pytest.approx(upper_limit(np.array(away, float), TRUE_ACCEPTANCE), rel=1e-4)
    assert facts.true_acceptance == round(np.mean([one.novelty <= 1 for one in fitted.answers]), 4)  # type: ignore[operator]
    assert facts.true_acceptance >= TRUE_ACCEPTANCE
    assert (facts.tensor, facts.components) == ("features", statistics.components)
    tensor = fitted.manifest.tensors.novelty
    assert tensor is not None
    assert (tensor.name, tensor.shape) == ("novelty", (None,))


def test_each_answer_is_by_the_statistics_of_its_own_network_in_the_common_unit(
    manifest: Manifest, lesson: Lesson, by_folds: tuple[HeldOut, ...]
) -> None:
    fitted = fit(manifest, lesson, by_folds, Goal())
    assert fitted.statistics is not None
    assert len({id(one.lesson) for one in fitted.held}) == 3
    for one, answer in zip(fitted.held, fitted.answers, strict=True):
        own = one.lesson.statistics
        assert own is not None
        away = float(own.novelty(one.seen.mean, one.seen.spread)[0])
        assert answer.novelty == pytest.approx(away / fitted.statistics.unit, rel=1e-5)


def test_the_stated_acceptance_is_what_the_agent_would_decide(fitted: Fitted) -> None:
    thresholds = fitted.manifest.thresholds
    assert thresholds is not None
    accepted = [one.decision == "accept" for one in fitted.decisions]
    assert thresholds.acceptance == round(float(np.mean(accepted)), 4)
    assert np.mean([a or bool(g) for a, g in zip(accepted, fitted.guards, strict=True)]) >= 0.9
    for one, answer, guards, decision in zip(
        fitted.held, fitted.answers, fitted.guards, fitted.decisions, strict=True
    ):
        assert decision == decide(answer, one.seen.micrograph, with_lesson(fitted.manifest, one.lesson))
        assert decision.reasons[: len(guards)] == guards
        assert (fitted.doubt(answer, guards) <= 1) == (decision.decision == "accept")
    assert fitted.right == tuple(
        one.seen.source.label == answer.label for one, answer in zip(fitted.held, fitted.answers, strict=True)
    )
    assert 0.6 < np.mean(fitted.right) < 1


def test_usual_values_are_those_of_held_out_answers(fitted: Fitted, lesson: Lesson) -> None:
    usual = fitted.manifest.usual
    assert usual.confidence is not None
    low, high = usual.confidence
    assert np.mean([low <= one.probability <= high for one in fitted.answers]) == pytest.approx(0.9, abs=0.08)
    assert usual.novelty is not None
    assert usual.novelty[0] < 1
    assert usual.contrast == lesson.usual.contrast


def test_guards_come_from_the_lesson_and_not_from_held_out_micrographs(
    manifest: Manifest, lesson: Lesson, held: tuple[HeldOut, ...]
) -> None:
    strict = replace(lesson, guards=Guards(least_sharpness=1e9), ranges=TrainingRanges())
    fitted = fit(manifest, strict, tuple(replace(one, lesson=strict) for one in held), Goal())
    assert (fitted.manifest.guards, fitted.manifest.training_ranges) == (strict.guards, strict.ranges)
    assert set(fitted.guards) == {("blurred",)}
    assert {one.decision for one in fitted.decisions} == {"abstain"}
    assert fitted.manifest.thresholds is not None
    assert fitted.manifest.thresholds.acceptance == 0
    assert fitted.doubt(fitted.answers[0], fitted.guards[0]) >= REFUSED


@pytest.mark.parametrize("whose", ["the bundle's", "a fold's"])
def test_without_statistics_of_some_network_there_is_no_novelty(
    manifest: Manifest, lesson: Lesson, held: tuple[HeldOut, ...], whose: str
) -> None:
    ignorant = replace(lesson, statistics=None, note="novelty needs 20 training micrographs, there are 12")
    if whose == "a fold's":
        fitted = fit(manifest, lesson, (*held[1:], replace(held[0], lesson=ignorant)), Goal())
    else:
        fitted = fit(manifest, ignorant, held, Goal())
    assert fitted.statistics is None
    assert (fitted.manifest.novelty, fitted.manifest.tensors.novelty) == (None, None)
    assert fitted.manifest.thresholds is not None
    assert fitted.manifest.thresholds.novelty is None
    assert {one.novelty for one in fitted.answers} == {None}
    assert fitted.manifest.usual.novelty is None


def test_without_limits_there_is_no_doubt(
    manifest: Manifest, lesson: Lesson, held: tuple[HeldOut, ...]
) -> None:
    fitted = fit(manifest, lesson, held, Goal())
    unlimited = replace(fitted, manifest=fitted.manifest.model_copy(update={"thresholds": None}))
    with pytest.raises(ValueError, match="no limits were chosen yet"):
        unlimited.doubt(fitted.answers[0])
