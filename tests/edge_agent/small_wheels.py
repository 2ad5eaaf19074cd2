"""Small wheels and their locks, for tests that make an archive without the package index."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from typing import TYPE_CHECKING

from edge_agent.packing.lock_file import LockedFile

if TYPE_CHECKING:
    from pathlib import Path


def small_wheel(
    folder: Path,
    name: str,
    *,
    tag: str = "py3-none-any",
    licence: str = "License-Expression: MIT",
    texts: tuple[str, ...] = ("licenses/LICENSE",),
) -> LockedFile:
    """Write a wheel that installs one module, and lock it."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{licence}\n"
    files = {
        f"{name}.py": "ANSWER = 42\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **{f"{info}/{text}": f"The licence of {name}, {text}.\n" for text in texts},
    }
    files[f"{info}/RECORD"] = "".join(f"{one},,\n" for one in (*files, f"{info}/RECORD"))
    path = folder / f"{name}-1.0-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(file, (1980, 1, 1, 0, 0, 0)), content)
    return locked(path, name)


def small_source(folder: Path, name: str) -> LockedFile:
    """Write a source archive and lock it."""
    path = folder / f"{name}-1.0.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        content = b"the source\n"
        entry = tarfile.TarInfo(f"{name}-1.0/{name}.py")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return locked(path, name)


def locked(path: Path, name: str) -> LockedFile:
    return LockedFile(name, "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
