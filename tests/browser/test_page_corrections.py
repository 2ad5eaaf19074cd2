"""Corrections by keyboard: a key a label, all of a filter, ranges, undone and done again, kept through a reload.

And the keys that do nothing where they should not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_rig import LONG_TIER, QuietPage, accessible, until, visiting
from playwright_or_skip import expect

from edge_agent.labelling.label_record import last_words, read_label_file, void_events
from edge_agent.output_places import LABEL_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES = 400
WRITTEN_SECONDS = 60
"""Half of the disk is the instrument's."""


@pytest.fixture
def page(quiet: QuietPage) -> QuietPage:
    quiet.saved(ENTRIES)
    return quiet


@pytest.fixture
def tab(chromium: Any, page: QuietPage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        tab = visit.tab()
        options(tab).nth(5).wait_for()
        tab.locator("#person").fill("ada")
        listbox(tab).focus()
        tab.keyboard.press("Home")
        expect(options(tab).first).to_have_attribute("aria-selected", "true")
        yield tab


def options(tab: Any) -> Any:
    return tab.locator("#history [role=option]")


def listbox(tab: Any) -> Any:
    return tab.locator("#history [role=listbox]")


def selected(tab: Any) -> int:
    """How many of the rows in view are selected."""
    return int(tab.locator("#history [role=option][aria-selected=true]").count())


def given(page: QuietPage) -> dict[str, tuple[str, str | None]]:
    """What stands in the label files, and counts: action and label by file name."""
    found = {}
    for file in page.folder.glob(f"*{LABEL_SUFFIX}"):
        words = list(last_words(read_label_file(file.read_bytes()).events).values())
        if words:
            found[file.name.removesuffix(LABEL_SUFFIX)] = (words[0].action, words[0].label)
    return found


def name(page: QuietPage, place: int) -> str:
    """The file at this place of the history, the newest at 0."""
    return f"session_{page.made - 1 - place:06d}.dm3"


def says(page: QuietPage, place: int, label: str) -> tuple[str, str]:
    """What a key for this class means there: whoever chooses what was answered has confirmed it."""
    answered = page.labels[(page.made - 1 - place) % len(page.labels)]
    return ("confirm" if label == answered else "correct", label)


def settled(page: QuietPage, count: int) -> dict[str, tuple[str, str | None]]:
    """What was given, once that many files have a label that counts."""
    until(lambda: len(given(page)) == count, f"{count} label files", WRITTEN_SECONDS)
    return given(page)


def test_thirty_by_keyboard_each_once(tab: Any, page: QuietPage) -> None:
    for place in range(30):
        tab.keyboard.press(str(place % 3 + 1))
    found = settled(page, 30)
    assert found == {name(page, place): says(page, place, page.labels[place % 3]) for place in range(30)}
    events = [read_label_file(file.read_bytes()).events for file in page.folder.glob(f"*{LABEL_SUFFIX}")]
    assert {len(each) for each in events} == {1}
    assert {event.by for each in events for event in each} == {"ada"}
    assert not any(event.blind for each in events for event in each)


def test_every_kind_of_word_and_its_repetition(tab: Any, page: QuietPage) -> None:
    for key in ("0", "Enter", "2", "r", "R"):
        tab.keyboard.press(key)
    found = settled(page, 5)
    predicted = page.labels[(page.made - 2) % 3]
    assert found == {
        name(page, 0): ("not_in_list", None),
        name(page, 1): ("confirm", predicted),
        **{name(page, place): says(page, place, "rod") for place in (2, 3, 4)},
    }


def test_undo_and_redo_survive_a_reload_and_a_restart(tab: Any, page: QuietPage) -> None:
    tab.keyboard.press("1")
    tab.keyboard.press("2")
    settled(page, 2)
    tab.reload()
    options(tab).nth(5).wait_for()
    listbox(tab).focus()
    tab.keyboard.press("Control+z")
    assert set(settled(page, 1)) == {name(page, 0)}
    tab.keyboard.press("Control+z")
    settled(page, 0)
    tab.keyboard.press("Control+Shift+z")
    assert settled(page, 1) == {name(page, 0): says(page, 0, "faceted")}
    file = page.folder / f"{name(page, 0)}{LABEL_SUFFIX}"
    events = read_label_file(file.read_bytes()).events
    assert [event.action for event in events] == [says(page, 0, "faceted")[0], "undo", "undo"]
    assert events[0].id not in void_events(events)


def test_a_range_goes_either_way_and_is_what_is_shown_as_selected(tab: Any, page: QuietPage) -> None:
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    for _ in range(3):
        tab.keyboard.press("Shift+ArrowUp")
    until(lambda: selected(tab) == 4, "four are selected")
    for _ in range(5):
        tab.keyboard.press("Shift+ArrowDown")
    until(lambda: selected(tab) == 3, "the range turned round its anchor")
    tab.keyboard.press("2")
    assert set(settled(page, 3)) == {name(page, place) for place in (3, 4, 5)}


def test_a_range_by_shift_and_click_upwards(tab: Any, page: QuietPage) -> None:
    options(tab).nth(6).click()
    options(tab).nth(2).click(modifiers=["Shift"])
    until(lambda: selected(tab) == 5, "five are selected")
    tab.keyboard.press("1")
    assert set(settled(page, 5)) == {name(page, place) for place in range(2, 7)}


# The quick tier has 211 in test_review_labelling.py, up to the journal; here each file on the disk is looked at.
@pytest.mark.long
@LONG_TIER
def test_two_hundred_and_fifty_at_once_ask_for_the_number_and_are_one_undo(tab: Any, page: QuietPage) -> None:
    for _ in range(249):
        tab.keyboard.press("Shift+ArrowDown")
    until(lambda: "250 selected" in tab.inner_text("#history"), "250 are selected")
    tab.keyboard.press("3")
    dialog = tab.locator("dialog[open]")
    expect(dialog).to_contain_text("250")
    assert accessible(tab) == []
    tab.keyboard.type("249")
    tab.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    tab.keyboard.press("Control+a")
    tab.keyboard.type("250")
    tab.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    settled(page, 250)
    listbox(tab).focus()
    tab.keyboard.press("Control+z")
    settled(page, 0)


def test_all_of_a_filter_are_as_many_as_the_filter_finds(tab: Any, page: QuietPage) -> None:
    tab.locator("#history select[name=decision]").select_option("abstain")
    abstained = sum(number % 7 == 3 for number in range(ENTRIES))
    until(lambda: options(tab).first.get_attribute("aria-setsize") == str(abstained), "only those")
    listbox(tab).focus()
    tab.keyboard.press("Control+a")
    tab.keyboard.press("2")
    found = settled(page, abstained)
    assert {label for _, label in found.values()} == {"rod"}
    assert all(int(file[8:14]) % 7 == 3 for file in found)


def test_a_label_of_another_tab_is_seen_at_once(chromium: Any, page: QuietPage, tab: Any) -> None:
    other = tab.context.new_page()
    other.goto(page.address)
    options(other).nth(5).wait_for()
    tab.bring_to_front()
    listbox(tab).focus()
    tab.keyboard.press("2")
    expect(options(other).first.locator(".given")).to_contain_text("rod")


def test_keys_that_are_switched_off_do_nothing(tab: Any, page: QuietPage) -> None:
    tab.keyboard.press("?")
    switch = tab.locator("dialog[open] input[type=checkbox]")
    switch.uncheck()
    tab.keyboard.press("Escape")
    listbox(tab).focus()
    for key in ("1", "0", "r"):
        tab.keyboard.press(key)
    tab.wait_for_timeout(300)
    assert given(page) == {}
    tab.reload()
    options(tab).nth(5).wait_for()
    listbox(tab).focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("1")
    tab.wait_for_timeout(300)
    assert given(page) == {}


ELSEWHERE = {
    "a field": "#person",
    "outside picture and history": "#tab-history",
    "a filter": "#history select[name=label]",
    "nowhere": None,
}


def test_keys_elsewhere_correct_nothing(tab: Any, page: QuietPage) -> None:
    for focus in ELSEWHERE.values():
        tab.evaluate("() => document.activeElement.blur()")
        if focus is not None:
            tab.locator(focus).focus()
        for key in ("1", "2", "0", "r", "Control+z"):
            tab.keyboard.press(key)
    tab.wait_for_timeout(300)
    assert given(page) == {}


def test_a_key_that_is_held_corrects_once(tab: Any, page: QuietPage) -> None:
    tab.keyboard.down("1")
    for _ in range(5):
        tab.keyboard.down("1")
    tab.keyboard.up("1")
    settled(page, 1)
    tab.wait_for_timeout(300)
    assert len(given(page)) == 1


def test_a_label_given_while_the_agent_is_gone_arrives_once_it_is_back(
    chromium: Any, page: QuietPage
) -> None:
    with visiting(chromium, page) as visit:
        visit.expected += ["ERR_", "Failed to load"]
        tab = visit.tab()
        options(tab).nth(5).wait_for()
        tab.locator("#person").fill("ada")
        listbox(tab).focus()
        tab.keyboard.press("Home")
        expect(options(tab).first).to_have_attribute("aria-selected", "true")
        page.stop()
        for key in ("1", "2", "3"):
            tab.keyboard.press(key)
        tab.wait_for_timeout(500)
        page.start_again()
        assert set(settled(page, 3)) == {name(page, place) for place in range(3)}
        files = [read_label_file(file.read_bytes()).events for file in page.folder.glob(f"*{LABEL_SUFFIX}")]
        assert {len(events) for events in files} == {1}
