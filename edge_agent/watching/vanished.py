"""Files that are known to be done and no longer there, below one root.

Said with more care than haste, for whoever hears it may clear up what belonged to them: a disk that is not
mounted looks like a folder whose files were all deleted, and a share that does not answer like none at all.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.watching.folder_listing import Listing
    from edge_agent.watching.known import Known, KnownState


class Vanished:
    """Names that are gone, by folder. `wanted` are the names that a listing would show."""

    def __init__(self, root: str, known: Known, wanted: Callable[[str], bool]) -> None:
        self._root = root
        self._known = known
        self._wanted = wanted
        self._identity = folder_identity(root)
        self._gone: dict[str, frozenset[str]] = {}
        self.has_shown_known = False
        """Whether a known file was found below the root: else it is likely to be another disk."""

    def names(self) -> dict[str, frozenset[str]]:
        """Return what is gone. May be called from any thread."""
        return dict(self._gone) if self.has_shown_known else {}

    def compare_names(
        self, folder: str, known: Mapping[str, KnownState], listing: Listing, *, was_empty: bool
    ) -> None:
        """Note which known names a listing made after the question for them lacks."""
        missing = self._missing(folder, known, listing.names)
        # A folder that we never saw with anything in it may be the place of a disk that is not mounted.
        is_sure = not listing.is_empty or not was_empty or folder in self._gone
        if missing and is_sure and self._is_still_there():
            self._gone[folder] = frozenset(missing)
        else:
            self._gone.pop(folder, None)

    def _missing(self, folder: str, known: Mapping[str, KnownState], names: list[str]) -> list[str]:
        # Counted first: a set of 100,000 names takes megabytes, and most of the time nothing is missing.
        if sum(name in known for name in names) == len(known):
            return []
        present = set(names)
        return [
            name
            for name in known
            if name not in present and self._wanted(name) and is_missing(os.path.join(folder, name))  # noqa: PTH118
        ]

    def compare_folders(self, has_entries: Mapping[str, bool]) -> None:
        """Note known folders that are gone as a whole; `has_entries` are all that were found, empty or not."""
        gone = {folder: names for folder, names in self._gone.items() if folder in has_entries}
        for path in self._known.folders_below(Path(self._root)):
            folder = str(path)
            if folder not in has_entries and self._is_gone_for_sure(folder, has_entries):
                gone[folder] = frozenset(self._known.in_folder(path))
        self._gone = gone if self._is_still_there() else {}

    def _is_gone_for_sure(self, folder: str, has_entries: Mapping[str, bool]) -> bool:
        if not is_missing(folder):
            return False
        above = os.path.dirname(folder)  # noqa: PTH120
        while above not in has_entries and len(above) > len(self._root):
            above = os.path.dirname(above)  # noqa: PTH120
        return has_entries.get(above, False)

    def _is_still_there(self) -> bool:
        return self._identity is not None and folder_identity(self._root) == self._identity


def folder_identity(folder: str) -> tuple[int, int] | None:
    """Return device and inode of a folder, which a mount in its place changes; None when missing."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def is_missing(path: str) -> bool:
    """Whether there is certainly nothing at `path`."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # A share that does not answer says nothing.
        return False
    return False
