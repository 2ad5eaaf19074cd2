"""The locks that come with the package: of every file that an offline archive carries, its name and its SHA-256.

A lock is a requirements file that pip takes with `--require-hashes`; above each requirement its file is named. Only
this module reads one. `python tests/long/lock.py` writes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.packing.package_errors import PackageFailed

if TYPE_CHECKING:
    from edge_agent.packing.target import Target

FOLDER: Final = Path(__file__).resolve().parent / "locks"
_ENTRY: Final = re.compile(
    r"^# (?P<file>\S+)\n(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file from the package index, and the only content that it may have."""

    name: str
    """As the lock writes it: lower case, hyphens."""
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The two lines in a lock."""
        return f"# {self.file}\n{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def agent_lock(target: Target) -> tuple[LockedFile, ...]:
    """Every wheel that the agent needs on this target, but its own. Raises PackageFailed."""
    return read_lock(FOLDER / f"agent-{target.label}.txt")


def pip_lock() -> tuple[LockedFile, ...]:
    """The wheel of pip itself: the other PC may have none. Raises PackageFailed."""
    return read_lock(FOLDER / "pip.txt")


def sources_lock() -> tuple[LockedFile, ...]:
    """Source archives that a licence asks to be passed on. Raises PackageFailed."""
    return read_lock(FOLDER / "sources.txt")


def build_lock() -> tuple[LockedFile, ...]:
    """What builds scopewatch's own wheel from a clone. Raises PackageFailed."""
    return read_lock(FOLDER / "build.txt")


def read_lock(path: Path) -> tuple[LockedFile, ...]:
    """Read a lock. Raises PackageFailed where there is none, or a line in it is of no known form."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackageFailed(f"{path}: cannot be read ({error}); install scopewatch again") from error
    found = tuple(
        LockedFile(*(match[key] for key in ("name", "version", "file", "sha256")))
        for match in _ENTRY.finditer(text)
    )
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    if not found or len(found) != len(lines):
        raise PackageFailed(
            f"{path}: {len(lines)} requirements, {len(found)} of them whole; install scopewatch again"
        )
    return found
