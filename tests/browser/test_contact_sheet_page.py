"""The contact sheet in a real Chromium, opened as a file: overruled, remembered, saved, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edge_agent.preprocessing import Preprocessing
from trainer.preparing.contact_sheet import write_contact_sheet
from trainer.preparing.crops import DataSet, Order, prepare
from trainer.preparing.overrides import read_overrides
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NASTY = "<img src=x onerror=document.title='run'>\"',;&.png"


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Path]:
    """Five pictures in each of two classes, one of them named as markup."""
    raw, random = tmp_path_factory.mktemp("raw"), np.random.default_rng(1)
    for label in ("dots", "lines"):
        (raw / label).mkdir()
        for name in ("0.png", "1.png", "2.png", "3.png", NASTY if label == "dots" else "4.png"):
            pixels = random.integers(0, 256, (9, 12), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(raw / label / name, format="PNG")
    dataset = prepare(
        raw,
        tmp_path_factory.mktemp("dataset") / "set",
        Order(
            preprocessing=Preprocessing(input_px=64),
            split=SplitRule(),
            cache_px=64,
            screening=ScreeningRule(on=False),
        ),
        workers=1,
    )
    return dataset, write_contact_sheet(dataset)


@pytest.fixture
def page(chromium: Any, sheet: tuple[DataSet, Path]) -> Iterator[Any]:
    """The opened sheet in a profile of its own; complaints of the browser fail the test."""
    context = chromium.new_context(viewport={"width": 1300, "height": 800}, accept_downloads=True)
    context.set_default_timeout(15_000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:", "blob:")) or complaints.append(request.url),
    )
    opened.goto(sheet[1].as_uri())
    yield opened
    context.close()
    assert complaints == []


def saved(page: Any, tmp_path: Path) -> list[tuple[str, str, str, str]]:
    """Press the button, and read what it downloaded as `prepare` does."""
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "overrides.csv"
    path = tmp_path / "overrides.csv"
    download.value.save_as(path)
    return [(row.file, row.decision, row.label, row.by) for row in read_overrides(path).rows]


def card(page: Any, file: str) -> Any:
    return page.locator(f".card[data-file={quoted(file)}]")


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def shown(page: Any) -> list[str]:
    found: list[str] = page.locator(".card:visible").evaluate_all("all => all.map(one => one.dataset.file)")
    return found


def test_every_picture_is_shown_and_no_name_runs(page: Any, sheet: tuple[DataSet, Path]) -> None:
    assert len(shown(page)) == 10
    page.locator(".card").last.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert page.title() == f"Contact sheet of {sheet[0].root.name}"
    assert card(page, f"dots/{NASTY}").locator(".name").inner_text() == NASTY


def test_by_mouse(page: Any, tmp_path: Path) -> None:
    page.fill("#by", "TM")
    card(page, "dots/0.png").locator("[data-act=drop]").click()
    card(page, f"dots/{NASTY}").locator(".picture").click()
    page.click("#i-labels button:has-text('lines')")
    page.fill("#i-note", 'says "rods", clearly')
    page.press("#i-note", "Tab")
    assert "→ drop (TM)" in card(page, "dots/0.png").inner_text()
    assert page.inner_text("#n-marks") == "2"

    assert saved(page, tmp_path) == [
        ("dots/0.png", "drop", "", "TM"), (f"dots/{NASTY}", "keep", "lines", "TM"),
    ]  # fmt: skip
    assert read_overrides(tmp_path / "overrides.csv").rows[1].note == 'says "rods", clearly'


def test_by_keys_alone(page: Any, tmp_path: Path) -> None:
    order = shown(page)
    for key in ("ArrowRight", "ArrowRight", "d", "ArrowRight", "2", "ArrowLeft", "ArrowLeft", "d", "u", "z"):
        page.keyboard.press(key)
    assert saved(page, tmp_path) == sorted(
        [(order[0], "drop", "", ""), (order[1], "drop", "", ""), (order[2], "keep", "lines", "")]
    )


def test_letters_typed_elsewhere_decide_nothing(page: Any) -> None:
    page.keyboard.press("ArrowRight")
    page.click("#f-text")
    page.keyboard.type("dk2")
    assert page.inner_text("#n-marks") == "0"
    assert page.locator("#nothing").is_visible()


def test_what_was_decided_survives_a_reload(page: Any, tmp_path: Path) -> None:
    card(page, "lines/1.png").locator("[data-act=drop]").click()
    assert "not saved yet" in page.inner_text("#save-box")
    page.reload()
    assert "→ drop" in card(page, "lines/1.png").inner_text()
    assert saved(page, tmp_path) == [("lines/1.png", "drop", "", "")]
    page.reload()
    assert "not saved yet" not in page.inner_text("#save-box")
    assert page.inner_text("#n-marks") == "1"


def test_many_at_once_and_undone(page: Any, tmp_path: Path) -> None:
    page.select_option("#f-class", "lines")
    page.click("#all")
    page.click("#i-acts [data-act=drop]")
    assert page.inner_text("#n-marks") == "5"
    page.click("#undo")
    assert page.inner_text("#n-marks") == "0"
    card(page, "lines/0.png").locator(".name").click()
    page.locator(".card:visible").nth(2).locator(".name").click(modifiers=["Shift"])
    page.keyboard.press("d")
    assert len(saved(page, tmp_path)) >= 2


@pytest.mark.parametrize(
    ("control", "value", "files"),
    [
        pytest.param("#f-class", "dots", 5, id="class"),
        pytest.param("#f-state", "dropped", 0, id="state"),
        pytest.param("#f-state", "overruled", 0, id="overruled"),
        pytest.param("#f-text", "3.PNG", 2, id="search"),
    ],
)
def test_filters(control: str, value: str, files: int, page: Any) -> None:
    if control == "#f-text":
        page.fill(control, value)
    else:
        page.select_option(control, value)
    assert len(shown(page)) == files
    page.click("#clear")
    assert len(shown(page)) == 10


def test_sorted_by_name(page: Any) -> None:
    page.select_option("#f-sort", "file")
    assert shown(page) == sorted(shown(page))


def test_overrides_in_force_are_there_and_can_be_taken_back(
    page: Any, sheet: tuple[DataSet, Path], tmp_path: Path
) -> None:
    given = tmp_path / "given.csv"
    given.write_text("file,decision,by\ndots/1.png,drop,AB\nelsewhere/9.png,drop,AB\nlines/0.png,keep,AB\n")
    try:
        page.goto(write_contact_sheet(sheet[0], overrides=read_overrides(given)).as_uri())
        assert "→ drop (AB)" in card(page, "dots/1.png").inner_text()
        card(page, "dots/1.png").locator(".name").click()
        page.keyboard.press("u")
        assert saved(page, tmp_path) == [
            ("elsewhere/9.png", "drop", "", "AB"),
            ("lines/0.png", "keep", "", "AB"),
        ]
    finally:
        write_contact_sheet(sheet[0])
