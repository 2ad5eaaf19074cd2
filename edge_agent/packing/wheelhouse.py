"""Locked files from a package index to a folder: pip downloads them, and their hashes are computed here once more.

Only this module runs pip for downloads and knows what its complaints mean. pip's own settings (an index in the
house, a proxy, certificates) hold as they do for every other use of pip on this PC.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.packing.package_errors import PackageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edge_agent.packing.lock_file import LockedFile
    from edge_agent.packing.target import Target

_TRIES: Final = "2"
_NO_NETWORK: Final = re.compile(
    r"NameResolutionError|name resolution|getaddrinfo|NewConnectionError|Failed to establish|Network is unreachable"
    r"|Connection refused|ConnectTimeout|Read timed out|ProxyError|Max retries|Connection (?:reset|aborted)"
    r"|RemoteDisconnected|SSLError|CERTIFICATE_VERIFY"
)
_MISMATCH: Final = re.compile(r"DO NOT MATCH THE HASHES.*?\n\s+(\S+)", re.DOTALL)
_NOT_THERE: Final = re.compile(
    r"(?:No matching distribution found for|find a version that satisfies the requirement) (\S+)"
)


def fetch_wheels(
    files: Sequence[LockedFile],
    target: Target,
    folder: Path,
    *,
    wheels: Path | None = None,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Put every locked wheel for `target` into `folder`, from `wheels` where that is given, else from the index.

    Raises PackageFailed: no network, another content than locked, a wheel that is not there, a full disk.
    """
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", target.python]
    for tag in target.platform_tags:
        options += ["--platform", tag]
    _download(files, folder, options, wheels, advance)


def fetch_source(file: LockedFile, folder: Path, tools: Path, *, wheels: Path | None = None) -> None:
    """Put a locked source archive into `folder`. Raises PackageFailed as `fetch_wheels` does.

    pip asks a source archive for its metadata and runs its setup.py for that: `tools` is a folder with the locked
    setuptools, so that nothing unlocked is fetched or run.
    """
    if wheels is not None and (wheels / file.file).is_file():
        (folder / file.file).write_bytes((wheels / file.file).read_bytes())
        _require_locked([file], folder)
        return
    _download([file], folder, ["--no-binary", ":all:", "--no-build-isolation"], wheels, lambda: None, tools)


def install_tools(files: Sequence[LockedFile], folder: Path, *, wheels: Path | None = None) -> None:
    """Install locked pure-Python tools into `folder`, for use through PYTHONPATH. Raises PackageFailed."""
    _pip(["install", "--quiet", "--target", str(folder)], files, wheels, lambda _: None)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content. Raises OSError."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _download(
    files: Sequence[LockedFile],
    folder: Path,
    options: Sequence[str],
    wheels: Path | None,
    advance: Callable[[], None],
    tools: Path | None = None,
) -> None:
    def listen(line: str) -> None:
        if line.startswith(("Collecting ", "Processing ")):  # the second: from a folder
            advance()

    command = ["download", "--dest", str(folder), "--progress-bar", "off", *options]
    _pip(command, files, wheels, listen, tools)
    _require_locked(files, folder)


def _require_locked(files: Iterable[LockedFile], folder: Path) -> None:
    for file in files:
        path = folder / file.file
        if not path.is_file():
            raise PackageFailed(
                f"{file.file}: was not downloaded, though pip reported success; run pip's newest version"
            )
        seen = sha256_of(path)
        if seen != file.sha256:
            raise PackageFailed(
                _mismatch_text(
                    file.file, f"its SHA-256 is {seen[:12]}..., the lock says {file.sha256[:12]}..."
                )
            )


def _pip(
    command: Sequence[str],
    files: Sequence[LockedFile],
    wheels: Path | None,
    listen: Callable[[str], None],
    tools: Path | None = None,
) -> None:
    """Run pip on `files` and nothing else: no dependencies, every hash demanded."""
    where = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
    with tempfile.TemporaryDirectory(prefix="scopewatch-pip-") as work:
        lock, errors = Path(work) / "requirements.txt", Path(work) / "stderr.txt"
        lock.write_text("".join(file.requirement for file in files), encoding="utf-8")
        full = [
            sys.executable,
            "-m",
            "pip",
            *command,
            "--no-deps",
            "--require-hashes",
            "--retries",
            _TRIES,
            *where,
        ]
        environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        if tools is not None:
            environment["PYTHONPATH"] = str(tools)
        with (
            errors.open("wb") as handle,
            subprocess.Popen(
                [*full, "-r", str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=handle,
                env=environment,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    listen(line)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise PackageFailed(_reason(errors.read_text(encoding="utf-8", errors="replace"), wheels))


def _reason(complaint: str, wheels: Path | None) -> str:
    """What pip's stderr means, in one line."""
    if "No module named pip" in complaint:
        return f"{sys.executable}: this Python has no pip; run: {sys.executable} -m ensurepip"
    if "No space left" in complaint or "not enough space on the disk" in complaint:
        return f"{tempfile.gettempdir()} or the output folder: the disk is full; free 1 GB and run this again"
    mismatch = _MISMATCH.search(complaint)
    if mismatch:
        return _mismatch_text(mismatch[1], "pip refused what the index sent")
    if _NO_NETWORK.search(complaint):
        return (
            "the package index cannot be reached: this command needs a network; check it and pip's proxy settings, "
            "or give a folder that holds the wheels with --wheels"
        )
    missing = _NOT_THERE.search(complaint)
    if missing:
        if wheels is not None:
            return (
                f"{missing[1]}: not in {wheels} for this platform; put its wheel there, or leave --wheels out"
            )
        return f"{missing[1]}: not in the package index for this platform any more; update scopewatch and its locks"
    last = [line for line in complaint.splitlines() if line.strip()][-1:] or ["no word"]
    return f"pip failed: {last[0].strip()} (python -m pip download shows more)"


def _mismatch_text(what: str, seen: str) -> str:
    return (
        f"{what}: not the file that was locked: {seen}. Nothing was packed. Run this again; if it stays, the index "
        "or the way to it hands out something else: do not use it"
    )
