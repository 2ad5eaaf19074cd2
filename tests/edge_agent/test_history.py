"""The history lists what was examined: by any filter, in either order, from any place, along one index."""

from __future__ import annotations

import itertools
import os
import random
import time
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from entries import MODEL, ROOT, START, archive_of, entry, record, say, unread

from edge_agent.journal import Journal
from edge_agent.page.entry_filter import (
    BadFilter,
    EntryFilter,
    Position,
    cursor_text,
    day_of,
    parse_cursor,
    parse_order,
    span_of_day,
)
from edge_agent.page.entry_row import folder_below
from edge_agent.page.history import History, _Query
from edge_agent.page.no_archive import NoArchive

EVIL = "<img src=x onerror=alert(1)>\"'\n=cmd|calc.dm3"


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def history(journal, tmp_path):
    return History(archive_of(journal, tmp_path))


def names(rows) -> list[str]:
    return [row.name for row in rows]


# --- one row ------------------------------------------------------------------------------------------------------


def test_a_row_says_what_became_of_a_file_and_what_people_said(journal, history):
    record(
        journal, entry("day 1/a.dm3", 5, decision="abstain", reasons=("novel", "blurred"), probability=0.5)
    )
    say(journal, "a.dm3", "correct", "cube", "ana", at_us=1_777_881_600_000_000)

    (row,) = history.newest(10)

    assert history.json_of(row) == {
        "id": 1,
        "name": "a.dm3",
        "folder": "day 1",
        "at": "2026-05-04T08:05:00.000Z",
        "outcome": "classified",
        "reason": None,
        "label": "rod",
        "probability": 0.5,
        "decision": "abstain",
        "reasons": ["novel", "blurred"],
        "model": MODEL,
        "content": row.content,
        "given": {"action": "correct", "label": "cube", "by": "ana", "at": "2026-05-04T08:00:00.000Z"},
    }
    assert (row.path, row.is_corrected) == (ROOT / "day 1/a.dm3", True)


def test_a_file_without_an_answer_has_its_reason(journal, history):
    record(journal, unread("a.dm3", reason="is cut off at byte \udcff"))

    told = history.json_of(history.newest(1)[0])

    assert (told["outcome"], told["reason"]) == ("unreadable", "is cut off at byte \\udcff")
    assert {told[key] for key in ("label", "probability", "decision", "content", "given")} == {None}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param(EVIL, EVIL, id="markup and a formula"),
        pytest.param("caf\udce9.dm3", "caf\\xe9.dm3", id="no UTF-8"),
        pytest.param("粒子.dm3", "粒子.dm3", id="particles"),
    ],
)
def test_any_name_is_told_as_it_is(journal, history, name, shown):
    record(journal, entry(name))

    assert history.json_of(history.newest(1)[0])["name"] == shown
    assert history.rows_of([ROOT / name])[0].path == ROOT / name


@pytest.mark.parametrize(
    ("folder", "roots", "shown"),
    [
        pytest.param("/data/scope", ["/data/scope"], "", id="the watched one itself"),
        pytest.param("/data/scope/a/b", ["/data/scope"], "a/b", id="below it"),
        pytest.param("/data/scope/a", ["/data/old", "/data/scope"], "scope/a", id="below one of several"),
        pytest.param("/data/old", ["/data/old", "/data/scope"], "old", id="one of several itself"),
        pytest.param("/else/where", ["/data/scope"], "/else/where", id="not watched any more"),
        pytest.param("/data/scope2", ["/data/scope"], "/data/scope2", id="a name that begins alike"),
    ],
)
def test_a_folder_is_told_as_seen_from_the_watched_one(folder, roots, shown):
    assert folder_below(Path(folder), tuple(map(Path, roots))) == shown


def test_entries_are_found_by_id_and_by_path_in_the_order_of_asking(journal, history):
    record(journal, *(entry(f"{number}.dm3", number) for number in range(5)))

    assert names(history.rows([4, 99, 2])) == ["3.dm3", "1.dm3"]
    assert history.row(3).path == ROOT / "2.dm3"
    assert history.row(99) is None
    assert names(history.rows_of([ROOT / "4.dm3", ROOT / "none.dm3", ROOT / "0.dm3"])) == ["4.dm3", "0.dm3"]


def test_a_damaged_finding_costs_its_reasons_only(journal, history):
    record(journal, entry("a.dm3", reasons=("novel",)))
    journal.change(lambda connection: connection.execute("UPDATE findings SET finding = '[1'"))

    assert history.newest(1)[0].reasons == ()


@pytest.mark.parametrize("finished_us", [2**62, -(2**62)])
def test_a_time_that_no_calendar_has_hides_no_row(journal, history, finished_us):
    record(journal, entry("a.dm3"), entry("b.dm3", 1))
    journal.change(
        lambda connection: connection.execute("UPDATE entries SET finished_us = ?", (finished_us,))
    )

    told = [history.json_of(row) for row in history.page().rows]

    assert [row["at"][:4] for row in told] == ["9999", "9999"] if finished_us > 0 else ["0001", "0001"]
    assert history.index().total == 2
    assert history.facets().labels == ("rod",)


# --- filters ------------------------------------------------------------------------------------------------------


def some_of_each(journal: Journal) -> None:
    record(
        journal,
        entry("sure.dm3", 0, probability=0.99),
        entry("abstained.dm3", 10, decision="abstain", probability=0.4, label="cube"),
        entry("ungated.dm3", 20, decision="ungated", probability=0.6),
        unread("broken.dm3", 30),
        entry("confirmed.dm3", 40, probability=0.7),
        entry("corrected.dm3", 24 * 60, probability=0.8),
        entry("unlisted.dm3", 24 * 60 + 10, probability=0.5),
        entry("relabelled back.dm3", 24 * 60 + 20, label="cube", probability=0.3),
    )
    say(journal, "confirmed.dm3", "confirm", "rod")
    say(journal, "corrected.dm3", "correct", "cube")
    say(journal, "unlisted.dm3", "not_in_list", None)
    say(journal, "relabelled back.dm3", "correct", "cube")


NEXT_DAY = ["relabelled back.dm3", "unlisted.dm3", "corrected.dm3"]
FIRST_DAY = ["confirmed.dm3", "broken.dm3", "ungated.dm3", "abstained.dm3", "sure.dm3"]
FILTERS = [
    pytest.param({}, NEXT_DAY + FIRST_DAY, id="everything"),
    pytest.param({"label": "", "given": None}, NEXT_DAY + FIRST_DAY, id="empty words"),
    pytest.param(
        {"label": "rod"}, ["confirmed.dm3", "ungated.dm3", "sure.dm3"], id="the label that holds now"
    ),
    pytest.param(
        {"label": "cube"},
        ["relabelled back.dm3", "corrected.dm3", "abstained.dm3"],
        id="a person's label counts",
    ),
    pytest.param({"decision": "abstain"}, ["abstained.dm3"], id="decision"),
    pytest.param({"outcome": "unreadable"}, ["broken.dm3"], id="outcome"),
    pytest.param({"given": "yes"}, [*NEXT_DAY, "confirmed.dm3"], id="labelled"),
    pytest.param({"given": "no"}, FIRST_DAY[1:], id="not labelled"),
    pytest.param({"given": "disagrees"}, ["unlisted.dm3", "corrected.dm3"], id="labelled otherwise"),
    pytest.param({"day": "2026-05-05"}, NEXT_DAY, id="a day"),
    pytest.param({"day": "2026-05-06"}, [], id="a day without files"),
    pytest.param({"session": "1777881600000000"}, FIRST_DAY, id="a session"),
    pytest.param({"session": 1777881600000001}, FIRST_DAY, id="a session whose first file is gone"),
    pytest.param({"session": 1777999999000000}, [], id="no session"),
    pytest.param({"label": "cube", "given": "yes", "day": "2026-05-05"}, NEXT_DAY[::2], id="several"),
]


@pytest.fixture
def in_utc(monkeypatch):
    yield from in_zone(monkeypatch, "UTC")


def in_zone(monkeypatch, zone: str):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("words", "expected"), FILTERS)
def test_a_filter_has_what_all_its_parts_hold_for(journal, history, in_utc, words, expected):
    some_of_each(journal)
    wanted = EntryFilter.parse(words)

    assert names(history.page(wanted).rows) == expected
    assert history.count(wanted) == history.index(wanted).total == len(expected)
    assert names(history.rows(history.ids(wanted))) == expected
    assert set(names(history.page(wanted, "uncertain").rows)) == set(expected) - {"broken.dm3"}


def test_the_least_probable_come_first_and_what_has_no_probability_does_not(journal, history):
    some_of_each(journal)

    assert names(history.page(order="uncertain").rows) == [
        "relabelled back.dm3",
        "abstained.dm3",
        "unlisted.dm3",
        "ungated.dm3",
        "confirmed.dm3",
        "corrected.dm3",
        "sure.dm3",
    ]


BAD = [
    pytest.param({"decision": "maybe"}, "decision is one of accept, abstain, ungated", id="decision"),
    pytest.param({"given": "1 OR 1=1"}, "given is one of yes, no, disagrees", id="given"),
    pytest.param({"outcome": "failed"}, "outcome is one of classified, not_an_image", id="outcome"),
    pytest.param({"day": "2026-5-4"}, "day is written 2026-01-31", id="day"),
    pytest.param({"day": "2026-02-30"}, "day is written 2026-01-31", id="no such day"),
    pytest.param({"day": "9999-12-31"}, "not a day that this PC's calendar has", id="the last day of all"),
    pytest.param({"day": "٢٠٢٦-05-04"}, "day is written 2026-01-31", id="other digits"),
    pytest.param({"session": "latest"}, "session is the id of a session", id="session"),
    pytest.param({"session": 10**30}, "session is the id of a session", id="a number without end"),
    pytest.param({"label": "x" * 201}, "label is a text of at most 200 characters", id="long label"),
    pytest.param({"label": ["rod"]}, "label is a text of at most 200 characters", id="a list"),
    pytest.param({"given": True}, "given is a text of at most 200 characters", id="a boolean"),
]


@pytest.mark.parametrize(("words", "complaint"), BAD)
def test_a_filter_that_is_none_is_refused_in_one_sentence(words, complaint):
    with pytest.raises(BadFilter, match=complaint):
        EntryFilter.parse(words)


def test_a_label_of_any_text_can_be_asked_for(journal, history):
    some_of_each(journal)

    for label in ("'; DROP TABLE entries; --", "\ud800", "%", "rod\0"):
        assert history.page(EntryFilter.parse({"label": label})).rows == ()
    assert history.count(EntryFilter()) == 8


# --- days of the PC's calendar ------------------------------------------------------------------------------------

HOUR_US = 3_600_000_000


@pytest.mark.skipif(os.name == "nt", reason="Windows has no tzset")
@pytest.mark.parametrize(
    ("zone", "day", "hours", "start"),
    [
        pytest.param("UTC", "2026-05-04", 24, "2026-05-04T00:00+00:00", id="no change"),
        pytest.param("Europe/Berlin", "2026-03-29", 23, "2026-03-28T23:00+00:00", id="an hour less"),
        pytest.param("Europe/Berlin", "2026-10-25", 25, "2026-10-24T22:00+00:00", id="an hour more"),
        pytest.param(
            "America/Havana", "2026-03-08", 23, "2026-03-08T05:00+00:00", id="midnight does not exist"
        ),
        pytest.param("Asia/Beirut", "2026-10-24", 25, "2026-10-23T21:00+00:00", id="ends with 23:00 twice"),
        pytest.param("Asia/Beirut", "2026-10-25", 24, "2026-10-24T22:00+00:00", id="after 23:00 twice"),
        pytest.param(
            "Atlantic/Azores", "2026-10-25", 25, "2026-10-25T00:00+00:00", id="midnight exists twice"
        ),
        pytest.param("Atlantic/Azores", "2026-03-29", 23, "2026-03-29T01:00+00:00", id="no midnight there"),
        pytest.param("America/Havana", "2026-11-01", 25, "2026-11-01T04:00+00:00", id="and in Havana"),
        pytest.param("Asia/Kathmandu", "2026-05-04", 24, "2026-05-03T18:15+00:00", id="quarters of an hour"),
    ],
)
def test_days_begin_and_end_by_the_clock_on_the_wall(monkeypatch, zone, day, hours, start):
    for _ in in_zone(monkeypatch, zone):
        span = span_of_day(date.fromisoformat(day))
        before = span_of_day(date.fromisoformat(day) - timedelta(days=1))

        assert span.end_us - span.start_us == hours * HOUR_US
        assert span.start_us == int(datetime.fromisoformat(start).timestamp()) * 1_000_000
        assert before.end_us == span.start_us
        for place in (span.start_us, span.start_us + 12 * HOUR_US, span.end_us - 1):
            assert day_of(place) == date.fromisoformat(day)
        assert day_of(span.start_us - 1) != day_of(span.end_us)


def test_days_that_have_files_are_counted(journal, history, in_utc):
    some_of_each(journal)
    record(journal, entry("old.dm3", -60 * 24 * 365 * 80))

    facets = history.facets()

    assert facets.labels == ("cube", "rod")
    assert facets.days == ((date(2026, 5, 5), 3), (date(2026, 5, 4), 5), (date(1946, 5, 24), 1))
    assert [session.files for session in facets.sessions] == [3, 5, 1]
    assert facets.sessions[1].id == int(START.timestamp()) * 1_000_000


# --- pages and jumps ----------------------------------------------------------------------------------------------


@pytest.fixture
def thousand(journal):
    """1,050 files, many of one time and many of one probability."""
    chance = random.Random(3)
    record(
        journal,
        *(
            entry(f"{number}.dm3", chance.randrange(100), probability=chance.randrange(20) / 20)
            for number in range(1050)
        ),
    )
    return journal


@pytest.mark.parametrize("order", ["newest", "uncertain"])
@pytest.mark.parametrize("limit", [1, 7, 100, 200])
def test_pages_have_every_row_once(thousand, history, order, limit):
    found, after = [], ""
    for _ in itertools.count():
        page = history.page(order=order, after=after, limit=limit)
        found += page.rows
        if page.next is None:
            break
        after = page.next

    keys = [(-row.finished_us, -row.id) if order == "newest" else (row.probability, row.id) for row in found]
    assert len(found) == 1050
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("order", ["newest", "uncertain"])
@pytest.mark.parametrize("files", [0, 1, 99, 100, 101, 200, 201])
def test_anchors_begin_every_hundredth_row(journal, history, order, files):
    record(
        journal, *(entry(f"{number}.dm3", number % 7, probability=number % 5 / 5) for number in range(files))
    )

    index = history.index(order=order)
    all_rows = history.page(order=order, limit=max(1, files)).rows

    assert (index.total, index.newest) == (files, files)
    assert len(index.anchors) == max(1, -(-files // 100))
    for place, anchor in enumerate(index.anchors):
        page = history.page(order=order, after=anchor or "")
        assert page.rows == all_rows[100 * place : 100 * place + 100]


def test_what_is_finished_meanwhile_moves_no_page(thousand, history):
    first = history.page(limit=50)
    expected = history.page(after=first.next, limit=50).rows

    record(thousand, *(entry(f"later {number}.dm3", 200) for number in range(30)))

    assert history.page(after=first.next, limit=50).rows == expected


@pytest.mark.parametrize(
    ("order", "text"),
    [
        pytest.param("newest", "u3fe0000000000000.4", id="of the other order"),
        pytest.param("uncertain", "n1.2", id="of the other order too"),
        pytest.param("newest", "n1.2; DROP TABLE entries", id="SQL"),
        pytest.param("newest", "n99999999999999999999.1", id="a number without end"),
        pytest.param("uncertain", "u7ff8000000000000.1", id="no number"),
        pytest.param("uncertain", "u7ff0000000000000.1", id="infinite"),
        pytest.param("newest", "\0", id="nothing"),
    ],
)
def test_a_cursor_that_is_none_is_refused(history, order, text):
    with pytest.raises(BadFilter, match="after is no cursor of this order"):
        history.page(order=order, after=text)


@pytest.mark.parametrize("probability", [0.0, 1.0, 1 / 3, 0.1 + 0.2])
def test_a_cursor_keeps_a_probability_to_the_last_bit(probability):
    place = Position(probability, 7)

    assert parse_cursor("uncertain", cursor_text("uncertain", place)) == place


def test_an_order_is_newest_or_uncertain():
    assert [parse_order(text) for text in ("", "newest", "uncertain")] == ["newest", "newest", "uncertain"]
    with pytest.raises(BadFilter, match="order is newest or uncertain"):
        parse_order("oldest")


PARTS = {
    "label": (None, "rod"),
    "decision": (None, "accept"),
    "day": (None, "2026-05-04"),
    "given": (None, "yes", "no", "disagrees"),
    "outcome": (None, "classified"),
    "session": (None, "1777881600000000"),
}


@pytest.mark.parametrize("order", ["newest", "uncertain"])
def test_every_filter_is_one_pass_along_the_index_of_its_order(thousand, order):
    index = "entries_by_time" if order == "newest" else "entries_by_doubt"

    def plans(connection):
        for values in itertools.product(*PARTS.values()):
            wanted = EntryFilter.parse(dict(zip(PARTS, values, strict=True)))
            for after in (None, Position(0.5, 3) if order == "uncertain" else Position(10**15, 3)):
                seen: list[str] = []
                connection.set_trace_callback(seen.append)
                _Query(connection, wanted, order).positions(after, 10)
                connection.set_trace_callback(None)
                for question in [text for text in seen if ", id FROM entries" in text]:
                    yield question, [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {question}")]

    for question, plan in thousand.look(lambda connection: list(plans(connection)), []):
        assert len(plan) == 1, question
        assert f"USING COVERING INDEX {index}" in plan[0], question


@pytest.mark.parametrize("order", ["newest", "uncertain"])
def test_among_rows_alike_a_place_far_on_costs_what_a_near_one_does(journal, history, order):
    record(journal, *(entry(f"{number}.dm3", 0, probability=1.0) for number in range(1000)))

    def instructions(connection, place: Position) -> int:
        done = []
        connection.set_progress_handler(lambda: done.append(1), 1)
        assert len(_Query(connection, EntryFilter(), order).positions(place, 10)) == 10
        connection.set_progress_handler(None, 0)
        return len(done)

    def read(connection):
        places = _Query(connection, EntryFilter(), order).every(100)
        return [instructions(connection, place) for place in (places[0], places[8])]

    near, far = journal.look(read, (0, 0))
    assert 0 < far < 1.5 * near


def test_without_a_journal_there_is_no_answer(tmp_path, journal):
    history = History(archive_of(journal, tmp_path))
    journal.close()

    with pytest.raises(NoArchive, match="the journal cannot be read at the moment"):
        history.page()
