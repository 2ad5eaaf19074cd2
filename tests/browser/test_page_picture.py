"""The picture of the latest micrograph: its map is that of the heatmaps, its scale bar holds at every size; what is
no answer does not look like one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from page_rig import LABELS, QuietPage, visiting
from playwright_or_skip import expect

from edge_agent.evidence import spread_evidence
from edge_agent.heatmap import length_text, round_length
from edge_agent.preprocessing import CamMap

if TYPE_CHECKING:
    from collections.abc import Iterator

SPREAD = """async cam => {
  const { spread } = await import('/static/evidence.js');
  const map = spread(cam);
  return {...map, values: map.values && [...map.values]};
}"""
CONTOUR = """async ([cam, inside]) => {
  const { contour, spread } = await import('/static/evidence.js');
  return contour(spread(cam), inside);
}"""
BAR = """() => {
  const [bar, canvas] = ['#scale .bar', '#latest canvas'].map(name => document.querySelector(name));
  const { clientWidth: width, clientHeight: height } = canvas;
  return {bar: bar.getBoundingClientRect().width, side: Math.min(width, height), words: bar.parentNode.innerText,
          drawn: canvas.width * canvas.height, dense: canvas.width / width};
}"""
SIDE_NM = 64 * 0.12
"""Of the field that `QuietPage.with_picture` makes."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    with QuietPage(tmp_path_factory.mktemp("picture")) as quiet:
        quiet.comes(quiet.with_picture("latest.dm3", label="round", decision="accept", reasons=()))
        yield quiet


@pytest.fixture(scope="module")
def opened(chromium: Any, page: QuietPage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        yield visit.tab()


def peaked(rows: int, columns: int, height: float) -> Any:
    """A map with a peak and a valley, and something in between everywhere."""
    down, across = np.mgrid[0:rows, 0:columns]
    peak = np.exp(-((down - rows * 0.3) ** 2 + (across - columns * 0.6) ** 2) / 4)
    valley = np.exp(-((down - rows * 0.8) ** 2 + (across - columns * 0.2) ** 2) / 3)
    return (height * (peak - 0.7 * valley)).tolist()


MAPS = [
    pytest.param("cam", peaked(14, 14, 9.0), id="square"),
    pytest.param("cam", peaked(7, 21, 6.0), id="wide"),
    pytest.param("cam", peaked(40, 50, 6.0), id="of many tiles"),
    pytest.param("cam", peaked(14, 14, 1.5), id="weak: the scale ends at 3 logits"),
    pytest.param("gradcam", peaked(14, 14, 1e-4), id="without a unit: the scale ends at the peak"),
    pytest.param("cam", [[2.0, 2.01], [2.0, 2.02]], id="flat"),
    pytest.param("cam", [[-2.0, -1.0], [-4.0, -3.0]], id="against the class everywhere"),
    pytest.param("cam", [[0.0]], id="nothing in one cell"),
]


@pytest.mark.parametrize(("method", "values"), MAPS)
def test_the_map_is_spread_as_on_the_heatmaps(method: str, values: list[list[float]], opened: Any) -> None:
    grid = [len(values), len(values[0])]
    found = opened.evaluate(SPREAD, {"label": "rod", "method": method, "grid": grid, "values": values})
    cam = CamMap("rod", method, (0, 0, 640, 640), np.array(values, np.float32), "single")
    if found["values"] is None:
        assert found["absence"] == spread_evidence(cam, (640, 640), (64, 64)).absence
        assert found["absence"]
        return
    shape = found["rows"], found["columns"]
    expected = spread_evidence(
        CamMap("rod", method, (0, 0, shape[1], shape[0]), cam.values, "single"), shape, shape
    )
    assert expected.values is not None
    assert np.abs(np.array(found["values"]).reshape(shape) - expected.values).max() < 1e-5


def along_left(lines: Any) -> float:
    """How far lines run along the left side, in parts of it."""
    near = lines[(lines[:, :, 0] < 1 / 24).all(axis=1)]
    return float(np.abs(near[:, 0, 1] - near[:, 1, 1]).sum())


def test_the_line_ends_at_the_picture_and_closes_where_the_picture_goes_on(opened: Any) -> None:
    values = [[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    cam = {"label": "rod", "method": "cam", "grid": [3, 3], "values": values}
    free, closed = (
        np.array(opened.evaluate(CONTOUR, [cam, [goes_on] * 4])).reshape(-1, 2, 2)
        for goes_on in (False, True)
    )
    assert along_left(free) < 0.1
    assert along_left(closed) == pytest.approx(0.6, abs=0.1)
    ends, counts = np.unique(closed.round(9).reshape(-1, 2), axis=0, return_counts=True)
    assert len(ends) > 8
    assert (counts % 2 == 0).all(), "a closed line has no loose ends"


SIZES = [
    pytest.param(1280, 900, 1, id="usual"),
    pytest.param(1280, 900, 2, id="dense"),
    pytest.param(640, 450, 2, id="200 % zoom"),
    pytest.param(480, 900, 1.5, id="narrow"),
    pytest.param(7680, 4320, 2, id="a wall of screens"),
]


@pytest.mark.parametrize(("width", "height", "dense"), SIZES)
def test_the_scale_bar_is_as_long_as_it_says(
    width: int, height: int, dense: float, chromium: Any, page: QuietPage
) -> None:
    size = {"width": width, "height": height}
    with visiting(chromium, page, viewport=size, device_scale_factor=dense) as visit:
        tab = visit.tab()
        tab.locator("#scale").wait_for()
        seen = tab.evaluate(BAR)
    nm_per_px = SIDE_NM / seen["side"]
    length_nm = round_length(nm_per_px * min(seen["side"], max(60.0, 0.4 * seen["side"])))
    assert seen["words"] == length_text(length_nm)
    assert seen["bar"] == pytest.approx(length_nm / nm_per_px, abs=0.05)
    assert seen["drawn"] <= 16.7e6
    assert seen["dense"] == pytest.approx(dense, rel=0.01) or seen["drawn"] > 16e6


def test_a_larger_picture_has_a_bar_for_what_is_seen_of_it(opened: Any) -> None:
    before = opened.evaluate(BAR)
    for _ in range(4):
        opened.get_by_role("button", name="Enlarge").click()
    opened.wait_for_function(
        "words => document.querySelector('#scale').innerText !== words", arg=before["words"]
    )
    after = opened.evaluate(BAR)
    for _ in range(4):
        opened.get_by_role("button", name="Reduce").click()
    nm = {seen["words"]: float(seen["words"].split()[0]) * {"nm": 1, "pm": 1e-3}[seen["words"].split()[1]]
          for seen in (before, after)}  # fmt: skip
    zoomed = 1.5**4
    assert after["bar"] / before["bar"] == pytest.approx(
        zoomed * nm[after["words"]] / nm[before["words"]], rel=0.01
    )


def test_an_abstention_has_no_class_in_large_letters(chromium: Any, quiet: QuietPage) -> None:
    quiet.comes(quiet.with_picture("doubtful.dm3", label="rod", decision="abstain", reasons=("novel",)))
    with visiting(chromium, quiet) as visit:
        answer = visit.tab().locator("#answer")
        expect(answer).to_contain_text("ABSTAINED: novel")
        expect(answer).to_contain_text("Leans to rod")
        assert answer.locator(".label").count() == 0
        assert answer.locator(".chip").inner_text() == "?"


def test_the_label_can_be_read_from_two_metres(opened: Any) -> None:
    """At 64 px the capitals are some 44 px high, at 96 dpi 11.6 mm: 20 minutes of arc at 2 m."""
    label = opened.locator("#answer .label")
    expect(label).to_have_text("round")
    assert label.evaluate("node => getComputedStyle(node).fontSize") == "64px"


def test_bars_stand_in_the_order_of_the_manifest(opened: Any) -> None:
    bars = opened.locator("#latest .bars li")
    expect(bars).to_have_count(len(LABELS))
    assert [bar.get_attribute("data-label") for bar in bars.all()] == list(LABELS)


MARKS = [
    pytest.param(["faceted", "rod", "round"], ["F", "R", "O"], id="first letter that is free"),
    pytest.param(["a", "aa", "aaa"], ["A", "B", "C"], id="none of its own is free"),
    pytest.param(
        ["<b>", "\u00e9toile", "42"],
        ["B", "\u00c9", "A"],
        id="signs are no letters, nor are digits, which are keys",
    ),
    pytest.param(["type 1", "type 2", "type 3"], ["T", "Y", "P"], id="numbered"),
    pytest.param([f"class {number}" for number in range(30)], None, id="more classes than colours"),
]


@pytest.mark.parametrize(("labels", "letters"), MARKS)
def test_every_class_has_a_letter_of_its_own(
    labels: list[str], letters: list[str] | None, opened: Any
) -> None:
    found = opened.evaluate(
        """async labels => {
          const { classMark } = await import('/static/colours.js');
          return labels.map(label => classMark(labels, label).letter);
        }""",
        labels,
    )
    assert len(set(found)) == len(labels)
    assert letters in (None, found)
