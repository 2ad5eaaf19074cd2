"""A Python that goes into an archive: is it what the target needs, before anybody carries it away.

Only this module knows the two kinds: python.org's embeddable zip for Windows, and the `install_only` archive of
python-build-standalone for Linux.
"""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from edge_agent.packing.package_errors import PackageRefused

if TYPE_CHECKING:
    from edge_agent.packing.target import Target

_PE_X86_64: Final = 0x8664
_ELF_X86_64: Final = 62
_MOST_LICENCE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PythonRuntime:
    """A checked archive of CPython, and the text of its licence where it carries one."""

    path: Path
    version: str
    licence: bytes | None


def read_runtime(path: Path, target: Target) -> PythonRuntime:
    """Look into the archive. Raises PackageRefused where it is not a CPython for `target`, and OSError."""
    what = (
        "python.org's Windows embeddable package (64-bit)"
        if target.is_windows
        else ("an install_only .tar.gz of python-build-standalone (x86_64-unknown-linux-gnu)")
    )
    try:
        found = _embeddable(path, target) if target.is_windows else _standalone(path, target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, KeyError, struct.error) as error:
        raise PackageRefused(f"{path}: is not {what} ({error})") from error
    if isinstance(found, str):
        raise PackageRefused(f"{path}: {found}; give {what} of Python {target.python}")
    return found


def _embeddable(path: Path, target: Target) -> PythonRuntime | str:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        needed = {
            "python.exe",
            f"python{target.digits}.dll",
            f"python{target.digits}._pth",
            f"python{target.digits}.zip",
        }
        if not needed <= names:
            dll = next((name for name in sorted(names) if re.fullmatch(r"python3\d+\.dll", name)), None)
            return f"holds {dll or 'no python3*.dll'}, and of {', '.join(sorted(needed))} not all"
        unsafe = _unsafe(names)
        if unsafe:
            return f"holds {unsafe!r}, which leads out of its folder"
        if _pe_machine(archive.read("python.exe")) != _PE_X86_64:
            return "python.exe is not for 64-bit Intel or AMD"
        licence = next((archive.read(name) for name in sorted(names) if name.upper() == "LICENSE.TXT"), None)
    return PythonRuntime(path, _version(path.name, target.python), licence)


def _standalone(path: Path, target: Target) -> PythonRuntime | str:
    program = f"python/bin/python{target.python}"
    with tarfile.open(path, "r:gz") as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
        unsafe = _unsafe(set(members))
        if unsafe:
            return f"holds {unsafe!r}, which leads out of its folder"
        if program not in members or f"python/lib/python{target.python}/os.py" not in members:
            return f"holds no {program}"
        handle = archive.extractfile(members[program])
        if handle is None or _elf_machine(handle.read(64)) != _ELF_X86_64:
            return f"{program} is not for 64-bit Intel or AMD"
        licence = _licence_of(archive, members, target.python)
    return PythonRuntime(path, _version(path.name, target.python), licence)


def _licence_of(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], python: str) -> bytes | None:
    for name in (f"python/lib/python{python}/LICENSE.txt", "python/LICENSE.txt", "python/LICENSE"):
        member = members.get(name)
        handle = archive.extractfile(member) if member is not None and member.isfile() else None
        if handle is not None:
            return handle.read(_MOST_LICENCE_BYTES)
    return None


def _unsafe(names: set[str]) -> str | None:
    for name in sorted(names):
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in name:
            return name
    return None


def _pe_machine(data: bytes) -> int:
    (offset,) = struct.unpack_from("<I", data, 0x3C)
    signature, machine = struct.unpack_from("<4sH", data, offset)
    return int(machine) if signature == b"PE\0\0" else 0


def _elf_machine(head: bytes) -> int:
    return int(struct.unpack_from("<H", head, 18)[0]) if head[:5] == b"\x7fELF\x02" else 0


def _version(name: str, python: str) -> str:
    """The full version where the file's name states it, as both publishers' names do."""
    match = re.search(rf"{re.escape(python)}\.\d+", name)
    return match.group() if match else python
