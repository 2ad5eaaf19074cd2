"""The command line of the trainer: which commands there are, and what an error means: exit code and line.

Every stage reads files and writes files, can be interrupted and started again, and shows its progress on stderr.
The commands themselves stand in `trainer.commands`.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trainer.commands import answers, data, keys, learning, limits
from trainer.terminal import say

if TYPE_CHECKING:
    from pydantic import ValidationError

app = typer.Typer(
    help="Trains a classifier on a lab's own labelled micrographs and exports it for edge-agent.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
PROGRAM: Final = "edge-trainer"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
_NEEDED: Final = ("tensorflow", "tf2onnx", "onnx", "jinja2", "matplotlib", "optuna", "sklearn", "yaml")
_USAGE: Final = frozenset(
    {
        "BackboneError",
        "BundleRefused",
        "ExplainError",
        "ForeignModelError",
        "KeyRefused",
        "LearningCurveError",
        "MaterialsError",
        "OptimiseError",
        "PackageError",
        "PrepareError",
        "NothingHeldOut",
        "ReportError",
        "RunError",
        "TrustError",
        "TuningError",
    }
)
"""Errors about what was given, found before any work; by name, so that `--help` need not import TensorFlow."""


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> None:
    """Nothing to do: `main` has taken `--verbose` out already, wherever it stood."""


for _command in (
    data.example,
    data.prepare,
    data.preview,
    learning.tune,
    learning.train,
    learning.crossvalidate,
    learning.learning_curve,
    learning.export,
    learning.import_checkpoint,
    limits.trust,
    limits.operating_point,
    answers.optimise,
    answers.evaluate,
    answers.flips,
    answers.report,
    answers.explain,
    answers.faithfulness,
    answers.publish,
    keys.new_key,
    keys.sign,
):
    app.command()(_command)


def main() -> None:
    """Run a command: an error is one line on stderr; exit 2 for what was given, 1 for work that failed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        say(f"{PROGRAM} needs {', '.join(missing)}; install them, in the clone: pip install -e '.[train]'")
        raise SystemExit(EXIT_USAGE)
    # Before TensorFlow and Keras are imported: another backend would not know our layers, and notes on which
    # instructions the processor has bury the one line that matters.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A service manager's or a batch system's way to say Ctrl-C; nothing is lost by either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments, verbose = _without_verbose(sys.argv[1:])
    try:
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # Typer turns KeyboardInterrupt into this, and says nothing
            say(f"{PROGRAM}: interrupted; the same command goes on from here")
    except Exception as error:
        if verbose:
            traceback.print_exception(error)
        code, message = _verdict(error)
        say(f"{PROGRAM}: {' '.join(message.split())}")
    raise SystemExit(code if isinstance(code, int) else 0)


def _without_verbose(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--verbose` out wherever it stands before a `--`, so that nobody has to know its place."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--verbose"]
    return options + arguments[end:], len(options) < end


def _verdict(error: Exception) -> tuple[int, str]:
    """Return exit code and message."""
    from pydantic import ValidationError

    if isinstance(error, typer.TyperException):
        return EXIT_USAGE, f"{error.format_message()} (see {PROGRAM} --help)"
    if isinstance(error, ValidationError):
        return EXIT_USAGE, _first_fault(error)
    if type(error).__name__ in _USAGE:
        return EXIT_USAGE, str(error)
    if isinstance(error, FileNotFoundError | FileExistsError):
        return EXIT_USAGE, _os_text(error)
    if isinstance(error, OSError):
        return EXIT_FAILED, _os_text(error)
    if type(error).__module__.startswith(("trainer.", "edge_agent.")):
        return EXIT_FAILED, str(error)
    return EXIT_FAILED, f"unforeseen {type(error).__name__}: {error} (--verbose shows where)"


def _os_text(error: OSError) -> str:
    text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if error.errno == errno.ENOSPC:
        text += "; make room on that disk, then run the same command again: it goes on where it stopped"
    return text


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{error.title}: {f'{where}: ' if where else ''}{fault['msg']} (it is {fault['input']!r:.80})"


if __name__ == "__main__":
    main()
