r"""What is asked of Windows when the service is set up, by ctypes, pywin32 and the programs of the system.

Only this module touches Windows for `windows_setup`; tests put another system in its place. Not verified there.
"""

from __future__ import annotations

import getpass
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

from edge_agent.deploy.logon_task import LogonTask
from edge_agent.deploy.service_plan import ServiceRefused
from edge_agent.deploy.windows_control import ServiceManager
from edge_agent.deploy.windows_rights import Win32AccessLists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.deploy.windows_rights import AccessLists


class WindowsSystem(Protocol):
    """What is asked of Windows."""

    def is_administrator(self) -> bool:
        """Whether this prompt has an administrator's rights."""

    def share_of(self, drive: str) -> str | None:
        r"""Return the \\server\share behind a drive letter (`Z:`), None for none."""

    def user(self) -> str:
        r"""Return who is logged on here, as `DOMAIN\name`."""

    def ask_password(self, account: str) -> str:
        """Ask the person at the terminal for an account's password, unseen."""

    def manager(self) -> ServiceManager:
        """Return the entry in the service control manager."""

    def task(self) -> LogonTask:
        """Return the task in Task Scheduler."""

    def access_lists(self) -> AccessLists:
        """Return who reads access lists."""

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """Run a command of Windows, and return its exit code and what it said."""

    def base_python(self) -> Path:
        """Return the interpreter that a service can be: not the launcher of a virtual environment."""


@dataclass(frozen=True, slots=True)
class RealSystem:
    """`WindowsSystem` of the PC this runs on."""

    def is_administrator(self) -> bool:
        """IsUserAnAdmin."""
        from edge_agent.diagnosing.windows_facts import RealWindows

        return bool(RealWindows().is_administrator())

    def share_of(self, drive: str) -> str | None:
        """WNetGetConnection; where this log-on does not know the drive, what the person's own has noted."""
        from edge_agent.diagnosing.windows_facts import RealWindows

        return RealWindows().share_of(drive) or _noted_share(drive)

    def user(self) -> str:
        r"""GetUserNameEx, as `DOMAIN\name`."""
        import win32api

        return str(win32api.GetUserNameEx(2))  # NameSamCompatible

    def ask_password(self, account: str) -> str:
        """Without echo; never from the command line, where every user of the PC could read it."""
        return getpass.getpass(f"password of {account} (Windows keeps it for the service): ")

    def manager(self) -> ServiceManager:
        """pywin32's."""
        return ServiceManager(_pywin32())

    def task(self) -> LogonTask:
        """By the program schtasks."""
        return LogonTask(_run)

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """As it stands, without a shell."""
        return _run(words, 60)

    def access_lists(self) -> AccessLists:
        """pywin32's."""
        return Win32AccessLists(_pywin32().win32security)

    def base_python(self) -> Path:
        """A launcher would be another process than the one that Windows waits for."""
        return Path(getattr(sys, "_base_executable", sys.executable))


def _pywin32() -> SimpleNamespace:
    try:
        import pywintypes
        import servicemanager
        import win32con
        import win32evtlogutil
        import win32security
        import win32service
    except ImportError as error:
        raise ServiceRefused(f"pywin32 is not there ({error}); pip install pywin32, or use --user") from None
    return SimpleNamespace(
        pywintypes=pywintypes,
        servicemanager=servicemanager,
        win32con=win32con,
        win32evtlogutil=win32evtlogutil,
        win32security=win32security,
        win32service=win32service,
    )


def _run(words: Sequence[str], timeout_seconds: float) -> tuple[int, str]:
    done = subprocess.run(
        words, capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=False
    )
    return done.returncode, done.stdout + done.stderr


def _noted_share(drive: str) -> str | None:
    r"""Read HKEY_CURRENT_USER\Network\Z: an administrator's prompt does not see the desktop's drives."""
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_CURRENT_USER, f"Network\\{drive[0]}") as key:
            return str(winreg.QueryValueEx(key, "RemotePath")[0])
    except OSError:
        return None
