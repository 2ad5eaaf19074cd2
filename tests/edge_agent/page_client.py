"""A page with a real archive behind it, on real sockets, and whoever asks it: signed in or not."""

from __future__ import annotations

import http.client
import json
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_numbers import numbers

from edge_agent.archive import Archive
from edge_agent.journal import Journal
from edge_agent.live_page.application import site_of
from edge_agent.live_page.doorway import Loopback
from edge_agent.live_page.page_server import PageServer
from edge_agent.live_page.pulse import MonitorState
from edge_agent.page.access import CHANGE_HEADER
from edge_agent.page.home import PageHome
from edge_agent.sidecar import OutputPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_SECONDS = 20


@dataclass
class Page:
    """A page that answers, and what belongs to it."""

    home: PageHome
    server: PageServer
    archive: Archive
    port: int
    ever: dict[str, str] = field(default_factory=dict)
    """Headers that every request of this client carries."""

    @property
    def key(self) -> str:
        return (self.archive.state / "page.token").read_text().strip()

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body. An `_` in a header's name stands for `-`; None leaves one out."""
        given = self.ever | {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None and "content-type" not in given:
            given["content-type"] = "application/json"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)) as client:
            client.request(
                method, path, data, {name: value for name, value in given.items() if value is not None}
            )
            answer = client.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def get(self, path: str, **headers: str) -> Any:
        """Return the JSON of an answer that has to be 200."""
        status, _, body = self.ask("GET", path, **headers)
        assert status == 200, (status, body)
        return json.loads(body)

    def sign_in(self) -> Page:
        """Return the same page, asked by somebody who is signed in."""
        status, headers, _ = self.ask("POST", "/api/session", {"token": self.key})
        assert status == 204
        cookie = headers["set-cookie"].partition(";")[0]
        inside = Page(self.home, self.server, self.archive, self.port, {"cookie": cookie})
        inside.ever |= {CHANGE_HEADER: inside.get("/api/state")["csrf"]}
        return inside

    @contextmanager
    def stream(self, path: str = "/api/events", **headers: str) -> Iterator[Stream]:
        """Give the live stream."""
        given = self.ever | {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)) as client:
            client.request("GET", path, headers=given)
            answer = client.getresponse()
            assert answer.status == 200, answer.read()
            with answer:
                yield Stream(answer)


@dataclass
class Stream:
    """Server-sent events, one after the other."""

    answer: http.client.HTTPResponse

    def event(self) -> tuple[str, str, Any]:
        """Return id, kind and data of the next one. Raises EOFError where the stream has ended."""
        found: dict[str, str] = {}
        while True:
            raw = self.answer.readline()
            if not raw:
                raise EOFError
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                found[name] = value
            elif "event" in found:
                return found["id"], found["event"], json.loads(found["data"])

    def kinds(self, number: int) -> list[str]:
        """Return the kinds of so many events, heartbeats left out."""
        kinds: list[str] = []
        while len(kinds) < number:
            _, kind, _ = self.event()
            kinds += [kind] if kind != "heartbeat" else []
        return kinds


@contextmanager
def page_on(folder: Path, *, speaks_for_ever: bool = True, port: int = 0) -> Iterator[Page]:
    """A page over a journal in `folder / "state"`, of an agent that watches `folder / "scope"`."""
    (folder / "scope").mkdir(exist_ok=True)
    state = MonitorState()
    home = PageHome(state)
    if speaks_for_ever:
        state._clock = lambda: state._heard
    with Journal(folder / "state") as journal:
        scope = folder / "scope"
        archive = Archive(journal, OutputPlan(None, (scope,)), (scope,), folder / "state", "abcd1234")
        server = PageServer(Loopback(port), lambda: site_of(home))
        server.start()
        try:
            state.note_status(numbers())
            home.note_status(numbers())
            home.meet(archive)
            home.access.meet(archive.state)  # at once: a test does not wait for the pool
            yield Page(home, server, archive, int(server.word.rsplit(":", 1)[1].strip("/")))
        finally:
            home.meet(None)
            server.close()
            home.close()
            assert not server._thread.is_alive()
