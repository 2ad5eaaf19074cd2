"""What a hyperparameter search found, as values and as text: trials, the best recipe, what mattered.

Only this module knows how a recorded trial is read, and how far the importance of a parameter can be believed: the
shares of fANOVA (Hutter et al., ICML 2014) are compared with those that the same trials give when their scores are
shuffled, which is what chance alone would show.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.fitting.run_folder import Recipe
from trainer.searching.study_storage import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from trainer.preparing.crops import Crop
    from trainer.searching.search_space import Value

HEAD: Final = "head"
TUNED: Final = "fine-tuning"
BASE: Final = "base"
"""The slot of the recipe that the search began with."""
STRENGTH: Final = "augmentation_strength"
"""The one parameter that no field of a recipe shows; a finalist has it from its head."""
ENOUGH_TRIALS: Final = 10
_SHUFFLES: Final = 20
_TREES: Final = 32
_NAMES: Final = {
    "head_learning_rate": "head rate",
    "head_width": "head width",
    "dropout": "dropout",
    "augmentation_strength": "augment.",
    "batch": "batch",
    "optimizer": "optimizer",
    "weight_decay": "decay",
    "label_smoothing": "smoothing",
    "learning_rate": "rate",
    "fine_tune_from": "unfrozen after",
}
_TUNED_ONLY: Final = ("learning_rate", "fine_tune_from")


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One trial of either stage. Loss and accuracy are class-balanced, of crops that it was not fitted on."""

    stage: str
    number: int
    state: str
    """"complete", "pruned" (worse than most at the same epoch), "failed", or "running" elsewhere."""
    parameters: dict[str, Value]
    """As drawn; learning rates on the scale of AdamW."""
    recipe: Recipe | None
    score: float | None
    accuracy: float | None
    loss: float | None
    seconds: float | None
    curve: tuple[float, ...]
    """Score after each epoch."""
    reason: str
    slot: str
    strength: float | None = None
    """Of augmentation, 1 as in the recipe begun with."""

    @property
    def is_base(self) -> bool:
        """Whether this is the recipe that the search began with."""
        return self.slot == BASE


@dataclass(frozen=True, slots=True)
class Importance:
    """Shares of the scores' variance by parameter, most important first; `chance` is what shuffled scores reach."""

    stage: str
    trials: int
    shares: dict[str, float]
    chance: dict[str, float]
    """Nine of ten shuffles stay below."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A search with all its trials, best first within each stage (fine-tuned ones before heads)."""

    folder: Path
    trials: tuple[TrialLine, ...]
    best: TrialLine
    best_recipe: Recipe
    importance: tuple[Importance, ...]
    notes: tuple[str, ...]
    command: str
    """Trains the best recipe."""

    def stage(self, name: str) -> tuple[TrialLine, ...]:
        """Return the trials of one stage, best first."""
        return tuple(line for line in self.trials if line.stage == name)


def line_of(trial: FrozenTrial, stage: str) -> TrialLine:
    """Read a recorded trial."""
    marks = trial.user_attrs
    recipe = Recipe.model_validate_json(marks["recipe"]) if "recipe" in marks else None
    steps = sorted(trial.intermediate_values)
    names = {"FAIL": "failed"}
    return TrialLine(
        stage=stage,
        number=trial.number,
        state=names.get(trial.state.name, trial.state.name.lower()),
        parameters=dict(trial.params),
        recipe=recipe,
        score=trial.value if trial.state.name == "COMPLETE" else None,
        accuracy=marks.get("accuracy"),
        loss=marks.get("loss"),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        curve=tuple(trial.intermediate_values[step] for step in steps),
        reason=reason_of(trial),
        slot=str(marks.get("slot", "")),
        strength=trial.params.get(STRENGTH, marks.get(STRENGTH)),
    )


def ranked(lines: Sequence[TrialLine]) -> list[TrialLine]:
    """Best first; then pruned ones by what they had reached, then failed ones."""
    order = {"complete": 0, "pruned": 1}

    def key(line: TrialLine) -> tuple[int, float, int]:
        reached = line.score if line.score is not None else max(line.curve, default=-math.inf)
        return order.get(line.state, 2), -reached, line.number

    return sorted(lines, key=key)


def importance_of(study: optuna.Study, stage: str, seed: int) -> Importance | None:
    """How much each parameter decided; None where too few trials were completed to say, or all did alike."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    scores = np.array([float(trial.value or 0.0) for trial in complete])
    if len(complete) < ENOUGH_TRIALS or np.ptp(scores) == 0:
        return None
    shares = _shares(complete, scores, seed)
    draw = np.random.default_rng(seed)
    shuffled = [_shares(complete, draw.permutation(scores), seed) for _ in range(_SHUFFLES)]
    chance = {name: float(np.quantile([other.get(name, 0.0) for other in shuffled], 0.9)) for name in shares}
    return Importance(stage, len(complete), dict(sorted(shares.items(), key=lambda one: -one[1])), chance)


def _shares(trials: Sequence[FrozenTrial], scores: Any, seed: int) -> dict[str, float]:  # noqa: ANN401
    import optuna

    study = optuna.create_study(direction="maximize")
    for trial, score in zip(trials, scores.tolist(), strict=True):
        study.add_trial(
            optuna.create_trial(params=trial.params, distributions=trial.distributions, value=score)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def notes_on(
    trials: Sequence[TrialLine], best: TrialLine, held_out: Sequence[Crop], folds: int
) -> tuple[str, ...]:
    """What to know before the result is believed."""
    counts = Counter(crop.label for crop in held_out)
    right = min(max(best.accuracy or 0.0, 0.05), 0.95)
    error = math.sqrt(sum(right * (1 - right) / count for count in counts.values())) / len(counts)
    where = f"{folds} grouped folds" if folds else "the validation part"
    lines = [
        f"scored on {len(held_out)} crops of {where}: an accuracy of {right:.2f} is uncertain by "
        f"{error:.3f} (one standard error, crops taken for independent); smaller differences say nothing",
        "the best of many trials looks better on what chose it than it is: believe edge-trainer evaluate on the "
        "test part, which no trial has seen",
    ]
    begun = [line for line in trials if line.is_base and line.stage == best.stage and line.score is not None]
    if begun and not best.is_base and begun[0].accuracy is not None and best.accuracy is not None:
        gain = best.accuracy - begun[0].accuracy
        small = "less" if abs(gain) < error else "more"
        lines.append(
            f"accuracy of the recipe begun with: {begun[0].accuracy:.3f}, of the best: {best.accuracy:.3f} "
            f"({gain:+.3f}, {small} than one standard error)"
        )
    elif best.is_base:
        lines.append("no trial did better than the recipe that the search began with")
    return tuple(lines)


def train_command(dataset: Path, folder: Path, seed: int) -> str:
    """The command that trains the best recipe, as it is typed."""
    words = [
        "edge-trainer", "train", str(dataset), "--run", str(folder / "best"),
        "--recipe", str(folder / "best_recipe.json"), "--seed", str(seed),
    ]  # fmt: skip
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def study_text(result: StudyResult) -> str:
    """Return the search as a table for each stage, what mattered, what to beware of, and how to go on."""
    blocks = []
    for stage, title in ((TUNED, "fine-tuned"), (HEAD, "heads on frozen features")):
        lines = result.stage(stage)
        if lines:
            blocks.append("\n".join([title, *_aligned(table_of(lines))]))
    blocks += ["\n".join(importance_text(result)), "\n".join(f"note: {note}" for note in result.notes)]
    blocks.append(f"best: {result.best.stage} trial {result.best.number}\ntrain it: {result.command}")
    return "\n\n".join(block for block in blocks if block)


def table_of(lines: Sequence[TrialLine], *, whole: bool = False) -> list[tuple[str, ...]]:
    """Rows of text, the first of them the headings; `whole` shows what was not searched in this stage, too."""
    searched = [name for name in _NAMES if whole or lines[0].stage == TUNED or name not in _TUNED_ONLY]
    head = ("trial", "score", "accuracy", "loss", *(_NAMES[name] for name in searched), "time", "state")
    rows = [head]
    for line in lines:
        values = [_value_of(line, name) for name in searched]
        state = f"{line.state}: {line.reason}" if line.reason else line.state
        rows.append(
            (
                f"{line.number}{' (begun with)' if line.is_base else ''}",
                _figure(line.score, 4),
                _figure(line.accuracy, 3),
                _figure(line.loss, 3),
                *values,
                f"{line.seconds:.0f} s" if line.seconds is not None else "-",
                state,
            )
        )
    return rows


def _value_of(line: TrialLine, name: str) -> str:
    """A parameter as it stands in the recipe."""
    value: Any = line.strength if name == STRENGTH else line.parameters.get(name)
    if line.recipe is not None and name in Recipe.model_fields:
        value = getattr(line.recipe, name)
    if name == "fine_tune_from" and value is None:
        value = line.parameters.get(name)
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def importance_text(result: StudyResult) -> list[str]:
    """What mattered, in a line for each stage that has trials."""
    found = {one.stage: one for one in result.importance}
    lines = []
    for stage in (HEAD, TUNED):
        complete = sum(line.state == "complete" for line in result.stage(stage))
        if stage not in found:
            few = f"{complete} completed trials are too few to say (at least {ENOUGH_TRIALS})"
            why = few if complete < ENOUGH_TRIALS else "nothing: all trials scored alike"
            lines += [f"what mattered ({stage}): {why}"] if complete else []
            continue
        one = found[stage]
        parts = [
            f"{_NAMES.get(name, name)} {share:.0%}{'' if share > one.chance[name] else '?'}"
            for name, share in one.shares.items()
        ]
        lines.append(
            f"what mattered ({stage}, {one.trials} trials; ?: no more than chance shows): {', '.join(parts)}"
        )
    return lines


def label_of(parameter: str) -> str:
    """A parameter's name for a picture."""
    return parameter.replace("_", " ").replace("fine tune from", "unfrozen after")


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
