"""Runs the agent that follows, and notes in $SCOPEWATCH_PUBLISHED when each finding is handed to the page.

A line a finding: milliseconds since 1970, and the file's name. For `page_figures.py`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.live_page.monitor import Monitor

if TYPE_CHECKING:
    from edge_agent.finding import Finding


def main() -> None:
    note = Path(os.environ["SCOPEWATCH_PUBLISHED"]).open("a", buffering=1, encoding="utf-8")
    hear = Monitor.note_finding

    def note_finding(self: Monitor, finding: Finding) -> None:
        note.write(f"{time.time() * 1000:.1f} {finding.path.name}\n")
        hear(self, finding)

    Monitor.note_finding = note_finding  # type: ignore[method-assign]
    code = sys.argv.index("-c")
    source, sys.argv = sys.argv[code + 1], ["-c", *sys.argv[code + 2 :]]
    exec(source, {"__name__": "__main__"})


if __name__ == "__main__":
    main()
