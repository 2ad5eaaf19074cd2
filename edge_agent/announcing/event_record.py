"""An event: what is told elsewhere of a finding, or of the agent's own state (`scopewatch.event/1`).

No path leaves this PC: a file is named by its place below its watched folder, a folder by its own name. Only
this module knows the form, and which changes of the state are worth an event.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edge_agent import __version__
from edge_agent.output_places import readable_path
from edge_agent.sidecar import RECORDED, as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.finding import Finding
    from edge_agent.status import AgentStatus

SCHEMA: Final = "scopewatch.event/1"
EventKind = Literal[
    "finding",
    "started",
    "stopped",
    "model_changed",
    "folder_missing",
    "folder_back",
    "disk_low",
    "disk_back",
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AgentPart(_Part):
    """Who sends this."""

    version: str


class ModelPart(_Part):
    """The model that answers; name and version are null where only the hash is known yet."""

    name: str | None
    version: str | None
    sha256: str


class EventRecord(_Part):
    """One event. `id` is the same when it is sent twice. What does not belong to its kind is null.

    `file` is below the watched folder, with "/" between folders; `subject` names the watched folder, or the use of
    the disk ("state", "outputs"), that a state event is about.
    """

    schema_name: Literal["scopewatch.event/1"] = Field(SCHEMA, alias="schema")
    id: str
    time: AwareDatetime
    event: EventKind
    agent: AgentPart = AgentPart(version=__version__)
    instrument: str | None = None
    file: str | None = None
    source_sha256: str | None = None
    outcome: str | None = None
    reason: str | None = None
    label: str | None = None
    decision: str | None = None
    reasons: tuple[str, ...] = ()
    probability: float | None = None
    model: ModelPart | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is sent."""

    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Troubles:
    """What of the state is told when it comes and when it goes."""

    folders: frozenset[str] = frozenset()
    disks: frozenset[str] = frozenset()


class EventWriter:
    """Write events; belongs to whoever holds a lock around it."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(6)
        self._numbers = count(1)
        self._status: AgentStatus | None = None
        self._model: ModelPart | None = None
        self._troubles = _Troubles()

    def of_finding(self, finding: Finding) -> Event | None:
        """Return the event of a finding that stands; None of one that is tried again."""
        if finding.outcome not in RECORDED:
            return None
        roots = [] if self._status is None else [folder.path for folder in self._status.folders]
        return self._event(
            "finding",
            file=_below(readable_path(finding.path), roots),
            source_sha256=finding.sha256,
            outcome=finding.outcome,
            reason=_without(finding.reason, roots),
            label=None if finding.label is None else as_text(finding.label),
            decision=finding.decision,
            reasons=finding.reasons,
            probability=finding.probability,
            model=self._model_of(finding.model_sha256),
        )

    def of_status(self, status: AgentStatus) -> Iterator[Event]:
        """Return what the agent's new numbers change, as events."""
        is_first, self._status = self._status is None, status
        if is_first:
            yield self._event("started")
        if status.model is not None:
            model = ModelPart(**status.model.model_dump(exclude={"labels"}))
            if self._model is not None and model.sha256 != self._model.sha256:
                yield self._event("model_changed", model=model)
            self._model = model
        before, self._troubles = self._troubles, _troubles(status)
        now = self._troubles
        changes: tuple[tuple[EventKind, frozenset[str]], ...] = (
            ("folder_missing", now.folders - before.folders),
            ("folder_back", before.folders - now.folders),
            ("disk_low", now.disks - before.disks),
            ("disk_back", before.disks - now.disks),
        )
        for kind, subjects in changes:
            for subject in sorted(subjects):
                yield self._event(kind, subject=PurePath(subject).name or subject)

    def of_end(self) -> Event:
        """Return the event that the agent stopped."""
        return self._event("stopped")

    def _model_of(self, sha256: str | None) -> ModelPart | None:
        if sha256 is None:
            return None
        known = self._model is not None and self._model.sha256 == sha256
        return self._model if known else ModelPart(name=None, version=None, sha256=sha256)

    def _event(self, kind: EventKind, **values: object) -> Event:
        record = EventRecord.model_validate(
            {
                "schema": SCHEMA,
                "id": f"{self._run}-{next(self._numbers)}",
                "time": datetime.now(UTC),
                "event": kind,
                "instrument": self._status.instrument if self._status else None,
                **values,
            }
        )
        return Event(record.id, record.model_dump_json(by_alias=True).encode())


def _troubles(status: AgentStatus) -> _Troubles:
    return _Troubles(
        frozenset(folder.path for folder in status.folders if not folder.present),
        frozenset("state" if disk.folder == status.state else "outputs" for disk in status.disks if disk.low),
    )


def _below(path: str, roots: list[str]) -> str:
    for root in roots:
        place = PurePath(path)
        if place.is_relative_to(root) and place != PurePath(root):
            return place.relative_to(root).as_posix()
    return PurePath(path).name


def _without(reason: str | None, roots: list[str]) -> str | None:
    """Take the watched folders' own places out of a reason, which may name files."""
    text = None if reason is None else as_text(reason)
    for root in roots:
        text = None if text is None else text.replace(root, "…")
    return text
