"""Nothing is said by colour alone: classes have letters, states have shapes, what a person said has a sign.

What the colour-blind see is drawn by `python tests/benchmarks/page_views.py`, to be looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_rig import LABELS, QuietPage, until, visiting
from page_sights import DEFICIENCIES, STATES, emulate, of_every_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

LETTERS = {"faceted": "F", "rod": "R", "round": "O"}
LEAST_CONTRAST = 4.5
"""Of WCAG 2.2 AA, for text."""
NOTE_TEXTS = """() => {
  window.written = [];
  const write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
    window.written.push([text, this.fillStyle]);
    return write.call(this, text, ...place);
  };
}"""
CHIPS = """all => all.map(one => {
  const { color, backgroundColor } = getComputedStyle(one);
  return [one.textContent, color, backgroundColor];
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    with QuietPage(tmp_path_factory.mktemp("colours")) as quiet:
        of_every_kind(quiet)
        yield quiet


@pytest.fixture(scope="module")
def tab(chromium: Any, page: QuietPage) -> Iterator[Any]:
    with visiting(chromium, page) as visit:
        visit.context.add_init_script(f"({NOTE_TEXTS})()")
        tab = visit.tab()
        until(lambda: tab.locator("#history .given", has_text="ada").count() == 3, "what was said is there")
        yield tab


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_class_has_its_letter_wherever_it_stands(tab: Any) -> None:
    for place in ("#latest .bars li", "#corrections button:has(.chip)"):
        texts = tab.locator(place).all_inner_texts()
        assert [text.split()[0] for text in texts] == list(LETTERS.values()), place
        assert all(label in text for label, text in zip(LABELS, texts, strict=True)), place
    for name in ("correct.dm3", "confirm.dm3"):
        row = tab.locator("#history [role=option]", has_text=name)
        assert row.locator(".letter").inner_text() == "R", name


def test_what_became_of_a_file_is_told_by_signs(tab: Any) -> None:
    marks = {
        button.get_attribute("aria-label").split(",")[0]: button.locator(".marks").inner_text()
        for button in tab.locator("#strip button").all()
    }
    told = {
        name: "".join(marks[f"{name}.dm3"].split())
        for name in ("latest", "not_in_list", "correct", "confirm", "doubtful", "spectrum")
    }
    assert told == {
        "latest": "O", "not_in_list": "?\u270e", "correct": "F\u270e", "confirm": "R\u2713",
        "doubtful": "?", "spectrum": "\u2013",
    }  # fmt: skip


@pytest.mark.parametrize("theme", ["dark", "red"])
def test_the_bars_of_the_session_bear_letters(theme: str, tab: Any) -> None:
    tab.locator("#tab-session").click()
    if theme == "red":
        tab.evaluate("() => { window.written = []; }")
        tab.locator("[data-act=theme]").click()
    try:
        until(
            lambda: {text for text, _ in tab.evaluate("() => window.written")} >= set(LETTERS.values()),
            "the letters are drawn",
        )
    finally:
        if theme == "red":
            tab.locator("[data-act=theme]").click()
        tab.locator("#tab-history").click()


def test_letters_are_read_by_everybody(tab: Any) -> None:
    chips = [chip for chip in tab.locator(".chip:not(.none):visible").evaluate_all(CHIPS) if chip[0]]
    assert {letter for letter, _, _ in chips} >= set(LETTERS.values())
    for letter, ink, ground in chips:
        low, high = sorted((luminance(ink), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST, letter


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_a_letter_stands_out_for_every_eye(deficiency: str, tab: Any) -> None:
    """As the browser shows it to such an eye: the darkest and the lightest of the large chip are far apart."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    eyes = tab.context.new_cdp_session(tab)
    try:
        before = tab.locator("#answer .chip").screenshot()
        emulate(eyes, deficiency)
        after = tab.locator("#answer .chip").screenshot()
    finally:
        eyes.detach()
    assert after != before, "the browser emulates it"
    grey = np.asarray(Image.open(BytesIO(after)).convert("L"), dtype=float)[10:-10, 10:-10]
    low, high = (((value / 255) ** 2.2) for value in (grey.min(), grey.max()))
    assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST


def test_every_state_has_a_shape_of_its_own(page: QuietPage, tab: Any) -> None:
    shapes = {}
    for state, said in STATES.items():
        page.well()
        page.say(**said)
        tab.locator(f"#state-bar[data-state={state}]").wait_for()
        shapes[state] = tab.locator("#state-bar svg path").get_attribute("d")
    assert len(set(shapes.values())) == len(STATES)
