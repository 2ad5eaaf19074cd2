"""The desk decides the order, what is tried again, what counts against a file, and when nobody works."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from edge_agent import desk as desk_module
from edge_agent.config import AgentConfig
from edge_agent.desk import ATTEMPTS, Desk, Errand
from edge_agent.files import stamp_of
from edge_agent.journal import Journal
from edge_agent.protocol import Ready
from edge_agent.room import Room
from edge_agent.sidecar import Finding
from edge_agent.watcher import QuietFile

MODEL = "ab" * 32


class FakeSupervisor:
    """Answers as the test says, by file name; "classified" otherwise."""

    def __init__(self):
        self.outcomes = {}
        self.jobs = []
        self.patience = []
        self.on_ask = lambda job: None
        self.closed = False
        self.model = Ready("fake", "1", MODEL)

    def start(self, stop):
        return self.model

    def ask(self, job, stop, *, give_way, patience_seconds):
        self.jobs.append(job)
        self.patience.append(patience_seconds)
        self.give_way = give_way
        self.on_ask(job)
        left = self.outcomes.get(job.path.name, [])
        outcome = "quarantined" if job.quarantine else (left.pop(0) if left else "classified")
        if outcome == "incomplete" and job.incomplete_is_final:
            return Finding(job.path, "unreadable", "incomplete: cut", stamp=stamp_of(job.path))
        stamp = stamp_of(job.path) if outcome in ("classified", "quarantined") else None
        return Finding(job.path, outcome, f"because {outcome}", stamp=stamp, model_sha256=MODEL)

    def tend(self, stop):
        self.tended = True

    def health(self):
        return SimpleNamespace(model=self.model, pid=None)

    def close(self):
        self.closed = True


class FakeWatcher:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []
        self.others = False

    def busy(self):
        return self.others

    def look_again(self):
        self.told.append(("look again",))

    def release(self, path):
        self.told.append(("release", path.name))

    def rearm(self, path, after_seconds):
        self.told.append(("rearm", path.name, after_seconds))

    def expect_event(self, path):
        self.told.append(("expect", path.name))


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as journal:
        yield journal


class Bench:
    """A desk whose every file is served by hand, in the test's thread."""

    def __init__(self, tmp_path, journal, **config):
        self.folder = tmp_path / "scope"
        self.folder.mkdir(exist_ok=True)
        self.watcher, self.supervisor, self.stop = FakeWatcher(), FakeSupervisor(), threading.Event()
        self.clerk = SimpleNamespace(space=None)
        self.found = []
        settings = AgentConfig(folders=(self.folder,), state=tmp_path / "state", **config)
        room = Room(tmp_path / "state", floor_mib=0)
        self.desk = Desk(
            settings,
            self.supervisor,
            journal,
            room,
            [self.watcher],
            on_finding=self.found.append,
        )
        self.desk._greet(self.supervisor.start(self.stop))

    def put(self, name, content=b"1"):
        path = self.folder / name
        path.write_bytes(content)
        self.desk.put(
            Errand(QuietFile(path, stamp_of(path), datetime.now(UTC)), self.watcher, self.clerk), self.stop
        )
        return path

    def serve(self, times=1):
        """Serve until so many files were asked for, or nothing is left to do."""
        wanted = len(self.supervisor.jobs) + times
        for _ in range(50):
            if len(self.supervisor.jobs) >= wanted:
                return
            errand = self.desk._next(self.stop)
            if errand is not None:
                self.desk._serve_one(errand, self.stop)
        raise AssertionError("nothing to serve")

    def order(self):
        return [job.path.name for job in self.supervisor.jobs]


@pytest.fixture
def bench(tmp_path, journal, monkeypatch):
    monkeypatch.setattr(desk_module, "_TICK_SECONDS", 0.01)
    return Bench(tmp_path, journal)


def test_a_classified_file_is_journaled_then_released(bench, journal):
    path = bench.put("a.dm3")
    bench.serve()

    assert journal.of(path).size_bytes == 1
    assert bench.watcher.told == [("release", "a.dm3")]
    assert [finding.outcome for finding in bench.found] == ["classified"]


@pytest.mark.parametrize("outcome", ["crashed", "interrupted"])
def test_a_file_that_cost_a_worker_waits_until_no_other_does(bench, outcome):
    bench.supervisor.outcomes["bad.dm3"] = [outcome]
    bench.put("bad.dm3")
    bench.serve()
    bench.put("bad.dm3")
    bench.put("good.dm3")
    bench.watcher.others = True
    bench.serve()
    assert bench.desk._next(bench.stop) is None

    bench.watcher.others = False
    bench.serve()

    assert bench.order() == ["bad.dm3", "good.dm3", "bad.dm3"]


def test_a_worker_in_trouble_gives_way_only_to_others_that_wait(bench):
    bench.put("a.dm3")
    ways = []
    bench.supervisor.on_ask = lambda job: ways.append(bench.supervisor.give_way())
    bench.serve()
    bench.put("b.dm3")
    bench.put("c.dm3")
    bench.serve(2)

    assert ways == [False, True, False]


def test_only_deaths_count_towards_quarantine(bench, journal):
    path = bench.put("a.dm3")
    for outcome in ["interrupted", "failed", "incomplete"] * 3:
        bench.supervisor.outcomes["a.dm3"] = [outcome]
        bench.serve()
        bench.put("a.dm3")

    assert journal.deaths(path, stamp_of(path), MODEL) == 0


def test_the_last_death_asks_for_quarantine_at_once(bench, journal):
    path = bench.put("a.dm3")
    errand = Errand(QuietFile(path, stamp_of(path), datetime.now(UTC)), bench.watcher, bench.clerk)
    bench.supervisor.outcomes["a.dm3"] = ["crashed"] * ATTEMPTS
    bench.serve()
    for _ in range(ATTEMPTS - 1):
        bench.desk.put(errand, bench.stop)
        bench.serve()

    assert [finding.outcome for finding in bench.found] == ["crashed", "crashed", "quarantined"]
    assert bench.supervisor.jobs[-1].quarantine == (
        "the worker ended 3 times while it examined the file, at last: because crashed"
    )
    assert bench.watcher.told[-1] == ("release", "a.dm3")
    assert bench.desk.numbers().troubles == ()


def found_open(journal, tmp_path):
    """What the next run would find open, were this one killed now."""
    copy = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
    shutil.copytree(journal.path.parent, copy)
    with Journal(copy) as after_a_kill:
        return after_a_kill.open_attempts()


def test_an_attempt_is_open_while_the_worker_is_asked(bench, journal, tmp_path):
    seen = []
    bench.supervisor.on_ask = lambda job: seen.append(found_open(journal, tmp_path))
    path = bench.put("a.dm3")
    bench.serve()
    journal.flush()

    assert seen == [(path,)]
    assert found_open(journal, tmp_path) == ()


def test_a_stop_in_the_middle_leaves_no_attempt_open(bench, journal, tmp_path):
    def stopped(job):
        raise InterruptedError

    bench.supervisor.on_ask = stopped
    bench.put("a.dm3")
    with pytest.raises(InterruptedError):
        bench.serve()
    journal.flush()

    assert found_open(journal, tmp_path) == ()


def test_a_file_incomplete_for_long_is_recorded_once_and_still_looked_at(tmp_path, journal, monkeypatch):
    monkeypatch.setattr(desk_module, "_TICK_SECONDS", 0.01)
    now = iter(range(0, 100_000, 400))
    monkeypatch.setattr(desk_module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    bench = Bench(tmp_path, journal, stalled_seconds=600)
    bench.supervisor.outcomes["a.dm3"] = ["incomplete"] * 10
    for _ in range(6):
        path = bench.put("a.dm3")
        bench.serve()

    finals = [job.incomplete_is_final for job in bench.supervisor.jobs]
    assert finals.count(True) == 1
    assert bench.desk.wants(path)
    assert bench.desk.numbers().stalled == 1
    assert bench.watcher.told[-1] == ("rearm", "a.dm3", 1800.0)
    assert [finding.outcome for finding in bench.found].count("unreadable") == 1

    bench.supervisor.outcomes["a.dm3"] = []
    bench.put("a.dm3")
    bench.serve()
    assert bench.found[-1].outcome == "classified"
    assert not bench.desk.wants(path)
    assert bench.desk.numbers().stalled == 0


def test_the_worker_is_ended_with_the_desk(bench):
    bench.stop.set()
    bench.desk.run(bench.stop)

    assert bench.supervisor.closed


def test_another_model_brings_quarantined_files_up_again(bench, journal):
    path = bench.put("a.dm3")
    journal.record(Finding(path, "quarantined", "3 deaths", stamp=stamp_of(path), model_sha256=MODEL))
    bench.serve()
    assert ("look again",) not in bench.watcher.told

    bench.put("b.dm3")
    journal.record(Finding(path, "quarantined", "3 deaths", stamp=stamp_of(path), model_sha256=MODEL))
    bench.supervisor.model = Ready("fake", "2", "cd" * 32)
    bench.serve()

    assert bench.watcher.told.count(("look again",)) == 1
    assert journal.of(path) is None


def test_a_folder_that_cannot_be_written_costs_one_inference_at_a_time(bench, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(desk_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    failed = Finding(bench.folder / "a.dm3", "failed", "outputs cannot be written to /x: Permission denied")
    bench.supervisor.ask = lambda job, stop, **terms: bench.supervisor.jobs.append(job) or failed
    bench.put("a.dm3")
    bench.serve()
    bench.put("b.dm3")
    bench.desk._serve_one(bench.desk._next(bench.stop), bench.stop)
    now[0] = 1.0
    bench.put("b.dm3")
    bench.serve()

    assert bench.order() == ["a.dm3", "b.dm3"]
    assert bench.watcher.told == [("rearm", "a.dm3", 2.0), ("rearm", "b.dm3", 1.0), ("rearm", "a.dm3", 4.0)]


def test_zeros_are_believed_when_the_file_has_rested(bench, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(desk_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    path = bench.put("a.dm3")
    errand = Errand(QuietFile(path, stamp_of(path), datetime.now(UTC)), bench.watcher, bench.clerk)
    bench.supervisor.outcomes["a.dm3"] = ["incomplete"] * 2
    for seconds in (0.0, 9.0, 10.1):
        now[0] = seconds
        if seconds:
            bench.desk.put(errand, bench.stop)
        bench.serve()

    assert [job.gaps_are_final for job in bench.supervisor.jobs] == [False, False, True]
    assert bench.watcher.told[1] == ("rearm", "a.dm3", 1.0 + 0.01)


def test_hanging_files_that_come_together_do_not_keep_the_others(bench):
    bench.supervisor.outcomes |= {"a.dm3": ["interrupted"], "b.dm3": ["interrupted"]}
    for name in ("a.dm3", "b.dm3", "c.dm3", "d.dm3"):
        bench.put(name)
    bench.serve(4)
    bench.put("a.dm3")
    bench.serve()

    assert bench.order() == ["a.dm3", "d.dm3", "c.dm3", "b.dm3", "a.dm3"]
    assert bench.supervisor.patience == [None, 2.0, 2.0, 2.0, 1.0]
