"""The real `edge-agent` with `poison_worker.py` for its worker; used as the prefix of a harness command."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = (sys.executable, "-P", str(Path(__file__).resolve()))


def main() -> None:
    sys.path.insert(0, str(REPOSITORY))
    from edge_agent import cli, service

    # The last word lets the harness see what this process is.
    command = (sys.executable, "-P", str(Path(__file__).with_name("poison_worker.py")), "edge_agent.worker")
    service.Service = partial(service.Service, worker_command=command)
    # What stands before it is how the harness would have run the real one.
    sys.argv = ["edge-agent", *sys.argv[sys.argv.index("watch") :]]
    cli.main()


if __name__ == "__main__":
    main()
