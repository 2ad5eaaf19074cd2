"""The routes of the page: health, readiness, metrics, and where to find them.

Everything goes through `gate` before it comes here. Routes are coroutines that wait for nothing: there is one
thread for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from edge_agent.live_page.metrics import registry_of
from edge_agent.live_page.pulse import not_alive, not_ready

if TYPE_CHECKING:
    from starlette.requests import Request

    from edge_agent.live_page.pulse import MonitorState
    from edge_agent.page.home import PageHome

_FRONT: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>scopewatch</title>
<h1>scopewatch</h1>
<p>The agent on this PC. <code>edge-agent status</code> says what it has seen.</p>
<ul>
<li><a href="/healthz">/healthz</a>: whether it is alive</li>
<li><a href="/readyz">/readyz</a>: whether it would answer a file that is saved now, and if not, why</li>
<li><a href="/metrics">/metrics</a>: its numbers, for Prometheus</li>
</ul>
</html>
"""


def application(home: PageHome) -> Starlette:
    """Return the routes over what the page knows."""
    routes = [
        Route("/", _front),
        Route("/healthz", _healthz),
        Route("/readyz", _readyz),
        Route("/metrics", _metrics),
    ]
    app = Starlette(routes=routes)
    app.state.home = home
    app.state.registry = registry_of(home.monitor)
    return app


async def _front(request: Request) -> Response:
    return HTMLResponse(_FRONT)


async def _healthz(request: Request) -> Response:
    return _verdict("alive", not_alive(_state(request).pulse()))


async def _readyz(request: Request) -> Response:
    return _verdict("ready", not_ready(_state(request).pulse()))


async def _metrics(request: Request) -> Response:
    # Not the library's own ASGI application, which fails at headers that are no UTF-8.
    registry = request.app.state.registry
    try:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body = encode(registry)
    except (ValueError, TypeError):  # a version that is none
        encode, content_type = choose_encoder("")
        body = encode(registry)
    return Response(body, headers={"content-type": content_type})


def _verdict(word: str, reasons: list[str]) -> Response:
    return JSONResponse({word: not reasons, "reasons": reasons}, status_code=503 if reasons else 200)


def _state(request: Request) -> MonitorState:
    home: PageHome = request.app.state.home
    return home.monitor
