"""What doctor asks of the PC itself: Python, processor, memory, disks, system libraries, packages, clock, power.

Every check is a function from facts to lines; the facts are arguments, so that any PC can be described to it.
Standard library only. What Windows answers is not verified on Windows.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.diagnosing.apart import Ended, run_python
from edge_agent.diagnosing.diagnosis import Line, fail, ok, skip, warn
from edge_agent.diagnosing.installation import DEPENDENCIES, PACKAGE, WINDOWS_DEPENDENCIES, version_of
from edge_agent.diagnosing.windows_facts import PF_AVX, PF_AVX2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edge_agent.diagnosing.windows_facts import WindowsFacts

OLDEST_PYTHON: Final = (3, 11)
NEEDED_MSVCP: Final = (14, 40)
"""ONNX Runtime from 1.21 on needs it: older ones end the process at import (microsoft/onnxruntime#24720)."""
_AGENT_MIB: Final = 700
"""Agent and worker together while they classify (tests/benchmarks/agent_cost.py), with room for one large file."""
_IMPORT_SECONDS: Final = 60.0
_DISK_SECONDS: Final = 10.0
_ASK_DISK: Final = """
import sys
from pathlib import Path
from edge_agent.diagnosing.pc_checks import free_space_here_mib
print(free_space_here_mib(Path(sys.argv[1])))
"""
_AT_ONCE: Final = 2
_REINSTALL: Final = "install scopewatch anew (from the offline package: run its install script again)"


def python_lines(
    version: tuple[int, ...] = tuple(sys.version_info[:3]),
    bits: int = 64 if sys.maxsize > 2**32 else 32,
    place: str = sys.prefix,
    is_venv: bool = sys.prefix != sys.base_prefix,
    changeable_by: str | None = None,
    is_service: bool = False,
) -> list[Line]:
    """Judge the interpreter: its version, its bits, and whether a system service may trust where it lies."""
    told = ".".join(map(str, version))
    seen = f"Python {told}, {bits} bit, {'virtual environment' if is_venv else 'no virtual environment'}, {place}"
    if version[:2] < OLDEST_PYTHON:
        return [fail("python", seen, f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")]
    if bits != 64:
        return [fail("python", seen, "install a 64-bit Python: ONNX Runtime exists for no other")]
    return [ok("python", seen), _place_line(place, changeable_by, is_service)]


def _place_line(place: str, changeable_by: str | None, is_service: bool) -> Line:
    check = "python's place"
    if changeable_by is None:
        return ok(check, "only an administrator can change it: fit for a system service")
    seen = f"{place} can be changed by {changeable_by}"
    if not is_service:
        return ok(check, f"{seen}: fit for a service of that user, not for a system service")
    return warn(
        check,
        f"{seen}, and a system service runs it: who changes these files runs with the service's rights",
        "install scopewatch for all users (an administrator runs the install script), or use the user's service",
    )


def who_can_change(place: Path, *, platform_name: str = sys.platform, home: Path | None = None) -> str | None:
    """Return who but an administrator can change the folder of a program, None for nobody.

    On Windows a folder below a user's profile is that user's; rights given by hand are not looked at.
    """
    home = home or Path.home()
    if platform_name == "win32":
        return f"user {home.name}" if place.is_relative_to(home) else None
    try:
        found = [item.stat() for item in (place, *place.parents)]
    except OSError:
        return None
    owner = next((item.st_uid for item in found if item.st_uid != 0), None)
    if owner is not None:
        return f"user {owner}"
    if found[0].st_mode & 0o022:
        return "other users of this PC"
    return None


def processor_lines(
    machine: str = platform.machine(),
    cores: int | None = os.cpu_count(),
    flags: Callable[[], frozenset[str] | None] | None = None,
    windows: WindowsFacts | None = None,
) -> list[Line]:
    """Judge the processor: 64 bit x86 with AVX, or 64 bit ARM; how many cores."""
    kind, told_cores = machine.lower(), f"{cores or 'an unknown number of'} cores"
    core_line = (
        ok("cores", told_cores)
        if (cores or 2) > 1
        else warn("cores", told_cores, "set low_priority = true (the default): one core is shared")
    )
    if kind in ("aarch64", "arm64"):
        return [ok("processor", f"{machine}, which needs no further features"), core_line]
    if kind not in ("x86_64", "amd64"):
        return [
            fail(
                "processor", f"{machine or 'unknown'}", "use a PC with a 64-bit processor (x86-64 or ARM64)"
            ),
            core_line,
        ]
    found = features_on_windows(windows) if windows is not None else (flags or features_on_linux)()
    return [_feature_line(machine, found), core_line]


def _feature_line(machine: str, found: frozenset[str] | None) -> Line:
    if found is None:
        return skip("processor", f"{machine}; the system does not say which features it has")
    if "avx" not in found:
        return fail(
            "processor",
            f"{machine} without AVX",
            "use a PC with AVX (Intel and AMD since 2011), or give this virtual machine the host's processor",
        )
    if "avx2" not in found:
        return warn(
            "processor", f"{machine} with AVX, without AVX2", "expect two to three times the time a file"
        )
    return ok("processor", f"{machine} with AVX and AVX2")


def features_on_linux(file: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Return the flags of the first processor, None where there is no such file."""
    try:
        lines = file.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    return next(
        (frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None
    )


def features_on_windows(windows: WindowsFacts) -> frozenset[str] | None:
    """Return avx and avx2, as far as Windows says so."""
    answers = {"avx": windows.has_feature(PF_AVX), "avx2": windows.has_feature(PF_AVX2)}
    if answers["avx"] is None:
        return None
    return frozenset(name for name, answer in answers.items() if answer)


def memory_line(memory_mib: tuple[int, int] | None, limit_mib: int) -> Line:
    """Judge memory: enough for the agent now, and the worker's limit below what the PC has."""
    if memory_mib is None:
        return skip("memory", "the system does not say how much there is")
    total, free = memory_mib
    seen = f"{total / 1024:.1f} GiB, {free / 1024:.1f} GiB free; the worker may take {limit_mib} MiB"
    if free < _AGENT_MIB:
        return fail("memory", seen, f"close programs: the agent needs about {_AGENT_MIB} MiB")
    if limit_mib > total // 2:
        half = max(512, total // 2)
        return warn(
            "memory", seen, f"set memory_limit_mib = {half}: half of this PC belongs to the instrument"
        )
    return ok("memory", seen)


def memory_on_linux(file: Path = Path("/proc/meminfo")) -> tuple[int, int] | None:
    """Return total and available memory in MiB."""
    try:
        rows = dict(line.split(":", 1) for line in file.read_text("ascii").splitlines() if ":" in line)
        return int(rows["MemTotal"].split()[0]) >> 10, int(rows["MemAvailable"].split()[0]) >> 10
    except (OSError, KeyError, ValueError, IndexError):
        return None


def disk_line(
    what: str, folder: Path, floor_mib: int, free_mib: Callable[[Path], int | None] | None = None
) -> Line:
    """Judge the free space where something is written, against the floor that is left to the instrument."""
    check = f"disk of {what}"
    free = (free_mib or free_space_mib)(folder)
    if free is None:
        return skip(check, f"the system does not say, or not in time, how much is free at {folder}")
    seen = f"{free / 1024:.1f} GiB free at {folder}, floor {floor_mib} MiB"
    if free < floor_mib:
        return fail(
            check, seen, "make room there, or lower free_space_floor_mib: nothing is written below the floor"
        )
    if free < 2 * floor_mib:
        return warn(check, seen, "make room there soon")
    return ok(check, seen)


def free_space_mib(folder: Path, *, seconds: float = _DISK_SECONDS) -> int | None:
    """Return the free space of a folder's disk, asked apart: a dead share holds whoever asks."""
    end = run_python(_ASK_DISK, [str(folder)], seconds=seconds)
    return int(end.output) if end.well and end.output.strip().isdigit() else None


def free_space_here_mib(folder: Path) -> int | None:
    """Return the free space of the disk that a folder, which need not exist yet, will lie on."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free >> 20
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def glibc_line(has: tuple[str, str] = platform.libc_ver(), needed: tuple[int, int] | None = None) -> Line:
    """Judge the C library of Linux against what the installed wheels were built for."""
    name, version = has
    if name != "glibc":
        return fail(
            "C library", name or "not glibc", "use a Linux with glibc: the packages exist for no other"
        )
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if needed is None:
        return ok("C library", f"glibc {version}")
    told = ".".join(map(str, needed))
    if found < needed:
        return fail(
            "C library", f"glibc {version}, packages need {told}", "use a newer release of this Linux"
        )
    return ok("C library", f"glibc {version}, packages need {told}")


def runtime_line(windows: WindowsFacts) -> Line:
    """Judge the Visual C++ runtime. Not verified on Windows."""
    check, advice = (
        "VC++ runtime",
        "install the latest vc_redist.x64.exe of Microsoft (aka.ms/vs/17/release/vc_redist.x64.exe)",
    )
    versions = {name: windows.dll_version(name) for name in ("msvcp140.dll", "vcruntime140_1.dll")}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return fail(check, f"{' and '.join(missing)} cannot be loaded", advice)
    told = ", ".join(f"{name} {'.'.join(map(str, version or ()))}" for name, version in versions.items())
    if (versions["msvcp140.dll"] or ())[:2] < NEEDED_MSVCP:
        return fail(check, f"{told}; ONNX Runtime needs {'.'.join(map(str, NEEDED_MSVCP))}", advice)
    return ok(check, told)


def import_apart(module: str) -> Ended:
    """Import a module in a process of its own."""
    return run_python(f"import {module}", seconds=_IMPORT_SECONDS)


def package_lines(
    versions: Callable[[str], str | None] = version_of,
    importing: Callable[[str], Ended] = import_apart,
    modules: Mapping[str, str] | None = None,
) -> list[Line]:
    """Import every package the agent needs, each apart: one line for those that can be, one for each other."""
    modules = modules if modules is not None else needed_modules()
    found = {name: versions(name) for name in modules}
    here = [name for name in modules if found[name] is not None]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        ends = dict(zip(here, pool.map(lambda name: importing(modules[name]), here), strict=True))
    missing = [name for name in modules if name not in ends]
    lines = [fail("packages missing", f"not installed: {', '.join(missing)}", _REINSTALL)] if missing else []
    lines += [
        fail(f"package {name}", f"{found[name]} cannot be imported: {end.why}", _REINSTALL)
        for name, end in ends.items()
        if not end.well
    ]
    good = [f"{name} {found[name]}" for name, end in ends.items() if end.well]
    return [ok("packages", f"{len(good)} can be imported: {', '.join(good)}"), *lines] if good else lines


def needed_modules(platform_name: str = sys.platform) -> dict[str, str]:
    """Return what has to be importable on this system."""
    return DEPENDENCIES | (WINDOWS_DEPENDENCIES if platform_name == "win32" else {})


def clock_line(now: float | None = None, made: float | None = None) -> Line:
    """Judge the clock: it cannot be earlier than the files of this installation, nor decades later."""
    now = time.time() if now is None else now
    made = _newest(PACKAGE.glob("*.py")) if made is None else made
    seen = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now))} UTC"
    if now < made - 86400:
        return fail(
            "clock", f"{seen}, earlier than the installation", "set the clock of this PC (and its battery)"
        )
    if now > made + 20 * 365 * 86400:
        return warn("clock", f"{seen}, twenty years after the installation", "set the clock of this PC")
    return ok("clock", f"{seen}; times are kept in UTC, so time zone and summer time change nothing")


def _newest(files: Iterable[Path]) -> float:
    return max((file.stat().st_mtime for file in files), default=0.0)


def antivirus_line(
    state: Path, places: Iterable[Path], program: str = sys.executable, windows: WindowsFacts | None = None
) -> Line:
    """Say which exclusions to ask for; on Windows also whether Defender looks into files as they are written."""
    asked = [f"folder {state}", *(f"{place}{os.sep}*.json and *.heatmap.png" for place in places)]
    advice = (
        f"exclusions to ask for where a scanner slows outputs down: {'; '.join(asked)}; process {program}"
    )
    if windows is None:
        return Line("antivirus", "skip", "not looked for on this system", advice)
    state_of = windows.realtime_protection()
    if state_of is None:
        return Line(
            "antivirus", "skip", "whether Defender's real-time protection is on cannot be read", advice
        )
    if state_of:
        return ok("antivirus", "Defender's real-time protection is on; outputs wait for it", advice)
    return ok("antivirus", "Defender's real-time protection is off; another scanner may be on", advice)


def power_line(windows: WindowsFacts | None) -> Line:
    """Say whether the PC goes to sleep while it is plugged in. Not verified on Windows."""
    if windows is None:
        return skip("sleep", "not looked at on this system; after waking the agent goes on")
    minutes = windows.sleep_minutes()
    if minutes is None:
        return skip("sleep", "powercfg does not say when this PC sleeps; after waking the agent goes on")
    if minutes:
        return warn(
            "sleep",
            f"this PC sleeps after {minutes} minutes without input: nothing is classified until it wakes",
            "an administrator runs: powercfg /change standby-timeout-ac 0",
        )
    return ok("sleep", "this PC does not sleep while plugged in")
