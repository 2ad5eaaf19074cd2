"""pywin32's modules as far as the service uses them: every call is written down, services live in a dictionary.

Names, parameter orders and constants were compared with pywin32 312 and winsvc.h; nothing here ran on Windows.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class Error(Exception):
    """`pywintypes.error`: winerror, funcname, strerror."""

    def __init__(self, winerror: int, funcname: str, strerror: str) -> None:
        super().__init__(winerror, funcname, strerror)
        self.winerror, self.funcname, self.strerror = winerror, funcname, strerror


CONSTANTS = {
    "SC_MANAGER_ALL_ACCESS": 0xF003F, "SC_MANAGER_CONNECT": 1, "SERVICE_ALL_ACCESS": 0xF01FF,
    "SERVICE_QUERY_STATUS": 4, "SERVICE_QUERY_CONFIG": 1, "SERVICE_START": 0x10, "SERVICE_STOP": 0x20,
    "SERVICE_WIN32_OWN_PROCESS": 0x10, "SERVICE_AUTO_START": 2, "SERVICE_ERROR_NORMAL": 1,
    "SERVICE_CONTROL_STOP": 1, "SERVICE_CONFIG_DESCRIPTION": 1, "SERVICE_CONFIG_FAILURE_ACTIONS": 2,
    "SERVICE_CONFIG_DELAYED_AUTO_START_INFO": 3, "SERVICE_CONFIG_FAILURE_ACTIONS_FLAG": 4,
    "SERVICE_CONFIG_SERVICE_SID_INFO": 5, "SERVICE_CONFIG_PRESHUTDOWN_INFO": 7,
    "SERVICE_START_PENDING": 2, "SERVICE_STOP_PENDING": 3, "SERVICE_RUNNING": 4, "SERVICE_STOPPED": 1,
    "SERVICE_ACCEPT_STOP": 1, "SERVICE_ACCEPT_SHUTDOWN": 4,
}  # fmt: skip


class FakeWindows:
    """`modules` is what `ServiceManager` gets; `calls` what it did, handles as words."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.service: dict[str, Any] | None = None
        self.fails: dict[str, Error] = {}
        self.open: list[str] = []
        self.states_after_start = [4]
        names = (
            "OpenSCManager", "OpenService", "CreateService", "ChangeServiceConfig", "ChangeServiceConfig2",
            "CloseServiceHandle", "QueryServiceStatusEx", "QueryServiceConfig", "StartService", "ControlService",
            "DeleteService",
        )  # fmt: skip
        win32service = SimpleNamespace(**CONSTANTS, **{name: self._recorded(name) for name in names})
        self.modules = SimpleNamespace(
            pywintypes=SimpleNamespace(error=Error),
            win32service=win32service,
            win32con=SimpleNamespace(DELETE=0x10000),
            servicemanager=SimpleNamespace(__file__=r"C:\Python\Lib\site-packages\win32\servicemanager.pyd"),
            win32evtlogutil=SimpleNamespace(
                AddSourceToRegistry=self._recorded("AddSourceToRegistry"),
                RemoveSourceFromRegistry=self._recorded("RemoveSourceFromRegistry"),
            ),
            win32security=SimpleNamespace(
                POLICY_CREATE_ACCOUNT=0x10,
                POLICY_LOOKUP_NAMES=0x800,
                **{
                    name: self._recorded(name)
                    for name in ("LookupAccountName", "LsaOpenPolicy", "LsaAddAccountRights", "LsaClose")
                },
            ),
        )

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of one function."""
        return [call[1:] for call in self.calls if call[0] == name]

    def _recorded(self, name: str) -> Any:
        def function(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if name in self.fails:
                raise self.fails[name]
            return getattr(self, f"_{name}", lambda *rest: None)(*arguments)

        return function

    def _OpenSCManager(self, machine: object, database: object, access: int) -> str:
        assert machine is None
        assert database is None
        self.open.append("manager")
        return "manager"

    def _OpenService(self, manager: str, name: str, access: int) -> str:
        if self.service is None:
            raise Error(1060, "OpenService", "The specified service does not exist as an installed service.")
        self.open.append("service")
        return "service"

    def _CreateService(self, *arguments: Any) -> str:
        self.service = {"command": arguments[7], "state": 1, "account": arguments[11]}
        self.open.append("service")
        return "service"

    def _ChangeServiceConfig(self, *arguments: Any) -> None:
        self.service["command"] = arguments[4]
        self.service["account"] = arguments[8] or self.service["account"]

    def _CloseServiceHandle(self, handle: str) -> None:
        self.open.remove(handle)

    def _QueryServiceStatusEx(self, service: str) -> dict[str, int]:
        if self.service.get("coming"):
            self.service["state"] = self.service["coming"].pop(0)
        return {
            "CurrentState": self.service["state"],
            "ProcessId": 77 if self.service["state"] == 4 else 0,
            "Win32ExitCode": self.service.get("code", 0),
            "ServiceSpecificExitCode": 0,
        }

    def _QueryServiceConfig(self, service: str) -> tuple[Any, ...]:
        return (16, 2, 1, self.service["command"], "", 0, "", self.service["account"], "scopewatch")

    def _StartService(self, service: str, arguments: object) -> None:
        if self.service["state"] != 1:
            raise Error(1056, "StartService", "An instance of the service is already running.")
        self.service["coming"] = list(self.states_after_start)

    def _ControlService(self, service: str, control: int) -> None:
        if self.service["state"] == 1:
            raise Error(1062, "ControlService", "The service has not been started.")
        self.service["coming"] = [3, 1]

    def _DeleteService(self, service: str) -> None:
        self.service = None

    def _LookupAccountName(self, machine: object, account: str) -> tuple[str, str, int]:
        return (f"sid of {account}", "LAB", 1)

    def _LsaOpenPolicy(self, machine: object, access: int) -> str:
        return "policy"
