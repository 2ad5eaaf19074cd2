"""Journals with entries in them, for the tests of what the page lists: named files, finished when the test says."""

from __future__ import annotations

import hashlib
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.archive import Archive
from edge_agent.files import FileStamp
from edge_agent.finding import Finding
from edge_agent.output_places import OutputPlan

if TYPE_CHECKING:
    from edge_agent.journal import Journal

ROOT = Path("/data/scope")
START = datetime(2026, 5, 4, 8, tzinfo=UTC)
MODEL = "ef" * 32


def entry(name: str, minutes: float = 0.0, **changes: object) -> Finding:
    """A classified file below ROOT, finished so long after START; its content is that of its name."""
    finished = START + timedelta(minutes=minutes)
    values: dict[str, object] = {
        "outcome": "classified",
        "label": "rod",
        "probability": 0.9,
        "decision": "accept",
        "stamp": FileStamp(10, int(finished.timestamp()) * 10**9, 1, 2),
        "sha256": hashlib.sha256(os.fsencode(name)).hexdigest(),
        "model_sha256": MODEL,
        "finished": finished,
    }
    return Finding(ROOT / name, **(values | changes))  # type: ignore[arg-type]


def unread(name: str, minutes: float = 0.0, reason: str = "is cut off") -> Finding:
    """A file without an answer."""
    nothing = {"label": None, "probability": None, "decision": None, "sha256": None}
    return entry(name, minutes, outcome="unreadable", reason=reason, **nothing)


def record(journal: Journal, *findings: Finding) -> None:
    """Keep findings."""
    for finding in findings:
        journal.record(finding, durable=False)
    journal.flush()


def say(
    journal: Journal,
    name: str,
    action: str,
    label: str | None,
    by: str = "ana",
    at_us: int = 1,
    *,
    blind: bool = False,
    void: bool = False,
) -> None:
    """Put what a person said of a file's content into the journal, and into its entry, as the label desk does."""

    def work(connection) -> None:
        (content,) = connection.execute(
            "SELECT content FROM entries WHERE name = ?", (Path(name).name.encode(),)
        ).fetchone()
        connection.execute(
            'INSERT INTO labels (event, batch, content, folder, name, at_us, "by", action, label, blind, void, '
            "written, record) VALUES (?, 'b', ?, x'2f', ?, ?, ?, ?, ?, ?, ?, 1, '{}')",
            (uuid.uuid4().hex, content, name.encode(), at_us, by, action, label, blind, void),
        )
        if not void:
            connection.execute(
                "UPDATE entries SET given_action = ?, given_label = ?, given_by = ?, given_at_us = ? "
                "WHERE content = ?",
                (action, label, by, at_us, content),
            )

    journal.change(work)


def archive_of(journal: Journal, state: Path, roots: tuple[Path, ...] = (ROOT,)) -> Archive:
    """The archive of a service with this journal."""
    return Archive(journal, OutputPlan(), roots, state, "test")
