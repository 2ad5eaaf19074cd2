"""What Windows says of itself, by ctypes, registry and powercfg. Standard library only. Not verified on Windows.

Every fact is None where it cannot be had. Tests hand the checks a stand-in with the same methods.
"""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Any, Final, Protocol

from edge_agent.diagnosing.apart import run_program

PF_AVX: Final = 39  # PF_AVX_INSTRUCTIONS_AVAILABLE; PF_AVX2_... is 40
PF_AVX2: Final = 40
DRIVE_REMOTE: Final = 4
_LOCAL_MACHINE: Final = "HKEY_LOCAL_MACHINE"
_COMMAND_SECONDS: Final = 10.0
_LONGEST_NAME: Final = 1024


class WindowsFacts(Protocol):
    """The questions that doctor asks of Windows."""

    def has_feature(self, number: int) -> bool | None:
        """Whether the processor has a feature (a PF_ number of winnt.h)."""

    def memory_mib(self) -> tuple[int, int] | None:
        """Total and free memory."""

    def dll_version(self, name: str) -> tuple[int, int, int] | None:
        """Load a system DLL and return its version; None when it cannot be loaded or says none."""

    def drive_kind(self, root: str) -> int | None:
        r"""Return the kind of a drive (`E:\`), as GetDriveTypeW counts."""

    def share_of(self, drive: str) -> str | None:
        r"""Return the \\server\share behind a drive letter (`E:`), None for none."""

    def long_paths(self) -> bool | None:
        """Whether LongPathsEnabled is set."""

    def realtime_protection(self) -> bool | None:
        """Whether Windows Defender looks into files as they are written."""

    def sleep_minutes(self) -> int | None:
        """After how many minutes the PC sleeps when plugged in; 0 is never."""

    def is_administrator(self) -> bool | None:
        """Whether this process has administrator rights."""


class RealWindows:
    """`WindowsFacts` of the PC this runs on. Not verified on Windows."""

    def has_feature(self, number: int) -> bool | None:
        """Ask IsProcessorFeaturePresent."""
        library = _library("kernel32")
        return None if library is None else bool(library.IsProcessorFeaturePresent(number))

    def memory_mib(self) -> tuple[int, int] | None:
        """Ask GlobalMemoryStatusEx."""
        library, status = _library("kernel32"), _MemoryStatus()
        status.length = ctypes.sizeof(status)
        if library is None or not library.GlobalMemoryStatusEx(ctypes.byref(status)):
            return None
        return status.total >> 20, status.available >> 20

    def dll_version(self, name: str) -> tuple[int, int, int] | None:
        """Load the DLL as a library would, and read the version resource of the file that was found."""
        module, kernel32, version = _library(name), _library("kernel32"), _library("version")
        if module is None or kernel32 is None or version is None:
            return None
        path = ctypes.create_unicode_buffer(_LONGEST_NAME)
        handle = ctypes.c_void_p(module._handle)  # noqa: SLF001 - ctypes has no public name for it
        kernel32.GetModuleFileNameW.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint32]
        if not kernel32.GetModuleFileNameW(handle, path, _LONGEST_NAME):
            return None
        return _version_in(version, path.value)

    def drive_kind(self, root: str) -> int | None:
        """Ask GetDriveTypeW."""
        library = _library("kernel32")
        return None if library is None else int(library.GetDriveTypeW(ctypes.c_wchar_p(root)))

    def share_of(self, drive: str) -> str | None:
        """Ask WNetGetConnectionW."""
        library = _library("mpr")
        if library is None:
            return None
        name, length = ctypes.create_unicode_buffer(_LONGEST_NAME), ctypes.c_uint32(_LONGEST_NAME)
        done = library.WNetGetConnectionW(ctypes.c_wchar_p(drive), name, ctypes.byref(length))
        return name.value if done == 0 else None

    def long_paths(self) -> bool | None:
        """Read the registry; a missing value is off."""
        value = _registry(r"SYSTEM\CurrentControlSet\Control\FileSystem", "LongPathsEnabled")
        return None if sys.platform != "win32" else value == 1

    def realtime_protection(self) -> bool | None:
        """Read the registry: the policy first, then the setting. Neither there: nothing is known."""
        for root in (r"SOFTWARE\Policies\Microsoft\Windows Defender", r"SOFTWARE\Microsoft\Windows Defender"):
            value = _registry(rf"{root}\Real-Time Protection", "DisableRealtimeMonitoring")
            if value is not None:
                return value == 0
        return None

    def sleep_minutes(self) -> int | None:
        """Ask powercfg, whose words are translated and whose order is not: mains, then battery, come last."""
        command = ("powercfg", "/query", "SCHEME_CURRENT", "SUB_SLEEP", "STANDBYIDLE")
        return sleep_minutes_in(run_program(command, seconds=_COMMAND_SECONDS).output)

    def is_administrator(self) -> bool | None:
        """Ask IsUserAnAdmin."""
        library = _library("shell32")
        return None if library is None else bool(library.IsUserAnAdmin())


def sleep_minutes_in(report: str) -> int | None:
    """Return the minutes that stand in powercfg's report for a PC on mains, None when there are none."""
    found = re.findall(r"0x([0-9a-fA-F]{8})\s*$", report, re.MULTILINE)
    return int(found[-2], 16) // 60 if len(found) >= 2 else None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX; sizes in bytes."""

    length: int
    total: int
    available: int
    _fields_ = (
        ("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64), ("page_total", ctypes.c_uint64), ("page_available", ctypes.c_uint64),
        ("virtual_total", ctypes.c_uint64), ("virtual_available", ctypes.c_uint64), ("extended", ctypes.c_uint64),
    )  # fmt: skip


def _library(name: str) -> Any:  # noqa: ANN401 - a DLL has no type
    """Return a loaded DLL, None where there is none of that name."""
    if sys.platform != "win32":
        return None
    try:
        return ctypes.WinDLL(name)
    except OSError:
        return None


def _version_in(library: Any, path: str) -> tuple[int, int, int] | None:  # noqa: ANN401
    """Return the file version: VS_FIXEDFILEINFO holds it as two words of 32 bits, from its third word on."""
    size = library.GetFileVersionInfoSizeW(ctypes.c_wchar_p(path), None)
    data = ctypes.create_string_buffer(max(1, size))
    if not size or not library.GetFileVersionInfoW(ctypes.c_wchar_p(path), 0, size, data):
        return None
    place, length = ctypes.c_void_p(), ctypes.c_uint32()
    root = ctypes.c_wchar_p("\\")
    if not library.VerQueryValueW(data, root, ctypes.byref(place), ctypes.byref(length)) or not place.value:
        return None
    words = (ctypes.c_uint32 * 4).from_address(place.value)
    return words[2] >> 16, words[2] & 0xFFFF, words[3] >> 16


def _registry(key: str, name: str) -> int | None:
    """Return a number below HKEY_LOCAL_MACHINE, None when it is not there or may not be read."""
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(getattr(winreg, _LOCAL_MACHINE), key) as handle:
            value, _ = winreg.QueryValueEx(handle, name)
    except OSError:
        return None
    return value if isinstance(value, int) else None
