"""What there is to learn from, and how right the present model is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from labelled import MODEL, archive_of, fill

from edge_agent.journal import Journal
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_words import Order
from edge_agent.labelling.learning import ENOUGH, read_accuracy, read_first_answer, read_new_labels
from edge_agent.labelling.shares import Share

CLASSES = ("faceted", "rod", "round")
EARLIER = "ab" * 32
NOW = datetime(2026, 6, 1, tzinfo=UTC)
# Wilson (1927), as in the trainer's scoring/intervals.py and in R's binom.confint(method = "wilson").
INTERVALS = [
    pytest.param(0, 0, None, None, id="of nothing"),
    pytest.param(0, 10, 0.0, (0.0, 0.2775), id="none of ten"),
    pytest.param(10, 10, 1.0, (0.7225, 1.0), id="all of ten"),
    pytest.param(81, 88, 0.9205, (0.8446, 0.9610), id="81 of 88"),
]


@pytest.mark.parametrize(("right", "number", "rate", "interval"), INTERVALS)
def test_a_share_and_its_interval(right, number, rate, interval):
    share = Share(right, number)

    assert share.rate == pytest.approx(rate, abs=1e-4) if number else share.rate is None
    assert share.interval == pytest.approx(interval, abs=1e-3) if number else share.interval is None


@pytest.mark.parametrize(("right", "number"), [(0, 1), (3, 7), (50, 100), (99, 100)])
def test_the_interval_is_the_trainers(right, number):
    intervals = pytest.importorskip("trainer.scoring.intervals")

    assert Share(right, number).interval == intervals.share_interval(right, number)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as journal:
        yield journal


@pytest.fixture
def clock():
    return [NOW]


@pytest.fixture
def desk(journal, tmp_path, clock):
    desk = LabelDesk(archive_of(journal, tmp_path), now=lambda: clock[0])
    yield desk
    desk.close()


def items(journal: Journal, model: str | None = MODEL):
    def read(connection):
        return read_new_labels(connection, model, read_first_answer(connection, model), CLASSES)

    return journal.look(read, ())


def new_labels(journal: Journal, model: str | None = MODEL) -> dict[str | None, tuple[int, int]]:
    found = items(journal, model)
    return {item.label: (item.corrected.right, item.corrected.number) for item in found}


def correct(batch: str, label: str, *ids: int, by: str = "ann", blind: bool = False) -> Order:
    return Order(batch, "correct", label, by, ids, blind=blind)


def test_labels_by_the_class_given_and_how_many_of_them_correct(journal, desk, tmp_path):
    fill(journal, tmp_path / "data", range(6))  # rod, round, rod, round, rod, round
    desk.give(correct("b1", "rod", 1, 2, 3))
    desk.give(correct("b2", "triangle", 4))
    desk.give(Order("b3", "not_in_list", None, "ann", (5,)))
    desk.give(Order("b4", "confirm", None, "ann", (6,)))

    assert new_labels(journal) == {
        "faceted": (0, 0), "rod": (1, 3), "round": (0, 1), "triangle": (1, 1), None: (1, 1),
    }  # fmt: skip


def test_of_each_content_the_newest_word_that_counts(journal, desk, tmp_path):
    fill(journal, tmp_path / "data", range(3))
    fill(journal, tmp_path / "data" / "copies", range(3))
    desk.give(correct("b1", "rod", 1, 4))
    desk.give(correct("b2", "faceted", 1, by="bob"))
    desk.give(correct("b3", "faceted", 2))
    desk.undo("ann")

    assert new_labels(journal) == {"faceted": (1, 1), "rod": (0, 0), "round": (0, 0)}


def test_new_is_what_was_said_since_the_present_models_first_answer(journal, desk, tmp_path, clock):
    fill(journal, tmp_path / "data" / "then", range(3), model_sha256=EARLIER)
    desk.give(correct("b1", "rod", 1))
    fill(journal, tmp_path / "data" / "now", range(10, 13), finished=NOW + timedelta(hours=1))
    assert new_labels(journal)["rod"] == (0, 0)

    clock[0] = NOW + timedelta(hours=2)
    desk.give(correct("b2", "rod", 2))  # of an earlier model's answer: new to the present one all the same
    desk.give(correct("b3", "rod", 4))

    assert new_labels(journal)["rod"] == (1, 2)


def test_without_a_model_nothing_is_new(journal, desk, tmp_path):
    fill(journal, tmp_path / "data", range(1))
    desk.give(correct("b1", "rod", 1))

    assert new_labels(journal, None) == dict.fromkeys(CLASSES, (0, 0))


@pytest.mark.parametrize(("number", "enough"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_when_training_again_is_worth_it(journal, desk, tmp_path, number, enough):
    fill(journal, tmp_path / "data", range(number))
    desk.give(correct("b1", "faceted", *range(1, number + 1)))

    assert [item.is_enough for item in items(journal)] == [enough, False, False]


def test_live_accuracy_is_of_blind_labels_of_the_present_models_answers(journal, desk, tmp_path):
    fill(journal, tmp_path / "data", range(4))
    fill(journal, tmp_path / "data" / "doubtful", range(10, 13), decision="abstain")
    fill(journal, tmp_path / "data" / "then", [20], model_sha256=EARLIER)
    for number, (entry, label) in enumerate(
        [(1, "rod"), (2, "rod"), (3, "rod"), (5, "rod"), (6, "rod"), (8, "rod")]
    ):
        desk.give(correct(f"b{number}", label, entry, blind=True))
    desk.give(correct("seen", "faceted", 4))

    accuracy = journal.look(partial(read_accuracy, model_sha256=MODEL), None)

    assert accuracy.answered == Share(2, 3)
    assert accuracy.abstained == Share(1, 2)
