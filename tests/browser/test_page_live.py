"""The page of a real agent: the shipped model, the simulated microscope, names of this disk; nothing is missing."""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_rig import LivePage, until, visiting
from PIL import Image
from playwright_or_skip import expect
from test_page_names import NAMES, file_names_of_this_disk, readable

from edge_agent.simulation import dm3_bytes, draw_field

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 12
SIZE_PX = 512


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePage]:
    with LivePage(tmp_path_factory.mktemp("live")) as live:
        live.save(FILES, size_px=SIZE_PX)
        yield live


@pytest.fixture
def tab(chromium: Any, page: LivePage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        tab = visit.tab()
        tab.locator("#history [role=option]").nth(3).wait_for()
        yield tab


def ink(canvas: Any) -> tuple[float, int]:
    """Which part of what is seen there is grey, and how many pixels have the colour of the map's line."""
    seen = np.asarray(Image.open(BytesIO(canvas.screenshot())).convert("RGB"), dtype=int)
    red, green, blue = seen[..., 0], seen[..., 1], seen[..., 2]
    grey = (red > 40) & (abs(red - green) < 6) & (abs(green - blue) < 6)
    return float(grey.mean()), int(((red > 200) & (green > 150) & (blue < 150)).sum())


def save(page: LivePage, *names: str, shape: str, seed: int) -> None:
    """Save a micrograph under each name and wait until all are answered."""
    done = sum(page.agent.status()["done"].values())
    for number, name in enumerate(names):
        field = draw_field(shape, np.random.default_rng(seed + number), SIZE_PX)
        (page.folder / name).write_bytes(dm3_bytes(field))
    page.agent.wait_for(done + len(names), 60)


def test_a_new_micrograph_comes_with_its_answer_picture_map_and_scale(page: LivePage, tab: Any) -> None:
    save(page, "newest.dm3", shape="round", seed=100)
    first = tab.locator("#strip button").first
    until(lambda: "newest.dm3" in (first.get_attribute("aria-label") or ""), "it stands in the strip")
    canvas = tab.locator("#latest canvas").first
    latest = tab.locator("#latest")
    until(lambda: canvas.get_attribute("data-drawn") == latest.get_attribute("data-id") != "", "it is drawn")
    last = page.agent.status()["last"]
    if last["decision"] == "abstain":
        expect(latest).to_contain_text("ABSTAINED")
    else:
        expect(latest).to_contain_text(last["label"])
    until(lambda: ink(canvas)[1] > 50, "the map's line is drawn")
    assert ink(canvas)[0] > 0.2
    expect(tab.locator("#scale")).to_be_visible()
    bars = tab.locator("#latest [data-label]").evaluate_all("all => all.map(one => one.dataset.label)")
    assert bars == ["faceted", "rod", "round"]

    tab.locator("#overlay").uncheck()
    until(lambda: ink(canvas)[1] == 0, "the map is off")
    tab.locator("#overlay").check()


def test_every_file_of_the_session_is_in_the_history_with_its_picture(page: LivePage, tab: Any) -> None:
    until(
        lambda: tab.locator("#history img").evaluate_all(
            "all => all.length > 0 && all.filter(one => !one.hidden && one.src).every(one => one.naturalWidth > 0)"
        ),
        "every thumbnail is drawn",
    )
    assert tab.locator("#history [role=option]").first.get_attribute("aria-setsize") == str(
        sum(page.agent.status()["done"].values())
    )


def test_names_of_this_disk_through_the_whole_agent(page: LivePage, tab: Any) -> None:
    # What the name of an output has no room for is another test's.
    names = [name for name in file_names_of_this_disk(page.folder, NAMES) if len(name) < 200][:12]
    save(page, *map(os.fsdecode, names), shape="rod", seed=200)
    shown = tab.locator("#history .name")
    for name in names[-5:]:
        until(lambda: readable(name) in shown.all_text_contents(), readable(name))  # noqa: B023
