"""What a session's summary says beside numbers: which models and instrument, why it abstained, what people said.

Models and instrument are told by sidecars of the session itself, one a model: what answers now may be another.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.page.entry_row import read_entries
from edge_agent.page.no_archive import answered
from edge_agent.sidecar import as_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

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
    """What the journal says beside the numbers; `abstentions` the most frequent first.

    `answered` is a file of each model and how many that one answered. `blind_right` of `blind` labels that people
    gave without having seen the answer agree with it.
    """

    answered: tuple[tuple[EntryRow, int], ...]
    abstentions: tuple[tuple[str, int], ...]
    confirmed: int
    corrected: int
    not_in_list: int
    blind: int
    blind_right: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Who answered and what took the pictures: models by name with their files, instruments by name."""

    models: tuple[tuple[str, int], ...]
    instruments: tuple[str, ...]


def facts_of(archive: Archive, span: Span) -> SessionFacts:
    """Return what the journal says of a session. Raises NoArchive."""

    def look(connection: sqlite3.Connection) -> SessionFacts:
        models = connection.execute(_MODELS, span).fetchall()[:MOST_MODELS]
        answered = ((row, count) for number, _, count in models for row in read_entries(connection, [number]))
        findings = connection.execute(_ABSTAINED, span)
        abstentions = Counter(reason for (text,) in findings for reason in _reasons(text))
        words = dict(connection.execute(_WORDS, span).fetchall())
        blind, blind_right = connection.execute(_BLIND, span).fetchone()
        return SessionFacts(
            answered=tuple(answered),
            abstentions=tuple(sorted(abstentions.items(), key=lambda pair: (-pair[1], pair[0]))),
            confirmed=words.get("confirm", 0),
            corrected=words.get("correct", 0),
            not_in_list=words.get("not_in_list", 0),
            blind=blind,
            blind_right=blind_right or 0,
        )

    return answered(archive.journal, look)


def origin_of(answered: Iterable[tuple[EntryRow, int, Sidecar | None]]) -> Origin:
    """Return who answered, from a file of each model with its sidecar, as far as that can be read."""
    models, instruments = [], []
    for row, count, record in answered:
        short = f"model {(row.model_sha256 or '')[:12]}"
        models.append((short if record is None else f"{record.model.name} {record.model.version}", count))
        instruments += [] if record is None else _instrument(record)
    return Origin(tuple(models), tuple(dict.fromkeys(instruments)))


def _reasons(finding: str) -> tuple[str, ...]:
    try:
        reasons = json.loads(finding)["reasons"]
        return tuple(map(as_text, reasons)) or (_NO_REASON,)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return (_NO_REASON,)


def _instrument(record: Sidecar) -> list[str]:
    """What the configuration says of it, else the file: one name, or none."""
    profile = record.agent.instrument
    told = [] if profile is None else [profile.name, profile.microscope, profile.camera]
    if not any(told) and record.micrograph is not None:
        told = [record.micrograph.instrument.device]
    named = ", ".join(dict.fromkeys(text for text in told if text))
    return [named] if named else []
