"""Every state of the agent, on the page: its word, its reason, what to run; and the page stays accessible."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from agent_numbers import DISK, FOLDER, WORKER
from page_rig import QuietPage, accessible, visiting
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


STATES = [
    pytest.param(
        {
            "model": None,
            "worker": WORKER.model_copy(update={"pid": None, "trouble": "manifest: hash differs"}),
        },
        ["hash differs", "edge-agent models"],
        id="model_refused",
    ),
    pytest.param(
        {"folders": (FOLDER.model_copy(update={"path": "/data/titan", "present": False}),)},
        ["/data/titan"],
        id="watcher_unhealthy",
    ),
    pytest.param({"disks": (DISK.model_copy(update={"free_mib": 12, "low": True}),)}, ["12"], id="disk_low"),
    pytest.param({"waiting": 60, "oldest_waiting_seconds": 75.0}, ["60"], id="backlog"),
    pytest.param({"waiting": 1, "oldest_waiting_seconds": 0.2}, [], id="working"),
    pytest.param({}, [], id="idle"),
    pytest.param({"model": None}, ["STARTING", "the model is being loaded"], id="starting"),
]


@pytest.mark.parametrize(("said", "texts"), STATES)
def test_a_state_stands_on_the_page(
    said: dict[str, Any], texts: list[str], page: QuietPage, tab: Any, request: pytest.FixtureRequest
) -> None:
    state = request.node.callspec.id
    page.well()
    page.say(**said)
    bar = tab.locator(f"#state-bar[data-state={state}]")
    bar.wait_for()
    for text in texts:
        expect(bar).to_contain_text(text)
    assert accessible(tab) == []


def test_the_most_severe_of_several_stands_first(page: QuietPage, tab: Any) -> None:
    page.well()
    page.say(
        waiting=60, oldest_waiting_seconds=75.0,
        disks=(DISK.model_copy(update={"free_mib": 12, "low": True}),),
    )  # fmt: skip
    bar = tab.locator("#state-bar[data-state=disk_low]")
    bar.wait_for()
    expect(bar).to_contain_text("60 files wait")
