"""What a burst of files leaves behind in a tab once nobody holds it: nothing.

5,000 here, 200,000 by `python tests/benchmarks/page_figures.py --only heap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from page_process import QuietProcess
from page_rig import until, visiting
from tab_memory import COUNT_TOLD, collected

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = 1000
EVENTS = 5000
PER_SECOND = 10_000
"""As fast as they can be made."""
KEPT = {"JSHeapUsedSize": 2 * 2**20, "Nodes": 20, "JSEventListeners": 5}
"""So much more is no leak: a line may say a word more. One node a file would be 5,000."""


def all_have_come(tab: Any, entries: int) -> None:
    """Wait until strip and history show the newest of so many files, and the history says how many there are."""
    name = f"session_{entries - 1:06d}"
    strip, row = tab.locator("#strip button").first, tab.locator("#history [role=option] .name").first
    until(lambda: (strip.get_attribute("aria-label") or "").startswith(name), f"{name} in the strip")
    until(lambda: row.text_content().startswith(name), f"{name} in the history")
    until(lambda: f"{entries:,} entries" in tab.inner_text("#history-total"), f"{entries} are counted")


def test_five_thousand_files_leave_nothing_behind_in_a_tab(chromium: Any, tmp_path: Path) -> None:
    with QuietProcess(tmp_path) as page:
        page.do("saved", BEFORE - 500)
        with visiting(chromium, page) as visit:
            tab = visit.tab()
            page.do("events", 500, PER_SECOND)
            all_have_come(tab, BEFORE)
            tab.evaluate(COUNT_TOLD)
            before = collected(tab)
            page.do("events", EVENTS, PER_SECOND)
            all_have_come(tab, BEFORE + EVENTS)
            told = tab.evaluate("() => window.told")
            # What was drawn last may still be held by what runs; what leaks never goes.
            until(lambda: grown(before, collected(tab)) == {}, f"no more is held than {before}")
    assert told["entry"] + told["resync"] > 0, "the tab heard of them"


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What there is more of than `KEPT` allows, and how much more."""
    return {name: after[name] - before[name] for name in KEPT if after[name] - before[name] > KEPT[name]}
