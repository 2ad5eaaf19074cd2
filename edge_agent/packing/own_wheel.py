"""scopewatch's own wheel: built from the clone that is running, or packed again from the files of an installation.

A wheel that is packed again holds the same files with the same bytes as the one that was installed: each is
compared with the installation's RECORD first. What an installer adds (commands, compiled
files, its own notes) is left out.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import edge_agent
from edge_agent.packing.lock_file import build_lock
from edge_agent.packing.package_errors import PackageFailed
from edge_agent.packing.wheelhouse import install_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = f"scopewatch-{edge_agent.__version__}-py3-none-any.whl"
_MADE_BY_INSTALLERS: Final = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
_EARLIEST_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)


def own_wheel(folder: Path, *, wheels: Path | None = None) -> Path:
    """Write this version's wheel into `folder`, the same bytes every time. Raises PackageFailed, OSError."""
    clone = source_tree()
    if clone is None:
        return packed_again(importlib.metadata.distribution("scopewatch"), folder)
    return _built(clone, folder, wheels)


def source_tree() -> Path | None:
    """The clone whose code is running, or None where it was installed from a wheel."""
    above = Path(edge_agent.__file__).resolve().parent.parent
    project = above / "pyproject.toml"
    is_ours = project.is_file() and 'name = "scopewatch"' in project.read_text(encoding="utf-8")
    return above if is_ours else None


def packed_again(installed: importlib.metadata.Distribution, folder: Path) -> Path:
    """Pack the installed files into a wheel. Raises PackageFailed where one is not as it was installed."""
    rows = sorted(_kept(installed))
    info = next(name.partition("/")[0] for name, _ in rows if ".dist-info/" in name)
    listing, path = io.StringIO(), folder / NAME
    writer = csv.writer(listing, lineterminator="\n")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in rows:
            archive.writestr(_entry(name), content)
            writer.writerow((name, f"sha256={_digest(content)}", len(content)))
        writer.writerow((f"{info}/RECORD", "", ""))
        archive.writestr(_entry(f"{info}/RECORD"), listing.getvalue())
    return path


def _kept(installed: importlib.metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file that came with the wheel, compared with RECORD."""
    # Not `installed.files`: since Python 3.12 (and in its backport) that passes over files that are missing.
    record = installed.read_text("RECORD")
    if not record:
        raise PackageFailed("scopewatch: the installation has no RECORD; install it again with pip")
    for name, digest, _ in csv.reader(record.splitlines()):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        made_here = parts[0].endswith(".dist-info") and parts[-1] in _MADE_BY_INSTALLERS
        if parts[0] in ("..", "/") or "__pycache__" in parts or made_here:
            continue
        place = Path(str(installed.locate_file(name)))
        try:
            content = place.read_bytes()
        except OSError as error:
            raise PackageFailed(
                f"{place}: cannot be read ({error.strerror}); install scopewatch again"
            ) from error
        if digest != f"sha256={_digest(content)}":
            raise PackageFailed(f"{place}: was changed since it was installed; install scopewatch again")
        yield "/".join(parts), content


def _digest(content: bytes) -> str:
    """As RECORD writes it (PEP 376)."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EARLIEST_ZIP_TIME)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry


def _built(clone: Path, folder: Path, wheels: Path | None) -> Path:
    """Build the wheel as a release is built; hatchling comes from this Python, or locked from the index."""
    with tempfile.TemporaryDirectory(prefix="scopewatch-build-") as work:
        environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "SOURCE_DATE_EPOCH": "1577836800"}
        if importlib.util.find_spec("hatchling") is None:
            install_tools(build_lock(), Path(work), wheels=wheels)
            environment["PYTHONPATH"] = work
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            str(clone),
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
        ]
        done = subprocess.run(
            [*command, "--quiet", "--wheel-dir", str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    path = folder / NAME
    if done.returncode != 0 or not path.is_file():
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no word"]
        raise PackageFailed(f"{clone}: {NAME} was not built: {last[0].strip()}")
    return path
