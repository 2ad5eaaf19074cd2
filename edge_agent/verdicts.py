"""What an error means for the person who typed the command: an exit code and one line on stderr.

Only this module knows exit codes. The classes of errors are imported where one has to be judged, because
only an error needs them.
"""

from __future__ import annotations

import sys
import traceback
from typing import Final

import typer

from edge_agent.diagnosing.installation import broken_text
from edge_agent.terminal import say

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_HELD: Final = 3
EXIT_INTERRUPTED: Final = 130
PROGRAM: Final = "edge-agent"


class CommandFailed(Exception):
    """The command did not reach its aim; the text says why."""


def explain(error: Exception, *, verbose: bool) -> int:
    """Say on stderr what went wrong, and return the exit code."""
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
    if isinstance(error, ImportError):
        return EXIT_FAILED, broken_text(error)
    from edge_agent.config import ConfigRefused
    from edge_agent.status import AlreadyRunning
    from edge_agent.supervisor import ModelRefused, WorkerFailed

    if isinstance(error, AlreadyRunning):
        return EXIT_HELD, str(error)
    if isinstance(error, ConfigRefused | ModelRefused) or type(error).__name__ in (
        "BundleRefused",
        "KeyRefused",
        "NothingToDo",
        "StoreRefused",
        "StoreUnreadable",
        "PackageRefused",
        "ServiceRefused",
    ):
        return EXIT_USAGE, str(error)
    if isinstance(error, typer.TyperException):
        return EXIT_USAGE, f"{error.format_message()} (see {PROGRAM} --help)"
    if isinstance(error, CommandFailed | WorkerFailed) or type(error).__name__ in (
        "PackageFailed",
        "ServiceFailed",
    ):
        return EXIT_FAILED, str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return EXIT_FAILED, f"{where}{error.strerror or error}"
    return EXIT_FAILED, f"unforeseen {type(error).__name__}: {error} (--verbose shows where)"


def without_verbose(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--verbose` out wherever it stands before a `--`, so that nobody has to know its place."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--verbose"]
    return options + arguments[end:], len(options) < end
