"""Signals reach whoever listens, whatever the main thread is doing, and leave the process as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from edge_agent.signals import Signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="raises signals of POSIX")
WAIT_SECONDS = 20

STUBBORN = """
import os, sys, time
from edge_agent.signals import Signals
with Signals(lambda: print("asked", flush=True), limit_seconds=0.2):
    print("listening", flush=True)
    os.read(0, 1) if sys.argv[1] == "waits" else time.sleep(60)
    while True:
        pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_is_heard_in_another_thread_and_nothing_is_raised_here(number):
    heard, threads = threading.Event(), []
    before = signal.getsignal(number)
    with Signals(lambda: (threads.append(threading.current_thread().name), heard.set())):
        os.kill(os.getpid(), number)
        assert heard.wait(WAIT_SECONDS)

    assert threads == ["signals"]
    assert signal.getsignal(number) is before


def test_hanging_up_asks_for_a_look_where_somebody_wants_one(monkeypatch):
    heard, ends, before = threading.Event(), [], signal.getsignal(signal.SIGHUP)
    with Signals(lambda: ends.append(1), on_hang_up=heard.set):
        os.kill(os.getpid(), signal.SIGHUP)
        assert heard.wait(WAIT_SECONDS)
    assert ends == []
    with Signals(lambda: None):
        assert signal.getsignal(signal.SIGHUP) is before


def test_two_contexts_one_in_the_other_each_hear_their_own():
    outer, inner = threading.Event(), threading.Event()
    with Signals(outer.set):
        with Signals(inner.set):
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.wait(WAIT_SECONDS)
            assert not outer.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.wait(WAIT_SECONDS)


def test_outside_the_main_thread_nothing_is_touched():
    before, during = signal.getsignal(signal.SIGTERM), []

    def listen():
        with Signals(lambda: None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert during == [before]


@pytest.mark.parametrize("main_thread", ["waits", "computes"])
def test_a_main_thread_that_never_comes_back_is_not_waited_for(main_thread):
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, main_thread],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "listening\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0
            assert process.stdout.read() == "asked\n"
        finally:
            process.kill()
