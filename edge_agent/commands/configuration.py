"""The group `config`: the configuration and the formats."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edge_agent.commands import monitoring
from edge_agent.commands.options import print_json

app = typer.Typer(help="The configuration and the formats.", no_args_is_help=True)
app.command("board")(monitoring.board)


@app.command("schema")
def config_schema(
    sidecar: Annotated[bool, typer.Option("--sidecar", help="The sidecar's schema instead.")] = False,
) -> None:
    """Print the JSON Schema of the configuration, or of the sidecar."""
    if sidecar:
        from edge_agent.sidecar import sidecar_schema

        print_json(json.dumps(sidecar_schema(), indent=2))
    else:
        from edge_agent.config import AgentConfig

        schema = AgentConfig.model_json_schema()
        print_json(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=2))
