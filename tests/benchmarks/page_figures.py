"""What the operator's page takes: first paint, event to label and picture, history, memory, size; what axe says.

`python tests/benchmarks/page_figures.py [--only NAME ...] [--short]`

Measured in headless Chromium against the real server in a process of its own. "live" runs the real agent with the
shipped model and the simulated microscope (1024 px); an event counts from the moment at which the agent hands the
finding to the page, and in the rows "after a pause" nothing came for ten seconds before it. "history" has a journal
of 100,000 entries. Prints a table with what is demanded; asserts nothing. `--short`: a tenth of everything, to try
the script.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))

from page_process import QuietProcess  # noqa: E402
from page_rig import (  # noqa: E402
    LivePage,
    Page,
    QuietPage,
    accessible,
    chromium_running,
    until,
    visiting,
)
from page_sights import STATES, of_every_kind  # noqa: E402
from tab_memory import COUNT_TOLD, collected  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ENTRIES = 100_000
SEED = 8
WIDTH = 60
SHRINK = 1
PAUSE_SECONDS = 10.0
STATIC = REPOSITORY / "edge_agent" / "page" / "static"
# Noted after the frame that shows it; what stands there already is no event.
WATCH_PICTURES = """() => {
  window.figures = {label: {}, picture: {}};
  const latest = document.querySelector('#latest');
  const first = latest.dataset.id;
  const note = (kind) => {
    const {id} = latest.dataset;
    if (id === first || id in window.figures[kind]) return;
    window.figures[kind][id] = 0;
    requestAnimationFrame(() => setTimeout(() => { window.figures[kind][id] = Date.now(); }));
  };
  new MutationObserver(() => {
    note('label');
    if (!latest.classList.contains('loading')) note('picture');
  }).observe(latest, {attributes: true});
}"""
WATCH_TASKS = """() => {
  window.longest = 0;
  new PerformanceObserver(list => {
    for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
  }).observe({type: 'longtask', buffered: false});
}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=sorted(PARTS), default=sorted(PARTS))
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    global SHRINK
    SHRINK = 10 if given.short else 1
    print(f"{'':{WIDTH}}{'p50':>10}{'p95':>10}{'most':>10}  demanded", flush=True)
    for name in (part for part in PARTS if part in given.only):
        with tempfile.TemporaryDirectory() as place:
            PARTS[name](Path(place))


def line(what: str, values: Sequence[float], unit: str, demanded: str) -> None:
    """One figure of many values: a row of the table."""
    ordered = sorted(values)
    p50, p95 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95))
    print(f"{what + ', ' + unit:{WIDTH}}{p50:10.1f}{p95:10.1f}{ordered[-1]:10.1f}  {demanded}", flush=True)


def single(what: str, value: str, demanded: str) -> None:
    """One figure of one value: a row of the table."""
    print(f"{what:{WIDTH}}{value:>30}  {demanded}", flush=True)


# --- live -------------------------------------------------------------------------------------------------------


def live(place: Path) -> None:
    """First paint, event to label and picture, memory: beside an agent that works."""
    published = place / "published"
    watched = LivePage(
        place,
        prefix=(sys.executable, str(Path(__file__).with_name("published.py"))),
        environment={"SCOPEWATCH_PUBLISHED": str(published)},
    )
    with watched as page, chromium_running() as browser:
        page.save(24, size_px=1024)
        alone_mib = rss_mib(page)
        line(
            "first paint",
            [first_paint(browser, page) for _ in range(20 // min(2, SHRINK))],
            "ms",
            "p95 <= 400",
        )
        with visiting(browser, page) as visit:
            tab = visit.tab()
            tab.evaluate(WATCH_PICTURES)
            names = {saved.name for saved in page.save(100 // SHRINK, size_px=1024, seed=1, rate_hz=2.0)}
            events(tab, published, names, "")
            late: set[str] = set()
            for number in range(max(3, 10 // SHRINK)):
                time.sleep(PAUSE_SECONDS)
                late |= {saved.name for saved in page.save(1, size_px=1024, seed=1000 + number)}
            events(tab, published, late, " after a pause")
            for _ in range(6):
                visit.tab()
            time.sleep(5)
            single(
                "agent's own process, 7 tabs (0 tabs)",
                f"{rss_mib(page):.1f} ({alone_mib:.1f}) MiB",
                "< 100 MB",
            )


def events(tab: Any, published: Path, names: set[str], when: str) -> None:
    """From the moment of publishing to that at which label and picture of these files stand on the page."""
    tab.wait_for_timeout(2000)
    told = {
        name: float(moment)
        for moment, _, name in (one.partition(" ") for one in published.read_text().splitlines())
    }
    rows = {str(row["id"]): row["name"] for row in tab.evaluate(ROWS)}
    seen = tab.evaluate("() => window.figures")
    for kind, demanded in (("label", "p95 <= 150"), ("picture", "p95 <= 300")):
        took = [
            moment - told[rows[key]]
            for key, moment in seen[kind].items()
            if moment and rows.get(key) in names
        ]
        line(f"event to {kind}{when} ({len(took)} of {len(names)} shown)", took, "ms", demanded)


ROWS = """async () => {
  const rows = [];
  let after = '';
  for (let page = 0; page < 3; page += 1) {
    const answer = await (await fetch('/api/history?limit=100' + after)).json();
    rows.push(...answer.rows);
    if (!answer.next) break;
    after = '&after=' + encodeURIComponent(answer.next);
  }
  return rows;
}"""


def first_paint(browser: Any, page: Page) -> float:
    """Milliseconds from the start of the navigation to the first contentful paint, in a fresh profile."""
    with visiting(browser, page) as visit:
        tab = visit.tab()
        read = "() => performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"
        return float(until(lambda: tab.evaluate(read), "first paint"))


def rss_mib(page: LivePage) -> float:
    """Resident memory of the agent's own process."""
    return psutil.Process(page.agent.pid).memory_info().rss / 2**20


# --- history ----------------------------------------------------------------------------------------------------


def history(place: Path) -> None:
    """Filtered pages over HTTP, and random jumps in the list."""
    with QuietProcess(place) as page:
        page.do("saved", ENTRIES // SHRINK)
        line(
            f"filtered page of {ENTRIES // SHRINK:,} over HTTP",
            http_milliseconds(page, 500),
            "ms",
            "p95 <= 20",
        )
        with chromium_running() as browser, visiting(browser, page) as visit:
            tab = visit.tab()
            jumps(tab)


def http_milliseconds(page: Page, requests: int) -> list[float]:
    """Time of each of so many requests for a page of 100 rows, filters and places drawn at random."""
    asking, chance = Asking(page), random.Random(SEED)
    facets = asking.get("/api/history/facets")
    days = [day["day"] for day in facets["days"]] or [""]
    choices: dict[str, list[str]] = {
        "label": ["", *facets["labels"]], "decision": ["", "accept", "abstain"], "day": ["", *days],
        "given": ["", "yes", "no", "disagrees"], "order": ["newest", "uncertain"],
    }  # fmt: skip
    every = list(itertools.product(*choices.values()))
    took = []
    while len(took) < requests:
        values = zip(choices, chance.choice(every), strict=True)
        query = {key: value for key, value in values if value}
        for _ in range(3):
            begun = time.perf_counter()
            answer = asking.get("/api/history?" + urllib.parse.urlencode(query))
            took.append((time.perf_counter() - begun) * 1000)
            if not answer["next"]:
                break
            query["after"] = answer["next"]
    return took[:requests]


class Asking:
    """One connection that stays open, and shows the key."""

    def __init__(self, page: Page) -> None:
        self._connection = HTTPConnection(urllib.parse.urlsplit(page.address).netloc)
        self._headers = {"Authorization": f"Bearer {page.token}"}

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status, body)
        return json.loads(body)


def jumps(tab: Any) -> None:
    """200 jumps of the scroll bar to random places, each until its rows are there."""
    chance = random.Random(SEED)
    scroller = tab.locator("#history [role=listbox]")
    tab.evaluate(WATCH_TASKS)
    most = 0
    for _ in range(200 // SHRINK):
        scroller.evaluate("(one, share) => { one.scrollTop = share * one.scrollHeight; }", chance.random())
        tab.wait_for_timeout(60)
        most = max(most, tab.locator("#history [role=option]").count())
    tab.wait_for_timeout(500)
    single(
        f"{200 // SHRINK} random jumps: longest task",
        f"{tab.evaluate('() => window.longest'):.0f} ms",
        "<= 50 ms",
    )
    single(f"{200 // SHRINK} random jumps: most rows in the DOM", str(most), "a screenful")


# --- memory of a tab --------------------------------------------------------------------------------------------


def heap(place: Path) -> None:
    """What 200,000 events leave behind in a tab."""
    with QuietProcess(place) as page, chromium_running() as browser:
        page.do("saved", 1000)
        with visiting(browser, page) as visit:
            tab = visit.tab()
            page.do("events", 2000, 500)
            tab.wait_for_timeout(2000)  # the last of these are told
            tab.evaluate(COUNT_TOLD)
            before = collected(tab)
            events = 200_000 // SHRINK
            page.do("events", events, 1000)
            after = collected(tab)
            told = tab.evaluate("() => window.told")
            single("of these told to the tab; resyncs", f"{told['entry']}; {told['resync']}", "all; none")
            grown = {key: after[key] - before[key] for key in before}
            single(
                f"heap after {events} events (before {before['JSHeapUsedSize'] / 2**20:.2f} MB)",
                f"{grown['JSHeapUsedSize'] / 2**20:+.2f} MB", "<= +2 MB",
            )  # fmt: skip
            single(
                "nodes, listeners", f"{grown['Nodes']:+.0f}, {grown['JSEventListeners']:+.0f}", "none more"
            )


# --- size and axe -----------------------------------------------------------------------------------------------


def size(place: Path) -> None:
    """Bytes of scripts and styles, as they lie in the package and as they are sent."""
    sizes = {path: path.stat().st_size for path in STATIC.rglob("*") if path.suffix in (".js", ".css")}
    vendored = sum(size for path, size in sizes.items() if path.parent != STATIC)
    own = sum(sizes.values()) - vendored
    single(
        f"{len(sizes)} files of JS and CSS, not compressed: own + uPlot",
        f"{own / 1024:.1f} + {vendored / 1024:.1f} KiB", "<= 120 KB together",
    )  # fmt: skip


def axe(place: Path) -> None:
    """What axe finds (WCAG 2.2 AA and its best practice) in every state, panel, theme and width."""
    with QuietPage(place) as page, chromium_running() as browser:
        of_every_kind(page)
        with visiting(browser, page) as visit:
            visit.expected += ["401", "ERR_", "Failed to load"]
            asking = visit.tab(signed_in=False)
            asking.locator("#sign-in").wait_for()
            found = {"not signed in": accessible(asking)}
            asking.close()
            tab = visit.tab()
            tab.locator("#history [role=option]").nth(3).wait_for()
            found |= {" ".join(where): accessible(tab) for where in places(tab)}
            for state, said in STATES.items():
                page.well()
                page.say(**said)
                tab.locator(f"#state-bar[data-state={state}]").wait_for()
                found[f"state {state}"] = accessible(tab)
            page.stop()
            tab.locator("#state-bar[data-state=no_contact]").wait_for()
            found["state no_contact"] = accessible(tab)
    for where, violations in found.items():
        for violation in violations:
            print(f"{where}: {violation}", flush=True)
    single(
        f"axe, {len(STATES) + 1} states and {len(found) - len(STATES) - 1} other views: violations",
        str(sum(map(len, found.values()))), "0",
    )  # fmt: skip


def places(tab: Any) -> Iterator[tuple[str, str, str]]:
    """Show one panel after the other in each theme and width; yield what is shown."""
    for theme, width in itertools.product(("dark", "red"), (1280, 480)):
        tab.set_viewport_size({"width": width, "height": 900})
        for panel in ("history", "session", "learning"):
            tab.locator(f"#tab-{panel}").click()
            tab.locator(f"#{panel}").wait_for()
            tab.wait_for_timeout(300)
            yield theme, str(width), panel
        if width == 480:
            tab.locator("[data-act=theme]").click()


PARTS: dict[str, Callable[[Path], None]] = {
    "size": size, "axe": axe, "live": live, "history": history, "heap": heap,
}  # fmt: skip


if __name__ == "__main__":
    main()
