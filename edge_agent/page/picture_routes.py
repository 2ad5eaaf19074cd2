"""Pictures and details of entries over HTTP, by the entry's id in the journal and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from edge_agent.page.bounded_reads import BoundedReads
from edge_agent.page.entry_detail import read_events, record_json, record_of
from edge_agent.page.json_body import answer_of
from edge_agent.page.no_archive import answered
from edge_agent.page.picture_process import NoPicture
from edge_agent.preview_files import is_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from datetime import datetime

    from starlette.requests import Request

    from edge_agent.page.entry_row import EntryRow
    from edge_agent.page.home import PageHome
    from edge_agent.preview_files import Kind, Previews

DRAWING_SECONDS: Final = 4.0
"""So long a request waits for a picture that has to be drawn first; then it is to be asked for again."""
MOST_THUMBS_AWAITED: Final = 2
"""A browser has six connections to a server, and what people say needs one: more thumbnails are asked for again."""
MOST_KEPT: Final = 64
"""Details that are kept: a person goes back and forth between a few."""
MOST_CELLS: Final = 4096
"""Of a map that is kept: 64 of these are 8 MB."""
_DIGITS: Final = 18
_IMMUTABLE: Final = "private, max-age=86400"
_Key = tuple[int, str | None, str | None, "datetime"]


def routes(home: PageHome) -> list[Route]:
    """Return the routes of pictures and details."""
    reads, details, queue = BoundedReads(), _Details(), _Queue()

    def picture_route(kind: Kind) -> Callable[[Request], Any]:
        async def picture(request: Request) -> Response:
            return await _picture(home, request, kind, queue)

        return picture

    async def detail(request: Request) -> Response:
        number = _number(request)
        row = await home.in_pool(lambda: _row(home, number))
        archive = home.archive
        told = details.of(row)
        if told is None:
            place = archive.plan.output or next(
                (root for root in archive.folders if row.path.is_relative_to(root)), None
            )
            record = await reads.read(place, lambda: record_of(row, archive.plan))
            told = record_json(record)
            details.keep(row, told)
        events = await home.in_pool(
            lambda: answered(archive.journal, lambda connection: read_events(connection, row.content))
        )
        return answer_of({"row": home.history.json_of(row), **told, "labels": events})

    return [
        Route("/api/entries/{number}", detail),
        Route("/api/entries/{number}/picture.jpg", picture_route("picture")),
        Route("/api/entries/{number}/thumb.jpg", picture_route("thumb")),
    ]


class _Details:
    """What sidecars said of the entries that were looked at last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, dict[str, Any]] = OrderedDict()

    def of(self, row: EntryRow) -> dict[str, Any] | None:
        told = self._kept.get(_key(row))
        if told is not None:
            self._kept.move_to_end(_key(row))
        return told

    def keep(self, row: EntryRow, told: dict[str, Any]) -> None:
        cam = told["cam"]
        if told["model"] is None or (cam is not None and math.prod(cam["grid"]) > MOST_CELLS):
            return  # the one may be written yet, the other is large
        self._kept[_key(row)] = told
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)


class _Queue:
    """Requests that wait for pictures to be drawn."""

    def __init__(self) -> None:
        self._thumbs = 0

    async def drawn(self, future: Future[Previews], kind: Kind) -> Previews:
        """Return the pictures. Raises NoPicture; HTTPException (503; 202 of a thumbnail) when that takes long."""
        is_thumb = kind == "thumb"
        if is_thumb and self._thumbs >= MOST_THUMBS_AWAITED and not future.done():
            raise _later(kind)
        loop = asyncio.get_running_loop()
        # Each has a bell of its own: whoever gives up, takes the picture from nobody else.
        drawn: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda _: _ring(loop, drawn))
        self._thumbs += is_thumb
        try:
            await asyncio.wait_for(drawn, DRAWING_SECONDS)
        except TimeoutError:
            raise _later(kind) from None
        finally:
            self._thumbs -= is_thumb
        return future.result()


def _ring(loop: asyncio.AbstractEventLoop, bell: asyncio.Future[None]) -> None:
    def ring() -> None:
        if not bell.done():
            bell.set_result(None)

    with contextlib.suppress(RuntimeError):  # the page has ended meanwhile
        loop.call_soon_threadsafe(ring)


def _later(kind: Kind) -> HTTPException:
    # No error of a thumbnail: a browser writes one line into its console for each image that has one.
    status = 202 if kind == "thumb" else 503
    return HTTPException(status, "the picture is being drawn; ask again", headers={"retry-after": "2"})


def _key(row: EntryRow) -> _Key:
    """The same entry may be answered again, for other bytes or by another model."""
    return row.id, row.content, row.model_sha256, row.finished


async def _picture(home: PageHome, request: Request, kind: Kind, queue: _Queue) -> Response:
    number, asked = _number(request), request.headers.get("if-none-match", "")

    def find() -> tuple[EntryRow, bytes | None]:
        row = _row(home, number)
        known = _tag(row, kind) in asked
        return row, b"" if known else home.pictures.kept(row, kind)

    try:
        row, data = await home.in_pool(find)
        _require_same(row, request.query_params.get("v"))
        if data is None:
            data = (await queue.drawn(home.pictures.drawn(row), kind)).of(kind)
    except NoPicture as error:
        raise HTTPException(503 if error.later else 404, str(error)) from None
    headers = {"etag": _tag(row, kind), "cache-control": _caching(row, request)}
    if not data:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type="image/jpeg")


def _number(request: Request) -> int:
    text: str = request.path_params["number"]
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise HTTPException(404, "there is no such entry")
    return int(text)


def _row(home: PageHome, number: int) -> EntryRow:
    row = home.history.row(number)
    if row is None:
        raise HTTPException(404, "there is no such entry")
    return row


def _tag(row: EntryRow, kind: Kind) -> str:
    content = hashlib.sha256((row.content or "").encode("utf-8", "backslashreplace")).hexdigest()
    return f'"{content[:32]}-{kind}"'


def _require_same(row: EntryRow, version: str | None) -> None:
    """Show nobody other bytes than were asked for: a file that is saved again keeps its id."""
    content = row.content or ""
    if version and is_sha256(content) and version != content[: len(version)]:
        raise HTTPException(404, "the file has changed since")


def _caching(row: EntryRow, request: Request) -> str:
    version, content = request.query_params.get("v", ""), row.content or ""
    return _IMMUTABLE if is_sha256(content) and version == content[:16] else "private, no-cache"
