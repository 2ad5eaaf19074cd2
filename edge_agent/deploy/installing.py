"""What install and uninstall scripts leave to Python: where settings belong, and what is the agent's own.

Run as `python -m edge_agent.deploy.installing config FILE [--user]` and `... leftovers [--user]`. Prints a line for
each thing it did; sidecars and heatmaps are never touched.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from edge_agent.config import ConfigRefused, configure, state_folder
from edge_agent.files import make_folders, write_durably
from edge_agent.status import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONFIG_NAME: Final = "agent.toml"


def place_config(file: Path, *, own: bool) -> str:
    """Copy a configuration to where the agent looks for it, unless one is there. Raises OSError."""
    target = _config_file(own=own)
    if target.is_file():
        return f"{target}: is there already and stays; the archive's is {file}"
    make_folders(target.parent)
    write_durably(target, file.read_bytes())
    return f"{target}: the archive's configuration"


def remove_leftovers(*, own: bool) -> Iterator[str]:
    """Remove state and configuration, and yield a line for each. The agent must not be running. Raises OSError."""
    file = _config_file(own=own)
    for state in _states(file, own=own):
        yield from _remove_state(state)
    if file.is_file():
        file.unlink()
        yield f"{file}: removed"
    with contextlib.suppress(OSError):  # something else lies there, which is not ours
        file.parent.rmdir()


def _states(file: Path, *, own: bool) -> list[Path]:
    found = [state_folder()] if own else [Path("/var/lib/scopewatch"), state_folder()]
    with contextlib.suppress(ConfigRefused):
        found.append(configure(file if file.is_file() else None).state)
    return list(dict.fromkeys(found))


def _remove_state(state: Path) -> Iterator[str]:
    if not state.is_dir() or not any(state.iterdir()):
        return
    if not (state / LOCK_NAME).is_file() and state.name != "scopewatch":
        yield f"{state}: left alone: no agent has kept its state there"
        return
    shutil.rmtree(state)
    yield f"{state}: removed (journal, status, log, models)"


def _config_file(*, own: bool) -> Path:
    if own:
        return Path(platformdirs.user_config_dir("scopewatch", appauthor=False, roaming=False)) / _CONFIG_NAME
    return Path("/etc/scopewatch") / _CONFIG_NAME


def main(arguments: Sequence[str]) -> int:
    """Do what a script asked for, and return the exit code."""
    own = "--user" in arguments
    words = [word for word in arguments if word != "--user"]
    try:
        if words[:1] == ["config"] and len(words) == 2:
            lines: Iterator[str] = iter([place_config(Path(words[1]), own=own)])
        else:
            lines = remove_leftovers(own=own)
        for line in lines:
            sys.stdout.write(f"{line}\n")
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
