"""The page's server, real, on real sockets: rows 3, 7 and 8 of the security catalogue, and its end."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from agent_numbers import finding, numbers

from edge_agent.live_page import connections
from edge_agent.live_page.application import site_of
from edge_agent.live_page.connections import MOST_CONNECTIONS
from edge_agent.live_page.doorway import Loopback
from edge_agent.live_page.gate import HEADERS, Site
from edge_agent.live_page.page_server import PageServer
from edge_agent.live_page.pulse import MonitorState
from edge_agent.page.home import PageHome

WAIT_SECONDS = 20


@contextmanager
def serving(make_app, port=0, retry_seconds=30.0):
    server = PageServer(Loopback(port), make_app, retry_seconds=retry_seconds)
    server.start()
    try:
        yield server
    finally:
        server.close()
        assert not server._thread.is_alive()


def well() -> MonitorState:
    state = MonitorState()
    state.note_status(numbers())
    state.note_finding(finding())
    return state


@pytest.fixture
def state():
    return well()


@pytest.fixture(scope="module")
def page():
    """A page that nothing is changed of, for all that is only asked; the agent behind it speaks for ever."""
    state = well()
    state._clock = lambda: state._heard
    with serving(lambda: site_of(PageHome(state))) as server:
        yield server


def port_of(server) -> int:
    return int(server.word.rsplit(":", 1)[1].strip("/"))


def get(server, path="/", method="GET", **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=WAIT_SECONDS)) as client:
        client.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = client.getresponse()
        return answer, answer.read()


def raw(server, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=WAIT_SECONDS) as client:
        try:
            client.sendall(request)
        except (ConnectionResetError, BrokenPipeError):
            return b""
        got = b""
        try:
            while part := client.recv(65536):
                got += part
        except ConnectionResetError:
            pass
        return got


def ended(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except (ConnectionResetError, TimeoutError) as error:
        return isinstance(error, ConnectionResetError)


@pytest.mark.parametrize(
    ("path", "kind", "holds"),
    [
        pytest.param("/", "text/html; charset=utf-8", b"<title>scopewatch", id="front"),
        pytest.param("/healthz", "application/json", b'{"alive":true,"reasons":[]}', id="health"),
        pytest.param("/readyz", "application/json", b'{"ready":true,"reasons":[]}', id="readiness"),
        pytest.param("/metrics", "text/plain", b"scopewatch_backlog_files 3.0", id="metrics"),
    ],
)
def test_routes(page, path, kind, holds):
    answer, body = get(page, path)

    assert (answer.status, answer.headers["content-type"][: len(kind)]) == (200, kind)
    assert holds in body
    head, nothing = get(page, path, "HEAD")
    assert (head.status, nothing) == (200, b"")


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        pytest.param("/nowhere", "GET", {}, 404, id="no such route"),
        pytest.param("/metrics/", "GET", {}, 307, id="a slash too many"),
        pytest.param("/../../etc/passwd", "GET", {}, 404, id="a path to somewhere else"),
        pytest.param("/%2e%2e%2fetc%2fpasswd%00", "GET", {}, 404, id="the same, encoded"),
        pytest.param("/healthz", "POST", {}, 405, id="a change"),
        pytest.param("/healthz", "OPTIONS", {"Origin": "https://evil.example"}, 403, id="a preflight"),
        pytest.param("/metrics", "GET", {"Host": "evil.example:80"}, 403, id="rebound"),
        pytest.param("/static/any.js", "GET", {"Host": "evil.example"}, 403, id="rebound, before routing"),
        pytest.param("/healthz", "GET", {"Upgrade": "websocket", "Connection": "Upgrade"}, 200, id="an upgrade"),
    ],
)  # fmt: skip
def test_every_answer_is_strict(page, path, method, headers, status):
    answer, _ = get(page, path, method, **headers)

    assert answer.status == status
    for name, value in HEADERS.items():
        assert answer.headers[name.decode()] == value.decode()
    assert answer.headers["access-control-allow-origin"] is None
    assert answer.headers["server"] is None


def test_it_says_why_it_is_not_ready_and_when_it_is_dead(state):
    state.note_status(numbers(paused="other programs use 90 %"))
    with serving(lambda: site_of(PageHome(state))) as page:
        answer, body = get(page, "/readyz")
        assert answer.status == 503
        assert json.loads(body) == {"ready": False, "reasons": ["paused"]}
        assert get(page, "/healthz")[0].status == 200

        state._clock = lambda: state._heard + 60

        answer, body = get(page, "/healthz")
        assert answer.status == 503
        assert json.loads(body)["reasons"] == ["the agent's main loop has said nothing for 60 s"]
        assert get(page, "/readyz")[0].status == 503
        assert get(page, "/metrics")[0].status == 200


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x.y.z",
        "text/plain; version=",
        "\xff\xfe",
        "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8" * 50,
    ],
    ids=["no version", "half a version", "no text", "long"],
)
def test_odd_accept_headers_get_the_plain_format(page, accept):
    answer, body = get(page, "/metrics", Accept=accept)

    assert answer.status == 200
    assert b"scopewatch_alive 1.0" in body


def test_it_listens_on_loopback_only_and_on_both_kinds_of_it(page):
    port = port_of(page)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS):
        pass
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.2")):
        with socket.socket(family) as client:
            client.settimeout(WAIT_SECONDS)
            refused = client.connect_ex((address, port))
        assert bool(refused) is (address == "127.0.0.2" or not _has_ipv6())


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", id="a version that does not exist"),
        pytest.param(b"GET  /  HTTP/1.1\r\nHost: a\r\n\r\n", id="blanks"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", id="a blank before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\x00\r\n\r\n", id="a zero"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", id="two lengths"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
            id="smuggling",
        ),
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="an endless address"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", id="20,000 headers"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"b" * 2_000_000 + b"\r\n\r\n", id="a header of 2 MB"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\r\n" * 50_000, id="empty lines"),
    ],
)  # fmt: skip
def test_malformed_requests_are_turned_away_and_disturb_nobody(page, request_bytes, capfd):
    answer = raw(page, request_bytes)

    assert answer == b"" or answer.split(b" ")[1][:1] == b"4", answer[:100]
    assert get(page, "/healthz")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_a_body_is_not_read(page):
    port = port_of(page)
    request = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1073741824\r\n\r\n".encode()

    answer = raw(page, request + b"x" * 1_000_000)

    assert answer == b"" or b" 405 " in answer.split(b"\r\n")[0]
    assert get(page, "/healthz")[0].status == 200


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HT", id="half a line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\nA: ", id="half the headers"),
    ],
)
def test_a_client_that_takes_its_time_is_dropped(state, monkeypatch, sent):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with (
        serving(lambda: site_of(PageHome(state))) as page,
        socket.create_connection(("127.0.0.1", port_of(page)), timeout=WAIT_SECONDS) as client,
    ):
        client.sendall(sent)
        assert ended(client)


def test_bytes_that_drip_win_no_time(state, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with (
        serving(lambda: site_of(PageHome(state))) as page,
        socket.create_connection(("127.0.0.1", port_of(page)), timeout=0.05) as client,
    ):
        for _ in range(1000):
            try:
                client.sendall(b"G")
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("still connected after a thousand bytes")


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "READING_SECONDS", 0.2)
    gone = threading.Event()

    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            if (await receive())["type"] == "http.disconnect":
                break
        gone.set()

    async def streaming(scope, receive, send):
        async def never():
            return {"type": "http.request", "body": b"", "more_body": False}

        try:
            await endless(scope, never, send)
        finally:
            gone.set()

    with (
        serving(lambda: Site(streaming)) as page,
        socket.create_connection(("127.0.0.1", port_of(page)), timeout=WAIT_SECONDS) as client,
    ):
        client.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port_of(page)}\r\n\r\n".encode())
        assert gone.wait(WAIT_SECONDS)


def test_with_more_idle_clients_than_allowed_the_next_one_is_answered(page):
    address = ("127.0.0.1", port_of(page))
    with ExitStack() as clients:
        idle = [
            clients.enter_context(socket.create_connection(address, timeout=WAIT_SECONDS))
            for _ in range(MOST_CONNECTIONS + 40)
        ]
        for client in idle:
            with suppress(ConnectionError):
                client.sendall(b"GET / HTTP/1.1\r\n")
        assert get(page, "/healthz")[0].status == 200
        # The first ones had to make room.
        assert ended(idle[0])
        open_ones = [c for c in page._running._server.server_state.connections if not c.is_leaving]
        assert len(open_ones) <= MOST_CONNECTIONS


def test_one_connection_serves_many_requests(page):
    with closing(http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=WAIT_SECONDS)) as client:
        for path in ("/healthz", "/metrics", "/readyz", "/"):
            client.request("GET", path)
            assert client.getresponse().read()
        assert client.sock is not None


def test_a_taken_port_is_a_word_and_is_taken_up_once_it_is_free(state, caplog):
    with socket.socket() as other, caplog.at_level(logging.INFO):
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with serving(lambda: site_of(PageHome(state)), port, retry_seconds=0.1) as page:
            assert page.word == (
                f"none: port {port} of 127.0.0.1 is taken by another program (page.port); tried again every 0 s"
            )
            other.close()
            until(lambda: page.word == f"http://127.0.0.1:{port}/")
            assert get(page, "/healthz")[0].status == 200
    assert [record.levelname for record in caplog.records if record.name.startswith("edge_agent")] == [
        "INFO",
        "INFO",
    ]


def test_a_server_that_breaks_is_started_again(state):
    tries = []

    def make_app():
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("cannot import it")
        return site_of(PageHome(state))

    with serving(make_app, retry_seconds=0.1) as page:
        until(lambda: len(tries) > 1 and page.word.startswith("http"))
        assert get(page, "/healthz")[0].status == 200


def test_it_stops_at_once_whoever_is_connected(state):
    with serving(lambda: site_of(PageHome(state))) as page, ExitStack() as clients:
        assert get(page, "/healthz")[0].status == 200
        address = ("127.0.0.1", port_of(page))
        idle, slow = (
            clients.enter_context(socket.create_connection(address, timeout=WAIT_SECONDS)) for _ in range(2)
        )
        slow.sendall(b"GET / HTTP/1.1\r\n")

        page.close()

        assert not page._thread.is_alive()
        assert page.word == "closed"
        assert ended(idle)
        assert ended(slow)


def test_it_stops_before_it_has_started(state):
    for _ in range(20):
        with serving(lambda: site_of(PageHome(state))) as page:
            pass
        assert page.word == "closed"


def test_a_restart_gets_its_port_back_at_once(state):
    with serving(lambda: site_of(PageHome(state))) as page:
        port = port_of(page)
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS):
            assert get(page, "/healthz")[0].status == 200
    with serving(lambda: site_of(PageHome(state)), port) as page:
        assert page.word == f"http://127.0.0.1:{port}/"


def until(condition) -> None:
    for _ in range(WAIT_SECONDS * 50):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("never came")
