"""The routes of the page, and its health, readiness and metrics.

Everything goes through `gate` and the check of the key before it comes here. Routes are coroutines that wait for
nothing: there is one thread for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.journal import JournalBusy
from edge_agent.live_page.gate import Site
from edge_agent.live_page.metrics import registry_of
from edge_agent.live_page.pulse import not_alive, not_ready, without_names
from edge_agent.page import (
    history_routes,
    label_routes,
    page_routes,
    picture_routes,
    second_look_routes,
    session_routes,
    stream_routes,
)
from edge_agent.page.access import KeyCheck
from edge_agent.page.json_body import refused
from edge_agent.page.no_archive import NoArchive

if TYPE_CHECKING:
    from starlette.requests import Request

    from edge_agent.live_page.pulse import MonitorState
    from edge_agent.page.home import PageHome


def site_of(home: PageHome) -> Site:
    """Return the routes over what the page knows, behind the check of the key."""
    routes = [
        Route("/healthz", _healthz),
        Route("/readyz", _readyz),
        Route("/metrics", _metrics),
        *page_routes.routes(home),
        *stream_routes.routes(home),
        *history_routes.routes(home),
        *session_routes.routes(home),
        *label_routes.routes(home),
        *picture_routes.routes(home),
        *second_look_routes.routes(home),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: refused, NoArchive: refused, JournalBusy: refused},
    )
    app.state.home = home
    app.state.registry = registry_of(home.monitor)
    posts = frozenset(route.path for route in routes if "POST" in (route.methods or ()))
    return Site(KeyCheck(app, home.access), posts)


async def _healthz(request: Request) -> Response:
    return _verdict("alive", not_alive(_state(request).pulse()))


async def _readyz(request: Request) -> Response:
    home: PageHome = request.app.state.home
    pulse = home.monitor.pulse()
    reasons = not_ready(pulse)
    # A monitor needs no key to ask; names of folders are for those who have it.
    return _verdict("ready", reasons if home.access.knows(request.scope) else without_names(reasons, pulse))


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
