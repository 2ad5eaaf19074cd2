r"""Drives that exist for one log-on only: why a service is given `\\server\share\folder`, not `Z:\folder`.

Windows keeps mapped drive letters for each log-on session. A service has a session of its own, in which `Z:` does
not exist, and an administrator's prompt has another one than the desktop. Only this module knows that.
Not verified on Windows.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Final, Protocol

from edge_agent.deploy.service_plan import ServiceRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

_REASON: Final = "a mapped drive exists for your log-on only, and a service has none"


class Drives(Protocol):
    """The one question to Windows."""

    def share_of(self, drive: str) -> str | None:
        r"""Return the \\server\share behind a drive letter (`Z:`), None for none."""


def unc_of(path: Path, drives: Drives) -> PureWindowsPath | None:
    r"""Return what a path on a mapped drive is called by every log-on; None when it is on no mapped drive."""
    windows = PureWindowsPath(path)
    if len(windows.drive) != 2 or windows.drive[1] != ":":
        return None
    share = drives.share_of(windows.drive.upper())
    return None if not share else PureWindowsPath(share.rstrip("\\") + "\\", *windows.parts[1:])


def is_unc(path: Path) -> bool:
    r"""Whether a path names a server: `\\server\share\...`, also with the prefix for long paths."""
    drive = PureWindowsPath(path).drive.upper()
    return drive.startswith("\\\\") and not (drive.startswith("\\\\?\\") and drive[4:8] != "UNC\\")


def refuse_mapped(paths: Iterable[Path], drives: Drives) -> None:
    """Raise ServiceRefused, with the name that works, for each path on a mapped drive."""
    lines = [f"{path}: {_REASON}; write {unc}" for path in paths if (unc := unc_of(path, drives)) is not None]
    if lines:
        raise ServiceRefused("\n".join(lines))
