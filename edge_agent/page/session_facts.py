"""What a session's summary says beside numbers: which models and instrument, why it abstained, what people said.

Models and instrument are taken from sidecars of the session itself, one a model: what answers now may be another.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.output_places import NameTooLong
from edge_agent.page.entry_row import read_entries
from edge_agent.page.no_archive import NoArchive
from edge_agent.sidecar import as_text, read_record

if TYPE_CHECKING:
    import sqlite3

    from edge_agent.archive import Archive
    from edge_agent.page.entry_filter import Span
    from edge_agent.page.entry_row import EntryRow
    from edge_agent.sidecar import Sidecar

MOST_MODELS: Final = 5
_NO_REASON: Final = "no reason is kept"
_INSIDE: Final = "finished_us >= ?1 AND finished_us < ?2"
_MODELS: Final = f"""
SELECT MAX(id), model_sha256, COUNT(*) FROM entries
WHERE {_INSIDE} AND outcome = 'classified' AND model_sha256 IS NOT NULL GROUP BY model_sha256 ORDER BY 3 DESC
"""  # noqa: S608
_ABSTAINED: Final = f"""
SELECT finding FROM entries JOIN findings ON findings.folder = entries.folder AND findings.name = entries.name
WHERE {_INSIDE} AND decision = 'abstain'
"""  # noqa: S608
_WORDS: Final = f"""
SELECT given_action, COUNT(*) FROM entries WHERE {_INSIDE} AND given_action IS NOT NULL GROUP BY given_action
"""  # noqa: S608
_BLIND: Final = f"""
SELECT COUNT(*), SUM(labels.action <> 'not_in_list' AND labels.label = entries.label)
FROM entries JOIN labels ON labels.content = entries.content
WHERE {_INSIDE} AND given_action IS NOT NULL AND entries.label IS NOT NULL
    AND blind = 1 AND void = 0 AND action <> 'undo'
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What stands in a summary beside the numbers; `abstentions` and `models` the most frequent first.

    `models` are (name and version, files); `instruments` what the configuration, or else the files, say of it.
    `blind_right` of `blind` labels that people gave without having seen the answer agree with it.
    """

    models: tuple[tuple[str, int], ...]
    instruments: tuple[str, ...]
    abstentions: tuple[tuple[str, int], ...]
    confirmed: int
    corrected: int
    not_in_list: int
    blind: int
    blind_right: int


def facts_of(archive: Archive, span: Span) -> SessionFacts:
    """Return what there is to say of a session. Reads a few sidecars. Raises NoArchive."""

    def look(connection: sqlite3.Connection) -> _Kept:
        models = connection.execute(_MODELS, span).fetchall()[:MOST_MODELS]
        examples = [(row, count) for number, _, count in models for row in read_entries(connection, [number])]
        findings = connection.execute(_ABSTAINED, span)
        abstentions = Counter(reason for (text,) in findings for reason in _reasons(text))
        words = dict(connection.execute(_WORDS, span).fetchall())
        return _Kept(examples, abstentions, words, *connection.execute(_BLIND, span).fetchone())

    kept = archive.journal.look(look, None)
    if kept is None:
        raise NoArchive("the journal cannot be read at the moment")
    records = [(row, count, _record(archive, row)) for row, count in kept.examples]
    instruments = (_instrument(record) for *_, record in records if record is not None)
    return SessionFacts(
        models=tuple((_model(row, record), count) for row, count, record in records),
        instruments=tuple(dict.fromkeys(name for name in instruments if name is not None)),
        abstentions=tuple(sorted(kept.abstentions.items(), key=lambda pair: (-pair[1], pair[0]))),
        confirmed=kept.words.get("confirm", 0),
        corrected=kept.words.get("correct", 0),
        not_in_list=kept.words.get("not_in_list", 0),
        blind=kept.blind,
        blind_right=kept.blind_right or 0,
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the journal keeps of a session: an entry a model, and counts."""

    examples: list[tuple[EntryRow, int]]
    abstentions: Counter[str]
    words: dict[str, int]
    blind: int
    blind_right: int | None


def _reasons(finding: str) -> tuple[str, ...]:
    try:
        reasons = json.loads(finding)["reasons"]
        return tuple(map(as_text, reasons)) or (_NO_REASON,)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return (_NO_REASON,)


def _record(archive: Archive, row: EntryRow) -> Sidecar | None:
    try:
        return read_record(archive.plan.place(row.path).sidecar)
    except NameTooLong:
        return None


def _model(row: EntryRow, record: Sidecar | None) -> str:
    if record is not None and record.model.sha256 == row.model_sha256:
        return f"{record.model.name} {record.model.version}"
    return f"model {(row.model_sha256 or '')[:12]}"


def _instrument(record: Sidecar) -> str | None:
    profile = record.agent.instrument
    told = (
        []
        if profile is None
        else [text for text in (profile.name, profile.microscope, profile.camera) if text]
    )
    if not told and record.micrograph is not None and record.micrograph.instrument.device:
        told = [record.micrograph.instrument.device]
    return ", ".join(dict.fromkeys(told)) or None
