"""What is raised where the page has nothing to work on, and how a journal is asked that may be away."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from edge_agent.journal import Journal

_T = TypeVar("_T")


class NoArchive(Exception):
    """No service runs at this moment, or a disk does not answer; the text says which."""


def answered(journal: Journal, question: Callable[[sqlite3.Connection], _T]) -> _T:
    """Return the journal's answer to a question (see `Journal.look`), None too. Raises NoArchive."""
    answer = journal.look(lambda connection: (question(connection),), None)
    if answer is None:
        raise NoArchive("the journal cannot be read at the moment")
    return answer[0]
