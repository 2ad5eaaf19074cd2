"""Sessions begin and end where people would say so, and their numbers, page and table are those of their files."""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from entries import ROOT, START, archive_of, entry, record, say, unread

from edge_agent.journal import Journal
from edge_agent.page import session_table
from edge_agent.page.entry_filter import Span
from edge_agent.page.history import History
from edge_agent.page.no_archive import NoArchive
from edge_agent.page.session_facts import Origin, SessionFacts, facts_of, origin_of
from edge_agent.page.session_spans import GAP_US, Timeline
from edge_agent.page.session_summary import POLICY, summary_html
from edge_agent.page.sessions import Bins, ClassCounts, SessionNumbers, Sessions

START_US = int(START.timestamp()) * 1_000_000
MINUTE_US = 60_000_000
EVIL = "<img src=x onerror=alert(1)>\"'&</style><script>alert(2)</script>"


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def sessions(journal, tmp_path):
    return Sessions(archive_of(journal, tmp_path))


def finished_at(journal: Journal, *minutes: float) -> None:
    record(journal, *(entry(f"{number}.dm3", at) for number, at in enumerate(minutes)))


def mark(journal: Journal, *minutes: float) -> None:
    for at in minutes:
        row = (START_US + int(at * MINUTE_US),)
        journal.change(
            lambda connection, row=row: connection.execute("INSERT INTO session_marks VALUES (?)", row)
        )


def spans(journal: Journal) -> list[list[float]]:
    """First and last minute of each session, the earliest first, asked for in every way there is."""

    def ask(connection):
        line = Timeline(connection)
        backwards = list(line.newest_first(1000))
        for earlier, later in zip(backwards[1:], backwards, strict=False):
            assert line.before(later) == earlier
            assert line.after(earlier) == later
        for span in backwards:
            assert line.of(span.start_us) == line.of(span.end_us - 1) == span
        if backwards:
            assert line.before(backwards[-1]) is None
            assert line.after(backwards[0]) is None
            assert line.of(backwards[0].end_us) is None
            assert line.of(-(2**60)) == backwards[-1]
        return backwards

    return [
        [(span.start_us - START_US) / MINUTE_US, (span.end_us - 1 - START_US) / MINUTE_US]
        for span in reversed(journal.look(ask, []))
    ]


@pytest.mark.parametrize(
    ("files", "marks", "expected"),
    [
        pytest.param([], [5], [], id="no files"),
        pytest.param([3], [], [[3, 3]], id="one file"),
        pytest.param([3, 3, 3], [], [[3, 3]], id="all at once"),
        pytest.param([0, 120, 240], [], [[0, 240]], id="two hours between files are no gap"),
        pytest.param([0, 120.001, 130], [], [[0, 0], [120.001, 130]], id="a little more is one"),
        pytest.param([0, 60, 100, 300, 410, 900], [], [[0, 100], [300, 410], [900, 900]], id="gaps"),
        pytest.param([0, 10, 20, 30], [15], [[0, 10], [20, 30]], id="ended by hand"),
        pytest.param([0, 10, 20], [10], [[0, 10], [20, 20]], id="ended as a file was finished"),
        pytest.param([0, 10, 20], [3, 5, 7], [[0, 0], [10, 20]], id="ended thrice"),
        pytest.param([0, 10], [-5, 15], [[0, 10]], id="ended before and after all"),
        pytest.param([0, 200], [100], [[0, 0], [200, 200]], id="ended within a gap"),
    ],
)
def test_a_session_ends_after_two_hours_or_by_hand(journal, files, marks, expected):
    finished_at(journal, *files)
    mark(journal, *marks)

    assert spans(journal) == expected


def test_leaps_find_what_a_pass_over_all_files_finds(journal):
    chance = random.Random(5)
    for number in range(25):
        count = chance.randrange(1, 60)
        files = sorted(round(chance.expovariate(1 / 3000), 1) for _ in range(count))
        marks = sorted({round(chance.uniform(0, 8000), 1) for _ in range(chance.randrange(4))})
        for table in ("entries", "session_marks"):
            journal.change(lambda connection, table=table: connection.execute(f"DELETE FROM {table}"))
        record(journal, *(entry(f"{number}/{place}.dm3", at) for place, at in enumerate(files)))
        mark(journal, *marks)

        expected = [[files[0], files[0]]]
        for before, after in itertools.pairwise(files):
            ended = any(before <= at < after for at in marks)
            if after - before > GAP_US / MINUTE_US or ended:
                expected.append([after, after])
            expected[-1][1] = after
        assert spans(journal) == [pytest.approx(span) for span in expected], (files, marks)


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        pytest.param(10, True, id="as the last file is finished"),
        pytest.param(130, True, id="two hours later"),
        pytest.param(131, False, id="more than two hours later"),
        pytest.param(-500, True, id="the clock was set back"),
    ],
)
def test_a_session_is_ended_by_hand_while_it_is_open(journal, sessions, now, is_open):
    finished_at(journal, 0, 10)
    now_us = START_US + now * MINUTE_US

    assert sessions.end(now_us) == (START_US if is_open else None)
    assert sessions.end(now_us) is None, "it has ended"
    record(journal, entry("next.dm3", max(now, 10) + 1))
    assert [span[0] for span in spans(journal)] == [0, max(now, 10) + 1]


def test_nothing_is_ended_where_nothing_began(sessions):
    assert sessions.latest() is None
    assert sessions.end() is None


def mixed(journal: Journal) -> None:
    record(
        journal,
        entry("0.dm3", 3, label="rod"),
        entry("1.dm3", 12, label="cube", decision="abstain", reasons=("novel", "blurred")),
        entry("2.dm3", 13, label="cube", decision="abstain", reasons=("novel",)),
        entry("3.dm3", 33, label="rod"),
        entry("4.dm3", 34, label="old class", decision="ungated", model_sha256="aa" * 32),
        unread("5.dm3", 63),
        entry("next.dm3", 500),
    )
    say(journal, "0.dm3", "confirm", "rod", blind=True)
    say(journal, "1.dm3", "correct", "rod", blind=True)
    say(journal, "2.dm3", "confirm", "cube", by="bob", blind=True, void=True)
    say(journal, "3.dm3", "not_in_list", None)


def test_the_numbers_of_a_session(journal, sessions):
    mixed(journal)

    numbers = sessions.of(START_US + 3 * MINUTE_US, ("sphere", "rod", "cube"))

    assert (numbers.files, numbers.given, numbers.corrected) == (6, 3, 2)
    assert numbers.outcomes == (("classified", 5), ("unreadable", 1))
    assert numbers.classes == (
        ClassCounts("sphere", 0, 0, 0, 0),
        ClassCounts("rod", 2, 0, 0, 1),
        ClassCounts("cube", 0, 2, 0, 1),
        ClassCounts("old class", 0, 0, 1, 0),
    )
    assert numbers.bins == Bins(
        10,
        START_US,
        ("sphere", "rod", "cube", "old class"),
        ((0, 1, 0, 0), (0, 0, 2, 0), (0, 0, 0, 0), (0, 1, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)),
    )
    assert (numbers.abstain_rate, numbers.corrected_rate) == (2 / 4, 2 / 5)
    assert numbers.files_per_hour == pytest.approx(6.0)
    assert (numbers.before, numbers.after) == (None, START_US + 500 * MINUTE_US)
    assert not numbers.is_open


def test_a_session_of_one_file_has_no_pace_and_one_without_answers_no_rates(journal, sessions):
    record(journal, unread("a.dm3"))

    numbers = sessions.latest()

    assert (numbers.files, numbers.classes, numbers.bins.counts) == (1, (), ((),))
    assert (numbers.abstain_rate, numbers.corrected_rate, numbers.files_per_hour) == (None, None, None)


@pytest.mark.parametrize(
    ("hours", "minutes"),
    [(1, 10), (160, 10), (170, 30), (24 * 22, 60), (24 * 50, 180), (24 * 200, 1440), (24 * 1050, 10080)],
)
def test_long_sessions_have_wider_bars(journal, sessions, hours, minutes):
    finished_at(journal, *(60.0 * hour for hour in range(0, hours, 2)), 60.0 * hours - 0.1)

    bins = sessions.latest().bins

    assert bins.minutes == minutes
    assert len(bins.counts) <= 1010
    assert sum(map(sum, bins.counts)) == -(-hours // 2) + 1


def test_without_a_journal_there_are_no_sessions(journal, sessions, tmp_path):
    journal.close()

    with pytest.raises(NoArchive):
        sessions.latest()
    with pytest.raises(NoArchive):
        facts_of(archive_of(journal, tmp_path), Span(0, 1))


# --- what one takes along -----------------------------------------------------------------------------------------


def test_why_it_abstained_and_what_people_said(journal, sessions, tmp_path):
    mixed(journal)

    facts = facts_of(archive_of(journal, tmp_path), sessions.of(START_US).span)

    assert facts.abstentions == (("novel", 2), ("blurred", 1))
    assert (facts.confirmed, facts.corrected, facts.not_in_list) == (1, 1, 1)
    assert (facts.blind, facts.blind_right) == (2, 1)
    assert [(row.path.name, count) for row, count in facts.answered] == [("3.dm3", 4), ("4.dm3", 1)]
    assert origin_of((row, count, None) for row, count in facts.answered) == Origin(
        (("model efefefefefef", 4), ("model aaaaaaaaaaaa", 1)), ()
    )


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_takes_nothing_for_a_formula(text):
    assert session_table.safe(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=1", "1+1", "rod", "'quoted"])
def test_other_texts_stay_as_they_are(text):
    assert session_table.safe(text) == text


def test_the_table_has_a_line_a_file_and_survives_any_name(journal, tmp_path):
    record(
        journal,
        entry('=HYPERLINK("x"),\n"y".dm3', 0, reasons=("novel", "blurred"), decision="abstain"),
        entry("@sum/caf\udce9.dm3", 1, label="-rod"),
        unread("粒子.dm3", 2, reason="+is cut off"),
    )
    say(journal, '=HYPERLINK("x"),\n"y".dm3', "correct", "=cube", by="@ana")
    history = History(archive_of(journal, tmp_path))

    text = session_table.head() + session_table.lines_of(history.following(START_US, -1, 2**62, 10), (ROOT,))
    lines = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))

    assert [line["name"] for line in lines] == [
        '\'=HYPERLINK("x"),\n"y".dm3',
        "caf\\xe9.dm3",
        "粒子.dm3",
    ]
    assert [line["folder"] for line in lines] == ["", "'@sum", ""]
    assert [line["label"] for line in lines] == ["rod", "'-rod", ""]
    assert [line["reason"] for line in lines] == ["", "", "'+is cut off"]
    assert lines[0]["reasons"] == "novel; blurred"
    assert (lines[0]["given_label"], lines[0]["given_by"]) == ("'=cube", "'@ana")
    assert lines[0]["finished"] == "2026-05-04T08:00:00.000Z"
    assert not any(cell.startswith(session_table._FORMULA) for line in lines for cell in line.values())


def numbers_of(labels: tuple[str, ...], bins: int) -> SessionNumbers:
    chance = random.Random(1)
    span = Span(START_US, START_US + bins * 10 * MINUTE_US)
    classes = tuple(ClassCounts(label, chance.randrange(99), 3, 0, 1) for label in labels)
    counts = tuple(tuple(chance.randrange(5) for _ in labels) for _ in range(bins))
    return SessionNumbers(
        START_US, span, True, 400, 13, (("classified", 390), ("not_an_image", 10)), classes,
        Bins(10, START_US, labels, counts), None, None,
    )  # fmt: skip


FACTS = SessionFacts((), (("novel", 12), ("low_confidence", 3)), 10, 5, 2, 20, 18)
PLAIN = (numbers_of(("cube", "rod"), 40), FACTS, Origin((("particle-shape 1.2", 390),), ("Titan, room 12",)))
HOSTILE = (
    numbers_of(tuple(f"{EVIL}{number}{'W' * 300}" for number in range(30)), 1000),
    replace(FACTS, abstentions=tuple((f"{EVIL}{number}{'W' * 300}", number) for number in range(40))),
    Origin(((EVIL * 9, 3),) * 5, (EVIL * 9,) * 6),
)
"""More and longer than anything real, and not meant well."""


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_summary_says_what_the_session_was():
    text = re.sub("<[^>]+>", " ", summary_html(*PLAIN).partition("<body>")[2])

    for part in (
        "Titan, room 12", "particle-shape 1.2 (390 files)", "400 files", "60 files an hour", "C cube", "R rod",
        "novel 12", "low confidence 3", "confirmed 10", "not in the list 2", "18 of 20", "10 minutes a bar",
        "390 classified, 10 not an image",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part


@pytest.mark.parametrize("parts", [PLAIN, HOSTILE], ids=["plain", "hostile"])
def test_no_name_becomes_part_of_the_document(parts):
    tags = _Tags()
    tags.feed(summary_html(*parts))

    assert tags.seen <= {
        "main",
        "html", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "table", "tr", "th", "td", "section",
        "svg", "g", "path", "rect", "text",
    }  # fmt: skip
    assert not {name for name in tags.attributes if name.startswith("on") or name == "style"}


def test_the_policy_of_the_summary_allows_its_style_and_nothing_else():
    import base64
    import hashlib

    style = summary_html(*PLAIN).partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert f"style-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in POLICY


def test_a_session_at_the_end_of_all_calendars_has_a_summary():
    numbers = replace(PLAIN[0], span=Span(253402300799000000, 253402300799000001))

    assert "Session of 9999-12-31" in summary_html(numbers, *PLAIN[1:])


def test_nothing_answered_is_said(journal, sessions, tmp_path):
    record(journal, unread("a.dm3"))
    numbers = sessions.latest()
    facts = facts_of(archive_of(journal, Path(tmp_path)), numbers.span)

    text = summary_html(numbers, facts, origin_of([]))

    assert "No file has an answer." in text
    assert "instrument not named" in text
    assert "It did not." in text
