"""The command `log`: what the agent has written down."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Final

import typer

from edge_agent.commands.options import ConfigOption, print_json
from edge_agent.terminal import say
from edge_agent.verdicts import CommandFailed

_LOOK_SECONDS: Final = 0.5


def log(
    lines: Annotated[
        int, typer.Option("--lines", min=0, metavar="N", help="How many of the last lines.")
    ] = 40,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new lines until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are in the file.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print what the agent has logged, running or not."""
    from edge_agent.config import default_config_file
    from edge_agent.config_file import state_named
    from edge_agent.log_reader import LogTail
    from edge_agent.logs import LOG_NAME

    state = state_named(config or default_config_file())
    if not (state / LOG_NAME).is_file() and not follow:
        raise CommandFailed(f"there is no log {state / LOG_NAME}; no agent has run on this state folder")
    tail = LogTail(state)
    _print(tail.last(lines), as_json=as_json)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            time.sleep(_LOOK_SECONDS)
            _print(tail.more(), as_json=as_json)


def _print(found: list[str], *, as_json: bool) -> None:
    from edge_agent.log_reader import human_lines

    for line in found:
        if as_json:
            print_json(line)
        else:
            for text in human_lines(line):
                say(text)
