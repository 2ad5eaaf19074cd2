"""Opening a file so that its writer does not notice, on Linux and on Windows.

Only this module knows how an acquisition file is opened: read-only, with every kind of sharing, never waiting
for a pipe; and which form of a path and which error codes Windows has.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

# ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION: what os.replace raises while an
# antivirus or an indexer holds one of the two files (zarr-python PR #4358 measured 4 % of replaces).
PASSING_WINDOWS_ERRORS: Final = frozenset({5, 32, 33})
_HELD_WINDOWS_ERRORS: Final = frozenset({32, 33})
_LONG_WINDOWS_PATH: Final = 240  # MAX_PATH is 260, and a folder must leave room for an 8.3 name

_GENERIC_READ: Final = 0x80000000
_FILE_SHARE_READ_WRITE_DELETE: Final = 0x1 | 0x2 | 0x4
_OPEN_EXISTING: Final = 3
_FILE_FLAG_SEQUENTIAL_SCAN: Final = 0x08000000
_FILE_TYPE_DISK: Final = 1


class NotARegularFile(OSError):
    """The path names a folder, FIFO, socket or device, which is never opened or waited for."""


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
    error = OSError(errno.EACCES if code in PASSING_WINDOWS_ERRORS else errno.EIO, f"WinError {code}", path)
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
