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
        pytest.param("table = 1\n", "1: table: there is no such key", id="unknown key"),
        pytest.param(
            "quiet = 1\n", "1: quiet: there is no such key; did you mean quiet_seconds?", id="half a key"
        ),
        pytest.param(
            "\nqiet_seconds = 1\n",
            "2: qiet_seconds: there is no such key; did you mean quiet_seconds?",
            id="a key that is nearly one",
        ),
        pytest.param(
            "[page]\n\nprot = 1\n", "3: page.prot: there is no such key in [page]; did you mean page.port?",
            id="nearly one of a table",
        ),
        pytest.param(
            "[page]\nheatmap = true\n",
            "2: page.heatmap: there is no such key in [page]; heatmap belongs above the first [table] of the file",
            id="a key of the file below a table",
        ),
        pytest.param(
            "port = 1\n", "1: port: there is no such key; port belongs below [page]", id="a key of a table above it"
        ),
        pytest.param("[retention]\nheatmap = true\n",
                     "2: retention.heatmap: there is no such key in [retention]; heatmap belongs above the first",
                     id="a key of the file, and half a key of the table"),
        pytest.param("[retention]\nprot = 1\n",
                     "2: retention.prot: there is no such key in [retention]; did you mean page.port?",
                     id="nearly one of another table"),
        pytest.param(
            "[pages]\nport = 1\n", "1: pages: there is no such key; did you mean page?", id="nearly a table"
        ),
        pytest.param(
            'scan_seconds = 5\nquiet_seconds = "abc"\n',
            '2: quiet_seconds: is "abc", must be a number between 0.05 and 600',
            id="no number",
        ),
        pytest.param(
            "quiet_seconds = 0\n", "1: quiet_seconds: is 0, must be a number between 0.05 and 600", id="too small"
        ),
        pytest.param(
            "stalled_seconds = inf\n",
            "1: stalled_seconds: is inf, must be a number between 1 and 1000000000",
            id="without end",
        ),
        pytest.param("page.port = 80.5\n", "1: page.port: is 80.5, must be a whole number between 0 and 65535",
                     id="no whole number"),
        pytest.param("heatmap = 7\n", "1: heatmap: is 7, must be true or false", id="neither true nor false"),
        pytest.param(
            "[page]\nlisten = 'scope-pc'\n",
            """2: page.listen: 'scope-pc' is no address; write one of this PC, for example "192.168.1.5\"""",
            id="a name to listen on",
        ),
        pytest.param(
            "page.listen = '0.0.0.0'\n",
            "1: page.listen: 0.0.0.0 is no address under which other PCs reach this one; name the one they use",
            id="every address",
        ),
        pytest.param(
            "page.listen = '::1'\n",
            "1: page.listen: ::1 is no address under which other PCs reach this one; name the one they use",
            id="this very PC",
        ),
        pytest.param(
            "[page]\nlisten = '192.168.1.5'\n",
            "1: page: listen needs `certificate` and `private_key`: other PCs get the page by TLS or not at all",
            id="no certificate",
        ),
        pytest.param(
            "[page]\ncertificate = 'a'\nprivate_key = 'b'\n",
            "1: page: certificate, private_key and names say how `listen` is reached; give that address, too",
            id="a certificate for nothing",
        ),
        pytest.param(
            "[page]\nnames = ['https://pc']\n",
            "2: page.names (item 1): 'https://pc' is no name of a PC; write it without scheme and port",
            id="an address as a name",
        ),
        pytest.param(
            "[page]\nprivate_key = '//evil/share/a.key'\n",
            "2: page.private_key: //evil/share/a.key lies on evil, which no watched folder names; this account's",
            id="a key on a server",
        ),
        pytest.param("page = 7\n", "1: page: is 7, must be a table of its own", id="a number for a table"),
        pytest.param(
            'folders = "data"\n',
            '1: folders: is "data", must be a list in brackets, each item a path in quotes',
            id="a string for a list",
        ),
        pytest.param(
            'folders = [\n  "a",\n  1,\n]\n',
            "3: folders (item 2): is 1, must be a path in quotes",
            id="a number for a path, in its line",
        ),
        pytest.param(
            "include = []\n", '1: include: must name at least one pattern, for example "*.dm3"', id="no pattern"
        ),
        pytest.param(
            'include = ["*.dm3",\n "a/*.dm3"]\n',
            "2: include (item 2): 'a/*.dm3' is no pattern of file names (give no folder in it)",
            id="a folder in a pattern",
        ),
        pytest.param("state = 3\n", "1: state: is 3, must be a path in quotes", id="a number for the state folder"),
        pytest.param(
            'model = """\na\nb"""\nheatmap = 7\n', "4: heatmap: is 7", id="behind a text of several lines"
        ),
        pytest.param(
            "model = 'm'\n[instrument.pixel_size_nm]\n40k = 1\n",
            """3: instrument.pixel_size_nm."40k": '40k' is no magnification; write it as a number in quotes""",
            id="no magnification",
        ),
        pytest.param(
            "[instrument.pixel_size_nm]\n40000 = 0\n",
            '2: instrument.pixel_size_nm."40000": is 0, must be a number between 0.0001 and 1000000',
            id="no pixel size",
        ),
        pytest.param(
            "[instrument.pixel_size_nm]\n2.5 = 1\n",
            """2: instrument.pixel_size_nm."2": is {"5" = 1}, must be a number between 0.0001 and 1000000; a mag""",
            id="a magnification that TOML takes for two keys",
        ),
        pytest.param(
            '[instrument.pixel_size_nm]\n40000 = 1\n"4e4" = 2\n',
            "1: instrument.pixel_size_nm: '40000' and '4e4' are one magnification; name it once",
            id="a magnification twice",
        ),
        pytest.param("retention.heatmap_days = 0\n",
                     "1: retention.heatmap_days: is 0, must be a whole number between 1 and 36500", id="no days"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line_and_key(tmp_path, text, complaint):
    file = tmp_path / "agent.toml"
    file.write_text(text)

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value).startswith(f"{file}:{complaint}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        pytest.param('heatmap = true\na = "\n', 2, "Illegal character", id="a text without end"),
        pytest.param(
            'output = "C:\\data"\n', 1, "Unescaped '\\' in a string (column 15); in double quotes a backslash",
            id="a path of Windows in double quotes",
        ),
        pytest.param("heatmap = True\n", 1, "Invalid value (column 11); a text stands in quotes; true and false",
                     id="a capital letter"),
        pytest.param("heatmap true\n", 1, "Expected '=' after a key", id="no ="),
        pytest.param("heatmap = true\n\nheatmap = false\n", 3, "Cannot overwrite a value (column 16); this key",
                     id="a key twice"),
        pytest.param("[page]\n[page]\n", 2, "Cannot declare ('page',) twice (column 6); this", id="a table twice"),
        pytest.param("folders = [\n'a'", 2, "Unclosed array", id="cut off"),
        pytest.param(f"heatmap = true\nport = {'9' * 5000}\n", 2, "Exceeds the limit", id="a number without end"),
        pytest.param(f"a = {'[' * 5000}", None, "brackets in brackets without end", id="brackets without end"),
    ],
)  # fmt: skip
def test_what_is_no_toml_is_named_with_its_line(tmp_path, text, line, reason):
    file = tmp_path / "agent.toml"
    file.write_text(text)

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    place = f"{file}:{line}" if line else str(file)
    assert str(refused.value).startswith(f"{place}: is not valid TOML: {reason}")


def test_every_wrong_key_is_named_at_once(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("a = 1\nb = 2\n")

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value).splitlines() == [
        f"{file}:1: a: there is no such key",
        f"{file}:2: b: there is no such key",
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(None, ": cannot be read: No such file or directory", id="missing"),
        pytest.param(b"#\na = '\xff'\n", ":2: is not UTF-8 text; save it as UTF-8", id="another encoding"),
        pytest.param(b"#" * 2**21, ": is longer than 1 MiB, and no configuration is", id="much too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, complaint):
    file = tmp_path / "agent.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigRefused) as refused:
        configure(file)

    assert str(refused.value) == f"{file}{complaint}"


def test_a_configuration_never_changes():
    with pytest.raises(ValidationError):
        AgentConfig().quiet_seconds = 2.0
