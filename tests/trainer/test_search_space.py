"""What a search tries, and that every backbone can be cut where it says."""

from __future__ import annotations

import json

import optuna
import pytest
from pydantic import ValidationError
from toys import RECIPE

from trainer.fitting import backbones
from trainer.fitting.augmentation import Augmentation
from trainer.fitting.run_folder import Recipe
from trainer.searching.search_space import UNFREEZE, SearchSpace, head_recipe, tuned_recipe


def drawn_head(**changes: object) -> dict:
    return {**SearchSpace().head_parameters(Recipe()), **changes}


def fixed(parameters: dict) -> optuna.trial.FixedTrial:
    return optuna.trial.FixedTrial(parameters)


@pytest.mark.parametrize("name", sorted(UNFREEZE))
def test_each_backbone_can_be_divided_after_each_layer_of_the_table(name: str) -> None:
    architecture = backbones.architectures()[name]
    model = architecture.build("none", 0)
    below = []
    for layer in UNFREEZE[name]:
        trunk, top = backbones._split(model, layer)
        assert top.trainable_weights
        below.append(trunk.count_params())
    assert below == sorted(below), "deepest unfreezing first"
    assert architecture.default_split in UNFREEZE[name]


def test_every_packaged_backbone_has_a_table() -> None:
    assert set(UNFREEZE) == set(backbones.architectures()) - {"toy"}


def test_the_origins_depth_is_searched() -> None:
    assert "mixed6" in UNFREEZE["inceptionv3-mixed7"]


def test_a_recipe_is_made_of_what_was_drawn() -> None:
    drawn = drawn_head(head_width=256, dropout=0.4, batch=8, label_smoothing=0.0, weight_decay=0.001)
    recipe = head_recipe(Recipe(), drawn)
    assert (recipe.head_width, recipe.dropout, recipe.batch) == (256, 0.4, 8)
    assert (recipe.label_smoothing, recipe.weight_decay) == (0.0, 0.001)
    tuned = tuned_recipe(recipe, {"learning_rate": 1e-4, "fine_tune_from": "block10"})
    assert (tuned.learning_rate, tuned.fine_tune_from, tuned.head_width) == (1e-4, "block10", 256)


@pytest.mark.parametrize(
    ("optimizer", "head_rate", "rate"),
    [("adamw", 3e-3, 3e-4), ("rmsprop", 9e-4, 9e-5), ("sgd", 9e-2, 9e-3)],
)
def test_learning_rates_are_searched_on_the_scale_of_adamw(
    optimizer: str, head_rate: float, rate: float
) -> None:
    recipe = head_recipe(Recipe(), drawn_head(optimizer=optimizer))
    assert recipe.optimizer == optimizer
    assert recipe.head_learning_rate == pytest.approx(head_rate)
    assert recipe.learning_rate == pytest.approx(rate)
    tuned = tuned_recipe(recipe, {"learning_rate": 3e-4, "fine_tune_from": "block5"})
    assert tuned.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_augmentation_is_scaled_from_the_recipe_begun_with(strength: float) -> None:
    base = Recipe(augmentation=Augmentation(noise=0.2, contrast=0.4))
    recipe = head_recipe(base, drawn_head(augmentation_strength=strength))
    assert recipe.augmentation.noise == pytest.approx(0.2 * strength)
    assert recipe.augmentation.contrast == pytest.approx(0.4 * strength)
    assert recipe.augmentation.rotation_degrees == base.augmentation.rotation_degrees


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(Recipe(), id="default"),
        pytest.param(Recipe(backbone="mobilenetv2"), id="mobilenetv2"),
        pytest.param(Recipe(batch=7, head_width=33, dropout=0.7, head_learning_rate=0.5), id="odd"),
        pytest.param(Recipe(optimizer="sgd", learning_rate=3.0, fine_tune_from="block2"), id="sgd"),
        pytest.param(Recipe(weight_decay=0, label_smoothing=0), id="nothing"),
    ],
)
def test_the_recipe_begun_with_lies_within_the_bounds(base: Recipe) -> None:
    space = SearchSpace().around(base)
    parameters = space.head_parameters(base) | space.tuned_parameters(base)
    trial = fixed(parameters)
    # FixedTrial warns where a value lies outside, and warnings are errors here.
    assert space.draw_head(trial) | space.draw_tuned(trial) == parameters


def test_the_recipe_begun_with_comes_back() -> None:
    base = Recipe(optimizer="sgd", learning_rate=0.01, head_learning_rate=0.1, fine_tune_from="block7")
    space = SearchSpace().around(base)
    assert tuned_recipe(head_recipe(base, space.head_parameters(base)), space.tuned_parameters(base)) == base


def test_a_backbone_without_a_table_is_cut_where_it_says_itself(toy_backbone: None) -> None:
    assert SearchSpace().around(RECIPE).unfreeze == ("lower",)


def test_layers_can_be_given() -> None:
    space = SearchSpace(unfreeze=("block2", "block14")).around(Recipe())
    assert space.unfreeze == ("block2", "block14", "block5")


@pytest.mark.parametrize(
    "wrong",
    [{"dropout": (0.5, 0.1)}, {"learning_rate": (-1.0, 1.0)}, {"head_widths": ()}, {"nonsense": 1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_bounds_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        SearchSpace(**wrong)


def test_what_was_drawn_makes_a_recipe_that_train_reads() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    space = SearchSpace().around(Recipe())
    for _ in range(20):
        trial = study.ask()
        recipe = tuned_recipe(head_recipe(Recipe(), space.draw_head(trial)), space.draw_tuned(trial))
        assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
