"""Grouped folds: for each, train without its groups, export, and score the bundle on them as the agent would.

Resumable: a fold whose bundle and scores are there is not computed again, an interrupted one goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import write_durably
from edge_agent.model_bundle import open_bundle
from trainer.exporting.export import BundleNotes, export
from trainer.fitting.ensemble import FOLDS
from trainer.fitting.run_folder import Recipe, RunError, read_record
from trainer.fitting.training import train
from trainer.preparing.split import Fold, grouped_folds
from trainer.scoring.evaluation import CrossValidation, EvaluationError, Scored, figures, score, sources_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.preparing.crops import DataSet

RESULT: Final = FOLDS


class FoldScores(BaseModel):
    """The file `scores.json` of a fold: every micrograph that it held out, scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_fingerprint: str
    recipe: Recipe
    seed: int
    balanced_accuracy: float
    scored: tuple[Scored, ...]
    unreadable: dict[str, str] = Field(default_factory=dict)


def cross_validate(
    dataset: DataSet,
    run: Path,
    recipe: Recipe,
    *,
    folds: int = 5,
    seed: int = 0,
    masks: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> CrossValidation:
    """Cross-validate a recipe on all kept crops of a data set; writes `run`/cross_validation.json.

    The data set's own parts are set aside: every micrograph is scored once, by a network that saw none of its
    group. The weights of the last epoch are taken (nothing is chosen by looking at held-out micrographs).
    """
    dataset = replace(dataset, crops=tuple(replace(crop, part="train") for crop in dataset.kept))
    recipe = recipe.model_copy(update={"keep": "last"})
    parts = grouped_folds(dataset.train, folds, seed)
    scores = [
        fold_scores(
            dataset,
            run / f"fold-{index}",
            recipe,
            _groups(dataset, fold),
            seed=seed,
            masks=masks,
            features=run / "features",
            progress=progress,
        )
        for index, fold in enumerate(parts)
    ]
    by_fold = tuple(fold.balanced_accuracy for fold in scores)
    pooled = [entry for fold in scores for entry in fold.scored]
    result = CrossValidation(
        folds=folds,
        seed=seed,
        dataset_fingerprint=dataset.fingerprint,
        balanced_accuracy_mean=round(float(np.mean(by_fold)), 4),
        balanced_accuracy_standard_deviation=round(float(np.std(by_fold, ddof=1)), 4),
        balanced_accuracy_standard_error=round(float(np.std(by_fold, ddof=1) / np.sqrt(folds)), 4),
        by_fold=by_fold,
        pooled=figures(pooled, dataset.labels, seed),
        recipe=recipe.model_dump(mode="json"),
        unreadable={file: reason for fold in scores for file, reason in fold.unreadable.items()},
    )
    write_durably(run / RESULT, (result.model_dump_json(indent=1) + "\n").encode())
    return result


def read_cross_validation(path: Path) -> CrossValidation:
    """Read a result of `cross_validate`, from its file or its run folder.

    Raises:
        EvaluationError: there is none, or it is damaged.

    """
    file = path / RESULT if path.is_dir() else path
    try:
        return CrossValidation.model_validate_json(file.read_bytes())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file}: no result of edge-trainer crossvalidate here ({error})") from error


def _groups(dataset: DataSet, fold: Fold) -> frozenset[str]:
    held = set(fold.held_out_ids)
    return frozenset(crop.group for crop in dataset.train if crop.crop_id in held)


def fold_scores(
    dataset: DataSet,
    run: Path,
    recipe: Recipe,
    held_out: frozenset[str],
    *,
    unused: frozenset[str] = frozenset(),
    seed: int,
    masks: Path | None = None,
    features: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> FoldScores:
    """Train in `run` without the groups held out and those unused, export, and score the groups held out.

    Micrographs labelled by somebody who had seen the answer train in the other folds and are not scored. What is
    finished is not computed again.
    """
    file = run / "scores.json"
    done = _finished(file, dataset, recipe, seed, held_out, held_out | unused, masks)
    if done is not None:
        return done

    def told(what: str, at: int, total: int) -> None:
        progress(f"{run.name}: {what}", at, total)

    train(
        dataset,
        run,
        recipe,
        seed=seed,
        without_groups=held_out | unused,
        validate=False,
        features=features,
        progress=told,
    )
    bundle = run / "bundle"
    if not bundle.exists():
        export(run, dataset, bundle, BundleNotes(name=run.name, version="0"), progress=told)
    crops = [crop for crop in dataset.train if crop.group in held_out and not crop.answer_seen]
    scored, unreadable = score(open_bundle(bundle), dataset, sources_of(crops), masks, told)
    result = FoldScores(
        dataset_fingerprint=dataset.fingerprint,
        recipe=recipe,
        seed=seed,
        balanced_accuracy=figures(scored, dataset.labels, seed).balanced_accuracy,
        scored=scored,
        unreadable=unreadable,
    )
    write_durably(file, result.model_dump_json(indent=1).encode())
    return result


def _finished(
    file: Path,
    dataset: DataSet,
    recipe: Recipe,
    seed: int,
    held_out: frozenset[str],
    unseen: frozenset[str],
    masks: Path | None,
) -> FoldScores | None:
    """The scores of a fold where they are there and of this very question."""
    try:
        done = FoldScores.model_validate_json(file.read_bytes())
        recorded = read_record(file.parent).held_out
    except (OSError, ValidationError, UnicodeDecodeError, RunError):
        return None
    same = (done.dataset_fingerprint, done.recipe, done.seed) == (dataset.fingerprint, recipe, seed)
    masked = masks is None or any(entry.peak_on_particle is not None for entry in done.scored)
    # Another number of folds has other groups in the fold of this number.
    asked = set(recorded) == unseen and {entry.group for entry in done.scored} <= held_out
    return done if same and masked and asked else None
