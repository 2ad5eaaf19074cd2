"""A worker that speaks the protocol and does what the examined file's name says: die, hang, babble, ..."""

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
    if behaviour == "refused":
        print(json.dumps({"ready": False, "reason": "/models/x: SHA-256 differs"}), flush=True)
        return
    if behaviour == "broken":
        sys.exit("cannot load libonnxruntime")
    if behaviour == "babbles":
        print("Welcome to a library!", flush=True)
        return
    print(json.dumps({"ready": True, "name": "fake", "version": "1", "sha256": "ab" * 32}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer(job, Path(job["path"]))


def answer(job: dict, path: Path) -> None:
    name = path.name
    if "slow" in name:
        time.sleep(0.3)
    if "die" in name:
        print("Segmentation fault in parser", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in name:
        time.sleep(60)
    if "babble" in name:
        print("{ what?", flush=True)
        return
    if "mistaken" in name:
        path = path.with_name("another.dm3")
    print(json.dumps(finding(job, path)), flush=True)
    if "last" in name:
        os._exit(7)


def finding(job: dict, path: Path) -> dict:
    outcome, reason, stamp = "classified", None, None
    try:
        found = path.stat()
        stamp = {
            "size_bytes": found.st_size, "modified_ns": found.st_mtime_ns,
            "device": found.st_dev, "inode": found.st_ino,
        }  # fmt: skip
        if path.read_bytes().endswith(b"..."):
            outcome, reason = "incomplete", "ends in the middle"
            if job["incomplete_is_final"]:
                outcome, reason = "unreadable", "incomplete: ends in the middle"
        if "locked" in path.name:
            outcome, reason = "failed", "outputs cannot be written"
    except FileNotFoundError:
        outcome = "vanished"
    return {
        "path": str(path), "outcome": outcome, "reason": reason, "label": "rod",
        "probability": 0.9,
        "decision": "ungated", "reasons": [], "sidecar": None, "heatmap": None,
        "stamp": stamp, "sha256": None,
        "fingerprint": str(os.getpid()), "model_sha256": "ab" * 32, "milliseconds": 1.0,
    }  # fmt: skip


if __name__ == "__main__":
    main()
