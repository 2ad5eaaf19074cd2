"""Every byte that enters or leaves the agent goes through here.

Only this module knows how to take a file's bytes as they were at one moment, and how to write a file so that
it is either whole or absent after a crash. Everything above works on
the private copy, or the bounded read handle, that `snapshot` hands out, and writes with `write_durably`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from edge_agent.shared_opening import PASSING_WINDOWS_ERRORS, open_shared, system_path

if TYPE_CHECKING:
    from collections.abc import Iterator

FINGERPRINT_BLOCK_BYTES: Final = 64 * 1024
_SECTOR_OF_ZEROS: Final = bytes(512)
_HASH_BLOCK_BYTES: Final = 2**20

_REPLACE_PAUSES_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.64, 0.64)
_TEMPORARY_PREFIX: Final = ".scopewatch-"
_TEMPORARY_SUFFIX: Final = ".tmp"


class SourceChanged(OSError):
    """The file changed between the start and the end of a read: somebody is still writing it."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What `stat` says of a file: two equal stamps mean that nobody wrote in between."""

    size_bytes: int
    modified_ns: int
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Which bytes were read. `sha256` is None above the snapshot limit, `fingerprint` is always there.

    `has_gap` says that there is a sector's length of zeros somewhere: content, or a part of a file of full length
    whose writer has not come to it yet. Above the snapshot limit that is not looked for.
    """

    path: Path
    stamp: FileStamp
    sha256: str | None
    fingerprint: str
    has_gap: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file as it was at one moment: a private copy in memory, or a shared handle for bounded reads."""

    source: SourceFile
    handle: BinaryIO
    in_memory: bool


def stamp_of(path: Path) -> FileStamp:
    """Return the file's stamp; follows links. Raises OSError as `Path.stat` does."""
    # Not DirEntry.stat: on Windows that comes from the directory listing and is stale while a writer is open.
    return _stamp(Path(system_path(path)).stat())


@contextmanager
def snapshot(path: Path, limit_bytes: int) -> Iterator[Snapshot]:
    """Give the file's bytes as they were at one moment.

    Up to `limit_bytes` the file is read once into memory and closed before the caller sees anything.
    Above, `handle` is the shared handle itself (never mapped: a mapped reader dies of SIGBUS when the
    writer truncates), and the file is compared with its stamp once more when the caller is done.
    Raises SourceChanged when the stamp differs, NotARegularFile and OSError as `open_shared` does.
    """
    before = stamp_of(path)
    if before.size_bytes <= limit_bytes:
        yield _snapshot_in_memory(path, before)
        return
    with open_shared(path) as handle:
        source = SourceFile(path, before, None, _fingerprint_of_handle(handle, before))
        handle.seek(0)
        try:
            yield Snapshot(source, handle, in_memory=False)
        except Exception as error:
            # A reader that stumbled over a moving file has not seen a damaged one.
            _require_unchanged(path, before, error)
            raise
        _require_unchanged(path, before, None)


def identify(path: Path, limit_bytes: int) -> SourceFile:
    """Return which bytes a file holds without keeping them; up to `limit_bytes` with their SHA-256.

    Raises as `snapshot` does.
    """
    with snapshot(path, 0) as copy:
        source = copy.source
        if source.sha256 is None and source.stamp.size_bytes <= limit_bytes:
            copy.handle.seek(0)
            digest = hashlib.sha256()
            while block := copy.handle.read(_HASH_BLOCK_BYTES):
                digest.update(block)
            source = replace(source, sha256=digest.hexdigest())
    return source


class FileLayer:
    """The operating system as `write_durably` sees it; tests replace one call at a time.

    Paths are as the caller gave them; the long-path form of Windows is added here. `owner` (letters and
    digits) stands in the names of temporary files, so that their writer can clear them up after a crash.
    """

    owner: str = ""

    def __init__(self, owner: str = "") -> None:
        self.owner = owner

    def create(self, path: Path) -> int:
        """Create a new file for writing and return its descriptor; never follows or overwrites anything."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
            flags |= getattr(os, name, 0)
        return os.open(system_path(path), flags, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data` and return how many bytes were taken."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Force the file's content to the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target`, atomically."""
        Path(system_path(source)).replace(system_path(target))

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        Path(system_path(path)).unlink()

    def make_folder(self, folder: Path) -> None:
        """Make one folder in an existing one; raises FileExistsError when its name is taken."""
        Path(system_path(folder)).mkdir()

    def fsync_folder(self, folder: Path) -> None:
        """Force the folder's entries to the disk, where the system has such a call."""
        if sys.platform == "win32":
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # CIFS and some FUSE file systems have no fsync for folders; there is nothing better to do there.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
        finally:
            os.close(descriptor)

    def pause(self, seconds: float) -> None:
        """Wait between two attempts."""
        time.sleep(seconds)


SYSTEM_FILES: Final = FileLayer()


def read_small(path: Path, limit_bytes: int) -> bytes:
    """Return the bytes of a small file that is no micrograph. Raises OSError, also for what may not be read.

    Whoever may write into a folder of micrographs could plant something there: links are not followed, pipes
    and devices not waited for, and nothing longer than `limit_bytes` is read.
    """
    found = os.lstat(system_path(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is a link, a folder or a device where a file belongs", str(path))
    if found.st_size > limit_bytes:
        raise OSError(
            errno.EFBIG, f"has {found.st_size} bytes, and at most {limit_bytes} are read", str(path)
        )
    if sys.platform == "win32":
        with open_shared(path) as handle:
            return handle.read(found.st_size)
    # Without Python's file objects: a start without a journal reads 100,000 of these.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.read(descriptor, found.st_size)
    finally:
        os.close(descriptor)


def read_whole(path: Path, limit_bytes: int) -> bytes | None:
    """Return what `read_small` does, or None where there is nothing to be had."""
    try:
        return read_small(path, limit_bytes)
    except OSError:
        return None


def require_room(folder: Path, needed_bytes: int, floor_mib: int) -> None:
    """Raise OSError where writing `needed_bytes` would leave less than `floor_mib` to the instrument.

    Looks at the very moment: whoever hands out the files looks at the disk every few seconds only. 0 is no floor.
    """
    if floor_mib == 0:
        return
    free = shutil.disk_usage(folder).free
    if free - needed_bytes < floor_mib * 2**20:
        raise OSError(
            errno.ENOSPC,
            f"{free // 2**20} MiB are free, and {floor_mib} MiB are left to the instrument (free_space_floor_mib)",
        )


def is_regular_file(path: Path) -> bool:
    """Whether a regular file is there, and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(system_path(path)).st_mode)
    except OSError:
        return False


def write_durably(path: Path, data: bytes, layer: FileLayer = SYSTEM_FILES) -> None:
    """Write `data` to `path` so that after a crash at any moment the old file or the whole new one is there.

    A temporary file in the same folder is written, forced to the disk and put into place, then the folder
    is forced to the disk. The temporary file is removed on any failure. Raises OSError.
    """
    owner = f"{layer.owner}-" if layer.owner else ""
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{owner}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
    descriptor = layer.create(temporary)
    try:
        try:
            _write_all(descriptor, data, layer)
            layer.fsync(descriptor)
        finally:
            layer.close(descriptor)
        replace_patiently(temporary, path, layer)
    except BaseException as error:
        with contextlib.suppress(OSError):
            layer.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise
    layer.fsync_folder(path.parent)


def replace_patiently(source: Path, target: Path, layer: FileLayer) -> None:
    """Put `source` in the place of `target`; what a scanner holds on Windows is waited for. Raises OSError."""
    for pause_seconds in _REPLACE_PAUSES_SECONDS:
        try:
            layer.replace(source, target)
        except OSError as error:
            if getattr(error, "winerror", None) not in PASSING_WINDOWS_ERRORS:
                raise
            layer.pause(pause_seconds)
        else:
            return
    layer.replace(source, target)


def remove_durably(path: Path, layer: FileLayer = SYSTEM_FILES) -> None:
    """Remove `path` if it is there, so that it does not come back after a crash. Raises OSError."""
    try:
        layer.unlink(path)
    except FileNotFoundError:
        return
    layer.fsync_folder(path.parent)


def make_folders(folder: Path, layer: FileLayer = SYSTEM_FILES) -> None:
    """Make `folder` and what is missing above it, so that they are there after a crash. Raises OSError."""
    if Path(system_path(folder)).is_dir():
        return
    make_folders(folder.parent, layer)
    try:
        layer.make_folder(folder)
    except FileExistsError:
        # Made by another at the same moment, or it is no folder: then the first write into it says so.
        return
    layer.fsync_folder(folder.parent)


def is_our_temporary(path: Path) -> bool:
    """Whether `path` is a half-written file of `write_durably`, left behind by a crash."""
    return path.name.startswith(_TEMPORARY_PREFIX) and path.name.endswith(_TEMPORARY_SUFFIX)


def is_leftover(name: str, owner: str) -> bool:
    """Whether a file name is a temporary one of this `owner`; when it writes nothing, it is a leftover."""
    return name.startswith(f"{_TEMPORARY_PREFIX}{owner}-") and name.endswith(_TEMPORARY_SUFFIX)


def remove_leftovers(folder: Path, owner: str) -> int:
    """Remove what a crash of `owner` left in `folder`, and return how many files; never raises OSError.

    To be called while `owner` writes nothing there.
    """
    removed = 0
    with contextlib.suppress(OSError):
        for path in Path(system_path(folder)).iterdir():
            if is_leftover(path.name, owner):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += 1
    return removed


def _stamp(found: os.stat_result) -> FileStamp:
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)


def _snapshot_in_memory(path: Path, before: FileStamp) -> Snapshot:
    with open_shared(path) as handle:
        # One byte more than promised, so that a file that grew is seen even if its times lie.
        data = handle.read(before.size_bytes + 1)
    _require_unchanged(path, before, None)
    if len(data) != before.size_bytes:
        raise SourceChanged(errno.EAGAIN, "changed while it was read; read it again later", str(path))
    head, tail = data[:FINGERPRINT_BLOCK_BYTES], data[-FINGERPRINT_BLOCK_BYTES:]
    fingerprint = _fingerprint(before, head, tail)
    source = SourceFile(path, before, hashlib.sha256(data).hexdigest(), fingerprint, _SECTOR_OF_ZEROS in data)
    return Snapshot(source, io.BytesIO(data), in_memory=True)


def _fingerprint_of_handle(handle: BinaryIO, stamp: FileStamp) -> str:
    head = handle.read(FINGERPRINT_BLOCK_BYTES)
    handle.seek(max(0, stamp.size_bytes - FINGERPRINT_BLOCK_BYTES))
    return _fingerprint(stamp, head, handle.read(FINGERPRINT_BLOCK_BYTES))


def _fingerprint(stamp: FileStamp, head: bytes, tail: bytes) -> str:
    ends = hashlib.sha256(head + tail).hexdigest()[:32]
    return f"fp1:{stamp.size_bytes}:{stamp.modified_ns}:{ends}"


def _require_unchanged(path: Path, before: FileStamp, cause: Exception | None) -> None:
    after = stamp_of(path)
    if after != before:
        seen = f"{before.size_bytes} bytes before, {after.size_bytes} bytes after"
        message = f"changed while it was read ({seen}); read it again later"
        raise SourceChanged(errno.EAGAIN, message, str(path)) from cause


def _write_all(descriptor: int, data: bytes, layer: FileLayer) -> None:
    left = memoryview(data)
    while left:
        left = left[layer.write(descriptor, left) :]
