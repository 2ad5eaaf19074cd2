"""Events by HTTP POST: one request each, over a connection of its own, with an end to every wait.

No redirect is followed, to wherever: the address that was configured is the only one that ever hears anything.
No proxy is used, whatever the environment says. TLS is verified against the system's authorities, or those of
OpenSSL's `SSL_CERT_FILE`. Only this module speaks HTTP to others.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Final

from edge_agent import __version__
from edge_agent.announcing.addresses import WEBHOOK_TOKEN, SecretUnusable, secret
from edge_agent.announcing.outbox import NotDelivered, Undeliverable

if TYPE_CHECKING:
    from edge_agent.announcing.addresses import WebhookAddress
    from edge_agent.announcing.event_record import Event

SILENT_SECONDS: Final = 10.0
"""So long the receiver may say nothing."""
WHOLE_SECONDS: Final = 20.0
"""So long one event may take."""
_NOT_THIS_ONE: Final = frozenset({400, 413, 415, 422})
_MULTIPLE_CHOICES: Final = 300
_BAD_REQUEST: Final = 400


class Webhook:
    """The link to one address."""

    def __init__(
        self,
        address: WebhookAddress,
        *,
        silent_seconds: float = SILENT_SECONDS,
        whole_seconds: float = WHOLE_SECONDS,
    ) -> None:
        self._address = address
        self._silent_seconds = silent_seconds
        self._whole_seconds = whole_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._context = ssl.create_default_context() if address.tls else None

    def send(self, event: Event) -> None:
        """Post one event. Raises NotDelivered, Undeliverable."""
        try:
            headers = _headers(secret(WEBHOOK_TOKEN))
        except SecretUnusable as error:
            raise NotDelivered(str(error)) from None
        self._connection = connection = self._new_connection()
        # A receiver that sends a byte now and then would never be silent.
        watch = threading.Timer(self._whole_seconds, self.abort)
        watch.daemon = True
        watch.start()
        try:
            connection.request("POST", self._address.path, event.body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise NotDelivered(_words(error)) from None
        finally:
            watch.cancel()
            self._connection = None
            connection.close()
        _judge(status)

    def abort(self) -> None:
        """End the request that is under way."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Nothing stays open between events."""

    def _new_connection(self) -> http.client.HTTPConnection:
        address, seconds = self._address, self._silent_seconds
        if self._context is not None:
            return http.client.HTTPSConnection(
                address.host, address.port, timeout=seconds, context=self._context
            )
        return http.client.HTTPConnection(address.host, address.port, timeout=seconds)


def _headers(token: str | None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"scopewatch/{__version__}",
        "Connection": "close",
    }
    return headers if token is None else headers | {"Authorization": f"Bearer {token}"}


def _judge(status: int) -> None:
    if status < _MULTIPLE_CHOICES:
        return
    if status in _NOT_THIS_ONE:
        raise Undeliverable(f"the receiver answered {status}")
    if status < _BAD_REQUEST:
        raise NotDelivered(
            f"the receiver answered {status}, a redirect, and none is followed: "
            "put the final address into events.webhook_url"
        )
    raise NotDelivered(f"the receiver answered {status}")


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    text = error.strerror if isinstance(error, OSError) else None
    return text or f"{type(error).__name__} {error}".strip()
