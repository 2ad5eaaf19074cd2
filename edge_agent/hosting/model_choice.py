"""Which model the next service is given, and what follows when it cannot start with it.

Answers for this: a model that fails gives way to the last good one, and none is blamed for a PC that is short of
memory, too busy, or installed badly. Only this module judges whose fault it is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from edge_agent.supervisor import ModelRefused

if TYPE_CHECKING:
    from edge_agent.keeping.model_store import Chosen, ModelStore

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
_log = logging.getLogger(__name__)


def is_models_fault(error: Exception | str) -> bool:
    """Whether a failure to start is the model's, and not that of a PC in trouble."""
    text = str(error)
    if isinstance(error, ModelRefused):
        return not any(word in text for word in _PASSING)
    return not any(word in text for word in (*_NOT_THE_MODELS, *_PASSING))


class ModelChoice:
    """The choice over the life of one process. `note` says why another model answers than was asked for."""

    def __init__(self, store: ModelStore) -> None:
        self.note: str | None = None
        self._store = store
        self._revision: object = None
        self._proven: Chosen | None = None

    def choose(self, asked: str | None) -> Chosen:
        """Return what is to answer now."""
        self._revision = self._store.revision()
        chosen = self._store.chosen(asked)
        self.note = chosen.note
        return chosen

    def is_outdated(self) -> bool:
        """Whether somebody has chosen anew since `choose`."""
        return self._store.revision() != self._revision

    def worked(self, chosen: Chosen) -> None:
        """Note that a service has become ready with it."""
        self._proven = chosen
        self._store.worked(chosen)

    def instead_of(self, chosen: Chosen, error: Exception | str) -> Chosen | None:
        """Return what is to answer after `chosen` has failed; None where there is nothing else.

        One that is at fault is marked as failed. One that is not keeps its good name, but a model that has
        answered in this process is there in the meantime: until the next choice, configuration, or start.
        """
        at_fault = is_models_fault(error)
        if at_fault:
            other = self._store.failed(chosen, str(error))
            self._revision = self._store.revision()
        else:
            other = self._proven if self._proven is not None and not same(self._proven, chosen) else None
        if other is not None:
            self.note = f"{other.title} answers instead of {chosen.title}: {error}"
            # The store has raised its voice about a model that it marks.
            level = logging.INFO if at_fault else logging.WARNING
            fields = {"event": "model changed", "model": other.title, "reason": str(error)}
            _log.log(level, self.note, extra=fields)
        return other


def same(one: Chosen, other: Chosen) -> bool:
    """Whether it is the same model, whatever is said of it."""
    return (one.model, one.manifest_sha256) == (other.model, other.manifest_sha256)
