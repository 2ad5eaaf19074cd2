"""Which disk a folder lies on, asked without psutil, which may be what is broken. Standard library only.

What Windows answers is not verified on Windows.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.diagnosing.windows_facts import DRIVE_REMOTE, RealWindows
from edge_agent.watching.volumes import Mount, Volume, volume_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_agent.diagnosing.windows_facts import WindowsFacts

_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(slots=True)
class _Mount:
    mountpoint: str
    fstype: str
    opts: str


def volume_on_this_pc(folder: Path) -> Volume:
    """Return the kind of volume, after two seconds at the latest; never raises."""
    return volume_of(folder, _mounts)


def _mounts() -> Iterable[Mount]:
    return mounts_on_windows() if sys.platform == "win32" else mounts_on_linux()


def disk_text(folder: Path, mounts: Iterable[Mount] | None = None) -> str:
    """Return for example `ext4 at /`; an empty text where the system does not say."""
    try:
        found = list(mounts if mounts is not None else _mounts())
        place = folder.resolve()
        inside = [mount for mount in found if place.is_relative_to(mount.mountpoint)]
    except OSError:
        return ""
    if not inside:
        return ""
    # The last of equals: a later mount lies over an earlier one.
    _, best = max(enumerate(inside), key=lambda item: (len(item[1].mountpoint), item[0]))
    return f"{best.fstype} at {best.mountpoint}" if best.fstype else best.mountpoint


def mounts_on_linux(file: Path = _MOUNTS) -> list[_Mount]:
    """Return the mounts of this process (proc(5): fields after ` - ` are type, source, options)."""
    found = []
    for line in file.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) > 4 and rest:
            point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            found.append(_Mount(point, rest[0], ""))
    return found


def mounts_on_windows(windows: WindowsFacts | None = None) -> list[_Mount]:
    """Return the drives, remote ones marked as psutil does. Not verified on Windows."""
    windows, found = windows or RealWindows(), []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        kind = windows.drive_kind(f"{letter}:\\")
        if kind is not None and kind > 1:  # 0 unknown, 1 no such drive
            found.append(_Mount(f"{letter}:\\", "", "remote" if kind == DRIVE_REMOTE else ""))
    return found
