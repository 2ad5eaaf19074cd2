"""An MQTT 3.1.1 broker of a hundred lines: connect, publish (QoS 0 and 1), ping, last will. No subscriptions.

What it does not do, or not in time, is for the test to say.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

CONNECT, PUBLISH, PINGREQ, DISCONNECT = 1, 3, 12, 14


@dataclass
class Broker:
    """`got` holds (topic, payload, QoS, retain); `retained` the last retained payload of each topic."""

    port: int
    got: list[tuple[str, bytes, int, bool]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    logins: list[tuple[str | None, str | None]] = field(default_factory=list)
    refuses: int = 0
    """The code that it answers a connection with; 0 accepts."""
    acknowledges: bool = True
    clients: list[socket.socket] = field(default_factory=list)

    def hang_up(self) -> None:
        for client in self.clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@contextmanager
def broker(port: int = 0):
    with socket.create_server(("127.0.0.1", port)) as server:
        tiny = Broker(server.getsockname()[1])
        threads, stop = [], threading.Event()

        def accept():
            while True:
                client, _ = server.accept()
                if stop.is_set():
                    client.close()
                    return
                tiny.clients.append(client)
                threads.append(threading.Thread(target=serve, args=(tiny, client)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield tiny
        finally:
            stop.set()
            with socket.create_connection(server.getsockname()):
                accepting.join()
            tiny.hang_up()
            for thread in threads:
                thread.join()


def serve(tiny: Broker, client: socket.socket) -> None:
    will = None
    with client, client.makefile("rb") as stream:
        try:
            while (packet := read_packet(stream)) is not None:
                kind, flags, body = packet
                if kind == CONNECT:
                    will = connect(tiny, body)
                    client.sendall(bytes([0x20, 2, 0, tiny.refuses]))
                elif kind == PUBLISH:
                    publish(tiny, client, flags, body)
                elif kind == PINGREQ:
                    client.sendall(b"\xd0\x00")
                elif kind == DISCONNECT:
                    will = None
                    break
        except OSError:
            pass
    if will is not None:
        tiny.retained[will[0]] = will[1]


def read_packet(stream):
    first = stream.read(1)
    if not first:
        return None
    length = shift = 0
    while True:
        byte = stream.read(1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return first[0] >> 4, first[0] & 15, stream.read(length)


def text(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">H", body, at)
    return body[at + 2 : at + 2 + length], at + 2 + length


def connect(tiny: Broker, body: bytes) -> tuple[str, bytes] | None:
    _, at = text(body, 0)
    flags, at = body[at + 1], at + 4
    _, at = text(body, at)
    will = None
    if flags & 4:
        topic, at = text(body, at)
        payload, at = text(body, at)
        will = (topic.decode(), payload)
    login = [None, None]
    for place, flag in enumerate((128, 64)):
        if flags & flag:
            value, at = text(body, at)
            login[place] = value.decode()
    tiny.logins.append(tuple(login))
    return will


def publish(tiny: Broker, client: socket.socket, flags: int, body: bytes) -> None:
    topic, at = text(body, 0)
    quality, retain = flags >> 1 & 3, bool(flags & 1)
    number = body[at : at + 2] if quality else b""
    payload = body[at + len(number) :]
    tiny.got.append((topic.decode(), payload, quality, retain))
    if retain:
        tiny.retained[topic.decode()] = payload
    if quality and tiny.acknowledges:
        client.sendall(b"\x40\x02" + number)
