"""The operator's page as a person has it: a real server, a real Chromium, and what neither may do.

`QuietPage` is the page over a journal that the test fills, with numbers that the test says: every state without
waiting. `LivePage` is `edge-agent watch` of this checkout as a process. Whatever is opened through `Visit` fails
the test for a complaint of the browser: an error, a breach of the page's own policy, an answer that is none, a
request elsewhere, a dialog.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]
for _folder in ("tests/edge_agent", "tests/faults", "tests"):
    if str(REPOSITORY / _folder) not in sys.path:
        sys.path.insert(0, str(REPOSITORY / _folder))

from agent_numbers import DISK, FOLDER, MODEL, finding, numbers  # noqa: E402
from harness import Agent, small_dm3  # noqa: E402
from sidecars import CONTRACT, finish  # noqa: E402

from edge_agent.archive import Archive  # noqa: E402
from edge_agent.config import EventsConfig, PageConfig  # noqa: E402
from edge_agent.files import FileStamp  # noqa: E402
from edge_agent.journal import Journal  # noqa: E402
from edge_agent.live_page.monitor import Monitor  # noqa: E402
from edge_agent.output_places import OutputPlan  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edge_agent.finding import Finding

CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SWITCHES: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SHIPPED_MODEL: Final = REPOSITORY / "models" / "particle-shape-1.2"
LABELS: Final = ("faceted", "rod", "round")
AXE_RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
ALL_PARTS: Final = "() => document.documentElement.dataset.parts === 'ready'"
WAIT_SECONDS: Final = float(os.environ.get("SCOPEWATCH_RIG_SECONDS", "30"))
SPEAKS_SECONDS: Final = 2.0
MISSING: Final = ("/thumb.jpg", "/picture.jpg")
LONG_TIER: Final = pytest.mark.skipif(
    "SCOPEWATCH_LONG" not in os.environ,
    reason="long tier: SCOPEWATCH_LONG=1 python -m pytest -m long tests/browser",
)
PIXEL: Final = bytes.fromhex("4749463839610100010080000000000000ffffff2c00000000010001000002024401003b")
"""A GIF, for tests in which a picture must be there and it matters not which."""
START: Final = datetime(2026, 5, 4, 8, tzinfo=UTC)


# --- the browser ------------------------------------------------------------------------------------------------


@contextmanager
def chromium_running(*switches: str) -> Iterator[Any]:
    """A headless Chromium. Needs playwright and `CHROMIUM`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*SWITCHES, *switches])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One person's visit: a profile of its own, with any number of tabs, and what the browser complained of.

    `expected` are parts of complaints that the test is about, such as a server that is gone.
    """

    context: Any
    address: str
    token: str
    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def tab(self, fragment: str = "", *, signed_in: bool = True) -> Any:
        """Open the page in a new tab; signed in, unless it is to ask for the token itself."""
        tab = self.context.new_page()
        self.watch(tab)
        tab.goto(self.address + fragment + (f"#token={self.token}" if signed_in else ""))
        if signed_in:
            tab.locator("#state-bar").wait_for()
            until(lambda: tab.evaluate(ALL_PARTS), "the page's parts are loaded")
        return tab

    def watch(self, tab: Any) -> None:
        """Take everything that a tab may not do as a complaint."""
        tab.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        tab.on("dialog", self._refuse)
        tab.on("console", self._listen)
        tab.on("request", self._follow)
        tab.on("response", self._hear)

    def unexpected(self) -> list[str]:
        """The complaints that the test did not ask for."""
        return [text for text in self.complaints if not any(part in text for part in self.expected)]

    def _refuse(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            self.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _follow(self, request: Any) -> None:
        there, here = urlsplit(request.url), urlsplit(self.address)
        if there.scheme != "blob" and there.netloc != here.netloc:
            self.complaints.append(f"request elsewhere: {request.url}")

    def _hear(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.request.method} {response.url}")


def accessible(tab: Any) -> list[str]:
    """What axe finds against WCAG 2.2 AA (and its own best practice), a line each; none is what is wanted."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(
        tab, options={"runOnly": list(AXE_RULES), "resultTypes": ["violations"], "preload": False}
    )
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]


@contextmanager
def visiting(browser: Any, page: Page, **settings: Any) -> Iterator[Visit]:
    """A visit of `page`; fails at its end for what the browser complained of. `settings` are Playwright's."""
    settings = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "no-preference"} | settings
    context = browser.new_context(**settings)
    context.set_default_timeout(WAIT_SECONDS * 1000)
    visit = Visit(context, page.address, page.token, expected=list(page.missing))
    try:
        yield visit
    finally:
        context.close()
    assert not visit.unexpected(), "\n".join(visit.unexpected())


def until(wanted: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Return what `wanted` returns once that is true; fails after `seconds`. For what a locator cannot wait for."""
    deadline = time.monotonic() + seconds
    while not (found := wanted()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last {found!r}")
        time.sleep(0.02)
    return found


# --- the page over a journal that the test fills ----------------------------------------------------------------


class Page:
    """What both pages have: an address, and the token that opens it."""

    address: str
    token: str
    missing: tuple[str, ...] = ()
    """Parts of complaints that mean a micrograph which was never there."""


class QuietPage(Page):
    """The page of an agent that does nothing by itself. Use as a context manager.

    `place` holds the watched folder (`scope`) and the state. What is `saved` was finished before, what `comes` is
    new and told to whoever looks.
    """

    missing = MISSING

    def __init__(self, place: Path, labels: Sequence[str] = LABELS, port: int = 0) -> None:
        self.folder, self.state = place / "scope", place / "state"
        self.folder.mkdir(parents=True, exist_ok=True)
        # An empty folder is taken for one whose disk is away.
        (self.folder / "notes.txt").touch()
        self.labels = tuple(labels)
        self.model = MODEL.model_copy(update={"labels": self.labels})
        self.made = 0
        self.port = port
        self._said: dict[str, Any] = {}
        self._ended = threading.Event()
        self._hangs = False
        self.journal = Journal(self.state)
        self.journal.model_sha256 = MODEL.sha256
        self._open()
        self._loop = threading.Thread(target=self._speak, name="agent's main loop", daemon=True)
        self._loop.start()

    def _speak(self) -> None:
        """Say every two seconds what was said last, as the agent's main loop does."""
        while not self._ended.wait(SPEAKS_SECONDS):
            if not self._hangs:
                self.say()

    def _open(self) -> None:
        self.monitor = Monitor(PageConfig(port=self.port), EventsConfig())
        self.archive = Archive(
            self.journal, OutputPlan(None, (self.folder,)), (self.folder,), self.state, "0123abcd"
        )
        self.monitor.meet(self.archive)
        self.say()
        self.monitor.start()
        self.address = self.monitor.word or ""
        self.port = urlsplit(self.address).port or 0
        self.token = token_of(self.state)

    def __enter__(self) -> QuietPage:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._loop.join()
        self.monitor.meet(None)
        self.monitor.close()
        self.journal.close()

    def stop(self) -> None:
        """End the server; the journal stays."""
        self.monitor.close()

    def start_again(self) -> None:
        """Start another server at the same address: another epoch, the same journal."""
        self._open()

    @property
    def home(self) -> Any:
        """What the routes work on."""
        return self.monitor._home

    def say(self, **changes: Any) -> None:
        """Let the agent's main loop say these numbers, beside those said before."""
        self._said |= changes
        folder = FOLDER.model_copy(
            update={"path": str(self.folder), "scanned": datetime.now(UTC), "scan_period_seconds": 10.0}
        )
        well = {
            "model": self.model, "folders": (folder,), "waiting": 0, "oldest_waiting_seconds": None,
            "troubles": (), "stalled": 0, "incomplete": 0, "last": None, "started": START,
            "updated": datetime.now(UTC), "state": str(self.state),
            "disks": (DISK.model_copy(update={"folder": str(self.folder)}),),
        }  # fmt: skip
        self.monitor.note_status(numbers(**(well | self._said)))

    def hang(self) -> None:
        """Let the main loop have said nothing for a minute."""
        self._hangs = True
        self.monitor.state._heard -= 60.0

    def well(self) -> None:
        """Let it say that all is well again."""
        self._said, self._hangs = {}, False
        self.say()

    def a_finding(self, name: str | None = None, **changes: Any) -> Finding:
        """What became of the next file; label and probability go round, without repeating soon."""
        number, self.made = self.made, self.made + 1
        path = self.folder / (name or f"session_{number:06d}.dm3")
        label = self.labels[number % len(self.labels)]
        uncertain = number % 7 == 3
        values: dict[str, Any] = {
            "path": path, "label": label, "probability": round(0.99 - (number * 37 % 60) / 100, 4),
            "decision": "abstain" if uncertain else "accept",
            "reasons": ("novel",) if uncertain else (),
            "stamp": FileStamp(4096 + number, 10**18 + number, 1, number + 1),
            "sha256": sha256(f"{path}{number}".encode("utf-8", "surrogateescape")).hexdigest(),
            "finished": START + timedelta(seconds=10 * number),
            "settled": START + timedelta(seconds=10 * number - 1),
        }  # fmt: skip
        return replace(finding(), **(values | changes))

    def saved(self, count: int) -> None:
        """Put `count` findings into the journal, as if an earlier run had made them."""
        for _ in range(count):
            self.journal.record(self.a_finding(), durable=False)
        self.journal.flush()

    def comes(self, found: Finding | None = None) -> Finding:
        """Let a file be finished now."""
        found = found or self.a_finding(finished=datetime.now(UTC))
        self.journal.record(found)
        self.monitor.note_finding(found)
        return found

    def with_picture(self, name: str | None = None, **changes: Any) -> Finding:
        """A finding whose micrograph, sidecar and heatmap lie in the folder; the map peaks right of the middle."""
        found = self.a_finding(name, **changes)
        content = small_dm3(self.made, 64)
        others = [label for label in self.labels if label != found.label]
        rest = (1 - (found.probability or 0)) / max(1, len(others))
        probabilities = {label: found.probability if label == found.label else rest for label in self.labels}
        rows = 8
        grid = [[peak_at(row, column, rows) for column in range(rows)] for row in range(rows)]
        box = [0, 0, 64, 64]
        stamp = finish(
            found.path, content=content, modified_ns=10**18 + self.made,
            micrograph=CONTRACT["micrograph"] | {"shape": [64, 64]},
            prediction=CONTRACT["prediction"] | {
                "label": found.label, "decision": found.decision, "reasons": list(found.reasons),
                "probabilities": probabilities, "tiles": [{"box_px": box, "probabilities": probabilities}],
            },
            cam=CONTRACT["cam"] | {
                "label": found.label, "box_px": box, "grid": [rows, rows], "values": grid,
                "heatmap": f"{found.path.name.encode('utf-8', 'backslashreplace').decode()}.heatmap.png",
            },
            source={
                "path": str(found.path).encode("utf-8", "backslashreplace").decode(), "bytes": len(content),
                "modified": "2026-05-03T03:09:37.123456Z", "sha256": sha256(content).hexdigest(),
                "fingerprint": "fp1:1",
            },
        )  # fmt: skip
        place = OutputPlan(None, (self.folder,)).place(found.path)
        return replace(
            found, stamp=stamp, sha256=sha256(content).hexdigest(), fingerprint="fp1:1",
            sidecar=place.sidecar, heatmap=place.heatmap,
        )  # fmt: skip


def peak_at(row: int, column: int, rows: int) -> float:
    """A map with one smooth peak, right of the middle."""
    return max(0.0, 1.0 - ((row - rows / 2) ** 2 + (column - rows * 0.65) ** 2) / (rows / 2.5) ** 2)


def token_of(state: Path) -> str:
    """The key of the page of the agent with this state folder; waits until it is made."""
    file = state / "page.token"
    return str(until(lambda: file.exists() and file.read_text().strip(), f"{file} is there"))


# --- the page of a real agent -----------------------------------------------------------------------------------


class LivePage(Page):
    """`edge-agent watch` with its page, as a process of its own. Use as a context manager."""

    def __init__(self, place: Path, *, model: Path = SHIPPED_MODEL, **config: object) -> None:
        self.folder = place / "scope"
        settings = {"page": {"port": 0}, "low_priority": False, "gap_seconds": 0.0} | config
        self.agent = Agent(self.folder, place=place, model=model, **settings)

    def __enter__(self) -> LivePage:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.agent.__exit__(*error)

    def start(self) -> LivePage:
        """Start it, and wait until the page is there and the model has been loaded."""
        self.agent.start().wait_ready()
        self.agent.wait_for(lambda: (self.agent.status().get("page") or "").startswith("http"), WAIT_SECONDS)
        self.address = self.agent.status()["page"]
        self.token = token_of(self.agent.state)
        return self

    def save(self, files: int, *, size_px: int = 512, seed: int = 0, rate_hz: float = 1000.0) -> list[Path]:
        """Let the simulated microscope save so many files, and wait until each is done."""
        from edge_agent.simulation import run_microscope

        before = sum(self.agent.status().get("done", {}).values())
        saved = [
            one.path
            for one in run_microscope(self.folder, files=files, rate_hz=rate_hz, size_px=size_px, seed=seed)
        ]
        self.agent.wait_for(before + files, 120)
        return saved


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
