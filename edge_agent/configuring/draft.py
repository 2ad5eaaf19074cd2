"""The commented configuration file that `config init` writes: every key with its meaning, limits and default.

Made from the schema, so that it says what holds. A line that begins with `#` and no blank behind is a setting:
without the `#` it is in force. The schema stands beside the file, for editors that know `#:schema` (Even Better
TOML in VS Code, Taplo): they complete the keys and mark what is wrong while it is typed.
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.config import ConfigRefused
from edge_agent.config_file import config_schema
from edge_agent.configuring.complaints import Schema, at_path, wanted_text
from edge_agent.configuring.key_lines import toml_value
from edge_agent.files import make_folders, read_whole, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SCHEMA_NAME: Final = "config.schema.json"
_WIDTH: Final = 100
_SCHEMA_LIMIT_BYTES: Final = 2**20
_HEAD: Final = f"""\
#:schema ./{SCHEMA_NAME}
# Configuration of the scopewatch agent, written by version {__version__} (edge-agent config init).
#
# Every key is here with its default, or with an example where the default is none. To change one, take the #
# before it away; lines with a blank behind the # are explanations. Look at what then holds, and where it comes
# from, with: edge-agent config show --config FILE
#
# Paths count from the folder of this file. Write paths of Windows in single quotes, and shares by their server:
# 'D:\\data', '\\\\scope-pc\\data' (a service does not see mapped drive letters).
"""
_UNITS: Final = {"_seconds": "seconds", "_mib": "MiB", "_percent": "percent", "_days": "days"}


def draft_text(folders: Iterable[Path] = ()) -> str:
    """Return the file's text; with `folders` these are set in it, not only shown."""
    schema = config_schema()
    lines = [_HEAD]
    tables = []
    for name in schema["properties"]:
        if at_path(schema, (name,)).get("type") == "object":
            tables.append(name)
        elif name == "folders" and (named := [str(folder) for folder in folders]):
            lines += [*_explained(schema, (name,)), f"{name} = {toml_value(named)}", ""]
        else:
            lines += [*_explained(schema, (name,)), *_setting(schema, (name,)), ""]
    for name in tables:
        lines += [f"[{name}]", *_prose(at_path(schema, (name,))["description"]), ""]
        for key in at_path(schema, (name,))["properties"]:
            lines += [*_explained(schema, (name, key)), *_setting(schema, (name, key)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def schema_text() -> str:
    """Return the schema as the file beside the configuration has it."""
    return json.dumps(config_schema(), indent=2) + "\n"


def write_draft(file: Path, folders: Iterable[Path] = (), *, replace: bool = False) -> Path:
    """Write the commented configuration and its schema beside it; return the schema's path.

    The folder is made where it is missing. Raises ConfigRefused where something is in the way that is not to
    be replaced, and OSError.
    """
    schema_file = file.with_name(SCHEMA_NAME)
    if file.exists() and not replace:
        raise ConfigRefused(f"{file}: is there already; edit it, or replace it with --force")
    if schema_file.exists() and not replace and not _is_our_schema(schema_file):
        raise ConfigRefused(
            f"{schema_file}: is there already, and not ours; move it, or replace it with --force"
        )
    make_folders(file.parent)
    write_durably(schema_file, schema_text().encode())
    write_durably(file, draft_text(folders).encode())
    return schema_file


def _is_our_schema(file: Path) -> bool:
    try:
        found = json.loads(read_whole(file, _SCHEMA_LIMIT_BYTES) or b"")
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("title") == config_schema()["title"]


def _explained(schema: Schema, path: tuple[str, ...]) -> list[str]:
    key = at_path(schema, path)
    unit = next((f", in {unit}" for suffix, unit in _UNITS.items() if path[-1].endswith(suffix)), "")
    default = key.get("default")
    said = "Default: none." if default is None else f"Default: {toml_value(default)}."
    wanted = wanted_text(key)
    return [*_prose(key["description"]), *_prose(f"{wanted[:1].upper()}{wanted[1:]}{unit}. {said}")]


def _setting(schema: Schema, path: tuple[str, ...]) -> Iterator[str]:
    key = at_path(schema, path)
    shown: Any = key["default"] if key.get("default") is not None else key["examples"][0]
    if isinstance(shown, dict):  # dotted keys: another [table] would take in the keys that follow
        for name, value in shown.items():
            yield f"#{path[-1]}.{json.dumps(name)} = {toml_value(value)}"
    else:
        yield f"#{path[-1]} = {toml_value(shown)}"


def _prose(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
