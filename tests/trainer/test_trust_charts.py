"""The charts of abstaining: each can stand in a page, and says its numbers in letters."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING

import numpy as np
import pytest
from trusted import trust_record

from trainer.scoring.calibration import calibration
from trainer.scoring.selective import risk_coverage
from trainer.showing.trust_charts import (
    Curve,
    novelty_chart,
    risk_coverage_chart,
    strangers_chart,
    temperature_chart,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MADE = trust_record()
HELD = [one.novelty for one in MADE.held if one.novelty is not None]
ONE = calibration(np.array([0.4]), np.array([False]), ["a"], 0)
SHORT = risk_coverage(np.array([0.4]), np.array([False]), ["a"], 0)
LITERAL = MADE.strangers[0].model_copy(update={"kind": '<b>Ω & "x"</b> $\\alpha$'})

CHARTS: dict[str, Callable[[], str]] = {
    "risk and coverage": lambda: risk_coverage_chart(
        [Curve("held out", MADE.selective, (0.89, 0.7)), Curve("test", MADE.selective, None)]
    ),
    "one wrong answer": lambda: risk_coverage_chart([Curve("test", SHORT, None)]),
    "temperature": lambda: temperature_chart(MADE.before, MADE.after),
    "temperature on one answer": lambda: temperature_chart(ONE, ONE),
    "novelty": lambda: novelty_chart(HELD, MADE.strangers, 1.0),
    "novelty without strangers or limit": lambda: novelty_chart([0.2, 0.4], (), None),
    "equal novelty": lambda: novelty_chart([0.5, 0.5], (), 0.5),
    "strangers": lambda: strangers_chart(MADE.strangers, 0.9),
    "strangers with a strange name": lambda: strangers_chart([LITERAL], 0.9),
}


def texts(svg: str) -> list[str]:
    return [
        "".join(one.itertext())
        for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_can_stand_in_a_page_with_others(name: str) -> None:
    svg = CHARTS[name]()
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert "nan" not in " ".join(texts(svg)).lower()
    assert svg == CHARTS[name](), "equal values give equal text"


def test_the_operating_point_is_named() -> None:
    assert "operating point: 70 % right of 89 % kept" in texts(CHARTS["risk and coverage"]())
    assert not [one for one in texts(CHARTS["one wrong answer"]()) if "operating point" in one]


def test_the_error_stands_in_its_panel() -> None:
    seen = " ".join(texts(CHARTS["temperature"]()))
    assert f"debiased error {MADE.before.debiased_error:.3f}" in seen
    assert f"debiased error {MADE.after.debiased_error:.3f}" in seen
    assert "error 0.400" in texts(CHARTS["temperature on one answer"]()), "what one answer can tell"


def test_each_row_of_novelty_says_how_many_lie_beyond_the_limit() -> None:
    seen = texts(CHARTS["novelty"]())
    assert f"held-out micrographs ({len(HELD)})" in seen
    beyond = [np.mean(np.array(one) > 1) for one in (HELD, *(one.novelty for one in MADE.strangers))]
    assert [one for one in seen if one.endswith("beyond")] == [
        f"{100 * share:.0f} % beyond" for share in beyond
    ]


def test_strangers_are_counted_and_named_literally() -> None:
    seen = texts(CHARTS["strangers"]())
    assert [one for one in seen if " of " in one] == [
        f"{one.abstained} of {one.pictures}" for one in MADE.strangers
    ]
    assert LITERAL.kind in texts(CHARTS["strangers with a strange name"]())
