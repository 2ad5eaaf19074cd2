"""Commands that say whether this PC is fit for the agent: `selftest`, and those of first aid, to be listed."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated, Any, Final

import typer

from edge_agent.commands.options import JsonOption, ModelOption, print_json
from edge_agent.diagnosing.first_aid import run_first_aid
from edge_agent.terminal import say
from edge_agent.verdicts import EXIT_FAILED, CommandFailed

FIRST_AID: Final[dict[str, Any]] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}
"""For commands that `first_aid` has run before this command line was asked: they are here to be listed."""


def version(asked: bool) -> None:
    """Print the versions and end, where they were asked for after other options."""
    if asked:
        raise typer.Exit(run_first_aid(["--version"]) or 0)


def doctor(context: typer.Context) -> None:
    """Say whether this PC, and the folders named, are fit for the agent, and what to do."""
    raise typer.Exit(run_first_aid(["doctor", *context.args]) or 0)


def support(context: typer.Context) -> None:
    """Write an archive with logs and versions, without images and names, for whoever helps."""
    raise typer.Exit(run_first_aid(["support", *context.args]) or 0)


def selftest(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)],
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", help="Where the agent will keep its state.")
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
) -> None:
    """Try on this PC, in a sub-folder of FOLDER that is removed afterwards, what the agent relies on."""
    from edge_agent.selftest import check_json, check_lines, run_selftest, summary_line
    from edge_agent.trials.earlier_runs import NAME

    # watchdog complains of events that arrive while it is ended, which here happens on purpose.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    done = []
    say(
        f"everything happens in {folder.absolute() / NAME}-...; if this is killed, the next run removes it",
        sys.stderr,
    )
    try:
        with contextlib.closing(run_selftest(folder.absolute(), state=state, model=model)) as checks:
            for item in checks:
                done.append(item)
                if as_json:
                    print_json(check_json(item))
                else:
                    for line in check_lines(item):
                        say(line)
    except OSError as error:
        raise CommandFailed(
            f"{error.filename or folder}: {error.strerror or error}; the self-test works in a sub-folder of its "
            "own: name a folder that may be written to, for example where outputs go"
        ) from error
    say(summary_line(done), sys.stderr)
    if any(item.verdict == "failed" for item in done):
        raise typer.Exit(EXIT_FAILED)
