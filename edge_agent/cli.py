"""The command `edge-agent`: what a person can ask for, and the exit code of each answer.

Only this module knows options and exit codes. Everything heavy is imported inside the command that needs it,
so that `--help` and `status` answer at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from edge_agent.terminal import (
    counts_text,
    finding_line,
    finding_text,
    printable,
    progress,
    say,
    status_lines,
)

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig
    from edge_agent.sidecar import Finding

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_HELD: Final = 3
EXIT_INTERRUPTED: Final = 130
PROGRAM: Final = "edge-agent"

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
    from edge_agent.service import Service

    settings = configure(config, folders=tuple(folders or ()), model=model, output=output)
    if not settings.folders:
        raise ConfigRefused("no folder to watch: name one, or set `folders` in the configuration")
    for folder in settings.folders:
        if folder.is_file():
            raise ConfigRefused(f"{folder}: is a file, not a folder; `classify` takes files")
        if not folder.is_dir():
            say(f"{folder}: is not there yet; watching for it to appear", sys.stderr)
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

    classifier, tally = Classifier(open_bundle(model)), Tally.empty()
    with progress(len(batch.files), "files") as advance:
        for finding in classify_all(batch, classifier, heatmap=not no_heatmap):
            tally.add(finding)
            _tell_classified(finding, as_json=as_json)
            advance()
    say(f"{len(batch.files)} files: {counts_text(tally.outcomes, tally.labels)}", sys.stderr)
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
        raise _Failed(str(error)) from error
    if numbers is None:
        raise _Failed(f"no agent is running on the state folder {state}")
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
        raise _Failed(str(error)) from error
    say(f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version}, every file as its manifest says")
    verdict = "passed" if replay.passed else "FAILED"
    apart = f"{replay.probabilities:.1e} in probabilities, {replay.cam:.1e} in cam"
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
        raise _Failed("no model is shipped with this installation; give a bundle with --model PATH")


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
    arguments, verbose = _without_verbose(sys.argv[1:])
    # Before NumPy is imported: its BLAS starts a pool of threads otherwise, on a PC that is acquiring.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _set_up_logging(verbose=verbose)
    try:
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # Typer turns KeyboardInterrupt into this, and says nothing
            say(f"{PROGRAM}: interrupted; what was finished stays", sys.stderr)
    except Exception as error:
        code = _explain(error, verbose=verbose)
    sys.exit(code if isinstance(code, int) else 0)


class _Failed(Exception):
    """The command did not reach its aim; the text says why."""


def _explain(error: Exception, *, verbose: bool) -> int:
    if (
        type(error).__name__ == "NoArgsIsHelpError"
    ):  # Typer carries Click inside and does not export the class
        sys.stdout.write(str(error) + "\n")
        return EXIT_USAGE
    if _was_interrupted(error):
        say(f"{PROGRAM}: interrupted; what was finished stays", sys.stderr)
        return EXIT_INTERRUPTED
    if verbose:
        traceback.print_exception(error)
    code, message = _verdict(error)
    for line in message.splitlines() or [""]:
        say(f"{PROGRAM}: {line}", sys.stderr)
    return code


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C stands behind an error: in the middle of an import it comes out as an ImportError."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _verdict(error: Exception) -> tuple[int, str]:
    """Return exit code and message. The classes are imported here because only an error needs them."""
    from edge_agent.config import ConfigRefused
    from edge_agent.status import AlreadyRunning
    from edge_agent.supervisor import ModelRefused, WorkerFailed

    if isinstance(error, AlreadyRunning):
        return EXIT_HELD, str(error)
    if isinstance(error, ConfigRefused | ModelRefused) or type(error).__name__ in (
        "BundleRefused",
        "NothingToDo",
    ):
        return EXIT_USAGE, str(error)
    if isinstance(error, typer.TyperException):
        return EXIT_USAGE, f"{error.format_message()} (see {PROGRAM} --help)"
    if isinstance(error, _Failed | WorkerFailed):
        return EXIT_FAILED, str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return EXIT_FAILED, f"{where}{error.strerror or error}"
    return EXIT_FAILED, f"unforeseen {type(error).__name__}: {error} (--verbose shows where)"


def _without_verbose(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--verbose` out wherever it stands before a `--`, so that nobody has to know its place."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--verbose"]
    return options + arguments[end:], len(options) < end


class _PrintableFormatter(logging.Formatter):
    """Log lines hold names of files: nothing in them may steer the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in logging
        return printable(super().formatMessage(record))


def _set_up_logging(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    if verbose:
        logging.getLogger("edge_agent").setLevel(logging.DEBUG)


def _tell_live(finding: Finding) -> None:
    if finding.outcome not in ("incomplete", "vanished"):
        say(f"{datetime.now():%H:%M:%S}  {finding_line(finding, finding.path)}")


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
