"""The JSON body of a request, and answers that say what was wrong. The gate has seen to length and type."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request


async def json_body(request: Request) -> dict[str, Any]:
    """Return the object in the body. Raises HTTPException (400) where there is none."""
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the body is no JSON object")
    return found


def text_in(body: dict[str, Any], key: str, most: int = 1000) -> str:
    """Return a text of the body. Raises HTTPException (400)."""
    value = body.get(key)
    if not isinstance(value, str) or len(value) > most:
        raise HTTPException(400, f"{key} is a text of at most {most} characters")
    return value


def answer_of(value: object, status: int = 200) -> Response:
    """Return an answer of JSON. Names that are no UTF-8 survive: JSON's escapes carry lone surrogates."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Response(text.encode("ascii"), status, media_type="application/json")


async def refused(request: Request, error: Exception) -> Response:
    """Say in JSON why a request was refused."""
    status = error.status_code if isinstance(error, HTTPException) else 503
    text = error.detail if isinstance(error, HTTPException) else str(error)
    headers = error.headers if isinstance(error, HTTPException) else None
    answer = answer_of({"error": text}, status)
    answer.headers.update(headers or {})
    return answer
