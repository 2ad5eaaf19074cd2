"""The group `config` as a person meets it, and which file holds when none is named."""

from __future__ import annotations

import json
import sys

import pytest

from edge_agent import cli
from edge_agent.configuring import places


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; give its exit code and what it printed."""
    monkeypatch.setattr(cli, "log_to_terminal", lambda *, verbose: None)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["edge-agent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return command


@pytest.fixture
def usual_file(tmp_path, monkeypatch):
    """The user's configuration, which is not there yet."""
    if sys.platform != "linux":
        pytest.skip("the variable that moves it is Linux's")
    monkeypatch.delenv("SCOPEWATCH_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "scopewatch" / "agent.toml"
    assert places.user_config_file() == file
    monkeypatch.setattr(places, "system_config_file", lambda: tmp_path / "system" / "agent.toml")
    file.parent.mkdir()
    return file


def test_init_writes_a_file_that_show_and_check_take(run, tmp_path):
    file = tmp_path / "agent.toml"

    code, out, _ = run("config", "init", file, "--folder", tmp_path / "scope")
    assert code == 0
    assert out.splitlines()[0].startswith(f"{file}: every key with its default")

    assert run("config", "check", file)[:2] == (
        0,
        f"{file}: can be used; other than the defaults: folders, state\n",
    )
    code, out, err = run("config", "show", "--config", file)
    assert (code, err) == (0, f"configuration {file}\n")
    assert out.splitlines()[0].split() == ["folders", "=", f'["{tmp_path}/scope"]', "#", f"{file}:13"]


def test_init_refuses_what_is_there_and_what_cannot_be_watched(run, tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("mine")

    assert run("config", "init", file) == (
        2,
        "",
        f"edge-agent: {file}: is there already; edit it, or replace it with --force\n",
    )
    assert file.read_text() == "mine"
    code, _, err = run("config", "init", tmp_path / "b.toml", "--folder", "a", "--folder", "a/b")
    assert (code, "which is watched with everything below it" in err) == (2, True)
    assert not (tmp_path / "b.toml").exists()


def test_show_says_where_each_value_comes_from(run, tmp_path, monkeypatch):
    file = tmp_path / "agent.toml"
    file.write_text("quiet_seconds = 2\n\n[instrument.pixel_size_nm]\n40000 = 0.25\n")
    monkeypatch.setenv("SCOPEWATCH_MODEL", "m")

    code, out, _ = run("config", "show", "--config", file, "--json")

    shown = json.loads(out)
    assert code == 0
    assert shown["file"] == str(file)
    assert shown["values"]["quiet_seconds"] == 2.0
    assert shown["values"]["instrument"]["pixel_size_nm"] == {"40000": 0.25}
    assert {key: shown["origins"][key] for key in ("quiet_seconds", "model", "heatmap")} == {
        "quiet_seconds": f"{file}:1",
        "model": "environment SCOPEWATCH_MODEL",
        "heatmap": "default",
    }

    lines = run("config", "show", "--config", file)[1].splitlines()
    assert len(lines) == len(shown["origins"])
    assert len({line.index(" = ") for line in lines}) == 1
    assert 'instrument.pixel_size_nm = {"40000" = 0.25}' in " ".join(lines[-4].split())


def test_show_and_check_name_every_fault(run, tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("a = 1\nheatmap = 7\n[page]\nprot = 1\n")
    complaints = [
        f"edge-agent: {file}:2: heatmap: is 7, must be true or false",
        f"edge-agent: {file}:4: page.prot: there is no such key in [page]; did you mean page.port?",
        f"edge-agent: {file}:1: a: there is no such key",
    ]

    for arguments in (("show", "--config", file), ("check", file)):
        code, out, err = run("config", *arguments)
        assert (code, out) == (2, "")
        assert sorted(err.splitlines()) == sorted(complaints)


def test_the_users_file_holds_when_none_is_named(run, usual_file, tmp_path):
    code, _, err = run("config", "show")
    assert code == 0
    assert err.startswith(
        f"no configuration file (neither {usual_file} nor /etc/scopewatch/agent.toml is there)"
    )
    assert run("config", "check")[0] == 2

    usual_file.write_text(f'folders = ["{tmp_path}/gone"]\nmodel = "nope"\nstate = "state"\n')
    assert run("config", "show")[2] == f"configuration {usual_file}\n"
    assert run("config", "check")[0] == 0
    assert run("tidy")[2].splitlines()[0] == f"configuration {usual_file}"
    code, _, err = run("watch")
    assert (code, err.splitlines()[:2]) == (
        2,
        [f"configuration {usual_file}", f"{tmp_path}/gone: is not there yet; watching for it to appear"],
    )
    assert run("status") == (
        1,
        "",
        f"edge-agent: no agent is running on the state folder {usual_file.parent}/state\n",
    )


def test_init_without_a_name_writes_the_users_file(run, usual_file):
    assert run("config", "init")[0] == 0
    assert usual_file.is_file()
    assert run("config", "show")[2] == f"configuration {usual_file}\n"


def test_status_is_told_whatever_a_half_edited_file_says(run, usual_file):
    usual_file.write_text('state = "state"\nheatmap = \n')

    code, _, err = run("status")
    assert (code, err) == (
        1,
        f"edge-agent: no agent is running on the state folder {usual_file.parent}/state\n",
    )
    assert run("watch")[0] == 2
