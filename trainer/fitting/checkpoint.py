"""What an interrupted run goes on from: `state/checkpoint.npz`, put in place whole after each epoch.

It is the last file that an epoch writes: until it is there, the epoch did not happen, and what the history says
beyond it is computed again.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.files import write_durably
from trainer.fitting.run_folder import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.fitting.run_folder import Epoch

FILE: Final = "checkpoint.npz"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that the next step depends on, after `epochs` epochs of a stage."""

    stage: str
    epochs: int
    values: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, variables: Sequence[Any], stage: str, epochs: int) -> Checkpoint:
        """Take the values of these variables."""
        return cls(stage, epochs, tuple(np.asarray(variable) for variable in variables))

    @classmethod
    def read(cls, state: Path) -> Checkpoint | None:
        """Read it from the folder `state`: None where there is none; RunError where it is damaged."""
        file = state / FILE
        try:
            # From memory: numpy leaves the file open where it is damaged, and Windows could not replace it.
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
                stage, epochs = json.loads(str(stored["reached"]))
                values = tuple(stored[f"value_{index}"] for index in range(len(stored.files) - 1))
                return cls(str(stage), int(epochs), values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{file}: cannot be read ({error}); remove it, and the run begins with its first epoch"
            ) from error

    def write(self, state: Path) -> None:
        """Put it in place in the folder `state`."""
        buffer = io.BytesIO()
        named = {f"value_{index}": value for index, value in enumerate(self.values)}
        named["reached"] = np.array(json.dumps([self.stage, self.epochs]))
        np.savez(buffer, **named)  # type: ignore[arg-type]
        write_durably(state / FILE, buffer.getvalue())

    def restore(self, variables: Sequence[Any], state: Path) -> None:
        """Give these variables the values; RunError where they are those of another version of this program."""
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in self.values]:
            raise RunError(
                f"{state / FILE}: holds the state of another version of edge-trainer; "
                "remove it, and the run begins with its first epoch"
            )
        for variable, value in zip(variables, self.values, strict=True):
            variable.assign(value)

    def contains(self, line: Epoch, stages: Sequence[str]) -> bool:
        """Whether a line of the history is of an epoch that lies before."""
        if line.stage not in stages:
            return False
        return (stages.index(line.stage), line.epoch) <= (stages.index(self.stage), self.epochs)
