"""An archive with real micrographs in it, and its routes without a socket, for tests of the page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from edge_agent.archive import Archive
from edge_agent.examine import Request, examine
from edge_agent.journal import Journal, JournalBusy
from edge_agent.live_page.pulse import MonitorState
from edge_agent.output_places import OutputPlan
from edge_agent.page.home import PageHome
from edge_agent.page.json_body import refused
from edge_agent.page.no_archive import NoArchive
from edge_agent.preview_files import PICTURES_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from starlette.routing import Route

    from edge_agent.classifier import Classifier
    from edge_agent.finding import Finding


class Laboratory:
    """A watched folder, a state folder, and the page's home over what was found in it."""

    def __init__(self, folder: Path, **archive: Any) -> None:
        self.watched, self.state = folder / "watched", folder / "state"
        self.watched.mkdir(parents=True)
        self.journal = Journal(self.state)
        self.plan = OutputPlan(None, (self.watched,))
        given = {"pictures_mib": 512} | archive
        self.archive = Archive(self.journal, self.plan, (self.watched,), self.state, "0" * 8, **given)
        self.home = PageHome(MonitorState())
        self.home.meet(self.archive)
        self.cache = self.state / PICTURES_FOLDER

    def save(self, name: str, data: bytes, classifier: Classifier, *, previews: bool = True) -> Finding:
        """Save a file as a microscope does, and have it examined and noted."""
        path = self.watched / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        request = Request(self.plan, heatmap=False, previews=self.cache if previews else None)
        finding = examine(path, classifier, request)
        self.journal.record(finding)
        return finding

    def number_of(self, path: Path) -> int:
        """The id of a file's entry."""
        (row,) = self.home.history.rows_of([path])
        return row.id

    def close(self) -> None:
        """End it as an agent does."""
        self.home.meet(None)
        self.home.close()
        self.journal.close()


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    routes: Callable[[PageHome], Sequence[Route]],
    home: PageHome,
    *paths: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> list[Answer]:
    """Answers of these routes to requests that come at the same time; what the gate does is tested elsewhere."""
    given = headers or {}

    async def everything() -> list[Answer]:
        app = application(routes, home)
        return await asyncio.gather(*(one(app, path, method, given, body) for path in paths))

    return asyncio.run(everything())


def application(routes: Callable[[PageHome], Sequence[Route]], home: PageHome) -> Starlette:
    """These routes as they stand behind the gate."""
    return Starlette(
        routes=list(routes(home)),
        exception_handlers={HTTPException: refused, NoArchive: refused, JournalBusy: refused},
    )


async def one(
    app: Starlette,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """One request's answer."""
    told: list[dict[str, Any]] = []
    where, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), text.encode()) for name, text in (headers or {}).items()],
        "server": ("127.0.0.1", 8747),
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    start = next(message for message in told if message["type"] == "http.response.start")
    found = b"".join(message.get("body", b"") for message in told)
    return Answer(start["status"], {name.decode(): text.decode() for name, text in start["headers"]}, found)
