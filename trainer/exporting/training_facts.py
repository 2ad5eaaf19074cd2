"""The file `training.json` of a bundle: how the network in it was trained, for the report and whoever asks later.

Only this module knows the file. What a run folder says about one run (`fitting.run_folder`) is taken over as it is,
once for every member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.fitting.run_folder import Epoch, RunError, RunRecord, read_history, read_record
from trainer.preparing.split import Part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TRAINING: Final = "training.json"


class TrainedMember(BaseModel):
    """One run: what was trained on what, where, with which versions, and how every epoch went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    """Name of the run folder."""
    record: RunRecord
    history: tuple[Epoch, ...]


class TrainingFacts(BaseModel):
    """How a bundle's network was trained; a single run is one member."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["scopewatch.training/1"] = Field(default="scopewatch.training/1", alias="schema")
    run: str
    """Path of the run folder on the machine that exported."""
    dataset: str
    """Path of the data set on the machine that trained."""
    dataset_fingerprint: str
    trained_parts: tuple[Part, ...]
    """Parts of the data set that some member was fitted to."""
    seconds: float | None
    """How long all members together took; None where a run does not say."""
    members: tuple[TrainedMember, ...] = Field(min_length=1)


def training_facts(run: Path, members: Sequence[Path], parts: tuple[Part, ...]) -> TrainingFacts:
    """Gather what the members of `run` say about themselves.

    Raises:
        RunError: one of them is no run folder, or damaged.

    """
    trained = tuple(
        TrainedMember(folder=folder.name, record=read_record(folder), history=read_history(folder))
        for folder in members
    )
    first = trained[0].record
    took = [member.record.seconds for member in trained]
    known = [seconds for seconds in took if seconds is not None]
    return TrainingFacts(
        run=str(run.resolve()),
        dataset=first.dataset,
        dataset_fingerprint=first.dataset_fingerprint,
        trained_parts=parts,
        seconds=round(sum(known), 1) if len(known) == len(took) else None,
        members=trained,
    )


def training_json(facts: TrainingFacts) -> bytes:
    """The facts as they stand in the bundle."""
    return (facts.model_dump_json(indent=1, by_alias=True) + "\n").encode()


def read_training_facts(bundle: Path) -> TrainingFacts | None:
    """Read `training.json` of a bundle folder; None for a bundle of an older version, which has none.

    Raises:
        RunError: it is damaged.

    """
    file = bundle / TRAINING
    try:
        return TrainingFacts.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise RunError(
            f"{file}: cannot be read ({str(error).splitlines()[0]}); export the run again"
        ) from error
