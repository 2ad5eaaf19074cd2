"""A file that is saved again under its name is what the microscope has just seen, and another micrograph."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from page_rig import QuietPage, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.finding import Finding


class Scope:
    """A page with two micrographs, and a tab that follows."""

    def __init__(self, page: QuietPage) -> None:
        self.page = page

    def saves(self, name: str) -> Finding:
        return self.page.comes(self.page.with_picture(name, finished=datetime.now(UTC), decision="accept"))

    def open(self, visit: Any) -> Any:
        self.tab = visit.tab()
        expect(self.tab.locator("#latest canvas[data-drawn='2']")).to_be_visible()
        return self.tab


@pytest.fixture
def scope(chromium: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scope]:
    monkeypatch.setattr("getpass.getuser", lambda: "ana")
    with QuietPage(tmp_path) as page, visiting(chromium, page) as visit:
        found = Scope(page)
        found.saves("a.dm3")
        found.saves("b.dm3")
        found.open(visit)
        yield found


def first_slot(scope: Scope) -> Any:
    return scope.tab.locator("#strip button").first


def test_it_comes_to_the_front_of_strip_picture_and_history(scope: Scope) -> None:
    scope.saves("a.dm3")
    expect(scope.tab.locator("#latest canvas[data-drawn='1']")).to_be_visible()
    expect(first_slot(scope)).to_have_attribute("data-id", "1")
    expect(scope.tab.locator("#strip button[data-id='1']")).to_have_count(1)
    expect(scope.tab.locator("#history [role=option]").first).to_have_attribute("data-id", "1")
    expect(scope.tab.locator("#history-total")).to_have_text("2 entries")


def test_it_waits_while_somebody_looks_at_another_one(scope: Scope) -> None:
    first_slot(scope).click()
    scope.saves("a.dm3")
    expect(scope.tab.locator("#pill")).to_have_text("1 new")
    expect(scope.tab.locator("#latest")).to_have_attribute("data-id", "2")


def test_no_key_labels_bytes_that_have_just_come_under_the_same_name(scope: Scope) -> None:
    tab = scope.tab
    tab.locator("#stage").focus()
    tab.wait_for_timeout(800)  # so long b.dm3 is looked at
    again = scope.saves("b.dm3")
    expect(tab.locator("#answer .label")).to_have_text(again.label or "")
    tab.keyboard.press("1")
    expect(tab.locator(".toast p")).to_contain_text("look")
    tab.wait_for_timeout(800)
    tab.keyboard.press("1")
    expect(tab.locator(".toast p")).to_have_text("1 entry labelled faceted.")
    told = scope.page.journal.look(
        lambda connection: connection.execute("SELECT content FROM labels").fetchall(), []
    )
    assert told == [(again.sha256,)]
