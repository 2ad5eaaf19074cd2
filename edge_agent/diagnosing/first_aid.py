"""The commands that have to work when the installation does not: `doctor`, `support`, `--version`.

They need the standard library alone, and are run before the command line's packages are asked for anything. Only
this module knows which commands these are.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT_INTERRUPTED: Final = 130


def run_first_aid(arguments: Sequence[str]) -> int | None:
    """Run the command if it is one of these, and return its exit code; None when it is another one."""
    try:
        return _run(arguments[0] if arguments else "", arguments[1:])
    except KeyboardInterrupt:
        sys.stderr.write("edge-agent: interrupted\n")
        return _EXIT_INTERRUPTED


def _run(first: str, rest: Sequence[str]) -> int | None:
    if first == "doctor":
        from edge_agent.diagnosing import doctor

        return doctor.main(rest)
    if first == "support":
        from edge_agent.diagnosing import support

        return support.main(rest)
    if first == "--version":
        from edge_agent.diagnosing.installation import version_lines

        sys.stdout.write("\n".join(version_lines()) + "\n")
        return 0
    return None
