"""The blind audit: which micrographs are offered to be labelled without their answer, and that nothing was shown.

One content in twenty is drawn by the last digits of its own hash: nobody chooses, and neither the answer nor how
sure it was has a part in it, so what people say of these is an unbiased sample. A ticket proves that a label was
given to what the audit offered. What it cannot know is whether somebody saw the answer elsewhere before; therefore
the newest files, which every page shows, are not offered yet, nor is anything that the person labelled already.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

OFFERED_SHARE: Final = 0.05
TICKET_SECONDS: Final = 3600.0
"""Who takes longer has done something else meanwhile."""
SHOWN_LATELY: Final = 24
"""Of so many newest files the page shows the answers in its strip."""
# The last four hex digits below 0ccd: 3277 of 65,536. A fingerprint ends in a hash as well. Of files with the same
# bytes the newest is taken; the order is by other digits of the hash: as good as random, and the same every time.
_OFFERED: Final = """
SELECT MAX(id), content FROM entries
WHERE outcome = 'classified' AND label IS NOT NULL AND substr(content, -4) < '0ccd'
AND NOT EXISTS (SELECT 1 FROM labels WHERE labels.content = entries.content AND labels."by" = ?)
GROUP BY content HAVING MAX(id) <= ? AND MAX(id) NOT IN (SELECT value FROM json_each(?))
ORDER BY MAX(model_sha256 IS ?) DESC, substr(content, -12, 8)
"""
_NEWEST: Final = "SELECT id FROM entries ORDER BY id DESC LIMIT 1 OFFSET ?"


class Offer(NamedTuple):
    """An entry to be labelled blind, and how many there are with it."""

    id: int
    content: str
    left: int


def read_offer(
    connection: sqlite3.Connection, by: str, model_sha256: str | None, passed_over: Sequence[int] = ()
) -> Offer | None:
    """Return what is offered to a person next, the present model's answers first. Raises what SQLite does."""
    newest = connection.execute(_NEWEST, (SHOWN_LATELY,)).fetchone()
    if newest is None:
        return None
    values = (by, newest[0], json.dumps(list(passed_over)), model_sha256)
    rows = connection.execute(_OFFERED, values).fetchall()
    return Offer(rows[0][0], rows[0][1], len(rows)) if rows else None


def may_be_blind(connection: sqlite3.Connection, entry: int, by: str, batch: str) -> str | None:
    """Return the entry's content, None where this person said something of it before, by another action."""
    row = connection.execute(
        "SELECT content FROM entries WHERE id = ? AND NOT EXISTS ("
        'SELECT 1 FROM labels WHERE labels.content = entries.content AND labels."by" = ? AND labels.batch <> ?)',
        (entry, by, batch),
    ).fetchone()
    return None if row is None else row[0]


@dataclass(frozen=True, slots=True)
class Tickets:
    """Tickets that only this object can make and know again; with the agent's process they end."""

    secret: bytes = secrets.token_bytes(32)
    clock: Callable[[], float] = time.monotonic

    def ticket(self, entry: int, content: str, by: str) -> str:
        """Return the ticket for a person to label an entry blind, from now on."""
        since = f"{self.clock():.0f}"
        return f"{since}.{self._mark(entry, content, by, since)}"

    def holds(self, ticket: str, entry: int, content: str, by: str) -> bool:
        """Whether it is the ticket of this person for this entry, and not too old."""
        since, _, mark = ticket.partition(".")
        expected = self._mark(entry, content, by, since)
        if not hmac.compare_digest(mark.encode("utf-8", "replace"), expected.encode()):
            return False
        return self.clock() - float(since) <= TICKET_SECONDS

    def _mark(self, entry: int, content: str, by: str, since: str) -> str:
        text = json.dumps([entry, content, by, since])
        return hmac.new(self.secret, text.encode(), "sha256").hexdigest()
