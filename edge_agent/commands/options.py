"""Options that several commands have in common, and how a command prints JSON."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.terminal import say

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        envvar="SCOPEWATCH_MODEL",
        help="A model of the store, a shipped one, or a bundle folder, instead of the current one.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A TOML file (see `config init`) instead of the user's or the system's.",
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Mirror sidecars and heatmaps below DIR.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
SizeOption = Annotated[
    int, typer.Option("--size", min=64, max=8192, metavar="PX", help="Side of the pictures.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Equal seeds draw equal pictures.")]
RateOption = Annotated[
    float, typer.Option("--rate", min=0.001, metavar="HZ", help="At most so many files a second.")
]


def config_in_force(given: Path | None) -> Path | None:
    """Return the file that was named, or the one that holds when none is, which is said on stderr."""
    from edge_agent.config import default_config_file

    if given is not None:
        return given
    found = default_config_file()
    if found is not None:
        say(f"configuration {found}", sys.stderr)
    return found


def print_json(text: str) -> None:
    """Write JSON as UTF-8 whatever the console's encoding, as JSON must be."""
    with contextlib.suppress(BrokenPipeError):  # a reader that went away is no reason to stop working
        sys.stdout.flush()
        sys.stdout.buffer.write(text.rstrip("\n").encode() + b"\n")
        sys.stdout.buffer.flush()
