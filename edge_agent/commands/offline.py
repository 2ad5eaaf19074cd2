"""Commands for whoever hands the agent on: `package-offline`, `licences`, `sbom`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from edge_agent.terminal import progress, say

_LICENCES: Final = "LICENCES.md"


def package_offline(
    platform: Annotated[
        str, typer.Option("--platform", metavar="win_amd64|linux_x86_64", help="The PC it is for.")
    ] = "win_amd64",
    python: Annotated[
        str, typer.Option("--python", metavar="3.11|3.12|3.13", help="The Python that runs it there.")
    ] = "3.11",
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--python-runtime",
            metavar="FILE",
            help="A Python to take along: python.org's embeddable zip, or python-build-standalone's install_only.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="BUNDLE", help="A model to take along; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A configuration to take along.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Where the archive is put.")
    ] = Path(),
    wheels: Annotated[
        Path | None,
        typer.Option(
            "--wheels", metavar="DIR", help="Take the packages from DIR instead of the package index."
        ),
    ] = None,
) -> None:
    """Make one archive that installs the agent on a PC without a network."""
    from edge_agent.packing.offline_package import Locks, PackagePlan, make_package, steps
    from edge_agent.packing.target import target_of

    plan = PackagePlan(
        target_of(platform, python), output.absolute(), tuple(model or ()), runtime, config, wheels
    )
    locks = Locks.of(plan.target)
    say(f"for {plan.target.words}", sys.stderr)
    with progress(steps(plan, locks), "steps") as advance:
        made = make_package(plan, locks, advance)
    say(f"{made.path}  {made.size_bytes / 1e6:.0f} MB, {len(made.parts)} parts")
    say(f"SHA-256 {made.sha256}")
    if runtime is None:
        say(f"Python {python} has to be on that PC; --python-runtime FILE would take one along", sys.stderr)
    script = "install.cmd" if plan.target.is_windows else "sh install.sh"
    say(f"there: unpack it, and run {script} in {plan.name} (README.txt says more)", sys.stderr)


def licences(
    archive: Annotated[Path | None, typer.Argument(metavar="ARCHIVE", show_default=False)] = None,
) -> None:
    """List everything that this installation, or an offline archive, hands on: licence, its text, its source."""
    if archive is not None:
        from edge_agent.packing.archive_file import read_member

        _say_lines(read_member(archive, _LICENCES).decode())
        return
    from edge_agent.packing.licences import licences_text
    from edge_agent.packing.parts_here import parts_here

    _say_lines(licences_text(parts_here(), (), place=""))


def sbom() -> None:
    """Print the software bill of materials of this installation (CycloneDX 1.6, JSON)."""
    from edge_agent.commands.options import print_json
    from edge_agent.packing.parts_here import parts_here
    from edge_agent.packing.sbom import sbom_json

    print_json(sbom_json(parts_here()))


def _say_lines(text: str) -> None:
    """Line by line, for a console of another encoding and a reader that goes away; an archive may be anybody's."""
    for line in text.splitlines():
        say(line)
