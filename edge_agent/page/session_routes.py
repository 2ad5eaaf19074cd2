"""Sessions over HTTP: their numbers, how one is ended, and what one takes along: a printed page and a table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from edge_agent.page import session_table
from edge_agent.page.bounded_reads import BoundedReads
from edge_agent.page.entry_detail import record_of
from edge_agent.page.entry_row import iso, local_minute, moment_of
from edge_agent.page.json_body import answer_of
from edge_agent.page.no_archive import NoArchive
from edge_agent.page.session_facts import facts_of, origin_of
from edge_agent.page.session_summary import POLICY, summary_html

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from edge_agent.archive import Archive
    from edge_agent.page.entry_row import EntryRow
    from edge_agent.page.home import PageHome
    from edge_agent.page.sessions import SessionNumbers
    from edge_agent.sidecar import Sidecar

_ID: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_LATEST: Final = "latest"
_ROWS_AT_ONCE: Final = 500
"""Of a table; the disk is asked so often, and nothing longer is held in memory."""


def routes(home: PageHome) -> list[Route]:
    """Return the routes of sessions."""
    reads = BoundedReads()

    async def end(request: Request) -> Response:
        ended = await home.in_pool(lambda: home.sessions.end(), changing=True)
        if ended is None:
            raise HTTPException(409, "no session is open")
        return answer_of({"id": ended})

    async def session(request: Request) -> Response:
        return answer_of(_json(await _numbers(home, request)))

    async def summary(request: Request) -> Response:
        numbers = await _numbers(home, request)
        archive = home.archive
        facts = await home.in_pool(lambda: facts_of(archive, numbers.span))
        records = [(row, count, await _record(reads, archive, row)) for row, count in facts.answered]
        text = await home.in_pool(lambda: summary_html(numbers, facts, origin_of(records)))
        return HTMLResponse(text, headers={"content-security-policy": POLICY})

    async def entries(request: Request) -> Response:
        numbers = await _numbers(home, request)
        start = re.sub("[^0-9]+", "-", local_minute(numbers.span.start_us))
        headers = {"content-disposition": f'attachment; filename="scopewatch-session-{start}.csv"'}
        return StreamingResponse(_table(home, numbers), media_type="text/csv; charset=utf-8", headers=headers)

    return [
        Route("/api/sessions/end", end, methods=["POST"]),
        Route("/api/sessions/{session}", session),
        Route("/api/sessions/{session}/summary.html", summary),
        Route("/api/sessions/{session}/entries.csv", entries),
    ]


async def _numbers(home: PageHome, request: Request) -> SessionNumbers:
    """Return the session that the path names. Raises HTTPException (404)."""
    name = request.path_params["session"]
    status = home.monitor.pulse().status
    labels = () if status is None or status.model is None else status.model.labels
    sessions = home.sessions
    if name == _LATEST:
        found = await home.in_pool(lambda: sessions.latest(labels))
    elif _ID.fullmatch(name):
        found = await home.in_pool(lambda: sessions.of(int(name), labels))
    else:
        found = None
    if found is None:
        raise HTTPException(404, "there is no such session")
    return found


async def _record(reads: BoundedReads, archive: Archive, row: EntryRow) -> Sidecar | None:
    """Return a sidecar; a disk that does not answer costs the summary a name and no more."""
    root = next((root for root in archive.folders if row.path.is_relative_to(root)), None)
    try:
        return await reads.read(archive.plan.output or root, lambda: record_of(row, archive.plan))
    except NoArchive:
        return None


async def _table(home: PageHome, numbers: SessionNumbers) -> AsyncIterator[bytes]:
    yield session_table.head().encode()
    place = (numbers.span.start_us, -1)
    roots = home.archive.folders
    while True:
        rows = await home.in_pool(lambda: home.history.following(*place, numbers.span.end_us, _ROWS_AT_ONCE))  # noqa: B023
        yield session_table.lines_of(rows, roots).encode()
        if len(rows) < _ROWS_AT_ONCE:
            return
        place = (rows[-1].finished_us, rows[-1].id)


def _json(numbers: SessionNumbers) -> dict[str, Any]:
    return {
        "id": numbers.id,
        "start": iso(moment_of(numbers.span.start_us)),
        "end": iso(moment_of(numbers.span.end_us - 1)),
        "open": numbers.is_open,
        "files": numbers.files,
        "given": numbers.given,
        "outcomes": dict(numbers.outcomes),
        "by_class": [
            {
                "label": counts.label,
                "accept": counts.accept,
                "abstain": counts.abstain,
                "ungated": counts.ungated,
                "corrected": counts.corrected,
            }
            for counts in numbers.classes
        ],
        "bins": {
            "minutes": numbers.bins.minutes,
            "start": iso(moment_of(numbers.bins.start_us)),
            "labels": numbers.bins.labels,
            "counts": numbers.bins.counts,
        },
        "abstain_rate": numbers.abstain_rate,
        "corrected_rate": numbers.corrected_rate,
        "files_per_hour": numbers.files_per_hour,
        "previous": numbers.before,
        "next": numbers.after,
    }
