"""What the worker asks of the system about itself: to come last, to be capped, to die with its supervisor.

The PC belongs to the instrument. Only this module knows how each system is asked; whatever it refuses is said
in the log and is no reason not to work. On Windows the cap on memory and the end with the supervisor are set
from outside, by `job_object`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

import psutil

_NICE_STEP: Final = 10
_PR_SET_PDEATHSIG: Final = 1
_SEM_NO_DIALOGS: Final = 0x0001 | 0x0002 | 0x8000  # FAILCRITICALERRORS, NOGPFAULTERRORBOX, NOOPENFILEERRORBOX
_OUT_OF_MEMORY_SCORE: Final = 800
_MIB: Final = 1024 * 1024
_log = logging.getLogger(__name__)


class SupervisorGone(Exception):
    """The supervisor ended before this process could tie itself to it."""


def lower_priority() -> None:
    """Take the processor and the disk only when nobody else wants them; never raises what is lower already.

    To be called before threads are started: on Linux both belong to a thread, and new ones inherit them.
    """
    process = psutil.Process()
    for ask in (_lower_processor_priority, _lower_disk_priority):
        try:
            ask(process)
        except (OSError, psutil.Error, AttributeError, ValueError) as error:
            _log.debug("the priority stays as it is: %s", error)


def limit_memory(limit_mib: int) -> None:
    """Let this process have at most so much address space: beyond it, allocations raise MemoryError.

    It is RLIMIT_AS, so it counts what is mapped, libraries included (200 MiB with ONNX Runtime loaded), not
    what is resident. A lower limit that is there already stays. Not on Windows: see `job_object`.
    """
    if sys.platform == "win32":
        return
    import resource

    limit = limit_mib * _MIB
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (OSError, ValueError) as error:
        _log.warning("memory is not limited to %d MiB: %s", limit_mib, error)


def die_with(supervisor_pid: int) -> None:
    """End this process by SIGKILL at the moment its parent ends (Linux); raise SupervisorGone when it has.

    Linux ties the signal to the parent's THREAD that started this process: when that thread ends, this
    process is killed although its supervisor lives. So one thread must own the worker's whole life.
    Elsewhere the end of stdin has to do, and on Windows a job object as well.
    """
    if sys.platform != "linux":
        return
    try:
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    except (OSError, AttributeError) as error:
        _log.warning("this process ends with its supervisor's pipe only: %s", error)
    # It may have ended before the call above; a program in between (strace, a debugger) is no such case.
    if os.getppid() != supervisor_pid and not _descends_from(supervisor_pid):
        raise SupervisorGone(f"the supervisor (process {supervisor_pid}) is gone")


def crash_quietly() -> None:
    """Leave no core file in the folder of the acquisitions, and show no dialog on the instrument's screen."""
    if sys.platform == "win32":
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.SetErrorMode(_SEM_NO_DIALOGS)
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def be_first_to_go() -> None:
    """When the PC runs out of memory, let Linux end this process rather than the acquisition software."""
    with contextlib.suppress(OSError, ValueError):
        score = Path("/proc/self/oom_score_adj")
        if int(score.read_text()) < _OUT_OF_MEMORY_SCORE:
            score.write_text(str(_OUT_OF_MEMORY_SCORE))


def _lower_processor_priority(process: psutil.Process) -> None:
    now = process.nice()
    if sys.platform == "win32":
        if now not in (psutil.IDLE_PRIORITY_CLASS, psutil.BELOW_NORMAL_PRIORITY_CLASS):
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    elif now < _NICE_STEP:
        process.nice(_NICE_STEP)


def _lower_disk_priority(process: psutil.Process) -> None:
    if sys.platform == "win32":
        if process.ionice() > psutil.IOPRIO_VERYLOW:
            process.ionice(psutil.IOPRIO_VERYLOW)
    elif sys.platform == "linux" and process.ionice().ioclass != psutil.IOPRIO_CLASS_IDLE:
        process.ionice(psutil.IOPRIO_CLASS_IDLE)


def _descends_from(pid: int) -> bool:
    try:
        return any(parent.pid == pid for parent in psutil.Process().parents())
    except psutil.Error:
        return False
