"""Learning rates of a stage: warm-up, three schedules, and what a resumed run must know of them."""

from __future__ import annotations

import keras
import pytest

from trainer.fitting.run_folder import Epoch, Recipe
from trainer.fitting.steps import Stage, rates

STAGE = Stage("fine-tuning", 10, 1e-3, whole_top=True)


def line(validation_loss: float | None, loss: float = 1.0) -> Epoch:
    return Epoch("fine-tuning", 1, loss, validation_loss, None)


def all_rates(schedule: str) -> list[float]:
    recipe = Recipe.model_validate({"schedule": schedule})
    return [rate for epoch in range(10) for rate in rates(STAGE, recipe, epoch, 5, [])]


def test_cosine_is_that_of_keras() -> None:
    expected = keras.optimizers.schedules.CosineDecay(
        5e-5, 40, alpha=0.01, warmup_target=1e-3, warmup_steps=10
    )
    assert all_rates("cosine") == pytest.approx([float(expected(step)) for step in range(50)], rel=1e-5)


def test_a_constant_rate_stays_after_its_warm_up() -> None:
    seen = all_rates("constant")
    assert seen[:10] == sorted(seen[:10])
    assert set(seen[10:]) == {1e-3}
    assert seen == all_rates("plateau"), "nothing has stopped falling"


@pytest.mark.parametrize(
    ("losses", "factor"),
    [
        pytest.param([0.9, 0.8, 0.7, 0.6], 1, id="falls"),
        pytest.param([0.5, 0.6, 0.6], 1, id="two epochs"),
        pytest.param([0.5, 0.6, 0.6, 0.5], 1 / 3, id="three epochs, equal is not lower"),
        pytest.param([0.5, 0.6, 0.6, 0.6, 0.4, 0.3], 1 / 3, id="lower for good"),
        pytest.param([0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], 1 / 9, id="six epochs"),
    ],
)
def test_plateau_lowers_the_rate_where_the_validation_loss_does_not_fall(
    losses: list[float], factor: float
) -> None:
    recipe = Recipe(schedule="plateau")
    assert rates(STAGE, recipe, 7, 5, [line(loss) for loss in losses]) == pytest.approx([1e-3 * factor] * 5)
    without_validation = [line(None, loss) for loss in losses]
    assert rates(STAGE, recipe, 7, 5, without_validation) == pytest.approx([1e-3 * factor] * 5)
