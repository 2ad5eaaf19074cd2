"""Installing under systemd: what is written, asked, told and refused. The manager is a stand-in."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest
from systemd_stand_in import FakeSystemd

from edge_agent.deploy import linux_service, service_account
from edge_agent.deploy.service_plan import InstallRequest, ServiceFailed, ServiceRefused
from edge_agent.deploy.systemd_service import Answer, SystemdService
from edge_agent.deploy.systemd_unit import installed_note
from edge_agent.status import sole_agent

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="systemd")
ME = pwd.getpwuid(os.getuid()).pw_name


class Pc:
    """A PC in a folder: units of the system and of a person, a manager, folders of micrographs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.system, self.person = FakeSystemd(), FakeSystemd()
        self.units = {own: folder / ("own-units" if own else "units") for own in (False, True)}
        self.booted = folder / "booted"
        self.booted.mkdir()
        self.state, self.etc = folder / "var/scopewatch", folder / "etc/scopewatch"
        self.scope = folder / "scope"
        self.scope.mkdir()
        monkeypatch.delenv("SCOPEWATCH_STATE")
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "home/state"))
        monkeypatch.setattr(linux_service, "SystemdService", self.service)
        monkeypatch.setattr(linux_service, "SYSTEM_STATE", self.state)
        monkeypatch.setattr(linux_service, "system_config_file", lambda: self.etc / "agent.toml")
        monkeypatch.setattr(linux_service, "user_config_file", lambda: folder / "home/scopewatch/agent.toml")
        monkeypatch.setattr(linux_service, "account_for", lambda config, asked: self.account(asked))
        monkeypatch.setattr(linux_service, "objections", lambda plan: iter(self.objections))
        monkeypatch.setattr(linux_service, "lingers", lambda name: False)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        self.objections: list[str] = []

    def account(self, asked: str | None) -> linux_service.Account:
        return linux_service.Account(asked or "em", "it owns the folder", asked=asked is not None)

    def service(self, *, own: bool) -> SystemdService:
        run = self.person if own else self.system
        return SystemdService(own=own, run=run, units=self.units[own], booted=self.booted)

    def install(self, *folders: Path, **keys: object) -> list[str]:
        return list(linux_service.install(InstallRequest(folders, **keys)))


@pytest.fixture
def pc(tmp_path, monkeypatch):
    return Pc(tmp_path, monkeypatch)


def test_an_account_that_was_asked_for_stays_when_the_service_is_installed_again(pc):
    pc.install(pc.scope, account="lab")
    again = pc.install()
    other = pc.install(account="em")

    assert next(line for line in again if line.startswith("account")).split()[1] == "lab:"
    assert next(line for line in other if line.startswith("account")).split()[1] == "em:"


def test_an_account_that_was_not_asked_for_follows_the_folder(pc):
    pc.install(pc.scope)

    assert installed_note((pc.units[False] / "scopewatch.service").read_text())["asked_account"] is None


def test_a_preview_is_the_unit_that_would_be_installed_and_changes_nothing(pc):
    pc.objections = ["may not read it"]
    shown = list(linux_service.preview(InstallRequest((pc.scope,))))

    assert shown[0] == "# would be refused: may not read it"
    assert not (pc.units[False] / "scopewatch.service").exists()
    assert not pc.etc.exists()
    pc.objections = []
    pc.install(pc.scope)
    assert shown[1:] == (pc.units[False] / "scopewatch.service").read_text().splitlines()


def test_a_preview_where_no_systemd_runs_says_so_in_a_comment(pc):
    pc.booted.rmdir()
    shown = list(linux_service.preview(InstallRequest((pc.scope,))))

    assert shown[0].startswith("# no systemd runs here")
    assert "Type=notify" in shown


def test_a_first_installation(pc):
    lines = pc.install(pc.scope)

    assert pc.system.verbs == ["daemon-reload", "enable scopewatch.service", "reset-failed scopewatch.service",
                               "restart scopewatch.service"]  # fmt: skip
    text = (pc.units[False] / "scopewatch.service").read_text()
    assert installed_note(text)["config"] == str(pc.etc / "agent.toml")
    assert installed_note(text)["state"] == str(pc.state)
    assert f"folders = ['{pc.scope}']" in (pc.etc / "agent.toml").read_text().replace('"', "'")
    assert (pc.etc / "agent.toml").stat().st_mode & 0o777 == 0o644
    told = "\n".join(lines)
    for part in (f"{pc.etc / 'agent.toml'} (new)", "em: it owns", f"watches        {pc.scope}",
                 "beside the micrographs", str(pc.state), "ready after"):  # fmt: skip
        assert part in told


def test_a_second_installation_upgrades_the_unit_and_keeps_the_configuration(pc):
    pc.install(pc.scope)
    file, unit = pc.etc / "agent.toml", pc.units[False] / "scopewatch.service"
    file.write_text(file.read_text() + "\n# edited\n")
    unit.write_text(unit.read_text().replace('"version": "', '"version": "0.0.1+'))

    lines = pc.install()

    assert file.read_text().endswith("# edited\n")
    assert any("was 0.0.1+" in line for line in lines)
    assert "0.0.1+" not in unit.read_text()
    assert pc.system.verbs.count("restart scopewatch.service") == 2


def test_a_unit_that_is_as_it_should_be_is_not_written_again(pc):
    pc.install(pc.scope)
    pc.install(pc.scope)
    assert pc.system.verbs.count("daemon-reload") == 1


def test_for_oneself_without_an_administrator(pc, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    lines = pc.install(pc.scope, own=True)
    assert (pc.units[True] / "scopewatch.service").is_file()
    assert any(f"loginctl enable-linger {ME}" in line for line in lines)
    assert any(f"account        {ME}: you, without an administrator" in line for line in lines)


def test_not_started_when_told_so(pc):
    pc.install(pc.scope, start=False)
    assert "restart scopewatch.service" not in pc.system.verbs


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        pytest.param(lambda pc, mp: mp.setattr(os, "geteuid", lambda: 1000), "--user", id="not root"),
        pytest.param(lambda pc, mp: pc.booted.rmdir(), "no systemd runs here", id="no systemd"),
        pytest.param(
            lambda pc, mp: pc.system.refuses.update(show="Failed to connect to bus"),
            "systemd does not answer: Failed to connect to bus",
            id="a manager that does not answer",
        ),
        pytest.param(
            lambda pc, mp: pc.objections.append("/data: em may not write there"),
            "em may not write there",
            id="rights that are missing",
        ),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_left(pc, monkeypatch, break_it, said):
    break_it(pc, monkeypatch)
    with pytest.raises(ServiceRefused, match=said):
        pc.install(pc.scope)
    assert not pc.etc.exists()
    assert not any(folder.exists() for folder in pc.units.values())


def test_a_folder_that_no_unit_file_can_name_leaves_nothing_either(pc, tmp_path):
    folder = tmp_path / "two\nlines/scope"
    folder.mkdir(parents=True)
    with pytest.raises(ServiceRefused, match="rename the folder"):
        pc.install(folder)
    assert not pc.etc.exists()


def test_one_who_is_not_logged_in_is_told_how_his_own_manager_comes_to_run(pc):
    pc.person.refuses["show"] = "Failed to connect to bus: No such file or directory"
    with pytest.raises(ServiceRefused, match=f"sudo loginctl enable-linger {ME}"):
        pc.install(pc.scope, own=True)


def test_folders_that_contradict_the_configuration_are_refused(pc, tmp_path):
    pc.install(pc.scope)
    with pytest.raises(
        ServiceRefused, match=r"agent.toml: is there already and watches .*scope; set `folders`"
    ):
        pc.install(tmp_path / "other")


def test_a_start_that_fails_passes_on_the_last_words(pc):
    pc.system.refuses["restart"] = "Job failed"
    with pytest.raises(ServiceFailed, match="did not start: inactive") as error:
        pc.install(pc.scope)
    assert "  its last words" in str(error.value)

    pc.system.shown["ActiveState"] = "activating"
    with pytest.raises(ServiceFailed, match="did not start, and is started again by itself: activating"):
        list(linux_service.start(own=None))


def test_a_start_beside_an_agent_in_a_terminal_is_refused(pc):
    pc.install(pc.scope, start=False)
    with sole_agent(pc.state, []), pytest.raises(ServiceFailed, match="another agent holds"):
        list(linux_service.start(own=None))


@pytest.mark.parametrize("word", ["active", "reloading", "activating", "deactivating"])
def test_the_service_itself_is_no_other_agent(pc, word):
    pc.install(pc.scope, start=False)
    pc.system.shown |= {"ActiveState": word, "MainPID": "77"}
    with sole_agent(pc.state, []):
        assert "ready after" in "\n".join(linux_service.start(own=None))


def test_stop_and_start_wait_and_report(pc):
    pc.install(pc.scope)
    assert "stopped        in" in "\n".join(linux_service.stop(own=None))
    assert "ready after" in "\n".join(linux_service.start(own=None))
    assert pc.system.verbs[-3:] == [
        "stop scopewatch.service", "reset-failed scopewatch.service", "restart scopewatch.service",
    ]  # fmt: skip


def test_status_tells_the_managers_view_and_that_the_agent_is_silent(pc):
    pc.install(pc.scope)
    report = linux_service.report(own=None)
    assert (report.active, report.numbers) == (True, None)
    assert report.lines[0] == "service       active (running), process 77, starts by itself"


def test_status_names_folders_that_the_unit_does_not_open(pc, tmp_path):
    pc.install(pc.scope)
    (tmp_path / "elsewhere/new").mkdir(parents=True)
    file = pc.etc / "agent.toml"
    file.write_text(f"folders = ['{pc.scope}', '{tmp_path / 'elsewhere/new'}']\n")
    named = [line for line in linux_service.report(own=None).lines if line.startswith("NOT ALLOWED")]
    assert len(named) == 1
    assert f"{tmp_path / 'elsewhere'}: the unit does not let the agent write there" in named[0]


def test_a_folder_whose_name_is_the_beginning_of_another_is_not_taken_for_it(pc, tmp_path):
    longer, shorter = tmp_path / "titan 2/in", tmp_path / "titan/in"
    longer.mkdir(parents=True)
    shorter.mkdir(parents=True)
    pc.install(longer)
    (pc.etc / "agent.toml").write_text(f"folders = ['{longer}', '{shorter}']\n")
    named = [line for line in linux_service.report(own=None).lines if line.startswith("NOT ALLOWED")]
    assert [line.split(":")[0].split()[-1] for line in named] == [str(shorter.parent)]


@pytest.mark.parametrize("everything", [False, True], ids=["plain", "purge"])
def test_uninstalling(pc, everything):
    pc.install(pc.scope)
    with sole_agent(pc.state, []):
        (pc.state / "journal.sqlite3").touch()
    (pc.scope / "a.dm3.json").touch()

    lines = list(linux_service.uninstall(own=None, everything=everything))

    assert "disable --now scopewatch.service" in pc.system.verbs
    assert not (pc.units[False] / "scopewatch.service").exists()
    assert (pc.scope / "a.dm3.json").exists()
    assert pc.etc.exists() is pc.state.exists() is not everything
    assert lines[-1] == ("kept           sidecars, heatmaps and labels" if everything else lines[-1])
    with pytest.raises(ServiceFailed, match="no service is installed"):
        list(linux_service.uninstall(own=None, everything=False))


def test_a_unit_that_somebody_wrote_anew_keeps_purge_from_guessing(pc):
    pc.install(pc.scope)
    (pc.units[False] / "scopewatch.service").write_text("[Service]\nExecStart=/bin/true\n")
    lines = list(linux_service.uninstall(own=None, everything=True))
    assert lines[-1] == "kept           configuration and state: the unit did not say where they are"
    assert pc.etc.exists()


def test_a_broken_configuration_keeps_purge_from_guessing(pc):
    pc.install(pc.scope)
    (pc.etc / "agent.toml").write_text("folders = 3\n")
    with pytest.raises(ServiceFailed, match="cannot be told which results to keep"):
        list(linux_service.uninstall(own=None, everything=True))
    assert pc.etc.exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [("nobody-of-that-name", "this PC knows no such account"), ("root", "that is root")],
)
def test_accounts_that_are_refused(asked, said):
    with pytest.raises(ServiceRefused, match=said):
        service_account.account_for(None, asked)


def test_the_answer_of_a_command_that_is_not_there():
    from edge_agent.deploy.systemd_service import run_command

    with pytest.raises(ServiceFailed, match="no-such-command-anywhere: cannot be run"):
        run_command(("no-such-command-anywhere",), 5)
    assert run_command(("true",), 5) == Answer(0, "", "")
