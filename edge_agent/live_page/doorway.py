"""Where the page is reached: on the loopback addresses of this PC, and, where that is asked for, on one other.

On another address it speaks TLS or not at all. Only this module opens listening sockets.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from edge_agent.live_page.gate import Door, door_of

if TYPE_CHECKING:
    from pathlib import Path

DOORSTEP: Final = 128
"""Connections that the system keeps for us until we take them."""


class Unusable(Exception):
    """There is no page at this place at the moment; the text says why."""


class Doorway(Protocol):
    """One place to listen. `sockets` and `tls` raise Unusable."""

    def sockets(self) -> list[socket.socket]:
        """Listen, and return the sockets."""

    def tls(self) -> ssl.SSLContext | None:
        """Return what encrypts here, None where nothing has to."""

    def door(self, port: int) -> Door:
        """Return what requests that come in here have to name."""

    def address(self, port: int) -> str:
        """Return the address for people."""


@dataclass(frozen=True, slots=True)
class Loopback:
    """127.0.0.1 and, where this PC has it, ::1; port 0 is any free one."""

    port: int

    def sockets(self) -> list[socket.socket]:
        """Listen, and return the sockets."""
        try:
            return _loopback_sockets(self.port)
        except OSError as error:
            raise Unusable(_why_not("127.0.0.1", self.port, error)) from None

    def tls(self) -> None:
        """Nothing is encrypted that stays in this PC."""

    def door(self, port: int) -> Door:
        """Return the names of this very PC."""
        return door_of(port)

    def address(self, port: int) -> str:
        """Return the address for people."""
        return f"http://127.0.0.1:{port}/"


@dataclass(frozen=True, slots=True)
class OtherPcs:
    """One address of this PC for others, with a certificate; `names` are those under which they know it."""

    listen: str
    port: int
    certificate: Path
    private_key: Path
    names: tuple[str, ...] = ()

    def sockets(self) -> list[socket.socket]:
        """Listen, and return the socket."""
        family = socket.AF_INET6 if ipaddress.ip_address(self.listen).version == 6 else socket.AF_INET
        try:
            return [_listen(family, (self.listen, self.port))]
        except OSError as error:
            raise Unusable(_why_not(self.listen, self.port, error)) from None

    def tls(self) -> ssl.SSLContext:
        """Return what encrypts here: TLS 1.2 at least."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a function it would ask on the terminal for the password of a key that has one.
            context.load_cert_chain(self.certificate, self.private_key, password=lambda: "")
        except ssl.SSLError as error:
            raise Unusable(
                f"page.certificate {self.certificate} and page.private_key {self.private_key} are no pair of PEM "
                f"files without a password: {error.reason or error}"
            ) from None
        except OSError as error:
            raise Unusable(
                f"page.certificate {self.certificate} or page.private_key {self.private_key} cannot be read: "
                f"{error.strerror or error}"
            ) from None
        return context

    def door(self, port: int) -> Door:
        """Return its names and its address."""
        return door_of(port, (*self.names, self._host), "https")

    def address(self, port: int) -> str:
        """Return the address for people."""
        return f"https://{self.names[0] if self.names else self._host}:{port}/"

    @property
    def _host(self) -> str:
        return f"[{self.listen}]" if ":" in self.listen else self.listen


def _loopback_sockets(port: int) -> list[socket.socket]:
    first = _listen(socket.AF_INET, ("127.0.0.1", port))
    sockets = [first]
    if socket.has_ipv6:
        with contextlib.suppress(OSError):  # no IPv6 here, or somebody else's port there
            sockets.append(_listen(socket.AF_INET6, ("::1", first.getsockname()[1])))
    return sockets


def _listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    # With the protocol named: asyncio switches Nagle's waiting off only where it is, and each answer is two writes.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # Windows lets a second program take over a port that a first one listens on (not verified there).
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Without it a restart would find the connections of the last run in the way for a minute.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(DOORSTEP)
    except BaseException:
        listening.close()
        raise
    return listening


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)):
        return f"port {port} of {host} is taken by another program (page.port)"
    if error.errno in (errno.EADDRNOTAVAIL, getattr(errno, "WSAEADDRNOTAVAIL", errno.EADDRNOTAVAIL)):
        return f"{host} is no address of this PC (page.listen)"
    return f"port {port} of {host} cannot be used: {error.strerror or error} (page.port)"
