"""The group `service`: the agent as a service of this PC."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.commands.options import ConfigOption  # noqa: TC001 - Typer reads the annotations
from edge_agent.terminal import say, status_lines
from edge_agent.verdicts import EXIT_FAILED

if TYPE_CHECKING:
    from types import ModuleType

    from edge_agent.deploy.service_plan import InstallRequest

app = typer.Typer(
    help="Run the agent as a service of this PC, under systemd or Windows (not verified on Windows).",
    no_args_is_help=True,
)

OwnOption = Annotated[
    bool,
    typer.Option("--user", help="Your own: no administrator needed, runs while you are logged in."),
]
AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account",
        metavar="NAME",
        help="Who it runs as; without it, the owner of the first folder (Windows: LocalService).",
    ),
]


@app.command("install")
def service_install(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    config: ConfigOption = None,
    own: OwnOption = False,
    account: AccountOption = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it at once.")] = True,
) -> None:
    """Install the agent as a service that starts by itself, or upgrade the one that is there.

    The configuration is written when there is none.
    """
    for line in _platform().install(_request(folders, config, account, own=own, start=start)):
        say(line)


@app.command("preview")
def service_preview(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    config: ConfigOption = None,
    own: OwnOption = False,
    account: AccountOption = None,
) -> None:
    """Print the unit (Windows: the command line, or the task) that `install` would make, and change nothing."""
    for line in _platform().preview(_request(folders, config, account, own=own, start=False)):
        say(line)


@app.command("uninstall")
def service_uninstall(
    own: OwnOption = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove state, log and configuration as well; results stay.")
    ] = False,
) -> None:
    """Stop the service and take it away."""
    for line in _platform().uninstall(own=own or None, everything=purge):
        say(line)


@app.command("start")
def service_start(own: OwnOption = False) -> None:
    """Start the service, and wait until it is ready."""
    for line in _platform().start(own=own or None):
        say(line)


@app.command("stop")
def service_stop(own: OwnOption = False) -> None:
    """Stop the service, and wait until it has ended."""
    for line in _platform().stop(own=own or None):
        say(line)


@app.command("status")
def service_status(own: OwnOption = False) -> None:
    """Say what the system and the agent itself say of the service; exit code 1 unless both are well."""
    report = _platform().report(own=own or None)
    for line in (*report.lines, *(status_lines(report.numbers) if report.numbers is not None else ())):
        say(line)
    if not report.active or report.numbers is None:
        raise typer.Exit(EXIT_FAILED)


def _request(
    folders: list[Path] | None, config: Path | None, account: str | None, *, own: bool, start: bool
) -> InstallRequest:
    from edge_agent.deploy.service_plan import InstallRequest, ServiceRefused

    if own and account is not None:
        raise ServiceRefused("--account: what you install with --user runs as you; leave one of the two out")
    return InstallRequest(tuple(folders or ()), config, own, account, start)


def _platform() -> ModuleType:
    """The two modules have the same functions."""
    if sys.platform == "win32":
        from edge_agent.deploy import windows_setup

        return windows_setup
    from edge_agent.deploy import linux_service

    return linux_service
