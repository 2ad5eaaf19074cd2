"""Names and versions of models, and which bundles came with the installation.

Only this module knows where the shipped bundles lie and which of two versions is the newer one. It looks at
names alone: what a bundle holds is `model_bundle`'s business.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST: Final = "manifest.json"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
VERSION_PATTERN: Final = r"^[0-9]+(\.[0-9]+){0,2}([a-z0-9.+-]*)?$"
LONGEST_VERSION: Final = 64
_FOLDER: Final = re.compile(r"(?P<name>.+)-(?P<version>[0-9][^-]*(-[^-0-9][^-]*)*)")
_BEFORE: Final = re.compile(r"[-.]?(a|alpha|b|beta|c|rc|pre|preview|dev)[0-9.]*$")

VersionOrder = tuple[tuple[int, ...], bool, str, str]


def version_order(version: str) -> VersionOrder:
    """Return a key that sorts versions: 1.0rc1 before 1.0, 1.0-optimised after it, 9 before 10."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = found.group() if found else ""
    rest = version[len(numbers) :]
    # At most LONGEST_VERSION digits: no number is too long to be read.
    values = [int(digits) for digits in numbers[:LONGEST_VERSION].split(".") if digits]
    while values and values[-1] == 0:
        values.pop()  # 1 and 1.0 are the same release
    tail = re.sub(r"[0-9]+", lambda digits: digits.group().zfill(LONGEST_VERSION), rest.lstrip("-."))
    return tuple(values), _BEFORE.match(rest) is None, tail, version


def name_and_version(folder_name: str) -> tuple[str, str]:
    """Take `name-version` apart; the version starts at the last part that begins with a digit."""
    found = _FOLDER.fullmatch(folder_name)
    if found is None:
        name, _, version = folder_name.rpartition("-")
        return name, version
    return found["name"], found["version"]


def shipped_models() -> tuple[Path, ...]:
    """Folders of the bundles that come with the package, by name, oldest version first."""
    for root in _model_roots():
        found = [folder for folder in root.iterdir() if (folder / MANIFEST).is_file()]
        if found:
            return tuple(sorted(found, key=_order))
    return ()


def shipped_named(name: str, shipped: tuple[Path, ...]) -> Path | None:
    """The shipped bundle called `name-version`, or the newest one called `name`."""
    named = [folder for folder in shipped if name in (folder.name, name_and_version(folder.name)[0])]
    exact = [folder for folder in named if folder.name == name]
    return next(reversed(exact or named), None)


def is_shipped(path: Path) -> bool:
    """Whether a folder is one of the installation's own bundles, whatever its name was given as."""
    try:
        place = path.resolve()
        return any(place == folder.resolve() for folder in shipped_models())
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def _model_roots() -> Iterator[Path]:
    # In a wheel the models lie inside the package, in the repository (editable install) beside it.
    here = Path(__file__).resolve().parent
    for root in (here / "models", here.parent / "models"):
        if root.is_dir():
            yield root


def _order(folder: Path) -> tuple[str, VersionOrder]:
    name, version = name_and_version(folder.name)
    return name, version_order(version)
