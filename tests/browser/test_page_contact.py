"""Whether the page is in touch with the agent: many tabs over one stream, an agent that dies, stalls or comes back,
a PC that slept. What is shown must never look as if it were of now while it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_process import QuietProcess
from page_rig import QuietPage, until, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GONE = ["ERR_", "Failed to load resource"]
ICON_IS_THERE = """async () => {
  const picture = new Image();
  picture.src = document.getElementById('favicon').href;
  await picture.decode();
  return picture.src;
}"""
DIMMED = "() => Number(getComputedStyle(document.querySelector('#latest canvas')).opacity) < 0.5"
HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
  Object.defineProperty(document, 'visibilityState', {value: hidden ? 'hidden' : 'visible', configurable: true});
  document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[QuietProcess]:
    """The page in a process that can be stalled and killed."""
    with QuietProcess(tmp_path) as process:
        process.do("saved", 3)
        yield process


def shows(tab: Any, name: str) -> None:
    """Wait until the file stands first in the strip."""
    first = tab.locator("#strip button").first
    until(lambda: (first.get_attribute("aria-label") or "").startswith(name), f"{name} in the strip")


def dims(tab: Any, dimmed: bool = True) -> None:
    """Wait until the picture is shown as one of before, or as one of now."""
    until(
        lambda: tab.evaluate(DIMMED) is dimmed, "the picture is dimmed" if dimmed else "the picture is bright"
    )


def test_seven_tabs_are_live_over_one_stream(chromium: Any, quiet: QuietPage) -> None:
    quiet.saved(3)
    with visiting(chromium, quiet) as visit:
        tabs = [visit.tab() for _ in range(7)]
        name = quiet.comes().path.name
        for tab in tabs:
            shows(tab, name)
        assert quiet.home.hub.listeners == 1

        tabs.pop(0).close()
        until(lambda: quiet.home.hub.listeners == 1, "another tab leads")
        name = quiet.comes().path.name
        for tab in tabs:
            shows(tab, name)
        assert quiet.home.hub.listeners == 1


def test_a_server_that_is_gone_and_comes_back(chromium: Any, quiet: QuietPage) -> None:
    quiet.saved(3)
    with visiting(chromium, quiet) as visit:
        visit.expected += GONE
        visit.context.clock.install()
        tab = visit.tab()
        quiet.comes(quiet.with_picture("before.dm3"))
        shows(tab, "before.dm3")
        quiet.stop()
        tab.clock.run_for(13_000)
        bar = tab.locator("#state-bar[data-state=no_contact]")
        bar.wait_for()
        dims(tab)
        before = bar.inner_text()
        tab.clock.run_for(3_000)
        assert bar.inner_text() != before

        quiet.start_again()
        meanwhile = quiet.comes().path.name
        tab.clock.run_for(10_000)
        tab.locator("#state-bar:not([data-state=no_contact])").wait_for()
        shows(tab, meanwhile)
        dims(tab, False)


def test_an_agent_killed_with_its_connections(chromium: Any, apart: QuietProcess) -> None:
    with visiting(chromium, apart) as visit:
        visit.expected += GONE
        visit.context.clock.install()
        tab = visit.tab()
        well = tab.evaluate(ICON_IS_THERE)
        apart.kill()
        tab.clock.run_for(13_000)
        tab.locator("#state-bar[data-state=no_contact]").wait_for()
        assert tab.evaluate(ICON_IS_THERE) != well
        apart.start()
        apart.do("saved", 1)
        tab.clock.run_for(10_000)
        tab.locator("#state-bar:not([data-state=no_contact])").wait_for()


def test_an_agent_that_stalls_with_its_connections_open(chromium: Any, apart: QuietProcess) -> None:
    with visiting(chromium, apart) as visit:
        visit.expected += GONE
        visit.context.clock.install()
        tab = visit.tab()
        apart.stall()
        try:
            tab.clock.run_for(13_000)
            tab.locator("#state-bar[data-state=no_contact]").wait_for()
            dims(tab)
        finally:
            apart.go_on()
        tab.clock.run_for(1_000)
        tab.locator("#state-bar:not([data-state=no_contact])").wait_for()


def test_after_a_closed_lid_nothing_old_looks_new(chromium: Any, quiet: QuietPage) -> None:
    quiet.saved(3)
    with visiting(chromium, quiet) as visit:
        visit.context.clock.install()
        tab = visit.tab()
        quiet.comes(quiet.with_picture("before.dm3"))
        shows(tab, "before.dm3")
        bar = tab.locator("#state-bar")
        tab.evaluate("""() => {
          window.seen = [];
          const bar = document.querySelector('#state-bar');
          new MutationObserver(() => window.seen.push(bar.dataset.state)).observe(bar, {attributes: true});
        }""")
        tab.clock.fast_forward(3_600_000)
        until(
            lambda: "no_contact" in tab.evaluate("() => window.seen"), "said at once that there is no contact"
        )
        until(lambda: bar.get_attribute("data-state") != "no_contact", "in touch again")
        expect(bar).to_contain_text("ago")


def test_a_hidden_tab_shows_the_newest_when_it_is_seen_again(chromium: Any, quiet: QuietPage) -> None:
    quiet.saved(3)
    with visiting(chromium, quiet) as visit:
        tab = visit.tab()
        tab.evaluate(HIDE, True)
        names = [quiet.comes().path.name for _ in range(300)]
        tab.evaluate(HIDE, False)
        shows(tab, names[-1])
        assert tab.locator("#state-bar").get_attribute("data-state") != "no_contact"


def test_an_agent_whose_main_loop_hangs_does_not_look_alive(chromium: Any, quiet: QuietPage) -> None:
    with visiting(chromium, quiet) as visit:
        visit.expected.append("503")
        tab = visit.tab()
        quiet.hang()
        expect(tab.locator("#state-bar")).to_contain_text("STUCK")
        quiet.well()
        tab.locator("#state-bar[data-state=idle]").wait_for()
