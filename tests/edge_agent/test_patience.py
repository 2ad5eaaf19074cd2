"""How long a worker may take: time in which the PC slept, and time it did not get, are not held against a file."""

from __future__ import annotations

import threading

import pytest

from edge_agent.processes import patience
from edge_agent.processes.patience import STORAGE_SILENT, SetAside, Stopped, Terms, answer_of
from edge_agent.processes.worker_process import WorkerEnded


class FakeWorker:
    """A worker that answers after so many questions; each question moves the clock."""

    def __init__(self, clock, answers_after=None, step_seconds=0.25, held_back=False):
        self.clock = clock
        self.answers_after = answers_after
        self.step_seconds = step_seconds
        self.held_back = held_back
        self.asked = 0

    def hear(self, seconds):
        self.asked += 1
        self.clock[0] += self.step_seconds if seconds > 0 else 0.0
        return "answer" if self.answers_after is not None and self.asked > self.answers_after else None

    def cpu_seconds(self):
        return 0.0

    def is_held_back(self, used_seconds, fair_seconds):
        return self.held_back


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    return now


def terms(*, others=False, silent=False, prepared=None, patience_seconds=8.0, limit_seconds=30.0):
    counted = prepared if prepared is not None else []
    return Terms(
        patience_seconds, limit_seconds, lambda: others, lambda: counted.append(1), lambda: not silent
    )


GO_ON = threading.Event()


@pytest.mark.parametrize(
    ("answers_after", "others"),
    [
        pytest.param(0, False, id="at once"),
        pytest.param(30, True, id="after 7.75 s, others wait"),
        pytest.param(118, False, id="after 29.75 s, none waits"),
    ],
)
def test_an_answer_in_time_is_the_answer(clock, answers_after, others):
    assert answer_of(FakeWorker(clock, answers_after), terms(others=others), GO_ON) == "answer"


@pytest.mark.parametrize(
    ("worker", "given", "error", "reason", "seconds"),
    [
        pytest.param({}, {"others": True}, SetAside, "took 8.0 s while other files waited", 8.0, id="others wait"),
        pytest.param({}, {}, WorkerEnded, "the worker took longer than 30 s and was ended", 30.0, id="hangs"),
        pytest.param({}, {"silent": True}, SetAside, STORAGE_SILENT, 30.0, id="the share is silent"),
        pytest.param({"held_back": True}, {}, SetAside, "the PC was too busy", 30.0, id="the PC is busy"),
        pytest.param(
            {}, {"others": True, "limit_seconds": 5.0}, WorkerEnded, "longer than 5 s", 5.0, id="no patience"
        ),
    ],
)  # fmt: skip
def test_whose_fault_it_is(clock, worker, given, error, reason, seconds):
    with pytest.raises(error) as raised:
        answer_of(FakeWorker(clock, **worker), terms(**given), GO_ON)

    assert str(raised.value).startswith(reason) or reason in str(raised.value)
    assert clock[0] - 1000.0 == seconds


def test_the_next_worker_is_prepared_before_a_file_has_to_give_way(clock):
    prepared = []

    answer_of(FakeWorker(clock, answers_after=21), terms(others=True, prepared=prepared), GO_ON)

    assert len(prepared) == 2


def test_an_answer_that_comes_while_the_storage_is_asked_counts(clock):
    worker = FakeWorker(clock, answers_after=120)

    assert answer_of(worker, terms(), GO_ON) == "answer"


def test_an_hour_of_sleep_of_the_pc_counts_as_a_second(clock):
    """After sleep, or a SIGSTOP of the whole agent, the worker has had no time either."""
    worker = FakeWorker(clock, answers_after=20, step_seconds=3600.0)

    assert answer_of(worker, terms(), GO_ON) == "answer"


def test_the_stop_ends_the_waiting(clock):
    stop = threading.Event()
    stop.set()

    with pytest.raises(Stopped):
        answer_of(FakeWorker(clock), terms(), stop)
