"""A run folder: what was trained on what, where, with which versions, and how every epoch went.

Only this module knows its files: `run.json` (RunRecord), `history.csv` (a line an epoch), `best.weights.h5` (the
weights kept; its presence says that training finished). Beside them lie `state/` (what an interrupted run goes on
from: `fitting.checkpoint`), `tensorboard/` (`fitting.tensorboard_log`) and `curves.png` (`fitting.curves`).
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import write_durably
from trainer.fitting.augmentation import Augmentation
from trainer.fitting.backbones import IMAGENET
from trainer.fitting.provenance import Session, now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    """How the learning rate goes after its warm-up: down to a hundredth, not at all, or to a third each time that
    the validation loss has not fallen for three epochs."""
    learning_rate: float = Field(default=3e-4, gt=0)
    head_learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    head_width: int = Field(default=0, ge=0, le=4096)
    """Channels of a 1x1 convolution and a ReLU between backbone and CAM head; 0: none."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    balance: float = Field(default=1.0, ge=0, le=1)
    """1 draws every class equally often, 0 as often as the data set has it."""
    class_weights: bool = False
    """Weigh each class's loss by its rarity, where `balance` does not already draw it more often."""
    keep: Literal["best", "last"] = "best"
    """Which weights a run ends with: those of the epoch with the lowest validation loss, or the last ones."""
    patience: int = Field(default=6, ge=1)
    """Epochs without a lower validation loss after which a run that keeps the best stops."""
    mixed_precision: bool = False
    """Compute in half precision where a GPU makes that quick; weights, loss and head stay in single precision."""
    deterministic: bool = False
    """Refuse operations that would give other last bits in each run on a GPU; slower there."""


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
    sessions: tuple[Session, ...] = ()
    """When, where and by which command there was work on it; older runs do not say."""

    @property
    def seconds(self) -> float | None:
        """How long all sessions together worked; None for a run that does not say."""
        return sum(session.seconds for session in self.sessions) if self.sessions else None


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the history; the validation figures are None where there is no validation part.

    What comes after them is None in runs of version 0.2. Epochs are equal when they computed the same, however
    long that took.
    """

    stage: str
    epoch: int
    loss: float
    validation_loss: float | None
    validation_balanced_accuracy: float | None
    learning_rate: float | None = None
    """At the epoch's last step."""
    training_accuracy: float | None = None
    """Share of right answers on the augmented views, dropout and all."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """`confusion[is][answered]`: validation crops, in the order of the record's labels."""
    seconds: float | None = field(default=None, compare=False)
    """All of the epoch, validation included."""
    steps_per_second: float | None = field(default=None, compare=False)
    input_wait_share: float | None = field(default=None, compare=False)
    """Share of the steps' time that was spent on waiting for input."""


def read_record(run: Path) -> RunRecord:
    """Read `run.json`."""
    try:
        return RunRecord.model_validate_json((run / CONFIG).read_bytes())
    except FileNotFoundError:
        raise RunError(f"{run}: no {CONFIG} here; give the folder of a run") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RunError(f"{run / CONFIG}: not a record of a run that this version reads ({first})") from error


def claim(run: Path, record: RunRecord, *, resume: bool | None = None) -> None:
    """Make the run folder, or see that it is this very run's.

    `resume`: None goes on where there is a run already, True wants one there, False wants none.

    Raises:
        RunError: it holds something else, or not what `resume` asks for.

    """
    there = (run / CONFIG).is_file()
    if resume and not there:
        raise RunError(f"{run}: no run to resume here (no {CONFIG}); leave --resume out to begin one")
    if there and resume is False:
        raise RunError(f"{run}: holds a run already; give another --run folder, or leave --no-resume out")
    run.mkdir(parents=True, exist_ok=True)
    if there:
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
    _write_record(run, record)


def note_session(run: Path, session: Session, *, finished: bool = False) -> None:
    """Put into the record that this session is working on the run, or has just finished it."""
    record = read_record(run)
    others = tuple(other for other in record.sessions if other.started != session.started)
    current = session.model_copy(update={"until": now(), "finished": finished})
    _write_record(run, record.model_copy(update={"sessions": (*others, current)}))


def _write_record(run: Path, record: RunRecord) -> None:
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
            return tuple(_epoch(row) for row in csv.DictReader(file))
    except FileNotFoundError:
        return ()
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{run / HISTORY}: not a history that this version reads ({error})") from error


def write_history(run: Path, lines: Sequence[Epoch]) -> None:
    """Replace the history by these epochs."""
    columns = [column.name for column in fields(Epoch)]
    text = ",".join(columns) + "\n"
    for line in lines:
        text += ",".join(_cell(getattr(line, column)) for column in columns) + "\n"
    write_durably(run / HISTORY, text.encode())


def _epoch(row: dict[str, str | None]) -> Epoch:
    """One line of the history; the first five columns are in every version."""
    if None in row.values():
        raise ValueError("a line is cut off")
    readers: dict[str, Callable[[str], object]] = {"stage": str, "epoch": int, "confusion": _counts}
    values: dict[str, Any] = {}
    for index, column in enumerate(one.name for one in fields(Epoch)):
        text = (row[column] if index < 5 else row.get(column)) or ""
        values[column] = readers.get(column, float)(text) if text or index < 3 else None
    return Epoch(**values)


def _counts(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(count) for count in row.split()) for row in text.split(";"))


def _cell(value: object) -> str:
    """A value as it stands in the file; a confusion as rows `3 0;1 4`."""
    if isinstance(value, tuple):
        return ";".join(" ".join(map(str, row)) for row in value)
    return "" if value is None else str(value)
