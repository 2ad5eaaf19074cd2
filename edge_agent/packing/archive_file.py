"""A folder as one archive, the same bytes whenever the folder holds the same: zip for Windows, tar.gz for Linux."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
from typing import TYPE_CHECKING, Final

from edge_agent.packing.package_errors import PackageRefused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TIME: Final = 315532800
"""1980-01-01, the earliest that a zip can state."""
_PACKED_ALREADY: Final = (".whl", ".gz", ".zip", ".onnx", ".npz")
_PROGRAMS: Final = (".sh",)


def pack(folder: Path, path: Path, root: str) -> None:
    """Write every file below `folder` into the archive `path`, below the folder `root` in it. Raises OSError."""
    if path.suffix == ".zip":
        _zip(folder, path, root)
    else:
        _tar(folder, path, root)


def read_member(path: Path, name: str) -> bytes:
    """Return a file at the top of an archive's folder. Raises PackageRefused, OSError."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = next((one for one in archive.namelist() if one.partition("/")[2] == name), None)
                if found is not None:
                    return archive.read(found)
        else:
            with tarfile.open(path, "r:gz") as packed:
                member = next((one for one in packed if one.name.partition("/")[2] == name), None)
                handle = None if member is None else packed.extractfile(member)
                if handle is not None:
                    return handle.read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise PackageRefused(f"{path}: is no offline archive ({error})") from error
    raise PackageRefused(f"{path}: holds no {name}; give an archive that package-offline made")


def _zip(folder: Path, path: Path, root: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file, name in _files(folder, root):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100000 | _mode(file)) << 16
            entry.compress_type = (
                zipfile.ZIP_STORED if file.suffix in _PACKED_ALREADY else zipfile.ZIP_DEFLATED
            )
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _tar(folder: Path, path: Path, root: str) -> None:
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=_TIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file, name in _files(folder, root):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = file.stat().st_size, _TIME, _mode(file)
            with file.open("rb") as source:
                archive.addfile(entry, source)


def _files(folder: Path, root: str) -> Iterator[tuple[Path, str]]:
    for file in sorted(folder.rglob("*"), key=lambda one: one.relative_to(folder).as_posix()):
        if file.is_file():
            yield file, f"{root}/{file.relative_to(folder).as_posix()}"


def _mode(file: Path) -> int:
    return 0o755 if file.suffix in _PROGRAMS else 0o644
