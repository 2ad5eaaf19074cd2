"""Where the line is drawn: the acceptance that was asked for, and nothing accepted beyond the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.decision import unsure
from edge_agent.model_bundle import Thresholds
from trainer.trusting.operating_point import (
    MISSED,
    REFUSED,
    Goal,
    Judged,
    choose_thresholds,
    doubt_of,
    missed,
    upper_limit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def judged(
    confidence: float = 0.9,
    novelty: float | None = 0.5,
    *,
    tiles: float = 0.0,
    passes: bool = True,
    right: bool = True,
) -> Judged:
    return Judged(confidence, novelty, tiles, passes, right)


def drawn(
    count: int, seed: int = 0, *, knows: bool = True, tiled: bool = False, guarded: float = 0.0
) -> list[Judged]:
    """Held-out micrographs: the surer, the more often right."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        confidence = float(1 / (1 + np.exp(-random.normal(2.5, 1.5))))
        found.append(
            judged(
                confidence,
                float(random.lognormal(-0.8, 0.4)) if knows else None,
                tiles=float(random.beta(1, 20)) if tiled else 0.0,
                passes=bool(random.random() >= guarded),
                right=bool(random.random() < confidence),
            )
        )
    return found


def accepts(limits: Thresholds, one: Judged) -> bool:
    """As `decision.decide` does: no guard, and no reason that thresholds move."""
    return one.passes and not list(unsure(one.novelty, one.confidence, one.tile_disagreement, limits))


def acceptance(limits: Thresholds, those: Sequence[Judged]) -> float:
    return float(np.mean([accepts(limits, one) for one in those]))


CASES = [
    pytest.param({}, id="confidence and novelty"),
    pytest.param({"knows": False}, id="no novelty"),
    pytest.param({"tiled": True}, id="several tiles"),
    pytest.param({"guarded": 0.03}, id="some refused by guards"),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wanted", [0.95, 0.8, 0.5])
@pytest.mark.parametrize("count", [25, 300])
def test_the_acceptance_is_reached_on_what_it_was_measured_on(
    case: dict[str, float], wanted: float, count: int
) -> None:
    held = drawn(count, 1, **case)  # type: ignore[arg-type]
    limits = choose_thresholds(held, Goal(wanted))
    found = acceptance(limits, held)
    assert wanted <= found
    if wanted > 0.5:  # below, all whose doubts are both 0 are accepted together
        assert found <= wanted + 0.02 + 1 / count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [30, 100])
def test_new_micrographs_are_accepted_as_often_on_average(case: dict[str, float], count: int) -> None:
    """Not on each draw, but over many: that is what the rank (n + 1) x acceptance is for."""
    fresh = drawn(600, 999, **case)  # type: ignore[arg-type]
    found = [
        acceptance(choose_thresholds(drawn(count, seed, **case), Goal(0.9)), fresh)  # type: ignore[arg-type]
        for seed in range(25)
    ]
    # 25 draws of rank 0.9 n of n scatter by 0.3 / sqrt(25 n); the tile limit may take another 1 % of what is new.
    assert 0.9 - 0.01 * bool(case.get("tiled")) - 0.9 / np.sqrt(25 * count) <= np.mean(found)
    assert np.mean(found) <= 0.9 + 1.5 / count + 0.9 / np.sqrt(25 * count)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wanted", [0.85, 0.9, 0.95])
def test_what_is_accepted_is_as_accurate_as_was_asked_where_that_can_be(
    case: dict[str, float], wanted: float
) -> None:
    held = drawn(400, 3, **case)  # type: ignore[arg-type]
    limits = choose_thresholds(held, Goal(accuracy=wanted))
    kept = [one for one in held if accepts(limits, one)]
    assert np.mean([one.right for one in kept]) >= wanted
    assert len(kept) <= 0.96 * len(held)
    laxer = choose_thresholds(held, Goal(accuracy=wanted - 0.05))
    assert len(kept) <= sum(accepts(laxer, one) for one in held)


def test_an_accuracy_that_nothing_reaches_gives_the_strictest_limit_and_a_note() -> None:
    held = [judged(0.5 + at / 250, 0.5, right=at % 2 == 0) for at in range(100)]
    goal = Goal(accuracy=0.99)
    limits = choose_thresholds(held, goal)
    kept = [one for one in held if accepts(limits, one)]
    assert len(kept) == 50
    (note,) = missed(goal, float(np.mean([one.right for one in kept])))
    assert note == (
        f"{MISSED} 0.99: the strictest, at the middle of the held-out answers, gives 0.5; give --confidence to "
        "edge-trainer operating-point to go beyond"
    )
    assert missed(goal, 0.995) == missed(Goal(), 0.1) == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", CASES)
def test_nothing_that_is_accepted_is_beyond_a_limit_and_nothing_within_all_is_refused(
    case: dict[str, float], seed: int
) -> None:
    held = drawn(200, seed, **case)  # type: ignore[arg-type]
    limits = choose_thresholds(held, Goal(0.9))
    for one in (*held, *drawn(200, seed + 50, **case)):  # type: ignore[arg-type]
        within = one.confidence >= limits.confidence
        within &= one.novelty is None or limits.novelty is None or one.novelty <= limits.novelty
        within &= limits.tile_disagreement is None or one.tile_disagreement <= limits.tile_disagreement
        assert within or not accepts(limits, one)
        assert accepts(limits, one) == (doubt_of(one, limits) <= 1)


def test_usual_values_are_the_medians() -> None:
    held = drawn(301)
    limits = choose_thresholds(held, Goal())
    assert limits.novelty_usual is not None
    assert limits.confidence_usual == pytest.approx(np.median([one.confidence for one in held]), rel=1e-4)
    assert limits.novelty_usual == pytest.approx(np.median([one.novelty for one in held]), rel=1e-4)
    assert limits.confidence < limits.confidence_usual
    assert limits.novelty is not None
    assert limits.novelty > limits.novelty_usual


@pytest.mark.parametrize(
    ("held", "novelty", "tiles"),
    [
        pytest.param([judged()] * 40, True, None, id="all alike"),
        pytest.param([judged(1.0, 1e-9)] * 40, True, None, id="certain, and none novel"),
        pytest.param([judged(0.5)] * 39 + [judged(0.5, tiles=0.2)], True, 0.2, id="one whose tiles disagree"),
        pytest.param([judged(novelty=None)] * 40, False, None, id="alike, no novelty"),
        pytest.param([judged(passes=False)] * 40, True, None, id="each refused by a guard"),
        pytest.param([judged(passes=False)] * 38 + [judged()] * 2, True, None, id="nearly each"),
        pytest.param([judged(1e-9, 1e9)] * 40, True, None, id="none sure, all novel"),
    ],
)
def test_degenerate_answers_give_limits_that_hold(
    held: list[Judged], novelty: bool, tiles: float | None
) -> None:
    limits = choose_thresholds(held, Goal())
    assert 0 < limits.confidence <= 1
    assert ((limits.novelty is not None), limits.tile_disagreement) == (novelty, tiles)
    Thresholds.model_validate(limits.model_dump())
    assert all(accepts(limits, one) for one in held if one.passes)


def test_very_sure_answers_are_still_told_apart() -> None:
    """Five digits of a probability near 1 would be 0.99999 for all of them."""
    held = [judged(1 - 10.0 ** -(3 + 3 * at / 199), None) for at in range(200)]
    limits = choose_thresholds(held, Goal(0.9))
    assert limits.confidence < held[20].confidence < limits.confidence_usual < held[101].confidence  # type: ignore[operator]
    assert acceptance(limits, held) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("count", "share", "rank"),
    [
        pytest.param(20, 0.95, 19.95, id="between the two largest of 20"),
        pytest.param(19, 0.95, 19, id="the largest of 19"),
        pytest.param(18, 0.95, 18, id="no more than there are"),
        pytest.param(99, 0.95, 95, id="95 of 99"),
        pytest.param(99, 0.55, 55, id="55 of 99, though 0.55 x 100 is a little more"),
        pytest.param(99, 0.01, 1, id="the smallest"),
        pytest.param(1, 0.5, 1, id="the only one"),
    ],
)
def test_the_rank_of_the_limit(count: int, share: float, rank: float) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert upper_limit(values, share) == pytest.approx(rank)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(judged(0.9, 0.5), 0.0, id="usual"),
        pytest.param(judged(0.5, 0.5), 1.0, id="at the limit of confidence"),
        pytest.param(judged(0.9, 1.0), 1.0, id="at the limit of novelty"),
        pytest.param(judged(0.5, 1.0), 2.0, id="at both"),
        pytest.param(judged(0.9, 0.5, passes=False), REFUSED, id="refused by a guard"),
        pytest.param(judged(0.5, 0.5, passes=False), REFUSED + 1, id="and unsure"),
        pytest.param(judged(0.9, 0.5, tiles=0.3), REFUSED, id="its tiles disagree"),
        pytest.param(judged(0.9, None), REFUSED, id="no novelty where one is asked for"),
        pytest.param(judged(0.9, float("nan")), REFUSED, id="no number"),
    ],
)
def test_doubt_says_how_much_of_the_limits_is_used_up(one: Judged, expected: float) -> None:
    limits = Thresholds(
        confidence=0.5, confidence_usual=0.9, novelty=1.0, novelty_usual=0.5, tile_disagreement=0.2
    )
    assert doubt_of(one, limits) == pytest.approx(expected)
