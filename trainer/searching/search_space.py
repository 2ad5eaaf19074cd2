"""What a hyperparameter search tries: which fields of a recipe, in which bounds, and after which layers to cut.

Only this module knows the names of a trial's parameters and how they become a recipe. The search has two stages:
what concerns the head and the pictures is tried on frozen features (`head_recipe`), what concerns the backbone is
tried by fine-tuning with the best of those (`tuned_recipe`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.fitting import backbones
from trainer.fitting.run_folder import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.trial import Trial

Value = float | int | str
Range = tuple[float, float]

UNFREEZE: Final[dict[str, tuple[str, ...]]] = {
    "efficientnet-lite0": ("block4", "block5", "block7", "block10", "block14"),
    "inceptionv3-mixed7": ("mixed2", "mixed4", "mixed5", "mixed6"),
    "mobilenetv2": ("block_6_expand_relu", "block_9_add", "block_12_add", "block_15_add"),
}
"""Layers after which fine-tuning may begin, deepest unfreezing first; no shortcut leads past any of them."""

RATE_OF_ADAMW: Final[dict[str, float]] = {"adamw": 1.0, "rmsprop": 0.3, "sgd": 30.0}
"""Learning rates are searched on AdamW's scale: what AdamW does at 1e-3, SGD with momentum does at about 3e-2."""


class SearchSpace(BaseModel):
    """The bounds of a search. Ranges are (lowest, highest); rates and weight decay are drawn log-uniformly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_learning_rate: Range = (3e-4, 3e-2)
    head_widths: tuple[int, ...] = Field(default=(0, 256, 1024), min_length=1)
    dropout: Range = (0.0, 0.5)
    strengths: tuple[float, ...] = Field(default=(0.0, 0.5, 1.0), min_length=1)
    """Of augmentation, 1 as in the recipe to begin with. Few: each needs frozen features of its own."""
    batches: tuple[int, ...] = Field(default=(8, 16, 32), min_length=1)
    optimizers: tuple[str, ...] = Field(default=("adamw", "sgd", "rmsprop"), min_length=1)
    weight_decay: Range = (1e-4, 0.1)
    label_smoothing: Range = (0.0, 0.2)
    learning_rate: Range = (5e-5, 1e-3)
    unfreeze: tuple[str, ...] | None = None
    """Layers to begin fine-tuning after; None stands for the backbone's own list."""

    @field_validator("head_learning_rate", "dropout", "weight_decay", "label_smoothing", "learning_rate")
    @classmethod
    def _is_a_range(cls, bounds: Range) -> Range:
        if not 0 <= bounds[0] <= bounds[1]:
            raise ValueError("a range is (lowest, highest), neither below 0")
        return bounds

    def around(self, base: Recipe) -> SearchSpace:
        """Widen the bounds so that they hold the recipe that the search begins with."""
        first = self.head_parameters(base) | self.tuned_parameters(base)
        ranges = ("head_learning_rate", "dropout", "weight_decay", "label_smoothing", "learning_rate")
        choices = {
            "head_widths": "head_width",
            "strengths": "augmentation_strength",
            "batches": "batch",
            "optimizers": "optimizer",
        }
        widened = {name: _with(getattr(self, name), float(first[name])) for name in ranges}
        held = {
            name: tuple(dict.fromkeys((*getattr(self, name), first[one]))) for name, one in choices.items()
        }
        layers = tuple(dict.fromkeys((*self._layers(base), str(first["fine_tune_from"]))))
        return SearchSpace.model_validate({**widened, **held, "unfreeze": layers})

    def head_parameters(self, base: Recipe) -> dict[str, Value]:
        """The first stage's parameters of a recipe that no search has changed."""
        return {
            "head_learning_rate": base.head_learning_rate / RATE_OF_ADAMW[base.optimizer],
            "head_width": base.head_width,
            "dropout": base.dropout,
            "augmentation_strength": 1.0,
            "batch": base.batch,
            "optimizer": base.optimizer,
            "weight_decay": max(base.weight_decay, 1e-6),
            "label_smoothing": base.label_smoothing,
        }

    def tuned_parameters(self, base: Recipe) -> dict[str, Value]:
        """The second stage's parameters of a recipe that no search has changed."""
        return {
            "learning_rate": base.learning_rate / RATE_OF_ADAMW[base.optimizer],
            "fine_tune_from": base.fine_tune_from or backbones.architectures()[base.backbone].default_split,
        }

    def draw_head(self, trial: Trial) -> dict[str, Value]:
        """Let the sampler choose what the first stage varies."""
        return {
            "head_learning_rate": trial.suggest_float(
                "head_learning_rate", *self.head_learning_rate, log=True
            ),
            "head_width": trial.suggest_categorical("head_width", self.head_widths),
            "dropout": trial.suggest_float("dropout", *self.dropout),
            "augmentation_strength": trial.suggest_categorical("augmentation_strength", self.strengths),
            "batch": trial.suggest_categorical("batch", self.batches),
            "optimizer": trial.suggest_categorical("optimizer", self.optimizers),
            "weight_decay": trial.suggest_float("weight_decay", *self.weight_decay, log=True),
            "label_smoothing": trial.suggest_float("label_smoothing", *self.label_smoothing),
        }

    def draw_tuned(self, trial: Trial) -> dict[str, Value]:
        """Let the sampler choose what the second stage varies."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "fine_tune_from": trial.suggest_categorical("fine_tune_from", self.unfreeze or ()),
        }

    def _layers(self, base: Recipe) -> tuple[str, ...]:
        if self.unfreeze is not None:
            return self.unfreeze
        return UNFREEZE.get(base.backbone, ())


def head_recipe(base: Recipe, drawn: Mapping[str, Value]) -> Recipe:
    """The recipe that the first stage's parameters stand for."""
    rate = float(drawn["head_learning_rate"]) * RATE_OF_ADAMW[str(drawn["optimizer"])]
    changes = {name: value for name, value in drawn.items() if name in Recipe.model_fields}
    strength = float(drawn["augmentation_strength"])
    augmentation = base.augmentation if strength == 1 else base.augmentation.scaled(strength)
    # What the backbone's rate is to an optimizer follows it, also where the second stage has not looked yet.
    following = base.learning_rate / RATE_OF_ADAMW[base.optimizer] * RATE_OF_ADAMW[str(drawn["optimizer"])]
    return _changed(
        base,
        {**changes, "head_learning_rate": rate, "learning_rate": following, "augmentation": augmentation},
    )


def tuned_recipe(head: Recipe, drawn: Mapping[str, Value]) -> Recipe:
    """The recipe of the first stage's winner with the second stage's parameters."""
    rate = float(drawn["learning_rate"]) * RATE_OF_ADAMW[head.optimizer]
    return _changed(head, {"learning_rate": rate, "fine_tune_from": drawn["fine_tune_from"]})


def _changed(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    rounded = {name: _rounded(value) for name, value in changes.items()}
    return Recipe.model_validate({**recipe.model_dump(), **rounded})


def _rounded(value: object) -> object:
    """Four digits: more would only pretend to mean something."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _with(bounds: Range, value: float) -> Range:
    return min(bounds[0], value), max(bounds[1], value)
