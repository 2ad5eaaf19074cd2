"""What the history of the operator's page costs with 100,000 files.

`python tests/benchmarks/history_pages.py [FILES]`

A journal is filled as the agent fills it (sessions of some 400 files, one in thirty corrected, half of the answers
as sure as can be), the page is served as it is, and one client asks over HTTP: every combination of filters and
orders at ten random places, 200 random jumps by the index, the index, what one can filter by, and sessions. Nothing
is asserted.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from edge_agent.archive import Archive
from edge_agent.files import FileStamp
from edge_agent.finding import Finding
from edge_agent.journal import Journal
from edge_agent.live_page.application import site_of
from edge_agent.live_page.doorway import Loopback
from edge_agent.live_page.page_server import PageServer
from edge_agent.live_page.pulse import MonitorState
from edge_agent.output_places import OutputPlan
from edge_agent.page.home import PageHome

if TYPE_CHECKING:
    from sqlite3 import Connection

LABELS = ("cube", "hexagon", "rod", "sphere")
OUTCOMES = ("classified",) * 19 + ("not_an_image",)
FIRST = datetime(2026, 1, 5, 8, tzinfo=UTC)
SESSION_FILES = 400
ROUNDS = 10
JUMPS = 200


def finding(number: int, chance: random.Random) -> Finding:
    """Return what became of one file, as it is written for real."""
    day, place = divmod(number, SESSION_FILES)
    finished = FIRST + timedelta(days=day, seconds=60 * place + chance.randrange(50))
    path = Path(f"/data/scope/session_{day:03d}/micrograph_{number:06d}.dm3")
    stamp = FileStamp(8_388_608, int(finished.timestamp()) * 10**9, 1, number)
    outcome = chance.choice(OUTCOMES)
    answered = outcome == "classified"
    return Finding(
        path,
        outcome,
        reason=None if answered else "a spectrum, not a micrograph",
        label=chance.choice(LABELS) if answered else None,
        probability=min(1.0, chance.uniform(0.3, 1.7)) if answered else None,
        decision=("abstain" if chance.random() < 0.1 else "accept") if answered else None,
        reasons=(),
        sidecar=path.with_name(path.name + ".json"),
        stamp=stamp,
        sha256=f"{chance.getrandbits(256):064x}",
        model_sha256="ab" * 32,
        novelty=0.3,
        contrast=0.2,
        pixel_size_nm=0.1,
        finished=finished,
    )


def filled(folder: Path, files: int) -> Journal:
    """Return a journal with so many files, one in thirty of them labelled by somebody."""
    journal, chance = Journal(folder), random.Random(8)
    findings = [finding(number, chance) for number in range(files)]
    start = time.perf_counter()
    for one in findings:
        journal.record(one, durable=False)
    journal.flush()
    print(f"{files} findings recorded in {time.perf_counter() - start:.1f} s")

    def label(connection: Connection) -> None:
        connection.execute(
            "UPDATE entries SET given_action = 'correct', given_label = 'rod', given_by = 'me', given_at_us = 1 "
            "WHERE label IS NOT NULL AND id % 30 = 0"
        )

    journal.change(label)
    return journal


class Client:
    """One browser that asks one thing after another."""

    def __init__(self, port: int, cookie: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Cookie": f"scopewatch_{port}={cookie}"}

    def ask(self, path: str, **query: object) -> tuple[float, dict]:
        """Return how long an answer took, in milliseconds, and the answer."""
        start = time.perf_counter()
        self.connection.request("GET", f"{path}?{urlencode(query)}", headers=self._headers)
        answer = self.connection.getresponse()
        body = answer.read()
        took = 1000 * (time.perf_counter() - start)
        if answer.status != 200:
            raise SystemExit(f"{path} {query}: {answer.status} {body[:200]!r}")
        return took, json.loads(body) if body.startswith(b"{") else {}


def line(what: str, times: list[float]) -> None:
    """Print median, 95th percentile and maximum."""
    times = sorted(times)
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    print(f"{what:48} {times[len(times) // 2]:8.1f} {p95:8.1f} {times[-1]:8.1f} {len(times):6}")


def combinations(facets: dict) -> list[dict[str, object]]:
    """Return all filters that can be combined, with a value each that fits and one that hardly does."""
    middle = facets["days"][len(facets["days"]) // 2]["day"]
    parts = {
        "label": [None, "rod", "nothing"],
        "decision": [None, "abstain", "ungated"],
        "day": [None, middle, "1999-01-01"],
        "given": [None, "yes", "no", "disagrees"],
        "outcome": [None, "classified", "not_an_image"],
        "session": [None, facets["sessions"][len(facets["sessions"]) // 2]["id"]],
        "order": ["newest", "uncertain"],
    }
    made = (dict(zip(parts, values, strict=True)) for values in itertools.product(*parts.values()))
    return [{key: value for key, value in one.items() if value is not None} for one in made]


def measure(client: Client) -> None:
    """Ask everything, and print how long it took."""
    chance = random.Random(1)
    print(f"\n{'milliseconds over HTTP':48} {'median':>8} {'p95':>8} {'max':>8} {'asked':>6}")
    line("what one can filter by", [client.ask("/api/history/facets")[0] for _ in range(ROUNDS)])
    _, facets = client.ask("/api/history/facets")
    line("first page", [client.ask("/api/history")[0] for _ in range(JUMPS)])
    line("index of everything", [client.ask("/api/history/index")[0] for _ in range(ROUNDS)])
    _, index = client.ask("/api/history/index")
    anchors = [chance.choice(index["anchors"]) or "" for _ in range(JUMPS)]
    line("200 random jumps", [client.ask("/api/history", after=after)[0] for after in anchors])
    measure_sessions(client, [session["id"] for session in facets["sessions"]])
    slowest: list[tuple[float, dict[str, object]]] = []
    pages, indexes = [], []
    for query in combinations(facets):
        took, found = client.ask("/api/history/index", **query)
        indexes.append(took)
        for _ in range(3):
            after = chance.choice(found["anchors"]) or ""
            took, _ = client.ask("/api/history", after=after, **query)
            pages.append(took)
            slowest.append((took, query | ({"after": after} if after else {})))
    line("pages of all combinations of filters", pages)
    line("indexes of all combinations of filters", indexes)
    for took, query in sorted(slowest, key=lambda pair: -pair[0])[:5]:
        print(f"    slow: {took:.1f} ms {query}")


def measure_sessions(client: Client, sessions: list[int]) -> None:
    """Ask for numbers, page and table."""
    line("the latest session", [client.ask("/api/sessions/latest")[0] for _ in range(ROUNDS)])
    line("any session", [client.ask(f"/api/sessions/{number}")[0] for number in sessions])
    for what in ("summary.html", "entries.csv"):
        line(f"its {what}", [client.ask(f"/api/sessions/{number}/{what}")[0] for number in sessions[:ROUNDS]])


def main() -> None:
    """Fill, serve, ask."""
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder), files) as journal:
        home = PageHome(MonitorState())
        home.access.meet(Path(folder))
        home.meet(Archive(journal, OutputPlan(), (Path("/data/scope"),), Path(folder), "benchmark"))
        server = PageServer(Loopback(0), lambda: site_of(home))
        server.start()
        client = Client(int(server.word.rsplit(":", 1)[1].strip("/")), home.access.cookie)
        with closing(client.connection):
            measure(client)
            # Half an hour between any two files: nothing ends a session.
            journal.change(
                lambda connection: connection.execute("UPDATE entries SET finished_us = id * 1800000000")
            )
            print("all files in one session:")
            measure_sessions(client, [1_800_000_000])
        server.close()
        home.close()


if __name__ == "__main__":
    main()
