"""A whole visit without a pointer: signing in, moving, correcting, taking back, filtering, the blind check, the
session's export."""

from __future__ import annotations

from typing import Any

from page_rig import PIXEL, QuietPage, until, visiting
from playwright_or_skip import expect

ENTRIES = 200
MOST_TABS = 120
BLIND = 'SELECT label, "by" FROM labels WHERE void = 0 AND blind = 1'
IS_FOCUSED = "one => document.activeElement === one"


def go_to(tab: Any, selector: str, key: str = "Tab") -> None:
    """Press `key` until the focus is there."""
    for _ in range(MOST_TABS):
        if tab.evaluate("selector => document.activeElement?.matches(selector) ?? false", selector):
            return
        tab.keyboard.press(key)
    raise AssertionError(f"{selector} is not reached by {key}")


def test_a_visit_by_keyboard_alone(chromium: Any, quiet: QuietPage) -> None:
    quiet.saved(ENTRIES)
    with visiting(chromium, quiet) as visit:
        visit.expected.append("401")
        tab = visit.tab(signed_in=False)
        tab.route("**/picture.jpg", lambda route: route.fulfill(body=PIXEL, content_type="image/gif"))
        tab.locator("#sign-in").wait_for()
        go_to(tab, "#key")
        tab.keyboard.type(quiet.token)
        tab.keyboard.press("Enter")
        tab.locator("#history [role=option]").nth(5).wait_for()

        go_to(tab, "#person")
        tab.keyboard.type("ada")
        go_to(tab, "#history [role=listbox]")
        for key in ("Home", "ArrowDown", "ArrowDown", "2"):
            tab.keyboard.press(key)
        row = tab.locator("#history [role=option][aria-posinset='3']")
        expect(row.locator(".given")).to_contain_text("rod")
        tab.keyboard.press("Control+z")
        expect(row.locator(".given")).to_be_empty()
        tab.keyboard.press("Control+Shift+z")
        expect(row.locator(".given")).to_contain_text("rod")

        tab.keyboard.press("/")
        assert tab.evaluate("() => document.activeElement.closest('#history select') !== null")
        go_to(tab, "#history select[name=label]")
        tab.keyboard.type("round")
        until(lambda: "label=round" in tab.url, "the filter stands in the address")

        go_to(tab, "#tab-history", "Shift+Tab")
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowRight")
        expect(tab.locator("#learning")).to_be_visible()
        audit = tab.get_by_role("button", name="Blind check")
        audit.wait_for()
        until(lambda: tab.keyboard.press("Tab") or audit.evaluate(IS_FOCUSED), "the blind check is reached")
        tab.keyboard.press("Enter")
        dialog = tab.locator("dialog[open]")
        dialog.wait_for()
        expect(dialog.locator("img")).to_be_visible()
        expect(dialog).not_to_contain_text("%")
        before = dialog.locator("p").inner_text()
        tab.wait_for_timeout(350)  # a key sooner would be for something else
        tab.keyboard.press("1")
        expect(dialog.locator("img")).to_be_visible()
        until(lambda: dialog.locator("p").inner_text() != before, "the next one is offered")
        given = quiet.journal.look(lambda connection: connection.execute(BLIND).fetchall(), [])
        assert given == [("faceted", "ada")]
        tab.keyboard.press("Escape")
        expect(dialog).to_have_count(0)

        go_to(tab, "#tab-learning", "Shift+Tab")
        tab.keyboard.press("ArrowLeft")
        expect(tab.locator("#session")).to_be_visible()
        tab.locator("#session a[href$='summary.html']").wait_for()
        go_to(tab, "#session a[href$='summary.html']")
        with tab.expect_popup() as popup:
            tab.keyboard.press("Enter")
        visit.watch(popup.value)
        expect(popup.value.locator("body")).to_contain_text("round")
        go_to(tab, "#session a[href$='entries.csv']")
        with tab.expect_download() as download:
            tab.keyboard.press("Enter")
        assert download.value.path().read_text().count("\n") >= ENTRIES


def test_the_focus_is_always_seen_and_never_trapped(chromium: Any, quiet: QuietPage) -> None:
    quiet.saved(30)
    with visiting(chromium, quiet) as visit:
        tab = visit.tab()
        tab.locator("#history [role=option]").nth(5).wait_for()
        places, unseen = [], []
        for _ in range(MOST_TABS):
            tab.keyboard.press("Tab")
            place, is_seen = tab.evaluate(FOCUS)
            if place == "BODY" or (places and place == places[0]):
                break
            places.append(place)
            if not is_seen:
                unseen.append(place)
        assert unseen == []
        assert len(places) < MOST_TABS
        assert any("listbox" in place for place in places)


FOCUS = """() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  const inside = box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth && box.width > 1;
  const ringed = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none';
  const name = one.tagName + ' ' + (one.id || one.getAttribute('role') || '') + ' ' + one.textContent.slice(0, 20);
  return [one === document.body ? 'BODY' : name, inside && ringed];
}"""
