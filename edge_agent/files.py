"""Every byte that enters or leaves the agent goes through here.

Only this module knows how to open an acquisition file without disturbing the program that writes it,
and how to write a file so that it is either whole or absent after a crash. Everything above works on
the private copy, or the bounded read handle, that `snapshot` hands out, and writes with `write_durably`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import stat
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Iterator

FINGERPRINT_BLOCK_BYTES: Final = 64 * 1024

# ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION: what os.replace raises while an
# antivirus or an indexer holds one of the two files (zarr-python PR #4358 measured 4 % of replaces).
_PASSING_WINDOWS_ERRORS: Final = frozenset({5, 32, 33})
_HELD_WINDOWS_ERRORS: Final = frozenset({32, 33})
_REPLACE_PAUSES_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.64, 0.64)
_TEMPORARY_PREFIX: Final = ".scopewatch-"
_TEMPORARY_SUFFIX: Final = ".tmp"
_LONG_WINDOWS_PATH: Final = 240  # MAX_PATH is 260, and a folder must leave room for an 8.3 name

_GENERIC_READ: Final = 0x80000000
_FILE_SHARE_READ_WRITE_DELETE: Final = 0x1 | 0x2 | 0x4
_OPEN_EXISTING: Final = 3
_FILE_FLAG_SEQUENTIAL_SCAN: Final = 0x08000000
_FILE_TYPE_DISK: Final = 1


class SourceChanged(OSError):
    """The file changed between the start and the end of a read: somebody is still writing it."""


class NotARegularFile(OSError):
    """The path names a folder, FIFO, socket or device, which is never opened or waited for."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What `stat` says of a file: two equal stamps mean that nobody wrote in between."""

    size_bytes: int
    modified_ns: int
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Which bytes were read. `sha256` is None above the snapshot limit, `fingerprint` is always there."""

    path: Path
    stamp: FileStamp
    sha256: str | None
    fingerprint: str


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


def open_shared(path: Path) -> BinaryIO:
    """Open `path` for reading so that its writer may go on as if we were not there.

    The writer can write, rename, replace and delete meanwhile, on Windows as well. Raises NotARegularFile
    for anything that could block or has no end, and OSError as `open` does.
    """
    kind = stat.S_IFMT(Path(system_path(path)).stat().st_mode)
    if kind != stat.S_IFREG:
        raise _not_regular(path, kind)
    if sys.platform == "win32":
        return open_on_windows(path, Kernel32())
    return _open_on_posix(path)


def is_held_by_writer(error: OSError) -> bool:
    """Whether Windows refused because another program holds the file: a reason to wait, not a fault."""
    return getattr(error, "winerror", None) in _HELD_WINDOWS_ERRORS


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


class FileLayer:
    """The operating system as `write_durably` sees it; tests replace one call at a time.

    Paths are as the caller gave them; the long-path form of Windows is added here.
    """

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


_SYSTEM: Final = FileLayer()


def write_durably(path: Path, data: bytes, layer: FileLayer = _SYSTEM) -> None:
    """Write `data` to `path` so that after a crash at any moment the old file or the whole new one is there.

    A temporary file in the same folder is written, forced to the disk and put into place, then the folder
    is forced to the disk. The temporary file is removed on any failure. Raises OSError.
    """
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
    descriptor = layer.create(temporary)
    try:
        try:
            _write_all(descriptor, data, layer)
            layer.fsync(descriptor)
        finally:
            layer.close(descriptor)
        _replace_patiently(temporary, path, layer)
    except BaseException:
        with contextlib.suppress(OSError):
            layer.unlink(temporary)
        raise
    layer.fsync_folder(path.parent)


def is_our_temporary(path: Path) -> bool:
    """Whether `path` is a half-written file of `write_durably`, left behind by a crash."""
    return path.name.startswith(_TEMPORARY_PREFIX) and path.name.endswith(_TEMPORARY_SUFFIX)


def system_path(path: Path, platform: str = sys.platform) -> str:
    r"""Return the path as the system wants it: on Windows a long one needs the `\\?\` form."""
    text = str(path)
    if platform != "win32" or len(text) < _LONG_WINDOWS_PATH or text.startswith("\\\\?\\"):
        return text
    text = os.path.abspath(text) if sys.platform == "win32" else text  # noqa: PTH100 - `\\?\` takes no ".."
    return f"\\\\?\\UNC\\{text[2:]}" if text.startswith("\\\\") else f"\\\\?\\{text}"


class WindowsFiles(Protocol):
    """The three calls of Windows that `open_on_windows` needs."""

    def open_for_reading(self, path: str) -> int:
        """Return a handle opened for reading with every kind of sharing; raise OSError."""

    def is_disk_file(self, handle: int) -> bool:
        """Whether the handle is a file on a disk, and no pipe or console."""

    def close(self, handle: int) -> None:
        """Close a handle that has no descriptor."""

    def descriptor_of(self, handle: int) -> int:
        """Turn the handle into a C descriptor that owns it."""


class Kernel32:
    """`WindowsFiles` by ctypes. The three arguments are the operating system; tests pass their own."""

    def __init__(
        self,
        library: ctypes.CDLL | None = None,
        open_osfhandle: Callable[[int, int], int] | None = None,
        last_error: Callable[[], int] | None = None,
    ) -> None:
        import ctypes

        if sys.platform == "win32":
            import msvcrt

            library = library or ctypes.WinDLL("kernel32", use_last_error=True)
            open_osfhandle = open_osfhandle or msvcrt.open_osfhandle
            last_error = last_error or ctypes.get_last_error
        if library is None or open_osfhandle is None or last_error is None:
            raise OSError(errno.ENOSYS, "kernel32 exists on Windows only")
        library.CreateFileW.restype = ctypes.c_void_p
        library.CreateFileW.argtypes = [
            ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p,
            ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p,
        ]  # fmt: skip
        library.GetFileType.argtypes = library.CloseHandle.argtypes = [ctypes.c_void_p]
        self._library = library
        self._open_osfhandle = open_osfhandle
        self._last_error = last_error
        self._invalid_handle = ctypes.c_void_p(-1).value

    def open_for_reading(self, path: str) -> int:
        """Open with read, write and delete sharing, so that the writer's rename and delete still work."""
        handle = self._library.CreateFileW(
            path, _GENERIC_READ, _FILE_SHARE_READ_WRITE_DELETE, None,
            _OPEN_EXISTING, _FILE_FLAG_SEQUENTIAL_SCAN, None,
        )  # fmt: skip
        if handle is None or handle == self._invalid_handle:
            raise windows_error(self._last_error(), path)
        return int(handle)

    def is_disk_file(self, handle: int) -> bool:
        """Ask GetFileType."""
        return bool(self._library.GetFileType(handle) == _FILE_TYPE_DISK)

    def close(self, handle: int) -> None:
        """Close a handle that has no descriptor."""
        self._library.CloseHandle(handle)

    def descriptor_of(self, handle: int) -> int:
        """Hand the handle over to the C runtime."""
        flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
        return self._open_osfhandle(handle, os.O_RDONLY | flags)


def open_on_windows(path: Path, system: WindowsFiles) -> BinaryIO:
    """Open as `open_shared` does on Windows. Python's own `open` refuses the writer a rename or delete."""
    handle = system.open_for_reading(system_path(path))
    try:
        if not system.is_disk_file(handle):
            raise _not_regular(path, 0)
        descriptor = system.descriptor_of(handle)
    except BaseException:
        system.close(handle)
        raise
    return os.fdopen(descriptor, "rb")


def windows_error(code: int, path: str) -> OSError:
    """Return the OSError of a Windows error code; `winerror` is set on every system."""
    if sys.platform == "win32":
        import ctypes

        return OSError(None, ctypes.FormatError(code), path, code)
    error = OSError(errno.EACCES if code in _PASSING_WINDOWS_ERRORS else errno.EIO, f"WinError {code}", path)
    error.winerror = code  # type: ignore[attr-defined]  # only the interpreter of Windows declares it
    return error


def _open_on_posix(path: Path) -> BinaryIO:
    """Open without waiting: between stat and open the file may have become a FIFO, whose open blocks."""
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "not on Windows")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            raise _not_regular(path, kind)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _not_regular(path: Path, kind: int) -> NotARegularFile:
    names = {
        stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    seen = names.get(kind, "no file on a disk")
    return NotARegularFile(errno.EINVAL, f"is {seen}, not a regular file, and was not opened", str(path))


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
    source = SourceFile(path, before, hashlib.sha256(data).hexdigest(), _fingerprint(before, head, tail))
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


def _replace_patiently(source: Path, target: Path, layer: FileLayer) -> None:
    for pause_seconds in _REPLACE_PAUSES_SECONDS:
        try:
            layer.replace(source, target)
        except OSError as error:
            if getattr(error, "winerror", None) not in _PASSING_WINDOWS_ERRORS:
                raise
            layer.pause(pause_seconds)
        else:
            return
    layer.replace(source, target)
