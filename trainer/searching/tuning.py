"""Hyperparameter search in two stages: many heads on frozen features, then fine-tuning of the best few.

The study folder holds `study.json` (what is searched), `study.db` (the trials, unless they are kept elsewhere),
`features/` (may be deleted), `runs/` (a run folder for each fine-tuned recipe), and in the end `best_recipe.json`,
`trials.csv`, `study.html` and its pictures. Any number of processes, on one machine or several, may work on one
storage; parallel runs draw other trials than a lone one, whatever the seed.

Interrupted or killed, the same command goes on: finished trials stand in the storage, a fine-tuned recipe goes on
from its last epoch. Nothing here ever sees the test part: it is taken out of the data set first.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import shutil
from typing import TYPE_CHECKING, Final

import optuna

from edge_agent.files import write_durably
from trainer.fitting.run_folder import Epoch, Recipe, RunError, read_history
from trainer.fitting.training import TrainingFailed, train
from trainer.searching.frozen_heads import EPOCHS, FrozenHeads, HeldOutScore
from trainer.searching.search_space import SearchSpace, head_recipe, tuned_recipe
from trainer.searching.study_claim import Asked, check_counts, claim_study, searched_part
from trainer.searching.study_pictures import write_pages
from trainer.searching.study_result import (
    BASE,
    HEAD,
    STRENGTH,
    TUNED,
    StudyResult,
    TrialLine,
    importance_of,
    line_of,
    notes_on,
    ranked,
    study_text,
    train_command,
)
from trainer.searching.study_storage import (
    SLOT,
    StageStudy,
    TrialFailed,
    TuningError,
    TuningFailed,
    name_of,
    opened,
    own_place,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from optuna.storages import BaseStorage
    from optuna.trial import Trial

    from trainer.preparing.crops import Crop, DataSet

__all__ = ["StudyResult", "TuningError", "TuningFailed", "study_text", "tune"]

BEST_RECIPE: Final = "best_recipe.json"
FINALIST_VIEWS: Final = 8
FINALIST_EPOCHS: Final = 6
"""A finalist is trained shorter than the recipe says: enough to compare, not to keep."""
_HOPELESS: Final = 3


def tune(
    dataset: DataSet,
    study_folder: Path,
    *,
    trials: int = 20,
    finalists: int = 4,
    base: Recipe | None = None,
    storage: str | None = None,
    folds: int = 0,
    seed: int = 0,
    space: SearchSpace | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    told: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Search the study folder's best recipe for a data set, or go on with the search begun there.

    `trials` counts all trials of the study in all processes; `finalists` of them are fine-tuned, among them the
    recipe `base` that the search begins with. Ask for more trials later, and it goes on. `storage` is where trials
    are kept (default: SQLite in the study folder; an Optuna URL; `journal:FILE` for a network folder, where SQLite
    is unsafe). With `folds` of 2 or more, heads are scored in grouped folds of training and validation part.

    Raises:
        TuningError: the search cannot be made on these data, in this folder or with this storage.
        TuningFailed: no trial came to a score.

    """
    asked = Asked(dataset.fingerprint, base or Recipe(), folds, seed, space or SearchSpace())
    check_counts(trials, finalists, folds)
    searched = searched_part(dataset, folds, seed)
    claim_study(study_folder, asked)
    with opened(storage, study_folder) as kept, own_place(study_folder / "features", "held-out") as own:
        try:
            search = _Search(searched, study_folder, own, kept, asked, finalists, progress, told)
            search.run(trials)
            result = search.result()
        finally:
            shutil.rmtree(own, ignore_errors=True)
    write_durably(study_folder / BEST_RECIPE, (result.best_recipe.model_dump_json(indent=1) + "\n").encode())
    write_pages(result)
    return result


class _Search:
    """Both stages of one search, as far as this process takes part."""

    def __init__(
        self,
        dataset: DataSet,
        folder: Path,
        own: Path,
        storage: BaseStorage,
        asked: Asked,
        finalists: int,
        progress: Callable[[str, int, int], None],
        told: Callable[[str], None],
    ) -> None:
        self._dataset, self._folder, self._own, self._asked = dataset, folder, own, asked
        self._finalists, self._progress, self._told = finalists, progress, told
        self._base, self._space = asked.base, asked.space.around(asked.base)
        self._frozen: FrozenHeads | None = None
        name = name_of(asked.as_json())
        self._heads = StageStudy(
            storage,
            f"{name}-{HEAD}",
            seed=asked.seed,
            startup=6,
            # Not before half-time: heads without width are slow to begin with, cheap, and often good in the end.
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=EPOCHS // 2 + 1),
        )
        self._tuned = StageStudy(
            storage,
            f"{name}-{TUNED}",
            seed=asked.seed,
            startup=6,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2),
            slots_only=True,
        )

    def run(self, trials: int) -> None:
        """Run what is missing of both stages."""
        heads = trials - self._finalists
        self._heads.run(
            lambda: heads,
            lambda trial: self._with_a_clear_end(self._head_trial, trial),
            prepare=lambda: self._before_head(heads),
            waiting=self._say_waiting,
        )
        self._frozen = None  # its features are no longer needed
        slots = self._finalist_slots()
        self._tuned.run(
            lambda: len(slots),
            lambda trial: self._with_a_clear_end(self._finalist, trial),
            prepare=lambda: self._before_finalist(slots),
            waiting=self._say_waiting,
        )

    def result(self) -> StudyResult:
        """Read all trials back; TuningFailed where none came to a score."""
        heads = ranked([line_of(trial, HEAD) for trial in self._heads.counted()])
        tuned = ranked([line_of(trial, TUNED) for trial in self._tuned.counted()])
        scored = [line for line in (*tuned, *heads) if line.score is not None]
        if not scored:
            raise TuningFailed(f"{self._folder}: {_failures(heads)}")
        best = scored[0]
        studies = ((self._heads.study, HEAD), (self._tuned.study, TUNED))
        found = [importance_of(study, stage, self._asked.seed) for study, stage in studies]
        lines = (*tuned, *heads)
        folds = self._asked.folds if best.stage == HEAD else 0
        return StudyResult(
            folder=self._folder,
            trials=lines,
            best=best,
            best_recipe=best.recipe or self._base,
            importance=tuple(one for one in found if one is not None),
            notes=notes_on(lines, best, self._held_out(folds), folds),
            command=train_command(self._dataset.root, self._folder, self._asked.seed),
        )

    def _held_out(self, folds: int) -> Sequence[Crop]:
        return self._dataset.crops if folds else self._dataset.validation

    # --- Stage one ----------------------------------------------------------------------------------------------

    def _before_head(self, quota: int) -> None:
        self._heads.put_in_queue(BASE, self._space.head_parameters(self._base), {})
        ended = self._shown_progress(self._heads, "head trials", quota)
        failed = [line for line in ended if line.state == "failed"]
        if len(ended) == len(failed) >= min(_HOPELESS, quota):
            raise TuningFailed(f"{self._folder}: {_failures(failed)}")

    def _head_trial(self, trial: Trial) -> float:
        drawn = self._space.draw_head(trial)
        recipe = self._base if trial.user_attrs.get(SLOT) == BASE else head_recipe(self._base, drawn)
        trial.set_user_attr("recipe", recipe.model_dump_json())
        frozen = self._frozen_heads()
        scores: list[HeldOutScore] = []
        try:
            for epoch, found in enumerate(frozen.fit(recipe, seed=self._asked.seed)):
                scores.append(found)
                trial.report(found.score, epoch)
                self._progress("epochs of this head", epoch + 1, EPOCHS)
                if trial.should_prune():
                    raise optuna.TrialPruned
        finally:
            kept = self._noted(trial, scores)
        if kept is None:
            raise TrialFailed("the head was not fitted for an epoch")
        self._say(f"head trial {trial.number}", kept)
        return kept.score

    def _frozen_heads(self) -> FrozenHeads:
        """Made when first needed: a search that goes on with its finalists needs none."""
        if self._frozen is None:
            asked = self._asked
            self._frozen = FrozenHeads(
                self._dataset,
                self._base,
                self._folder / "features",
                self._own,
                strengths=len(self._space.strengths),
                folds=asked.folds,
                seed=asked.seed,
                progress=self._progress,
            )
        return self._frozen

    # --- Stage two ----------------------------------------------------------------------------------------------

    def _finalist_slots(self) -> dict[str, TrialLine]:
        """What is fine-tuned: the recipe begun with as it is, then the best heads; slot -> head trial."""
        heads = ranked([line_of(trial, HEAD) for trial in self._heads.counted()])
        scored = [line for line in heads if line.score is not None]
        slots = dict([(BASE, line) for line in heads if line.is_base and self._finalists > 1][:1])
        for line in scored[: self._finalists - len(slots)] if self._finalists else ():
            slots[f"head-{line.number}"] = line
        done = [line_of(trial, TUNED) for trial in self._tuned.counted()]
        by_number = {f"head-{line.number}": line for line in heads}
        return slots | {line.slot: by_number[line.slot] for line in done if line.slot in by_number}

    def _before_finalist(self, slots: dict[str, TrialLine]) -> None:
        first = True
        for slot, line in slots.items():
            marks = {
                "head recipe": (line.recipe or self._base).model_dump_json(),
                STRENGTH: line.parameters.get(STRENGTH, 1.0),
            }
            # The best head first with the rate and depth begun with: what has changed is then the head alone.
            known = slot == BASE or (first and not line.is_base)
            first = first and slot == BASE
            self._tuned.put_in_queue(slot, self._space.tuned_parameters(self._base) if known else {}, marks)
        self._shown_progress(self._tuned, "finalists", len(slots))

    def _finalist(self, trial: Trial) -> float:
        slot = str(trial.user_attrs[SLOT])
        head = Recipe.model_validate_json(trial.user_attrs["head recipe"])
        drawn = self._space.draw_tuned(trial)
        recipe = self._base if slot == BASE else tuned_recipe(head, drawn)
        trial.set_user_attr("recipe", recipe.model_dump_json())
        short = recipe.model_copy(
            update={
                "views": min(recipe.views, FINALIST_VIEWS),
                "epochs": min(recipe.epochs, FINALIST_EPOCHS),
            }
        )
        digest = hashlib.sha256(short.model_dump_json().encode()).hexdigest()[:8]
        run = self._folder / "runs" / f"{slot}-{digest}"
        listener = _Listener(trial)
        try:
            listener.catch_up(run)
            with own_place(self._folder / "features", "fine-tuning") as features:
                train(
                    self._dataset,
                    run,
                    short,
                    seed=self._asked.seed,
                    features=features,
                    progress=lambda what, done, total: self._progress(f"{slot}: {what}", done, total),
                    told=listener.hear,
                )
        finally:
            kept = self._noted(trial, listener.scores)
        if kept is None:
            raise TrialFailed("the recipe has no epoch")
        self._say(f"fine-tuning trial {trial.number} ({slot})", kept)
        return kept.score

    # --- Both ---------------------------------------------------------------------------------------------------

    def _noted(self, trial: Trial, scores: Sequence[HeldOutScore]) -> HeldOutScore | None:
        """Record the figures of the epoch that a run would keep."""
        if not scores:
            return None
        kept = scores[-1] if self._base.keep == "last" else min(scores, key=lambda one: one.loss)
        trial.set_user_attr("loss", kept.loss)
        trial.set_user_attr("accuracy", kept.accuracy)
        return kept

    def _with_a_clear_end(self, objective: Callable[[Trial], float], trial: Trial) -> float:
        with _recorded(), _cleared():
            return objective(trial)

    def _say(self, what: str, kept: HeldOutScore) -> None:
        self._told(f"{what}: score {kept.score:.4f}, accuracy {kept.accuracy:.3f}, loss {kept.loss:.3f}")

    def _say_waiting(self, others: int) -> None:
        self._told(f"waiting for {others} {'trial' if others == 1 else 'trials'} of other processes")

    def _shown_progress(self, stage: StageStudy, what: str, quota: int) -> list[TrialLine]:
        """Show how far a stage is; returns its trials that have ended."""
        ended = [line_of(trial, HEAD) for trial in stage.counted() if trial.state.is_finished()]
        self._progress(what, min(len(ended), quota), quota)
        return ended


class _Listener:
    """Hears how a finalist's epochs go, and prunes it."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.scores: list[HeldOutScore] = []

    def catch_up(self, run: Path) -> None:
        """Take over the epochs of a run that was interrupted, as far as they are believed."""
        with contextlib.suppress(RunError):
            for epoch in read_history(run):
                self.hear(epoch, may_prune=False)

    def hear(self, epoch: Epoch, *, may_prune: bool = True) -> None:
        """Report an epoch's score, unless the same epoch was computed again."""
        if epoch.validation_loss is None or epoch.validation_balanced_accuracy is None:
            return
        found = HeldOutScore(epoch.validation_loss, epoch.validation_balanced_accuracy)
        if found in self.scores:
            return
        self.scores.append(found)
        self._trial.report(found.score, len(self.scores) - 1)
        if may_prune and self._trial.should_prune():
            raise optuna.TrialPruned


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """Turn what is this trial's own failure into its reason; all else is the search's."""
    try:
        yield
    except (TrainingFailed, RunError) as error:
        raise TrialFailed(str(error)) from error
    except MemoryError as error:
        raise TrialFailed("out of memory") from error
    except Exception as error:
        # By name: TensorFlow's own exception, which is imported with it.
        if type(error).__name__ == "ResourceExhaustedError":
            raise TrialFailed(f"out of memory ({str(error).splitlines()[0]:.80})") from error
        raise


@contextlib.contextmanager
def _cleared() -> Iterator[None]:
    """Give back what Keras remembers of a trial's networks."""
    import keras

    try:
        yield
    finally:
        keras.backend.clear_session(free_memory=False)
        gc.collect()


def _failures(lines: Sequence[TrialLine]) -> str:
    last = next((line.reason for line in lines if line.reason), "pruned")
    return f"all {len(lines)} trials so far came to nothing; the last one said: {last}"
