"""Who the service runs as, and what is said before it could fail for lack of a right."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig
from edge_agent.deploy import service_account
from edge_agent.deploy.service_account import account_for, objections
from edge_agent.deploy.service_plan import Account, ServicePlan, ServiceRefused
from edge_agent.deploy.systemd_unit import SYSTEM_STATE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="accounts of POSIX")
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="asking as another account needs root"
)
NOBODY = "nobody"


def config(folder: Path, **keys: object) -> AgentConfig:
    return AgentConfig(folders=(folder,), state=SYSTEM_STATE, **keys)


@pytest.fixture
def code(tmp_path):
    """An installation that everybody may read and only its owner change."""
    folder = tmp_path / "opt"
    (folder / "edge_agent").mkdir(parents=True)
    (folder / "python").symlink_to("/usr/bin/env")
    return folder


def plan(code: Path, settings: AgentConfig, account: str | None, *, own: bool = False) -> ServicePlan:
    return ServicePlan(code / "agent.toml", settings, Account(account, "a test"), own, code / "python", code)


def refused(settings: AgentConfig, asked: str | None = None) -> str:
    with pytest.raises(ServiceRefused) as error:
        account_for(settings, asked)
    return str(error.value)


@needs_root
def test_whoever_owns_the_first_folder_runs_the_service(tmp_path):
    uid = pwd.getpwnam(NOBODY).pw_uid
    os.chown(tmp_path, uid, -1)
    assert account_for(config(tmp_path), None) == Account(NOBODY, f"it owns {tmp_path}")


@needs_root
def test_a_folder_of_root_needs_a_name(tmp_path):
    assert refused(config(tmp_path)) == (
        f"{tmp_path} belongs to root, and the service does not run as root; name the account that saves "
        "micrographs with --account NAME"
    )


@needs_root
def test_an_owner_whom_the_pc_does_not_know_needs_a_name(tmp_path):
    os.chown(tmp_path, 4_000_000, -1)
    assert "belongs to user number 4000000, whom this PC does not know" in refused(config(tmp_path))


def test_a_folder_that_is_not_there_has_no_owner(tmp_path):
    assert "so its owner cannot be told" in refused(config(tmp_path / "later"))


def test_results_in_the_state_folder_need_no_account(tmp_path):
    assert account_for(config(tmp_path, output=SYSTEM_STATE / "results"), None).name is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [("nobody-of-that-name", "this PC knows no such account"), ("root", "that is root")],
)
def test_accounts_that_are_refused(tmp_path, asked, said):
    assert said in refused(config(tmp_path), asked)


@pytest.mark.parametrize(
    ("denied", "said"),
    [
        pytest.param(("-w", "scope"), "nobody may not write there, and results lie beside", id="write"),
        pytest.param(("-r", "scope"), "nobody may not read it; grant that", id="read"),
        pytest.param(("-x", "scope"), "nobody may not read it; grant that", id="enter"),
        pytest.param(("-x", "python"), "install where everybody may", id="run the interpreter"),
        pytest.param(("-r", "edge_agent"), "install where everybody may", id="read the code"),
        pytest.param(("-r", "agent.toml"), "chmod a+r", id="read the configuration"),
    ],
)
def test_a_right_that_is_missing(tmp_path, code, monkeypatch, denied, said):
    monkeypatch.setattr(service_account, "_changeable", lambda path, trusted, what: iter(()))
    (tmp_path / "scope").mkdir()
    (code / "agent.toml").touch()
    case = plan(code, config(tmp_path / "scope"), NOBODY)
    lines = list(objections(case, lambda flag, path: (flag, path.name) != denied))
    assert len(lines) == 1
    assert said in lines[0]


def test_a_folder_that_is_to_come_is_refused_only_where_the_unit_cannot_open_its_parent(code, tmp_path):
    missing = plan(code, config(Path("/var/not-there-yet")), None, own=False)
    later = plan(code, config(tmp_path / "later"), None, own=False)
    said = [line for line in objections(missing, lambda flag, path: True) if "make it first" in line]
    assert said == [
        "/var/not-there-yet: is not there; make it first: the service may write only to what is there when it "
        "starts"
    ]
    assert not [line for line in objections(later, lambda flag, path: True) if "make it first" in line]


@pytest.mark.parametrize(
    ("is_there", "may_write", "said"),
    [
        pytest.param(True, True, False, id="there, and writable"),
        pytest.param(True, False, True, id="there, and of others"),
        pytest.param(False, True, True, id="not there"),
    ],
)
def test_a_state_folder_of_ones_own_choice_has_to_be_there(code, tmp_path, is_there, may_write, said):
    (tmp_path / "scope").mkdir()
    state = tmp_path / "state"
    if is_there:
        state.mkdir()
    settings = AgentConfig(folders=(tmp_path / "scope",), state=state)
    lines = objections(
        plan(code, settings, None), lambda flag, path: may_write or (flag, path) != ("-w", state)
    )
    assert any("leave `state` out of the configuration" in line for line in lines) is said


@needs_root
def test_code_that_another_may_change_is_refused(code, tmp_path):
    os.chown(code, pwd.getpwnam("daemon").pw_uid, -1)
    (tmp_path / "scope").mkdir()
    lines = list(objections(plan(code, config(tmp_path / "scope"), NOBODY), lambda flag, path: True))
    assert set(lines) == {
        f"{code}: user daemon can change what the service runs; install it as root, for example in /opt",
        f"{code}: user daemon can change what the service goes by; look through {code / 'agent.toml'}, then "
        "keep it as root, as in /etc/scopewatch",
    }


@needs_root
def test_a_configuration_that_another_may_change_is_refused(code, tmp_path):
    (tmp_path / "scope").mkdir()
    case = plan(code, config(tmp_path / "scope"), NOBODY)
    case.config_file.touch()
    case.config_file.chmod(0o666)
    assert list(objections(case, lambda flag, path: True)) == [
        f"{case.config_file}: everybody can change what the service goes by; look through {case.config_file}, then "
        "keep it as root, as in /etc/scopewatch"
    ]


@needs_root
def test_the_system_is_asked_as_the_account(code, tmp_path):
    """No fake: `test` runs as nobody, who may not enter a folder of mode 700."""
    (tmp_path / "scope").mkdir(mode=0o700)
    lines = list(objections(plan(code, config(tmp_path / "scope"), NOBODY)))
    assert any(line.startswith(f"{tmp_path / 'scope'}: nobody may not read it") for line in lines)
    own = list(objections(plan(Path(sys.prefix), config(tmp_path / "scope"), None, own=True)))
    assert not [line for line in own if "scope" in line]
