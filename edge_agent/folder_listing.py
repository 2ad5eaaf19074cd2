"""Which names are micrographs, and what lies in a folder: the one way in which folders are listed.

Names only: nothing is opened. Links lead nowhere, so a loop of links or a link out of the folder does no
harm.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.files import FileStamp, is_our_temporary
from edge_agent.shared_opening import system_path
from edge_agent.sidecar import is_own_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def name_rule(include: Iterable[str]) -> Callable[[str], bool]:
    """Return a test for names that match one of the patterns in any case, and are no output of ours."""
    matches = re.compile("|".join(translate(pattern.lower()) for pattern in include)).match

    def wanted(name: str) -> bool:
        return (
            matches(name.lower()) is not None
            and not is_own_output(name)
            and not (name.startswith(".") and is_our_temporary(Path(name)))
        )

    return wanted


def list_folder(folder: str, wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Return the wanted names in a folder, and the paths of the folders in it. Raises OSError."""
    names, below = [], []
    with os.scandir(system_path(Path(folder))) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(os.path.join(folder, entry.name))  # noqa: PTH118 - Path is slow
            elif wanted(entry.name):
                names.append(entry.name)
    return names, below


def regular_stamp(path: str) -> FileStamp | None:
    """Return the stamp of a regular file; None for links, FIFOs, devices and folders. Raises OSError."""
    # Only Windows needs another form, and a Path for each of 100,000 files doubles the time of a scan.
    found = os.lstat(system_path(Path(path)) if sys.platform == "win32" else path)
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)
