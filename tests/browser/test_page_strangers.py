"""Rows 1 and 2 of the security catalogue with a real browser: rebound names, and pages of other origins.

The person is signed in throughout; the stranger is another web page in the same browser.
"""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from page_rig import CHROMIUM, QuietPage, chromium_running

if TYPE_CHECKING:
    from collections.abc import Iterator

TRY = """async ([address, method, mode]) => {
  const options = { method, mode, credentials: "include" };
  if (method === "POST") Object.assign(options, { body: "{}", headers: { "Content-Type": "text/plain" } });
  try {
    const answer = await fetch(address, options);
    return { status: answer.status, type: answer.type, text: await answer.text() };
  } catch (error) {
    return { status: 0, type: "error", text: String(error) };
  }
}"""
LISTEN = """address => new Promise(done => {
  const source = new EventSource(address, { withCredentials: true });
  source.addEventListener("heartbeat", () => done("heard"));
  source.onerror = () => done("refused");
})"""
DRAW = """address => new Promise(done => {
  const drawn = { src: address, onload: () => done("drawn"), onerror: () => done("refused") };
  Object.assign(new Image(), drawn);
})"""
FRAME = """address => new Promise(done => {
  const frame = Object.assign(document.createElement("iframe"), { src: address, onload: () => done() });
  document.body.append(frame);
})"""
FORM = """address => {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: address, enctype: "text/plain" });
  document.body.append(form);
  form.submit();
}"""


@pytest.fixture(scope="module")
def rebinding() -> Iterator[Any]:
    """A browser for which evil.example is this very PC, as an attacker's name server would say."""
    pytest.importorskip("playwright.sync_api", reason="needs the package playwright (pip install playwright)")
    if not CHROMIUM:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with chromium_running("--host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def stranger() -> Iterator[str]:
    """Another web server of this PC; its address."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>stranger</title>")

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def person(rebinding: Any, quiet: QuietPage) -> Iterator[Any]:
    """A profile that is signed in."""
    context = rebinding.new_context()
    tab = context.new_page()
    tab.goto(f"{quiet.address}#token={quiet.token}")
    tab.locator("#state-bar[data-state]").wait_for()
    tab.wait_for_function("() => fetch('/api/state').then(answer => answer.ok)")
    yield context
    context.close()


def test_under_a_rebound_name_there_is_nothing(person: Any, quiet: QuietPage) -> None:
    tab = person.new_page()
    for path in ("", "static/main.js", "api/state", "healthz"):
        answer = tab.goto(f"http://evil.example:{urlsplit(quiet.address).port}/{path}")
        assert answer.status == 403, path
    # From there all is of one origin; the refusal lets no script ask, and the gate would not answer.
    for path in ("/", "/api/state", "/static/main.js"):
        assert tab.evaluate(TRY, [path, "GET", "same-origin"])["status"] == 0


@pytest.mark.parametrize("mode", ["cors", "no-cors"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_another_origin_reads_and_changes_nothing(
    mode: str, method: str, person: Any, quiet: QuietPage, stranger: str
) -> None:
    tab, refusals = person.new_page(), []
    tab.on("response", lambda answer: refusals.append((urlsplit(answer.url).path, answer.status)))
    tab.goto(stranger)
    for path in ("api/state", "api/undo", "api/labels", "metrics"):
        found = tab.evaluate(TRY, [quiet.address + path, method, mode])
        assert found["status"] == 0
        assert "csrf" not in found["text"]
    assert {status for path, status in refusals if path != "/"} <= {403}


def test_it_hears_no_events_and_draws_no_pictures(person: Any, quiet: QuietPage, stranger: str) -> None:
    tab = person.new_page()
    tab.goto(stranger)
    assert tab.evaluate(LISTEN, f"{quiet.address}api/events") == "refused"
    assert tab.evaluate(DRAW, f"{quiet.address}static/icon.svg") == "refused"


def test_its_form_changes_nothing(person: Any, quiet: QuietPage, stranger: str) -> None:
    tab = person.new_page()
    tab.goto(stranger)
    with tab.expect_navigation() as navigation:
        tab.evaluate(FORM, f"{quiet.address}api/undo")
    assert navigation.value.status == 403


def test_it_cannot_frame_the_page(person: Any, quiet: QuietPage, stranger: str) -> None:
    tab = person.new_page()
    tab.goto(stranger)
    tab.evaluate(FRAME, quiet.address)
    assert [frame for frame in tab.frames if frame.title() == "scopewatch"] == []


def test_a_link_to_the_page_may_be_followed_and_shows_what_belongs_to_the_person(
    person: Any, quiet: QuietPage, stranger: str
) -> None:
    tab = person.new_page()
    tab.goto(stranger)
    with tab.expect_navigation():
        tab.evaluate("address => { location.href = address; }", quiet.address)
    tab.wait_for_function("() => fetch('/api/state').then(answer => answer.ok)")
