"""The connections of the page: few, and none that takes its time.

uvicorn has no limit to how long a request may take to arrive, and holds as many connections as the system gives;
each costs a descriptor that the watching needs. An answer that goes on for ever, a stream, has no time limit as
long as it is read. Only this module knows uvicorn's protocol class.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

MOST_CONNECTIONS: Final = 64
REQUEST_SECONDS: Final = 5.0
"""So long a client has for a whole request, from when it connected or from the last answer on."""
READING_SECONDS: Final = 10.0
"""So long a client may leave an answer unread that does not fit into the system's buffers."""
MOST_HEADER_BYTES: Final = 8 * 1024


class BoundedProtocol(H11Protocol):
    """One connection."""

    since = 0.0
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_made(self) -> bool:
        """Whether the connection stands: over TLS, once both sides have agreed."""
        return self.since > 0.0

    @property
    def is_answering(self) -> bool:
        """Whether a request has arrived whole whose answer has not gone out yet."""
        # mypy sees a protocol without its state before the first request; it is None then. `more_body` holds until
        # the last byte has come: a body that drips wins no time.
        cycle = cast("object | None", self.cycle)
        return cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    @property
    def is_leaving(self) -> bool:
        """Whether the connection is being closed."""
        return self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection; where there are too many, the one that has waited longest goes."""
        super().connection_made(transport)
        self.since = time.monotonic()
        self._allow(REQUEST_SECONDS)
        # Several are made in one turn of the loop; one that was dropped is among them until the next.
        staying = [c for c in self.connections if isinstance(c, BoundedProtocol) and not c.is_leaving]
        if len(staying) > MOST_CONNECTIONS:
            idle = (connection for connection in staying if not connection.is_answering)
            min(idle, key=lambda connection: connection.since, default=self).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._allow(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; once it is a whole request, time no longer counts."""
        super().data_received(data)
        if self.is_answering:
            self._allow(None)

    def on_response_complete(self) -> None:
        """Wait for the next request, for a while."""
        self.since = time.monotonic()
        self._allow(REQUEST_SECONDS)
        super().on_response_complete()
        if self.is_answering:
            self._allow(None)

    def pause_writing(self) -> None:
        """Wait for the client to read, for a while."""
        super().pause_writing()
        self._allow(READING_SECONDS)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._allow(None if self.is_answering else REQUEST_SECONDS)

    def drop(self) -> None:
        """End the connection at once."""
        self._allow(None)
        self.transport.abort()

    def _allow(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and not self.transport.is_closing():
            self._timer = self.loop.call_later(seconds, self.drop)
