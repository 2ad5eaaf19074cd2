"""The Windows service as an entry of the service control manager: created, changed, started, stopped, deleted.

Every call of pywin32 that concerns the entry is made here, on modules that tests replace. Constants are those of
winsvc.h and winnt.h. Not verified on Windows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_agent.deploy.service_plan import DESCRIPTION, DISPLAY_NAME, SERVICE_NAME, ServiceFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

LOCAL_SERVICE: Final = "NT AUTHORITY\\LocalService"
SERVICE_SID: Final = f"NT SERVICE\\{SERVICE_NAME}"
"""The account that rights on folders are granted to: it stands for this one service, whoever it runs as."""
RESTART_AFTER_MS: Final = (5_000, 30_000, 60_000)
RESET_SECONDS: Final = 24 * 3600
PRESHUTDOWN_MS: Final = 10_000
_SC_ACTION_RESTART: Final = 1
_SID_TYPE_UNRESTRICTED: Final = 1
_LOG_ON_RIGHT: Final = "SeServiceLogonRight"
_NO_SUCH_SERVICE: Final = 1060  # ERROR_SERVICE_DOES_NOT_EXIST
_NOT_ACTIVE: Final = 1062  # ERROR_SERVICE_NOT_ACTIVE
_ACCESS_DENIED: Final = 5
_POLL_SECONDS: Final = 0.5
_STATES: Final = {
    1: "stopped",
    2: "starting",
    3: "stopping",
    4: "running",
    5: "continuing",
    6: "pausing",
    7: "paused",
}


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """What the manager is told of the service."""

    command_line: str
    account: str | None = LOCAL_SERVICE
    password: str | None = ""
    """Empty for LocalService, which has none. Account and password None: those of a service that is there stay."""

    def __repr__(self) -> str:
        """Without the password: this may end up in a log."""
        return f"ServiceEntry({self.command_line!r}, {self.account!r})"


@dataclass(frozen=True, slots=True)
class EntryState:
    """What the manager says of the service."""

    word: str
    pid: int
    exit_code: int


class ServiceManager:
    """The entry of the service. `modules` holds pywin32's modules by their names; tests pass their own."""

    def __init__(
        self,
        modules: SimpleNamespace,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.win32 = modules.win32service
        self._modules = modules
        self._sleep = sleep
        self._clock = clock

    def put(self, entry: ServiceEntry) -> bool:
        """Create the service, or change the one that is there; return whether it is new. Raises ServiceFailed."""
        win32 = self.win32
        manager = self.call(win32.OpenSCManager, None, None, win32.SC_MANAGER_ALL_ACCESS)
        try:
            service, is_new = self._created_or_changed(manager, entry)
            try:
                self._describe(service)
            finally:
                win32.CloseServiceHandle(service)
        finally:
            win32.CloseServiceHandle(manager)
        self._modules.win32evtlogutil.AddSourceToRegistry(
            SERVICE_NAME, self._modules.servicemanager.__file__, "Application"
        )
        return is_new

    def allow_log_on(self, account: str) -> None:
        """Give a named account the right to log on as a service; without it, Windows refuses the start."""
        security = self._modules.win32security
        sid = self.call(security.LookupAccountName, None, account)[0]
        policy = self.call(
            security.LsaOpenPolicy, None, security.POLICY_CREATE_ACCOUNT | security.POLICY_LOOKUP_NAMES
        )
        try:
            self.call(security.LsaAddAccountRights, policy, sid, (_LOG_ON_RIGHT,))
        finally:
            security.LsaClose(policy)

    def state(self) -> EntryState | None:
        """Return what the manager says, None when there is no such service. Raises ServiceFailed."""
        with _Opened(self, self.win32.SERVICE_QUERY_STATUS, may_be_absent=True) as service:
            if service is None:
                return None
            said = self.call(self.win32.QueryServiceStatusEx, service)
        code = said["ServiceSpecificExitCode"] or said["Win32ExitCode"]
        return EntryState(_STATES.get(said["CurrentState"], "unknown"), said["ProcessId"], code)

    def command_line(self) -> str | None:
        """Return the command of the service that is there, None when there is none."""
        with _Opened(self, self.win32.SERVICE_QUERY_CONFIG, may_be_absent=True) as service:
            return None if service is None else str(self.call(self.win32.QueryServiceConfig, service)[3])

    def account(self) -> str | None:
        """Return who the service that is there runs as, None when there is none."""
        with _Opened(self, self.win32.SERVICE_QUERY_CONFIG, may_be_absent=True) as service:
            return None if service is None else str(self.call(self.win32.QueryServiceConfig, service)[7])

    def start(self, limit_seconds: float) -> float:
        """Start it and wait until it runs; return the seconds that took. Raises ServiceFailed."""
        began = self._clock()
        with _Opened(self, self.win32.SERVICE_START | self.win32.SERVICE_QUERY_STATUS) as service:
            self.call(self.win32.StartService, service, None)
        self._wait_for("running", limit_seconds)
        return self._clock() - began

    def stop(self, limit_seconds: float) -> float:
        """Stop it and wait; one that does not run is stopped. Raises ServiceFailed."""
        began = self._clock()
        with _Opened(self, self.win32.SERVICE_STOP | self.win32.SERVICE_QUERY_STATUS) as service:
            self.call(self.win32.ControlService, service, self.win32.SERVICE_CONTROL_STOP, but=(_NOT_ACTIVE,))
        self._wait_for("stopped", limit_seconds)
        return self._clock() - began

    def delete(self) -> None:
        """Take the entry and its log source away; it must be stopped. Raises ServiceFailed."""
        with _Opened(self, self._modules.win32con.DELETE) as service:
            self.call(self.win32.DeleteService, service)
        self._modules.win32evtlogutil.RemoveSourceFromRegistry(SERVICE_NAME, "Application")

    def _created_or_changed(self, manager: object, entry: ServiceEntry) -> tuple[Any, bool]:
        win32 = self.win32
        try:
            service = win32.OpenService(manager, SERVICE_NAME, win32.SERVICE_ALL_ACCESS)
        except self._modules.pywintypes.error as error:
            if error.winerror != _NO_SUCH_SERVICE:
                raise self._failure(error) from None
            created = self.call(
                win32.CreateService,
                manager, SERVICE_NAME, DISPLAY_NAME, win32.SERVICE_ALL_ACCESS, win32.SERVICE_WIN32_OWN_PROCESS,
                win32.SERVICE_AUTO_START, win32.SERVICE_ERROR_NORMAL, entry.command_line,
                None, 0, None, entry.account, entry.password,
            )  # fmt: skip
            return created, True
        self.call(
            win32.ChangeServiceConfig,
            service, win32.SERVICE_WIN32_OWN_PROCESS, win32.SERVICE_AUTO_START, win32.SERVICE_ERROR_NORMAL,
            entry.command_line, None, 0, None, entry.account, entry.password, DISPLAY_NAME,
        )  # fmt: skip
        return service, False

    def _describe(self, service: object) -> None:
        win32 = self.win32
        actions = {
            "ResetPeriod": RESET_SECONDS,
            "RebootMsg": "",
            "Command": "",
            "Actions": tuple((_SC_ACTION_RESTART, delay) for delay in RESTART_AFTER_MS),
        }
        for level, value in (
            (win32.SERVICE_CONFIG_DESCRIPTION, DESCRIPTION),
            (win32.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, True),
            (win32.SERVICE_CONFIG_FAILURE_ACTIONS, actions),
            # Also when it ends by itself with an error, not only when it crashes.
            (win32.SERVICE_CONFIG_FAILURE_ACTIONS_FLAG, True),
            (win32.SERVICE_CONFIG_SERVICE_SID_INFO, _SID_TYPE_UNRESTRICTED),
            (win32.SERVICE_CONFIG_PRESHUTDOWN_INFO, PRESHUTDOWN_MS),
        ):
            self.call(win32.ChangeServiceConfig2, service, level, value)

    def _wait_for(self, word: str, limit_seconds: float) -> None:
        end = self._clock() + limit_seconds
        while (state := self.state()) is not None and state.word != word:
            if word == "running" and state.word == "stopped":
                raise ServiceFailed(
                    f"the service ended while it started, with code {state.exit_code}; the Event Log "
                    f"(Application, source {SERVICE_NAME}) and the agent's log say why"
                )
            if self._clock() >= end:
                raise ServiceFailed(f"the service is {state.word} after {limit_seconds:.0f} s, not {word}")
            self._sleep(_POLL_SECONDS)

    def call(self, function: Callable[..., Any], *arguments: object, but: tuple[int, ...] = ()) -> Any:  # noqa: ANN401
        """Call pywin32; its error is a ServiceFailed, or None when its number is in `but`."""
        try:
            return function(*arguments)
        except self._modules.pywintypes.error as error:
            if error.winerror in but:
                return None
            raise self._failure(error) from None

    def _failure(self, error: BaseException) -> ServiceFailed:
        number, function, text = error.args[:3]
        more = "; start the prompt as administrator" if number == _ACCESS_DENIED else ""
        return ServiceFailed(f"{function}: {text} (error {number}){more}")


class _Opened:
    """A handle of the service and of the manager, closed at the end."""

    def __init__(self, owner: ServiceManager, access: int, *, may_be_absent: bool = False) -> None:
        self._owner = owner
        self._access = access
        self._but = (_NO_SUCH_SERVICE,) if may_be_absent else ()

    def __enter__(self) -> object:
        win32, call = self._owner.win32, self._owner.call
        self._manager = call(win32.OpenSCManager, None, None, win32.SC_MANAGER_CONNECT)
        try:
            self._service = call(win32.OpenService, self._manager, SERVICE_NAME, self._access, but=self._but)
        except ServiceFailed:
            win32.CloseServiceHandle(self._manager)
            raise
        return self._service

    def __exit__(self, *error: object) -> None:
        win32 = self._owner.win32
        if self._service is not None:
            win32.CloseServiceHandle(self._service)
        win32.CloseServiceHandle(self._manager)
