"""The unit file holds what systemd is told, whatever the folders are called, and what it gives up is measured."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig, EventsConfig, PageConfig
from edge_agent.deploy.service_plan import Account, ServicePlan, ServiceRefused
from edge_agent.deploy.systemd_unit import SYSTEM_STATE, installed_note, quoted, unit_text, writable_roots

ANALYZE = shutil.which("systemd-analyze")


def plan(*folders: str, own: bool = False, account: str | None = "em", **keys: object) -> ServicePlan:
    keys = {"state": SYSTEM_STATE} | keys
    return ServicePlan(
        config_file=Path("/etc/scopewatch/agent.toml"),
        config=AgentConfig(folders=tuple(map(Path, folders or ("/data/scope",))), **keys),
        account=Account(account, "a test"),
        own=own,
        python=Path("/opt/scope watch/bin/python"),
        package=Path("/opt/scopewatch"),
    )


def values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def exposure(file: Path, text: str) -> float:
    file.write_text(text)
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", str(file)], capture_output=True, text=True
    )
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this PC")
@pytest.mark.parametrize(
    ("case", "most"),
    [
        pytest.param(plan(), 1.5, id="system unit"),
        pytest.param(plan("/home/em/data", "/tmp/data"), 1.5, id="folders in a home and in /tmp"),
        pytest.param(plan(events=EventsConfig(webhook_url="https://lims")), 1.5, id="with events"),
        pytest.param(
            plan(account=None, output=SYSTEM_STATE / "results"), 1.5, id="account made up by systemd"
        ),
        pytest.param(plan(own=True), 7.0, id="user unit, which cannot give up what only root has"),
    ],
)
def test_exposure_as_systemd_counts_it(tmp_path, case, most):
    assert exposure(tmp_path / "scopewatch.service", unit_text(case, 252)) <= most


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this PC")
@pytest.mark.parametrize("own", [False, True], ids=["system", "user"])
def test_systemd_understands_every_line(tmp_path, own):
    folder = tmp_path / 'my "scope" 100% $HOME \\ é'
    folder.mkdir()
    case = plan(str(folder), own=own)
    python = tmp_path / "py thon$1"
    python.symlink_to("/bin/true")
    case = ServicePlan(case.config_file, case.config, case.account, own, python, case.package)
    (tmp_path / "scopewatch.service").write_text(unit_text(case, 252).replace("User=em\n", ""))
    done = subprocess.run(
        [ANALYZE, *(["--user"] if own else []), "verify", str(tmp_path / "scopewatch.service")],
        capture_output=True,
        text=True,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    said = [line for line in done.stderr.splitlines() if "scopewatch.service" in line]
    assert said == []


def test_the_parts_that_the_agent_relies_on():
    text = unit_text(plan(), 252)
    assert values(text, "Type") == ["notify"]
    assert values(text, "ExecStart") == [
        '"/opt/scope watch/bin/python" "-P" "-m" "edge_agent" "watch" "--config" "/etc/scopewatch/agent.toml"'
    ]
    assert values(text, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert values(text, "User") == ["em"]
    assert values(text, "StateDirectory") == values(text, "ConfigurationDirectory") == ["scopewatch"]
    assert values(text, "WatchdogSec") == ["60"]
    assert values(text, "TimeoutStopSec") == ["15"]
    assert values(text, "MemoryMax") == ["5120M"]  # the worker's 4096 MiB, and the agent's own
    assert values(text, "ReadWritePaths") == ['"-/data/scope"']
    assert values(text, "WantedBy") == ["multi-user.target"]
    assert installed_note(text) == {
        "version": installed_note(text)["version"],
        "config": "/etc/scopewatch/agent.toml",
        "state": "/var/lib/scopewatch",
        "account": "em",
        "asked_account": None,
    }


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        pytest.param(252, ["15"], id="a fixed pause"),
        pytest.param(254, ["5"], id="a pause that grows"),
    ],
)
def test_restarts_without_end(version, lines):
    text = unit_text(plan(), version)
    assert values(text, "Restart") == ["on-failure"]
    assert values(text, "RestartSec") == lines
    assert bool(values(text, "RestartMaxDelaySec")) == (version >= 254)
    assert values(text, "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize(
    ("case", "home", "private_tmp"),
    [
        pytest.param(plan("/data/scope"), "yes", "yes", id="outside of both"),
        pytest.param(plan("/home/em/data"), "read-only", "yes", id="folder in a home"),
        pytest.param(plan(model="/root/models/own"), "read-only", "yes", id="model in a home"),
        pytest.param(plan("/data", output=Path("/var/tmp/out")), "yes", "no", id="output in /var/tmp"),
        pytest.param(plan("/tmp/scope"), "yes", "no", id="folder in /tmp"),
    ],
)
def test_nothing_is_hidden_that_the_agent_needs(case, home, private_tmp):
    text = unit_text(case, 252)
    assert (values(text, "ProtectHome"), values(text, "PrivateTmp")) == ([home], [private_tmp])


@pytest.mark.parametrize(
    ("folder", "root"),
    [
        pytest.param("/data/titan/2026", "/data/titan", id="its parent"),
        pytest.param("/data", "/data", id="the top of the disk is not opened"),
        pytest.param("/var/data", "/var/data", id="a folder of the system is not opened"),
        pytest.param("/home/em/data", "/home/em/data", id="a home is not opened"),
        pytest.param(
            "/home/em/data/titan", "/home/em/data/titan", id="nor is it for a folder that is not there"
        ),
    ],
)
def test_what_is_opened_for_writing(folder, root, monkeypatch):
    there = {"/data", "/data/titan", "/home", "/home/em", "/var", "/"}
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in there)
    assert writable_roots([Path(folder)]) == (Path(root),)


def test_network_is_loopback_unless_something_else_is_asked_for():
    assert values(unit_text(plan(), 252), "IPAddressDeny") == ["any"]
    with_events = unit_text(plan(events=EventsConfig(mqtt_url="mqtt://lims/x")), 252)
    assert values(with_events, "IPAddressDeny") == []
    page = PageConfig(listen="192.168.1.5", certificate="/etc/page.crt", private_key="/etc/page.key")
    assert values(unit_text(plan(page=page), 252), "IPAddressDeny") == []
    assert "[events] sends findings to another machine" in with_events


def test_a_user_unit_asks_for_nothing_that_needs_root():
    text = unit_text(plan(own=True), 252)
    for key in ("User", "DynamicUser", "ProtectSystem", "PrivateUsers", "StateDirectory", "ReadWritePaths"):
        assert values(text, key) == []
    assert values(text, "WantedBy") == ["default.target"]
    assert values(text, "NoNewPrivileges") == ["yes"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/a b", '"/a b"', id="space"),
        pytest.param('/a"b', r'"/a\"b"', id="quote"),
        pytest.param("/a\\b", r'"/a\\b"', id="backslash"),
        pytest.param("/100%", '"/100%%"', id="percent"),
        pytest.param("/é/显微镜", '"/é/显微镜"', id="unicode"),
    ],
)
def test_words_in_a_unit_file(text, expected):
    assert quoted(text) == expected


@pytest.mark.parametrize(
    "text", ["/a\nExecStart=/bin/sh", "/\udcff", "/a\tb"], ids=["line break", "no UTF-8", "tab"]
)
def test_names_that_no_unit_file_can_hold_are_refused(text):
    with pytest.raises(ServiceRefused, match="rename the folder"):
        quoted(text)


def test_a_variable_in_a_command_stays_text():
    case = plan()
    case = ServicePlan(Path("/etc/$HOME/a.toml"), case.config, case.account, False, case.python, case.package)
    assert values(unit_text(case, 252), "ExecStart")[0].endswith('"/etc/$$HOME/a.toml"')
