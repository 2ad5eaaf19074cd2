"""Commands that get micrographs classified: `demo`, `watch`, `classify`, `status`, `simulate`, `tidy`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import partial
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from edge_agent.commands.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    OutputOption,
    RateOption,
    SeedOption,
    SizeOption,
    config_in_force,
    print_json,
)
from edge_agent.hosting.finding_log import FindingLog
from edge_agent.terminal import (
    counts_text,
    finding_line,
    finding_text,
    progress,
    say,
    status_lines,
    untidy_lines,
)
from edge_agent.verdicts import EXIT_FAILED, PROGRAM, CommandFailed

if TYPE_CHECKING:
    from edge_agent.sidecar import Finding


def demo(
    files: Annotated[int, typer.Option("--files", min=1, metavar="N", help="How many files are saved.")] = 20,
    rate: RateOption = 2.0,
    no_page: Annotated[
        bool, typer.Option("--no-page", help="No page on 127.0.0.1 meanwhile, and none opened.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Save into DIR instead of a new temporary folder."),
    ] = None,
    size: SizeOption = 2048,
    seed: SeedOption = 0,
    model: ModelOption = None,
) -> None:
    """Let a simulated microscope save files, and classify them live."""
    from edge_agent.demo import DemoPlan, run_demo

    plan = DemoPlan(
        files=files, rate_hz=rate, size_px=size, seed=seed, folder=keep, model=model, page=not no_page
    )
    if not run_demo(plan):
        raise typer.Exit(EXIT_FAILED)


def watch(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    output: OutputOption = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser once the agent is ready.")
    ] = False,
) -> None:
    """Watch folders and classify every new file until Ctrl-C. Folders may also stand in the configuration."""
    from edge_agent.hosting.console import console_closing
    from edge_agent.hosting.host import Host

    host = Host(
        config_in_force(config),
        {"folders": tuple(folders or ()), "model": model, "output": output},
        on_finding=_tell_live,
        say=lambda text: say(text, sys.stderr),
        on_page=partial(_tell_page, opening=open_page),
    )
    with console_closing(host.stop):
        host.run()
    say("stopped", sys.stderr)


def classify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", show_default=False)],
    recursive: Annotated[bool, typer.Option("--recursive", help="Enter the folders in a folder.")] = False,
    output: OutputOption = None,
    as_json: JsonOption = False,
    no_heatmap: Annotated[bool, typer.Option("--no-heatmap", help="Write sidecars only.")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include", metavar="PATTERN", help="Names to take from folders, instead of *.dm3 and *.dm4."
        ),
    ] = None,
    model: ModelOption = None,
    config: ConfigOption = None,
) -> None:
    """Classify files and folders once. With --json, one sidecar record a line.

    Of the configuration the model, `include`, `heatmap`, `snapshot_limit_mib` and the instrument count.
    """
    from edge_agent.batch import Tally, classify_all, gather
    from edge_agent.config import configure

    settings = configure(config_in_force(config), model=model)
    batch = gather(paths, recursive=recursive, include=include or settings.include, output=output)
    from edge_agent.classifier import Classifier
    from edge_agent.keeping.model_intake import open_chosen
    from edge_agent.keeping.model_store import ModelStore

    bundle = open_chosen(
        ModelStore(settings.state), settings.model, settings.trusted_keys, lambda text: say(text, sys.stderr)
    )
    classifier, tally = Classifier(bundle), Tally()
    findings = classify_all(
        batch,
        classifier,
        heatmap=settings.heatmap and not no_heatmap,
        snapshot_limit_mib=settings.snapshot_limit_mib,
        instrument=settings.instrument.profile(),
    )
    with progress(len(batch.files), "files") as advance:
        for finding in findings:
            tally.add(finding)
            _tell_classified(finding, as_json=as_json)
            advance()
    say(f"{len(batch.files)} files: {counts_text(tally)}", sys.stderr)
    if batch.folders_left_out:
        say(f"{batch.folders_left_out} folders inside were left out; --recursive enters them", sys.stderr)
    if not tally.all_read:
        raise typer.Exit(EXIT_FAILED)


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say what the running agent has seen, has waiting, has done."""
    from edge_agent.config import default_config_file
    from edge_agent.config_file import state_named
    from edge_agent.status import running_status

    # A bad edit is refused by the running agent, which says so in its numbers: they are wanted then above all.
    state = state_named(config or default_config_file())
    try:
        numbers = running_status(state)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    if numbers is None:
        raise CommandFailed(f"no agent is running on the state folder {state}")
    if as_json:
        print_json(numbers.model_dump_json())
    else:
        for line in status_lines(numbers):
            say(line)


def simulate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)],
    files: Annotated[int, typer.Option("--files", min=0, metavar="N", help="How many files are saved.")] = 12,
    rate: RateOption = 1.0,
    size: SizeOption = 2048,
    mode: Annotated[
        Literal["in-place", "rename", "slow"], typer.Option("--mode", help="How files reach the disk.")
    ] = "in-place",
    seed: SeedOption = 0,
) -> None:
    """Run the simulated microscope alone: it saves dm3 files into FOLDER."""
    from edge_agent.simulation import run_microscope

    for saved in run_microscope(folder, files=files, rate_hz=rate, size_px=size, mode=mode, seed=seed):
        say(f"{saved.path}  drawn {saved.drawn}")


def tidy(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
) -> None:
    """List sidecars and heatmaps whose micrograph is gone; with --yes, remove them."""
    from edge_agent.config import ConfigRefused, configure
    from edge_agent.tidy import look_for_orphans, remove

    settings = configure(config_in_force(config), folders=tuple(folders or ()), output=output)
    if not settings.folders:
        raise ConfigRefused("no folder to tidy: name one, or set `folders` in the configuration")
    untidy = look_for_orphans(settings.folders, settings.output)
    for line in untidy_lines(untidy):
        say(line)
    if yes:
        removed, failed = remove(untidy)
        say(f"{removed} files removed")
        for path, reason in failed:
            say(f"{PROGRAM}: {path}: cannot be removed: {reason}", sys.stderr)
        if failed:
            raise typer.Exit(EXIT_FAILED)
    elif untidy.orphans or untidy.abandoned:
        say("nothing was removed; --yes removes these")


_standing: Final = FindingLog()


def _tell_live(finding: Finding) -> None:
    """Say what was found; of what fails again and again for one reason, one line a minute."""
    held_back = _standing.admit(finding)
    if held_back is None:
        return
    more = f"  ({held_back} more like this held back)" if held_back else ""
    say(f"{datetime.now():%H:%M:%S}  {finding_line(finding, finding.path)}{more}")


def _tell_page(word: str, state: Path, *, opening: bool) -> None:
    """Say how the page is reached; where it is to be opened and cannot be, with its key."""
    from edge_agent.page.opening import address_with_key, is_up, open_page, plain_address

    if not is_up(word):
        say(f"page: {word}", sys.stderr)
        return
    try:
        if not opening:
            say(f"page: {plain_address(word)} (`edge-agent page` opens it)", sys.stderr)
        elif open_page(word, state):
            say(f"page: {plain_address(word)}, opened in the browser", sys.stderr)
        else:
            say(f"page: {address_with_key(word, state)}", sys.stderr)
    except OSError as error:
        say(f"page: {plain_address(word)}; it cannot be opened: {error}", sys.stderr)


def _tell_classified(finding: Finding, *, as_json: bool) -> None:
    if not as_json:
        say(finding_line(finding, finding.path))
    elif finding.sidecar is not None:
        print_json(json.dumps(json.loads(finding.sidecar.read_bytes())))
    else:
        say(f"{PROGRAM}: {finding.path}: {finding_text(finding)}", sys.stderr)
