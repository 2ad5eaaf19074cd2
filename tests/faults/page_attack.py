"""Rows 7 and 8 of the security catalogue: clients that hold, drip, flood and babble, while files are classified.

Each case saves files while one kind of client is at work and while none is, and compares how long a file takes
from quiet to sidecar. The attackers are processes of this PC and take its processors as well: what they cost
beside the page is in the figures, too. `python tests/faults/page_attack.py [--only CASE] [--quick]`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from cases import Case, Figures, Scale, cases_main
from harness import REPOSITORY, Bar, small_dm3, tiny_model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
KINDS: Final = ("hold", "drip", "flood", "babble")


# --- attackers, each a process -----------------------------------------------------------------------------------


async def attack(kind: str, port: int, clients: int, total: int) -> None:
    """Do one unpleasant thing with so many clients at a time, `total` times altogether, then say how it went."""
    counts = {"done": 0, "refused": 0, "server_errors": 0}
    gate = asyncio.Semaphore(clients)

    async def one(number: int) -> None:
        async with gate:
            try:
                status = await asyncio.wait_for(ATTACKS[kind](port, number), 30)
                counts["server_errors"] += status.startswith(b"HTTP/1.1 5")
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                counts["refused"] += 1
            counts["done"] += 1

    await asyncio.gather(*(one(number) for number in range(total)))
    print(json.dumps(counts), flush=True)


async def _hold(port: int, number: int) -> bytes:
    """Connect and say nothing until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        return await reader.read(100)


async def _drip(port: int, number: int) -> bytes:
    """Send a request a byte at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        for byte in f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX: {'x' * 4000}".encode():
            writer.write(bytes([byte]))
            await writer.drain()
            with suppress(TimeoutError):
                return await asyncio.wait_for(reader.read(100), 0.1)
        return b""


async def _flood(port: int, number: int) -> bytes:
    """Ask for the metrics, as often as there is an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        last = b""
        for _ in range(50):
            writer.write(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-le")
            )
            await reader.readexactly(length)
            last = head
        return last


async def _babble(port: int, number: int) -> bytes:
    """Send something that is almost a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(almost_a_request(number, port))
        with suppress(OSError):
            writer.write_eof()
        return await reader.read(100)


ATTACKS: Final = {"hold": _hold, "drip": _drip, "flood": _flood, "babble": _babble}
PIECES: Final = (
    *(b"GET", b"HEAD", b"POST", b"get", b"\x00", b"OPTIONS", b"PRI"),
    *(b" ", b"\t", b"\r\n", b"\n", b"\r", b":", b"/", b"/metrics", b"/healthz", b"//", b"/%00", b"/..%2f.."),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"Host: ", b"127.0.0.1:PORT", b"evil.example", b"[::1]:PORT"),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"http://e/"),
    *(b"Expect: 100-continue\r\n", b"\xff" * 20, b"a" * 9000),
    *(b"Accept: \xff\xfe\r\n", b"Accept: application/openmetrics-text; version=9.x\r\n", b"?name[]=a&name[]=\xff"),
    *(b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Origin: null\r\n", b"0\r\n\r\n"),
)  # fmt: skip


def almost_a_request(seed: int, port: int) -> bytes:
    """A request with something wrong in it; equal seeds give equal bytes."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        bytes_ = b"".join(chance.choices(PIECES, k=chance.randrange(1, 12)))
    else:
        bytes_ = bytearray(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nAccept: text/plain\r\n\r\n")
        for _ in range(chance.randrange(1, 4)):
            bytes_[chance.randrange(len(bytes_))] = chance.randrange(256)
    return bytes(bytes_).replace(b"PORT", str(port).encode())


# --- what is measured --------------------------------------------------------------------------------------------


@contextmanager
def monitored(folder: Path) -> Iterator[tuple[psutil.Popen, int, Path]]:
    """An agent with its page; gives its process, port, and watched folder."""
    scope = folder / "scope"
    scope.mkdir()
    command = [sys.executable, str(HERE / "monitored_agent.py"), str(scope), str(folder / "state")]
    with (folder / "said").open("wb") as said:
        agent = psutil.Popen(
            [*command, str(tiny_model_folder()), "0", "0"],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)},
        )
    try:
        _until(lambda: b"http://" in (folder / "said").read_bytes(), "the page's address")
        port = int((folder / "said").read_text().splitlines()[0].rsplit(":", 1)[1].strip("/"))
        yield agent, port, scope
    finally:
        agent.terminate()
        agent.wait(20)


@contextmanager
def attackers(kind: str, port: int, clients: int, total: int) -> Iterator[subprocess.Popen[str]]:
    """One kind of client in a process of its own, until the block ends or it has done its work."""
    command = [sys.executable, __file__, "attack", kind, str(port), str(clients), str(total)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE) as process:
        try:
            yield process
        finally:
            process.kill()


def latencies(scope: Path, names: list[str], seed: int) -> list[float]:
    """Save files one after the other; return seconds from quiet to sidecar for each."""
    found = []
    for number, name in enumerate(names):
        path = scope / name
        path.write_bytes(small_dm3(seed + number))
        sidecar = path.with_name(name + ".json")
        _until(sidecar.exists, name)
        agent = json.loads(sidecar.read_text())["agent"]
        found.append(_moment(agent["finished"]) - _moment(agent["settled"]))
    return found


def under(kind: str, clients: int, total: int) -> object:
    """Return the measurement of one kind of attack."""

    def run(scale: Scale, folder: Path) -> Figures:
        files = scale.pick(60, 2)
        with ExitStack() as stack:
            agent, port, scope = stack.enter_context(monitored(folder))
            latencies(scope, [f"warm {n}.dm3" for n in range(2)], 10_000)
            before = latencies(scope, [f"before {n}.dm3" for n in range(files)], 0)
            quiet_rss = agent.memory_info().rss
            attacker = stack.enter_context(attackers(kind, port, clients, scale.pick(total, total // 50)))
            time.sleep(1.0)
            during = latencies(scope, [f"during {n}.dm3" for n in range(files)], files)
            descriptors = agent.num_fds()
            answered = health_seconds(port, scale.pick(20, 3))
            counts = _counts(attacker)
            after_rss = agent.memory_info().rss
            assert health_seconds(port, 1)[0] < 5
            text = (folder / "said").read_text()
        share = statistics.median(during) / statistics.median(before)
        return {
            f"{kind}_clients": clients,
            f"{kind}_median_before_ms": 1000 * statistics.median(before),
            f"{kind}_median_during_ms": 1000 * statistics.median(during),
            f"{kind}_median_share_percent": 100 * share,
            f"{kind}_slowest_during_seconds": max(during),
            f"{kind}_descriptors": descriptors,
            f"{kind}_memory_mib": (after_rss - quiet_rss) / 2**20,
            f"{kind}_health_slowest_seconds": max(answered),
            f"{kind}_requests": counts["done"],
            f"{kind}_server_errors": counts["server_errors"],
            f"{kind}_lost": 2 * files + 2 - text.count("classified "),
            f"{kind}_lines_on_the_terminal": len(text.splitlines()) - 1 - text.count("classified "),
        }

    return run


def health_seconds(port: int, times: int) -> list[float]:
    """How long the page takes to say that the agent is alive, tried again while it has no room."""
    found = []
    for _ in range(times):
        started = time.monotonic()
        while True:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
                    client.request("GET", "/healthz")
                    if client.getresponse().status == 200:
                        break
            except (OSError, http.client.HTTPException):
                if time.monotonic() - started > 60:
                    raise
        found.append(time.monotonic() - started)
    return found


def _counts(attacker: subprocess.Popen[str]) -> dict[str, int]:
    """What the attackers say at their end; those that never end are ended."""
    try:
        text, _ = attacker.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        attacker.kill()
        text, _ = attacker.communicate()
    found: dict[str, int] = json.loads(text or '{"done": 0, "refused": 0, "server_errors": 0}')
    return found


def _moment(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _until(condition: object, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


def _bars(kind: str) -> tuple[Bar, ...]:
    return (
        Bar(f"{kind}_lost"),
        Bar(f"{kind}_server_errors"),
        Bar(f"{kind}_lines_on_the_terminal"),
        Bar(f"{kind}_descriptors", 200),
        Bar(f"{kind}_memory_mib", 20),
        Bar(f"{kind}_slowest_during_seconds", 5),
    )


CASES: Final = (
    Case("hold", under("hold", 2000, 10_000), _bars("hold"), quick=False),
    Case("drip", under("drip", 500, 1500), _bars("drip"), quick=False),
    Case("flood", under("flood", 16, 300), _bars("flood"), quick=False),
    Case("babble", under("babble", 50, 100_000), _bars("babble"), quick=False),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["attack"]:
        kind, *numbers = sys.argv[2:]
        asyncio.run(attack(kind, *map(int, numbers)))
        sys.exit(0)
    sys.exit(cases_main("clients that disturb the page", CASES))
