"""What systemd hears on its socket, as datagrams on a real one."""

from __future__ import annotations

import os
import secrets
import socket
import sys

import pytest

from edge_agent.hosting.notify import Notifier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets as systemd has them")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def ear(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        yield ear


def heard(ear):
    lines = []
    while True:
        try:
            lines.append(ear.recv(4096).decode())
        except BlockingIOError:
            return lines


def listening(ear, **more):
    return {"NOTIFY_SOCKET": ear.getsockname(), **more}


def test_each_message_is_one_datagram(ear):
    notifier = Notifier(listening(ear))
    notifier.ready("watching")
    notifier.say("STATUS=a\nREADY=1", "X=\udce9")
    notifier.stopping()

    assert heard(ear) == [
        "READY=1\nSTATUS=watching",
        "STATUS=a READY=1\nX=\\udce9",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_a_change_says_since_when(ear):
    Notifier(listening(ear)).reloading("another model")

    first, second, third = heard(ear)[0].split("\n")
    assert (first, third) == ("RELOADING=1", "STATUS=another model")
    assert second.startswith("MONOTONIC_USEC=")


def test_an_abstract_name_begins_with_a_zero_byte():
    name = f"scopewatch-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        ear.setblocking(False)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).say("READY=1")
        assert heard(ear) == ["READY=1"]


@pytest.mark.parametrize(
    ("environment", "fed"),
    [
        pytest.param({}, 0, id="no watchdog"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 4, id="each third of its time"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 4, id="ours"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0, id="another process's"),
        pytest.param({"WATCHDOG_USEC": "soon"}, 0, id="nonsense"),
        pytest.param({"WATCHDOG_USEC": "0"}, 0, id="switched off"),
    ],
)
def test_the_watchdog_is_fed_at_a_third_of_its_time(ear, environment, fed):
    clock = Clock()
    notifier = Notifier(listening(ear, **environment), clock)
    for clock.now in range(100, 131):
        notifier.alive()

    assert heard(ear) == ["WATCHDOG=1"] * fed


def test_patience_is_asked_for_now_and_then(ear):
    clock = Clock()
    notifier = Notifier(listening(ear), clock)
    for clock.now in range(100, 110):
        notifier.patience()

    assert heard(ear) == ["EXTEND_TIMEOUT_USEC=30000000"] * 2


@pytest.mark.parametrize("place", ["", "/nowhere/notify", "@nobody-listens-here"])
def test_that_nobody_listens_is_no_error(place):
    notifier = Notifier({"NOTIFY_SOCKET": place})
    notifier.ready("watching")
    assert notifier.listens is bool(place)
