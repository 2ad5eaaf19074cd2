"""The live stream: order, replay, who is slow, and that nobody behind it ever waits."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from agent_numbers import finding, numbers
from page_client import WAIT_SECONDS, page_on

from edge_agent.live_page import connections
from edge_agent.live_page.pulse import SILENT_SECONDS, MonitorState
from edge_agent.page import news as news_module
from edge_agent.page import stream as stream_module
from edge_agent.page.news import MOST_WAITING, News
from edge_agent.page.no_archive import NoArchive
from edge_agent.page.stream import MOST_LISTENERS, RING, Hub


@pytest.fixture
def page(tmp_path):
    with page_on(tmp_path) as page:
        yield page.sign_in()


def parsed(parts: list[bytes]) -> list[tuple[str, str, object]]:
    found = []
    for block in b"".join(parts).decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in lines:
            found.append((lines["id"], lines["event"], json.loads(lines["data"])))
    return found


# --- the ring


@pytest.mark.parametrize(
    ("published", "after", "kinds"),
    [
        pytest.param(0, None, [], id="nothing yet"),
        pytest.param(3, None, [], id="a new listener hears what comes"),
        pytest.param(3, "{epoch}-1", ["b", "c"], id="what was missed"),
        pytest.param(3, "{epoch}-3", [], id="nothing was missed"),
        pytest.param(3, "{epoch}-0", ["a", "b", "c"], id="all was missed"),
        pytest.param(3, "{epoch}-4", ["resync"], id="an event that has not been"),
        pytest.param(3, "{epoch}--1", ["resync"], id="a number that is none"),
        pytest.param(3, "{epoch}-²", ["resync"], id="a digit that is none"),
        pytest.param(3, "{epoch}-" + "9" * 5000, ["resync"], id="digits without end"),
        pytest.param(3, "deadbeef-2", ["resync"], id="of another run"),
        pytest.param(3, "2", ["resync"], id="of no run"),
        pytest.param(3, "\xff", ["resync"], id="no text"),
        pytest.param(RING + 2, "{epoch}-2", ["+"] * RING, id="as much as is kept"),
        pytest.param(RING + 2, "{epoch}-1", ["resync"], id="one more than is kept"),
    ],
)
def test_who_was_away_gets_what_is_missing_or_is_told_to_ask_anew(published, after, kinds):
    hub = Hub()
    for number in range(published):
        hub.publish("abc"[number] if published == 3 else "+", {"n": number})

    async def first():
        listener = hub.join(None if after is None else after.format(epoch=hub.epoch))
        parts = listener.parts()
        found = [await anext(parts), await anext(parts)]
        await parts.aclose()
        return found

    found = parsed(asyncio.run(first()))
    *events, (beat_id, beat, _) = found
    assert [kind for _, kind, _ in events] == kinds
    assert (beat_id, beat) == (f"{hub.epoch}-{published}", "heartbeat")
    assert hub.listeners == 0


def test_events_come_in_order_whoever_publishes_them():
    hub = Hub()

    async def all_of(count):
        listener = hub.join(None)
        numbers = []
        parts = listener.parts()
        threads = [
            threading.Thread(target=lambda: [hub.publish("n", {}) for _ in range(25)]) for _ in range(8)
        ]
        await anext(parts)
        for thread in threads:
            thread.start()
        while len(numbers) < count:
            numbers += [int(i.split("-")[1]) for i, kind, _ in parsed([await anext(parts)]) if kind == "n"]
        for thread in threads:
            thread.join()
        await parts.aclose()
        return numbers

    assert asyncio.run(all_of(200)) == list(range(1, 201))


def test_whatever_is_published_nobody_raises(caplog):
    hub = Hub()
    for data in (object(), {1, 2}, {"a": float("nan")}, "\ud800", [b"x"]):
        hub.publish("odd", data)

    assert hub.number == 2
    assert len(caplog.messages) == 3


def test_a_burst_costs_the_desk_next_to_nothing_and_bounded_memory():
    """The times of a quiet PC are microseconds; here only a wait would be seen."""
    told = threading.Event()
    slow = threading.Event()

    def rows_of(paths):
        told.set()
        slow.wait(WAIT_SECONDS)
        return {path: {"id": 1} for path in paths}

    news = News(Hub(), MonitorState(), rows_of)
    news.note_finding(Path("/first"))
    assert told.wait(WAIT_SECONDS)
    for number in range(10_000):
        news.note_finding(Path(f"/{number}"))
    waiting = len(news._paths)
    slow.set()
    news.close()
    news._thread.join(WAIT_SECONDS)

    assert waiting <= MOST_WAITING


def test_after_a_burst_that_was_too_long_the_pages_ask_anew(monkeypatch):
    monkeypatch.setattr(news_module, "MOST_WAITING", 10)
    hub, kinds = Hub(), []
    monkeypatch.setattr(hub, "publish", lambda kind, data: kinds.append(kind))
    news = News(
        hub, MonitorState(), lambda paths: {path: {"id": number} for number, path in enumerate(paths)}
    )
    monkeypatch.setattr(news, "_start", lambda: None)
    for number in range(25):
        news.note_finding(Path(f"/{number}"))

    news._tell_entries()

    assert kinds == ["resync", *["entry"] * 5]


# --- over HTTP


def test_a_finding_reaches_the_page_as_a_row_of_the_journal(page):
    scope = page.archive.folders[0]
    with page.stream() as stream:
        for name, is_new in (("a.dm3", True), ("b.dm3", True), ("a.dm3", False)):
            found = replace(finding(), path=scope / name, stamp=_stamp())
            page.archive.journal.record(found)
            page.home.note_finding(found)
            data = next(data for _, kind, data in iter(stream.event, None) if kind == "entry")
            assert (data["row"]["name"], data["row"]["label"], data["new"]) == (name, "round", is_new)
        page.home.note_finding(replace(finding(), path=scope / "never recorded.dm3"))
        page.home.hub.publish("mark", {})
        assert stream.kinds(1) == ["mark"]


def _stamp():
    from edge_agent.files import FileStamp

    return FileStamp(1000, 1_700_000_000_000_000_000, 1, 1)


def test_the_state_is_told_when_it_changes_and_only_then(page):
    said = []
    with page.stream() as stream:
        for waiting in (3, 3, 4, 4):
            page.home.monitor.note_status(numbers(waiting=waiting))
            page.home.note_status(numbers(waiting=waiting))
        page.home.monitor.note_status(numbers(paused="other programs use 90 %"))
        page.home.note_status(numbers(paused="other programs use 90 %"))
        while not said or said[-1]["words"] != "PAUSED":
            _, kind, data = stream.event()
            said += [data] if kind == "status" else []

    assert len(said) <= 3
    assert said[-1]["detail"] == "paused: other programs use 90 %"
    assert page.get("/api/state")["status"]["words"] == "PAUSED"


def test_another_model_is_told(page):
    model = numbers().model.model_copy(update={"version": "1.3", "labels": ("rod", "round")})
    with page.stream() as stream:
        until(lambda: page.home.news._model is not None)
        page.home.monitor.note_status(numbers(model=model))
        page.home.note_status(numbers(model=model))
        while (event := stream.event())[1] != "model":
            assert event[1] in ("heartbeat", "status")
    assert event[2] == {
        "name": "particle-shape",
        "version": "1.3",
        "sha256": "ef" * 32,
        "labels": ["rod", "round"],
    }


def test_a_page_that_comes_back_goes_on_where_it_was(page):
    hub = page.home.hub
    with page.stream() as stream:
        hub.publish("a", {})
        while (event := stream.event())[1] != "a":
            pass
    hub.publish("b", {})
    with page.stream(last_event_id=event[0]) as stream:
        assert [stream.event()[1] for _ in range(2)] == ["b", "heartbeat"]
    with page.stream(last_event_id="0-0") as stream:
        assert stream.event()[1] == "resync"
    state = page.get("/api/state")
    hub.publish("c", {})
    with page.stream(f"/api/events?after={state['epoch']}-{state['event']}") as stream:
        assert stream.event()[1] == "c"


def test_there_is_a_heartbeat_while_the_agent_speaks_and_none_when_it_does_not(page, monkeypatch):
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(stream_module, "_SILENT_LOOK_SECONDS", 0.01)
    with page.stream() as stream:
        for _ in range(3):
            assert stream.event()[1] in ("heartbeat", "status")
        heard = page.home.monitor._heard
        page.home.monitor._clock = lambda: heard + SILENT_SECONDS + 1
        while (event := stream.event())[1] == "heartbeat":
            pass
        assert (event[1], event[2]["words"]) == ("status", "AGENT STUCK")
        page.home.hub.publish("mark", {})
        assert stream.event()[1] == "mark"


def test_at_most_16_streams_and_their_places_become_free(page):
    with ExitStack() as streams:
        for _ in range(MOST_LISTENERS):
            streams.enter_context(page.stream()).event()
        status, _, body = page.ask("GET", "/api/events")
        assert (status, json.loads(body)) == (503, {"error": "too many pages are open; close some"})
        assert page.get("/api/state")["epoch"] == page.home.hub.epoch
    until(lambda: page.home.hub.listeners == 0)
    with page.stream() as stream:
        assert stream.event()[1] == "heartbeat"


def test_a_stream_outlasts_the_time_for_a_request(page, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.1)
    with page.stream() as stream:
        for _ in range(8):
            assert stream.event()[1] in ("heartbeat", "status")


def test_a_page_that_does_not_read_is_dropped_and_keeps_nobody_waiting(page, monkeypatch):
    monkeypatch.setattr(connections, "READING_SECONDS", 0.3)
    hub = page.home.hub
    with (
        socket.create_connection(("127.0.0.1", page.port), timeout=WAIT_SECONDS) as deaf,
        page.stream() as stream,
    ):
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nCookie: {page.ever['cookie']}\r\n\r\n"
        deaf.sendall(head.encode())
        until(lambda: hub.listeners == 2)
        number = 0
        while hub.listeners == 2:
            hub.publish("much", {"text": "x" * 100_000, "number": number})
            number += 1
            # The one that reads has every event.
            while (event := stream.event())[1] != "much":
                pass
            assert event[2]["number"] == number - 1
        assert number < 1000


def test_a_head_request_opens_no_stream(page):
    status, headers, body = page.ask("HEAD", "/api/events")

    assert (status, headers["content-type"][:17], body) == (200, "text/event-stream", b"")
    assert page.home.hub.listeners == 0


def test_the_page_stops_at_once_with_streams_open(page):
    with ExitStack() as streams:
        for _ in range(7):
            streams.enter_context(page.stream()).event()
        page.server.close()

        assert not page.server._thread.is_alive()
        until(lambda: page.home.hub.listeners == 0)


def test_a_body_that_drips_wins_no_time(page, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.4)
    head = (
        f"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", page.port), timeout=0.05) as client:
        client.sendall(head.encode())
        for _ in range(1000):
            try:
                client.sendall(b" ")
                if client.recv(1000) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("still connected after a thousand bytes")


def test_slow_bodies_give_way_to_whoever_asks(page):
    head = (
        f"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
    ).encode()
    with ExitStack() as clients:
        for _ in range(connections.MOST_CONNECTIONS + 10):
            client = clients.enter_context(
                socket.create_connection(("127.0.0.1", page.port), timeout=WAIT_SECONDS)
            )
            client.sendall(head)
        assert page.ask("GET", "/healthz")[0] == 200


def test_what_the_journal_does_not_have_yet_is_told_once_it_has():
    has, hub = set(), Hub()

    def rows_of(paths):
        return {path: {"id": int(path.name)} for path in paths if path in has}

    news = News(hub, MonitorState(), rows_of)
    paths = [Path(f"/{number}") for number in range(1, 4)]
    news._wake.wait = lambda seconds: None  # at once instead of after two seconds
    has |= {paths[0], paths[2]}
    for path in paths:
        news.note_finding(path)
    told = lambda: [event for event in hub.since(0)[0] if b"event: entry" in event]  # noqa: E731
    until(lambda: len(told()) == 2)
    has.add(paths[1])
    until(lambda: len(told()) == 3)
    news.close()
    news._thread.join(WAIT_SECONDS)

    assert b'"row":{"id":2},"new":false' in told()[2]
    assert not news._paths


@pytest.mark.parametrize("error", [NoArchive("the journal cannot be read"), OSError("a disk")])
def test_a_journal_that_cannot_be_read_is_asked_again_and_complained_of_once(caplog, error):
    calls, hub = [], Hub()

    def rows_of(paths):
        calls.append(paths)
        if len(calls) < 5:
            raise error
        return {path: {"id": 5} for path in paths}

    news = News(hub, MonitorState(), rows_of)
    news._wake.wait = lambda seconds: None
    with caplog.at_level(logging.WARNING):
        news.note_finding(Path("/a"))
        until(lambda: any(b"event: entry" in event for event in hub.since(0)[0]))
    news.close()
    news._thread.join(WAIT_SECONDS)

    assert len(caplog.messages) == isinstance(error, OSError)


@pytest.mark.parametrize("has_journal", [True, False])
def test_a_file_that_never_comes_is_given_up(monkeypatch, has_journal):
    monkeypatch.setattr(news_module, "_PATIENCE_SECONDS", 0.0 if has_journal else 600.0)
    news = News(Hub(), MonitorState(), lambda paths: {} if has_journal else None)
    monkeypatch.setattr(news, "_start", lambda: None)
    news.note_finding(Path("/a"))
    time.sleep(0.001)

    news._tell_entries()

    assert not news._paths


def test_there_is_one_thread_whoever_begins():
    news = News(Hub(), MonitorState(), lambda paths: {})
    threads = [threading.Thread(target=news.note_finding, args=(Path("/a"),)) for _ in range(16)]
    before = sum(thread.name == "page-news" for thread in threading.enumerate())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(thread.name == "page-news" for thread in threading.enumerate()) == before + 1
    news.close()
    news._thread.join(WAIT_SECONDS)


def until(condition) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.01)
