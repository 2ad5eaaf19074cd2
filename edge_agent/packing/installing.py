"""What install and uninstall scripts leave to Python: where settings belong, and what is the agent's own.

Run as `python -m edge_agent.packing.installing config FILE [--user]` and `... leftovers [--user]`. Prints a line
for each thing it did; sidecars, heatmaps and labels are never touched.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.config import (
    ConfigRefused,
    configure,
    state_folder,
    system_config_file,
    system_state_folder,
    user_config_file,
)
from edge_agent.deploy.leftovers import purge
from edge_agent.files import make_folders, write_durably
from edge_agent.status import is_held, locks_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def place_config(file: Path, *, own: bool) -> str:
    """Copy a configuration to where the agent looks for it, unless one is there. Raises OSError."""
    target = user_config_file() if own else system_config_file()
    if target.is_file():
        return f"{target}: is there already and stays; the archive's is {file}"
    make_folders(target.parent)
    write_durably(target, file.read_bytes())
    return f"{target}: the archive's configuration"


def remove_leftovers(*, own: bool) -> Iterator[str]:
    """Remove state and configuration, and yield a line for each; no agent may be running. Raises OSError.

    `own`: those of the person who asks; otherwise also those of the PC. Results that lie in a state folder stay.
    """
    places = [(user_config_file(), state_folder())]
    if not own:
        places.append((system_config_file(), system_state_folder()))
    for file, usual in places:
        try:
            config = configure(file if file.is_file() else None)
        except ConfigRefused:
            yield f"{file}: left alone, and {usual}: which results to keep cannot be read there any more"
            continue
        kept = (*config.folders, *([config.output] if config.output else []))
        states = [usual, config.state] if file.is_file() else [usual]
        for state in dict.fromkeys(states):
            yield from purge(state, file, kept)
    _remove_free_locks(locks_folder())


def _remove_free_locks(folder: Path) -> None:
    """Another agent of this person may hold some: those stay, and the folder with them."""
    for lock in folder.glob("*.lock"):
        if not is_held(lock):
            lock.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def main(arguments: Sequence[str]) -> int:
    """Do what a script asked for, and return the exit code."""
    own = "--user" in arguments
    words = [word for word in arguments if word != "--user"]
    try:
        if words[:1] == ["config"] and len(words) == 2:
            lines: Iterator[str] = iter([place_config(Path(words[1]), own=own)])
        elif words == ["leftovers"]:
            lines = remove_leftovers(own=own)
        else:
            sys.stderr.write("config FILE or leftovers, and --user\n")
            return 2
        for line in lines:
            sys.stdout.write(f"{line}\n")
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
