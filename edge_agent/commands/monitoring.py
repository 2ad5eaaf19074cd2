"""The command `config board`: what a laboratory's monitoring needs to know of the agent, ready to import."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

import typer

from edge_agent.commands.options import print_json


def board(
    rules: Annotated[bool, typer.Option("--rules", help="The example alert rules for Prometheus.")] = False,
) -> None:
    """Print the Grafana board (JSON, to be imported), or with --rules the alert rules (YAML)."""
    name = "prometheus_rules.yml" if rules else "grafana_board.json"
    print_json(files("edge_agent.live_page").joinpath(name).read_text("utf-8"))
