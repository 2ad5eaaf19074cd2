"""The job object of Windows: the worker's cap on memory, and its end with its supervisor.

The supervisor holds the only handle; when it ends, however it ends, Windows closes the handle and with it
every process in the job. Only this module knows these calls; elsewhere there is no job.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from edge_agent.shared_opening import windows_error

if TYPE_CHECKING:
    from collections.abc import Callable

_EXTENDED_LIMIT_INFORMATION: Final = 9
_LIMIT_PRIORITY_CLASS: Final = 0x20
_LIMIT_PROCESS_MEMORY: Final = 0x100
_LIMIT_DIE_ON_UNHANDLED_EXCEPTION: Final = 0x400
_LIMIT_KILL_ON_JOB_CLOSE: Final = 0x2000
_BELOW_NORMAL_PRIORITY_CLASS: Final = 0x4000
_PROCESS_TERMINATE: Final = 0x0001
_PROCESS_SET_QUOTA: Final = 0x0100
_MIB: Final = 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What a process in the job is held to, besides ending with the job."""

    memory_limit_mib: int | None = None
    low_priority: bool = False


class WindowsJobs(Protocol):
    """The calls of Windows that `WorkerJob` needs; each raises OSError. Handles are numbers."""

    def create_job(self) -> int:
        """Return a new job, held by this process alone."""

    def limit(self, job: int, limits: JobLimits) -> None:
        """Set what the job's processes are held to."""

    def open_process(self, pid: int) -> int:
        """Return a handle that is good for `assign`."""

    def assign(self, job: int, process: int) -> None:
        """Put the process into the job, with all children that it starts from now on."""

    def close(self, handle: int) -> None:
        """Close a handle; the last one of a job ends its processes."""


class WorkerJob:
    """One job for all workers of a supervisor. A refusal is said in the log: the pipe's end is left then."""

    def __init__(self, limits: JobLimits, system: WindowsJobs) -> None:
        self._system = system
        self._job: int | None = None
        try:
            self._job = system.create_job()
            system.limit(self._job, limits)
        except OSError as error:
            _log.warning("the worker's memory is not limited: Windows refuses a job object: %s", error)
            self.close()

    def take(self, pid: int) -> bool:
        """Put a process into the job; return whether it is there."""
        if self._job is None:
            return False
        try:
            process = self._system.open_process(pid)
            try:
                self._system.assign(self._job, process)
            finally:
                self._system.close(process)
        except OSError as error:
            _log.warning("process %d is not in the worker's job object: %s", pid, error)
            return False
        return True

    def close(self) -> None:
        """End whatever is in the job."""
        if self._job is not None:
            self._system.close(self._job)
            self._job = None


def worker_job(limits: JobLimits) -> WorkerJob | None:
    """Return a job with these limits, or None where there is no such thing."""
    return WorkerJob(limits, Kernel32Jobs()) if sys.platform == "win32" else None


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION of winnt.h."""

    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


class Kernel32Jobs:
    """`WindowsJobs` by ctypes. The two arguments are the operating system; tests pass their own."""

    def __init__(
        self, library: ctypes.CDLL | None = None, last_error: Callable[[], int] | None = None
    ) -> None:
        if sys.platform == "win32":
            library = library or ctypes.WinDLL("kernel32", use_last_error=True)
            last_error = last_error or ctypes.get_last_error
        if library is None or last_error is None:
            raise OSError(errno.ENOSYS, "job objects exist on Windows only")
        handle, word, flag = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
        library.CreateJobObjectW.restype = library.OpenProcess.restype = handle
        library.CreateJobObjectW.argtypes = [handle, ctypes.c_wchar_p]
        library.OpenProcess.argtypes = [word, flag, word]
        library.SetInformationJobObject.argtypes = [handle, flag, handle, word]
        library.AssignProcessToJobObject.argtypes = [handle, handle]
        library.CloseHandle.argtypes = [handle]
        self._library = library
        self._last_error = last_error

    def create_job(self) -> int:
        """CreateJobObjectW without a name, so that nobody else can open it."""
        return self._handle(self._library.CreateJobObjectW(None, None), "CreateJobObjectW")

    def limit(self, job: int, limits: JobLimits) -> None:
        """SetInformationJobObject."""
        values = extended_limits(limits)
        done = self._library.SetInformationJobObject(
            job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(values), ctypes.sizeof(values)
        )
        self._require(done, "SetInformationJobObject")

    def open_process(self, pid: int) -> int:
        """OpenProcess with the two rights that AssignProcessToJobObject asks for."""
        found = self._library.OpenProcess(_PROCESS_SET_QUOTA | _PROCESS_TERMINATE, 0, pid)
        return self._handle(found, "OpenProcess")

    def assign(self, job: int, process: int) -> None:
        """AssignProcessToJobObject."""
        self._require(self._library.AssignProcessToJobObject(job, process), "AssignProcessToJobObject")

    def close(self, handle: int) -> None:
        """CloseHandle."""
        self._library.CloseHandle(handle)

    def _handle(self, handle: int | None, call: str) -> int:
        self._require(handle or 0, call)
        return int(handle or 0)

    def _require(self, done: int, call: str) -> None:
        if not done:
            raise windows_error(self._last_error(), call)


def extended_limits(limits: JobLimits) -> ExtendedLimits:
    """Return the limits as Windows wants them: always with the end of all processes at the job's end."""
    values = ExtendedLimits()
    flags = _LIMIT_KILL_ON_JOB_CLOSE | _LIMIT_DIE_ON_UNHANDLED_EXCEPTION
    if limits.memory_limit_mib is not None:
        flags |= _LIMIT_PROCESS_MEMORY
        values.ProcessMemoryLimit = limits.memory_limit_mib * _MIB
    if limits.low_priority:
        flags |= _LIMIT_PRIORITY_CLASS
        values.BasicLimitInformation.PriorityClass = _BELOW_NORMAL_PRIORITY_CLASS
    values.BasicLimitInformation.LimitFlags = flags
    return values
