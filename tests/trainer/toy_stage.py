"""A stage of a search whose trials cost nothing; run as a program, it is another process on the same storage."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import optuna

from trainer.searching.study_storage import StageStudy, opened

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def a_stage(storage: BaseStorage) -> StageStudy:
    """One parameter, `x`."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    return StageStudy(storage, "toy", seed=3, startup=5, pruner=pruner)


def tried(trial: optuna.Trial) -> float:
    """The score is what was drawn."""
    return trial.suggest_float("x", 0, 1)


def main(folder: Path, total: int, seconds: float, storage: str) -> None:
    """Run the stage with trials that last, each of which leaves a file when it has begun."""

    def objective(trial: optuna.Trial) -> float:
        score = tried(trial)
        (folder / f"begun-{trial.number}").touch()
        time.sleep(seconds)
        return score

    with opened(storage or None, folder) as kept:
        a_stage(kept).run(lambda: total, objective)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
