"""The scripts and the README of an archive: templates beside this module, filled in with what the archive holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_agent.packing.target import Target

_FOLDER: Final = Path(__file__).resolve().parent / "archive"
_PLACE: Final = re.compile(r"@([A-Z]+)@")
_WINDOWS: Final = ("install.ps1", "install.cmd", "uninstall.ps1", "uninstall.cmd")
_LINUX: Final = ("install.sh", "uninstall.sh")


def scripts(target: Target) -> Iterator[tuple[str, str]]:
    """Name in the archive and template of every script, and of the README."""
    for name in _WINDOWS if target.is_windows else _LINUX:
        yield name, (_FOLDER / name).read_text(encoding="utf-8")
    readme = "README-windows.txt.in" if target.is_windows else "README-linux.txt.in"
    yield "README.txt", (_FOLDER / readme).read_text(encoding="utf-8")


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Put a value in the place of every `@NAME@`. Raises KeyError for a name without one."""
    return _PLACE.sub(lambda match: values[match[1]], template)
