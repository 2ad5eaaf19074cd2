"""What people say is kept whole or not at all, once, can be taken back, and arrives in the label files."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled import answered, archive_of, as_root, content, fill, until
from labelled import given as given_in

from edge_agent.files import FileLayer
from edge_agent.journal import Journal, JournalBusy
from edge_agent.labelling import label_desk, label_outbox
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_intake import LabelIntake
from edge_agent.labelling.label_log import read_events
from edge_agent.labelling.label_outbox import LabelOutbox
from edge_agent.labelling.label_record import last_words
from edge_agent.labelling.label_words import NothingToDo, Order
from edge_agent.output_places import OutputPlan

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = (None, None, None)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as journal:
        yield journal


@pytest.fixture
def paths(journal, tmp_path):
    return fill(journal, tmp_path / "data", range(6))


@pytest.fixture
def changes():
    return []


@pytest.fixture
def desk(journal, paths, tmp_path, changes):
    desk = LabelDesk(archive_of(journal, tmp_path), changes.append)
    yield desk
    desk.close()


def label_file(path: Path) -> Path:
    return OutputPlan().place(path).labels


def said(path: Path) -> list[tuple[str, str, str | None]]:
    return [(event.by, event.action, event.label) for event in read_events(label_file(path))]


def correct(batch: str, *ids: int, label: str = "faceted", by: str = "ann") -> Order:
    return Order(batch, "correct", label, by, ids)


def all_written(desk: LabelDesk) -> bool:
    return desk.state("ann").waiting is None


# What is given


def test_a_label_stands_in_the_journal_and_arrives_in_the_file(desk, journal, paths, changes):
    done = desk.give(correct("b1", 1))

    assert (done.count, done.skipped, done.what) == (1, 0, "1 micrograph labelled faceted")
    assert given_in(journal)[1] == ("correct", "faceted", "ann")
    until(lambda: all_written(desk))
    (event,) = read_events(label_file(paths[0]))
    assert event.shown.model_dump() == {
        "label": "rod", "probability": 0.75, "decision": "accept", "model_sha256": "ef" * 32,
    }  # fmt: skip
    assert (event.source_sha256, event.fingerprint, event.blind) == (content(0), None, False)
    ((changed,),) = [change.given for change in changes]
    assert changed[:4] == (1, "correct", "faceted", "ann")


SAID = [
    pytest.param(
        Order("b", "confirm", None, "ann", (1, 2)), {1: "rod", 2: "round"}, {}, id="confirms each its own"
    ),
    pytest.param(
        correct("b", 1, 2, label="rod"), {1: "rod", 2: "rod"}, {"rod": 1}, id="the agent's own word confirms"
    ),
    pytest.param(
        Order("b", "not_in_list", None, "ann", (1, 2)),
        {1: None, 2: None},
        {"not_in_list": 2},
        id="not in the list",
    ),
    pytest.param(correct("b", 1, 1, 1), {1: "faceted"}, {"faceted": 1}, id="the same entry thrice is one"),
    pytest.param(
        correct("b", 1, 999), {1: "faceted"}, {"faceted": 1}, id="an entry that is gone is passed over"
    ),
]


@pytest.mark.parametrize(("order", "labels", "corrected"), SAID)
def test_what_an_action_says_of_each(desk, journal, order, labels, corrected):
    done = desk.give(order)

    held = {number: word for number, word in given_in(journal).items() if word != NOTHING}
    assert {number: word[1] for number, word in held.items()} == labels
    assert done.corrected == corrected
    assert (done.count, done.count + done.skipped) == (len(labels), len(set(order.ids)))
    agrees = {1: "rod", 2: "round"}
    assert all((word[0] == "confirm") == (word[1] == agrees[number]) for number, word in held.items())


def test_what_has_no_content_or_no_answer_is_passed_over(desk, journal, tmp_path):
    folder = tmp_path / "data"
    fill(journal, folder / "x", [100], sha256=None)
    fill(journal, folder / "y", [101], label=None, probability=None, decision=None)

    assert desk.give(correct("b1", 7, 8)).skipped == 1
    assert desk.give(Order("b2", "confirm", None, "ann", (7, 8))).skipped == 2
    assert given_in(journal)[8] == ("correct", "faceted", "ann")


def test_above_the_snapshot_limit_the_fingerprint_names_the_bytes(desk, journal, tmp_path):
    (path,) = fill(journal, tmp_path / "data" / "x", [100], sha256=None, fingerprint="fp1:10:1:abcd")

    desk.give(correct("b1", 7))

    until(lambda: said(path))
    (event,) = read_events(label_file(path))
    assert (event.source_sha256, event.fingerprint) == (None, "fp1:10:1:abcd")


def test_the_same_batch_again_does_nothing_more_and_says_the_same(desk, journal, paths, changes):
    first = desk.give(correct("b1", 1, 2, 999))

    again = desk.give(correct("b1", 1, 2, 999))

    assert (again.count, again.skipped, again.what) == (first.count, first.skipped, first.what)
    assert again.corrected == {}, "a metric would count it twice"
    until(lambda: all_written(desk))
    assert len(said(paths[0])) == len(changes) == 1


def test_the_newest_word_that_counts_holds_whoever_said_it(desk, journal):
    desk.give(correct("b1", 1, label="faceted", by="ann"))
    desk.give(correct("b2", 1, label="round", by="bob"))
    assert given_in(journal)[1] == ("correct", "round", "bob")

    desk.undo("bob")

    assert given_in(journal)[1] == ("correct", "faceted", "ann")


def test_a_clock_that_is_set_back_puts_no_word_before_an_earlier_one(journal, paths, tmp_path):
    times = iter([datetime(2062, 5, 3, 12, tzinfo=UTC), datetime(2026, 5, 3, 11, tzinfo=UTC)])
    desk = LabelDesk(archive_of(journal, tmp_path), now=lambda: next(times))

    desk.give(correct("b1", 1, label="faceted"))
    desk.give(correct("b2", 1, label="round"))

    assert given_in(journal)[1] == ("correct", "round", "ann")
    desk.close()


# Undo and redo


def test_undo_and_redo_outlive_a_restart(journal, paths, tmp_path):
    first = LabelDesk(archive_of(journal, tmp_path))
    first.give(correct("b1", 1, 2))
    first.give(correct("b2", 2, label="round"))
    first.undo("ann")
    first.close()

    second = LabelDesk(archive_of(journal, tmp_path))
    state = second.state("ann")
    assert state.undo.batch == "b1"
    assert state.redo.batch == "b2"
    second.redo("ann")

    assert given_in(journal)[2] == ("confirm", "round", "ann")
    second.close()


def test_what_was_undone_is_left_behind_by_something_new(desk):
    desk.give(correct("b1", 1))
    desk.undo("ann")
    desk.give(correct("b2", 2))

    with pytest.raises(NothingToDo, match="there is nothing to redo"):
        desk.redo("ann")
    desk.undo("ann")
    with pytest.raises(NothingToDo, match="there is nothing to undo"):
        desk.undo("ann")


def test_everybody_undoes_their_own(desk):
    desk.give(correct("b1", 1, by="ann"))

    with pytest.raises(NothingToDo):
        desk.undo("bob")


def test_a_request_for_undo_that_comes_twice_undoes_once(desk):
    desk.give(correct("b1", 1))
    desk.give(correct("b2", 2))

    first = desk.undo("ann", "request-1")
    again = desk.undo("ann", "request-1")

    assert first == again
    assert desk.state("ann").undo.batch == "b1"


def test_undo_and_redo_stand_in_the_file_as_events(desk, paths):
    desk.give(correct("b1", 1))
    desk.undo("ann")
    desk.redo("ann")

    until(lambda: all_written(desk))
    assert [action for _, action, _ in said(paths[0])] == ["correct", "undo", "undo"]
    assert last_words(read_events(label_file(paths[0])))["ann"].label == "faceted"


# Bulk


def test_a_bulk_action_is_one_undo_and_no_long_transaction(journal, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(label_desk, "PIECE", 7)
    monkeypatch.setattr(label_desk, "MOST_TOLD", 20)
    fill(journal, tmp_path / "data", range(50))
    desk = LabelDesk(archive_of(journal, tmp_path), changes.append)
    transactions, change = [], journal.change
    monkeypatch.setattr(journal, "change", lambda *a, **how: (transactions.append(how), change(*a, **how))[1])
    done = desk.give(correct("b1", *range(1, 51)))

    assert done.count == 50
    assert sum(how != {"durable": False} for how in transactions) == 1, "the one that makes all of it count"
    assert len(transactions) > 2 * 50 // 7
    assert set(given_in(journal).values()) == {("correct", "faceted", "ann")}
    assert changes[-1].given is None, "too many to be listed"
    assert desk.undo("ann").count == 50
    assert set(given_in(journal).values()) == {NOTHING}
    desk.close()


@pytest.mark.parametrize("dies_at", range(12))
def test_of_an_action_that_was_cut_short_all_counts_or_nothing(journal, tmp_path, monkeypatch, dies_at):
    """The journal takes only so many changes, as if the process were gone; then comes another one."""
    monkeypatch.setattr(label_desk, "PIECE", 2)
    paths = fill(journal, tmp_path / "data", range(9))
    desk = LabelDesk(archive_of(journal, tmp_path))
    until(lambda: not desk._is_unfinished)
    left, change = Counter(allowed=dies_at), journal.change

    def until_it_dies(work, **how):
        if left["allowed"] == 0:
            raise JournalBusy("gone")
        left["allowed"] -= 1
        return change(work, **how)

    monkeypatch.setattr(journal, "change", until_it_dies)
    try:
        desk.give(correct("b1", *range(1, 10)))
        is_acknowledged = True
    except JournalBusy:
        is_acknowledged = False
    desk.close()
    monkeypatch.setattr(journal, "change", change)

    after = LabelDesk(archive_of(journal, tmp_path))
    until(lambda: not after._is_unfinished)
    held = set(given_in(journal).values())
    assert held in ({NOTHING}, {("correct", "faceted", "ann")})
    assert not is_acknowledged or held != {NOTHING}
    assert after.give(correct("b1", *range(1, 10))).count == 9, "the page asks once more"
    until(lambda: all_written(after))
    assert [said(path) for path in paths] == [[("ann", "correct", "faceted")]] * 9
    after.close()


def test_of_two_desks_on_one_journal_one_gives_way(journal, tmp_path, monkeypatch):
    """For a moment there may be two, while the configuration changes."""
    monkeypatch.setattr(label_desk, "PIECE", 2)
    fill(journal, tmp_path / "data", range(9))
    first, others = LabelDesk(archive_of(journal, tmp_path)), []
    pieces = first._words

    def disturbed(*given):
        for number, piece in enumerate(pieces(*given)):
            if number == 3:
                others.append(LabelDesk(archive_of(journal, tmp_path)))
                until(lambda: not others[0]._is_unfinished)
            yield piece

    monkeypatch.setattr(first, "_words", disturbed)
    with pytest.raises(JournalBusy, match="another desk has begun"):
        first.give(correct("b1", *range(1, 10)))
    assert set(given_in(journal).values()) == {NOTHING}

    assert others[0].give(correct("b1", *range(1, 10))).count == 9
    assert set(given_in(journal).values()) == {("correct", "faceted", "ann")}
    first.close()
    others[0].close()


def test_a_desk_that_is_closed_begins_no_further_piece(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(label_desk, "PIECE", 2)
    fill(journal, tmp_path / "data", range(9))
    desk = LabelDesk(archive_of(journal, tmp_path))
    desk.close()

    with pytest.raises(JournalBusy, match="starting or changing over"):
        desk.give(correct("b1", *range(1, 10)))


def test_two_actions_wait_for_each_other_but_not_for_ever(desk, monkeypatch):
    monkeypatch.setattr(label_desk, "_TURN_SECONDS", 0.01)

    with desk._turn, pytest.raises(JournalBusy, match="another action is still being kept"):
        desk.give(correct("b1", 1))

    assert desk.give(correct("b1", 1)).count == 1


def test_several_threads_lose_nothing(desk, journal, paths):
    def label(person: str) -> None:
        for number in range(10):
            desk.give(correct(f"{person}{number}", 1 + number % 6, by=person))

    threads = [threading.Thread(target=label, args=(person,)) for person in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    until(lambda: all_written(desk))
    assert sum(len(said(path)) for path in paths) == 30


# Into the files


@pytest.mark.skipif(as_root(), reason="root may write anywhere")
def test_a_folder_that_nobody_may_write_to(desk, paths):
    paths[0].parent.chmod(0o500)
    desk.give(correct("b1", 1))
    until(lambda: desk.state("ann").waiting.reason)
    paths[0].parent.chmod(0o700)
    until(lambda: all_written(desk))


class Grumbling(FileLayer):
    """A disk that fails while `fault` is set, in folders of a name that contains `where`."""

    fault: OSError | None = None
    where = "data"
    tries = 0

    def create(self, path: Path) -> int:
        if self.fault is not None and self.where in str(path.parent):
            self.tries += 1
            raise self.fault
        return super().create(path)


@pytest.fixture
def grumbling(journal, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(label_outbox, "_PAUSES_SECONDS", (0.05,))
    layer = Grumbling()
    desk = LabelDesk(archive_of(journal, tmp_path), layer=layer)
    yield desk, layer
    desk.close()


def test_what_rests_is_tried_together(journal, tmp_path):
    paths = fill(journal, tmp_path / "data", range(30))
    archive = archive_of(journal, tmp_path)
    desk = LabelDesk(archive)
    desk.close()
    desk._stop.clear()
    desk.give(correct("b1", *range(1, 31)))
    for path in paths:
        path.unlink()
    seconds, rounds = 0.0, 0
    outbox = LabelOutbox(archive, clock=lambda: seconds)

    while seconds < 3600:
        pause = outbox.round(lambda: False)
        seconds, rounds = seconds + (pause or 0.0), rounds + 1

    # 60 in an hour once the pauses have their length, and some until then.
    assert 60 <= rounds < 80
    assert outbox.waiting() == 30


def test_a_disk_that_fails_is_tried_again_and_the_reason_is_told_once(grumbling, paths, caplog):
    desk, layer = grumbling
    layer.fault = PermissionError(13, "Permission denied")
    desk.give(correct("b1", 1))
    until(lambda: layer.tries > 2)

    waiting = desk.state("ann").waiting
    assert waiting.count == 1
    assert waiting.reason == f"labels of {paths[0]} cannot be written: Permission denied"
    layer.fault = None
    with caplog.at_level(logging.INFO):
        until(lambda: all_written(desk))
    told = [line for line in caplog.messages if "cannot be written" in line]
    assert len(told) == 1
    assert "they are kept in the journal and tried again" in told[0]
    assert said(paths[0]) == [("ann", "correct", "faceted")]


def test_a_folder_that_rests_holds_no_other_up(grumbling, journal, tmp_path):
    desk, layer = grumbling
    (elsewhere,) = fill(journal, tmp_path / "data" / "other", [50])
    layer.fault, layer.where = OSError(5, "Input/output error"), "nowhere"
    layer.where = str(tmp_path / "data") + "/none"
    fill(journal, tmp_path / "data" / "none", [51])

    desk.give(correct("b1", 8, 7))

    until(lambda: said(elsewhere))
    until(lambda: desk.state("ann").waiting.count == 1)
    layer.fault = None
    until(lambda: all_written(desk))


def test_a_file_that_takes_nothing_holds_no_other_of_its_folder_up(grumbling, paths):
    """Something lies in the place of the label files of all but one, more of them than make a folder suspect."""
    desk, _ = grumbling
    for path in paths[:5]:
        label_file(path).mkdir()

    desk.give(correct("b1", 1, 2, 3, 4, 5, 6))

    until(lambda: desk.state("ann").waiting.count == 5)
    assert said(paths[5]) == [("ann", "correct", "faceted")]
    assert "is a link, a folder or a device where a file belongs" in desk.state("ann").waiting.reason
    for path in paths[:5]:
        label_file(path).rmdir()
    until(lambda: all_written(desk))


def test_of_a_folder_that_takes_nothing_only_a_few_files_are_tried(grumbling, journal, tmp_path):
    desk, layer = grumbling
    fill(journal, tmp_path / "data", range(6, 60))
    layer.fault = OSError(30, "Read-only file system")

    desk.give(correct("b1", *range(1, 61)))

    until(lambda: layer.tries >= 3)
    assert layer.tries < 20
    layer.fault = None
    until(lambda: all_written(desk))


def test_what_waits_is_written_by_the_next_desk(journal, paths, tmp_path):
    layer = Grumbling()
    layer.fault = OSError(28, "No space left on device")
    first = LabelDesk(archive_of(journal, tmp_path), layer=layer)
    first.give(correct("b1", 1))
    first.undo("ann")
    until(lambda: first.state("ann").waiting.reason)
    first.close()
    assert said(paths[0]) == []

    second = LabelDesk(archive_of(journal, tmp_path))

    until(lambda: all_written(second))
    assert [action for _, action, _ in said(paths[0])] == ["correct", "undo"]
    second.close()


def test_a_journal_that_is_begun_anew_keeps_no_label_from_its_file(desk, journal, paths):
    """It counts from 1 again."""
    desk.give(correct("b1", 1, 2, 3, 4, 5))
    until(lambda: all_written(desk))
    journal._file.renew(ValueError("damaged"))
    fill(journal, paths[0].parent, range(6))

    desk.give(correct("b2", 6))

    until(lambda: all_written(desk))
    assert said(paths[5]) == [("ann", "correct", "faceted")]


def test_a_damaged_label_is_left_out_and_the_others_go_on(desk, journal, paths, caplog):
    desk.give(correct("b1", 1, 2))
    until(lambda: all_written(desk))
    journal.change(lambda connection: connection.execute("UPDATE labels SET record = '{' WHERE number = 1"))

    assert desk.undo("ann").count == 1

    until(lambda: all_written(desk))
    assert given_in(journal)[2] == NOTHING
    assert [action for _, action, _ in said(paths[1])] == ["correct", "undo"]
    assert "a label in the journal is damaged and left out" in caplog.text


def test_half_written_files_of_an_earlier_run_are_removed(desk, paths):
    left = paths[0].parent / ".scopewatch-ab12cd34labels-0123.tmp"
    left.write_bytes(b"half")

    desk.give(correct("b1", 1))

    until(lambda: all_written(desk))
    assert not left.exists()


def test_labels_of_a_micrograph_that_was_moved_go_with_its_bytes(desk, journal, paths, tmp_path):
    desk.give(correct("b1", 1))
    until(lambda: all_written(desk))
    moved = tmp_path / "data" / "sorted" / "m0.dm3"
    moved.parent.mkdir()
    paths[0].rename(moved)
    journal.record(answered(moved, 0))
    assert given_in(journal)[7] == ("correct", "faceted", "ann")

    desk.give(correct("b2", 7, label="round"))
    desk.undo("ann")
    desk.undo("ann")

    until(lambda: all_written(desk))
    assert [action for _, action, _ in said(moved)] == ["correct", "correct", "undo", "undo"]
    assert given_in(journal)[1] == given_in(journal)[7] == NOTHING


def test_labels_of_a_micrograph_that_is_gone_lie_where_it_lay(desk, paths):
    paths[0].unlink()

    desk.give(correct("b1", 1))

    until(lambda: said(paths[0]))


def test_labels_wait_for_a_share_that_is_away(grumbling, journal, tmp_path):
    """First its folder is gone, then there is the empty one over which it is mounted."""
    desk, _ = grumbling
    (path,) = fill(journal, tmp_path / "data" / "share", [60])
    shutil.rmtree(path.parent)
    desk.give(correct("b1", 7))
    until(lambda: "No such file or directory" in (desk.state("ann").waiting.reason or ""))

    path.parent.mkdir()
    until(lambda: "is empty, as if its disk or share were not mounted" in desk.state("ann").waiting.reason)
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"60")

    until(lambda: all_written(desk))
    assert said(path) == [("ann", "correct", "faceted")]


def test_a_share_that_does_not_answer_is_not_taken_for_a_moved_micrograph(
    grumbling, journal, tmp_path, monkeypatch
):
    desk, _ = grumbling
    (path,) = fill(journal, tmp_path / "data" / "share", [60])
    (copy,) = fill(journal, tmp_path / "data" / "copies", [60])
    lstat = os.lstat

    def dead(place, **how):
        if str(place) == str(path):
            raise OSError(107, "Transport endpoint is not connected")
        return lstat(place, **how)

    with monkeypatch.context() as patch:
        patch.setattr(label_outbox.os, "lstat", dead)
        desk.give(correct("b1", 7))
        until(lambda: "not connected" in (desk.state("ann").waiting.reason or ""))
    until(lambda: all_written(desk))

    assert (said(path), said(copy)) == ([("ann", "correct", "faceted")], [])


def test_labels_go_into_the_mirror_where_outputs_do(journal, tmp_path):
    fill(journal, tmp_path / "data" / "day", [1])
    desk = LabelDesk(archive_of(journal, tmp_path, tmp_path / "mirror"))

    desk.give(correct("b1", 1))

    until(lambda: (tmp_path / "mirror" / "day" / "m1.dm3.label.json").is_file())
    assert not list((tmp_path / "data").rglob("*.label.json"))
    until(lambda: all_written(desk))
    desk.close()


def test_no_label_is_taken_where_the_journal_would_lose_it(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    with sqlite3.connect(state / "journal.sqlite") as holder:
        holder.execute("CREATE TABLE held (a)")
        holder.execute("BEGIN EXCLUSIVE")
        with Journal(state) as journal:
            assert journal.state == "temporary"
            fill(journal, tmp_path / "data", [1])
            desk = LabelDesk(archive_of(journal, tmp_path))
            with pytest.raises(JournalBusy, match="labels would be lost"):
                desk.give(correct("b1", 1))
            desk.close()
    holder.close()


# Any sequence of what several people do, against a simple model


@dataclass
class Model:
    """Batches by person; a batch counts while it is not undone. The last one that counts, of anybody, holds."""

    batches: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    undone: dict[str, list[int]] = field(default_factory=dict)
    away: set[int] = field(default_factory=set)

    def give(self, by: str, label: str, ids: tuple[int, ...]) -> None:
        self.batches.append((by, label, ids))
        self.undone[by] = []

    def undo(self, by: str) -> bool:
        own = [place for place, batch in enumerate(self.batches) if batch[0] == by and place not in self.away]
        if own:
            self.away.add(own[-1])
            self.undone.setdefault(by, []).append(own[-1])
        return bool(own)

    def redo(self, by: str) -> bool:
        waiting = self.undone.get(by, [])
        if waiting:
            self.away.discard(waiting.pop())
            return True
        return False

    def holds(self, number: int) -> tuple[str | None, str | None]:
        for place in range(len(self.batches) - 1, -1, -1):
            by, label, ids = self.batches[place]
            if number in ids and place not in self.away:
                return label, by
        return None, None


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["give", "give", "undo", "redo"]),
        st.sampled_from(["ann", "bob", "Zoë <b>"]),
        st.sampled_from(["rod", "round", "faceted"]),
        st.sets(st.integers(1, 4), min_size=1).map(lambda ids: tuple(sorted(ids))),
    ),
    max_size=14,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds=DEEDS)
def test_any_sequence_gives_what_a_simple_model_gives(tmp_path_factory, deeds):
    folder, model = tmp_path_factory.mktemp("any"), Model()
    with Journal(folder / "state") as journal:
        paths = fill(journal, folder / "data", range(4))
        desk = LabelDesk(archive_of(journal, folder))
        for number, (deed, by, label, ids) in enumerate(deeds):
            if deed == "give":
                desk.give(correct(f"batch-{number}", *ids, label=label, by=by))
                model.give(by, label, ids)
            else:
                try:
                    getattr(desk, deed)(by)
                    did = True
                except NothingToDo:
                    did = False
                assert did == getattr(model, deed)(by)
        until(lambda: all_written(desk))
        desk.close()
        held = {number: model.holds(number) for number in range(1, 5)}
        assert {number: word[1:] for number, word in given_in(journal).items()} == held
    assert_files_and_a_new_journal_say_the_same(folder, paths, held)


def assert_files_and_a_new_journal_say_the_same(folder, paths, held):
    for number, path in enumerate(paths, 1):
        words = sorted(last_words(read_events(label_file(path))).values(), key=lambda event: event.at)
        assert (held[number][0] is None) == (not words)
        assert not words or (words[-1].label, words[-1].by) == held[number]
    with Journal(folder / "another") as journal:
        intake = LabelIntake(journal, OutputPlan())
        for path in paths:
            intake.take(path)
        fill(journal, folder / "data", range(4))
        assert {number: word[1:] for number, word in given_in(journal).items()} == held


def test_times_in_files_are_those_of_the_journal(journal, paths, tmp_path):
    moment = datetime(2026, 5, 3, 12, 0, 0, 123456, tzinfo=UTC)
    desk = LabelDesk(archive_of(journal, tmp_path), now=lambda: moment)
    desk.give(correct("b1", 1))
    desk.give(correct("b2", 1, label="round"))
    until(lambda: all_written(desk))
    desk.close()

    assert [event.at - moment for event in read_events(label_file(paths[0]))] == [
        timedelta(0),
        timedelta(microseconds=1),
    ]
