"""A worker that speaks the protocol and does what the examined file's name says.

die, hang (sleeps), spin (computes for ever), bomb (ran out of memory), babble, mistaken, flood, litter, slow,
last (dies after its answer), deaf (reads no further job), unasked (speaks once more than asked), unsure.
How it starts is the name of the model, or the text of the file that the model names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    behaviour = settings["model"]
    if Path(behaviour).is_file():
        behaviour = Path(behaviour).read_text()
    never_ready(behaviour)
    told = {
        "in a launcher": {"pid": 4711},
        "tells whether it proves": {"version": "proved" if settings["prove"] else "not proved"},
        "with usual ranges": {"usual": {"confidence": [0.5, 1.0], "novelty": None}},
    }.get(behaviour, {})
    say({"ready": True, "name": behaviour, "version": "1", "sha256": "ab" * 32} | told)
    for line in sys.stdin:
        if not line.strip():
            break
        job = json.loads(line)
        answer(job, Path(job["path"]), settings)
    if behaviour == "stubborn":
        time.sleep(60)


def never_ready(behaviour: str) -> None:
    if behaviour == "refused":
        say({"ready": False, "reason": "/models/x: SHA-256 differs"})
        sys.exit()
    if behaviour == "broken":
        sys.exit("cannot load libonnxruntime")
    if behaviour == "short of memory":
        sys.exit("the model cannot be loaded: the worker needed more memory than this PC has to give")
    if behaviour == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "babbles":
        print("Welcome to a library!", flush=True)
        sys.exit()
    if behaviour == "never ready":
        time.sleep(60)


def answer(job: dict, path: Path, settings: dict) -> None:
    # What only has to be recorded is not looked at.
    name = path.name if job["quarantine"] is None else ""
    if "slow" in name:
        time.sleep(0.7)
    if "litter" in name:
        path.with_name(f".scopewatch-{settings['owner']}-0123456789abcdef.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    never_answer(name)
    if "babble" in name:
        print("{ what?", flush=True)
        return
    if "mistaken" in name:
        path = path.with_name("another.dm3")
    if "bomb" in name:
        say(finding(job, path) | {"outcome": "crashed", "reason": "needed more memory"})
        sys.exit(0)
    say(finding(job, path))
    after_the_answer(name, job, path)


def never_answer(name: str) -> None:
    if "die" in name:
        print("Segmentation fault in parser", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in name:
        time.sleep(60)
    while "spin" in name:
        pass
    while "flood" in name:
        print("x" * 1_000_000)


def after_the_answer(name: str, job: dict, path: Path) -> None:
    if "unasked" in name:
        say(finding(job, path))
    if "deaf" in name:
        time.sleep(60)
    if "last" in name:
        os._exit(7)


def say(values: dict) -> None:
    print(json.dumps(values), flush=True)


def finding(job: dict, path: Path) -> dict:
    outcome, reason, stamp = "classified", None, None
    try:
        found = path.stat()
        stamp = {
            "size_bytes": found.st_size, "modified_ns": found.st_mtime_ns,
            "device": found.st_dev, "inode": found.st_ino,
        }  # fmt: skip
        if job["quarantine"] is not None:
            outcome, reason = "quarantined", job["quarantine"]
        elif path.stat().st_size < 1_000_000 and path.read_bytes().endswith(b"..."):
            outcome, reason = "incomplete", "ends in the middle"
            if job["incomplete_is_final"]:
                outcome, reason = "unreadable", "incomplete: ends in the middle"
        if "locked" in path.name:
            outcome, reason = "failed", "outputs cannot be written"
    except FileNotFoundError:
        outcome = "vanished"
    return {
        "path": str(path), "outcome": outcome, "reason": reason, "label": "rod",
        "probability": 0.2 if "unsure" in path.name else 0.9,
        "decision": "ungated", "reasons": [], "sidecar": None, "heatmap": None,
        "stamp": stamp, "sha256": None,
        "fingerprint": str(os.getpid()), "model_sha256": "ab" * 32, "milliseconds": 1.0,
    }  # fmt: skip


if __name__ == "__main__":
    main()
