"""Which model is the last good one, what a downgrade is, and what is remembered: values only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent.keeping.store_record import (
    SHIPPED_DEFAULT,
    Accepted,
    Choice,
    Refusal,
    ReplayFigures,
    StoreRecord,
    StoreRefused,
    choice_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BAD = Refusal(reason="golden replay", at=NOW)
FIGURES = ReplayFigures(cases=3, probabilities=0.0, cam=0.0, novelty=0.0, tolerance=1e-3)


def entry(version: str, name: str = "tiny", **changes: object) -> Accepted:
    sha256 = f"{abs(hash((name, version))):064x}"[-64:]
    values = {
        "name": name, "version": version, "manifest_sha256": sha256, "model_sha256": sha256, "labels": ("a", "b"),
        "accepted": NOW, "signed_by": None, "replay": FIGURES,
    }  # fmt: skip
    return Accepted.model_validate(values | changes)


def with_used(*versions: str) -> StoreRecord:
    """A record into which these versions of `tiny` came and were used, one after the other."""
    record = StoreRecord()
    for version in versions:
        new = entry(version)
        record = record.with_accepted(new).with_used(choice_of(new), new.name, new.version)
    return record


def answers(record: StoreRecord) -> str | None:
    return record.current.name


def test_at_first_the_shipped_default_answers():
    assert StoreRecord().current == SHIPPED_DEFAULT
    assert StoreRecord().last_good() == SHIPPED_DEFAULT


def test_an_accepted_model_does_not_answer_before_it_is_used():
    assert answers(StoreRecord().with_accepted(entry("1"))) is None
    assert answers(with_used("1")) == "tiny-1"


def test_roll_back_goes_further_back_each_time():
    record, seen = with_used("1", "2", "3"), []
    for _ in range(3):
        record = record.rolled_back()
        seen.append(answers(record))
    assert seen == ["tiny-2", "tiny-1", None]
    with pytest.raises(StoreRefused, match="there is no earlier model to go back to"):
        record.rolled_back()


def test_what_was_rolled_back_from_may_be_used_again():
    record = with_used("1", "2").rolled_back()
    again = record.with_used(choice_of(entry("2")), "tiny", "2")
    assert answers(again) == "tiny-2"
    assert answers(again.rolled_back()) == "tiny-1"


def test_roll_back_passes_over_what_is_refused():
    record = with_used("1", "2", "3").with_refused("tiny-2", BAD)
    assert answers(record) == "tiny-3"
    assert answers(record.rolled_back()) == "tiny-1"


def test_a_failing_current_model_gives_way_to_the_last_good_one():
    record = with_used("1", "2").with_refused("tiny-2", BAD)
    assert answers(record) == "tiny-1"
    assert [(event.what, event.model, event.note) for event in record.history][-2:] == [
        ("refused", "tiny-2", "golden replay"),
        ("returned to", "tiny-1", "tiny-2 was refused (golden replay)"),
    ]
    assert answers(record.with_refused("tiny-1", BAD)) is None


def test_a_refused_model_is_not_gone_back_to_when_another_is_used():
    record = with_used("1", "2").with_refused("tiny-2", BAD)
    third = entry("3")
    record = record.with_accepted(third).with_used(choice_of(third), "tiny", "3")
    assert answers(record.rolled_back()) == "tiny-1"


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        pytest.param(lambda r: r.with_used(choice_of(entry("1")), "tiny", "1"), True, id="another is used"),
        pytest.param(lambda r: r.rolled_back(), True, id="rolled back"),
        pytest.param(lambda r: r.with_refused("tiny-2", BAD), True, id="a failure"),
        pytest.param(lambda r: r.with_accepted(entry("4")), True, id="a newer one of the name"),
        pytest.param(lambda r: r.with_worked(entry("2").manifest_sha256), False, id="it worked"),
        pytest.param(lambda r: r.without("tiny-1"), False, id="another one is removed"),
    ],
)
def test_the_token_differs_when_another_model_may_answer(change, differs: bool):
    record = with_used("1", "2")
    assert (change(record).choice != record.choice) == differs


# --- names ---


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("tiny-1", "tiny-1", id="exactly"),
        pytest.param("tiny", "tiny-10", id="the newest"),
        pytest.param("tiny-3", None, id="no such version"),
        pytest.param("small", None, id="no such name"),
    ],
)
def test_a_model_is_found_by_name(name: str, found: str | None):
    record = StoreRecord(accepted=(entry("1"), entry("10"), entry("9")))
    seen = record.named(name)
    assert (None if seen is None else seen.folder) == found


def test_the_current_model_goes_before_a_newer_one_of_its_name():
    record = with_used("1", "2").rolled_back()
    assert record.named("tiny").folder == "tiny-1"


def test_a_refused_one_is_passed_over_unless_there_is_no_other():
    record = StoreRecord(accepted=(entry("1"), entry("2", refused=BAD)))
    assert record.named("tiny").folder == "tiny-1"
    assert record.named("tiny-2").folder == "tiny-2"
    assert StoreRecord(accepted=(entry("2", refused=BAD),)).named("tiny").folder == "tiny-2"


# --- downgrade ---

SHIPPED = (Path("/models/tiny-1.5"), Path("/models/small-3"))


@pytest.mark.parametrize(
    ("used", "version", "floor"),
    [
        pytest.param((), "1.4", "1.5", id="below what is shipped"),
        pytest.param(("2",), "1.9", "2", id="below what was used"),
        pytest.param(("2",), "2rc1", "2", id="a candidate of what was used"),
        pytest.param(("2", "3"), "2", "3", id="what was used before"),
        pytest.param((), "1.5", None, id="the same"),
        pytest.param(("2",), "2-optimised", None, id="a variant of it"),
        pytest.param(("2",), "10", None, id="higher"),
    ],
)
def test_no_version_below_the_floor(used: tuple[str, ...], version: str, floor: str | None):
    record = with_used(*used)
    if floor is None:
        record.require_no_downgrade("tiny", version, SHIPPED)
        return
    with pytest.raises(StoreRefused) as refused:
        record.require_no_downgrade("tiny", version, SHIPPED)
    assert str(refused.value) == (
        f"tiny {version}: older than {floor}, which was in use here or came with the installation; "
        "`models rollback` goes back to what answered before"
    )


@pytest.mark.parametrize("forget", ["rolled back", "removed", "refused"])
def test_the_floor_outlives_the_model(forget: str):
    record = with_used("1", "2")
    record = record.with_refused("tiny-2", BAD) if forget == "refused" else record.rolled_back()
    record = record.without("tiny-2") if forget == "removed" else record
    assert record.floor("tiny", ()) == "2"


def test_a_model_that_was_asked_for_by_name_and_worked_raises_the_floor():
    record = StoreRecord().with_accepted(entry("4")).with_worked(entry("4").manifest_sha256)
    assert record.floor("tiny", ()) == "4"
    assert record.accepted[0].worked is not None


def test_the_current_model_is_not_removed():
    with pytest.raises(
        StoreRefused, match="tiny-2 is the current model; use another one first, or roll back"
    ):
        with_used("1", "2").without("tiny-2")


def test_a_removed_one_is_not_gone_back_to():
    assert answers(with_used("1", "2").without("tiny-1").rolled_back()) is None


def test_what_is_current_is_not_used_again():
    with pytest.raises(StoreRefused, match="tiny-2 is the current model already"):
        with_used("1", "2").with_used(Choice(origin="store", name="tiny-2"), "tiny", "2")


def test_what_a_later_version_adds_is_kept():
    text = with_used("1").model_dump_json(by_alias=True).replace('"floors"', '"channel":"beta","floors"')
    text = text.replace('"worked"', '"ring":2,"worked"')
    record = StoreRecord.model_validate_json(text).with_accepted(entry("2"))
    again = StoreRecord.model_validate_json(record.model_dump_json(by_alias=True))
    assert again == record
    assert again.model_extra == {"channel": "beta"}
    assert again.accepted[0].model_extra == {"ring": 2}


def test_histories_stay_short():
    record = StoreRecord()
    for number in range(150):
        record = record.with_accepted(entry(str(number)))
    assert len(record.history) == 100
    assert record.history[-1].model == "tiny-149"
