"""Where events go and with which secret; what is no address is the business of `test_allowed_paths`."""

from __future__ import annotations

import pytest

from edge_agent.announcing.addresses import (
    MQTT_PASSWORD,
    MQTT_USER,
    WEBHOOK_TOKEN,
    MqttAddress,
    SecretUnusable,
    WebhookAddress,
    mqtt_address,
    secret,
    webhook_address,
)
from edge_agent.config import ConfigRefused, EventsConfig, configure
from edge_agent.configuring import tables

HOOK = "https://lims.example.org/hooks/1?key=2"
NAMES = (WEBHOOK_TOKEN, MQTT_USER, MQTT_PASSWORD)
BROKER = "mqtt://broker.example.org/scope/findings"


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def events(webhook=None, mqtt=None) -> EventsConfig:
    return EventsConfig(webhook_url=webhook, mqtt_url=mqtt)


def test_nothing_goes_anywhere_unless_an_address_is_given():
    assert webhook_address(EventsConfig()) is None
    assert mqtt_address(EventsConfig()) is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        pytest.param(HOOK, WebhookAddress("lims.example.org", 443, "/hooks/1?key=2", tls=True), id="https"),
        pytest.param("http://10.0.0.7:8080", WebhookAddress("10.0.0.7", 8080, "/", tls=False), id="a port"),
        pytest.param("http://[::1]:8080/x", WebhookAddress("::1", 8080, "/x", tls=False), id="IPv6"),
    ],
)
def test_webhook(url, address):
    assert webhook_address(events(webhook=url)) == address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        pytest.param(
            BROKER, MqttAddress("broker.example.org", 1883, "scope/findings", tls=False), id="plain"
        ),
        pytest.param("mqtts://b/scope/", MqttAddress("b", 8883, "scope", tls=True), id="TLS"),
    ],
)
def test_mqtt(url, address):
    assert mqtt_address(events(mqtt=url)) == address


def test_without_paho_the_package_is_named_with_the_key(monkeypatch):
    monkeypatch.setattr(tables, "find_spec", lambda name: None)

    with pytest.raises(ConfigRefused, match=r"mqtt_url.*paho-mqtt, .*: pip install paho-mqtt"):
        configure(None, events={"mqtt_url": BROKER})


def test_secrets_come_from_the_environment_or_a_file(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("pass word\n")
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN", "t0ken")
    monkeypatch.setenv("SCOPEWATCH_MQTT_PASSWORD_FILE", str(file))

    assert [secret(name) for name in NAMES] == ["t0ken", None, "pass word"]


def test_an_address_is_logged_without_its_path():
    assert str(webhook_address(events(webhook=HOOK))) == "https://lims.example.org:443"
    assert str(mqtt_address(events(mqtt=BROKER))) == "mqtt://broker.example.org:1883"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, r"SCOPEWATCH_WEBHOOK_TOKEN_FILE: .*cannot be read: No such file", id="no file"),
        pytest.param(b"\xff\xfe", r"is not UTF-8 text", id="no text"),
        pytest.param(b"a\nb", r"SCOPEWATCH_WEBHOOK_TOKEN: holds characters", id="two lines"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named(monkeypatch, tmp_path, content, text):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN_FILE", str(file))

    with pytest.raises(SecretUnusable, match=text):
        secret("SCOPEWATCH_WEBHOOK_TOKEN")
