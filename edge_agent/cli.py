"""The command `edge-agent`: what a person can ask for.

Only this module knows the options. Everything heavy is imported inside the command that needs it,
so that `--help` and `status` answer at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from edge_agent.logs import OnceAMinute, log_to_terminal
from edge_agent.terminal import (
    counts_text,
    finding_line,
    finding_text,
    progress,
    say,
    status_lines,
    untidy_lines,
)
from edge_agent.verdicts import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    PROGRAM,
    CommandFailed,
    explain,
    without_verbose,
)

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig
    from edge_agent.sidecar import Finding


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME|PATH", envvar="SCOPEWATCH_MODEL", help="A shipped model or a bundle folder."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file; see `config schema`.")
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

app = typer.Typer(
    help="Classifies every new micrograph live on the microscope PC and shows where the network looked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The models that can be used.", no_args_is_help=True)
config_app = typer.Typer(help="The configuration and the formats.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(config_app, name="config")


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say more, with a traceback for every error.")
    ] = False,
) -> None:
    """Set up logging; `main` has taken `--verbose` out already, wherever it stood."""


@app.command()
def demo(
    files: Annotated[int, typer.Option("--files", min=1, metavar="N", help="How many files are saved.")] = 20,
    rate: RateOption = 2.0,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not open the live page.")] = False,
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

    plan = DemoPlan(files=files, rate_hz=rate, size_px=size, seed=seed, folder=keep, model=model)
    if not run_demo(plan):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def watch(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    config: ConfigOption = None,
    model: ModelOption = None,
    output: OutputOption = None,
) -> None:
    """Watch folders and classify every new file until Ctrl-C. Folders may also stand in the configuration."""
    from edge_agent.config import ConfigRefused, configure
    from edge_agent.logs import log_to_file
    from edge_agent.processes.process_limits import lower_priority
    from edge_agent.service import Service

    settings = configure(config, folders=tuple(folders or ()), model=model, output=output)
    if not settings.folders:
        raise ConfigRefused("no folder to watch: name one, or set `folders` in the configuration")
    for folder in settings.folders:
        if folder.is_file():
            raise ConfigRefused(f"{folder}: is a file, not a folder; `classify` takes files")
        if not folder.is_dir():
            say(f"{folder}: is not there yet; watching for it to appear", sys.stderr)
    if settings.low_priority:
        lower_priority()
    log_to_file(settings.state)
    service = Service(
        settings,
        on_finding=_tell_live,
        on_ready=lambda ready: say(
            f"model {ready.name} {ready.version} watches {_listed(settings)}", sys.stderr
        ),
    )
    service.run()
    say("stopped", sys.stderr)


@app.command()
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
) -> None:
    """Classify files and folders once. With --json, one sidecar record a line."""
    from edge_agent.batch import Tally, classify_all, gather

    batch = gather(paths, recursive=recursive, include=include or (), output=output)
    from edge_agent.classifier import Classifier
    from edge_agent.model_bundle import open_bundle

    classifier, tally = Classifier(open_bundle(model)), Tally()
    with progress(len(batch.files), "files") as advance:
        for finding in classify_all(batch, classifier, heatmap=not no_heatmap):
            tally.add(finding)
            _tell_classified(finding, as_json=as_json)
            advance()
    say(f"{len(batch.files)} files: {counts_text(tally)}", sys.stderr)
    if batch.folders_left_out:
        say(f"{batch.folders_left_out} folders inside were left out; --recursive enters them", sys.stderr)
    if not tally.all_read:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say what the running agent has seen, has waiting, has done."""
    from edge_agent.config import configure
    from edge_agent.status import running_status

    state = configure(config).state
    try:
        numbers = running_status(state)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    if numbers is None:
        raise CommandFailed(f"no agent is running on the state folder {state}")
    if as_json:
        _print_json(numbers.model_dump_json())
    else:
        for line in status_lines(numbers):
            say(line)


@app.command()
def check(model: ModelOption = None) -> None:
    """Verify a model's files and replay its golden cases on this PC."""
    from edge_agent.classifier import Classifier
    from edge_agent.model_bundle import BundleRefused, open_bundle

    try:
        bundle = open_bundle(model)
        replay = Classifier(bundle).replay_golden()
    except BundleRefused as error:
        raise CommandFailed(str(error)) from error
    say(f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version}, every file as its manifest says")
    verdict = "passed" if replay.passed else "FAILED"
    apart = f"{replay.probabilities:.1e} in probabilities, {replay.cam:.1e} in cam"
    if bundle.manifest.tensors.novelty is not None:
        apart += f", {replay.novelty:.1e} in novelty"
    say(f"golden replay of {replay.cases} cases {verdict}: at most {apart}, {replay.tolerance:.1e} allowed")
    if not replay.passed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
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


@app.command()
def tidy(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False)] = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
) -> None:
    """List sidecars and heatmaps whose micrograph is gone; with --yes, remove them."""
    from edge_agent.config import ConfigRefused, configure
    from edge_agent.tidy import look_for_orphans, remove

    settings = configure(config, folders=tuple(folders or ()), output=output)
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


@app.command()
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

    done = []
    with contextlib.closing(run_selftest(folder.absolute(), state=state, model=model)) as checks:
        for item in checks:
            done.append(item)
            if as_json:
                _print_json(check_json(item))
            else:
                for line in check_lines(item):
                    say(line)
    say(summary_line(done), sys.stderr)
    if any(item.verdict == "failed" for item in done):
        raise typer.Exit(EXIT_FAILED)


@models_app.command("list")
def models_list() -> None:
    """List the shipped models; the last one is the default."""
    from edge_agent.model_bundle import read_manifest, shipped_models

    shipped = shipped_models()
    for folder in shipped:
        manifest = read_manifest(folder)
        default = "  (default)" if folder == shipped[-1] else ""
        say(f"{folder.name}  {', '.join(manifest.labels)}{default}")
    if not shipped:
        raise CommandFailed("no model is shipped with this installation; give a bundle with --model PATH")


@models_app.command("show")
def models_show(name: Annotated[str, typer.Argument(metavar="NAME|PATH", show_default=False)]) -> None:
    """Verify a model and print its manifest."""
    from edge_agent.model_bundle import manifest_json, open_bundle

    bundle = open_bundle(name)
    say(str(bundle.path), sys.stderr)
    _print_json(manifest_json(bundle.manifest).decode())


@config_app.command("schema")
def config_schema(
    sidecar: Annotated[bool, typer.Option("--sidecar", help="The sidecar's schema instead.")] = False,
) -> None:
    """Print the JSON Schema of the configuration, or of the sidecar."""
    if sidecar:
        from edge_agent.sidecar import sidecar_schema

        _print_json(json.dumps(sidecar_schema(), indent=2))
    else:
        from edge_agent.config import AgentConfig

        schema = AgentConfig.model_json_schema()
        _print_json(
            json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=2)
        )


def main() -> None:
    """Run a command. Errors that a user can cause are one line on stderr; `--verbose` adds the traceback."""
    arguments, verbose = without_verbose(sys.argv[1:])
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


_standing: Final = OnceAMinute()
_log = logging.getLogger(__name__)


def _tell_live(finding: Finding) -> None:
    """Say what was found; of what fails again and again for one reason, one line a minute."""
    if finding.outcome in ("incomplete", "vanished"):
        return
    line = finding_line(finding, finding.path)
    held_back = 0
    if finding.outcome in ("failed", "interrupted", "crashed"):
        admitted = _standing.admit((finding.outcome, finding.reason))
        if admitted is None:
            return
        held_back = admitted
    more = f"  ({held_back} more like this held back)" if held_back else ""
    _log.info("%s%s", line, more)
    say(f"{datetime.now():%H:%M:%S}  {line}{more}")


def _tell_classified(finding: Finding, *, as_json: bool) -> None:
    if not as_json:
        say(finding_line(finding, finding.path))
    elif finding.sidecar is not None:
        _print_json(json.dumps(json.loads(finding.sidecar.read_bytes())))
    else:
        say(f"{PROGRAM}: {finding.path}: {finding_text(finding)}", sys.stderr)


def _print_json(text: str) -> None:
    """Write JSON as UTF-8 whatever the console's encoding, as JSON must be."""
    with contextlib.suppress(BrokenPipeError):  # a reader that went away is no reason to stop working
        sys.stdout.flush()
        sys.stdout.buffer.write(text.rstrip("\n").encode() + b"\n")
        sys.stdout.buffer.flush()


def _listed(settings: AgentConfig) -> str:
    return ", ".join(str(folder) for folder in settings.folders)


if __name__ == "__main__":
    main()
