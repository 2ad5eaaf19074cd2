"""What the page's pictures cost, and how soon they are there: `python tests/benchmarks/picture_cost.py`.

The real agent with the shipped model; 2048 x 2048 px simulated micrographs unless said otherwise. Prints a table
and asserts nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

for folder in ("browser", "edge_agent", "faults", "."):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / folder))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from page_rig import LivePage  # noqa: E402

from edge_agent.grey_scale import field_statistics  # noqa: E402
from edge_agent.page.picture_budget import PictureBudget  # noqa: E402
from edge_agent.preview_files import Previews, keep_previews  # noqa: E402
from edge_agent.previews import draw_previews  # noqa: E402
from edge_agent.simulation import draw_field  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 15
FILES = 12
THUMBS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", action="store_true", help="only what needs the running agent")
    only_live = parser.parse_args().live
    if not only_live:
        drawing()
    with tempfile.TemporaryDirectory() as folder:
        live(Path(folder))
    if only_live:
        return
    with tempfile.TemporaryDirectory() as folder:
        counting(Path(folder))


def line(what: str, milliseconds: list[float]) -> None:
    ordered = sorted(milliseconds)
    middle, late = statistics.median(ordered), ordered[max(0, int(0.95 * len(ordered)) - 1)]
    print(f"{what:56} {middle:8.1f} {late:8.1f} {ordered[-1]:8.1f} ms", flush=True)


def timed(work: Callable[[], Any], runs: int = RUNS) -> list[float]:
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return times


def drawing() -> None:
    """In the worker, after the sidecar: what each file pays."""
    print(f"{'':56} {'median':>8} {'p95':>8} {'most':>8}")
    for side in (1024, 2048, 4096):
        pixels = draw_field("round", np.random.default_rng(1), side).pixels
        contrast = field_statistics(pixels, 0.0002).contrast
        line(
            f"draw both of {side} x {side} {pixels.dtype}",
            timed(lambda p=pixels, c=contrast: draw_previews(p, c)),
        )
    drawn = draw_previews(pixels, contrast)
    with tempfile.TemporaryDirectory() as folder:
        names = iter(f"{number:064x}" for number in range(RUNS + 1))
        line("keep both", timed(lambda: keep_previews(Path(folder), next(names), drawn, 1)))


class Reader:
    """A page that listens to the stream and fetches the picture of each entry, over connections of its own."""

    def __init__(self, page: LivePage) -> None:
        self.address, self.key = urlsplit(page.address), page.token
        self.fetched: list[float] = []
        self.ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        self.ready.wait(20)

    def get(self, client: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        client.request("GET", path, headers={"Authorization": f"Bearer {self.key}"})
        return client.getresponse()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=60)

    def _listen(self) -> None:
        stream, pictures = self.get(self.connection(), "/api/events"), self.connection()
        kind = ""
        self.ready.set()
        for raw in stream:
            text = raw.decode().strip()
            if text.startswith("event:"):
                kind = text[6:].strip()
            elif text.startswith("data:") and kind == "entry":
                row = json.loads(text[5:])["row"]
                started = time.perf_counter()
                answer = self.get(pictures, f"/api/entries/{row['id']}/picture.jpg")
                body = answer.read()
                if answer.status == 200 and body:
                    self.fetched.append(1000 * (time.perf_counter() - started))


def live(place: Path) -> None:
    with LivePage(place) as page:
        reader = Reader(page)
        agent = page.agent.pid
        page.save(FILES, size_px=2048, rate_hz=1.0)
        until = time.monotonic() + 10
        while len(reader.fetched) < FILES and time.monotonic() < until:
            time.sleep(0.05)
        line(f"entry event to picture, {len(reader.fetched)} of {FILES} files", reader.fetched or [0.0])
        client = reader.connection()
        rows = json.loads(reader.get(client, "/api/history?limit=12").read())["rows"]
        line(
            "picture over HTTP",
            asked(reader, client, [f"/api/entries/{row['id']}/picture.jpg" for row in rows]),
        )
        line(
            "thumbnail over HTTP",
            asked(reader, client, [f"/api/entries/{row['id']}/thumb.jpg" for row in rows]),
        )
        line("detail over HTTP, first", asked(reader, client, [f"/api/entries/{row['id']}" for row in rows]))
        line("detail over HTTP, again", asked(reader, client, [f"/api/entries/{row['id']}" for row in rows]))
        for path in page.agent.state.rglob("*.jpg"):
            path.unlink()
        paths = [f"/api/entries/{row['id']}/thumb.jpg" for row in rows]
        line("drawn on demand, the first (its process starts)", asked(reader, client, paths[:1]))
        line("drawn on demand, the next", asked(reader, client, paths[1:]))
        print(f"{'agent process, resident':56} {psutil.Process(agent).memory_info().rss / 2**20:8.1f} MiB")
        makers = [
            child
            for child in psutil.Process(agent).children()
            if "picture_maker" in " ".join(child.cmdline())
        ]
        for maker in makers:
            print(f"{'picture maker, resident':56} {maker.memory_info().rss / 2**20:8.1f} MiB")


def asked(reader: Reader, client: http.client.HTTPConnection, paths: list[str]) -> list[float]:
    times = []
    for path in paths:
        started = time.perf_counter()
        answer = reader.get(client, path)
        body = answer.read()
        times.append(1000 * (time.perf_counter() - started))
        if answer.status != 200:
            print(f"{path}: {answer.status} {body[:200]!r}")
    return times


def counting(place: Path) -> None:
    """The count that comes a minute after a start, with the pauses in it."""
    drawn = Previews(b"\xff\xd8\xff\xff\xd9", b"\xff\xd8\xff" + bytes(4000) + b"\xff\xd9")
    for number in range(THUMBS):
        keep_previews(place, f"{number * 2654435761 % 2**32:08x}{number:056x}", drawn)
    budget = PictureBudget(place, 2**20)
    before = os.times()
    started = time.perf_counter()
    budget.keep_within()
    used = sum(os.times()[:2]) - sum(before[:2])
    print(
        f"{f'count {THUMBS} pictures and thumbnails':56} {1000 * (time.perf_counter() - started):8.0f} ms, "
        f"of the processor {1000 * used:.0f} ms"
    )


if __name__ == "__main__":
    main()
