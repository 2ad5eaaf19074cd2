"""The console script `edge-agent`, also as `python -m edge_agent`.

First aid is answered by the standard library alone. Every other command needs packages that may be broken on this
PC, which is then said in one line instead of a traceback.
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
    try:
        sys.exit(_run([argument for argument in sys.argv[1:] if argument != "--verbose"]))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _run(arguments: list[str]) -> int:
    from edge_agent.diagnosing.first_aid import run_first_aid

    code = run_first_aid(arguments)
    return _run_command_line() if code is None else code


def _run_command_line() -> int:
    try:
        from edge_agent import cli

        cli.main()
    except Exception as error:  # whatever a broken wheel raises at import; `cli.main` itself raises nothing
        if "--verbose" in sys.argv:
            traceback.print_exception(error)
        from edge_agent.diagnosing.installation import broken_text

        sys.stderr.write(f"{PROGRAM}: {broken_text(error)}\n")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    main()
