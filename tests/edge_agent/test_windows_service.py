"""What the running service tells Windows, and when. Not verified on Windows: framework and host are stand-ins."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest
from pywin32_stand_in import CONSTANTS

from edge_agent.config import system_state_folder
from edge_agent.config_file import loaded
from edge_agent.deploy import windows_service
from edge_agent.deploy.windows_service import ServiceRun, fix_library_search, main, service_class

PRESHUTDOWN = 0x0F


class Framework:
    """`win32serviceutil.ServiceFramework`, as far as it is used."""

    def __init__(self, arguments: list[str]) -> None:
        self.reported: list[tuple[int, int]] = []

    def GetAcceptedControls(self) -> int:
        return CONSTANTS["SERVICE_ACCEPT_STOP"] | CONSTANTS["SERVICE_ACCEPT_SHUTDOWN"]

    def ReportServiceStatus(self, state: int, waitHint: int = 5000) -> None:
        self.reported.append((state, waitHint))


class Host:
    """A host whose model is ready when `loaded` is set, and which works until `stop`."""

    def __init__(self, ready, error: Exception | None = None) -> None:
        self.ready, self.error = ready, error
        self.loaded, self.stopped = threading.Event(), threading.Event()

    def run(self) -> None:
        if self.error is not None:
            raise self.error
        while not self.stopped.is_set():
            if self.loaded.wait(0.01):
                self.ready("model tiny 1 is ready")
                break
        self.stopped.wait()

    def stop(self) -> None:
        self.stopped.set()


class Running:
    """A service in a thread of its own, as Windows runs it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        monkeypatch.setattr(windows_service, "HEARTBEAT_SECONDS", 0.02)
        self.logged: list[tuple[str, str]] = []
        self.hosts: list[Host] = []
        events = SimpleNamespace(
            **{
                f"Log{word}Msg": lambda text, word=word: self.logged.append((word, text))
                for word in ("Info", "Warning", "Error")
            }
        )
        modules = SimpleNamespace(
            win32serviceutil=SimpleNamespace(ServiceFramework=Framework),
            win32service=SimpleNamespace(**CONSTANTS),
            servicemanager=events,
        )
        made = service_class(
            "scopewatch", "scopewatch edge agent", modules, lambda ready: self._host(ready, error)
        )
        self.service = made(["scopewatch"])
        self.raised: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)

    def _host(self, ready, error):
        self.hosts.append(Host(ready, error))
        return self.hosts[-1]

    def _run(self) -> None:
        try:
            self.service.SvcRun()
        except Exception as error:
            self.raised.append(error)

    def states(self) -> list[int]:
        """What was reported, repetitions left out."""
        said = [state for state, _ in self.service.reported]
        return [state for state, before in zip(said, [None, *said], strict=False) if state != before]

    def until(self, condition) -> None:
        for _ in range(500):
            if condition():
                return
            threading.Event().wait(0.01)
        raise AssertionError("it did not come to that")


START, STOP, RUN = 2, 3, 4


def test_a_life(monkeypatch):
    it = Running(monkeypatch)
    it.thread.start()
    it.until(lambda: len(it.service.reported) >= 3)
    assert it.service.reported[:3] == [(START, 10_000)] * 3  # heartbeats while the model loads
    it.hosts[0].loaded.set()
    it.until(lambda: it.states()[-1] == RUN)
    beats = len(it.service.reported)
    it.service.SvcStop()
    it.thread.join(10)

    assert it.states() == [START, RUN, STOP]
    assert it.service.reported[beats] == (STOP, 5_000)
    assert it.logged == [
        ("Info", "starting"), ("Info", "model tiny 1 is ready"), ("Info", "stopped"),
    ]  # fmt: skip
    assert it.raised == []


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda service: service.SvcStop(), id="stop"),
        pytest.param(lambda service: service.SvcShutdown(), id="shutdown"),
        pytest.param(lambda service: service.SvcOtherEx(PRESHUTDOWN, 0, None), id="preshutdown"),
    ],
)
def test_every_way_to_end_it_ends_it(monkeypatch, end):
    it = Running(monkeypatch)
    it.thread.start()
    it.until(lambda: it.hosts)
    it.hosts[0].loaded.set()
    it.until(lambda: it.states()[-1:] == [RUN])
    end(it.service)
    it.thread.join(10)
    assert not it.thread.is_alive()
    assert it.hosts[0].stopped.is_set()


def test_stopped_while_the_model_loads(monkeypatch):
    it = Running(monkeypatch)
    it.thread.start()
    it.until(lambda: it.hosts)
    it.service.SvcShutdown()
    it.hosts[0].loaded.set()
    it.thread.join(10)
    assert RUN not in it.states()


def test_an_agent_that_ends_by_itself_is_a_failure_that_windows_hears_of(monkeypatch):
    it = Running(monkeypatch, error=ValueError("agent.toml: is not valid TOML"))
    it.thread.start()
    it.thread.join(10)
    # pywin32 reports a stop with an error for an exception, and the recovery actions follow.
    assert [str(error) for error in it.raised] == ["agent.toml: is not valid TOML"]
    assert it.logged[-1] == ("Error", "ended by ValueError: agent.toml: is not valid TOML")


def test_one_that_never_gets_ready_is_ended_as_a_failure(monkeypatch):
    monkeypatch.setattr(windows_service, "START_SECONDS", 0.2)
    it = Running(monkeypatch)
    it.thread.start()
    it.thread.join(10)
    assert not it.thread.is_alive()
    assert [str(error) for error in it.raised] == ["not ready after 0 s"]
    assert it.logged[-1] == ("Error", "ended by TimeoutError: not ready after 0 s")


def test_asked_for_its_state_while_it_starts_it_does_not_say_running(monkeypatch):
    it = Running(monkeypatch)
    it.service.SvcInterrogate()
    assert it.service.reported == [(START, 10_000)]


def test_controls_it_accepts(monkeypatch):
    it = Running(monkeypatch)
    assert it.service.GetAcceptedControls() == 0x001 | 0x004 | 0x100
    assert (it.service._svc_name_, it.service._svc_display_name_) == ("scopewatch", "scopewatch edge agent")
    it.service.SvcOtherEx(0x99, 0, None)
    assert it.service.reported == []


def test_a_host_is_not_started_after_a_stop(monkeypatch):
    ran = []
    manager = SimpleNamespace(report=lambda state, hint=0: None, log=lambda kind, text: None)
    run = ServiceRun(manager, lambda ready: SimpleNamespace(run=lambda: ran.append(1), stop=lambda: None))
    run.stop()
    run.run()
    assert ran == []


def test_without_a_state_in_its_configuration_it_keeps_that_of_the_pc(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_STATE", "the account's own")
    file = tmp_path / "ours.toml"
    file.touch()
    windows_service._host(file, lambda words: None)
    assert loaded(file).config.state == system_state_folder()


def test_libraries_are_not_looked_for_in_the_current_folder():
    calls = []
    kernel32 = SimpleNamespace(
        SetDllDirectoryW=lambda path: calls.append(("SetDllDirectoryW", path)),
        SetDefaultDllDirectories=lambda flags: calls.append(("SetDefaultDllDirectories", flags)),
    )
    fix_library_search(kernel32)
    assert calls == [("SetDllDirectoryW", ""), ("SetDefaultDllDirectories", 0x1000)]


@pytest.mark.skipif(sys.platform == "win32", reason="it would become the service")
def test_elsewhere_the_program_says_what_it_is(capsys):
    assert main(["agent.toml"]) == 2
    assert "edge-agent service install" in capsys.readouterr().err
