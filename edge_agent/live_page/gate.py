"""The gate before every route: only programs that mean this very server get an answer.

A name that resolves to this PC is not enough (DNS rebinding), so the Host header must be one of ours, with the
port; a page of another origin may neither read nor change; what changes something is a POST of JSON, small and of
known length, to a path that takes one. Only this module knows the headers that every answer carries.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

HEADERS: Final[dict[bytes, bytes]] = {
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
"""What every answer carries; a route may set its own value of one."""
API: Final = "/api/"
"""What stands below it answers JSON, errors too."""
MOST_BODY_BYTES: Final = 256 * 1024
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_READING: Final = ("GET", "HEAD")
_USUAL_PORTS: Final = {"http": 80, "https": 443}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """Where requests come in: the values of a Host header that mean this server, and the scheme of its pages."""

    hosts: frozenset[str]
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class Site:
    """What stands behind the gate; `posts` are the paths that take a POST, all others are read only."""

    app: ASGIApp
    posts: frozenset[str] = frozenset()


def door_of(port: int, names: Iterable[str] = _NAMES, scheme: str = "http") -> Door:
    """Return the door of a server on `port` that is reached under `names`, by default those of this very PC."""
    small = tuple(name.lower() for name in names)
    plain = small if port == _USUAL_PORTS[scheme] else ()
    return Door(frozenset((*(f"{name}:{port}" for name in small), *plain)), scheme)


def refusal(
    method: str, headers: Iterable[tuple[bytes, bytes]], door: Door, *, takes_post: bool = False
) -> tuple[int, str] | None:
    """Return status and reason why a request gets no answer, or None. Names of headers are lower case."""
    given: dict[bytes, list[str]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value.decode("latin-1").strip().lower())
    host = given.get(b"host", [])
    if len(host) != 1 or host[0] not in door.hosts:
        return (
            403,
            "this server answers under its own address only: 127.0.0.1, localhost or [::1], with its port, "
            "and what page.names says",
        )
    if _is_from_elsewhere(given, door, may_be_followed=method in _READING):
        return 403, "this server answers no page of another origin"
    if method == "POST" and takes_post:
        return _why_no_body(given)
    if method not in _READING:
        return 405, "there is nothing here but to read: GET and HEAD"
    if b"transfer-encoding" in given or given.get(b"content-length", ["0"]) != ["0"]:
        return 413, "such a request has no body here"
    return None


def _is_from_elsewhere(given: dict[bytes, list[str]], door: Door, *, may_be_followed: bool) -> bool:
    ours = f"{door.scheme}://"
    origins = given.get(b"origin", [])
    if any(not origin.startswith(ours) or origin[len(ours) :] not in door.hosts for origin in origins):
        return True
    sites, modes = given.get(b"sec-fetch-site", []), given.get(b"sec-fetch-mode", [])
    # A link that somebody follows to the page may stand anywhere; a form may not.
    is_followed = may_be_followed and modes == ["navigate"]
    return any(site not in ("same-origin", "none") for site in sites) and not is_followed


def _why_no_body(given: dict[bytes, list[str]]) -> tuple[int, str] | None:
    length = given.get(b"content-length", [])
    if b"transfer-encoding" in given or len(length) != 1 or not (length[0].isascii() and length[0].isdigit()):
        return 413, "a body here needs its length said before it (Content-Length)"
    if len(length[0]) > len(str(MOST_BODY_BYTES)) or int(length[0]) > MOST_BODY_BYTES:
        return 413, f"a body here has at most {MOST_BODY_BYTES} bytes"
    kind = [text.partition(";")[0].strip() for text in given.get(b"content-type", [])]
    return None if kind == ["application/json"] else (415, "a body here is application/json")


class Gate:
    """Let requests that mean `door` through to `site`; answer all others, and what `site` fails at."""

    def __init__(self, site: Site, door: Door) -> None:
        self._site = site
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            return
        takes_post = scope["path"] in self._site.posts
        answer = _Answer(send, scope["path"], takes_post=takes_post)
        refused = refusal(scope["method"], scope["headers"], self._door, takes_post=takes_post)
        if refused is not None:
            await answer.plain(*refused, closing=True)
            return
        try:
            await self._site.app(scope, receive, answer.send)
        except Exception as error:
            # Neither a traceback nor a name in the answer; the path is not logged either, it may hold anything.
            _log.warning("the page failed at a request: %s", type(error).__name__)
            _log.debug("the page failed", exc_info=True)
            if not answer.started:
                await answer.plain(500, "this failed; the log says why")


class _Answer:
    """One answer on its way out, with the headers that all carry."""

    def __init__(self, send: Send, path: str, *, takes_post: bool) -> None:
        self._send = send
        self._is_json = path.startswith(API)
        self._methods = (*_READING, "POST") if takes_post else _READING
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers: Headers = list(message.get("headers", []))
            own = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in HEADERS.items() if name not in own]
            message = {**message, "headers": headers}
        await self._send(message)

    async def plain(self, status: int, text: str, *, closing: bool = False) -> None:
        body = (json.dumps({"error": text}) if self._is_json else f"{text}\n").encode()
        kind = b"application/json" if self._is_json else b"text/plain; charset=utf-8"
        headers: Headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
        ]
        if status == 405:
            headers.append((b"allow", ", ".join(self._methods).encode()))
        if closing:
            # What else comes over this connection, a body for example, is not read.
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
