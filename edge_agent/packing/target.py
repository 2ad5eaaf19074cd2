"""The PCs that an offline archive can be made for, and what pip calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edge_agent.packing.package_errors import PackageRefused

PLATFORMS: Final = ("win_amd64", "linux_x86_64")
PYTHONS: Final = ("3.11", "3.12", "3.13")
OLDEST_GLIBC: Final = (2, 28)
"""Of the Linux wheels: RHEL 8, Debian 10, Ubuntu 20.04 and what came after them."""

# pip takes a manylinux tag for itself alone, so every older one is named as well.
_MANYLINUX: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(OLDEST_GLIBC[1], 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of PC: its platform as wheels name it, and the CPython version that runs the agent there."""

    platform: str
    python: str

    @property
    def label(self) -> str:
        """The target in the names of files, as in `win_amd64-py311`."""
        return f"{self.platform}-py{self.digits}"

    @property
    def digits(self) -> str:
        """The Python version without its point, as in `python311.dll`."""
        return self.python.replace(".", "")

    @property
    def is_windows(self) -> bool:
        """Whether the scripts are PowerShell's and the archive a zip."""
        return self.platform == "win_amd64"

    @property
    def platform_tags(self) -> tuple[str, ...]:
        """Platform tags whose wheels run there, best first; `any` goes without saying."""
        return (self.platform,) if self.is_windows else _MANYLINUX

    @property
    def words(self) -> str:
        """For a person."""
        system = (
            "Windows 10 or 11" if self.is_windows else f"Linux with glibc {OLDEST_GLIBC[0]}.{OLDEST_GLIBC[1]}"
        )
        return f"{system}{'' if self.is_windows else ' or newer'}, 64-bit Intel or AMD, Python {self.python}"


def target_of(platform: str, python: str) -> Target:
    """Return the target. Raises PackageRefused for a platform or a Python that no lock is there for."""
    if platform not in PLATFORMS:
        raise PackageRefused(
            f"--platform {platform}: no archive is made for this; choose {' or '.join(PLATFORMS)}"
        )
    if python not in PYTHONS:
        raise PackageRefused(f"--python {python}: no archive is made for this; choose {', '.join(PYTHONS)}")
    return Target(platform, python)


def wheel_runs_on(filename: str, target: Target) -> bool:
    """Whether a wheel's name says that it is for this target's platform and Python (PEP 427 and 425)."""
    match = re.fullmatch(r"[^-]+-[^-]+(?:-\d[^-]*)?-([^-]+)-([^-]+)-([^-]+)\.whl", filename)
    if match is None:
        return False
    pythons, abis, platforms = (group.split(".") for group in match.groups())
    if not set(platforms) & {"any", *target.platform_tags}:
        return False
    own = f"cp{target.digits}"
    if own in pythons and set(abis) & {own, "abi3", "none"}:
        return True
    stable = any(_minor(tag) <= _minor(own) for tag in pythons if tag.startswith("cp3"))
    return ("abi3" in abis and stable) or (
        "none" in abis and bool(set(pythons) & {"py3", f"py{target.digits}"})
    )


def _minor(tag: str) -> int:
    return int(tag[3:] or 0)
