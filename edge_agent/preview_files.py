"""Where the page's pictures are kept: their names, how they are written, read back and counted.

Named by content, so that a file that moves keeps its picture and one that changes loses it. A cache: nothing here
is forced to the disk, everything can be made again, and what is not whole counts as not there. Only this module
knows the names; nothing of a file's own name is in them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.files import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PICTURES_FOLDER: Final = "pictures"
"""In the state folder."""
PICTURE_LIMIT_BYTES: Final = 4 * 2**20
"""No picture of ours is as long: 1024 x 1024 px of pure noise are 0.7 MiB."""
_SUFFIXES: Final = {"picture": ".jpg", "thumb": ".thumb.jpg"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_START_OF_JPEG: Final = b"\xff\xd8\xff"
_END_OF_JPEG: Final = b"\xff\xd9"
_TEMPORARY: Final = ".tmp"
_LEFT_OVER_SECONDS: Final = 3600.0
_MIB: Final = 2**20

Kind = Literal["picture", "thumb"]
"""The whole field with at most 1024 px a side, or with at most 160."""
KINDS: Final[tuple[Kind, ...]] = ("picture", "thumb")


@dataclass(frozen=True, slots=True)
class Previews:
    """Both pictures of one micrograph as JPEG."""

    picture: bytes
    thumb: bytes

    def of(self, kind: Kind) -> bytes:
        """Return one of them."""
        return self.picture if kind == "picture" else self.thumb


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of the cache, as a listing found it; `modified` in seconds since 1970."""

    path: str
    kind: Kind | None
    """None: a file that was never finished."""
    size_bytes: int
    modified: float


def is_sha256(content: str) -> bool:
    """Whether `content` is a hash of all bytes, and not a fingerprint."""
    return _SHA256.fullmatch(content) is not None


def preview_path(folder: Path, content: str, kind: Kind) -> Path:
    """Return where the picture of these bytes (SHA-256, or the fingerprint of a large file) lies, or would."""
    name = content if is_sha256(content) else sha256(content.encode("utf-8", "backslashreplace")).hexdigest()
    return folder / name[:2] / (name + _SUFFIXES[kind])


def read_preview(folder: Path, content: str, kind: Kind) -> bytes | None:
    """Return the picture, or None when there is none, or only the half that a power cut left."""
    data = read_whole(preview_path(folder, content, kind), PICTURE_LIMIT_BYTES)
    whole = data is not None and data.startswith(_START_OF_JPEG) and data.endswith(_END_OF_JPEG)
    return data if whole else None


def has_previews(folder: Path, content: str) -> bool:
    """Whether both pictures are there; they then count as new."""
    paths = [preview_path(folder, content, kind) for kind in KINDS]
    try:
        if not all(path.stat().st_size for path in paths):
            return False
        for path in paths:
            os.utime(path)
    except OSError:
        return False
    return True


def keep_previews(folder: Path, content: str, previews: Previews, free_space_floor_mib: int = 0) -> bool:
    """Write both pictures, each whole or not at all; return whether they are there. Never raises OSError."""
    try:
        place = preview_path(folder, content, "thumb").parent
        folder.mkdir(mode=0o700, exist_ok=True)
        place.mkdir(exist_ok=True)
        needed = len(previews.picture) + len(previews.thumb)
        if free_space_floor_mib and shutil.disk_usage(place).free - needed < free_space_floor_mib * _MIB:
            return False
        for kind in KINDS:
            _write(preview_path(folder, content, kind), previews.of(kind))
    except OSError:
        return False
    return True


def kept_in(folder: Path) -> Iterator[list[Kept]]:
    """Yield what the cache holds, a sub-folder at a time, of which there are 256. Never raises OSError."""
    for number in range(256):
        yield _listed(folder / f"{number:02x}")


def is_left_over(kept: Kept, now: float) -> bool:
    """Whether nobody will finish this file any more; `now` in seconds since 1970."""
    return kept.kind is None and now - kept.modified > _LEFT_OVER_SECONDS


def _listed(place: Path) -> list[Kept]:
    found: list[Kept] = []
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                seen = entry.stat(follow_symlinks=False)
                found.append(Kept(entry.path, _kind_of(entry.name), seen.st_size, seen.st_mtime))
    return found


def _kind_of(name: str) -> Kind | None:
    if name.endswith(_TEMPORARY):
        return None
    return "thumb" if name.endswith(_SUFFIXES["thumb"]) else "picture"


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
        flags |= getattr(os, name, 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
