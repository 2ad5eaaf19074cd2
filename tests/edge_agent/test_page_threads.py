"""The page's threads: in turn, no more than allowed, and nobody's end waits for them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from edge_agent.live_page.pulse import MonitorState
from edge_agent.page import home as home_module
from edge_agent.page.home import PageHome
from edge_agent.page.no_archive import NoArchive
from edge_agent.page.page_threads import PageThreads

WAIT_SECONDS = 20


@pytest.fixture
def threads():
    made = PageThreads(2, "test-disk")
    yield made
    made.close()


def test_everything_is_done_by_as_many_threads_as_are_allowed(threads):
    names, both = set(), threading.Barrier(2)

    def work(number):
        names.add(threading.current_thread())
        if number < 2:
            both.wait(WAIT_SECONDS)
        return number

    futures = [threads.submit(lambda number=number: work(number)) for number in range(50)]

    assert [future.result(WAIT_SECONDS) for future in futures] == list(range(50))
    assert len(names) == 2


def test_what_fails_fails_for_whoever_asked_and_the_thread_goes_on(threads):
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(WAIT_SECONDS)
    assert threads.submit(lambda: 7).result(WAIT_SECONDS) == 7


def test_at_the_end_nothing_is_begun_any_more(threads):
    going, begun = threading.Event(), threading.Event()

    def work():
        begun.set()
        going.wait(WAIT_SECONDS)
        return "done"

    in_hand = [threads.submit(work) for _ in range(2)]
    waiting = threads.submit(lambda: "never")
    assert begun.wait(WAIT_SECONDS)
    threads.close()
    going.set()

    with pytest.raises(CancelledError):
        waiting.result(WAIT_SECONDS)
    with pytest.raises(CancelledError):
        threads.submit(lambda: "never").result(WAIT_SECONDS)
    assert in_hand[0].result(WAIT_SECONDS) == "done"


def test_questions_that_hang_keep_no_correction_waiting(monkeypatch):
    monkeypatch.setattr(home_module, "PATIENCE_SECONDS", 0.2)
    home, going = PageHome(MonitorState()), threading.Event()

    async def ask():
        hanging = [asyncio.create_task(home.in_pool(lambda: going.wait(WAIT_SECONDS))) for _ in range(6)]
        await asyncio.sleep(0.05)
        given = await home.in_pool(lambda: "kept", changing=True)
        return given, await asyncio.gather(*hanging, return_exceptions=True)

    given, answers = asyncio.run(ask())
    going.set()
    home.close()

    assert given == "kept"
    assert {type(answer) for answer in answers} == {NoArchive}


def test_a_process_ends_with_a_work_in_hand():
    code = (
        "import threading\n"
        "from edge_agent.page.page_threads import PageThreads\n"
        "threads = PageThreads(2, 'disk')\n"
        "begun = threading.Event()\n"
        "threads.submit(lambda: (begun.set(), threading.Event().wait(600)))\n"
        "begun.wait(20)\n"
        "threads.close()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        timeout=30,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    assert (done.returncode, done.stderr) == (0, "")
