"""Labels by keys and buttons: where keys act, what is sent how often, what can be taken back, what is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from page_rig import PIXEL, QuietPage, accessible, until, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES = 210
COUNTING = (
    "SELECT action, label, \"by\", blind FROM labels WHERE void = 0 AND action <> 'undo' ORDER BY number"
)


class Desk(NamedTuple):
    """A tab, the page it shows, and what the test expects the browser to complain of."""

    tab: Any
    page: QuietPage
    expected: list[str]

    def labels(self) -> list[tuple[str, str | None, str, int]]:
        return self.page.journal.look(lambda connection: connection.execute(COUNTING).fetchall(), [])

    def labelled(self, count: int) -> list[tuple[str, str | None, str, int]]:
        return until(lambda: (found := self.labels()) and len(found) == count and found, f"{count} labels")

    def nothing(self) -> None:
        until(lambda: not self.labels(), "no label counts")

    @property
    def options(self) -> Any:
        return self.tab.locator("#history [role=option]")

    def told(self, text: str) -> None:
        expect(self.tab.locator(".toast p")).to_contain_text(text)


@pytest.fixture
def desk(chromium: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr("getpass.getuser", lambda: "ana")
    with QuietPage(tmp_path) as page, visiting(chromium, page) as visit:
        page.saved(ENTRIES)
        visit.expected = [".jpg"]  # nothing was ever saved: the entries have no pictures
        tab = visit.tab()
        found = Desk(tab, page, visit.expected)
        found.options.nth(8).wait_for()
        yield found


def test_a_row_of_keys_labels_entry_after_entry(desk: Desk) -> None:
    desk.options.first.click()
    first = desk.options.first.locator(".answer").inner_text().split()[0]
    for key in ("Enter", "1", "2", "3", "0", "r"):
        desk.tab.wait_for_timeout(350)  # a key sooner would be for the picture before
        desk.tab.keyboard.press(key)
    given = desk.labelled(6)
    assert given[0][:3] == ("confirm", first, "ana")
    assert [label for _, label, _, _ in given[1:]] == ["faceted", "rod", "round", None, None]
    expect(desk.options.nth(5).locator(".given")).to_have_text("→ not in the list (ana)")
    desk.told("1 entry labelled not in the list")
    assert accessible(desk.tab) == []


def test_undo_and_redo_survive_a_reload(desk: Desk) -> None:
    desk.options.nth(1).click()
    desk.options.nth(3).click(modifiers=["Shift"])
    desk.tab.keyboard.press("2")
    desk.labelled(3)
    desk.tab.reload()
    desk.options.nth(8).wait_for()
    desk.tab.locator("#history [role=listbox]").focus()
    desk.tab.keyboard.press("Control+z")
    desk.nothing()
    desk.told("Taken back: 3 micrographs labelled rod.")
    desk.tab.locator(".toast button").click()
    desk.labelled(3)
    desk.told("Done again")
    assert desk.tab.evaluate("document.activeElement.getAttribute('role')") == "listbox"
    expect(desk.options.nth(2).locator(".given")).to_contain_text("rod (ana)")


PLACES = {
    "in the history": ("#history [role=listbox]", True),
    "at the picture": ("#stage", True),
    "at the tabs": ("#tab-history", False),
    "in the strip": ("#strip button >> nth=0", False),
    "while typing initials": ("#person", False),
    "in a filter": ("#history select >> nth=1", False),
}


def test_keys_act_inside_picture_and_history_only(desk: Desk) -> None:
    desk.options.nth(2).click()
    button = desk.tab.locator("#corrections button").first
    expected = 0
    for name, (place, acts) in PLACES.items():
        desk.tab.locator(place).focus()
        desk.tab.keyboard.press("2")
        button.click()  # sent after the key's label: once it is there, so is the other
        expected += 2 if acts else 1
        assert [label for _, label, _, _ in desk.labelled(expected)][-2:].count("rod") == acts, name


def test_single_keys_can_be_switched_off(desk: Desk) -> None:
    desk.options.nth(2).click()
    desk.tab.keyboard.press("?")
    expect(desk.tab.locator("#dialogs dialog")).to_contain_text("selects all that the filters find")
    assert accessible(desk.tab) == []
    desk.tab.locator("#keys-on").uncheck()
    desk.tab.keyboard.press("Escape")
    assert desk.tab.evaluate("document.activeElement.getAttribute('role')") == "listbox"
    desk.tab.keyboard.press("2")
    desk.tab.keyboard.press("Enter")
    assert desk.labelled(1)[0][0] == "confirm"


def test_what_is_said_while_the_agent_is_away_arrives_once(desk: Desk) -> None:
    desk.expected.extend(["ERR_CONNECTION", "ERR_EMPTY", "ERR_INCOMPLETE", "401", "503"])
    desk.options.nth(2).click()
    loaded = "performance.getEntriesByName(location.origin + '/static/view_keys.js').length"
    until(lambda: desk.tab.evaluate(loaded), "the page's last part is there")
    desk.page.stop()
    for key in "123":
        desk.tab.keyboard.press(key)
    desk.told("3 kept here, to be sent again")
    desk.page.start_again()
    given = desk.labelled(3)
    assert [label for _, label, _, _ in given] == ["faceted", "rod", "round"]
    desk.told("1 entry labelled round")
    assert desk.tab.evaluate("sessionStorage.getItem('scopewatch.outbox')") == "[]"


def test_a_lost_answer_is_asked_for_again_under_the_same_number(desk: Desk) -> None:
    desk.expected.extend(["ERR_FAILED"])
    lost = []

    def lose_the_first(route: Any) -> None:
        if lost:
            return route.continue_()
        lost.append(route.request.post_data_json["batch"])
        route.fetch()  # the agent gets it, and nobody gets its answer
        route.abort()

    desk.tab.route("**/api/labels", lose_the_first)
    desk.options.nth(2).click()
    desk.tab.keyboard.press("2")
    desk.told("1 entry labelled rod")
    until(lambda: desk.tab.evaluate("sessionStorage.getItem('scopewatch.outbox')") == "[]", "it was answered")
    assert len(desk.labelled(1)) == len(lost) == 1


def test_what_the_agent_refuses_is_taken_back_and_said(desk: Desk) -> None:
    desk.expected.extend(["400"])
    desk.tab.route(
        "**/api/labels", lambda route: route.fulfill(status=400, json={"error": "the label is no class"})
    )
    desk.options.nth(2).click()
    desk.tab.keyboard.press("2")
    desk.told("Not labelled: the label is no class.")
    expect(desk.options.nth(2).locator(".given")).to_be_empty()


def test_many_at_once_ask_for_the_count_and_again_when_it_has_changed(desk: Desk) -> None:
    desk.expected.extend(["409"])
    desk.tab.locator("#history [role=listbox]").focus()
    desk.tab.keyboard.press("Control+a")
    desk.tab.keyboard.press("3")
    field, go_on = desk.tab.locator("#dialogs input"), desk.tab.locator("#dialogs button[value=ok]")
    assert accessible(desk.tab) == []
    field.fill("200")
    expect(go_on).to_be_disabled()
    desk.page.comes()
    field.fill(f"{ENTRIES}")
    go_on.click()
    expect(desk.tab.locator("#dialogs")).to_contain_text(
        f"By now {ENTRIES + 1} entries match, no longer {ENTRIES}."
    )
    assert not desk.labels()
    field.fill(f"{ENTRIES + 1}")
    field.press("Enter")
    desk.told(f"{ENTRIES + 1} entries labelled round.")
    desk.labelled(ENTRIES + 1)
    desk.tab.keyboard.press("Control+z")
    desk.nothing()


def test_no_key_labels_a_picture_that_has_just_come(desk: Desk) -> None:
    desk.tab.locator("#stage").focus()
    before = desk.tab.locator("#latest").get_attribute("data-id")
    desk.page.comes()
    until(lambda: desk.tab.locator("#latest").get_attribute("data-id") != before, "the new one is shown")
    desk.tab.keyboard.press("2")
    desk.told("press again")
    assert not desk.labels()
    desk.tab.wait_for_timeout(750)
    desk.tab.keyboard.press("2")
    desk.labelled(1)


def test_whoever_is_not_known_is_asked_once(
    chromium: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    with QuietPage(tmp_path) as page, visiting(chromium, page) as visit:
        page.saved(20)
        visit.expected = [".jpg"]
        desk = Desk(visit.tab(), page, visit.expected)
        desk.options.nth(3).click()
        desk.tab.keyboard.press("1")
        desk.tab.locator("#dialogs input").fill("km")
        desk.tab.keyboard.press("Enter")
        desk.labelled(1)
        desk.tab.keyboard.press("2")
        assert [by for _, _, by, _ in desk.labelled(2)] == ["km", "km"]


def test_the_blind_check_shows_a_picture_and_nothing_else(desk: Desk) -> None:
    asked: list[str] = []
    for _ in range(3):
        desk.page.comes(desk.page.with_picture())
    desk.tab.on("request", lambda request: asked.append(request.url.partition("/api/")[2]))
    held: list[Any] = []
    gone: list[bool] = []

    def answer(route: Any) -> None:
        if gone:
            route.fulfill(status=404, json={"error": "it is gone"})
        else:
            held.append(route)

    desk.tab.route("**/picture.jpg", answer)

    def asked_for() -> Any:
        desk.tab.wait_for_timeout(20)  # Playwright tells of requests only while it is called
        return held and held.pop()

    desk.tab.locator("#tab-learning").click()
    desk.tab.get_by_role("button", name="Blind check:").click()
    check = desk.tab.locator("#audit")
    shown = []
    for key in ("s", "2", "0"):
        desk.page.say()  # the agent's main loop is alive
        route = until(asked_for, "its picture is asked for")
        shown.append(route.request.url.split("/")[-2])
        desk.tab.keyboard.press("1")  # for a picture that is not there yet: says nothing
        route.fulfill(body=PIXEL, content_type="image/gif")
        expect(check.locator("img")).to_be_visible()
        assert "session_" not in check.inner_text()
        assert accessible(desk.tab) == []
        desk.tab.wait_for_timeout(350)  # a key sooner would be for the picture before
        desk.tab.keyboard.press(key)
    given = desk.labelled(2)
    assert [(label, blind) for _, label, _, blind in given] == [("rod", 1), (None, 1)]
    assert len(set(shown)) == 3
    assert not {f"entries/{number}" for number in shown} & set(asked)
    desk.expected.extend(["404"])
    route = until(asked_for, "one more is asked for")
    gone.append(True)
    route.fulfill(status=404, json={"error": "it is gone"})
    expect(check.locator("p")).to_contain_text("cannot be drawn: skip it")
    desk.tab.keyboard.press("2")
    desk.tab.keyboard.press("Escape")
    expect(desk.tab.locator("#learning")).to_contain_text("labelled blind.")
    assert len(desk.labels()) == 2


ACCURACIES = (
    ({"given": 0}, "No label was given blind yet."),
    (
        {"given": 88, "right": 82, "low": 0.86, "high": 0.97},
        "Live accuracy 93 % (86 % to 97 %), from 88 answers labelled blind.",
    ),
    ({"given": 0, "abstained": {"given": 1}}, "No answer yet, only 1 abstention labelled blind."),
    (
        {"given": 1, "right": 1, "low": None, "high": None, "abstained": {"given": 2}},
        "Live accuracy 100 %, from 1 answer labelled blind. Beside them 2 abstentions labelled blind.",
    ),
)


def test_how_right_the_answers_are_is_said_of_answers_alone(desk: Desk) -> None:
    words = "async audit => (await import('/static/learning.js')).accuracyWords(audit)"
    for audit, text in ACCURACIES:
        assert desk.tab.evaluate(words, audit) == text


def test_the_session_is_drawn_told_ended_and_taken_along(desk: Desk) -> None:
    for _ in range(3):
        desk.page.comes()
    desk.tab.locator("#tab-session").click()
    session = desk.tab.locator("#session")
    session.locator("canvas").wait_for()
    session.locator("summary").click()
    assert session.locator("table tr").count() == 4
    pace = session.locator("dt", has_text="files an hour").locator("xpath=following-sibling::dd[1]")
    assert pace.inner_text() == "-"  # three files in a second say nothing of an hour
    assert session.locator("tr", has_text="rod").locator("td").all_inner_texts()[3] == "0"
    assert accessible(desk.tab) == []
    hrefs = session.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    for href in hrefs:
        assert desk.tab.request.get(desk.page.address.rstrip("/") + href).status == 200, href
    assert [href.rpartition("/")[2] for href in hrefs] == ["summary.html", "entries.csv"]
    session.get_by_role("button", name="End session").click()
    expect(session).to_contain_text("the next micrograph begins a new session")


def test_the_focus_stays_on_a_link_of_the_session_while_its_numbers_change(desk: Desk) -> None:
    desk.page.comes()  # today; the others are of another day, and another session
    desk.tab.locator("#tab-session").click()
    link = desk.tab.locator("#session a[href$='entries.csv']")
    link.focus()
    before = link.get_attribute("href") or ""
    desk.tab.get_by_role("button", name="Previous").evaluate("button => button.click()")
    expect(link).not_to_have_attribute("href", before)
    expect(link).to_be_focused()
