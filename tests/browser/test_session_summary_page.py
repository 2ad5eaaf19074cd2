"""The summary of a session in a real Chromium: one page of paper, whatever it holds, and nothing comes alive."""

from __future__ import annotations

import random
import re

import pytest

from edge_agent.page.entry_filter import Span
from edge_agent.page.session_facts import Origin, SessionFacts
from edge_agent.page.session_summary import POLICY, summary_html
from edge_agent.page.sessions import Bins, ClassCounts, SessionNumbers

START_US = 1_777_881_600_000_000
EVIL = "<img src=x onerror=alert(1)>\"'&</style><script>alert(2)</script>"


def document(labels: tuple[str, ...], bins: int, odd: str = "novel", many: int = 1) -> str:
    chance = random.Random(1)
    classes = tuple(ClassCounts(label, chance.randrange(99), 3, 0, 1) for label in labels)
    counts = tuple(tuple(chance.randrange(5) for _ in labels) for _ in range(bins))
    numbers = SessionNumbers(
        START_US, Span(START_US, START_US + bins * 600_000_000), True, 400, 13,
        (("classified", 390), ("not_an_image", 10)), classes, Bins(10, START_US, labels, counts), None, None,
    )  # fmt: skip
    facts = SessionFacts((), tuple((f"{odd}{number}", number) for number in range(many)), 10, 5, 2, 20, 18)
    return summary_html(numbers, facts, Origin(((odd, 3),) * min(many, 5), (odd,) * many))


DOCUMENTS = [
    pytest.param(document(("cube", "hexagon", "rod", "sphere"), 40), id="a day's session"),
    pytest.param(document((), 1, many=0), id="nothing answered"),
    pytest.param(
        document(tuple(f"{EVIL}{number}{'W' * 300}" for number in range(30)), 1000, EVIL * 9, 40),
        id="more and longer than anything real, and not meant well",
    ),
]


@pytest.mark.parametrize("html", DOCUMENTS)
def test_the_summary_prints_as_one_page(chromium, html):
    page = chromium.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": POLICY}
    page.route("http://summary/", lambda route: route.fulfill(headers=headers, body=html))
    page.goto("http://summary/")

    printed = page.pdf(prefer_css_page_size=True)
    text = page.inner_text("body")
    page.close()

    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) == 1
    assert complaints == []
    assert text.startswith("Session of 2026-05-04")
    assert text.rstrip().endswith("times are this PC's.")
