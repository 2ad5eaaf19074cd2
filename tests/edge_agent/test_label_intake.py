"""Label files are read back into a journal that does not know them: deleting the journal loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from labelled import answered, archive_of, content, event, fill, until
from labelled import given as given_in

from edge_agent.journal import Journal, JournalBusy
from edge_agent.labelling import label_intake
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_intake import LabelIntake
from edge_agent.labelling.label_log import add_events
from edge_agent.labelling.label_words import NothingToDo, Order
from edge_agent.output_places import OutputPlan

if TYPE_CHECKING:
    import sqlite3

PLAN = OutputPlan()
EVERYTHING = (
    'SELECT event, batch, content, folder, name, at_us, "by", action, label, blind, undoes, void, written, record '
    "FROM labels ORDER BY event"
)


def rows(journal: Journal, question: str = EVERYTHING) -> list[tuple]:
    return journal.look(lambda connection: connection.execute(question).fetchall(), [])


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as journal:
        yield journal


def test_a_new_journal_knows_all_that_the_lost_one_did(tmp_path):
    with Journal(tmp_path / "lost") as lost:
        paths = fill(lost, tmp_path / "data", range(4))
        desk = LabelDesk(archive_of(lost, tmp_path))
        desk.give(Order("b1", "correct", "faceted", "ann", (1, 2, 3)))
        desk.give(Order("b2", "not_in_list", None, "bob", (3,), blind=True))
        desk.give(Order("b3", "confirm", None, "ann", (4,)))
        desk.undo("ann", "u1")
        desk.undo("ann", "u2")
        desk.redo("ann", "r1")
        until(lambda: desk.state("ann").waiting is None)
        before, held, undoable = rows(lost), given_in(lost), desk.state("ann").undo
        desk.close()

    with Journal(tmp_path / "new") as new:
        intake = LabelIntake(new, PLAN)
        assert sum(intake.take(path) for path in paths) == len(before)
        fill(new, tmp_path / "data", range(4))

        assert rows(new) == before
        assert given_in(new) == held
        desk = LabelDesk(archive_of(new, tmp_path))
        assert desk.state("ann").undo == undoable
        assert desk.undo("ann").batch
        with pytest.raises(NothingToDo):
            desk.undo("ann")
        desk.close()


def test_what_the_journal_knows_is_not_taken_again(journal, tmp_path):
    (path,) = fill(journal, tmp_path / "data", [0])
    add_events(PLAN.place(path).labels, [event("a")])
    intake = LabelIntake(journal, PLAN)

    assert [intake.take(path), intake.take(path)] == [1, 0]


def test_an_undo_that_came_with_a_copied_folder_takes_its_word_away(journal, tmp_path):
    (path,) = fill(journal, tmp_path / "data", [0])
    intake, labels = LabelIntake(journal, PLAN), PLAN.place(path).labels
    add_events(labels, [event("a")])
    intake.take(path)
    assert given_in(journal)[1] == ("correct", "rod", "ann")

    add_events(labels, [event("b", action="undo", label=None, undoes="a", batch="b2")])
    intake.take(path)

    assert given_in(journal)[1] == (None, None, None)


def test_entries_of_the_same_bytes_elsewhere_hear_of_it(journal, tmp_path):
    (path,) = fill(journal, tmp_path / "data", [0])
    copy = tmp_path / "data" / "copy.dm3"
    journal.record(answered(copy, 0))
    add_events(PLAN.place(path).labels, [event("a")])

    LabelIntake(journal, PLAN).take(path)

    assert set(given_in(journal).values()) == {("correct", "rod", "ann")}


def test_what_was_said_of_earlier_bytes_under_the_name_stays_with_them(journal, tmp_path):
    (path,) = fill(journal, tmp_path / "data", [0])
    add_events(PLAN.place(path).labels, [event("a", source_sha256=content(77))])

    assert LabelIntake(journal, PLAN).take(path) == 1

    assert given_in(journal)[1] == (None, None, None)


@pytest.mark.parametrize(
    "found", [b"{half", b'{"schema": "scopewatch.label/2"}'], ids=["damaged", "a later version"]
)
def test_a_file_that_cannot_be_read_stays_and_is_told_once_a_minute(journal, tmp_path, caplog, found):
    paths = fill(journal, tmp_path / "data", range(3))
    intake = LabelIntake(journal, PLAN)
    for path in paths:
        PLAN.place(path).labels.write_bytes(found)

    assert [intake.take(path) for path in paths] == [0, 0, 0]

    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("(not of this version's form); the file stays as it is")
    assert all(PLAN.place(path).labels.read_bytes() == found for path in paths)


def test_a_journal_that_is_busy_gets_them_later(journal, tmp_path, monkeypatch):
    paths = fill(journal, tmp_path / "data", range(2))
    for number, path in enumerate(paths):
        add_events(PLAN.place(path).labels, [event(f"e{number}", source_sha256=content(number))])
    intake, change = LabelIntake(journal, PLAN), journal.change

    def busy(*_, **__):
        raise JournalBusy

    monkeypatch.setattr(label_intake, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(journal, "change", busy)
    assert intake.take(paths[0]) == 0
    monkeypatch.setattr(journal, "change", change)
    intake.retry()
    assert len(rows(journal)) == 1
    intake.take(paths[1])

    assert len(rows(journal)) == 2


def test_nothing_is_asked_of_the_journal_where_nobody_said_anything(journal, tmp_path, monkeypatch):
    paths = fill(journal, tmp_path / "data", range(3))
    monkeypatch.setattr(journal, "change", lambda *_, **__: pytest.fail("asked"))

    assert [LabelIntake(journal, PLAN).take(path) for path in paths] == [0, 0, 0]


def test_an_action_that_is_still_being_kept_is_left_alone(journal, tmp_path):
    """Rows of a batch that is complete and not effective yet look as if they were void and written."""
    (path,) = fill(journal, tmp_path / "data", [0])
    add_events(PLAN.place(path).labels, [event("a", batch="old")])

    def half_way(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO label_batches (batch, at_us, by, deed, count, skipped, state, standing) "
            "VALUES ('b9', 9, 'ann', 'correct', 1, 0, 'complete', 'counts')"
        )
        staged = event("s", batch="b9", label="round")
        connection.execute(
            "INSERT INTO labels (event, batch, content, folder, name, at_us, by, action, label, blind, void, "
            "written, record) VALUES ('s', 'b9', ?, ?, ?, 2000000000000000, 'ann', 'correct', 'round', 0, 1, 1, ?)",
            (content(0), str(path.parent).encode(), path.name.encode(), staged.model_dump_json()),
        )

    journal.change(half_way)
    LabelIntake(journal, PLAN).take(path)

    assert rows(journal, "SELECT event, void, written FROM labels ORDER BY event") == [
        ("a", 0, 1),
        ("s", 1, 1),
    ]
    desk = LabelDesk(archive_of(journal, tmp_path))
    until(lambda: given_in(journal)[1] == ("correct", "round", "ann"))
    desk.close()
