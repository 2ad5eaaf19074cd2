"""The gate before every route: only programs on this PC that mean this very server get an answer.

A name that resolves to this PC is not enough (DNS rebinding), so the Host header must be one of ours, with the
port; a page of another origin may not read, and nothing but reading exists. Only this module knows the headers
that every answer carries.
"""

from __future__ import annotations

import logging
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
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_METHODS: Final = ("GET", "HEAD")
_HTTP_PORT: Final = 80
_log = logging.getLogger(__name__)


def hosts_of(port: int) -> frozenset[str]:
    """Return the values of a Host header that mean this server."""
    plain = _NAMES if port == _HTTP_PORT else ()
    return frozenset((*(f"{name}:{port}" for name in _NAMES), *plain))


def refusal(
    method: str, headers: Iterable[tuple[bytes, bytes]], hosts: frozenset[str]
) -> tuple[int, str] | None:
    """Return status and reason why a request gets no answer, or None. Names of headers are lower case."""
    given: dict[bytes, list[str]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value.decode("latin-1").strip().lower())
    host = given.get(b"host", [])
    if len(host) != 1 or host[0] not in hosts:
        return (
            403,
            "this server answers under its own address only: 127.0.0.1, localhost or [::1], with its port",
        )
    if _is_from_elsewhere(given, hosts):
        return 403, "this server answers no page of another origin"
    if method not in _METHODS:
        return 405, "there is nothing here but to read: GET and HEAD"
    if b"transfer-encoding" in given or given.get(b"content-length", ["0"]) != ["0"]:
        return 413, "a request here has no body"
    return None


def _is_from_elsewhere(given: dict[bytes, list[str]], hosts: frozenset[str]) -> bool:
    origins = given.get(b"origin", [])
    if any(not origin.startswith("http://") or origin[7:] not in hosts for origin in origins):
        return True
    sites, modes = given.get(b"sec-fetch-site", []), given.get(b"sec-fetch-mode", [])
    # A link that somebody follows to the page may stand anywhere.
    return any(site not in ("same-origin", "none") for site in sites) and modes != ["navigate"]


class Gate:
    """Let requests for one of `hosts` through to `app`; answer all others, and what `app` fails at."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        refused = refusal(scope["method"], scope["headers"], self._hosts)
        if refused is not None:
            await answer.plain(*refused, closing=True)
            return
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            # Neither a traceback nor a name in the answer; the path is not logged either, it may hold anything.
            _log.warning("the page failed at a request: %s", type(error).__name__)
            _log.debug("the page failed", exc_info=True)
            if not answer.started:
                await answer.plain(500, "this failed; the log says why")


class _Answer:
    """One answer on its way out, with the headers that all carry."""

    def __init__(self, send: Send) -> None:
        self._send = send
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
        body = f"{text}\n".encode()
        headers: Headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        if status == 405:
            headers.append((b"allow", ", ".join(_METHODS).encode()))
        if closing:
            # What else comes over this connection, a body for example, is not read.
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
