"""Where events go and with which secret, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from edge_agent.announcing import addresses
from edge_agent.announcing.addresses import MqttAddress, WebhookAddress, mqtt_address, webhook_address
from edge_agent.config import ConfigRefused, EventsConfig

HOOK = "https://lims.example.org/hooks/1?key=2"
BROKER = "mqtt://broker.example.org/scope/findings"


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    for name in (addresses.WEBHOOK_TOKEN, addresses.MQTT_USER, addresses.MQTT_PASSWORD):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def events(webhook=None, mqtt=None) -> EventsConfig:
    return EventsConfig.model_construct(webhook_url=webhook, mqtt_url=mqtt)


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


@pytest.mark.parametrize(
    "url",
    ["ftp://host/", "lims.example.org", "https://", "https://host:99999/", "https://host:x/", "https://ho st/",
     "https://host/\r\nX: y", "https://[::1/", "https://host/ü", "mqtt://host/topic", ""],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigRefused) as refused:
        webhook_address(events(webhook=url))

    assert str(refused.value) == (
        "events.webhook_url: is no address that begins with http:// or https:// and names a host"
    )


@pytest.mark.parametrize(
    ("url", "text"),
    [
        pytest.param("mqtt://host:1883", r"^events\.mqtt_url: names no topic", id="no topic"),
        pytest.param("mqtt://host/a/#", r"^events\.mqtt_url: names no topic", id="a pattern"),
        pytest.param("mqtt://host/a/+/b", r"^events\.mqtt_url: names no topic", id="another pattern"),
        pytest.param("http://host/a", r"begins with mqtt:// or mqtts://", id="another scheme"),
        pytest.param(
            "mqtt://u:p@host/a", r"SCOPEWATCH_MQTT_USER and SCOPEWATCH_MQTT_PASSWORD", id="a password"
        ),
    ],
)
def test_what_is_no_topic_is_refused(url, text):
    with pytest.raises(ConfigRefused, match=text):
        mqtt_address(events(mqtt=url))


def test_a_secret_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigRefused, match="SCOPEWATCH_WEBHOOK_TOKEN") as refused:
        webhook_address(events(webhook="https://user:s3cret@host/"))

    assert "s3cret" not in str(refused.value)


def test_without_paho_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(addresses, "find_spec", lambda name: None)

    with pytest.raises(
        ConfigRefused, match=r"paho-mqtt, which is not installed: pip install 'scopewatch\[mqtt\]'"
    ):
        mqtt_address(events(mqtt=BROKER))


def test_secrets_come_from_the_environment_or_a_file(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("pass word\n")
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN", "t0ken")
    monkeypatch.setenv("SCOPEWATCH_MQTT_USER", "scope")
    monkeypatch.setenv("SCOPEWATCH_MQTT_PASSWORD_FILE", str(file))

    hook, broker = webhook_address(events(webhook=HOOK)), mqtt_address(events(mqtt=BROKER))

    assert hook.token == "t0ken"
    assert (broker.user, broker.password) == ("scope", "pass word")
    assert str(hook) == "https://lims.example.org:443"
    assert str(broker) == "mqtt://broker.example.org:1883"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, r"SCOPEWATCH_WEBHOOK_TOKEN_FILE: .*cannot be read: No such file", id="no file"),
        pytest.param(b"\xff\xfe", r"is not UTF-8 text", id="no text"),
        pytest.param(b"a\nb", r"SCOPEWATCH_WEBHOOK_TOKEN: holds characters", id="two lines"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused(monkeypatch, tmp_path, content, text):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN_FILE", str(file))

    with pytest.raises(ConfigRefused, match=text):
        webhook_address(events(webhook=HOOK))
