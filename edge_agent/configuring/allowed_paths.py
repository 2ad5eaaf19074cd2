r"""Which paths a configuration may name for what the agent writes and loads.

Two harms are kept off. A path on a server (`\\host\share`) makes Windows log on to that host, and so hands it
the account's password hash: outputs and models may only lie on hosts that a watched folder names anyway. And
nothing is ever written into a folder of the operating system.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SYSTEM_FOLDERS: Final = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr",
)  # fmt: skip
_MEMORY_FOLDER: Final = "/dev/shm"  # noqa: S108 - named, not used
_WINDOWS_SYSTEM_FOLDERS: Final = (
    ("SYSTEMROOT", r"C:\Windows"),
    ("PROGRAMFILES", r"C:\Program Files"),
    ("PROGRAMFILES(X86)", r"C:\Program Files (x86)"),
)
_WINDOWS_PATH: Final = re.compile(r"\\\\|[A-Za-z]:[\\/]")


def unc_host(path: str | PurePath) -> str | None:
    r"""Return the host in `\\host\share`, `//host/share` or `\\?\UNC\host\share`, in small letters, else None."""
    text = str(path).replace("/", "\\")
    if not text.startswith("\\\\") or text[2:3] in ("", "\\"):
        return None
    parts = text[2:].split("\\")
    if parts[0] in ("?", "."):
        parts = parts[2:] if len(parts) > 2 and parts[1].upper() == "UNC" else []
    return parts[0].casefold() if parts and parts[0] else None


def is_path_of_windows(text: str) -> bool:
    """Whether a path can only mean something on Windows."""
    return _WINDOWS_PATH.match(text) is not None


def why_not_usable(path: PurePath) -> str | None:
    """Return what makes a path no place on this system, or None. The sentence follows the path."""
    text = str(path)
    if "\0" in text:
        return "holds a NUL, which no path can"
    if text.startswith("~"):
        return "there is no home folder of that name"
    if text.replace("/", "\\").startswith("\\\\.\\"):
        return "names a device, not a folder"
    if isinstance(path, PurePosixPath) and is_path_of_windows(text):
        return "is a path of Windows; on this system give the place where the share or disk is mounted"
    return None


def why_no_place_for_files(path: PurePath, watched: Iterable[PurePath]) -> str | None:
    """Return why the agent must not write below `path`, or None. The sentence follows the path."""
    return why_host_is_foreign(path, watched) or _why_the_systems(path)


def why_host_is_foreign(path: str | PurePath, watched: Iterable[PurePath]) -> str | None:
    """Return why the agent must not reach for the host of `path`, or None. The sentence follows the path."""
    host = unc_host(path)
    if host is None or host in {unc_host(folder) for folder in watched}:
        return None
    return f"lies on {host}, which no watched folder names; this account's password would be offered to it"


def _why_the_systems(path: PurePath) -> str | None:
    if unc_host(path) is not None:
        return None
    plain = type(path)(str(path).removeprefix("\\\\?\\"))
    if plain == plain.parent:
        return "is the top of a disk; name a folder on it"
    windows = isinstance(path, PureWindowsPath)
    if not windows and plain.is_relative_to(_MEMORY_FOLDER):
        return None
    names = (os.environ.get(key, usual) for key, usual in _WINDOWS_SYSTEM_FOLDERS)
    for folder in map(type(path), names if windows else _SYSTEM_FOLDERS):
        if plain.is_relative_to(folder):
            return f"lies in {folder}, which belongs to the operating system"
    return None
