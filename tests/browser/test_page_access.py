"""Whether everybody can use the page: axe in every place and theme, narrow and enlarged, with little motion."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from page_rig import QuietPage, accessible, until, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDEWAYS = "() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
ALIVE = """() => [...document.querySelectorAll('*')].filter(one => {
  const style = getComputedStyle(one);
  const moves = time => time.split(',').some(part => parseFloat(part) > 0);
  return moves(style.transitionDuration) || (style.animationName !== 'none' && moves(style.animationDuration));
}).map(one => one.tagName + '#' + one.id)"""
SIZES = [
    pytest.param(1280, 900, id="the usual window"),
    pytest.param(640, 450, id="200 % zoom of it"),
    pytest.param(480, 900, id="narrow"),
    pytest.param(320, 640, id="400 % zoom"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    """With all that can stand on it: pictures, an abstention, no micrograph, a long name, labels."""
    with QuietPage(tmp_path_factory.mktemp("access")) as quiet:
        quiet.saved(120)
        quiet.comes(quiet.a_finding("spectrum.dm3", outcome="not_an_image", reason="a spectrum of 2048 channels",
                                    label=None, probability=None, decision=None, reasons=()))  # fmt: skip
        quiet.comes(quiet.a_finding(f"{'a very long name ' * 12}.dm3"))
        quiet.comes(
            quiet.with_picture("doubtful.dm3", decision="abstain", reasons=("novel", "low_confidence"))
        )
        quiet.comes(quiet.with_picture("latest.dm3", finished=datetime.now(UTC), label="round", probability=0.97,
                                       decision="accept", reasons=()))  # fmt: skip
        yield quiet


@pytest.fixture(scope="module")
def opened(chromium: Any, page: QuietPage) -> Iterator[Any]:
    """One tab; tests leave it as they find it."""
    with visiting(chromium, page) as visit:
        tab = visit.tab()
        tab.locator("#history [role=option]").nth(3).wait_for()
        yield tab


@pytest.fixture
def tab(opened: Any) -> Iterator[Any]:
    opened.set_viewport_size({"width": 1280, "height": 900})
    yield opened
    opened.keyboard.press("Escape")
    opened.locator("#tab-history").click()


def choose(tab: Any, theme: str) -> None:
    """Press the button of the night colours where that is needed."""
    button = tab.locator("[data-act=theme]")
    if button.get_attribute("aria-pressed") != str(theme == "red").lower():
        button.click()
    assert tab.evaluate("() => document.documentElement.dataset.theme") == theme


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("theme", ["dark", "red"])
def test_in_every_theme_and_size(theme: str, width: int, height: int, tab: Any) -> None:
    tab.set_viewport_size({"width": width, "height": height})
    choose(tab, theme)
    assert tab.evaluate(SIDEWAYS) == 0
    assert accessible(tab) == []


@pytest.mark.parametrize("width", [1280, 480])
@pytest.mark.parametrize("place", ["session", "learning"])
def test_every_panel(place: str, width: int, tab: Any) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    tab.locator(f"#tab-{place}").click()
    expect(tab.locator(f"#{place}")).to_be_visible()
    tab.wait_for_timeout(200)
    assert tab.evaluate(SIDEWAYS) == 0
    assert accessible(tab) == []


def test_the_list_of_keys(tab: Any) -> None:
    tab.get_by_role("button", name="Keys", exact=True).first.click()
    tab.locator("dialog[open]").wait_for()
    assert accessible(tab) == []
    tab.keyboard.press("Escape")
    expect(tab.locator("dialog[open]")).to_have_count(0)


def test_an_entry_that_is_no_micrograph_and_one_without_an_answer(tab: Any) -> None:
    for name, words in (
        ("spectrum.dm3", "a spectrum of 2048 channels"),
        ("doubtful.dm3", "ABSTAINED: novel"),
    ):
        tab.locator("#history .name", has_text=name).click()
        expect(tab.locator("#latest")).to_contain_text(words)
        assert accessible(tab) == []


def test_before_signing_in(chromium: Any, page: QuietPage) -> None:
    with visiting(chromium, page) as visit:
        visit.expected.append("401")
        tab = visit.tab(signed_in=False)
        tab.locator("#sign-in").wait_for()
        assert accessible(tab) == []
        tab.locator("#key").fill("wrong")
        tab.keyboard.press("Enter")
        expect(tab.locator("#sign-in [role=alert]")).to_contain_text("not the key")
        assert accessible(tab) == []


def test_little_motion_is_no_motion(chromium: Any, page: QuietPage) -> None:
    with visiting(chromium, page, reduced_motion="reduce") as visit:
        assert visit.tab().evaluate(ALIVE) == []


@pytest.mark.parametrize("place", ["history", "session"])
def test_in_red_nothing_else_shines(place: str, tab: Any) -> None:
    """At night the eye keeps its adaptation only where nothing but red reaches it."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    tab.locator(f"#tab-{place}").click()
    if place == "session":
        tab.locator("#session canvas").wait_for()
    choose(tab, "red")
    until(lambda: tab.locator("#latest:not(.loading)").count(), "the picture is drawn")
    pixels = np.asarray(Image.open(BytesIO(tab.screenshot())).convert("RGB"), dtype=int)
    choose(tab, "dark")
    # Luminance of green and blue beside that of red (Rec. 709).
    assert (0.7152 * pixels[..., 1] + 0.0722 * pixels[..., 2]).max() <= 0.7152 * 120
    assert pixels[..., 2].max() <= 120
    assert (pixels[..., 0] + 10 >= pixels[..., 1:].max(axis=-1)).all(), "red is the most everywhere"


def test_regions_have_names_and_the_picture_says_what_it_shows(tab: Any) -> None:
    tab.locator("#history .name", has_text="latest.dm3").click()
    expect(tab.locator("canvas[role=img]")).to_have_attribute("aria-label", "micrograph latest.dm3")
    for role in ("banner", "main", "navigation", "complementary"):
        assert tab.get_by_role(role).count() == 1, role
