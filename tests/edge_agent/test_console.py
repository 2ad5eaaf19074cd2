"""A console of Windows that is closed, on a fake kernel32. Not verified on Windows."""

from __future__ import annotations

import sys
import threading

import pytest

from edge_agent.hosting.console import console_closing


class Kernel32:
    def __init__(self):
        self.handlers = []

    def SetConsoleCtrlHandler(self, handler, add):
        self.handlers.append(handler) if add else self.handlers.remove(handler)
        return 1


def as_it_is(*types):
    return lambda function: function


@pytest.mark.parametrize("event", [pytest.param(2, id="closed"), pytest.param(6, id="shut down")])
def test_windows_is_kept_waiting_until_the_agent_has_ended(event):
    library, asked = Kernel32(), threading.Event()
    answers = []
    with console_closing(asked.set, library, as_it_is):
        thread = threading.Thread(target=lambda: answers.append(library.handlers[0](event)))
        thread.start()
        assert asked.wait(20)
        assert answers == []
    thread.join()

    assert answers == [1]
    assert library.handlers == []


@pytest.mark.parametrize("event", [pytest.param(0, id="Ctrl-C"), pytest.param(1, id="Ctrl-Break")])
def test_what_comes_as_a_signal_is_left_to_python(event):
    library, asked = Kernel32(), threading.Event()
    with console_closing(asked.set, library, as_it_is):
        assert library.handlers[0](event) == 0
    assert not asked.is_set()


@pytest.mark.skipif(sys.platform == "win32", reason="there is a console to close")
def test_elsewhere_there_is_nothing_to_do():
    closed = []
    with console_closing(lambda: closed.append("closed")):
        pass
    assert closed == []
