"""The console script `edge-agent`: what still works when the installation does not.

`doctor`, `support` and `--version` are answered by the standard library alone; every other command needs packages
that may be broken on this PC, which is then said in one line instead of a traceback.
"""

from __future__ import annotations

import sys
import traceback
from typing import Final

PROGRAM: Final = "edge-agent"
EXIT_FAILED: Final = 1


def main() -> None:
    """Run a command, without the command line's packages where they are not needed."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    first = arguments[0] if arguments else ""
    if first == "doctor":
        from edge_agent.deploy import doctor

        _end(doctor.main(arguments[1:]))
    if first == "--version":
        from edge_agent.deploy.installation import version_lines

        sys.stdout.write("\n".join(version_lines()) + "\n")
        _end(0)
    _end(_run_command_line())


def _run_command_line() -> int:
    try:
        from edge_agent import cli
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # whatever a broken wheel raises at import
        return _say_broken(error)
    cli.main()
    return 0


def _say_broken(error: Exception) -> int:
    """Say which module could not be imported, and where to ask what is wrong."""
    if "--verbose" in sys.argv:
        traceback.print_exception(error)
    module = getattr(error, "name", None) or _importing(error)
    sys.stderr.write(
        f"{PROGRAM}: this installation is broken: {module}: {error}; "
        f"`{PROGRAM} doctor` says what is wrong and what to do\n"
    )
    return EXIT_FAILED


def _importing(error: Exception) -> str:
    """Return the name of the innermost module that was being imported."""
    frames = traceback.walk_tb(error.__traceback__)
    names = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return next((name for name in reversed(names) if not name.startswith("importlib")), "unknown")


def _end(code: int) -> None:
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 0
    sys.exit(code)


if __name__ == "__main__":
    main()
