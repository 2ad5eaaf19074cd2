"""Draws the operator's page as it is seen by the colour-blind, at night, in forced colours, and in every state.

`python tests/benchmarks/page_views.py --out FOLDER`

Pictures to be looked at: is everything told apart by letter and shape, and can it be read? What can be asserted is
asserted by `tests/browser/test_page_colours.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))

from page_rig import QuietPage, chromium_running, until, visiting  # noqa: E402
from page_sights import DEFICIENCIES, STATES, emulate, of_every_kind  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as place,
        QuietPage(Path(place)) as page,
        chromium_running() as browser,
        visiting(browser, page) as visit,
    ):
        of_every_kind(page)
        tab = visit.tab()
        tab.locator("#history .given", has_text="ada").first.wait_for()
        eyes = tab.context.new_cdp_session(tab)
        for deficiency in ("none", *DEFICIENCIES):
            emulate(eyes, deficiency)
            both_panels(tab, folder / deficiency)
        emulate(eyes, "none")
        tab.locator("[data-act=theme]").click()
        both_panels(tab, folder / "red")
        tab.locator("[data-act=theme]").click()
        tab.emulate_media(forced_colors="active")
        both_panels(tab, folder / "forced_colours")
        tab.emulate_media(forced_colors="none")
        for state, said in STATES.items():
            page.well()
            page.say(**said)
            tab.locator(f"#state-bar[data-state={state}]").wait_for()
            tab.locator("#state-bar").screenshot(path=folder / f"state_{state}.png")


def both_panels(tab: Any, name: Path) -> None:
    """One picture with the history, one with the session."""
    until(lambda: tab.locator("#latest:not(.loading)").count(), "the picture is drawn")
    for panel in ("history", "session"):
        tab.locator(f"#tab-{panel}").click()
        tab.locator(f"#{panel}").wait_for()
        tab.wait_for_timeout(500)
        tab.screenshot(path=f"{name}_{panel}.png")


if __name__ == "__main__":
    main()
