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
EXIT_INTERRUPTED: Final = 130


def main() -> None:
    """Run a command, without the command line's packages where they are not needed."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    first = arguments[0] if arguments else ""
    if first == "doctor":
        from edge_agent.deploy import doctor

        _end(doctor.main(arguments[1:]))
    if first == "support":
        from edge_agent.deploy import support

        _end(support.main(arguments[1:]))
    if first == "--version":
        from edge_agent.deploy.installation import version_lines

        sys.stdout.write("\n".join(version_lines()) + "\n")
        _end(0)
    _end(_run_command_line())


def _run_command_line() -> int:
    try:
        from edge_agent import cli

        cli.main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # whatever a broken wheel raises at import; `cli.main` itself raises nothing
        if "--verbose" in sys.argv:
            traceback.print_exception(error)
        from edge_agent.deploy.installation import broken_text

        sys.stderr.write(f"{PROGRAM}: {broken_text(error)}\n")
        return EXIT_FAILED
    return 0


def _end(code: int) -> None:
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 0
    sys.exit(code)


if __name__ == "__main__":
    main()
