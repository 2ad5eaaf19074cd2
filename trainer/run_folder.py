"""A run folder: what was trained on what, where, with which versions, and how every epoch went.

Only this module knows its files: `run.json` (RunRecord), `history.csv` (a line an epoch), `best.weights.h5` (the
weights kept; its presence says that training finished), `state/` (what an interrupted run goes on from, see
`trainer.training`).
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import write_durably
from trainer.augmentation import Augmentation
from trainer.backbones import IMAGENET

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONFIG: Final = "run.json"
WEIGHTS: Final = "best.weights.h5"
HISTORY: Final = "history.csv"
_PACKAGES: Final = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy", "ncempy", "pillow")


class RunError(Exception):
    """A run cannot start or go on; the message says what was seen and what to do."""


class Recipe(BaseModel):
    """How a network is trained; the whole of it stands in the run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "efficientnet-lite0"
    weights: str = IMAGENET
    fine_tune_from: str | None = None
    """The backbone's layer after which weights are fitted; None stands for the backbone's own choice."""
    views: int = Field(default=12, ge=1, le=200)
    """Augmented views drawn of each training crop."""
    augmentation: Augmentation = Augmentation()
    head_epochs: int = Field(default=1, ge=0)
    epochs: int = Field(default=10, ge=0)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    head_learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    balance: float = Field(default=1.0, ge=0, le=1)
    """1 draws every class equally often, 0 as often as the data set has it."""
    keep: Literal["best", "last"] = "best"
    """Which weights a run ends with: those of the epoch with the lowest validation loss, or the last ones."""
    patience: int = Field(default=6, ge=1)
    """Epochs without a lower validation loss after which a run that keeps the best stops."""


class RunRecord(BaseModel):
    """The file `run.json`: what was trained on what, where, with which versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["scopewatch.run/1"] = "scopewatch.run/1"
    recipe: Recipe
    seed: int
    dataset: str
    dataset_fingerprint: str
    labels: tuple[str, ...]
    part: dict[str, int]
    held_out: tuple[str, ...] = ()
    """Groups of micrographs that this run did not see although they are in the training part (a fold)."""
    versions: dict[str, str]
    hardware: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the history; the validation figures are None where there is no validation part."""

    stage: str
    epoch: int
    loss: float
    validation_loss: float | None
    validation_balanced_accuracy: float | None


def read_record(run: Path) -> RunRecord:
    """Read `run.json`."""
    try:
        return RunRecord.model_validate_json((run / CONFIG).read_bytes())
    except FileNotFoundError:
        raise RunError(f"{run}: no {CONFIG} here; give the folder of a run") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RunError(f"{run / CONFIG}: not a record of a run that this version reads ({first})") from error


def claim(run: Path, record: RunRecord) -> None:
    """Make the run folder, or see that it is this very run's.

    Raises:
        RunError: it holds something else.

    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / CONFIG).is_file():
        old = read_record(run)
        for name in ("recipe", "seed", "dataset_fingerprint", "labels", "held_out"):
            if getattr(old, name) != getattr(record, name):
                raise RunError(
                    f"{run}: holds a run with another {name.replace('_', ' ')}; "
                    "give another --run folder, or remove this one"
                )
        return
    if any(run.iterdir()):
        raise RunError(f"{run}: not empty and not a run folder; give another --run folder")
    write_durably(run / CONFIG, (record.model_dump_json(indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_history(run: Path) -> tuple[Epoch, ...]:
    """Read the epochs of a run so far.

    Raises:
        RunError: the file is damaged, or was edited.

    """
    try:
        with (run / HISTORY).open(newline="", encoding="utf-8") as file:
            return tuple(
                Epoch(
                    row["stage"],
                    int(row["epoch"]),
                    float(row["loss"]),
                    float(row["validation_loss"]) if row["validation_loss"] else None,
                    float(row["validation_balanced_accuracy"])
                    if row["validation_balanced_accuracy"]
                    else None,
                )
                for row in csv.DictReader(file)
            )
    except FileNotFoundError:
        return ()
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{run / HISTORY}: not a history that this version reads ({error})") from error


def write_history(run: Path, lines: Sequence[Epoch]) -> None:
    """Replace the history by these epochs."""
    columns = ("stage", "epoch", "loss", "validation_loss", "validation_balanced_accuracy")
    text = ",".join(columns) + "\n"
    for line in lines:
        values = (getattr(line, column) for column in columns)
        text += ",".join("" if value is None else str(value) for value in values) + "\n"
    write_durably(run / HISTORY, text.encode())
