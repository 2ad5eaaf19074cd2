"""The group `config`: the configuration and the formats."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_agent.commands import monitoring
from edge_agent.commands.options import ConfigOption, JsonOption, print_json
from edge_agent.terminal import say

if TYPE_CHECKING:
    from edge_agent.config_file import Loaded

app = typer.Typer(help="The configuration and the formats.", no_args_is_help=True)
app.command("board")(monitoring.board)


@app.command("init")
def config_init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", show_default=False, help="Else the user's own.")
    ] = None,
    folder: Annotated[
        list[Path] | None, typer.Option("--folder", metavar="DIR", help="Set a folder to watch.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented configuration with every key, and its schema for editors beside it."""
    from edge_agent.config import user_config_file
    from edge_agent.config_file import loaded
    from edge_agent.configuring.draft import write_draft

    target = (file or user_config_file()).absolute()
    # Asked first: what cannot be used is not written.
    folders = loaded(None, {"folders": tuple(folder or ())}).config.folders
    schema = write_draft(target, folders, replace=force)
    say(f"{target}: every key with its default; edit it, then look at it with `edge-agent config show`")
    say(f"{schema}: for editors that know `#:schema`")


@app.command("show")
def config_show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the values that hold, and where each comes from."""
    from edge_agent.config import default_config_file
    from edge_agent.config_file import loaded

    found = loaded(config or default_config_file())
    if as_json:
        print_json(json.dumps(_shown(found), indent=2))
        return
    say(_file_text(found), sys.stderr)
    for line in _aligned(found):
        say(line)


@app.command("check")
def config_check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", show_default=False)] = None,
) -> None:
    """Say whether a configuration can be used, and what is wrong with it if not."""
    from edge_agent.config import ConfigRefused, default_config_file
    from edge_agent.config_file import DEFAULT, loaded

    found = loaded(file or default_config_file())
    if found.file is None:
        raise ConfigRefused("there is no configuration file to check; name one, or write one: config init")
    changed = [key for key, origin in found.origins.items() if origin != DEFAULT]
    say(f"{found.file}: can be used; other than the defaults: {', '.join(changed) or 'nothing'}")


@app.command("schema")
def config_schema(
    sidecar: Annotated[bool, typer.Option("--sidecar", help="The sidecar's schema instead.")] = False,
) -> None:
    """Print the JSON Schema of the configuration, or of the sidecar."""
    if sidecar:
        from edge_agent.sidecar import sidecar_schema

        print_json(json.dumps(sidecar_schema(), indent=2))
    else:
        from edge_agent.configuring.draft import schema_text

        print_json(schema_text())


def _shown(found: Loaded) -> dict[str, Any]:
    """Return what `--json` prints: values by table, origins by dotted key."""
    values = found.config.model_dump(mode="json")
    file = None if found.file is None else str(found.file)
    return {"file": file, "values": values, "origins": dict(found.origins)}


def _file_text(found: Loaded) -> str:
    if found.file is not None:
        return f"configuration {found.file}"
    from edge_agent.config import system_config_file, user_config_file

    return f"no configuration file (neither {user_config_file()} nor {system_config_file()} is there)"


def _aligned(found: Loaded) -> list[str]:
    """One line a key: name, value, origin, in columns."""
    from edge_agent.configuring.key_lines import toml_value

    values: dict[str, Any] = _shown(found)["values"]
    rows = []
    for key, origin in found.origins.items():
        table, _, name = key.rpartition(".")
        rows.append((key, toml_value(values[table][name] if table else values[key]), origin))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{key:<{widths[0]}} = {value:<{min(widths[1], 40)}}  # {origin}" for key, value, origin in rows]
