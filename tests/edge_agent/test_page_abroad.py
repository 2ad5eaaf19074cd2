"""The page for other PCs: by TLS or not at all, nothing without the key, and its troubles stay its own."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import logging
import re
import socket
import ssl
import threading
from contextlib import closing, contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from page_client import WAIT_SECONDS, page_on

from edge_agent.config import EventsConfig, PageConfig
from edge_agent.live_page import monitor as monitor_module
from edge_agent.live_page import page_server as server_module
from edge_agent.live_page.application import site_of
from edge_agent.live_page.doorway import OtherPcs
from edge_agent.live_page.monitor import Monitor
from edge_agent.live_page.page_server import PageServer

HERE = "127.0.0.2"
"""It stands for an address that other PCs reach."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate and its key, and the same key with a password."""
    folder = tmp_path_factory.mktemp("pair")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scope-pc")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = [x509.DNSName("scope-pc"), x509.IPAddress(ipaddress.ip_address(HERE))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "page.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "page.key").write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
    (folder / "locked.key").write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"x")))
    other = ec.generate_private_key(ec.SECP256R1())
    (folder / "other.key").write_bytes(other.private_bytes(*form, serialization.NoEncryption()))
    (folder / "no pem").write_bytes(b"something else")
    return folder


@contextmanager
def abroad_of(home, pair, retry_seconds=30.0, **changes):
    """The same page on an address for other PCs."""
    values = {"listen": HERE, "port": 0, "certificate": pair / "page.crt", "private_key": pair / "page.key"}
    doorway = OtherPcs(**(values | {"names": ("scope-pc",)} | changes))
    server = PageServer(doorway, lambda: site_of(home), retry_seconds=retry_seconds)
    server.start()
    try:
        yield server
    finally:
        server.close()
        assert not server._thread.is_alive()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with page_on(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def abroad(page, pair):
    with abroad_of(page.home, pair) as server:
        yield server


def port_of(server) -> int:
    return int(server.word.rsplit(":", 1)[1].strip("/"))


def ask(server, pair, method, path, body=None, **headers):
    context = ssl.create_default_context(cafile=pair / "page.crt")
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(
        http.client.HTTPSConnection(HERE, port_of(server), context=context, timeout=WAIT_SECONDS)
    ) as client:
        client.request(method, path, body, given)
        answer = client.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_another_pc_signs_in_with_the_key_and_gets_a_secure_cookie(page, abroad, pair):
    port = port_of(abroad)
    body = json.dumps({"token": page.key})
    status, headers, _ = ask(
        abroad, pair, "POST", "/api/session", body, content_type="application/json", host=f"scope-pc:{port}",
        origin=f"https://scope-pc:{port}",
    )  # fmt: skip
    cookie, *flags = headers["set-cookie"].split("; ")

    assert abroad.word == f"https://scope-pc:{port}/"
    assert status == 204
    assert {flag.lower() for flag in flags} >= {"secure", "httponly", "samesite=strict"}
    status, _, state = ask(abroad, pair, "GET", "/api/state", cookie=cookie)
    assert (status, json.loads(state)["epoch"]) == (200, page.home.hub.epoch)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/api/state", "/api/events", "/nowhere"])
def test_without_the_key_another_pc_reads_nothing_but_the_shell(page, abroad, pair, path):
    status, headers, body = ask(abroad, pair, "GET", path)
    assert (status, set(json.loads(body))) == (401, {"error"})
    assert headers["x-frame-options"] == "DENY"

    if path.endswith("z") or path == "/metrics":
        assert ask(abroad, pair, "GET", path, authorization=f"Bearer {page.key}")[0] == 200


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/favicon.ico"])
def test_the_shell_holds_nothing_and_is_free(abroad, pair, path):
    assert ask(abroad, pair, "GET", path)[0] in (200, 204)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"host": "scope-pc:{port}"}, 200, id="by name"),
        pytest.param({"host": "SCOPE-PC:{port}"}, 200, id="in capitals"),
        pytest.param({"host": "127.0.0.2:{port}"}, 200, id="by address"),
        pytest.param({"host": "127.0.0.1:{port}"}, 403, id="a name of the PC itself"),
        pytest.param({"host": "localhost:{port}"}, 403, id="another name of the PC itself"),
        pytest.param({"host": "scope-pc"}, 403, id="no port"),
        pytest.param({"host": "evil.example:{port}"}, 403, id="rebound"),
        pytest.param({"host": "scope-pc.evil.example:{port}"}, 403, id="a longer name"),
        pytest.param({"origin": "https://127.0.0.2:{port}"}, 200, id="our own page"),
        pytest.param({"origin": "http://127.0.0.2:{port}"}, 403, id="the same without TLS"),
        pytest.param({"origin": "null"}, 403, id="a sandboxed page"),
    ],
)
def test_it_answers_under_its_own_names_only(abroad, pair, headers, status):
    given = {name: value.format(port=port_of(abroad)) for name, value in headers.items()}

    assert ask(abroad, pair, "GET", "/", **given)[0] == status


def test_the_page_of_this_pc_knows_no_names_of_other_pcs(page):
    assert page.ask("GET", "/", host=f"scope-pc:{page.port}")[0] == 403


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "speaks"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_1, False, id="1.1"),
        pytest.param(ssl.TLSVersion.TLSv1_2, True, id="1.2"),
        pytest.param(ssl.TLSVersion.TLSv1_3, True, id="1.3"),
    ],
)
def test_tls_is_of_today(abroad, pair, version, speaks):
    context = ssl.create_default_context(cafile=pair / "page.crt")
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with (
            socket.create_connection((HERE, port_of(abroad)), timeout=WAIT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="scope-pc") as secure,
        ):
            assert secure.version() is not None
            found = True
    except (ssl.SSLError, ConnectionError):
        found = False
    assert found is speaks


def test_without_tls_there_is_no_answer(abroad, pair):
    with socket.create_connection((HERE, port_of(abroad)), timeout=WAIT_SECONDS) as plain:
        plain.sendall(f"GET /healthz HTTP/1.1\r\nHost: {HERE}:{port_of(abroad)}\r\n\r\n".encode())
        try:
            assert b"HTTP" not in plain.recv(1000)
        except ConnectionError:
            pass
    assert ask(abroad, pair, "GET", "/")[0] == 200


def test_a_client_that_does_not_speak_is_dropped(page, pair, monkeypatch):
    monkeypatch.setattr(server_module, "_HANDSHAKE_SECONDS", 0.2)
    with abroad_of(page.home, pair) as server:
        assert ask(server, pair, "GET", "/")[0] == 200
        with socket.create_connection((HERE, port_of(server)), timeout=WAIT_SECONDS) as silent:
            try:
                assert silent.recv(1000) == b""
            except ConnectionError:
                pass
        assert ask(server, pair, "GET", "/")[0] == 200


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param(
            {"certificate": "none"}, r"none or page.private_key .* cannot be read: No such file", id="missing"
        ),
        pytest.param({"certificate": "no pem"}, "are no pair of PEM files", id="no certificate"),
        pytest.param({"private_key": "no pem"}, "are no pair of PEM files", id="no key"),
        pytest.param({"private_key": "other.key"}, "are no pair of PEM files", id="the key of another"),
        pytest.param({"private_key": "locked.key"}, "are no pair of PEM files", id="a key with a password"),
    ],
)
def test_a_wrong_certificate_is_a_word_and_the_page_of_this_pc_is_there(
    tmp_path, pair, monkeypatch, caplog, changes, word
):
    files = {"certificate": pair / "page.crt", "private_key": pair / "page.key"}
    files |= {name: pair / file for name, file in changes.items()}
    config = PageConfig(port=0, listen="192.0.2.1", **files)
    monkeypatch.setattr(monitor_module, "OtherPcs", lambda listen, *rest: OtherPcs(HERE, *rest))
    monitor = Monitor(config, EventsConfig())
    with caplog.at_level(logging.INFO):
        monitor.start()
        for _ in range(WAIT_SECONDS * 50):
            if ", for other PCs none: " in (monitor.word or ""):
                break
            threading.Event().wait(0.02)
    said = monitor.word
    here = said.partition(",")[0]
    port = int(here.rsplit(":", 1)[1].strip("/"))
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)) as client:
        client.request("GET", "/static/main.js")
        assert client.getresponse().status == 200
    monitor.close()

    assert here.startswith("http://127.0.0.1:")
    assert re.search(word, said), said
    assert said.endswith("; started again after 30 s")


def test_an_address_that_this_pc_has_not_is_a_word(page, pair):
    with abroad_of(page.home, pair, listen="192.0.2.1") as server:
        assert server.word == "none: 192.0.2.1 is no address of this PC (page.listen); tried again every 30 s"


def test_a_certificate_that_is_put_right_is_taken_up(page, pair, tmp_path):
    (tmp_path / "page.crt").write_bytes(b"")
    with abroad_of(page.home, pair, retry_seconds=0.1, certificate=tmp_path / "page.crt") as server:
        for _ in range(WAIT_SECONDS * 50):
            if server.word.startswith("none"):
                break
            threading.Event().wait(0.02)
        (tmp_path / "page.crt").write_bytes((pair / "page.crt").read_bytes())
        for _ in range(WAIT_SECONDS * 50):
            if server.word.startswith("https"):
                break
            threading.Event().wait(0.02)
        assert ask(server, pair, "GET", "/")[0] == 200
