"""What people say, over HTTP: labels, undo and redo, the blind audit, and what there is to learn from it."""

from __future__ import annotations

import re
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import Route

from edge_agent.labelling.audit import OFFERED_SHARE, Tickets, may_be_blind, read_offer
from edge_agent.labelling.label_record import LONGEST_TEXT
from edge_agent.labelling.label_rows import is_known_label
from edge_agent.labelling.label_words import NothingToDo, Order
from edge_agent.labelling.learning import ENOUGH, read_accuracy, read_first_answer, read_new_labels
from edge_agent.output_places import readable_path
from edge_agent.page.entry_filter import BadFilter, EntryFilter
from edge_agent.page.json_body import answer_of, json_body, text_in
from edge_agent.page.labels_told import done_told
from edge_agent.page.news import model_told
from edge_agent.page.no_archive import answered

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from edge_agent.archive import Archive
    from edge_agent.labelling.label_words import Done
    from edge_agent.labelling.learning import Accuracy, NewLabels
    from edge_agent.labelling.shares import Share
    from edge_agent.page.home import PageHome

MOST_IDS: Final = 10_000
"""In one request; whoever means more means a filter."""
_ACTIONS: Final = ("confirm", "correct", "not_in_list")
_BATCH: Final = re.compile(r"[0-9A-Za-z-]{8,64}", re.ASCII)
_SKIPPED: Final = re.compile(r"(?:\d{1,18}(?:,\d{1,18}){0,199})?", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_T = TypeVar("_T")


class _Changed(Exception):
    """A filter has another number of entries now than the person saw."""

    def __init__(self, count: int) -> None:
        super().__init__(f"the filter has {count} entries now")
        self.count = count


def routes(home: PageHome) -> list[Route]:
    """Return the routes of labels."""
    tickets = Tickets()
    # By model; the search for one reads all entries.
    first_answers: dict[str, int] = {}

    async def labels(request: Request) -> Response:
        body = await json_body(request)
        try:
            done = await home.in_pool(lambda: _give(home, tickets, body), changing=True)
        except _Changed as changed:
            return answer_of({"error": str(changed), "count": changed.count}, 409)
        return answer_of({"batch": done.batch, "count": done.count, "skipped": done.skipped})

    async def undo(request: Request) -> Response:
        body = await json_body(request)
        by, name = _by(body.get("by")), None if body.get("request") is None else _batch(body, "request")
        deed = "undo" if request.url.path.endswith("undo") else "redo"
        try:
            done = await home.in_pool(lambda: getattr(home.labels, deed)(by, name), changing=True)
        except NothingToDo as error:
            raise HTTPException(409, str(error)) from None
        return answer_of(done_told(done))

    async def audit(request: Request) -> Response:
        by, skipped = _by(request.query_params.get("by")), request.query_params.get("skip", "")
        if _SKIPPED.fullmatch(skipped) is None:
            raise HTTPException(400, "skip is a list of entries, at most 200")
        passed_over = [int(part) for part in skipped.split(",") if part]
        return answer_of(await home.in_pool(lambda: _offer(home, tickets, by, passed_over)))

    async def learning(request: Request) -> Response:
        return answer_of(await home.in_pool(lambda: _learning(home, first_answers)))

    return [
        Route("/api/labels", labels, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/redo", undo, methods=["POST"]),
        Route("/api/audit/next", audit),
        Route("/api/learning", learning),
    ]


def _give(home: PageHome, tickets: Tickets, body: dict[str, Any]) -> Done:
    batch = _batch(body, "batch")
    # Before anything is looked at: what was given may be why the filter has other entries now.
    earlier = home.labels.earlier(batch)
    if earlier is not None:
        return earlier
    done = home.labels.give(_order(home, tickets, batch, body))
    # Here, and not once it is answered: of a bulk action nobody may wait for the end.
    home.monitor.tallies.note_corrections(done.corrected)
    return done


def _order(home: PageHome, tickets: Tickets, batch: str, body: dict[str, Any]) -> Order:
    """Return what a body asks for. Raises HTTPException (400), _Changed, NoArchive."""
    by, action = _by(body.get("by")), body.get("action")
    if action not in _ACTIONS:
        raise HTTPException(400, f"action is one of {', '.join(_ACTIONS)}")
    label = _label(home, action, body.get("label"))
    ids = _ids(body["ids"]) if "ids" in body else _filtered(home, body.get("filter"), body.get("count"))
    if "ids" in body and body.get("contents") is not None:
        _require_unchanged(home, ids, body["contents"])
    ticket = body.get("ticket")
    if ticket is not None:
        _require_blind(home, tickets, ticket, Order(batch, action, label, by, ids))
    return Order(batch, action, label, by, ids, blind=ticket is not None)


def _batch(body: dict[str, Any], key: str) -> str:
    text = text_in(body, key)
    if _BATCH.fullmatch(text) is None:
        raise HTTPException(400, f"{key} is 8 to 64 letters, digits and dashes, made by whoever asks")
    return text


def _by(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(text) <= LONGEST_TEXT or _CONTROL.search(text) or not _is_storable(text):
        raise HTTPException(400, f"by says who labels, in 1 to {LONGEST_TEXT} characters")
    return text


def _is_storable(text: str) -> bool:
    """Whether it has no lone surrogates, which no file can hold."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _label(home: PageHome, action: str, value: object) -> str | None:
    if action != "correct":
        if value is not None:
            raise HTTPException(400, f"{action} has no label")
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_TEXT or not _is_storable(value):
        raise HTTPException(400, f"label is a class, of at most {LONGEST_TEXT} characters")
    model = model_told(home.monitor.pulse().status)
    if model is not None and value in model["labels"]:
        return value
    if not _asked(home, partial(is_known_label, label=value)):
        raise HTTPException(400, "label is none of the classes that a model of this agent has or had")
    return value


def _ids(value: object) -> tuple[int, ...]:
    if isinstance(value, list) and 0 < len(value) <= MOST_IDS:
        ids = tuple(item for item in value if type(item) is int and 0 < item < 2**63)
        if len(ids) == len(value):
            return ids
    raise HTTPException(400, f"ids is a list of 1 to {MOST_IDS} entries; for more give the filter")


def _require_unchanged(home: PageHome, ids: tuple[int, ...], contents: object) -> None:
    """Refuse where a file was saved again since it was looked at: `contents` are how its hashes began then."""
    if not isinstance(contents, list) or len(contents) != len(ids):
        raise HTTPException(400, "contents is a list as long as ids, of texts or nulls")
    now = {row.id: row.content or "" for row in home.history.rows(ids)}
    for entry, seen in zip(ids, contents, strict=True):
        if isinstance(seen, str) and not now.get(entry, seen).startswith(seen):
            raise HTTPException(
                409, "a file was saved again since you looked at it: look again, then label it"
            )


def _filtered(home: PageHome, value: object, count: object) -> tuple[int, ...]:
    if not isinstance(value, dict):
        raise HTTPException(400, "either ids or a filter says what is labelled")
    try:
        ids = home.history.ids(EntryFilter.parse(value))
    except BadFilter as error:
        raise HTTPException(400, str(error)) from None
    if len(ids) != count or isinstance(count, bool):
        raise _Changed(len(ids))
    return ids


def _require_blind(home: PageHome, tickets: Tickets, ticket: object, order: Order) -> None:
    if not isinstance(ticket, str) or len(order.ids) != 1 or order.action == "confirm":
        raise HTTPException(400, "a ticket is for one entry, and for what a person says by themselves")
    (entry,) = order.ids
    content = _asked(home, partial(may_be_blind, entry=entry, by=order.by, batch=order.batch))
    if content is None or not tickets.holds(ticket, entry, content, order.by):
        raise HTTPException(400, "this blind label does not count any more; ask for the next one")


def _offer(home: PageHome, tickets: Tickets, by: str, passed_over: list[int]) -> dict[str, Any]:
    model = model_told(home.monitor.pulse().status)
    sha256 = None if model is None else model["sha256"]
    offer = _asked(home, partial(read_offer, by=by, model_sha256=sha256, passed_over=passed_over))
    row = None if offer is None else home.history.row(offer.id)
    if offer is None or row is None:
        return {"row": None, "ticket": None, "left": 0}
    hidden = dict.fromkeys(("name", "reason", "label", "probability", "decision", "given"))
    told = home.history.json_of(row) | hidden | {"reasons": []}
    return {"row": told, "ticket": tickets.ticket(offer.id, offer.content, by), "left": offer.left}


def _learning(home: PageHome, first_answers: dict[str, int]) -> dict[str, Any]:
    model = model_told(home.monitor.pulse().status)
    sha256, labels = (None, []) if model is None else (model["sha256"], model["labels"])
    if sha256 is not None and sha256 not in first_answers:
        first = _asked(home, partial(read_first_answer, model_sha256=sha256))
        first_answers |= {} if first is None else {sha256: first}
    first = first_answers.get(sha256 or "")
    new = _asked(home, partial(read_new_labels, model_sha256=sha256, first_answer_us=first, labels=labels))
    accuracy = _asked(home, partial(read_accuracy, model_sha256=sha256))
    return {
        "per_class": [_class_told(item) for item in new if item.label is not None],
        "not_in_list": sum(item.corrected.number for item in new if item.label is None),
        "worth_retraining": [item.label for item in new if item.is_enough],
        "enough": ENOUGH,
        "audit": _accuracy_told(accuracy),
        "flips": home.second_look.told(),
        "model": model,
        "command": _command(home.archive),
    }


def _command(archive: Archive) -> str:
    """Return how the trainer is told where the label files lie."""
    places = archive.folders if archive.plan.output is None else (archive.plan.output,)
    roots = " ".join(f"--corrections {shlex.quote(readable_path(place))}" for place in places)
    return f"edge-trainer prepare RAW OUT {roots}"


def _class_told(item: NewLabels) -> dict[str, Any]:
    share = item.corrected
    low, high = share.interval or (None, None)
    return {
        "label": item.label,
        "new_labels": share.number,
        "corrected": share.right,
        "rate": share.rate,
        "low": low,
        "high": high,
    }


def _accuracy_told(accuracy: Accuracy) -> dict[str, Any]:
    told = _share_told(accuracy.answered)
    return told | {"offered_share": OFFERED_SHARE, "abstained": _share_told(accuracy.abstained)}


def _share_told(share: Share) -> dict[str, Any]:
    low, high = share.interval or (None, None)
    return {"given": share.number, "right": share.right, "low": low, "high": high}


def _asked(home: PageHome, question: Callable[[sqlite3.Connection], _T]) -> _T:
    return answered(home.archive.journal, question)
