"""Where events go, taken from the configuration, which is checked; and the secrets for it, from the environment.

A secret stands in no configuration and no address: in an environment variable, or in the file that the variable
of the same name with `_FILE` at its end names. It is read when a connection is made, not before: a file that is
not there yet is no reason not to watch. Nothing here connects.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from edge_agent.config import EventsConfig

WEBHOOK_TOKEN: Final = "SCOPEWATCH_WEBHOOK_TOKEN"  # noqa: S105 - the variable's name
MQTT_USER: Final = "SCOPEWATCH_MQTT_USER"
MQTT_PASSWORD: Final = "SCOPEWATCH_MQTT_PASSWORD"  # noqa: S105
_PORTS: Final = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
_LONGEST_SECRET_BYTES: Final = 8192


class SecretUnusable(Exception):
    """A secret cannot be read, or is none; the text names its variable, never itself."""


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """`path` begins with "/" and holds the query."""

    host: str
    port: int
    path: str
    tls: bool

    def __str__(self) -> str:
        """Return what may be logged: no path, which can be a secret, too."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """Events are published under `topic`, the agent's state under `topic`/state."""

    host: str
    port: int
    topic: str
    tls: bool

    def __str__(self) -> str:
        """Return what may be logged."""
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


def webhook_address(events: EventsConfig) -> WebhookAddress | None:
    """Return where findings are posted; None: nowhere."""
    if events.webhook_url is None:
        return None
    parts = urlsplit(events.webhook_url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebhookAddress(parts.hostname or "", _port(parts), path, parts.scheme == "https")


def mqtt_address(events: EventsConfig) -> MqttAddress | None:
    """Return where events are published; None: nowhere."""
    if events.mqtt_url is None:
        return None
    parts = urlsplit(events.mqtt_url)
    return MqttAddress(parts.hostname or "", _port(parts), parts.path.strip("/"), parts.scheme == "mqtts")


def secret(name: str) -> str | None:
    """Return a secret by the name of its variable; None where there is none. Raises SecretUnusable."""
    text = os.environ.get(name)
    file = os.environ.get(f"{name}_FILE")
    if text is None and file is not None:
        try:
            text = Path(file).read_bytes()[:_LONGEST_SECRET_BYTES].decode().strip()
        except OSError as error:
            raise SecretUnusable(f"{name}_FILE: {file}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise SecretUnusable(f"{name}_FILE: {file}: is not UTF-8 text") from None
    if text is not None and not (text.isascii() and text.isprintable()):
        raise SecretUnusable(f"{name}: holds characters that no secret can have")
    return text or None


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]
