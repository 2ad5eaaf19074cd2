"""What a hyperparameter search is asked: on which crops, from which recipe, in which folder.

Only this module knows `study.json`, which keeps one search from going on in another's folder, and which crops a
search may look at: those of the training and validation parts. The test part is taken out before anything is read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from edge_agent.files import write_durably
from trainer.fitting.devices import CLUSTER
from trainer.preparing.split import grouped_folds
from trainer.searching.study_storage import TuningError

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.fitting.run_folder import Recipe
    from trainer.preparing.crops import DataSet
    from trainer.searching.search_space import SearchSpace

_CLAIM: Final = "study.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """The question of a search: what makes two searches the same one."""

    fingerprint: str
    base: Recipe
    folds: int
    seed: int
    space: SearchSpace

    def as_json(self) -> dict[str, Any]:
        """As it stands in the study folder."""
        return {
            "data set": self.fingerprint,
            "recipe to begin with": self.base.model_dump(mode="json"),
            "number of folds": self.folds,
            "seed": self.seed,
            "search space": self.space.model_dump(mode="json"),
        }


def check_counts(trials: int, finalists: int, folds: int) -> None:
    """TuningError where numbers of trials, finalists and folds, or the surroundings, make no search."""
    if os.environ.get(CLUSTER, "").strip():
        raise TuningError(
            f"{CLUSTER} is set, which spreads one run over several machines; a search has a process of its own on "
            "each: unset it, and give the same --storage on all of them"
        )
    if not 0 <= finalists < trials:
        raise TuningError(
            f"{trials} trials with {finalists} finalists leave no trial for the first stage; "
            "give more --trials or fewer --finalists"
        )
    if folds == 1 or folds < 0:
        raise TuningError(f"{folds} folds were asked for; give 0 (the validation part) or at least 2")


def searched_part(dataset: DataSet, folds: int, seed: int) -> DataSet:
    """The data set without its test part; without a validation part, the first fold stands in for it."""
    known = (*dataset.train, *dataset.validation)
    missing = sorted(set(dataset.labels) - {crop.label for crop in dataset.train})
    if len(dataset.labels) < 2 or missing:
        what = f"no crop of {', '.join(missing)} in the training part" if missing else "only one class"
        raise TuningError(
            f"{dataset.root}: {what}; add micrographs, or prepare with other classes or another split"
        )
    if dataset.validation:
        if len({crop.label for crop in dataset.validation}) < 2:
            raise TuningError(
                f"{dataset.root}: all crops of the validation part are {dataset.validation[0].label}, so nothing "
                "can be chosen by it; prepare with another split, or give --folds 5"
            )
        return replace(dataset, crops=known)
    if folds < 2:
        raise TuningError(
            f"{dataset.root}: no crop in the validation part, so nothing to choose by; "
            "prepare with --validation 0.15, or give --folds 5"
        )
    held = set(grouped_folds(known, folds, seed)[0].held_out_ids)
    return replace(
        dataset,
        crops=tuple(
            replace(crop, part="validation") if crop.crop_id in held else crop
            for crop in known
            if not (crop.crop_id in held and crop.answer_seen)
        ),
    )


def claim_study(folder: Path, asked: Asked) -> None:
    """Make the study folder, or see that it is this very search's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / _CLAIM
    with FileLock(folder / "storage.lock"):
        if not file.is_file():
            write_durably(file, (json.dumps(asked.as_json(), indent=1) + "\n").encode())
            return
    try:
        there = json.loads(file.read_bytes())
        differing = [name for name, value in asked.as_json().items() if there.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise TuningError(
            f"{file}: not the note of a search ({error}); give another --study folder"
        ) from error
    if differing:
        raise TuningError(
            f"{folder}: holds a search with another {' and another '.join(differing)}; give another --study folder"
        )
