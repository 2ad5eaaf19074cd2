"""The page itself: its shell and static files, signing in, and the state it starts from."""

from __future__ import annotations

import getpass
import hashlib
import mimetypes
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from edge_agent import __version__
from edge_agent.page.access import COOKIE_SECONDS, SIGN_IN, cookie_name
from edge_agent.page.json_body import answer_of, json_body, text_in
from edge_agent.page.news import model_told
from edge_agent.page.no_archive import NoArchive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

    from starlette.requests import Request

    from edge_agent.page.home import PageHome

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may do: nothing inline, nothing from elsewhere, no HTML made from text."""
RECENT: Final = 24
_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
"""Not the system's table alone: on Windows the registry may say that scripts are plain text."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of the page, in memory."""

    data: bytes
    kind: str
    etag: str


def routes(home: PageHome) -> list[Route]:
    """Return the routes of the page itself."""
    kept = _static_files()
    front = kept.get("index.html") or _Kept(
        b"<!doctype html><title>scopewatch</title>\n", _TYPES["html"], '"0"'
    )

    async def shell(request: Request) -> Response:
        return _answer(front, request)

    async def static(request: Request) -> Response:
        found = kept.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "there is no such file")
        return _answer(found, request)

    async def icon(request: Request) -> Response:
        found = kept.get("icon.svg")
        return Response(status_code=204) if found is None else _answer(found, request)

    async def sign_in(request: Request) -> Response:
        token = text_in(await json_body(request), "token")
        await home.in_pool(home.access.look, changing=True)
        if home.access.why_none is not None:
            raise HTTPException(503, home.access.why_none)
        if not home.access.is_key(token):
            await home.access.wait_after_wrong_key()
            raise HTTPException(
                401, "this is not the key of the page; `edge-agent page` opens it with the right one"
            )
        return _signed_in(home, request)

    async def state(request: Request) -> Response:
        by = request.query_params.get("by")
        if not home.hub.is_alive():
            # What it would say is old, and whoever asks must not take it for news.
            raise HTTPException(503, "the agent's main loop has stopped")
        return answer_of(await home.in_pool(lambda: state_of(home, by or _person())))

    return [
        Route("/", shell),
        Route("/favicon.ico", icon),
        Route("/static/{name:path}", static),
        Route(SIGN_IN, sign_in, methods=["POST"]),
        Route("/api/state", state),
    ]


def state_of(home: PageHome, by: str) -> dict[str, Any]:
    """Return what the page starts from; the number of the last event first, so that none is missed.

    What may be undone is that of the person `by`.
    """
    event = home.hub.number
    status = home.monitor.pulse().status
    found: dict[str, Any] = {
        "epoch": home.hub.epoch,
        "event": event,
        "csrf": home.access.change_word,
        "version": __version__,
        "now": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": home.news.status(),
        "model": model_told(status),
        "folders": [] if status is None else [folder.path for folder in status.folders],
        "person": _person(),
    }
    try:
        found |= home.kept_state(RECENT, by)
    except NoArchive:
        found |= {"last": None, "recent": [], "undo": None, "redo": None, "waiting_labels": None}
    return found


def _signed_in(home: PageHome, request: Request) -> Response:
    answer = Response(status_code=204)
    answer.set_cookie(
        cookie_name(request.scope),
        home.access.cookie,
        max_age=COOKIE_SECONDS,
        path="/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _answer(kept: _Kept, request: Request) -> Response:
    headers = {"etag": kept.etag, "cache-control": "no-cache", "content-security-policy": PAGE_POLICY}
    if kept.etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(kept.data, headers=headers | {"content-type": kept.kind})


def _static_files() -> dict[str, _Kept]:
    folder = files("edge_agent.page") / "static"
    return dict(_below(folder, "")) if folder.is_dir() else {}


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, _Kept]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _below(item, f"{path}{item.name}/")
        else:
            yield f"{path}{item.name}", _kept(item)


def _kept(file: Traversable) -> _Kept:
    data = file.read_bytes()
    kind = _TYPES.get(file.name.rpartition(".")[2]) or mimetypes.guess_type(file.name)[0]
    return _Kept(data, kind or "application/octet-stream", f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name
        return ""
