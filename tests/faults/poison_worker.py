"""The real worker, except that it does what a file's name says at the moment in which it would parse the file.

Run by `poison_agent.py`. Each such moment is noted in the file that SCOPEWATCH_POISON_LOG names, a JSON line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LOG_VARIABLE = "SCOPEWATCH_POISON_LOG"
SLOW_SECONDS = 2.0


def _behave(name: str) -> None:
    if "segv" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "abort" in name:
        os.abort()
    if "busy" in name:
        while True:
            pass
    if "sleep" in name:
        time.sleep(3600)
    if "bomb" in name:
        hoard = []
        while True:
            hoard.append(b"x" * 2**26)
    if "slow" in name:
        time.sleep(SLOW_SECONDS)


def _note(name: str) -> None:
    line = json.dumps({"name": name, "pid": os.getpid(), "moment": time.time()}) + "\n"
    descriptor = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def main() -> None:
    sys.path.insert(0, str(REPOSITORY))
    from edge_agent import examine, worker

    read = examine.read_micrograph

    def read_or_misbehave(path, *arguments, **options):
        _note(path.name)
        _behave(path.name)
        return read(path, *arguments, **options)

    examine.read_micrograph = read_or_misbehave
    worker.main()


if __name__ == "__main__":
    main()
