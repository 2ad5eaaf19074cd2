"""Charts: SVG that stands in one page with others, text that stays text, and the same for equal values."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING

import numpy as np
import pytest
from answered import EIGHT, THREE, drawn_scored

from trainer.fitting.run_folder import Epoch
from trainer.scoring.accuracy_curve import Measured, Setting, concluded
from trainer.scoring.calibration import calibration
from trainer.scoring.figures import Scored, figures, slices
from trainer.showing import charts
from trainer.showing.chart_style import figure_svg, percent, short
from trainer.showing.learning_curve_chart import draw_learning_curve

if TYPE_CHECKING:
    from collections.abc import Callable
from functools import cache


@cache
def drawn(name: str) -> str:
    """A chart, drawn once for all tests."""
    return CHARTS[name]()


SVG = "{http://www.w3.org/2000/svg}"


def sized(count: int = 40) -> list[Scored]:
    """Answers of calibrated micrographs, some wrong."""
    entries = drawn_scored(count, THREE)
    return [
        entry.model_copy(update={"pixel_size_nm": 0.1 * 1.1**at, "microscope": "T" if at % 2 else "F"})
        for at, entry in enumerate(entries)
    ]


def history(count: int, *, validated: bool = True) -> list[Epoch]:
    """So many epochs, the first of the head alone."""
    return [
        Epoch(
            "head" if at == 1 else "fine",
            at,
            1 / at,
            1.2 / at if validated else None,
            1 - 0.5 / at if validated else None,
        )
        for at in range(1, count + 1)
    ]


def curve() -> str:
    """A learning curve as its own module draws it."""
    from datetime import UTC, datetime

    measured = [Measured(0.5, (10, 10), (5, 5), (0.6, 0.7)), Measured(1, (20, 20), (10, 10), (0.7, 0.8))]
    setting = Setting("frozen features", "toy", "f", THREE, 2, 1, 0, datetime(2026, 1, 1, tzinfo=UTC))
    return figure_svg(lambda: draw_learning_curve(concluded(setting, measured)), "curve", "Learning curve")


def eight() -> str:
    """The confusions of eight classes with long names in several scripts."""
    entries = drawn_scored(90, EIGHT)
    return charts.confusion_chart(figures(entries, EIGHT, 0), EIGHT)


CHARTS: dict[str, Callable[[], str]] = {
    "confusion": lambda: charts.confusion_chart(figures(sized(), THREE, 0), THREE),
    "eight classes": eight,
    "accuracy": lambda: charts.accuracy_chart(
        [("all", 0.9, (0.8, 1.0)), ("fold 1", 1.0, None)], "accuracy", "Accuracy"
    ),
    "reliability": lambda: charts.reliability_chart(
        calibration(np.linspace(0.4, 1, 40), np.ones(40, bool), [str(at) for at in range(40)], 0)
    ),
    "one answer": lambda: charts.reliability_chart(calibration(np.array([0.4]), np.array([False]), ["a"], 0)),
    "slices": lambda: charts.slices_chart(slices(sized())["microscope"], "slices-0", "by microscope"),
    "many slices": lambda: charts.slices_chart(slices(drawn_scored(120))["group"], "slices-1", "by group"),
    "pixel size": lambda: charts.pixel_size_chart(sized(), THREE),
    "probabilities": lambda: charts.probability_chart(sized(), THREE),
    "history": lambda: charts.history_chart([("run", history(4))]),
    "history of members": lambda: charts.history_chart([("a", history(4)), ("b", history(3))]),
    "history without validation": lambda: charts.history_chart([("run", history(1, validated=False))]),
    "map": lambda: charts.embedding_chart(np.arange(80.0).reshape(40, 2) % 7, sized(), THREE, {3: 1, 5: 2}),
    "curve": curve,
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_can_stand_in_a_page_with_others(name: str) -> None:
    text = drawn(name)
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert "<!DOCTYPE" not in text
    assert "width" not in root.attrib
    assert root.get("role") == "img"
    assert root.get("aria-label")
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    (prefix,) = {str(each).rpartition("-")[0].split("-figure")[0].split("-")[0] for each in ids}
    assert len(ids) == len(set(ids))
    assert prefix
    referred = {part.split(")")[0] for part in text.split("url(#")[1:]}
    referred |= {part.split('"')[0] for part in text.split('href="#')[1:]}
    assert referred <= set(ids), "every clip path and marker is there under its new name"
    assert root.findall(f".//{SVG}text"), "text stays text"
    assert "http://" not in text.replace("http://www.w3.org/", "")


def test_equal_values_give_equal_text() -> None:
    for name in ("slices", "map"):
        assert CHARTS[name]() == drawn(name)


def texts(svg: str) -> str:
    """All words of a chart."""
    return " ".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def test_ids_of_two_charts_differ() -> None:
    one, other = drawn("slices"), drawn("many slices")
    ids = [
        {element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")}
        for svg in (one, other)
    ]
    assert not ids[0] & ids[1]


def test_labels_are_taken_literally() -> None:
    words = texts(drawn("eight classes"))
    assert "$\\alpha$-Fe_2O_3" in words, "no formula is set"
    assert "<nanowire>" in words.replace(" ", ""), "no mark-up is read"
    assert "金属有機構造体 ZIF-8" in words


def test_the_confusion_chart_says_counts_and_shares_of_the_row() -> None:
    seen = figures(sized(), THREE, 0)
    words = texts(drawn("confusion"))
    for row in seen.confusion:
        for count in row:
            if count:
                assert f"{count}" in words
                assert percent(count / sum(row)) in words


def test_a_slice_says_right_of_all() -> None:
    words = texts(drawn("slices"))
    for one in slices(sized())["microscope"]:
        assert f"{one.right} of {one.micrographs}" in words


def test_of_many_slices_the_worst_are_shown() -> None:
    entries = drawn_scored(120)
    worst = min(slices(entries)["group"], key=lambda one: (one.right - one.micrographs, one.name))
    words = texts(drawn("many slices"))
    assert worst.name in words
    assert words.count(" of ") == charts.SHOWN_OF_MANY


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "100 %"), (0.9999, "99.9 %"), (0.996, "99.6 %"), (0.5, "50 %"), (0.0, "0 %"), (0.004, "0 %")],
)
def test_not_quite_all_is_not_all(share: float, expected: str) -> None:
    assert percent(share) == expected


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [("short", 24, "short"), ("abcdefghij", 5, "ab…ij"), ("abcdefghij", 6, "abc…ij"), ("αβγδε", 4, "αβ…ε")],
)
def test_a_long_name_keeps_its_ends(text: str, most: int, expected: str) -> None:
    assert short(text, most) == expected
