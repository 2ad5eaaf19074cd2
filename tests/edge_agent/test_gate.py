"""Who gets an answer from the page: rows 1 and 2 of the security catalogue, as a table of requests."""

from __future__ import annotations

import asyncio
import logging

import pytest

from edge_agent.live_page.gate import HEADERS, Gate, Site, door_of, refusal

DOOR = door_of(8747)
GOOD = ["127.0.0.1:8747", "localhost:8747", "LocalHost:8747", "[::1]:8747", " 127.0.0.1:8747 "]
EVIL = [
    "evil.example", "evil.example:8747", "127.0.0.1", "localhost", "[::1]", "127.0.0.1:8748", "localhost:80",
    "127.0.0.1:", "127.0.0.1:08747", "127.0.0.1:+8747", "127.0.0.2:8747", "127.1:8747", "2130706433:8747",
    "0x7f000001:8747", "0177.0.0.1:8747", "0.0.0.0:8747", "0:8747", "localhost.:8747",
    "localhost.evil.example:8747", "127.0.0.1.evil.example:8747", "127.0.0.1.nip.io:8747",
    "evil.example#127.0.0.1:8747", "127.0.0.1:8747.evil",
    "user@127.0.0.1:8747", "127.0.0.1:8747@evil.example", "127.0.0.1:8747,evil.example", "127.0.0.1:8747 evil",
    "127.0.0.1:8747/", "http://127.0.0.1:8747", "//127.0.0.1:8747", "[::]:8747", "::1:8747", "[::1%lo]:8747",
    "[0:0:0:0:0:0:0:1]:8747", "[::ffff:127.0.0.1]:8747", "[::1]evil:8747", "127。0。0。1:8747", "ⓛocalhost:8747",
    "127.0.0.1\t:8747", "127.0.0.1:8747\x00", "127.0.0.1%00:8747", "%31%32%37.0.0.1:8747", "", "*", ":8747",
    "localhost:8747:8747", "localhost:8747;evil", "scope-pc:8747", "scope-pc.local:8747", "192.168.1.7:8747",
]  # fmt: skip


def asked(method="GET", host="127.0.0.1:8747", **headers):
    given = [(b"host", host.encode("utf-8", "surrogateescape"))] if host is not None else []
    given += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return refusal(method, given, DOOR)


@pytest.mark.parametrize("host", GOOD)
def test_our_own_names_with_our_port_are_let_through(host):
    assert asked(host=host) is None


@pytest.mark.parametrize("host", EVIL)
def test_whoever_means_another_server_is_refused(host):
    assert asked(host=host)[0] == 403


def test_no_host_and_two_hosts_are_refused():
    assert asked(host=None)[0] == 403
    twice = [(b"host", b"127.0.0.1:8747"), (b"host", b"127.0.0.1:8747")]
    assert refusal("GET", twice, DOOR)[0] == 403


def test_only_on_the_usual_port_may_the_port_be_missing():
    assert refusal("GET", [(b"host", b"localhost")], door_of(80)) is None
    assert refusal("GET", [(b"host", b"localhost:8747")], door_of(80))[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"origin": "http://127.0.0.1:8747"}, None, id="our own page"),
        pytest.param({"origin": "http://localhost:8747"}, None, id="our own page by name"),
        pytest.param({"origin": "null"}, 403, id="a sandboxed page"),
        pytest.param({"origin": "https://evil.example"}, 403, id="a foreign page"),
        pytest.param({"origin": "https://127.0.0.1:8747"}, 403, id="another scheme"),
        pytest.param({"origin": "http://127.0.0.1:3000"}, 403, id="another program's page on this PC"),
        pytest.param({"origin": ""}, 403, id="an empty origin"),
        pytest.param({"sec_fetch_site": "same-origin"}, None, id="fetched by our page"),
        pytest.param({"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, None, id="typed by a person"),
        pytest.param({"sec_fetch_site": "cross-site"}, 403, id="fetched by a foreign page"),
        pytest.param({"sec_fetch_site": "same-site"}, 403, id="fetched by a page on another port"),
        pytest.param(
            {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, None, id="a link that was followed"
        ),
        pytest.param({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403, id="an image of ours"),
        pytest.param({"content_length": "0"}, None, id="an empty body"),
        pytest.param({"content_length": "1"}, 413, id="a body"),
        pytest.param({"content_length": "1073741824"}, 413, id="a huge body"),
        pytest.param({"transfer_encoding": "chunked"}, 413, id="a body without end"),
        pytest.param({"x_forwarded_host": "evil.example", "forwarded": "host=evil"}, None, id="proxies' words"),
    ],
)  # fmt: skip
def test_other_headers(headers, status):
    found = asked(**headers)

    assert (None if found is None else found[0]) == status


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW"]
)
def test_nothing_can_be_changed(method):
    assert asked(method)[0] == 405


def test_head_is_reading():
    assert asked("HEAD") is None


def serve(app, host=b"127.0.0.1:8747", kind="http"):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "method": "GET", "headers": [(b"host", host)], "path": "/secret name"}
    asyncio.run(Gate(Site(app), DOOR)(scope, receive, send))
    return sent


async def fine(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=5")]})
    await send({"type": "http.response.body", "body": b"fine"})


async def broken(scope, receive, send):
    raise ValueError("/data/secret name.dm3")


async def breaking(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ValueError("/data/secret name.dm3")


def test_every_answer_carries_the_strict_headers_and_a_route_may_set_its_own():
    start, body = serve(fine)

    headers = dict(start["headers"])
    assert headers == HEADERS | {b"cache-control": b"max-age=5"}
    assert body["body"] == b"fine"
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'")


def test_a_refused_request_reaches_no_route_and_ends_the_connection():
    start, body = serve(broken, host=b"evil.example:8747")

    assert start["status"] == 403
    assert (b"connection", b"close") in start["headers"]
    assert set(HEADERS.items()) <= set(start["headers"])
    assert b"127.0.0.1, localhost or [::1]" in body["body"]


@pytest.mark.parametrize("app", [broken, breaking])
def test_a_failing_route_tells_nobody_what_it_worked_on(app, caplog):
    with caplog.at_level(logging.INFO):
        sent = serve(app)

    assert sent[0]["status"] == (500 if app is broken else 200)
    assert b"secret" not in b"".join(message.get("body", b"") for message in sent)
    assert caplog.messages == ["the page failed at a request: ValueError"]


def test_other_protocols_get_no_answer():
    assert serve(fine, kind="websocket") == []
