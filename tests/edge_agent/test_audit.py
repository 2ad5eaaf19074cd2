"""Which micrographs are offered to be labelled blind, to whom, and what a ticket is worth."""

from __future__ import annotations

from functools import partial

import pytest
from labelled import archive_of, content, fill

from edge_agent.journal import Journal
from edge_agent.labelling.audit import (
    OFFERED_SHARE,
    SHOWN_LATELY,
    TICKET_SECONDS,
    Tickets,
    may_be_blind,
    read_offer,
)
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_words import Order

MODEL = "ef" * 32
MANY = 400


def is_drawn(number: int) -> bool:
    return int(content(number)[-4:], 16) / 2**16 < OFFERED_SHARE


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as journal:
        fill(journal, tmp_path / "data", range(MANY))
        yield journal


def offered(journal: Journal, by: str = "ann", model: str | None = MODEL) -> list[int]:
    """Everything that is offered to a person who passes all of it over, in its order."""
    found: list[int] = []
    while offer := journal.look(partial(read_offer, by=by, model_sha256=model, passed_over=found), None):
        found.append(offer.id)
    return found


def test_one_in_twenty_by_the_content_alone():
    assert sum(is_drawn(number) for number in range(20_000)) / 20_000 == pytest.approx(
        OFFERED_SHARE, abs=0.005
    )


def test_all_that_are_drawn_are_offered_but_for_the_newest(journal):
    expected = {number + 1 for number in range(MANY - SHOWN_LATELY) if is_drawn(number)}

    found = offered(journal)

    assert set(found) == expected
    assert found != sorted(found), "in no order of time"
    assert found == offered(journal), "and the same every time"
    assert journal.look(partial(read_offer, by="ann", model_sha256=MODEL), None).left == len(expected)


def test_what_a_person_labelled_is_offered_to_others_only(journal, tmp_path):
    desk, (first, *others) = LabelDesk(archive_of(journal, tmp_path)), offered(journal)
    desk.give(Order("b1", "correct", "rod", "ann", (first,)))
    desk.undo("ann")
    desk.close()

    assert offered(journal, "ann") == others
    assert offered(journal, "bob") == [first, *others]


def test_the_same_bytes_are_offered_once(journal, tmp_path):
    before = offered(journal)
    fill(journal, tmp_path / "data" / "copies", range(MANY))

    assert len(offered(journal)) == len(before)


def test_answers_of_the_present_model_come_first(journal, tmp_path):
    fill(journal, tmp_path / "data" / "later", range(1000, 1300), model_sha256="ab" * 32)

    found = offered(journal, model="ab" * 32)

    is_new = [number > MANY for number in found]
    assert any(is_new)
    assert is_new == sorted(is_new, reverse=True)


def test_what_was_not_answered_is_not_offered(tmp_path):
    with Journal(tmp_path / "state") as journal:
        fill(journal, tmp_path / "data", range(MANY), label=None, probability=None, decision=None)

        assert offered(journal) == []


def test_nothing_is_offered_before_there_are_files(tmp_path):
    with Journal(tmp_path / "state") as journal:
        assert offered(journal) == []


# Tickets


CLOCK = [1000.0]
TICKETS = Tickets(secret=b"s" * 32, clock=lambda: CLOCK[0])
OTHERS = [
    pytest.param(TICKETS, 7, "c", "ann", True, id="the one it was made for"),
    pytest.param(TICKETS, 8, "c", "ann", False, id="another entry"),
    pytest.param(TICKETS, 7, "d", "ann", False, id="other bytes under the name"),
    pytest.param(TICKETS, 7, "c", "bob", False, id="another person"),
    pytest.param(Tickets(secret=b"t" * 32, clock=lambda: 1000.0), 7, "c", "ann", False, id="another agent"),
]


@pytest.mark.parametrize(("tickets", "entry", "bytes_", "by", "holds"), OTHERS)
def test_a_ticket_is_for_one_person_and_one_picture(tickets, entry, bytes_, by, holds):
    assert tickets.holds(TICKETS.ticket(7, "c", "ann"), entry, bytes_, by) is holds


@pytest.mark.parametrize("ticket", ["", ".", "x.y", "1000.", "1e9.ff", "\ud800.\ud800", "9" * 5000])
def test_what_is_no_ticket(ticket):
    assert not TICKETS.holds(ticket, 7, "c", "ann")


def test_a_ticket_ends():
    ticket = TICKETS.ticket(7, "c", "ann")
    late = Tickets(secret=TICKETS.secret, clock=lambda: 1000.0 + TICKET_SECONDS + 1)

    assert not late.holds(ticket, 7, "c", "ann")


def test_nothing_is_blind_that_the_person_labelled_before(journal, tmp_path):
    desk = LabelDesk(archive_of(journal, tmp_path))
    assert journal.look(partial(may_be_blind, entry=1, by="ann", batch="b1"), None) == content(0)

    desk.give(Order("b1", "correct", "rod", "ann", (1,)))
    desk.close()

    assert journal.look(partial(may_be_blind, entry=1, by="ann", batch="b1"), None) == content(0), (
        "sent twice"
    )
    assert journal.look(partial(may_be_blind, entry=1, by="ann", batch="b2"), None) is None
    assert journal.look(partial(may_be_blind, entry=1, by="bob", batch="b2"), None) == content(0)
    assert journal.look(partial(may_be_blind, entry=999, by="bob", batch="b2"), None) is None
