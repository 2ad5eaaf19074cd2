"""Entries that people can label: a journal with finished files, and the archive around it."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from edge_agent.archive import Archive
from edge_agent.files import FileStamp
from edge_agent.finding import Finding
from edge_agent.labelling.label_record import LabelEvent, Shown
from edge_agent.output_places import OutputPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from edge_agent.journal import Journal

MODEL = "ef" * 32
STARTED = datetime(2026, 5, 3, 8, tzinfo=UTC)


def content(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def answered(path: Path, number: int, **changes: object) -> Finding:
    """The finding on a file whose content is that of `number`: rod or round, in turn."""
    values = {
        "label": ("rod", "round")[number % 2],
        "probability": 0.75,
        "decision": "accept",
        "stamp": FileStamp(10, 10**18 + number, 1, 1),
        "sha256": content(number),
        "model_sha256": MODEL,
        "finished": STARTED + timedelta(seconds=number),
    }
    return Finding(path, "classified", **(values | changes))


def archive_of(journal: Journal, tmp_path: Path, output: Path | None = None) -> Archive:
    return Archive(
        journal,
        OutputPlan(output, (tmp_path / "data",)),
        (tmp_path / "data",),
        tmp_path / "state",
        "ab12cd34",
    )


def fill(journal: Journal, folder: Path, numbers: Iterable[int], **changes: object) -> list[Path]:
    """Finish files `m0.dm3`, `m1.dm3` ... in `folder`; their entries get the ids from 1 on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in numbers:
        path = folder / f"m{number}.dm3"
        path.write_bytes(b"%d" % number)
        journal.record(answered(path, number, **changes), durable=False)
        paths.append(path)
    journal.flush()
    return paths


def event(name: str = "e1", **changes: object) -> LabelEvent:
    values = {
        "id": name,
        "at": STARTED,
        "by": "ann",
        "action": "correct",
        "label": "rod",
        "shown": Shown(label="round", probability=0.75, decision="accept", model_sha256=MODEL),
        "blind": False,
        "batch": "b1",
        "source_sha256": content(0),
        "fingerprint": None,
    }
    return LabelEvent(**(values | changes))


def given(journal: Journal) -> dict[int, tuple[str | None, str | None, str | None]]:
    """What the journal's entries are said to show: action, label, by."""
    rows = journal.look(
        lambda connection: connection.execute(
            "SELECT id, given_action, given_label, given_by FROM entries"
        ).fetchall(),
        [],
    )
    return {number: (action, label, by) for number, action, label, by in rows}


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def as_root() -> bool:
    return os.name == "posix" and os.geteuid() == 0
