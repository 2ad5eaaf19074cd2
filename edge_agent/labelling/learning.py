"""What there is to learn from: new labels of each class since the present model, and how right it is.

New is a label that was given since the present model's first answer, or to one of its answers. Counted is what
holds of each content: the newest word that counts. What people choose to look at is no random sample, so the rate
of corrections flatters no model and condemns none; `Accuracy` is from the blind audit alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.labelling.shares import Share

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

ENOUGH: Final = 30
"""New labels of a class from which on training again is worth it."""
# In SQLite, bare columns come from the row of the maximum.
_NEW_LABELS: Final = """
SELECT label, COUNT(*), SUM(shown_label IS NOT label) FROM (
    SELECT label, shown_label, MAX(at_us) FROM labels
    WHERE content IS NOT NULL AND void = 0 AND action <> 'undo' AND (at_us >= ?2 OR shown_model = ?1)
    GROUP BY content
) GROUP BY label
"""
_FIRST_ANSWER: Final = "SELECT MIN(finished_us) FROM entries WHERE model_sha256 = ?"
_BLIND: Final = """
SELECT shown_decision IS 'abstain', COUNT(*), SUM(label IS shown_label) FROM (
    SELECT label, shown_label, shown_decision, MAX(at_us) FROM labels
    WHERE blind = 1 AND void = 0 AND action <> 'undo' AND content IS NOT NULL AND shown_model = ?
    GROUP BY content
) GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class NewLabels:
    """The new labels of one class (None: not in the list), and of how many the agent had answered otherwise."""

    label: str | None
    corrected: Share

    @property
    def is_enough(self) -> bool:
        """Whether training again is worth it for this class alone."""
        return self.label is not None and self.corrected.number >= ENOUGH


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of the present model's answers that were labelled blind, how many are right, and of what it abstained on."""

    answered: Share
    abstained: Share


def read_first_answer(connection: sqlite3.Connection, model_sha256: str | None) -> int | None:
    """Return when a model first answered, in microseconds since 1970; reads all entries."""
    found: int | None = connection.execute(_FIRST_ANSWER, (model_sha256,)).fetchone()[0]
    return found


def read_new_labels(
    connection: sqlite3.Connection,
    model_sha256: str | None,
    first_answer_us: int | None,
    labels: Sequence[str],
) -> tuple[NewLabels, ...]:
    """Return the new labels of each of `labels`, then of what else was said. Raises what SQLite does."""
    found = {
        label: Share(corrected, number)
        for label, number, corrected in connection.execute(_NEW_LABELS, (model_sha256, first_answer_us))
    }
    # None is last: it is no class.
    others = sorted(found.keys() - set(labels), key=lambda label: (label is None, label or ""))
    return tuple(NewLabels(label, found.get(label, Share(0, 0))) for label in (*labels, *others))


def read_accuracy(connection: sqlite3.Connection, model_sha256: str | None) -> Accuracy:
    """Return how right the present model is, as far as blind labels say. Raises what SQLite does."""
    found = {
        bool(abstained): Share(right, number)
        for abstained, number, right in connection.execute(_BLIND, (model_sha256,))
    }
    return Accuracy(found.get(False, Share(0, 0)), found.get(True, Share(0, 0)))
