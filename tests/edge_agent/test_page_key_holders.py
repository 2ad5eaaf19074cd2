"""Who may use the page: rows 1, 2, 4 and 6 of the security catalogue, every route against tables of requests."""

from __future__ import annotations

import hmac
import json
import logging
import re

import pytest
from page_client import Page, page_on

from edge_agent.live_page.application import site_of
from edge_agent.live_page.pulse import MonitorState
from edge_agent.page import access as access_module
from edge_agent.page.access import CHANGE_HEADER, is_free
from edge_agent.page.home import PageHome
from edge_agent.page.page_key import new_key


def _routes():
    """Every route but the shell and what is free on this PC: method and path, the parameters filled in."""
    home = PageHome(MonitorState())
    app = site_of(home).app._app
    home.close()
    for route in app.routes:
        path = re.sub(r"{[^}]*}", "1", route.path)
        for method in sorted(route.methods - {"HEAD"}):
            yield method, path


ROUTES = list(_routes())
INSIDE = [(method, path) for method, path in ROUTES if not is_free(path, "http")]
FREE = {"/", "/favicon.ico", "/static/1", "/healthz", "/readyz", "/metrics", "/api/session"}
inside = pytest.mark.parametrize(("method", "path"), INSIDE, ids=[" ".join(route) for route in INSIDE])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with page_on(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def ours(page):
    return page.sign_in()


def other_cookie(page: Page, **changes: str) -> str:
    return "; ".join(f"{name}={value}" for name, value in changes.items())


def test_every_route_is_free_or_guarded_and_nothing_is_free_by_mistake():
    assert {path for _, path in ROUTES if is_free(path, "http")} == FREE
    assert len(INSIDE) >= 2


def refused(answer: tuple[int, dict, bytes], status: int) -> bool:
    """Whether it says so in JSON, and not a word more."""
    found, headers, body = answer
    assert found == status, body
    assert headers["content-type"] == "application/json"
    assert set(json.loads(body)) == {"error"}
    assert "set-cookie" not in headers
    return True


@inside
@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(None, id="none"),
        pytest.param("{name}=", id="empty"),
        pytest.param("{name}={key}", id="the key itself"),
        pytest.param("{name}={short}", id="short"),
        pytest.param("{name}={wrong}", id="wrong"),
        pytest.param("{name}={right}0", id="a digit more"),
        pytest.param("scopewatch_1={right}", id="of another port"),
        pytest.param("scopewatch={right}", id="of no port"),
        pytest.param("{name}={word}", id="the word for changes"),
        pytest.param("{name}=\xff\xfe", id="no text"),
    ],
)
def test_without_the_right_cookie_nothing_is_read_or_changed(page, ours, method, path, cookie):
    right = page.home.access.cookie
    values = {
        "name": f"scopewatch_{page.port}", "key": page.key, "right": right, "short": right[:-1],
        "wrong": hmac.digest(b"x", b"y", "sha256").hex(), "word": page.home.access.change_word,
    }  # fmt: skip
    headers = {} if cookie is None else {"cookie": cookie.format(**values)}
    body = {} if method == "POST" else None

    assert refused(page.ask(method, path, body, **headers, **{CHANGE_HEADER: values["word"]}), 401)


@inside
@pytest.mark.parametrize(
    ("given", "status"),
    [
        pytest.param("Bearer ", 401, id="empty"),
        pytest.param("Bearer x", 401, id="wrong"),
        pytest.param("Bearer {cookie}", 401, id="the cookie"),
        pytest.param("bearer {key}", 401, id="small letters"),
        pytest.param("Basic {key}", 401, id="another scheme"),
    ],
)
def test_a_script_needs_the_key_itself(page, method, path, given, status):
    text = given.format(key=page.key, cookie=page.home.access.cookie)
    body = {} if method == "POST" else None

    assert refused(page.ask(method, path, body, authorization=text), status)


def test_with_the_key_a_script_reads(page):
    assert page.get("/api/state", authorization=f"Bearer {page.key}")["epoch"] == page.home.hub.epoch


CHANGES = [path for method, path in INSIDE if method == "POST"]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({CHANGE_HEADER: None}, 403, id="no word"),
        pytest.param({CHANGE_HEADER: ""}, 403, id="an empty word"),
        pytest.param({CHANGE_HEADER: "0" * 64}, 403, id="a wrong word"),
        pytest.param({"origin": "null"}, 403, id="a sandboxed page"),
        pytest.param({"origin": "https://evil.example"}, 403, id="a foreign page"),
        pytest.param({"origin": "http://127.0.0.1:1"}, 403, id="a page of this PC on another port"),
        pytest.param({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403, id="a foreign form"),
        pytest.param({"sec-fetch-site": "same-site"}, 403, id="fetched by a page of another port"),
        pytest.param({"content-type": "text/plain"}, 415, id="what a form can send"),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, 415, id="a form"),
        pytest.param({"content-type": "multipart/form-data; boundary=a"}, 415, id="a form with files"),
        pytest.param({"host": "evil.example"}, 403, id="rebound"),
    ],
)  # fmt: skip
def test_a_change_comes_from_our_own_page(page, ours, path, headers, status):
    assert refused(ours.ask("POST", path, {}, **headers), status)


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_is_changed_by_another_method(ours, path, method):
    is_read_too = ("GET", path) in INSIDE and method in ("GET", "HEAD")
    status, _, _ = ours.ask(method, path)

    # /api/sessions/end is read as the session called "end", which there is not.
    assert is_read_too or status == (
        404 if path == "/api/sessions/end" and method in ("GET", "HEAD") else 405
    )


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for m, p in ROUTES if m == "GET"], ids=[p for m, p in ROUTES if m == "GET"]
)
def test_what_is_read_takes_no_post(ours, method, path):
    status, headers, _ = ours.ask("POST", path, {})

    if ("POST", path) not in ROUTES:
        assert (status, headers["allow"]) == (405, "GET, HEAD")


@inside
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.:{port}", "[::]:{port}", ""]
)
def test_every_route_means_this_server_only(page, ours, method, path, host):
    body = {} if method == "POST" else None
    assert refused(ours.ask(method, path, body, host=host.format(port=page.port)), 403)


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://localhost:1"])
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[" ".join(route) for route in ROUTES])
def test_no_route_answers_another_origin(ours, method, path, origin):
    body = {} if method == "POST" else None
    assert ours.ask(method, path, body, origin=origin)[0] == 403


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(page):
    _, headers, _ = page.ask("POST", "/api/session", {"token": page.key})

    cookie, *flags = headers["set-cookie"].split("; ")
    assert cookie == f"scopewatch_{page.port}={page.home.access.cookie}"
    assert {flag.lower() for flag in flags} == {"httponly", "max-age=34560000", "path=/", "samesite=strict"}
    assert page.key not in headers["set-cookie"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"token": ""}, 401, id="empty"),
        pytest.param({"token": "{key}x"}, 401, id="a letter more"),
        pytest.param({"token": "{short}"}, 401, id="short"),
        pytest.param({"token": "0" * 64}, 401, id="wrong"),
        pytest.param({"token": "ü\ud800"}, 401, id="no ASCII"),
        pytest.param({"token": None}, 400, id="none"),
        pytest.param({"token": ["{key}"]}, 400, id="a list"),
        pytest.param({}, 400, id="nothing"),
        pytest.param([], 400, id="no object"),
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param(b"[" * 100_000, 400, id="brackets without end"),
        pytest.param(b'{"token": "\xff"}', 400, id="no UTF-8"),
        pytest.param({"token": "x" * 10_000}, 400, id="long"),
    ],
)
def test_only_the_key_signs_in(page, monkeypatch, body, status):
    monkeypatch.setattr(access_module, "_WRONG_PAUSE_SECONDS", 0.0)
    if isinstance(body, dict) and isinstance(body.get("token"), str):
        body = {"token": body["token"].format(key=page.key, short=page.key[:-1])}

    assert refused(page.ask("POST", "/api/session", body), status)


def test_wrong_keys_are_answered_slowly_and_lock_nobody_out(page, caplog, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(access_module.asyncio, "sleep", sleep)
    page.home.access._complaint_due = 0.0
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert page.ask("POST", "/api/session", {"token": "0" * 64})[0] == 401

    assert slept[0] >= 0.2
    assert slept == sorted(slept)
    assert max(slept) <= 3.0
    assert caplog.messages == ["somebody tried a wrong key of the page"]
    assert page.ask("POST", "/api/session", {"token": page.key})[0] == 204
    assert len(slept) == 20


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param({}, b"{}" + b" " * (256 * 1024 - 2), 400, id="as large as may be"),
        pytest.param({}, b" " * (256 * 1024 + 1), 413, id="a byte more"),
        pytest.param({"content-length": "1073741824"}, None, 413, id="a gibibyte"),
        pytest.param({"content-length": "9" * 19}, None, 413, id="a length that is no size"),
        pytest.param({"content-type": "application/json", "transfer-encoding": "chunked"}, None, 413, id="no end"),
        pytest.param({"content-type": "application/json; charset=utf-8"}, b"{}", 400, id="with a charset"),
        pytest.param({"content-type": "application/jsonp"}, b"{}", 415, id="nearly JSON"),
    ],
)  # fmt: skip
def test_bodies_are_small_and_json(page, headers, body, status):
    assert refused(page.ask("POST", "/api/session", body, **headers), status)


def test_it_stays_signed_in_over_a_restart_and_not_with_another_key(tmp_path):
    with page_on(tmp_path) as page:
        before, port = page.sign_in().ever, page.port
    with page_on(tmp_path, port=port) as page:
        page.ever |= before
        assert page.ask("POST", "/api/nowhere", {})[0] == 405
        assert page.get("/api/state")["csrf"] == before[CHANGE_HEADER]

        with page.stream() as stream:
            stream.event()
            key = new_key(page.archive.state).text
            # A sign-in looks at the file, whoever tries.
            assert page.ask("POST", "/api/session", {"token": key})[0] == 204
            with pytest.raises(EOFError):
                while True:
                    assert stream.event()[1] in ("resync", "heartbeat", "status")
        assert page.ask("GET", "/api/state")[0] == 401


def test_of_several_cookies_of_one_name_one_has_to_be_right(page):
    name, right = f"scopewatch_{page.port}", page.home.access.cookie

    assert page.ask("GET", "/api/state", cookie=f"{name}=x; a=b; {name}={right}")[0] == 200
    assert page.ask("GET", "/api/state", cookie=f"{name}=x; a={right}")[0] == 401


def test_while_there_is_no_key_nobody_is_let_in(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "page.token").mkdir()  # nothing can be put in its place
    with page_on(tmp_path) as page:
        status, _, body = page.ask("GET", "/api/state")
        assert status == 503
        assert b"the page has no key" in body
        assert page.ask("POST", "/api/session", {"token": ""})[0] == 503
        assert page.ask("GET", "/healthz")[0] == 200


PIECES = ["..", "%2e%2e", "..%2f", "%2e%2e%5c", "..\\", "%00", "a%00.js", "....//", "~", "C:", "%c0%ae%c0%ae"]
TARGETS = [
    "etc/passwd",
    "page.token",
    "state/page.token",
    "journal.sqlite",
    "index.html%00.dm3",
    "windows/win.ini",
]
PLACES = [
    "/static/",
    "/static/vendor/",
    "/api/entries/",
    "/api/sessions/",
    "/",
    "/static/%2f",
    "/static//",
    "/static/\\\\host\\",
]
PATHS = [
    f"{place}{piece * times}/{target}"
    for place in PLACES
    for piece in PIECES
    for target in TARGETS
    for times in (1, 4)
]


def test_500_paths_lead_nowhere(ours):
    assert len(PATHS) >= 500
    for path in PATHS:
        status, headers, body = ours.ask("GET", path.replace(" ", "%20"))
        assert status in (400, 401, 404, 405), (path, status)
        assert b"root:" not in body
        assert ours.home.access.cookie.encode() not in body
        assert int(headers["content-length"]) < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/api/../static/x",
        "//api/state",
        "/API/state",
        "/api/state/..",
        "/api%2fstate",
        "/static/../api/state",
    ],
)
def test_another_spelling_of_a_path_is_no_way_around_the_key(page, path):
    status, _, body = page.ask("GET", path)

    assert status in (401, 404)
    assert b"csrf" not in body
