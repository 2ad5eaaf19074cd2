"""Labels over HTTP, through the gate: what is taken, what is refused in one sentence, what the page is told."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from agent_numbers import MODEL, numbers
from labelled import content, fill, given, until
from page_client import page_on

from edge_agent.journal import JournalBusy
from edge_agent.labelling.audit import OFFERED_SHARE
from edge_agent.output_places import OutputPlan
from edge_agent.page.access import CHANGE_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from page_client import Page

FILES = 60
BATCH = "0b6f2a5c-0000-4000-8000-"
DRAWN = [number for number in range(FILES) if int(content(number)[-4:], 16) / 2**16 < OFFERED_SHARE]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page over finished files, asked by somebody who is signed in."""
    folder = tmp_path_factory.mktemp("labels")
    with page_on(folder) as page:
        page.home.monitor.note_status(
            numbers(model=MODEL.model_copy(update={"labels": ("faceted", "rod", "round")}))
        )
        fill(page.archive.journal, folder / "scope", range(FILES))
        yield page.sign_in()


@pytest.fixture
def page(inside: Page) -> Iterator[Page]:
    """The same, with nothing that anybody said left counting."""
    yield inside
    for by in ("ann", "bob"):
        while inside.ask("POST", "/api/undo", {"by": by})[0] == 200:
            pass
    inside.archive.journal.change(lambda connection: connection.execute("DELETE FROM labels").rowcount)


BATCHES = iter(range(10**6))


def order(**changes: object) -> dict[str, object]:
    values = {"action": "correct", "label": "rod", "by": "ann", "ids": [1], "count": 1, "ticket": None}
    return {"batch": f"{BATCH}{next(BATCHES):012}"} | values | changes


def post(page: Page, path: str, body: object, status: int = 200) -> dict[str, object]:
    found, headers, answer = page.ask("POST", path, body)
    assert found == status, answer
    assert headers["content-type"] == "application/json"
    return json.loads(answer)


def test_a_label_is_given_undone_and_done_again(page):
    asked = order(ids=[2], label="faceted")
    with page.stream() as stream:
        answer = post(page, "/api/labels", asked)
        assert answer == {"batch": asked["batch"], "count": 1, "skipped": 0}
        until(lambda: page.get("/api/state?by=ann")["waiting_labels"] is None)
        labels = OutputPlan().place(page.archive.folders[0] / "m1.dm3").labels
        assert labels.is_file()
        assert page.get("/api/history")["rows"][-2]["given"]["label"] == "faceted"
        state = page.get("/api/state?by=ann")
        assert state["undo"] == {"batch": asked["batch"], "count": 1, "what": "1 micrograph labelled faceted"}

        assert post(page, "/api/undo", {"by": "ann"})["what"] == "1 micrograph labelled faceted"
        assert page.get("/api/state?by=ann")["redo"]["batch"] == asked["batch"]
        assert post(page, "/api/redo", {"by": "ann"})["count"] == 1

        told = []
        while len(told) < 3:
            _, kind, data = stream.event()
            told += [data] if kind == "labels" else []
    assert [data["changes"][0][0] for data in told] == [2, 2, 2]
    assert told[1]["changes"] == [[2, None]]
    word = told[0]["changes"][0][1]
    assert {key: word[key] for key in ("action", "label", "by")} == {
        "action": "correct",
        "label": "faceted",
        "by": "ann",
    }


def test_a_filter_is_looked_up_when_it_arrives_and_its_count_must_be_right(page):
    refused = post(
        page, "/api/labels", order(ids=None, filter={"label": "rod"}, count=29) | {"ids": None}, 400
    )
    assert "ids is a list" in refused["error"]
    asked = {
        key: value
        for key, value in order(label="round", filter={"label": "rod"}, count=29).items()
        if key != "ids"
    }

    assert post(page, "/api/labels", asked, 409) == {"error": "the filter has 30 entries now", "count": 30}
    assert post(page, "/api/labels", asked | {"count": 30})["count"] == 30
    again = post(page, "/api/labels", asked | {"count": 30})

    assert again["count"] == 30, "the same answer, though no entry has that label any more"
    assert {label for _, label, _ in given(page.archive.journal).values()} == {"round", None}


def test_an_undo_that_is_sent_twice_undoes_once(page):
    post(page, "/api/labels", order(ids=[1]))
    post(page, "/api/labels", order(ids=[3]))
    request = {"by": "ann", "request": f"{BATCH}undo"}

    assert post(page, "/api/undo", request) == post(page, "/api/undo", request)

    assert page.get("/api/state?by=ann")["undo"] is not None


def test_nothing_to_undo_is_said(page):
    assert post(page, "/api/undo", {"by": "nobody"}, 409) == {"error": "there is nothing to undo"}
    assert post(page, "/api/redo", {"by": "nobody"}, 409) == {"error": "there is nothing to redo"}


REFUSED = [
    pytest.param({"batch": "x"}, "batch is 8 to 64 letters, digits and dashes", id="a batch that is none"),
    pytest.param({"batch": None}, "batch is a text", id="no batch"),
    pytest.param({"batch": "../../../../etc/passwd"}, "batch is 8 to 64", id="a path for a batch"),
    pytest.param({"action": "undo"}, "action is one of confirm, correct, not_in_list", id="an undo as a label"),
    pytest.param({"action": ["confirm"]}, "action is one of", id="a list for an action"),
    pytest.param({"label": "<img onerror>"}, "label is none of the classes", id="a label of no model"),
    pytest.param({"label": None}, "label is a class", id="corrects to nothing"),
    pytest.param({"label": "x" * 201}, "label is a class, of at most 200", id="a label without end"),
    pytest.param({"label": "\ud800"}, "label is a class", id="a label that no file can hold"),
    pytest.param({"action": "confirm"}, "confirm has no label", id="confirms another label"),
    pytest.param({"action": "not_in_list"}, "not_in_list has no label", id="not in the list, and named"),
    pytest.param({"by": ""}, "by says who labels", id="nobody"),
    pytest.param({"by": "  "}, "by says who labels", id="blanks"),
    pytest.param({"by": "a\x1b[31m"}, "by says who labels", id="a terminal's escape in a name"),
    pytest.param({"by": "\udc80"}, "by says who labels", id="a name that no file can hold"),
    pytest.param({"by": 7}, "by says who labels", id="a number for a name"),
    pytest.param({"ids": []}, "ids is a list of 1 to 10000", id="nothing selected"),
    pytest.param({"ids": ["1"]}, "ids is a list", id="text for a number"),
    pytest.param({"ids": [True]}, "ids is a list", id="a truth for a number"),
    pytest.param({"ids": [2**63]}, "ids is a list", id="a number that no table holds"),
    pytest.param({"ids": [-1]}, "ids is a list", id="below the first"),
    pytest.param({"ids": {"a": 1}}, "ids is a list", id="an object for a list"),
    pytest.param({"ticket": "1.ff"}, "this blind label does not count any more", id="a ticket that is none"),
    pytest.param({"ticket": 5}, "a ticket is for one entry", id="a number for a ticket"),
    pytest.param({"ticket": "1.ff", "ids": [1, 2]}, "a ticket is for one entry", id="a ticket for two"),
    pytest.param(
        {"ticket": "1.ff", "action": "confirm", "label": None}, "a ticket is for one entry", id="confirms unseen"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_what_is_refused_and_why(page, changes, reason):
    error = post(page, "/api/labels", order(**changes), 400)["error"]

    assert reason in error
    assert "\n" not in error
    assert set(given(page.archive.journal).values()) == {(None, None, None)}


@pytest.mark.parametrize("filter_", [{"decision": "perhaps"}, {"day": "yesterday"}, [], None, "x"])
def test_a_filter_that_is_none(page, filter_):
    body = {key: value for key, value in order(filter=filter_).items() if key != "ids"}

    assert post(page, "/api/labels", body, 400)["error"]


def test_hostile_names_go_through_unchanged(page):
    by = "<script>alert(1)</script> '\"; DROP TABLE labels; --"

    post(page, "/api/labels", order(by=by))

    assert page.get("/api/history")["rows"][-1]["given"]["by"] == by
    post(page, "/api/undo", {"by": by})


def test_a_label_of_an_earlier_model_may_be_given(page):
    fill(page.archive.journal, page.archive.folders[0] / "then", [500], label="needle")

    assert post(page, "/api/labels", order(label="needle"))["count"] == 1


def test_a_journal_that_takes_nothing_is_told_and_may_be_asked_again(page, monkeypatch):
    def busy(*_, **__):
        raise JournalBusy("the journal takes nothing at the moment")

    asked = order()
    with monkeypatch.context() as patch:
        patch.setattr(page.archive.journal, "change", busy)
        assert post(page, "/api/labels", asked, 503) == {"error": "the journal takes nothing at the moment"}

    assert post(page, "/api/labels", asked)["count"] == 1


def test_corrections_are_counted_once_by_their_label(page):
    def counted() -> dict[str, float]:
        _, _, body = page.ask("GET", "/metrics", accept="text/plain")
        lines = [
            line for line in body.decode().splitlines() if line.startswith("scopewatch_corrections_total{")
        ]
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines}

    before = counted()
    asked = order(label="faceted", ids=[1, 2])
    for _ in range(2):
        post(page, "/api/labels", asked)
    post(page, "/api/labels", order(action="confirm", label=None, ids=[3]))
    post(page, "/api/labels", order(action="not_in_list", label=None, ids=[4]))

    after = counted()
    assert {label: after[label] - before.get(label, 0) for label in after if after[label] != before.get(label)} == {
        "faceted": 2, "not_in_list": 1,
    }  # fmt: skip


# Blind


def test_the_audit_offers_a_picture_and_says_nothing_of_it(page):
    found = page.get("/api/audit/next?by=ann")

    assert found["left"] > 0
    assert found["row"]["id"] - 1 in DRAWN
    assert {key for key, value in found["row"].items() if value not in (None, [])} == {
        "id", "folder", "at", "outcome", "model", "content",
    }  # fmt: skip
    answer = json.dumps(found)
    assert '"rod"' not in answer
    assert ".dm3" not in answer


def test_a_blind_label_is_one_with_a_ticket_and_only_once(page):
    offer = page.get("/api/audit/next?by=bob")
    row, ticket = offer["row"], offer["ticket"]
    asked = order(by="bob", ids=[row["id"]], ticket=ticket, label="rod")
    assert "does not count" in post(page, "/api/labels", asked | {"by": "ann"}, 400)["error"]

    first = post(page, "/api/labels", asked)

    assert post(page, "/api/labels", asked) == first, "sent twice"
    again = order(by="bob", ids=[row["id"]], ticket=ticket)
    assert "does not count" in post(page, "/api/labels", again, 400)["error"], "it was shown by now"
    audit = page.get("/api/learning")["audit"]
    assert audit["given"] == 1
    assert audit["right"] == row["id"] % 2, "rod is what the agent answered for every other one"
    assert audit["offered_share"] == 0.05
    assert page.get("/api/audit/next?by=bob")["row"] != row


def test_what_is_skipped_is_not_offered(page):
    first = page.get("/api/audit/next?by=ann")

    second = page.get(f"/api/audit/next?by=ann&skip={first['row']['id']}")

    assert second["left"] == first["left"] - 1
    assert page.ask("GET", "/api/audit/next?by=ann&skip=1;2")[0] == 400
    assert page.ask("GET", "/api/audit/next")[0] == 400, "for whom?"


def test_what_there_is_to_learn(page):
    post(page, "/api/labels", order(ids=[1, 2, 3, 4], label="faceted"))

    found = page.get("/api/learning")

    assert [item["label"] for item in found["per_class"]][:3] == ["faceted", "rod", "round"]
    assert found["per_class"][0] == {
        "label": "faceted", "new_labels": 4, "corrected": 4, "rate": 1.0, "low": 0.5101, "high": 1.0,
    }  # fmt: skip
    assert found["worth_retraining"] == []
    assert found["enough"] == 30
    assert found["command"] == f"edge-trainer prepare RAW OUT --corrections {page.archive.folders[0]}"
    assert found["audit"]["abstained"] == {"given": 0, "right": 0, "low": None, "high": None}


@pytest.mark.parametrize("path", ["/api/audit/next?by=ann", "/api/learning"])
def test_nothing_is_told_to_who_is_not_signed_in(page, path):
    assert page.ask("GET", path, cookie=None)[0] == 401


@pytest.mark.parametrize("path", ["/api/labels", "/api/undo", "/api/redo"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"cookie": None}, 401), ({CHANGE_HEADER: None}, 403), ({"origin": "http://evil.example"}, 403)],
    ids=["not signed in", "without the word", "another origin"],
)
def test_nothing_is_changed_by_anybody_else(page, path, headers, status):
    assert page.ask("POST", path, order(), **headers)[0] == status
    assert page.ask("GET", path)[0] == 405
    assert set(given(page.archive.journal).values()) == {(None, None, None)}


def test_no_name_of_a_person_stands_in_the_log(page, caplog):
    with caplog.at_level(logging.DEBUG):
        post(page, "/api/labels", order(by="Professor Quux"))
        post(page, "/api/labels", order(by="Professor Quux", label="nothing known"), 400)
        post(page, "/api/undo", {"by": "Professor Quux"})

    assert "Quux" not in caplog.text


def test_a_file_that_was_saved_again_since_it_was_seen_is_not_labelled(page):
    now = {row["id"]: row["content"] for row in page.get("/api/history")["rows"]}
    as_seen = [now[2][:16], None]

    told = post(page, "/api/labels", order(ids=[2, 3], contents=["ab" * 8, None]), 409)
    assert told == {"error": "a file was saved again since you looked at it: look again, then label it"}
    assert all(row["given"] is None for row in page.get("/api/history")["rows"])

    assert post(page, "/api/labels", order(ids=[2, 3], contents=as_seen))["count"] == 2


@pytest.mark.parametrize(
    "contents",
    [pytest.param(["ab"], id="too few"), pytest.param("abab", id="text"), pytest.param({}, id="object")],
)
def test_contents_are_a_list_as_long_as_ids(page, contents):
    told = post(page, "/api/labels", order(ids=[2, 3], contents=contents), 400)
    assert told == {"error": "contents is a list as long as ids, of texts or nulls"}
