"""Events by MQTT 3.1.1, each at least once (QoS 1), and the agent's state as a retained message.

`TOPIC/state` says "online" while the agent is connected and "offline" once it is not: said by itself when it
stops, and by the broker (last will) when it vanishes. paho-mqtt, which keeps the connection, is imported here only.
"""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any, Final

from edge_agent.announcing.addresses import MQTT_PASSWORD, MQTT_USER, SecretUnusable, secret
from edge_agent.announcing.outbox import NotDelivered

if TYPE_CHECKING:
    from edge_agent.announcing.addresses import MqttAddress
    from edge_agent.announcing.event_record import Event

ONLINE: Final = "online"
OFFLINE: Final = "offline"
_ACKNOWLEDGED_SECONDS: Final = 10.0
_CONNECTED_SECONDS: Final = 5.0
_GOODBYE_SECONDS: Final = 0.3
_KEEPALIVE_SECONDS: Final = 30
_LONGEST_RECONNECT_SECONDS: Final = 60


class MqttLink:
    """The link to one broker; connects with the first event, and again by itself."""

    def __init__(self, address: MqttAddress, *, acknowledged_seconds: float = _ACKNOWLEDGED_SECONDS) -> None:
        self._address = address
        self._acknowledged_seconds = acknowledged_seconds
        self._client: Any = None
        self._connected = threading.Event()
        self._aborted = threading.Event()
        self._refused: str | None = None
        # What was handed to paho is delivered by it, sooner or later: never handed over twice.
        self._handed_over: tuple[str, Any] | None = None

    @property
    def _state_topic(self) -> str:
        return f"{self._address.topic}/state"

    def send(self, event: Event) -> None:
        """Publish one event and wait until the broker has it. Raises NotDelivered."""
        if self._client is None:
            self._client = self._new_client()
        if not self._connected.wait(_CONNECTED_SECONDS) or self._aborted.is_set():
            raise NotDelivered(self._refused or "the broker cannot be reached")
        if self._handed_over is None or self._handed_over[0] != event.id:
            message = self._client.publish(self._address.topic, event.body, qos=1)
            self._handed_over = (event.id, message)
        message = self._handed_over[1]
        try:
            message.wait_for_publish(self._acknowledged_seconds)
            arrived = message.is_published()
        except (ValueError, RuntimeError) as error:
            self._handed_over = None
            raise NotDelivered(f"not published: {error}") from None
        if not arrived:
            raise NotDelivered("the broker does not acknowledge")

    def abort(self) -> None:
        """Wait no longer for a connection; all other waits are a few seconds long."""
        self._aborted.set()
        self._connected.set()

    def close(self) -> None:
        """Say "offline" and leave, without waiting long for anybody."""
        if self._client is None:
            return
        if self._connected.is_set() and not self._aborted.is_set():
            goodbye = self._client.publish(self._state_topic, OFFLINE, qos=1, retain=True)
            try:
                goodbye.wait_for_publish(_GOODBYE_SECONDS)
            except (ValueError, RuntimeError):
                return
            finally:
                self._client.disconnect()
        else:
            self._client.disconnect()
        self._client.loop_stop()

    def _new_client(self) -> Any:  # noqa: ANN401 - paho, which is imported only when it is needed
        import paho.mqtt.client as mqtt

        address = self._address
        try:
            user, password = secret(MQTT_USER), secret(MQTT_PASSWORD)
        except SecretUnusable as error:
            raise NotDelivered(str(error)) from None
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"scopewatch-{secrets.token_hex(4)}",
            protocol=mqtt.MQTTv311,
        )
        if user is not None:
            client.username_pw_set(user, password)
        if address.tls:
            client.tls_set()
        client.will_set(self._state_topic, OFFLINE, qos=1, retain=True)
        client.reconnect_delay_set(1, _LONGEST_RECONNECT_SECONDS)
        client.on_connect = self._greet
        client.on_disconnect = self._miss
        client.connect_async(address.host, address.port, keepalive=_KEEPALIVE_SECONDS)
        client.loop_start()
        return client

    def _greet(self, client: Any, data: object, flags: object, reason: Any, properties: object) -> None:  # noqa: ANN401
        if reason.is_failure:
            self._refused = f"the broker refuses: {reason}"
            return
        self._refused = None
        client.publish(self._state_topic, ONLINE, qos=1, retain=True)
        self._connected.set()

    def _miss(self, client: object, data: object, flags: object, reason: object, properties: object) -> None:
        self._connected.clear()
