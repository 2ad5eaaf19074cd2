"""Which model the next service is given, and what follows when it cannot start with it.

Answers for this: a model that fails gives way to the last good one, and none is blamed for a PC that is short of
memory, too busy, or installed badly. Only this module judges whose fault it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from edge_agent.supervisor import ModelRefused

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

_NOT_THE_MODELS: Final = (
    "needed more memory",  # the worker's own words for its limit
    "MemoryError",
    "Cannot allocate memory",
    "took longer than",
    "killed by SIGKILL",  # the system's answer to a shortage, or somebody's
    "killed by SIGTERM",
    "did not start: [",  # no process could be started: OSError
    "ImportError",
    "ModuleNotFoundError",
    "DLL load failed",
)
"""What a worker's end says when the PC, or the installation, is to blame."""
_PASSING: Final = ("cannot be read", "WinError 5]", "WinError 32]", "Input/output error")
"""What a refusal says of a file that a scanner or a sleeping disk may be holding at the moment."""


class Chosen(Protocol):
    """One model; see `model_store`."""

    @property
    def model(self) -> str | None:
        """What the worker is given."""

    @property
    def title(self) -> str:
        """How it is called for a person."""


class Models(Protocol):
    """The model store, as far as a host needs it."""

    def chosen(self, asked: str | None) -> Chosen:
        """Return what answers when the configuration asks for this model."""

    def revision(self) -> Hashable:
        """Return something that differs after another choice, or a mark."""

    def worked(self, chosen: Chosen) -> None:
        """Note that it has answered."""

    def failed(self, chosen: Chosen, reason: str) -> Chosen | None:
        """Mark it, and return the last good one."""


@dataclass(frozen=True, slots=True)
class _Asked:
    model: str | None

    @property
    def title(self) -> str:
        return self.model or "the shipped model"


class AskedFor:
    """`Models` without a store: what is asked for, and nothing else."""

    def __init__(self, state: Path) -> None:
        pass

    def chosen(self, asked: str | None) -> Chosen:
        """Return just that."""
        return _Asked(asked)

    def revision(self) -> Hashable:
        """Nothing ever changes."""
        return None

    def worked(self, chosen: Chosen) -> None:
        """Nothing."""

    def failed(self, chosen: Chosen, reason: str) -> Chosen | None:
        """There is no other."""
        return None


def is_models_fault(error: Exception | str) -> bool:
    """Whether a failure to start is the model's, and not that of a PC in trouble."""
    text = str(error)
    if isinstance(error, ModelRefused):
        return not any(word in text for word in _PASSING)
    return not any(word in text for word in (*_NOT_THE_MODELS, *_PASSING))


class ModelChoice:
    """The choice over the life of one process. `note` says why another model answers than was asked for."""

    def __init__(self, models: Models) -> None:
        self.note: str | None = None
        self._models = models
        self._revision: Hashable = None
        self._proven: Chosen | None = None

    def choose(self, asked: str | None) -> Chosen:
        """Return what is to answer now."""
        self._revision = self._models.revision()
        self.note = None
        return self._models.chosen(asked)

    def is_outdated(self) -> bool:
        """Whether somebody has chosen anew since `choose`."""
        return self._models.revision() != self._revision

    def worked(self, chosen: Chosen) -> None:
        """Note that a service has become ready with it."""
        self._proven = chosen
        self._models.worked(chosen)

    def instead_of(self, chosen: Chosen, error: Exception | str) -> Chosen | None:
        """Return what is to answer after `chosen` has failed; None where there is nothing else.

        One that is at fault is marked as failed. One that is not keeps its good name, but a model that has
        answered in this process is there in the meantime: until the next choice, configuration, or start.
        """
        if is_models_fault(error):
            other = self._models.failed(chosen, str(error))
            self._revision = self._models.revision()
        else:
            other = self._proven if self._proven != chosen else None
        if other is not None:
            self.note = f"{other.title} answers instead of {chosen.title}: {error}"
        return other
