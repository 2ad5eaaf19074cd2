"""The commented configuration says what holds: it loads to the defaults, and with every line taken in."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig, ConfigRefused, configure
from edge_agent.config_file import config_schema, loaded
from edge_agent.configuring.complaints import at_path, known_keys
from edge_agent.configuring.draft import draft_text, schema_text, write_draft
from edge_agent.configuring.key_lines import key_text


def with_every_line_taken_in(text: str) -> str:
    return re.sub(r"^#(?=[a-z])", "", text, flags=re.MULTILINE)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "agent.toml"


def test_it_loads_unchanged_to_the_defaults(file):
    write_draft(file)
    assert configure(file) == AgentConfig()


def test_it_loads_with_every_line_taken_in(file):
    write_draft(file)
    file.write_text(with_every_line_taken_in(file.read_text()))

    origins = loaded(file).origins

    assert {key for key, origin in origins.items() if not origin.startswith(f"{file}:")} == set()
    assert len(set(origins.values())) == len(origins)


@pytest.mark.parametrize("path", list(known_keys(config_schema())), ids=key_text)
def test_every_key_is_there_with_its_meaning_and_its_default(path):
    key, text = at_path(config_schema(), path), " ".join(draft_text().replace("\n#", " ").split())
    meaning = " ".join(key["description"].split())
    assert meaning in text
    assert f"#{'.'.join(path[-1:])}" in draft_text()
    if key.get("default") is not None:
        shown = tomllib.loads(with_every_line_taken_in(draft_text()))
        for part in path:
            shown = shown[part]
        assert shown == key["default"]


def test_the_first_line_names_the_schema_beside_it(file):
    schema_file = write_draft(file)

    assert file.read_text().splitlines()[0] == "#:schema ./config.schema.json"
    assert schema_file == file.parent / "config.schema.json"
    assert json.loads(schema_file.read_text()) == config_schema()


def test_the_schema_describes_every_key_and_knows_no_path_of_this_pc():
    schema = json.loads(schema_text())

    undescribed = [
        key_text(path) for path in known_keys(schema) if not at_path(schema, path).get("description")
    ]
    assert undescribed == []
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert str(Path.home()) not in schema_text()


def test_folders_are_set_where_they_are_given(file):
    write_draft(file, [Path("/data/it's"), Path("/data/b\\c")])

    assert configure(file).folders == (Path("/data/it's"), Path("/data/b\\c"))


def test_no_line_is_long():
    assert max(map(len, draft_text().splitlines())) <= 115


@pytest.mark.parametrize("name", ["agent.toml", "config.schema.json"])
def test_what_is_there_is_not_replaced_unless_asked(file, name):
    file.parent.mkdir()
    (file.parent / name).write_text("mine")

    with pytest.raises(ConfigRefused, match=f"{name}: is there already"):
        write_draft(file)
    assert [path.name for path in file.parent.iterdir()] == [name]

    write_draft(file, replace=True)
    assert configure(file) == AgentConfig()


def test_an_older_schema_of_ours_is_replaced(file):
    file.parent.mkdir()
    (file.parent / "config.schema.json").write_text(json.dumps({"title": config_schema()["title"]}))

    write_draft(file)
    assert json.loads((file.parent / "config.schema.json").read_text()) == config_schema()
