"""Events by HTTP to a real server in this process: one that is slow, answers oddly, redirects, or never answers."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from contextlib import contextmanager

import pytest

from edge_agent.announcing.addresses import WebhookAddress
from edge_agent.announcing.event_record import Event
from edge_agent.announcing.outbox import NotDelivered, Undeliverable
from edge_agent.announcing.webhook import Webhook

EVENT = Event("run-1", b'{"schema": "scopewatch.event/1"}')
WAIT_SECONDS = 20


class Lims(http.server.BaseHTTPRequestHandler):
    """A receiver that answers as its address says: /204, /500, /302 ..."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(int(self.path.strip("/").partition("?")[0]))
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/204")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def lims():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lims) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def posted(lims):
    lims.got = []

    def post(path):
        Webhook(WebhookAddress("127.0.0.1", lims.server_port, path, tls=False)).send(EVENT)
        return lims.got

    post.got = lims.got
    return post


def test_an_event_is_posted_as_json(posted, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN", "t0ken")

    ((path, headers, body),) = posted("/204?key=2")

    assert (path, body) == ("/204?key=2", {"schema": "scopewatch.event/1"})
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["User-Agent"].startswith("scopewatch/")


def test_no_proxy_of_the_environment_is_used(posted, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert len(posted("/200")) == 1


@pytest.mark.parametrize(
    ("status", "failure", "text"),
    [
        pytest.param(301, NotDelivered, "301, a redirect, and none is followed", id="moved"),
        pytest.param(302, NotDelivered, "302, a redirect, and none is followed", id="found"),
        pytest.param(307, NotDelivered, "307, a redirect, and none is followed", id="to be posted elsewhere"),
        pytest.param(400, Undeliverable, "answered 400", id="not this one"),
        pytest.param(422, Undeliverable, "answered 422", id="nor this one"),
        pytest.param(401, NotDelivered, "answered 401", id="a wrong token"),
        pytest.param(404, NotDelivered, "answered 404", id="a wrong address"),
        pytest.param(429, NotDelivered, "answered 429", id="too many"),
        pytest.param(500, NotDelivered, "answered 500", id="broken"),
        pytest.param(503, NotDelivered, "answered 503", id="overloaded"),
    ],
)
def test_what_is_not_taken(posted, status, failure, text):
    with pytest.raises(failure, match=text):
        posted(f"/{status}")

    assert len(posted.got) == 1


@contextmanager
def listening(answer):
    """A server that does one odd thing with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve():
            while not stop.is_set():
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    answer(client, stop)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            with socket.socket() as last:
                last.connect_ex(server.getsockname())
            thread.join(WAIT_SECONDS)


def silent(client, stop):
    stop.wait(WAIT_SECONDS)


def closing(client, stop):
    client.recv(10)


def babbling(client, stop):
    client.recv(1000)
    client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def dripping(client, stop):
    client.recv(1000)
    while not stop.wait(0.02):
        try:
            client.sendall(b"H")
        except OSError:
            return


def endless(client, stop):
    client.recv(1000)
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while not stop.is_set():
        try:
            client.sendall(b"X-Header: " + b"x" * 1000 + b"\r\n")
        except OSError:
            return


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(silent, "no answer in time", id="never answers"),
        pytest.param(closing, "(?i)reset|closed|broken pipe", id="hangs up"),
        pytest.param(babbling, "BadStatusLine", id="speaks something else"),
        pytest.param(dripping, "BadStatusLine HHH", id="a byte now and then"),
        pytest.param(endless, "more than 100 headers", id="headers without end"),
    ],
)
def test_a_receiver_that_behaves_oddly_costs_a_moment_only(answer, text):
    with listening(answer) as port:
        hook = Webhook(
            WebhookAddress("127.0.0.1", port, "/", tls=False), silent_seconds=0.3, whole_seconds=0.6
        )
        with pytest.raises(NotDelivered, match=text):
            hook.send(EVENT)


def test_without_its_secret_nothing_is_sent(posted, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN_FILE", "/nowhere/token")

    with pytest.raises(NotDelivered, match="SCOPEWATCH_WEBHOOK_TOKEN_FILE: /nowhere/token: cannot be read"):
        posted("/204")
    assert posted.got == []


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(NotDelivered, match="Connection refused"):
        Webhook(WebhookAddress("127.0.0.1", port, "/", tls=False)).send(EVENT)


def test_a_certificate_that_is_not_trusted_gets_nothing(tmp_path):
    ssl = pytest.importorskip("ssl")
    pem = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    got = []

    def answer(client, stop):
        try:
            with context.wrap_socket(client, server_side=True) as secured:
                got.append(secured.recv(1000))
        except (ssl.SSLError, OSError):
            pass

    with listening(answer) as port, pytest.raises(NotDelivered, match="its certificate is not trusted"):
        Webhook(WebhookAddress("localhost", port, "/", tls=True)).send(EVENT)
    assert got == []


def self_signed(tmp_path):
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return pem
