"""The route of the live stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from edge_agent.page.home import PageHome
    from edge_agent.page.stream import Listener

_KIND: Final = "text/event-stream"


class _Stream(StreamingResponse):
    """A stream to one listener, who leaves however it ends, also before it has begun."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.parts(), media_type=_KIND)
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._listener.leave()


def routes(home: PageHome) -> list[Route]:
    """Return the route of the stream."""
    hub = home.hub

    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=_KIND)
        after = request.headers.get("last-event-id") or request.query_params.get("after")
        listener = hub.join(after)
        if listener is None:
            raise HTTPException(503, "too many pages are open; close some")
        return _Stream(listener)

    return [Route("/api/events", events)]
