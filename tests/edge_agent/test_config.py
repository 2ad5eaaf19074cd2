"""One TOML file, checked whole; an error names the file, the key and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.config import AgentConfig, ConfigRefused, configure, state_folder


def test_the_defaults_watch_nothing_and_keep_state_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_STATE", str(tmp_path / "here"))

    config = configure()

    assert config.folders == ()
    assert config.include == ("*.dm3", "*.dm4")
    assert (config.quiet_seconds, config.snapshot_limit_mib, config.output, config.model) == (
        1.0,
        512,
        None,
        None,
    )
    assert config.state == tmp_path / "here"


def test_without_the_variable_state_is_kept_in_the_users_state_folder(monkeypatch):
    monkeypatch.delenv("SCOPEWATCH_STATE")

    assert state_folder().name == "scopewatch"
    assert state_folder().is_absolute()


def test_a_file_is_read_with_paths_relative_to_it(tmp_path):
    (tmp_path / "bundle").mkdir()
    file = tmp_path / "agent.toml"
    file.write_text(
        'folders = ["data/today", "/mnt/scope"]\noutput = "out"\nstate = "state"\nmodel = "bundle"\n'
        'include = ["*.dm3", "*.tif"]\nquiet_seconds = 3\n'
    )

    config = configure(file)

    assert config.folders == (tmp_path / "data/today", Path("/mnt/scope"))
    assert config.output == tmp_path / "out"
    assert config.state == tmp_path / "state"
    assert config.model == str(tmp_path / "bundle")
    assert config.include == ("*.dm3", "*.tif")
    assert config.quiet_seconds == 3.0


def test_the_command_line_is_laid_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "agent.toml"
    file.write_text('folders = ["a"]\nmodel = "one"\nscan_seconds = 5\n')

    config = configure(file, folders=(Path("b"), Path("b")), model="two", output=None)

    assert config.folders == (tmp_path / "b",)
    assert (config.model, config.output, config.scan_seconds) == ("two", None, 5.0)


def test_a_byte_order_mark_of_windows_editors_is_no_error(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_bytes(b"\xef\xbb\xbfquiet_seconds = 2\n")

    assert configure(file).quiet_seconds == 2.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("quiet = 1\n", "quiet: there is no such key", id="unknown key"),
        pytest.param(
            "quiet_seconds = 0\n",
            "quiet_seconds: Input should be greater than or equal to 0.05",
            id="too small",
        ),
        pytest.param(
            'folders = "data"\n', "folders: Input should be a valid tuple", id="a string for a list"
        ),
        pytest.param("folders = [1]\n", "folders.0: Input is not a valid path", id="a number for a path"),
        pytest.param(
            "include = []\n", 'include: must name at least one pattern, for example "*.dm3"', id="no pattern"
        ),
        pytest.param(
            'include = ["a/*.dm3"]\n',
            "include: 'a/*.dm3' is no pattern of file names (give no folder in it)",
            id="a folder in a pattern",
        ),
        pytest.param("state = 3\n", "state: Input is not a valid path", id="a number for the state folder"),
        pytest.param('a = "\n', "is not valid TOML: ", id="no TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(tmp_path, text, complaint):
    file = tmp_path / "agent.toml"
    file.write_text(text)

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value).startswith(f"{file}: {complaint}")


def test_every_wrong_key_is_named_at_once(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("a = 1\nb = 2\n")

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value).splitlines() == [
        f"{file}: a: there is no such key",
        f"{file}: b: there is no such key",
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
        pytest.param(b"a = '\xff'\n", "is not UTF-8 text; save it as UTF-8", id="another encoding"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, complaint):
    file = tmp_path / "agent.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value) == f"{file}: {complaint}"


def test_a_configuration_never_changes():
    with pytest.raises(ValidationError):
        AgentConfig().quiet_seconds = 2.0
