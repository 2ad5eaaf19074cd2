"""What is told when the agent's state changes: after it held, once, and not while it is to be silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from agent_numbers import DISK
from page_rig import QuietPage, until, visiting

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_SECONDS = 5
HEARTBEAT = """() => {
  const channel = new BroadcastChannel('scopewatch');
  channel.postMessage({kind: 'heartbeat', data: JSON.stringify({now: new Date().toISOString()}), id: ''});
  channel.close();
}"""
COUNT_CHANGES = """id => {
  window.told = [];
  const region = document.getElementById(id);
  new MutationObserver(() => window.told.push(region.textContent))
    .observe(region, {childList: true, characterData: true, subtree: true});
}"""


class Watcher:
    """A tab whose clock the test moves, while the agent goes on speaking."""

    def __init__(self, tab: Any, page: QuietPage) -> None:
        self.tab, self.page, self.free_mib = tab, page, 500

    def low(self, *, wait: bool = True) -> None:
        """The agent says that the disk is low; each time with another number, so that it is news."""
        self.free_mib -= 1
        self.page.say(disks=(DISK.model_copy(update={"free_mib": self.free_mib, "low": True}),))
        if wait:
            until(lambda: str(self.free_mib) in self.tab.inner_text("#state-bar"), "the news is there")

    def well(self) -> None:
        self.page.well()
        self.tab.locator("#state-bar[data-state=idle]").wait_for()

    def pass_seconds(self, seconds: int) -> None:
        """Let the tab's clock run; the agent is heard from all the while."""
        for begun in range(0, seconds, STEP_SECONDS):
            self.tab.clock.run_for(1000 * min(STEP_SECONDS, seconds - begun))
            self.tab.evaluate(HEARTBEAT)
            self.page.say()

    @property
    def told(self) -> list[str]:
        return [text for text in self.tab.evaluate("() => window.told") if text]


@pytest.fixture
def watcher(chromium: Any, quiet: QuietPage) -> Iterator[Watcher]:
    with visiting(chromium, quiet) as visit:
        visit.context.clock.install()
        tab = visit.tab()
        tab.locator("#state-bar[data-state=idle]").wait_for()
        tab.evaluate(COUNT_CHANGES, "alert-live")
        yield Watcher(tab, quiet)


def test_both_regions_are_empty_at_first(watcher: Watcher) -> None:
    assert watcher.tab.locator("#alert-live").inner_text() == ""
    assert watcher.tab.locator("#status-live").inner_text() == ""


def test_what_passes_quickly_is_not_told(watcher: Watcher) -> None:
    watcher.low()
    watcher.pass_seconds(8)
    watcher.well()
    watcher.pass_seconds(40)
    assert watcher.told == []


def test_what_holds_is_told_once_and_its_end_after_half_a_minute(watcher: Watcher) -> None:
    watcher.low()
    watcher.pass_seconds(12)
    watcher.low()
    watcher.pass_seconds(20)
    assert len(watcher.told) == 1
    assert watcher.told[0].startswith("DISK LOW")
    watcher.well()
    watcher.pass_seconds(25)
    assert len(watcher.told) == 1
    watcher.pass_seconds(10)
    assert [text.partition(".")[0] for text in watcher.told] == ["DISK LOW", "IDLE"]


def test_flickering_is_told_once(watcher: Watcher) -> None:
    watcher.low()
    watcher.pass_seconds(12)
    for _ in range(4):
        watcher.well()
        watcher.pass_seconds(10)
        watcher.low()
        watcher.pass_seconds(12)
    assert len(watcher.told) == 1


def test_silence_ends_by_itself_and_then_tells_what_still_holds(watcher: Watcher) -> None:
    watcher.low()
    watcher.pass_seconds(12)
    watcher.tab.locator("[data-act=snooze]").click()
    watcher.well()
    watcher.pass_seconds(35)
    watcher.low()
    watcher.pass_seconds(15)
    assert len(watcher.told) == 1
    watcher.tab.clock.fast_forward(29 * 60_000)
    until(lambda: watcher.tab.locator("#state-bar[data-state=disk_low]").count(), "in touch again")
    watcher.low()
    watcher.pass_seconds(15)
    assert len(watcher.told) == 2


def test_what_comes_in_is_told_at_most_every_ten_seconds(watcher: Watcher) -> None:
    watcher.tab.evaluate(COUNT_CHANGES, "status-live")
    for _ in range(10):
        for _ in range(9):
            last = watcher.page.comes().path.name
        newest = watcher.tab.locator("#strip button").first
        watcher.tab.clock.run_for(1000)
        until(lambda: last in (newest.get_attribute("aria-label") or ""), "all have come")  # noqa: B023
        watcher.pass_seconds(2)
    watcher.pass_seconds(11)
    until(lambda: sum(int(text.split()[0]) for text in watcher.told) == 90, "every file is counted once")
    assert len(watcher.told) <= 5
    assert watcher.told[0].split(":")[0].endswith("new")
