"""What the agent has left on this PC besides results, and how it is taken away without taking anything else.

Sidecars, heatmaps and labels are the owner's, wherever they lie. Only this module decides what is the agent's own.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING, Final

from edge_agent.config import system_state_folder
from edge_agent.configuring.draft import SCHEMA_NAME
from edge_agent.deploy.service_plan import SERVICE_NAME
from edge_agent.drift import DRIFT_NAME
from edge_agent.files import is_our_temporary
from edge_agent.hosting.vital_signs import HEARTBEAT_NAME
from edge_agent.journaling.journal_file import JOURNAL_NAME
from edge_agent.keeping.model_store import STORE_NAME, ModelStore
from edge_agent.logs import LOG_NAME
from edge_agent.page.flips import LOOKS_FOLDER, LOOKS_NAME
from edge_agent.page.opening import LEAD_NAME
from edge_agent.page.page_key import KEY_NAME
from edge_agent.preview_files import PICTURES_FOLDER
from edge_agent.status import LOCK_NAME, STATUS_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_MADE_BY_THE_AGENT: Final = frozenset(
    {
        *(LOCK_NAME, STATUS_NAME, HEARTBEAT_NAME, DRIFT_NAME, KEY_NAME, LEAD_NAME, "models"),
        *(PICTURES_FOLDER, LOOKS_NAME, LOOKS_FOLDER),
    }
)
_ALSO_WITH_MORE_BEHIND: Final = (LOG_NAME, JOURNAL_NAME)
"""Older logs, and what SQLite keeps beside a journal."""


def purge(state: Path, config_file: Path, kept: Iterable[Path]) -> Iterator[str]:
    """Remove state and configuration, and yield a line for each; whatever lies in `kept` folders stays.

    The agent must not be running. Raises OSError.
    """
    yield from _purge_state(state, tuple(kept))
    yield from _purge_config(config_file)


def _purge_state(state: Path, kept: tuple[Path, ...]) -> Iterator[str]:
    if not state.is_dir():
        return
    if not any(mark.is_file() for mark in (state / LOCK_NAME, ModelStore(state).folder / STORE_NAME)):
        if any(state.iterdir()):
            yield f"{state}: left alone: no agent has kept its state there"
        else:
            _remove_folder(state)
        return
    inside = [folder for folder in kept if folder.is_relative_to(state)]
    # Something of another owner may lie around a state folder that is called otherwise.
    if state.name != SERVICE_NAME and any(state.is_relative_to(folder) for folder in kept):
        yield f"{state}: left alone: it lies among the micrographs; remove it by hand"
        return
    if state.name != SERVICE_NAME and state != system_state_folder():
        # A folder of somebody's own choice: other things may lie in it, too.
        inside += [item for item in state.iterdir() if not _is_made_by_the_agent(item)]
    waiting = _labels_not_in_their_files(state / JOURNAL_NAME)
    if waiting:
        journal = [item for item in state.iterdir() if item.name.startswith(JOURNAL_NAME)]
        yield (
            f"{state / JOURNAL_NAME}: kept: it holds labels that are not in their files yet ({waiting}; a share is "
            "away, or a folder may not be written to); let the agent run once more, or remove it by hand"
        )
        inside += journal
    _empty(state, inside)
    if inside:
        yield f"{state}: removed, but for {', '.join(map(str, dict.fromkeys(inside)))}"
    else:
        _remove_folder(state)
        yield f"{state}: removed (journal, status, log, models)"


def _labels_not_in_their_files(journal: Path) -> int:
    """Return how many; 0 where there is no journal that says so."""
    if not journal.is_file():
        return 0
    try:
        with contextlib.closing(
            sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM labels WHERE written = 0").fetchone()
            return int(count)
    except sqlite3.Error:
        return 0


def _purge_config(config_file: Path) -> Iterator[str]:
    folder = config_file.parent
    if config_file.is_file():
        config_file.unlink()
        yield f"{config_file}: removed"
    if folder.name == SERVICE_NAME and folder.is_dir():
        (folder / SCHEMA_NAME).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there, which is not ours
            folder.rmdir()


def _is_made_by_the_agent(item: Path) -> bool:
    name = item.name
    return name in _MADE_BY_THE_AGENT or name.startswith(_ALSO_WITH_MORE_BEHIND) or is_our_temporary(item)


def _empty(folder: Path, kept: list[Path]) -> None:
    for item in folder.iterdir():
        if item in kept:
            continue
        if any(inner.is_relative_to(item) for inner in kept):
            _empty(item, kept)
        elif item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _remove_folder(state: Path) -> None:
    """Under DynamicUser, systemd puts the folder elsewhere and leaves a link."""
    behind = state.resolve()
    if state.is_symlink():
        state.unlink()
    with contextlib.suppress(FileNotFoundError):
        behind.rmdir()
