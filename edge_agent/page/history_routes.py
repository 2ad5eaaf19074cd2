"""The history over HTTP: pages of rows, the index for jumps, and what one can filter by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import Route

from edge_agent.page.entry_filter import BadFilter, EntryFilter, Order, parse_order
from edge_agent.page.entry_row import iso, moment_of
from edge_agent.page.history import CHUNK, MOST_ROWS, Facets
from edge_agent.page.json_body import answer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from edge_agent.page.home import PageHome

_LONGEST_CURSOR: Final = 60
_T = TypeVar("_T")


def routes(home: PageHome) -> list[Route]:
    """Return the routes of the history."""

    async def asked(question: Callable[[], _T]) -> _T:
        try:
            return await home.in_pool(question)
        except BadFilter as error:
            raise HTTPException(400, str(error)) from None

    async def page(request: Request) -> Response:
        wanted, order = _asked_for(request)
        after, limit = _after(request), _limit(request)

        def read() -> dict[str, Any]:
            history = home.history
            found = history.page(wanted, order, after, limit)
            return {"rows": [history.json_of(row) for row in found.rows], "next": found.next}

        return answer_of(await asked(read))

    async def index(request: Request) -> Response:
        wanted, order = _asked_for(request)
        found = await asked(lambda: home.history.index(wanted, order))
        return answer_of(
            {"total": found.total, "chunk": CHUNK, "anchors": found.anchors, "newest": found.newest}
        )

    async def facets(request: Request) -> Response:
        return answer_of(_facets_json(await asked(lambda: home.history.facets())))

    return [
        Route("/api/history", page),
        Route("/api/history/index", index),
        Route("/api/history/facets", facets),
    ]


def _asked_for(request: Request) -> tuple[EntryFilter, Order]:
    query = request.query_params
    try:
        return EntryFilter.parse(query), parse_order(query.get("order", ""))
    except BadFilter as error:
        raise HTTPException(400, str(error)) from None


def _after(request: Request) -> str:
    text = request.query_params.get("after", "")
    if len(text) > _LONGEST_CURSOR:
        raise HTTPException(400, "after is no cursor of this order")
    return text


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "") or str(CHUNK)
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MOST_ROWS):
        raise HTTPException(400, f"limit is a number from 1 to {MOST_ROWS}")
    return int(text)


def _facets_json(facets: Facets) -> dict[str, Any]:
    return {
        "labels": facets.labels,
        "days": [{"day": day.isoformat(), "count": count} for day, count in facets.days],
        "sessions": [
            {
                "id": session.id,
                "start": iso(moment_of(session.span.start_us)),
                "end": iso(moment_of(session.span.end_us - 1)),
                "files": session.files,
            }
            for session in facets.sessions
        ],
    }
