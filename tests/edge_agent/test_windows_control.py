"""Every call to the service control manager, with parameters. Not verified on Windows: pywin32 is a stand-in."""

from __future__ import annotations

import itertools

import pytest
from pywin32_stand_in import Error, FakeWindows

from edge_agent.deploy.service_plan import ServiceFailed
from edge_agent.deploy.windows_control import LOCAL_SERVICE, ServiceEntry, ServiceManager

COMMAND = r'"C:\Program Files\scopewatch\python.exe" -I "C:\p\windows_service.py" "C:\c\agent.toml"'
ENTRY = ServiceEntry(COMMAND)


@pytest.fixture
def windows():
    """Windows without our service; every handle must be closed in the end."""
    fake = FakeWindows()
    yield fake
    assert fake.open == []


def manager(windows: FakeWindows) -> ServiceManager:
    ticks = itertools.count()
    return ServiceManager(windows.modules, sleep=lambda seconds: None, clock=lambda: float(next(ticks)))


def test_a_new_service(windows):
    assert manager(windows).put(ENTRY) is True

    assert windows.named("CreateService") == [
        (
            "manager", "scopewatch", "scopewatch edge agent", 0xF01FF,
            0x10,  # a process of its own
            2,  # starts by itself
            1,  # errors are logged
            COMMAND,
            None, 0, None,
            "NT AUTHORITY\\LocalService", "",
        )
    ]  # fmt: skip
    assert windows.named("ChangeServiceConfig2") == [
        ("service", 1, "Classifies every new micrograph and keeps a heatmap beside it."),
        ("service", 3, True),  # delayed start
        (
            "service",
            2,
            {
                "ResetPeriod": 86400,
                "RebootMsg": "",
                "Command": "",
                "Actions": ((1, 5000), (1, 30000), (1, 60000)),  # restart after 5, 30, 60 s
            },
        ),
        ("service", 4, True),  # also on failures that are no crash
        ("service", 5, 1),  # a name of its own, for rights on folders
        ("service", 7, 10000),  # ms before the PC shuts down
    ]
    assert windows.named("AddSourceToRegistry") == [
        ("scopewatch", r"C:\Python\Lib\site-packages\win32\servicemanager.pyd", "Application")
    ]


def test_one_that_is_there_is_changed(windows):
    manager(windows).put(ENTRY)
    other = ServiceEntry(COMMAND + " more", r"LAB\em", "secret")

    assert manager(windows).put(other) is False

    assert windows.named("ChangeServiceConfig") == [
        (
            "service",
            0x10,
            2,
            1,
            COMMAND + " more",
            None,
            0,
            None,
            r"LAB\em",
            "secret",
            "scopewatch edge agent",
        )
    ]
    assert len(windows.named("CreateService")) == 1
    assert len(windows.named("ChangeServiceConfig2")) == 12


def test_a_password_is_shown_nowhere():
    assert "secret" not in repr(ServiceEntry(COMMAND, r"LAB\em", "secret"))


def test_a_named_account_gets_the_right_to_log_on(windows):
    manager(windows).allow_log_on(r"LAB\em")
    assert windows.calls == [
        ("LookupAccountName", None, r"LAB\em"),
        ("LsaOpenPolicy", None, 0x810),
        ("LsaAddAccountRights", "policy", r"sid of LAB\em", ("SeServiceLogonRight",)),
        ("LsaClose", "policy"),
    ]


@pytest.mark.parametrize(
    ("states", "ends_in"),
    [
        pytest.param([4], "running", id="at once"),
        pytest.param([2, 2, 2, 4], "running", id="after its heartbeats"),
        pytest.param([2, 1], "the service ended while it started, with code 1066", id="ends while starting"),
        pytest.param([2] * 100, "the service is starting after 30 s, not running", id="never"),
    ],
)
def test_starting_waits(windows, states, ends_in):
    manager(windows).put(ENTRY)
    windows.states_after_start = states
    windows.service["code"] = 1066
    if ends_in == "running":
        assert manager(windows).start(30) > 0
        assert manager(windows).state().word == "running"
        assert manager(windows).state().pid == 77
    else:
        with pytest.raises(ServiceFailed, match=ends_in):
            manager(windows).start(30)
    assert windows.named("StartService") == [("service", None)]


def test_stopping_waits_and_one_that_is_stopped_is_stopped(windows):
    manager(windows).put(ENTRY)
    manager(windows).start(30)
    manager(windows).stop(15)
    assert manager(windows).state().word == "stopped"
    manager(windows).stop(15)
    assert windows.named("ControlService") == [("service", 1)] * 2


def test_deleting_takes_the_log_source_away(windows):
    manager(windows).put(ENTRY)
    manager(windows).delete()
    assert manager(windows).state() is None
    assert manager(windows).command_line() is None
    assert windows.named("OpenService")[-3] == ("manager", "scopewatch", 0x10000)
    assert windows.named("RemoveSourceFromRegistry") == [("scopewatch", "Application")]


def test_what_windows_refuses_is_one_line(windows):
    windows.fails["OpenSCManager"] = Error(5, "OpenSCManager", "Access is denied.")
    with pytest.raises(ServiceFailed) as error:
        manager(windows).put(ENTRY)
    assert str(error.value) == (
        "OpenSCManager: Access is denied. (error 5); start the prompt as administrator"
    )


def test_a_failure_in_between_leaves_no_handle_open(windows):
    windows.fails["ChangeServiceConfig2"] = Error(1072, "ChangeServiceConfig2", "marked for deletion")
    with pytest.raises(ServiceFailed, match="error 1072"):
        manager(windows).put(ENTRY)


def test_the_account_without_rights_is_the_default():
    assert ENTRY.account == LOCAL_SERVICE
