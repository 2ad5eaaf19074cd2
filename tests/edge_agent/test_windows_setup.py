"""Installing on Windows: what is created, told and refused. Not verified on Windows: everything is a stand-in."""

from __future__ import annotations

import itertools
from pathlib import Path, PureWindowsPath

import pytest
from pywin32_stand_in import FakeWindows

from edge_agent.config import AgentConfig
from edge_agent.deploy import windows_setup
from edge_agent.deploy.logon_task import LogonTask
from edge_agent.deploy.service_plan import Account, InstallRequest, ServiceFailed, ServicePlan, ServiceRefused
from edge_agent.deploy.windows_control import ServiceManager
from edge_agent.deploy.windows_rights import AccessEntry, AccessList
from edge_agent.status import sole_agent

USERS_MODIFY = AccessEntry(0, 0, 0x1301BF, "S-1-5-32-545", r"BUILTIN\Users")


class System:
    """A Windows PC; the attributes are what a case changes."""

    def __init__(self) -> None:
        self.windows = FakeWindows()
        self.administrator = True
        self.drives: dict[str, str] = {}
        self.entries: tuple[AccessEntry, ...] = ()
        self.asked_for: list[str] = []
        self.tasks: set[str] = set()
        self.schtasks: list[tuple[str, ...]] = []
        self.ran: list[tuple[str, ...]] = []
        self.code = 0
        self.owners: dict[str, tuple[str, str]] = {}

    def run(self, words) -> tuple[int, str]:
        self.ran.append(tuple(words))
        return self.code, "Access is denied."

    def is_administrator(self) -> bool:
        return self.administrator

    def share_of(self, drive: str) -> str | None:
        return self.drives.get(drive)

    def user(self) -> str:
        return r"LAB\em"

    def ask_password(self, account: str) -> str:
        self.asked_for.append(account)
        return "secret"

    def manager(self) -> ServiceManager:
        ticks = itertools.count()
        return ServiceManager(self.windows.modules, lambda seconds: None, lambda: float(next(ticks)))

    def task(self) -> LogonTask:
        return LogonTask(self._schtasks)

    def access_lists(self):
        return self

    def access_list(self, path: str) -> AccessList:
        owner = self.owners.get(path, ("S-1-5-18", "SYSTEM"))
        return AccessList(*owner, self.entries)

    def base_python(self) -> Path:
        return Path(r"C:\Program Files\scopewatch\python.exe")

    def _schtasks(self, words, timeout_seconds) -> tuple[int, str]:
        self.schtasks.append(tuple(words))
        if words[1] == "/Create":
            self.tasks.add(words[3])
        elif words[1] == "/Delete":
            self.tasks.remove(words[3])
        return (0 if words[1] != "/Query" or words[3] in self.tasks else 1), ""


@pytest.fixture
def pc(tmp_path, monkeypatch):
    """A PC whose configuration and state lie in a folder."""
    monkeypatch.delenv("SCOPEWATCH_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home/state"))
    monkeypatch.setattr(windows_setup, "system_config_file", lambda: tmp_path / "scopewatch/agent.toml")
    monkeypatch.setattr(windows_setup, "system_state_folder", lambda: tmp_path / "scopewatch/state")
    monkeypatch.setattr(windows_setup, "user_config_file", lambda: tmp_path / "home/scopewatch/agent.toml")
    monkeypatch.setattr(windows_setup, "windowless", lambda python: str(python))
    (tmp_path / "scope").mkdir()
    return System()


def install(pc: System, folder: Path, **keys: object) -> list[str]:
    return list(windows_setup.install(InstallRequest((folder,), **keys), pc))


def refused(pc: System, *folders: Path, **keys: object) -> str:
    with pytest.raises(ServiceRefused) as error:
        list(windows_setup.install(InstallRequest(folders, **keys), pc))
    return str(error.value)


def test_a_service_of_the_system(pc, tmp_path):
    lines = install(pc, tmp_path / "scope")
    (created,) = pc.windows.named("CreateService")
    program = str(Path(windows_setup.__file__).parent).replace("/", "\\") + "\\windows_service.py"
    assert created[7] == (
        rf'"C:\Program Files\scopewatch\python.exe" -I "{program}" "{tmp_path / "scopewatch/agent.toml"}"'
    )
    assert created[11:] == (r"NT AUTHORITY\LocalService", "")
    told = "\n".join(lines)
    assert "not verified on Windows" in lines[0]
    assert rf'icacls "{tmp_path / "scope"}" /grant "NT SERVICE\scopewatch:(OI)(CI)M"' in told
    assert f"only administrators and the service can change {tmp_path / 'scopewatch'}" in told
    assert "running        ready after" in told
    assert pc.asked_for == []


def test_installed_again_it_is_started_anew(pc, tmp_path):
    install(pc, tmp_path / "scope")
    assert "running        ready after" in "\n".join(install(pc, tmp_path / "scope"))
    called = [
        name
        for name, *_ in pc.windows.calls
        if name in ("ChangeServiceConfig", "ControlService", "StartService")
    ]
    assert called[-3:] == ["ChangeServiceConfig", "ControlService", "StartService"]


def test_configuration_and_state_are_closed_to_ordinary_users(pc, tmp_path):
    install(pc, tmp_path / "scope")

    data, state = str(tmp_path / "scopewatch"), str(tmp_path / "scopewatch/state")
    assert [words[:3] for words in pc.ran] == [
        ("icacls", data, "/setowner"),
        ("icacls", data, "/inheritance:r"),
        ("icacls", state, "/reset"),
        ("icacls", state, "/grant"),
    ]
    assert "*S-1-5-32-545:(OI)(CI)RX" in pc.ran[1]
    assert pc.ran[3][3] == r"NT SERVICE\scopewatch:(OI)(CI)M"


def test_a_folder_that_cannot_be_closed_is_no_place_for_a_service(pc, tmp_path):
    pc.code = 5
    with pytest.raises(ServiceFailed, match=r"ended with 5: Access is denied\.; nothing was started"):
        install(pc, tmp_path / "scope")
    assert pc.windows.named("StartService") == []


def test_a_configuration_that_others_can_change_is_refused(pc, tmp_path):
    install(pc, tmp_path / "scope", start=False)
    pc.entries = (USERS_MODIFY,)
    text = refused(pc)
    assert "agent.toml: BUILTIN\\Users can change it" in text
    assert "save it anew as administrator" in text


def test_a_state_folder_that_an_ordinary_user_made_is_refused(pc, tmp_path):
    state = tmp_path / "scopewatch/state"
    state.mkdir(parents=True)
    pc.owners[str(PureWindowsPath(state))] = ("S-1-5-21-1-2-3-1001", r"LAB\mallory")
    text = refused(pc, tmp_path / "scope")
    assert r"belongs to LAB\mallory, who may have put a model or a journal there; move it away" in text
    assert pc.ran == []


def test_a_named_account_is_asked_for_its_password_and_gets_the_right_to_log_on(pc, tmp_path):
    lines = install(pc, tmp_path / "scope", account=r"LAB\scope")
    assert pc.asked_for == [r"LAB\scope"]
    assert pc.windows.named("CreateService")[0][11:] == (r"LAB\scope", "secret")
    assert pc.windows.named("LsaAddAccountRights")[0][2] == ("SeServiceLogonRight",)
    assert "secret" not in "\n".join(lines)


def test_a_named_account_stays_through_an_upgrade_without_its_password(pc, tmp_path):
    install(pc, tmp_path / "scope", account=r"LAB\scope")
    lines = install(pc, tmp_path / "scope")
    assert r"account        LAB\scope: as before" in lines
    assert pc.asked_for == [r"LAB\scope"]
    assert pc.windows.named("ChangeServiceConfig")[0][8:10] == (None, None)
    assert len(pc.windows.named("LsaAddAccountRights")) == 1


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        pytest.param(False, r'"C:\Program Files\scopewatch\python.exe" -I', id="service"),
        pytest.param(True, "<LogonTrigger>", id="task"),
    ],
)
def test_a_preview_changes_nothing(pc, tmp_path, own, seen):
    lines = list(windows_setup.preview(InstallRequest((tmp_path / "scope",), own=own), pc))
    assert seen in "\n".join(lines)
    assert pc.windows.named("CreateService") == []
    assert (pc.ran, pc.schtasks) == ([], [])
    assert not (tmp_path / "scopewatch").exists()


def test_a_task_without_an_administrator(pc, tmp_path):
    pc.administrator = False
    lines = install(pc, tmp_path / "scope", own=True)
    assert [words[1] for words in pc.schtasks if words[1] != "/Query"] == ["/Create", "/End", "/Run"]
    assert pc.windows.named("CreateService") == []
    assert any(r"LAB\em: you, without an administrator" in line for line in lines)


def test_without_an_administrator_no_service(pc, tmp_path):
    pc.administrator = False
    assert "edge-agent service install --user" in refused(pc, tmp_path / "scope")


def test_a_python_that_users_can_replace_runs_no_service(pc, tmp_path):
    pc.entries = (USERS_MODIFY,)
    said = refused(pc, tmp_path / "scope").splitlines()[0]
    assert said == (
        r"C:\Program Files\scopewatch: BUILTIN\Users can change it, and with it what the service does; "
        r"install below C:\Program Files"
    )
    assert pc.windows.named("CreateService") == []
    assert not (tmp_path / "scopewatch").exists()


def plan(folder: str, account: str) -> ServicePlan:
    return ServicePlan(
        Path(r"C:\c\agent.toml"),
        AgentConfig.model_construct(folders=(folder,), output=None, state=Path(r"C:\c\state")),
        Account(account, "a test"),
        False,
        Path(r"C:\p\python.exe"),
        Path(r"C:\p"),
    )


@pytest.mark.parametrize(
    ("folder", "account", "said"),
    [
        pytest.param(r"Z:\2026", r"LAB\em", r"write \\nas\titan\2026", id="mapped drive"),
        pytest.param(
            r"\\nas\titan", r"NT AUTHORITY\LocalService", "LocalService is nobody on a server", id="share"
        ),
        pytest.param(r"\\nas\titan", r"LAB\em", None, id="share with a named account"),
        pytest.param(r"D:\data", r"NT AUTHORITY\LocalService", None, id="disk"),
    ],
)
def test_folders_that_a_service_would_not_find(pc, folder, account, said):
    pc.drives = {"Z:": r"\\nas\titan"}
    if said is None:
        windows_setup._refuse_what_cannot_work(plan(folder, account), pc)
        return
    with pytest.raises(ServiceRefused) as error:
        windows_setup._refuse_what_cannot_work(plan(folder, account), pc)
    assert said in str(error.value)


def test_a_mapped_drive_is_no_obstacle_for_a_task(pc):
    pc.drives = {"Z:": r"\\nas\titan"}
    case = plan(r"Z:\2026", r"LAB\em")
    own = ServicePlan(case.config_file, case.config, case.account, True, Path(__file__), case.package)
    with pytest.raises(ServiceRefused, match="Z:"):
        windows_setup._refuse_what_cannot_work(case, pc)
    assert windows_setup._refuse_what_cannot_work(own, pc) is None


@pytest.mark.parametrize("own", [False, True], ids=["service", "task"])
@pytest.mark.parametrize("everything", [False, True], ids=["plain", "purge"])
def test_uninstalling(pc, tmp_path, own, everything):
    install(pc, tmp_path / "scope", own=own)
    state = tmp_path / ("home/state/scopewatch" if own else "scopewatch/state")
    with sole_agent(state, []):
        pass
    (tmp_path / "scope/a.dm3.json").touch()

    lines = list(windows_setup.uninstall(own=None, everything=everything, system=pc))

    assert pc.windows.service is None
    assert pc.tasks == set()
    assert (tmp_path / "scope/a.dm3.json").exists()
    assert state.exists() is not everything
    assert lines[-1].startswith("kept")
    with pytest.raises(ServiceFailed, match="no service is installed"):
        list(windows_setup.stop(own=None, system=pc))


def test_uninstalling_with_a_configuration_that_cannot_be_read_any_more_removes_no_results(pc, tmp_path):
    install(pc, tmp_path / "scope")
    file = tmp_path / "scopewatch/agent.toml"
    file.write_text("folders = [")
    with pytest.raises(ServiceFailed, match="cannot be told which results to keep"):
        list(windows_setup.uninstall(own=None, everything=True, system=pc))
    assert pc.windows.service is None
    assert file.exists()


def test_a_configuration_elsewhere_leaves_the_state_where_it_belongs(pc, tmp_path):
    file = tmp_path / "ours.toml"
    file.write_text(f"folders = ['{tmp_path / 'scope'}']\n")
    list(windows_setup.install(InstallRequest((), file), pc))
    lines = list(windows_setup.uninstall(own=None, everything=False, system=pc))
    assert lines[-1].startswith(f"kept           {file}, {tmp_path / 'scopewatch/state'};")


def test_status_without_an_answer_of_the_agent_is_not_well(pc, tmp_path):
    install(pc, tmp_path / "scope")
    report = windows_setup.report(own=None, system=pc)
    assert report.lines[0] == "service       running, process 77, last code 0"
    assert (report.active, report.numbers) == (False, None)


def test_every_path_of_the_command_is_in_quotes():
    words = windows_setup.service_command(plan(r"D:\data", "x"), Path(r"C:\Program Files\py\python.exe"))
    assert words == (
        r'"C:\Program Files\py\python.exe" -I "C:\p\edge_agent\deploy\windows_service.py" "C:\c\agent.toml"'
    )
    assert windows_setup._config_of(words) == Path(r"C:\c\agent.toml")
    assert windows_setup._config_of(None) is None
