"""Which names are micrographs, and what lies in a folder: the one way in which folders are listed.

Names only: nothing is opened. Links lead nowhere, so a loop of links or a link out of the folder does no
harm.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.files import FileStamp, is_leftover, is_our_temporary
from edge_agent.output_places import SIDECAR_SUFFIX, is_own_output
from edge_agent.shared_opening import system_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_JUNCTION: Final = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT, which `stat` knows on Windows only


def name_rule(include: Iterable[str], exclude: Iterable[str] = ()) -> Callable[[str], bool]:
    """Return a test for names that match a pattern of `include`, none of `exclude`, and are no output of ours.

    Upper and lower case are the same.
    """
    matches, refuses = _matcher(include), _matcher(exclude)

    def wanted(name: str) -> bool:
        lowered = name.lower()
        return (
            matches(lowered)
            and not is_own_output(name)
            and not (name.startswith(".") and is_our_temporary(Path(name)))
            and not refuses(lowered)
        )

    return wanted


def entry_rule(exclude: Iterable[str]) -> Callable[[str], bool]:
    """Return a test for names of folders that may be entered."""
    refuses = _matcher(exclude)
    return lambda name: not refuses(name.lower())


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    joined = "|".join(translate(pattern.lower()) for pattern in patterns)
    if not joined:
        return lambda name: False
    match = re.compile(joined).match
    return lambda name: match(name) is not None


@dataclass(frozen=True, slots=True)
class ListingRules:
    """What to look for in a folder. With an `owner`, also for temporary files which that one left behind."""

    wanted: Callable[[str], bool]
    entered: Callable[[str], bool] = lambda name: True
    sidecars: bool = False
    owner: str = ""
    windows: bool = sys.platform == "win32"


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a folder: wanted names, paths of folders to enter, names of sidecars and of leftovers.

    `states` holds sizes and times (ns) as far as the system told them with the names (Windows). They are
    stale while a writer has the file open: good enough to pass over what is done, never to call it quiet.
    """

    names: list[str]
    folders: list[str]
    sidecars: set[str]
    leftovers: list[str]
    states: dict[str, tuple[int, int]]
    is_empty: bool


def survey(folder: str, rules: ListingRules) -> Listing:
    """List one folder. Raises OSError."""
    found = Listing([], [], set(), [], {}, is_empty=False)
    is_empty = True
    with os.scandir(system_path(Path(folder))) as entries:
        for entry in entries:
            is_empty = False
            if entry.is_dir(follow_symlinks=False):
                if rules.entered(entry.name) and not (rules.windows and _is_junction(entry)):
                    found.folders.append(os.path.join(folder, entry.name))  # noqa: PTH118 - Path is slow
            else:
                _sort_in(entry, rules, found)
    return Listing(found.names, found.folders, found.sidecars, found.leftovers, found.states, is_empty)


def _sort_in(entry: os.DirEntry[str], rules: ListingRules, found: Listing) -> None:
    name = entry.name
    if name.endswith(SIDECAR_SUFFIX):
        if rules.sidecars:
            found.sidecars.add(name)
    elif rules.wanted(name):
        found.names.append(name)
        if rules.windows:
            # It came with the names there, without another call.
            state = entry.stat(follow_symlinks=False)
            found.states[name] = (state.st_size, state.st_mtime_ns)
    elif rules.owner and is_leftover(name, rules.owner):
        found.leftovers.append(name)


def _is_junction(entry: os.DirEntry[str]) -> bool:
    # Windows calls a junction a folder, and it can lead up the tree or out of it as a link does.
    return getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == _JUNCTION


def list_folder(folder: str, wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Return the wanted names in a folder, and the paths of the folders in it. Raises OSError."""
    found = survey(folder, ListingRules(wanted, windows=False))
    return found.names, found.folders


def regular_stamp(path: str) -> FileStamp | None:
    """Return the stamp of a regular file; None for links, FIFOs, devices and folders. Raises OSError."""
    # Only Windows needs another form, and a Path for each of 100,000 files doubles the time of a scan.
    found = os.lstat(system_path(Path(path)) if sys.platform == "win32" else path)
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)
