"""Where each value of a configuration comes from, what counts more, and what a broken file still tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent import config_file
from edge_agent.config import (
    AgentConfig,
    ConfigRefused,
    default_config_file,
    state_folder,
    system_config_file,
    system_state_folder,
    user_config_file,
)
from edge_agent.config_file import loaded, state_named
from edge_agent.configuring import places
from edge_agent.watching.volumes import Volume


@pytest.fixture
def file(tmp_path):
    return tmp_path / "agent.toml"


def test_without_a_file_everything_is_a_default_but_the_state_of_the_tests():
    found = loaded(None)

    assert found.config == AgentConfig()
    assert set(found.origins.values()) == {"default", "environment SCOPEWATCH_STATE"}
    assert found.origins["state"] == "environment SCOPEWATCH_STATE"
    assert found.file is None


def test_every_key_has_an_origin(file, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_MODEL", "other")
    file.write_text('quiet_seconds = 2\nmodel = "m"\nscan_seconds = 5\n\n[page]\nport = 0\n\n[instrument]\n')

    origins = loaded(file, {"scan_seconds": 7.0, "output": None}).origins

    assert origins.keys() >= {"folders", "page.enabled", "instrument.pixel_size_nm", "retention.log_mib"}
    assert {key: origin for key, origin in origins.items() if origin != "default"} == {
        "quiet_seconds": f"{file}:1",
        "model": "environment SCOPEWATCH_MODEL",
        "scan_seconds": "command line",
        "page.port": f"{file}:6",
        "state": "environment SCOPEWATCH_STATE",
    }


@pytest.mark.parametrize(
    ("in_file", "variable", "option", "model", "origin"),
    [
        pytest.param(None, None, None, None, "default", id="nobody"),
        pytest.param("f", None, None, "f", "FILE:1", id="the file"),
        pytest.param("f", "e", None, "e", "environment SCOPEWATCH_MODEL", id="the environment over the file"),
        pytest.param("f", "e", "o", "o", "command line", id="the command line over both"),
        pytest.param(
            "f", "e", "e", "e", "environment SCOPEWATCH_MODEL", id="the variable by way of the option"
        ),
        pytest.param("f", "", None, "f", "FILE:1", id="an empty variable is none"),
    ],
)
def test_what_counts_more(file, monkeypatch, in_file, variable, option, model, origin):
    file.write_text("" if in_file is None else f'model = "{in_file}"\n')
    if variable is not None:
        monkeypatch.setenv("SCOPEWATCH_MODEL", variable)

    found = loaded(file, {"model": option})

    assert found.config.model == model
    assert found.origins["model"] == origin.replace("FILE", str(file))


def test_the_file_names_the_state_before_the_environment_does(file, tmp_path):
    file.write_text('state = "here"\n')

    assert loaded(file).config.state == tmp_path / "here"
    assert loaded(file).origins["state"] == f"{file}:1"


def test_a_fault_of_the_command_line_is_not_the_files(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file.write_text("heatmap = 7\n")

    with pytest.raises(ConfigRefused) as refused:
        loaded(file, {"folders": (Path("a"), Path("a/b"))})

    assert str(refused.value).splitlines() == [
        f"command line: folders: {tmp_path}/a/b lies in {tmp_path}/a, which is watched with everything below it",
        f"{file}:1: heatmap: is 7, must be true or false",
    ]


SHARE = "lies on a network share; the journal and its locks need a local disk"


def test_a_state_folder_on_a_share_is_refused_where_somebody_chose_it(file, tmp_path, monkeypatch):
    monkeypatch.setattr(config_file, "volume_of", lambda folder: Volume(is_share=True))
    assert loaded(None).config.state == state_folder()

    file.write_text('\nstate = "here"\n')
    with pytest.raises(ConfigRefused) as refused:
        loaded(file)
    assert str(refused.value) == f"{file}:2: state: {tmp_path}/here {SHARE}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('state = "here"\nheatmap = 7\n', id="another key is wrong"),
        pytest.param('state = "here"\nheatmap = \n', id="another line is no TOML"),
        pytest.param('# half\n  state = "here"  # mine\nfolders = ["', id="cut off"),
    ],
)
def test_a_broken_file_still_says_where_the_running_agent_keeps_its_state(file, tmp_path, text):
    file.write_text(text)

    with pytest.raises(ConfigRefused):
        loaded(file)
    assert state_named(file) == tmp_path / "here"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('state = "\n', id="its own line is broken"),
        pytest.param("heatmap = \n[page]\nstate = 'here'\n", id="another table's"),
        pytest.param("state = 3\n", id="no path"),
        pytest.param("", id="nothing"),
    ],
)
def test_where_it_says_nothing_the_usual_state_folder_is_asked(file, text):
    file.write_text(text)
    assert state_named(file) == state_folder()


def test_a_file_that_is_not_there_names_no_state(file):
    with pytest.raises(ConfigRefused, match="cannot be read"):
        state_named(file)


@pytest.fixture
def usual_places(tmp_path, monkeypatch):
    """Neither this person's nor this PC's configuration."""
    monkeypatch.delenv("SCOPEWATCH_CONFIG")
    monkeypatch.setattr(places, "user_config_file", lambda: tmp_path / "user" / "agent.toml")
    monkeypatch.setattr(places, "system_config_file", lambda: tmp_path / "system" / "agent.toml")
    for name in ("user", "system"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_the_users_file_is_found_before_the_systems_and_none_where_there_is_none(usual_places, monkeypatch):
    assert default_config_file() is None

    (usual_places / "system" / "agent.toml").touch()
    assert default_config_file() == usual_places / "system" / "agent.toml"

    (usual_places / "user" / "agent.toml").touch()
    assert default_config_file() == usual_places / "user" / "agent.toml"

    monkeypatch.chdir(usual_places)
    monkeypatch.setenv("SCOPEWATCH_CONFIG", "other.toml")
    assert default_config_file() == usual_places / "other.toml"

    monkeypatch.setenv("SCOPEWATCH_CONFIG", "")
    assert default_config_file() is None


def test_a_folder_that_may_not_be_entered_holds_no_configuration(usual_places, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert default_config_file() is None


@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_the_usual_places():
    assert user_config_file().name == "agent.toml"
    assert user_config_file().parent.name == "scopewatch"
    assert system_config_file() == Path("/etc/scopewatch/agent.toml")
    assert system_state_folder() == Path("/var/lib/scopewatch")


def test_the_usual_places_of_windows(monkeypatch):
    monkeypatch.setenv("PROGRAMDATA", "D:/PD")
    assert system_config_file("win32") == Path("D:/PD") / "scopewatch" / "agent.toml"
    assert system_state_folder("win32") == Path("D:/PD") / "scopewatch" / "state"


def test_the_systems_configuration_keeps_the_systems_state(file, tmp_path, monkeypatch):
    monkeypatch.setattr(config_file, "system_config_file", lambda: file)
    monkeypatch.setattr(config_file, "system_state_folder", lambda: tmp_path / "var")
    file.write_text("heatmap = true\n")
    assert loaded(file).config.state == state_folder()

    monkeypatch.delenv("SCOPEWATCH_STATE")
    assert loaded(file).config.state == tmp_path / "var"
    assert loaded(file).origins["state"] == "default"
    assert loaded(None).config.state == state_folder()
