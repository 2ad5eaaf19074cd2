"""What is selected in the history: by pointer and keys, by ids and not by places, and never more than was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_rig import QuietPage, accessible, until, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES = 1000
SELECTED = "all => all.filter(one => one.ariaSelected === 'true').map(one => Number(one.ariaPosInSet))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    with QuietPage(tmp_path_factory.mktemp("selection")) as quiet:
        quiet.saved(ENTRIES)
        yield quiet


@pytest.fixture(scope="module")
def opened(chromium: Any, page: QuietPage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        visit.expected = [".jpg"]  # nothing was ever saved: the entries have no pictures
        yield visit.tab()


@pytest.fixture
def tab(opened: Any, page: QuietPage) -> Any:
    page.say()  # the agent's main loop is alive
    opened.goto(page.address)
    options(opened).nth(8).wait_for()
    return opened


def options(tab: Any) -> Any:
    return tab.locator("#history [role=option]")


def total(tab: Any) -> str:
    return str(tab.locator("#history-total").inner_text())


def places(tab: Any) -> list[int]:
    return list(options(tab).evaluate_all(SELECTED))


def active_place(tab: Any) -> int:
    active = tab.locator("#history [role=listbox]").get_attribute("aria-activedescendant")
    return int(tab.locator(f"#{active}").get_attribute("aria-posinset")) if active else 0


CLICKS = [
    pytest.param([(3, [])], [3], id="one"),
    pytest.param([(2, []), (5, ["Shift"])], [2, 3, 4, 5], id="a range"),
    pytest.param([(5, []), (2, ["Shift"])], [2, 3, 4, 5], id="a range from below"),
    pytest.param([(3, []), (1, ["Shift"]), (5, ["Shift"])], [3, 4, 5], id="a range turned round"),
    pytest.param([(1, []), (3, ["Control"]), (5, ["Control"])], [1, 3, 5], id="several apart"),
    pytest.param([(2, []), (4, ["Shift"]), (3, ["Control"])], [2, 4], id="one taken out of a range"),
]


@pytest.mark.parametrize(("clicks", "selected"), CLICKS)
def test_clicks(clicks: list[tuple[int, list[str]]], selected: list[int], tab: Any) -> None:
    for place, modifiers in clicks:
        tab.locator(f"#history [aria-posinset='{place}']").click(modifiers=modifiers)
    until(lambda: places(tab) == selected, f"{selected} are selected")
    assert total(tab).endswith(f"{len(selected)} selected")


def test_clicks_while_the_list_is_read_again_count(tab: Any, page: QuietPage) -> None:
    shown = options(tab).nth(2).get_attribute("data-id")
    held: list[Any] = []
    tab.route("**/api/history?*", lambda route: held.append(route))
    try:
        options(tab).nth(0).click()
        until(lambda: places(tab) == [1], "the first is selected")
        page.home.hub.publish("resync", {})
        until(lambda: tab.wait_for_timeout(20) or held, "the list is read again")
        assert options(tab).nth(2).get_attribute("data-id") == shown
        options(tab).nth(2).click()
        options(tab).nth(4).click(modifiers=["Control"])
        tab.keyboard.press("2")
        expect(tab.locator(".toast p")).to_have_text("Nothing is selected.")
    finally:
        for route in held:
            route.continue_()
        tab.unroute("**/api/history?*")
    until(lambda: places(tab) == [3, 5], "both are selected when it was read")


def test_all_are_chosen_while_an_entry_is_on_its_way(tab: Any) -> None:
    held: list[Any] = []
    tab.route("**/api/history?*", lambda route: held.append(route))
    tab.locator("#history [role=listbox]").focus()
    for key in ("End", "Control+a"):
        tab.keyboard.press(key)
    until(lambda: tab.wait_for_timeout(20) or held, "the last page is asked for")
    for route in held:
        route.continue_()
    tab.unroute("**/api/history?*")
    until(lambda: active_place(tab) == int(total(tab).split()[0].replace(",", "")), "it is there")
    tab.wait_for_timeout(300)
    assert total(tab).endswith("1,000 selected")


KEYS = [
    pytest.param(["ArrowDown", "ArrowDown"], 2, 1, id="down"),
    pytest.param(["ArrowDown", "ArrowDown", "ArrowUp"], 1, 1, id="down and up"),
    pytest.param(["End"], ENTRIES, 1, id="to the end"),
    pytest.param(["End", "Home"], 1, 1, id="and back"),
    pytest.param(["ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown"], 3, 3, id="a range"),
    pytest.param(["Home", "Shift+End"], ENTRIES, ENTRIES, id="a range over pages that were never seen"),
    pytest.param(["ArrowDown", "Control+a"], 1, ENTRIES, id="all that the filters find"),
]


@pytest.mark.parametrize(("pressed", "active", "count"), KEYS)
def test_keys(pressed: list[str], active: int, count: int, tab: Any) -> None:
    listbox = tab.locator("#history [role=listbox]")
    listbox.focus()
    for key in pressed:
        tab.keyboard.press(key)
    until(lambda: total(tab).endswith(f"{count:,} selected"), "the count is told")
    until(lambda: active_place(tab) == active, f"place {active} is active, and in the document")
    tab.keyboard.press("Escape")
    until(lambda: "selected" not in total(tab), "nothing is selected")


def test_the_active_entry_stays_in_the_document_when_it_is_scrolled_away(tab: Any) -> None:
    options(tab).nth(2).click()
    listbox = tab.locator("#history [role=listbox]")
    listbox.evaluate("one => { one.scrollTop = 30000; }")
    until(lambda: int(options(tab).nth(4).get_attribute("aria-posinset") or 0) > 500, "it is scrolled away")
    assert active_place(tab) == 3
    tab.keyboard.press("ArrowDown")
    until(lambda: places(tab) == [4], "the next one is selected, and in view")


def test_what_is_selected_are_entries_and_not_places(tab: Any, page: QuietPage) -> None:
    options(tab).nth(2).click()
    chosen = options(tab).nth(2).get_attribute("data-id")
    came = page.comes().path.name
    expect(tab.locator("#pill")).to_have_text("1 new")
    assert places(tab) == [3]
    assert options(tab).nth(2).get_attribute("data-id") == chosen
    tab.locator("#pill").click()
    until(lambda: options(tab).first.locator(".name").inner_text() == came, "it comes in when asked for")
    assert places(tab) == []


def test_filters_and_list_are_accessible(tab: Any) -> None:
    tab.locator("#history").get_by_label("Class", exact=True).select_option("rod")
    until(lambda: "found" in total(tab), "the filter holds")
    options(tab).nth(1).click()
    options(tab).nth(3).click(modifiers=["Shift"])
    until(lambda: total(tab).endswith("3 selected"), "three are selected")
    assert accessible(tab) == []


def test_a_filter_that_nothing_matches_says_so(tab: Any) -> None:
    tab.goto(tab.url.partition("?")[0] + "?label=rod&decision=ungated")
    expect(tab.locator("#history").get_by_text("No entry matches.")).to_be_visible()
    tab.get_by_role("button", name="Show all").click()
    options(tab).nth(3).wait_for()
