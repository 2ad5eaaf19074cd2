"""History and sessions over HTTP, by the page's own routes: what they answer, and how they refuse."""

from __future__ import annotations

import csv
import http.client
import io
import json
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import pytest
from agent_numbers import MODEL, numbers
from entries import ROOT, START, archive_of, entry, record, say, unread
from sidecars import CONTRACT

from edge_agent.journal import Journal
from edge_agent.live_page.application import site_of
from edge_agent.live_page.doorway import Loopback
from edge_agent.live_page.page_server import PageServer
from edge_agent.live_page.pulse import MonitorState
from edge_agent.page import session_routes
from edge_agent.page.bounded_reads import BoundedReads
from edge_agent.page.home import PageHome
from edge_agent.page.page_key import KEY_NAME

if TYPE_CHECKING:
    from pathlib import Path

START_ID = int(START.timestamp()) * 1_000_000
EVIL = '<img src=x onerror=alert(1)>,"=1+1".dm3'


class Answer:
    """What came back."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.content = answer.status, answer.headers, answer.read()

    @property
    def text(self) -> str:
        return self.content.decode("utf-8-sig")

    def json(self) -> object:
        return json.loads(self.content)


class Asked:
    """The page of a journal, served as it is, and a client with its key."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        monitor = MonitorState()
        monitor.note_status(numbers(model=MODEL.model_copy(update={"labels": ("sphere", "rod")})))
        self.folder = folder
        self.journal = stack.enter_context(Journal(folder / "state"))
        self.home = PageHome(monitor)
        self.home.access.meet(folder / "state")
        stack.callback(self.home.close)
        server = PageServer(Loopback(0), lambda: site_of(self.home))
        server.start()
        stack.callback(server.close)
        self._client = http.client.HTTPConnection(
            "127.0.0.1", int(server.word.rsplit(":", 1)[1].strip("/")), timeout=20
        )
        stack.callback(self._client.close)
        self._key = (folder / "state" / KEY_NAME).read_text().strip()

    def meet(self, root: Path = ROOT) -> None:
        self.home.meet(archive_of(self.journal, self.folder / "state", (root,)))

    def ask(self, path: str, query: dict[str, object] | None = None, method: str = "GET") -> Answer:
        headers = {"Authorization": f"Bearer {self._key}"}
        if method == "POST":
            headers["Content-Type"] = "application/json"
        body = "{}" if method == "POST" else None
        self._client.request(method, path + (f"?{urlencode(query)}" if query else ""), body, headers)
        return Answer(self._client.getresponse())

    def get(self, path: str, **query: object) -> object:
        answer = self.ask(path, query)
        assert answer.status == 200, answer.text
        return answer.json()


@pytest.fixture
def asked(tmp_path):
    with ExitStack() as stack:
        yield Asked(stack, tmp_path)


@pytest.fixture
def hundreds(asked):
    record(asked.journal, *(entry(f"{number}.dm3", number, probability=0.5) for number in range(250)))
    asked.meet()
    return asked


def test_pages_follow_each_other_by_their_cursors(hundreds):
    first = hundreds.get("/api/history")
    second = hundreds.get("/api/history", after=first["next"], limit=200)

    assert [row["id"] for row in first["rows"] + second["rows"]] == list(range(250, 0, -1))
    assert second["next"] is None


def test_the_index_leads_to_any_place(hundreds):
    index = hundreds.get("/api/history/index", order="uncertain", decision="accept")

    assert (index["total"], index["chunk"], index["newest"], index["anchors"][0]) == (250, 100, 250, None)
    rows = hundreds.get("/api/history", order="uncertain", decision="accept", after=index["anchors"][2])[
        "rows"
    ]
    assert [row["id"] for row in rows] == list(range(201, 251))


def test_there_is_something_to_filter_by(hundreds):
    facets = hundreds.get("/api/history/facets")

    assert facets["labels"] == ["rod"]
    assert sum(day["count"] for day in facets["days"]) == 250
    assert facets["sessions"] == [
        {"id": START_ID, "start": "2026-05-04T08:00:00.000Z", "end": "2026-05-04T12:09:00.000Z", "files": 250}
    ]
    (session,) = facets["sessions"]
    assert hundreds.get("/api/history/index", session=session["id"])["total"] == 250


OF_BOTH = {
    "order=oldest": "order is newest or uncertain",
    "day=yesterday": "day is written 2026-01-31",
    "session=../x": "session is the id of a session",
    f"label={'x' * 300}": "label is a text of at most 200 characters",
}
OF_PAGES = {
    "limit=0": "limit is a number from 1 to 200",
    "limit=201": "limit is a number from 1 to 200",
    "limit=1e2": "limit is a number from 1 to 200",
    "limit=%D9%A3": "limit is a number from 1 to 200",
    "after=n1.x": "after is no cursor of this order",
    f"after=n{'1' * 100}": "after is no cursor of this order",
}


@pytest.mark.parametrize(
    ("path", "complaints"), [("/api/history", OF_BOTH | OF_PAGES), ("/api/history/index", OF_BOTH)]
)
def test_what_is_wrong_with_a_query_is_said(asked, path, complaints):
    asked.meet()
    for query, complaint in complaints.items():
        answer = asked.ask(f"{path}?{query}&colour=red")
        assert (answer.status, answer.json()) == (400, {"error": complaint}), query


def test_unknown_words_and_empty_ones_are_passed_over(hundreds):
    assert (
        len(hundreds.get("/api/history", colour="red", label="", order="", after="", limit="")["rows"]) == 100
    )


@pytest.mark.parametrize(
    "path",
    [
        "/api/history",
        "/api/history/index",
        "/api/history/facets",
        "/api/sessions/latest",
        "/api/sessions/1",
        "/api/sessions/latest/summary.html",
        "/api/sessions/latest/entries.csv",
    ],
)
def test_between_two_services_there_is_no_answer(asked, path):
    for _ in range(2):
        answer = asked.ask(path)
        assert (answer.status, answer.json()) == (
            503,
            {"error": "the agent is starting or changing over"},
        )
        asked.meet()
        asked.home.meet(None)


def test_a_journal_that_cannot_be_read_is_no_empty_one(asked):
    asked.meet()
    asked.journal.close()

    answer = asked.ask("/api/history")

    assert (answer.status, answer.json()) == (503, {"error": "the journal cannot be read at the moment"})


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(asked):
    record(
        asked.journal,
        entry(EVIL, 5),
        entry("b.dm3", 15, label="cube", decision="abstain", reasons=("novel",)),
        unread("c.dm3", 25),
        entry("later.dm3", 500),
    )
    say(asked.journal, "b.dm3", "correct", "rod")
    asked.meet()
    return asked


FIRST = START_ID + 300_000_000


def test_a_session_is_told_in_full(sessions):
    assert sessions.get(f"/api/sessions/{FIRST}") == {
        "id": FIRST,
        "start": "2026-05-04T08:05:00.000Z",
        "end": "2026-05-04T08:25:00.000Z",
        "open": False,
        "files": 3,
        "given": 1,
        "outcomes": {"classified": 2, "unreadable": 1},
        "by_class": [
            {"label": "sphere", "accept": 0, "abstain": 0, "ungated": 0, "corrected": 0},
            {"label": "rod", "accept": 1, "abstain": 0, "ungated": 0, "corrected": 0},
            {"label": "cube", "accept": 0, "abstain": 1, "ungated": 0, "corrected": 1},
        ],
        "bins": {
            "minutes": 10,
            "start": "2026-05-04T08:00:00.000Z",
            "labels": ["sphere", "rod", "cube"],
            "counts": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        },
        "abstain_rate": 0.5,
        "corrected_rate": 0.5,
        "files_per_hour": 9.0,
        "previous": None,
        "next": START_ID + 500 * 60_000_000,
    }
    assert sessions.get("/api/sessions/latest")["previous"] == FIRST


NO_SESSIONS = ("x", "1.5", "-", "99999999999999999999", "latest2", "٣", "\0", str(2**60))


@pytest.mark.parametrize("rest", ["", "/summary.html", "/entries.csv"])
def test_a_session_that_is_none_is_not_found(sessions, rest):
    for name in NO_SESSIONS:
        answer = sessions.ask(f"/api/sessions/{quote(name)}{rest}")
        assert (answer.status, answer.json()) == (404, {"error": "there is no such session"}), name


def test_a_session_is_ended_once(asked):
    minutes = (datetime.now(UTC) - START).total_seconds() / 60
    record(asked.journal, entry("a.dm3", minutes - 10), entry("b.dm3", minutes - 5))
    asked.meet()
    assert asked.get("/api/sessions/latest")["open"]

    first, second = (
        asked.ask("/api/sessions/end", method="POST"),
        asked.ask("/api/sessions/end", method="POST"),
    )

    assert (first.status, second.status) == (200, 409)
    assert first.json() == {"id": asked.get("/api/sessions/latest")["id"]}
    assert second.json() == {"error": "no session is open"}
    record(asked.journal, entry("c.dm3", minutes + 1))
    assert asked.get("/api/sessions/latest")["files"] == 1


def test_only_a_post_ends_a_session(asked):
    record(asked.journal, entry("a.dm3"))
    asked.meet()

    assert asked.ask("/api/sessions/end").status in (404, 405)
    assert (
        asked.journal.look(lambda c: c.execute("SELECT COUNT(*) FROM session_marks").fetchone()[0], None) == 0
    )


def test_the_table_is_a_file_for_a_spreadsheet(sessions):
    answer = sessions.ask(f"/api/sessions/{FIRST}/entries.csv")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith(
        'attachment; filename="scopewatch-session-2026-05-0'
    )
    lines = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [(line["name"], line["outcome"], line["given_label"]) for line in lines] == [
        (EVIL, "classified", ""),
        ("b.dm3", "classified", "rod"),
        ("c.dm3", "unreadable", ""),
    ]


def test_a_long_table_comes_in_pieces_and_has_every_file_once(asked, monkeypatch):
    monkeypatch.setattr(session_routes, "_ROWS_AT_ONCE", 7)
    record(
        asked.journal, *(entry(f"{number}.dm3", number // 5) for number in range(50)), entry("later.dm3", 900)
    )
    asked.meet()

    text = asked.ask(f"/api/sessions/{START_ID}/entries.csv").text

    assert [line["id"] for line in csv.DictReader(io.StringIO(text))] == [
        str(number) for number in range(1, 51)
    ]


def test_the_summary_names_model_and_instrument_from_the_sidecars(asked, tmp_path):
    folder = tmp_path / "scope"
    folder.mkdir()
    record(
        asked.journal,
        entry(str(folder / "a.dm3"), sha256=CONTRACT["source"]["sha256"]),
        entry(str(folder / "b.dm3"), model_sha256="aa" * 32),
    )
    (folder / "a.dm3.json").write_text(json.dumps(CONTRACT))
    asked.meet(folder)

    answer = asked.ask("/api/sessions/latest/summary.html")

    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "particle-shape 1 (1 file); model aaaaaaaaaaaa (1 file)" in answer.text
    assert "Titan, room 12, FEI Titan" in answer.text


def test_a_disk_that_does_not_answer_costs_the_summary_a_name_only(asked, monkeypatch):
    read, answers = BoundedReads.read, threading.Event()

    def impatient(reads, place, work):
        reads._seconds = 0.05
        return read(reads, place, work)

    monkeypatch.setattr(BoundedReads, "read", impatient)
    monkeypatch.setattr(session_routes, "record_of", lambda row, plan: answers.wait(20))
    record(asked.journal, entry("a.dm3"))
    asked.meet()

    answer = asked.ask("/api/sessions/latest/summary.html")
    answers.set()

    assert answer.status == 200
    assert "model efefefefefef (1 file)" in answer.text
    assert "instrument not named" in answer.text


def test_no_name_gets_into_the_summary_unescaped(sessions):
    record(sessions.journal, entry("d.dm3", 30, label=EVIL, decision="abstain", reasons=(EVIL,)))

    text = sessions.ask(f"/api/sessions/{FIRST}/summary.html").text

    assert "<img" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
