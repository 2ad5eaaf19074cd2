"""Rows 1 to 8 of the security catalogue once more, by chance: requests of every kind while files are classified.

Each request is made from a number: a route or nearly one, with the right, a wrong or no key, a method, parameters,
headers and a body that may all be odd. No answer is 5xx, nobody without the key reads anything; streams, bodies and
headers that are held or have no end cost the watching nothing.
`python tests/faults/page_fuzz.py [--only CASE] [--quick]`.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cases import REPOSITORY, Case, Figures, Scale, cases_main
from harness import Bar
from page_attack import health_seconds, latencies, monitored

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUESTS: Final = 100_000
CLIENTS: Final = 24
HELD: Final = 60
"""Streams, slow and endless requests at a time, of 64 connections that there may be."""
_AGAIN_SECONDS: Final = 0.05
SPARED: Final = ("/healthz", "/readyz", "/metrics")
"""What everybody on this PC may read; it holds no name."""
ODD: Final = (
    *(
        "",
        "0",
        "-1",
        "1",
        "2",
        "99999999999999999999",
        "1e9",
        "NaN",
        "null",
        "true",
        "newest",
        "uncertain",
        "yes",
    ),
    *(
        "..",
        "%2e%2e%2f",
        "%00",
        "%ff",
        "%c0%ae",
        "'",
        '"',
        "';--",
        "<img src=x onerror=alert(1)>",
        "[]",
        "{}",
        "²",
    ),
    *("2026-11-30", "2026-02-31", "9999-12-31", "round", "classified", "A" * 3000, "\U0001f52c", "\ud800"),
)
QUERIES: Final = (
    *("label", "decision", "day", "given", "outcome", "session", "order", "after", "limit", "v", "by", "x"),
)
KEYS: Final = (
    *("batch", "action", "label", "by", "ids", "filter", "count", "ticket", "token", "day", "order", "x"),
)  # fmt: skip
VALUES: Final = (
    *(
        None,
        True,
        0,
        -1,
        1,
        2**63,
        1e308,
        "",
        "confirm",
        "correct",
        "not_in_list",
        "round",
        "A" * 2000,
        "\ud800",
    ),
    *(
        [],
        [1],
        [1, "x"],
        [-1] * 300,
        {},
        {"label": "round"},
        {"session": []},
        "11111111-1111-4111-8111-111111111111",
    ),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `has_key` says whether it carries what the page asks for."""

    method: str
    target: str
    headers: tuple[str, ...]
    body: bytes
    has_key: bool

    def raw(self, port: int) -> bytes:
        head = (f"{self.method} {self.target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *self.headers)
        length = (f"Content-Length: {len(self.body)}",) if self.body or self.method == "POST" else ()
        text = "\r\n".join((*head, *length, "", ""))
        return text.encode("utf-8", "surrogatepass") + self.body


@dataclass(slots=True)
class Counts:
    """What came back."""

    done: int = 0
    answered: int = 0
    read: int = 0
    unauthenticated: int = 0
    server_errors: int = 0
    odd: list[str] = field(default_factory=list)


def routes() -> list[tuple[str, str]]:
    """Every method and path of the page."""
    from edge_agent.live_page.application import site_of
    from edge_agent.live_page.pulse import MonitorState
    from edge_agent.page.home import PageHome

    home = PageHome(MonitorState())
    found = [(m, route.path) for route in site_of(home).app._app.routes for m in sorted(route.methods)]
    home.close()
    return found


class Making:
    """Requests from numbers; equal numbers give equal requests."""

    def __init__(self, port: int, key: str, cookie: str, word: str) -> None:
        self._routes = routes()
        self._right = (f"Cookie: scopewatch_{port}={cookie}", f"X-Scopewatch-Token: {word}")
        self._wrong = (
            (),
            (f"Cookie: scopewatch_{port}={cookie[:-1]}", f"X-Scopewatch-Token: {word}"),
            (f"Cookie: scopewatch_1={cookie}",),
            (f"Cookie: scopewatch_{port}={word}",),
            (f"Cookie: scopewatch_{port}={key}",),
            ("Authorization: Bearer " + "0" * 64,),
            (f"Authorization: Basic {key}",),
            (f"X-Scopewatch-Token: {word}",),
        )

    def of(self, number: int) -> Request:
        chance = random.Random(number)
        method, path = chance.choice(self._routes)
        target = re.sub(r"{[^}]*}", lambda _: _quoted(chance.choice(ODD)), path)
        if chance.random() < 0.1:
            target = chance.choice(
                (
                    target + "/",
                    "/" + target,
                    target.upper(),
                    target + "/..",
                    target + "%00",
                    "/api/" + "x/" * 99,
                )
            )
        if chance.random() < 0.6:
            pairs = [
                f"{chance.choice(QUERIES)}={_quoted(chance.choice(ODD))}"
                for _ in range(chance.randrange(1, 5))
            ]
            target += "?" + chance.choice(("&", ";", "&&")).join(pairs)
        if chance.random() < 0.1:
            method = chance.choice(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"))
        has_key = chance.random() < 0.6
        headers = [*(self._right if has_key else chance.choice(self._wrong)), *_odd_headers(chance)]
        return Request(method, target, tuple(headers), _body(chance) if method == "POST" else b"", has_key)


def _quoted(text: str) -> str:
    return "".join(
        char if char.isascii() and char.isprintable() and char not in ' "<>#?\\^`{|}' else
        "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in text
    )  # fmt: skip


HEADERS: Final = (
    *("Last-Event-ID: x", "Last-Event-ID: \xff", "If-None-Match: *", "If-None-Match: " + "a" * 500),
    *(
        "Range: bytes=0-1",
        "Accept: \xff",
        "Accept-Encoding: gzip, br",
        "Expect: 100-continue",
        "Origin: null",
    ),
    *("Sec-Fetch-Site: cross-site", "X-Forwarded-For: 1.2.3.4", "Upgrade: h2c", "Connection: close"),
    *("Cookie: a=b; =; ;;", "Content-Length: 3"),
)


def _odd_headers(chance: random.Random) -> Iterator[str]:
    if chance.random() < 0.2:
        yield chance.choice(HEADERS)
    yield chance.choice(("Content-Type: application/json",) * 9 + ("Content-Type: text/plain",))


def _body(chance: random.Random) -> bytes:
    if chance.random() < 0.15:
        return chance.choice(
            (b"", b"{", b"null", b"[]", b'"x"', b"[" * 50_000, b"\xff\xfe", b"1e999", b'{"a":' * 900)
        )
    values = {chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(0, 8))}
    return json.dumps(values).encode()


# --- the clients, in a process of their own ----------------------------------------------------------------------


async def fuzz(port: int, folder: str, key: str, total: int) -> None:
    """Send so many requests, and print what came back."""
    cookie, word = await _signed_in(port, key)
    making, counts = Making(port, key, cookie, word), Counts()
    numbers = iter(range(total))

    async def client() -> None:
        for number in numbers:
            request = making.of(number)
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                _judge(request, *await asyncio.wait_for(_answer(request.raw(port), port), 30), counts)
            counts.done += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    print(json.dumps({name: getattr(counts, name) for name in counts.__slots__}), flush=True)


async def _signed_in(port: int, key: str) -> tuple[str, str]:
    body = json.dumps({"token": key}).encode()
    head = ("Content-Type: application/json",)
    _, headers, _ = await _answer(Request("POST", "/api/session", head, body, True).raw(port), port)
    cookie = re.search(rb"scopewatch_\d+=([0-9a-f]+)", headers)
    assert cookie is not None, headers
    head = (f"Cookie: scopewatch_{port}={cookie[1].decode()}",)
    _, _, body = await _answer(Request("GET", "/api/state", head, b"", True).raw(port), port)
    return cookie[1].decode(), json.loads(body)["csrf"]


async def _answer(raw: bytes, port: int) -> tuple[int, bytes, bytes]:
    """Return status, head and the beginning of the body; a stream is left at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 1"):
            head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?im)^content-length: (\d+)", head)
        body = b""
        if length is not None and not raw.startswith(b"HEAD"):
            body = await reader.readexactly(min(int(length[1]), 1_000_000))
        return int(head.split(b" ", 2)[1]), head, body


def _judge(request: Request, status: int, head: bytes, body: bytes, counts: Counts) -> None:
    counts.answered += 1
    path = request.target.partition("?")[0]
    is_fault = status >= 500 and path not in SPARED
    if is_fault:
        counts.server_errors += 1
    is_read = status < 300 and path.startswith("/api/") and path != "/api/session"
    counts.read += is_read and request.has_key
    if is_read and not request.has_key:
        counts.unauthenticated += 1
    if (is_fault or (is_read and not request.has_key)) and len(counts.odd) < 20:
        counts.odd.append(
            f"{status} {request.method} {request.target[:200]} {request.body[:100]!r} {body[:200]!r}"
        )


async def hold(port: int, folder: str, key: str, total: int) -> None:
    """Be slow or too large for a time, in every way at once, as often as one gets in.

    Streams that nobody reads, bodies that drip, bodies without an end, headers without an end.
    """
    cookie, word = await _signed_in(port, key)
    until = time.monotonic() + total
    head = f"Host: 127.0.0.1:{port}\r\nCookie: scopewatch_{port}={cookie}\r\nX-Scopewatch-Token: {word}\r\n"
    body = f"{head}Content-Type: application/json\r\nContent-Length:"
    kinds = (
        (f"GET /api/events HTTP/1.1\r\n{head}\r\n", b"", 0.5),
        (f"POST /api/session HTTP/1.1\r\n{body} 200000\r\n\r\n", b" ", 0.5),
        (f"POST /api/labels HTTP/1.1\r\n{body} {10**9}\r\n\r\n", b" " * 65_536, 0.01),
        (f"GET /api/state HTTP/1.1\r\n{head}X: ", b"x" * 65_536, 0.01),
    )
    counts = Counts()

    async def one(number: int) -> None:
        while time.monotonic() < until:
            counts.done += 1
            with suppress(OSError, TimeoutError, asyncio.LimitOverrunError):
                await _held(port, *kinds[number % len(kinds)], until, counts)
            await asyncio.sleep(_AGAIN_SECONDS)

    await asyncio.gather(*(one(number) for number in range(HELD)))
    print(json.dumps({name: getattr(counts, name) for name in counts.__slots__}), flush=True)


async def _held(
    port: int, start: str, piece: bytes, pause_seconds: float, until: float, counts: Counts
) -> None:
    """Send the start, then piece after piece until hung up on, or until that moment; judge what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(start.encode())
        with suppress(OSError):
            while time.monotonic() < until and not reader.at_eof():
                await asyncio.sleep(pause_seconds)
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), 5)
        answer = await asyncio.wait_for(reader.read(100), 1)
        counts.answered += bool(answer)
        is_full = b" 503 " in answer[:20]
        counts.server_errors += answer.startswith(b"HTTP/1.1 5") and not is_full


# --- what is measured --------------------------------------------------------------------------------------------


@contextmanager
def clients(kind: str, port: int, state: Path, total: int) -> Iterator[subprocess.Popen[str]]:
    """One kind of clients in a process of its own, until the block ends or it has done its work."""
    key = (state / "page.token").read_text().strip()
    command = [sys.executable, __file__, "clients", kind, str(port), str(state), key, str(total)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as process:
        try:
            yield process
        finally:
            process.kill()


def under(kind: str, total: int, quick: int) -> Any:
    """Return the measurement of one kind of clients."""

    def run(scale: Scale, folder: Path) -> Figures:
        files = scale.pick(60, 2)
        with ExitStack() as stack:
            agent, port, scope = stack.enter_context(monitored(folder))
            latencies(scope, [f"warm {n}.dm3" for n in range(2)], 10_000)
            before = latencies(scope, [f"before {n}.dm3" for n in range(files)], 0)
            quiet_rss = agent.memory_info().rss
            attacker = stack.enter_context(clients(kind, port, folder / "state", scale.pick(total, quick)))
            time.sleep(1.0)
            during = latencies(scope, [f"during {n}.dm3" for n in range(files)], files)
            answered = health_seconds(port, scale.pick(20, 3))
            text, _ = attacker.communicate(timeout=1800)
            counts = json.loads(text)
            for line in counts["odd"]:
                print("odd:", line)
            rss = agent.memory_info().rss
            descriptors = agent.num_fds()
            assert health_seconds(port, 1)[0] < 5
            lost = _not_classified(scope)
        return {
            f"{kind}_requests": counts["done"],
            f"{kind}_answered": counts["answered"],
            f"{kind}_read_with_the_key": counts["read"],
            f"{kind}_unauthenticated_reads": counts["unauthenticated"],
            f"{kind}_server_errors": counts["server_errors"],
            f"{kind}_median_before_ms": 1000 * statistics.median(before),
            f"{kind}_median_during_ms": 1000 * statistics.median(during),
            f"{kind}_slowest_during_seconds": max(during),
            f"{kind}_health_slowest_seconds": max(answered),
            f"{kind}_memory_mib": (rss - quiet_rss) / 2**20,
            f"{kind}_rss_mib": rss / 2**20,
            f"{kind}_descriptors": descriptors,
            f"{kind}_lost": lost,
        }

    return run


def _not_classified(scope: Path, seconds: float = 30.0) -> int:
    """How many files have no answer; a writer that was held up may have been seen half-way, and comes again."""
    deadline = time.monotonic() + seconds
    while True:
        records = (Path(f"{path}.json") for path in scope.glob("*.dm3"))
        lost = sum(not record.is_file() or b'"classified"' not in record.read_bytes() for record in records)
        if not lost or time.monotonic() > deadline:
            return lost
        time.sleep(0.1)


def _bars(kind: str) -> tuple[Bar, ...]:
    return (
        Bar(f"{kind}_lost"),
        Bar(f"{kind}_server_errors"),
        Bar(f"{kind}_unauthenticated_reads"),
        Bar(f"{kind}_descriptors", 200),
        Bar(f"{kind}_rss_mib", 100),
        Bar(f"{kind}_slowest_during_seconds", 5),
    )


CASES: Final = (
    Case("fuzz", under("fuzz", REQUESTS, REQUESTS // 1000), _bars("fuzz")),
    Case("hold", under("hold", 60, 3), _bars("hold"), quick=False),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["clients"]:
        sys.path.insert(0, str(REPOSITORY))
        what, *rest = sys.argv[2:]
        asyncio.run({"fuzz": fuzz, "hold": hold}[what](int(rest[0]), rest[1], rest[2], int(rest[3])))
        sys.exit(0)
    sys.exit(cases_main("requests by chance", CASES))
