"""The second look over HTTP: begun, and told how far it is or what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from edge_agent.page.json_body import answer_of, json_body

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from edge_agent.page.home import PageHome


def routes(home: PageHome) -> list[Route]:
    """Return the route of the second look."""

    async def flips(request: Request) -> Response:
        if request.method == "POST":
            await json_body(request)
            home.second_look.start()
        return answer_of(await home.in_pool(lambda: _told(home)))

    return [Route("/api/flips", flips, methods=["GET", "POST"])]


def _told(home: PageHome) -> dict[str, Any]:
    return home.second_look.told()
