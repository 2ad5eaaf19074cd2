"""The history: filters in the address, a list of which only what is in view exists, and following that pauses."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from page_rig import QuietPage, until, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES = 5000
ROWS_IN_VIEW = 60
PLACES = "all => all.map(one => [Number(one.ariaPosInSet), one.querySelector('.name').textContent])"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    with QuietPage(tmp_path_factory.mktemp("history")) as quiet:
        quiet.saved(ENTRIES)
        yield quiet


@pytest.fixture
def tab(chromium: Any, page: QuietPage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        tab = visit.tab()
        tab.locator("#history [role=option]").nth(5).wait_for()
        yield tab


def options(tab: Any) -> Any:
    return tab.locator("#history [role=option]")


def filled(tab: Any) -> list[tuple[int, str]]:
    """Place and name of every row, once each is known."""
    return until(
        lambda: (lambda rows: rows if rows and all(name for _, name in rows) else None)(
            options(tab).evaluate_all(PLACES)
        ),
        "rows are filled",
    )


def test_random_jumps_show_the_right_rows_and_few_of_them(tab: Any, page: QuietPage) -> None:
    chance = random.Random(1)
    listbox = tab.locator("#history [role=listbox]")
    newest = page.made - 1
    for _ in range(20):
        share = chance.random()
        listbox.evaluate("(one, share) => { one.scrollTop = share * one.scrollHeight; }", share)
        tab.wait_for_timeout(30)
        until(lambda: abs(filled(tab)[0][0] - share * page.made) < 60, "the place is reached")  # noqa: B023
        rows = filled(tab)
        assert len(rows) <= ROWS_IN_VIEW
        assert all(name == f"session_{newest - place + 1:06d}.dm3" for place, name in rows)
    assert options(tab).first.get_attribute("aria-setsize") == str(page.made)


FILTERS = [
    pytest.param("label=rod", ".answer", "rod", id="class"),
    pytest.param("decision=abstain", ".answer", "abstain|no answer", id="decision"),
    pytest.param("day=2026-05-04", ".when", "2026-05-04", id="day"),
    pytest.param("order=uncertain", ".answer", "%", id="most uncertain first"),
]


def pick(tab: Any, query: str) -> None:
    name, _, value = query.partition("=")
    tab.locator(f"#history select[name={name}]").select_option(value)


@pytest.mark.parametrize(("query", "part", "text"), FILTERS)
def test_a_filter_stands_in_the_address_and_survives_a_reload(
    query: str, part: str, text: str, tab: Any, page: QuietPage
) -> None:
    pick(tab, query)
    for _ in range(2):
        until(lambda: query in tab.url, "the address")
        until(
            lambda: all(re.search(text, one, re.I) for one in options(tab).locator(part).all_inner_texts()),
            "only those",
        )
        tab.reload()
        options(tab).nth(5).wait_for()
    tab.get_by_role("button", name="Show all").click()
    until(lambda: "?" not in tab.url, "the address is plain again")
    until(lambda: options(tab).first.get_attribute("aria-setsize") == str(page.made), "all are there again")


def test_most_uncertain_first(tab: Any) -> None:
    pick(tab, "order=uncertain")
    until(lambda: "40 %" in options(tab).first.inner_text(), "the least probable first")
    percents = [
        int(text.split("%")[0].split()[-1]) for text in options(tab).locator(".answer").all_inner_texts()
    ]
    assert percents == sorted(percents)


def test_looking_pauses_following_and_a_pill_counts(tab: Any, page: QuietPage) -> None:
    before = tab.locator("#latest").get_attribute("data-id")
    tab.locator("#history [role=listbox]").evaluate("one => { one.scrollTop = 4000; }")
    expect(tab.locator("#pill")).to_be_visible()
    top = filled(tab)[0]
    for _ in range(7):
        name = page.comes().path.name
    expect(tab.locator("#pill")).to_have_text("7 new")
    assert tab.locator("#latest").get_attribute("data-id") == before
    assert filled(tab)[0] == top

    tab.locator("#history [role=listbox]").focus()
    tab.keyboard.press("Space")
    expect(tab.locator("#pill")).to_be_hidden()
    until(lambda: options(tab).first.locator(".name").inner_text() == name, "the newest is first")
    until(lambda: tab.locator("#latest").get_attribute("data-id") != before, "it is shown")


def test_selecting_pauses_following_too(tab: Any, page: QuietPage) -> None:
    chosen = options(tab).nth(2).get_attribute("data-id") or str(page.made - 2)
    options(tab).nth(2).click()
    until(lambda: tab.locator("#latest").get_attribute("data-id") == chosen, "it is shown")
    page.comes()
    expect(tab.locator("#pill")).to_have_text("1 new")
    assert tab.locator("#latest").get_attribute("data-id") == chosen
    tab.locator("#pill").click()
    until(lambda: tab.locator("#latest").get_attribute("data-id") != chosen, "the newest is shown")
