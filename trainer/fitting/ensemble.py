"""Several runs that answer together: seeds of one recipe, or the folds of a cross-validation.

Only this module knows which folders below a run are its members, and what of the data set they saw between them.
A seed ensemble is a folder with `ensemble.json` and `member-0`, `member-1` ..., each an ordinary run; the folds are
the `fold-k` of `scoring.cross_validation`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import write_durably
from trainer.fitting.devices import devices
from trainer.fitting.run_folder import CONFIG, WEIGHTS, RunError
from trainer.fitting.training import train
from trainer.preparing.split import PARTS, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.fitting.run_folder import Epoch, Recipe, RunRecord
    from trainer.fitting.steps import Step
    from trainer.preparing.crops import Crop, DataSet

ENSEMBLE: Final = "ensemble.json"
FOLDS: Final = "cross_validation.json"
_KINDS: Final = ("member", "fold")


class _Ensemble(BaseModel):
    """The file `ensemble.json`: how many members there are to be, and the first one's seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["scopewatch.ensemble/1"] = "scopewatch.ensemble/1"
    members: int = Field(ge=2)
    seed: int


def train_ensemble(
    dataset: DataSet,
    run: Path,
    recipe: Recipe,
    *,
    members: int,
    seed: int = 0,
    resume: bool | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    told: Callable[[Epoch], None] = lambda _: None,
    watched: Callable[[Step], None] = lambda _: None,
) -> tuple[Path, ...]:
    """Train `members` runs of one recipe, seeds `seed`, `seed` + 1 ..., in `run`/member-0 ...; returns the folders.

    A finished member is left as it is, an interrupted one goes on; asking for more members later adds them. The
    seed decides head, augmented views and order, so the members differ in all three. Their intermediate features
    share one place: those of a finished member make room for the next one's. `resume`: None goes on where there is
    an ensemble, True wants one there, False wants none; the rest as in `fitting.training.train`.

    Raises:
        RunError: as `fitting.training.train`, or the folder holds a single run or a larger ensemble.
        TrainingFailed: as `fitting.training.train`.

    """
    if devices().is_chief:
        _claim(run, _wanted(members, seed), resume)
    folders = tuple(run / f"member-{index}" for index in range(members))
    for index, folder in enumerate(folders):
        name = f"member {index + 1} of {members}"

        def shown(what: str, done: int, total: int, name: str = name) -> None:
            progress(f"{name}: {what}", done, total)

        train(
            dataset,
            folder,
            recipe,
            seed=seed + index,
            features=run / "features",
            progress=shown,
            told=told,
            watched=watched,
        )
    return folders


def members_of(run: Path) -> tuple[Path, ...]:
    """The run folders that a bundle of `run` consists of: itself, its members, or its folds.

    Raises:
        RunError: no run at all, or an ensemble or a cross-validation that has not finished.

    """
    if (run / CONFIG).is_file():
        return (run,)
    found = _numbered(run)
    if (run / ENSEMBLE).is_file():
        wanted, again = _read(run).members, "run edge-trainer train with --members again"
    elif (run / FOLDS).is_file():
        wanted, again = len(found), ""
    elif found:
        raise RunError(f"{run}: has folds but no {FOLDS}; run edge-trainer crossvalidate again until it ends")
    else:
        raise RunError(f"{run}: no {CONFIG} here and no members; give the folder of a run")
    finished = [folder for folder in found[:wanted] if (folder / WEIGHTS).is_file()]
    if len(finished) < wanted:
        raise RunError(f"{run}: {len(finished)} of {wanted} members have finished; {again or 'train again'}")
    return tuple(finished)


def _numbered(run: Path) -> list[Path]:
    """The folders member-0, member-1 ... or fold-0, fold-1 ... in the order of their numbers."""
    for kind in _KINDS:
        names = {path.name: path for path in run.glob(f"{kind}-*") if path.is_dir()}
        numbers = sorted(int(tail) for name in names if (tail := name.partition("-")[2]).isdecimal())
        if numbers:
            return [names[f"{kind}-{number}"] for number in numbers]
    return []


def _wanted(members: int, seed: int) -> _Ensemble:
    if members < 2:
        raise RunError(
            f"an ensemble has at least 2 members, {members} asked for; leave --members out for one run"
        )
    return _Ensemble(members=members, seed=seed)


def _claim(run: Path, wanted: _Ensemble, resume: bool | None) -> None:
    there = (run / ENSEMBLE).is_file()
    if resume and not there:
        raise RunError(f"{run}: no ensemble to resume here (no {ENSEMBLE}); leave --resume out to begin one")
    if there and resume is False:
        raise RunError(
            f"{run}: holds an ensemble already; give another --run folder, or leave --no-resume out"
        )
    if (run / CONFIG).is_file():
        raise RunError(f"{run}: holds a single run; give another --run folder for an ensemble")
    if there:
        _extend(run, wanted)
    elif run.is_dir() and any(run.iterdir()):
        raise RunError(f"{run}: not empty and no ensemble; give another --run folder")
    run.mkdir(parents=True, exist_ok=True)
    write_durably(run / ENSEMBLE, (wanted.model_dump_json(indent=2) + "\n").encode())


def _extend(run: Path, wanted: _Ensemble) -> None:
    """See that the ensemble that is there is a part of the wanted one."""
    there = _read(run)
    if there.seed != wanted.seed:
        raise RunError(
            f"{run}: holds an ensemble with seed {there.seed}; give that one, or another --run folder"
        )
    if there.members > wanted.members:
        raise RunError(
            f"{run}: holds an ensemble of {there.members} members; ask for as many or more, "
            "or give another --run folder"
        )


def _read(run: Path) -> _Ensemble:
    try:
        return _Ensemble.model_validate_json((run / ENSEMBLE).read_bytes())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise RunError(
            f"{run / ENSEMBLE}: cannot be read ({str(error).splitlines()[0]}); train the ensemble again"
        ) from error


def trained_parts(records: Sequence[RunRecord], dataset: DataSet) -> tuple[Part, ...]:
    """The data set's parts that some member was fitted to: more than `train` where members are folds."""
    seen = {crop.part for record in records for crop in _fitted(record, dataset)}
    return tuple(part for part in PARTS if part in seen)


def as_used(records: Sequence[RunRecord], dataset: DataSet) -> DataSet:
    """The data set with the parts as the members used them.

    Folds set the data set's parts aside and hold groups out instead: what some member was fitted to is `train`,
    and what none of them saw is `test`. An ensemble of all folds leaves nothing for a test.
    """
    fitted = {crop.crop_id for record in records for crop in _fitted(record, dataset)}
    aside = any(_sets_parts_aside(record, dataset) for record in records)
    crops = []
    for crop in dataset.crops:
        if crop.kept and crop.crop_id in fitted:
            crop = replace(crop, part="train")
        elif crop.kept and (aside or crop.part == "train"):
            crop = replace(crop, part="test")
        crops.append(crop)
    return replace(dataset, crops=tuple(crops))


def _fitted(record: RunRecord, dataset: DataSet) -> list[Crop]:
    crops = dataset.kept if _sets_parts_aside(record, dataset) else dataset.train
    held_out = set(record.held_out)
    return [crop for crop in crops if crop.group not in held_out]


def _sets_parts_aside(record: RunRecord, dataset: DataSet) -> bool:
    """Whether the run took all kept crops for its training part, as a fold does."""
    seen = (record.part.get("validation", 0), record.part.get("test", 0))
    return seen == (0, 0) and bool(dataset.validation or dataset.test)
