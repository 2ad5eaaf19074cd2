"""What a burst of files leaves behind in a tab once nobody holds it: nothing.

5,000 here, 200,000 by `python tests/benchmarks/page_figures.py --only heap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from page_process import QuietProcess
from page_rig import COUNT_TOLD, collected, until, visiting

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = 5000
PER_SECOND = 10_000
"""As fast as they can be made."""
KEPT_MIB = 2.0


def strip_shows(tab: Any, number: int) -> None:
    """Wait until the strip shows the file with this number first."""
    first = tab.locator("#strip button").first
    name = f"session_{number:06d}"
    until(lambda: (first.get_attribute("aria-label") or "").startswith(name), f"{name} in the strip")


def test_five_thousand_files_leave_nothing_behind_in_a_tab(chromium: Any, tmp_path: Path) -> None:
    with QuietProcess(tmp_path) as page:
        page.do("saved", 500)
        with visiting(chromium, page) as visit:
            tab = visit.tab()
            page.do("events", 500, PER_SECOND)
            strip_shows(tab, 999)
            tab.evaluate(COUNT_TOLD)
            before = collected(tab)
            page.do("events", EVENTS, PER_SECOND)
            strip_shows(tab, 999 + EVENTS)
            after = collected(tab)
            told = tab.evaluate("() => window.told")
    assert told["entry"] + told["resync"] > 0, "the tab heard of them"
    assert (after["JSHeapUsedSize"] - before["JSHeapUsedSize"]) / 2**20 <= KEPT_MIB
    for counted in ("Nodes", "JSEventListeners"):
        assert after[counted] <= before[counted], counted
