r"""The program that Windows runs as the service, and what it tells its manager. Not verified on Windows.

It is started as a file, by the interpreter of the installation: `python.exe -I ...\windows_service.py CONFIG`.
So it needs no `pythonservice.exe`, whose libraries a virtual environment does not find, and nothing in the
environment or the current folder decides what is imported.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

HEARTBEAT_SECONDS: Final = 2.0
START_SECONDS: Final = 300.0
"""A slow PC verifies the model and replays its golden cases before it says that it is ready."""
_HEARTBEAT_HINT_MS: Final = 10_000
_STOP_HINT_MS: Final = 5_000
_ACCEPT_PRESHUTDOWN: Final = 0x100
_CONTROL_PRESHUTDOWN: Final = 0x0F
_SEARCH_DEFAULT_DIRS: Final = 0x1000


class RunningHost(Protocol):
    """What of `edge_agent.hosting.host.Host` is used here."""

    def run(self) -> None:
        """Work until `stop`."""

    def stop(self) -> None:
        """End `run`; from any thread."""


class Manager(Protocol):
    """What the service control manager and the Event Log are told."""

    def report(self, state: str, wait_hint_ms: int = 0) -> None:
        """Report "start_pending", "running" or "stop_pending"; a pending state counts its checkpoint up."""

    def log(self, kind: str, text: str) -> None:
        """Write "information", "warning" or "error" to the Event Log."""


class ServiceRun:
    """One run of the service, whoever hosts it. `host_of` gets what is to be called when the model is ready."""

    def __init__(self, manager: Manager, host_of: Callable[[Callable[[str], None]], RunningHost]) -> None:
        self._manager = manager
        self._host_of = host_of
        self._host: RunningHost | None = None
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._is_late = False
        self.state = "start_pending"

    def run(self) -> None:
        """Report heartbeats until the model is ready, then that it runs, and come back when it has ended.

        Raises what ended the agent, which is how the manager learns that it failed and restarts it.
        """
        self._manager.log("information", "starting")
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        try:
            self._host = self._host_of(self._ready)
            if self._stopping.is_set():
                return
            self._host.run()
            if self._is_late:
                raise TimeoutError(f"not ready after {START_SECONDS:.0f} s")
        except BaseException as error:
            self._manager.log("error", f"ended by {type(error).__name__}: {error}")
            raise
        finally:
            self._settled.set()
            beat.join()
        self._manager.log("information", "stopped")

    def stop(self) -> None:
        """Tell the manager that it ends, and end; comes back at once, as a control handler must."""
        self._stopping.set()
        self._report("stop_pending", _STOP_HINT_MS)
        if self._host is not None:
            self._host.stop()

    def repeat(self) -> None:
        """Answer the manager's question for the state."""
        with self._lock:
            self._manager.report(self.state, 0 if self.state == "running" else _HEARTBEAT_HINT_MS)

    def _ready(self, words: str) -> None:
        if not self._settled.is_set() and not self._stopping.is_set():
            self._settled.set()
            self._report("running", 0)
            self._manager.log("information", words)

    def _beat(self) -> None:
        beats = int(START_SECONDS / HEARTBEAT_SECONDS)
        for _ in range(beats):
            with self._lock:
                if self._settled.is_set() or self._stopping.is_set():
                    return
                self._manager.report("start_pending", _HEARTBEAT_HINT_MS)
            self._settled.wait(HEARTBEAT_SECONDS)
        if not self._settled.is_set():
            # A failure, which Windows answers by starting it again, as systemd does.
            self._is_late = True
            self.stop()

    def _report(self, state: str, wait_hint_ms: int) -> None:
        with self._lock:
            self.state = state
            self._manager.report(state, wait_hint_ms)


def service_class(
    name: str,
    display_name: str,
    modules: SimpleNamespace,
    host_of: Callable[[Callable[[str], None]], RunningHost],
) -> type[Any]:
    """Return the `win32serviceutil.ServiceFramework` for one run; `modules` holds pywin32's three modules."""
    win32service = modules.win32service
    framework: type[Any] = modules.win32serviceutil.ServiceFramework

    class AgentService(framework):  # type: ignore[misc]
        _svc_name_ = name
        _svc_display_name_ = display_name

        def __init__(self, arguments: list[str]) -> None:
            super().__init__(arguments)
            self.service_run = ServiceRun(_Pywin32Manager(self, modules), host_of)

        def GetAcceptedControls(self) -> int:  # noqa: N802 - the names of the framework
            return int(super().GetAcceptedControls()) | _ACCEPT_PRESHUTDOWN

        def SvcRun(self) -> None:  # noqa: N802
            # An exception that leaves this makes pywin32 report a failure, which starts the recovery actions.
            self.service_run.run()
            self.ReportServiceStatus(win32service.SERVICE_STOP_PENDING)

        def SvcStop(self) -> None:  # noqa: N802
            self.service_run.stop()

        def SvcShutdown(self) -> None:  # noqa: N802
            self.service_run.stop()

        def SvcOtherEx(self, control: int, event_type: int, data: object) -> None:  # noqa: N802
            if control == _CONTROL_PRESHUTDOWN:
                self.service_run.stop()

        def SvcInterrogate(self) -> None:  # noqa: N802
            # The framework's own would say "running" while the model still loads.
            self.service_run.repeat()

    return AgentService


class _Pywin32Manager:
    """`Manager` by pywin32."""

    def __init__(self, framework: SimpleNamespace, modules: SimpleNamespace) -> None:
        self._framework = framework
        win32service, events = modules.win32service, modules.servicemanager
        self._states = {
            "start_pending": win32service.SERVICE_START_PENDING,
            "running": win32service.SERVICE_RUNNING,
            "stop_pending": win32service.SERVICE_STOP_PENDING,
        }
        self._logs = {
            "information": events.LogInfoMsg,
            "warning": events.LogWarningMsg,
            "error": events.LogErrorMsg,
        }

    def report(self, state: str, wait_hint_ms: int = 0) -> None:
        """SetServiceStatus, through the framework, which counts checkpoints."""
        self._framework.ReportServiceStatus(self._states[state], waitHint=wait_hint_ms)

    def log(self, kind: str, text: str) -> None:
        """ReportEvent under the service's own source."""
        self._logs[kind](text)


def fix_library_search(kernel32: SimpleNamespace | ctypes.CDLL) -> None:
    """Have DLLs looked for beside the program and in System32, never in the current folder or PATH."""
    kernel32.SetDllDirectoryW("")
    kernel32.SetDefaultDllDirectories(_SEARCH_DEFAULT_DIRS)


def main(arguments: list[str]) -> int:
    """Be the service; `arguments` is the configuration file. Windows starts this, nobody else."""
    if sys.platform != "win32" or len(arguments) != 1:
        sys.stderr.write("this is the program of the Windows service; see `edge-agent service install`\n")
        return 2
    fix_library_search(ctypes.WinDLL("kernel32"))
    _see_installation()
    import types

    import servicemanager
    import win32service
    import win32serviceutil

    from edge_agent.deploy.service_plan import DISPLAY_NAME, SERVICE_NAME

    modules = types.SimpleNamespace(
        servicemanager=servicemanager, win32service=win32service, win32serviceutil=win32serviceutil
    )
    made = service_class(SERVICE_NAME, DISPLAY_NAME, modules, lambda ready: _host(Path(arguments[0]), ready))
    servicemanager.Initialize(SERVICE_NAME, servicemanager.__file__)
    servicemanager.PrepareToHostSingle(made)
    servicemanager.StartServiceCtrlDispatcher()
    return 0


def _see_installation() -> None:
    """Make the packages beside this file importable, with the .pth files that pywin32 needs."""
    import site

    package = Path(__file__).resolve().parents[2]
    site.addsitedir(str(package))


def _host(config_file: Path, ready: Callable[[str], None]) -> RunningHost:
    from edge_agent.config import STATE_VARIABLE, system_state_folder
    from edge_agent.hosting.host import Host

    # Where the configuration names no state, it is where `service install` said, and not in the account's profile.
    os.environ[STATE_VARIABLE] = str(system_state_folder())
    return Host(
        config_file,
        {},
        on_ready=lambda model: ready(f"model {model.name} {model.version} is ready"),
        on_finding=lambda finding: None,
        say=lambda line: None,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
