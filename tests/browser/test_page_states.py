"""Every state of the agent, on the page: its word, its reason, what to run; and the page stays accessible."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from page_rig import QuietPage, accessible, visiting
from page_sights import STATES
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    """One server for all states, with a picture and a history."""
    with QuietPage(tmp_path_factory.mktemp("states")) as quiet:
        quiet.saved(40)
        quiet.comes(quiet.with_picture("latest.dm3", finished=datetime.now(UTC)))
        yield quiet


@pytest.fixture(scope="module")
def tab(chromium: Any, page: QuietPage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        yield visit.tab()


TEXTS = {
    "model_refused": ["MODEL REFUSED", "hash differs", "edge-agent models"],
    "watcher_unhealthy": ["NOT WATCHING", "/data/titan"],
    "disk_low": ["DISK LOW", "12"],
    "backlog": ["BACKLOG", "60"],
    "working": ["WORKING"],
    "starting": ["STARTING", "the model is being loaded"],
    "idle": ["IDLE"],
}


@pytest.mark.parametrize("state", STATES)
def test_a_state_stands_on_the_page(state: str, page: QuietPage, tab: Any) -> None:
    page.well()
    page.say(**STATES[state])
    bar = tab.locator(f"#state-bar[data-state={state}]")
    bar.wait_for()
    for text in TEXTS[state]:
        expect(bar).to_contain_text(text)
    assert accessible(tab) == []


def test_the_most_severe_of_several_stands_first(page: QuietPage, tab: Any) -> None:
    page.well()
    page.say(**(STATES["backlog"] | STATES["disk_low"]))
    bar = tab.locator("#state-bar[data-state=disk_low]")
    bar.wait_for()
    expect(bar).to_contain_text("60 files wait")
