"""The command `edge-agent`: which commands there are, and how one is run.

Everything heavy is imported inside the command that needs it, so that `--help` and `status` answer at once. The
commands themselves stand in `edge_agent.commands`.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from edge_agent.commands import configuration, health, live, log, models, offline, operator, service
from edge_agent.diagnosing.first_aid import run_first_aid
from edge_agent.logs import log_to_terminal
from edge_agent.terminal import say
from edge_agent.verdicts import EXIT_INTERRUPTED, PROGRAM, explain, without_verbose

app = typer.Typer(
    help="Classifies every new micrograph live on the microscope PC and shows where the network looked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say more, with a traceback for every error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the versions and end.", is_eager=True, callback=health.version),
    ] = False,
) -> None:
    """Set up logging; `main` has taken `--verbose` out already, wherever it stood."""


for command in (
    live.demo,
    live.watch,
    live.classify,
    live.status,
    operator.page,
    log.log,
    models.check,
    live.simulate,
    live.tidy,
    health.selftest,
    offline.package_offline,
    offline.licences,
    offline.sbom,
):
    app.command()(command)
app.command(**health.FIRST_AID)(health.doctor)
app.command(**health.FIRST_AID)(health.support)
app.add_typer(models.app, name="models")
app.add_typer(configuration.app, name="config")
app.add_typer(service.app, name="service")


def main() -> None:
    """Run a command. Errors that a user can cause are one line on stderr; `--verbose` adds the traceback."""
    arguments, verbose = without_verbose(sys.argv[1:])
    code = run_first_aid(arguments)
    if code is not None:
        sys.exit(code)
    # Before NumPy is imported: its BLAS starts a pool of threads otherwise, on a PC that is acquiring.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    log_to_terminal(verbose=verbose)
    try:
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # Typer turns KeyboardInterrupt into this, and says nothing
            say(f"{PROGRAM}: interrupted; what was finished stays", sys.stderr)
    except Exception as error:
        code = explain(error, verbose=verbose)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
