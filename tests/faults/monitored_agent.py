"""The live agent with its monitor, until it has found a number of files: what `watch` runs, without its terminal.

Prints the address of the page, and a line a finding. Arguments: FOLDER STATE MODEL PORT FILES [EVENTS]; EVENTS is
JSON, 0 as FILES is never enough, and "off" as PORT is no page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge_agent.config import AgentConfig, EventsConfig, PageConfig
from edge_agent.live_page.monitor import Monitor
from edge_agent.logs import log_to_terminal
from edge_agent.service import Service
from edge_agent.status import Surroundings


def main(folder: str, state: str, model: str, port: str, files: str, events: str = "{}") -> None:
    log_to_terminal(verbose=False)
    page = PageConfig(enabled=False) if port == "off" else PageConfig(port=int(port))
    monitor = Monitor(page, EventsConfig(**json.loads(events)))
    left = int(files)

    def hear(found) -> None:
        nonlocal left
        monitor.note_finding(found)
        print(found.outcome, found.path.name, flush=True)
        left -= 1
        if left == 0:
            service.stop()

    service = Service(
        AgentConfig(
            folders=(Path(folder),), state=Path(state), model=model, quiet_seconds=0.1, scan_seconds=0.5,
            gap_seconds=0.0, free_space_floor_mib=0, instrument={"name": "Titan 1"},
        ),
        on_finding=hear,
        on_status=monitor.note_status,
        on_archive=monitor.meet,
        surroundings=lambda: Surroundings(page=monitor.word),
    )  # fmt: skip
    monitor.start()
    print(monitor.word, flush=True)
    service.run()
    monitor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
