"""One worker at a time; whatever it does, the supervisor answers and goes on. The worker is a fake."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edge_agent import supervisor as supervisor_module
from edge_agent.output_places import OutputPlan
from edge_agent.processes import worker_process
from edge_agent.processes.job_object import JobLimits
from edge_agent.processes.patience import STORAGE_SILENT
from edge_agent.processes.storage_probe import StorageProbe, StorageSilent
from edge_agent.protocol import Job, Ready, WorkerSettings
from edge_agent.supervisor import ModelRefused, Stopped, Supervisor, WorkerFailed

READY = Ready("fake", "1", "ab" * 32)
LEFTOVER = ".scopewatch-0a1b2c3d-0123456789abcdef.tmp"


@pytest.fixture
def supervise(fake_worker):
    made = []
    # What an earlier test ended without waiting for may still be going.
    before = set(psutil.Process().children(recursive=True))

    def make(model="fake", **options):
        settings = WorkerSettings(str(model), OutputPlan(), owner="0a1b2c3d")
        supervisor = Supervisor(settings, **({"command": fake_worker} | options))
        made.append(supervisor)
        return supervisor

    yield make
    for supervisor in made:
        supervisor.close()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def go_on():
    return threading.Event()


def saved(tmp_path: Path, name: str) -> Job:
    path = tmp_path / name
    path.write_bytes(b"1")
    return Job(path)


def always() -> bool:
    return True


def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("never came")


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_it_starts_the_worker_and_passes_on_what_it_finds(supervise, tmp_path, go_on):
    supervisor = supervise()
    assert supervisor.health().pid is None

    assert supervisor.start(go_on) == READY
    finding = supervisor.ask(saved(tmp_path, "a.dm3"), go_on)

    assert (finding.path, finding.outcome, finding.label) == (tmp_path / "a.dm3", "classified", "rod")
    health = supervisor.health()
    assert finding.fingerprint == str(health.pid)
    assert (health.model, health.starts, health.deaths, health.trouble) == (READY, 1, 0, None)
    assert (health.files, health.recycled, health.interrupted) == (1, 0, 0)


def test_the_worker_stays_the_same_from_file_to_file(supervise, tmp_path, go_on):
    supervisor = supervise()

    pids = {supervisor.ask(saved(tmp_path, f"{number}.dm3"), go_on).fingerprint for number in range(5)}

    assert len(pids) == 1
    assert supervisor.health().files == 5


def test_a_reason_for_quarantine_travels_with_the_job(supervise, tmp_path, go_on):
    path = saved(tmp_path, "a.dm3").path

    finding = supervise().ask(Job(path, quarantine="cost three workers"), go_on)

    assert (finding.outcome, finding.reason) == ("quarantined", "cost three workers")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(
            "die.dm3", "the worker ended: killed by SIGSEGV (Segmentation fault in parser)", id="dies"
        ),
        pytest.param("hang.dm3", "the worker took longer than 0.5 s and was ended", id="hangs"),
        pytest.param("spin.dm3", "the worker took longer than 0.5 s and was ended", id="computes for ever"),
        pytest.param("bomb.dm3", "needed more memory", id="runs out of memory"),
        pytest.param("babble.dm3", "the worker's answer makes no sense (JSONDecodeError: ", id="babbles"),
        pytest.param("flood.dm3", "the worker's answer makes no sense (JSONDecodeError: ", id="floods"),
        pytest.param(
            "mistaken.dm3", "the worker's answer makes no sense (answered for ", id="answers for another"
        ),
    ],
)
def test_a_file_that_the_worker_does_not_survive_is_a_finding_and_the_next_goes_on(
    supervise, tmp_path, go_on, caplog, name, reason
):
    supervisor = supervise(wall_limit_seconds=0.5)

    finding = supervisor.ask(saved(tmp_path, name), go_on)
    after = supervisor.ask(saved(tmp_path, "healthy.dm3"), go_on)

    assert finding.outcome == "crashed"
    assert finding.reason.startswith(reason)
    assert f"at {tmp_path / name}" in caplog.text
    assert after.outcome == "classified"
    health = supervisor.health()
    assert (health.starts, health.deaths, health.interrupted, health.trouble) == (2, 1, 0, None)


def test_deadly_files_in_a_row_cost_no_pause_between_workers(supervise, tmp_path, go_on, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_RESTART_PAUSES_SECONDS", (60.0,))
    supervisor = supervise()

    outcomes = [supervisor.ask(saved(tmp_path, f"die{number}.dm3"), go_on).outcome for number in range(5)]

    assert outcomes == ["crashed"] * 5
    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert supervisor.health().deaths == 5


def test_never_two_workers_at_once(supervise, tmp_path, go_on):
    supervisor = supervise(wall_limit_seconds=0.3)
    supervisor.start(go_on)
    first = supervisor.health().pid

    supervisor.ask(saved(tmp_path, "hang.dm3"), go_on)
    assert not psutil.pid_exists(first)
    supervisor.ask(saved(tmp_path, "a.dm3"), go_on)

    assert children() == [supervisor.health().pid]


def test_what_a_dead_worker_left_half_written_is_removed(supervise, tmp_path, go_on):
    others = tmp_path / LEFTOVER.replace("0a1b", "ffff")
    others.write_bytes(b"of another agent")

    finding = supervise().ask(saved(tmp_path, "litter.dm3"), go_on)

    assert finding.outcome == "crashed"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([others.name, "litter.dm3"])


def test_what_could_not_be_removed_at_once_is_removed_before_the_next_file_there(
    supervise, tmp_path, go_on, monkeypatch
):
    supervisor = supervise()
    clear = StorageProbe.clear

    def stalls(*_):
        raise StorageSilent

    monkeypatch.setattr(StorageProbe, "clear", stalls)
    supervisor.ask(saved(tmp_path, "litter.dm3"), go_on)
    assert (tmp_path / LEFTOVER).exists()

    monkeypatch.setattr(StorageProbe, "clear", clear)
    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert not (tmp_path / LEFTOVER).exists()


def test_a_file_that_takes_long_gives_way_when_others_wait_and_is_not_blamed(supervise, tmp_path, go_on):
    supervisor = supervise(patience_seconds=0.3)

    finding = supervisor.ask(saved(tmp_path, "hang.dm3"), go_on, give_way=always)
    after = supervisor.ask(saved(tmp_path, "a.dm3"), go_on, give_way=always)

    assert finding.outcome == "interrupted"
    assert "while other files waited" in finding.reason
    assert after.outcome == "classified"
    health = supervisor.health()
    assert (health.starts, health.deaths, health.interrupted) == (2, 0, 1)


def test_the_next_worker_is_loaded_by_the_time_a_file_has_to_give_way(supervise, tmp_path, go_on):
    supervisor = supervise(patience_seconds=1.0)
    supervisor.start(go_on)
    seen = []

    def others_wait():
        seen.append((supervisor.health().starts, supervisor.health().pid))
        return True

    first = supervisor.health().pid
    supervisor.ask(saved(tmp_path, "hang.dm3"), go_on, give_way=others_wait)

    assert seen[0] == (1, first)
    assert seen[-1] == (2, first)


def test_a_file_that_is_finished_just_in_time_is_answered_and_the_worker_relieved(supervise, tmp_path, go_on):
    supervisor = supervise(patience_seconds=2.0)

    assert supervisor.ask(saved(tmp_path, "slow.dm3"), go_on, give_way=always).outcome == "classified"

    until(lambda: supervisor.tend(go_on) or supervisor.health().recycled == 1)
    assert supervisor.health().interrupted == 0


def test_a_file_that_takes_long_while_none_waits_is_finished(supervise, tmp_path, go_on):
    supervisor = supervise(patience_seconds=0.1)

    assert supervisor.ask(saved(tmp_path, "slow.dm3"), go_on).outcome == "classified"
    assert supervisor.health().interrupted == 0


def test_a_large_file_is_given_the_time_to_read_it(supervise, tmp_path, go_on):
    supervisor = supervise(patience_seconds=0.1, wall_limit_seconds=0.1)
    job = saved(tmp_path, "slow.dm3")
    os.truncate(job.path, 80_000_000)

    assert supervisor.ask(job, go_on, give_way=always).outcome == "classified"


def test_only_what_is_read_of_a_file_gives_it_time(supervise, tmp_path, go_on):
    supervisor = supervise(wall_limit_seconds=0.4)
    supervisor._settings = replace(supervisor._settings, snapshot_limit_mib=1)
    job = saved(tmp_path, "hang.dm3")
    os.truncate(job.path, 2**40)

    finding = supervisor.ask(job, go_on)

    assert finding.reason == "the worker took longer than 0.452 s and was ended"


def test_a_storage_that_does_not_answer_is_no_fault_of_the_file(supervise, tmp_path, go_on, monkeypatch):
    supervisor = supervise(wall_limit_seconds=0.3)
    monkeypatch.setattr(StorageProbe, "answers", lambda *_: False)

    finding = supervisor.ask(saved(tmp_path, "hang.dm3"), go_on)

    assert (finding.outcome, finding.reason) == ("interrupted", STORAGE_SILENT)
    assert supervisor.health().deaths == 0


def test_a_storage_that_does_not_even_say_the_size_costs_no_worker(supervise, tmp_path, go_on, monkeypatch):
    def stalls(*_):
        raise StorageSilent

    supervisor = supervise()
    supervisor.start(go_on)
    monkeypatch.setattr(StorageProbe, "size_of", stalls)

    finding = supervisor.ask(saved(tmp_path, "a.dm3"), go_on)

    assert (finding.outcome, finding.reason) == ("interrupted", STORAGE_SILENT)
    health = supervisor.health()
    assert (health.starts, health.interrupted, health.pid) == (1, 1, children()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="job control as Linux shows it")
def test_a_worker_that_somebody_stopped_is_no_fault_of_the_file(supervise, tmp_path, go_on):
    supervisor = supervise(wall_limit_seconds=0.5)
    supervisor.start(go_on)
    os.kill(supervisor.health().pid, signal.SIGSTOP)

    finding = supervisor.ask(saved(tmp_path, "a.dm3"), go_on)

    assert finding.outcome == "interrupted"
    assert "too busy" in finding.reason
    assert supervisor.ask(saved(tmp_path, "b.dm3"), go_on).outcome == "classified"


@pytest.mark.skipif(os.name == "nt", reason="job control is POSIX")
def test_a_worker_that_was_stopped_for_a_while_goes_on(supervise, tmp_path, go_on):
    supervisor = supervise()
    supervisor.start(go_on)
    pid = supervisor.health().pid
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))
    timer.start()

    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).fingerprint == str(pid)
    timer.join()


def test_a_job_larger_than_the_pipe_never_blocks_the_supervisor(supervise, tmp_path, go_on):
    supervisor = supervise(wall_limit_seconds=0.5)
    assert supervisor.ask(saved(tmp_path, "deaf.dm3"), go_on).outcome == "classified"
    job = Job(saved(tmp_path, "a.dm3").path, quarantine="x" * 200_000)

    assert supervisor.ask(job, go_on).outcome == "crashed"


def test_a_worker_that_dies_while_idle_condemns_no_file(supervise, tmp_path, go_on):
    supervisor = supervise()
    supervisor.ask(saved(tmp_path, "last.dm3"), go_on)
    for child in psutil.Process().children():
        child.wait(10)

    assert supervisor.health().pid is None
    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert supervisor.health().deaths == 1


def test_a_worker_that_speaks_unasked_condemns_no_file(supervise, tmp_path, go_on):
    supervisor = supervise()
    supervisor.ask(saved(tmp_path, "unasked.dm3"), go_on)
    until(lambda: not supervisor._worker._answers.empty())

    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert supervisor.health().deaths == 1


def test_tending_replaces_a_worker_that_died_before_the_next_file_comes(supervise, tmp_path, go_on):
    supervisor = supervise()
    supervisor.ask(saved(tmp_path, "last.dm3"), go_on)
    for child in psutil.Process().children():
        child.wait(10)

    supervisor.tend(go_on)
    until(lambda: supervisor.tend(go_on) or supervisor.health().trouble is None)

    assert supervisor.health().starts == 2
    assert children() == [supervisor.health().pid]


def test_tending_after_the_stop_starts_nothing(supervise):
    supervisor, stop = supervise(), threading.Event()
    stop.set()

    supervisor.tend(stop)

    assert supervisor.health().starts == 0


def test_a_worker_that_dies_idle_again_and_again_is_started_less_and_less_often(
    supervise, go_on, monkeypatch
):
    monkeypatch.setattr(supervisor_module, "_RESTART_PAUSES_SECONDS", (0.0, 60.0))
    supervisor = supervise()
    for _ in range(2):
        supervisor.start(go_on)
        os.kill(supervisor.health().pid, signal.SIGKILL)
        until(lambda: supervisor.health().pid is None)
        supervisor._look_after()

    supervisor.tend(go_on)

    assert (supervisor.health().starts, supervisor.health().deaths) == (2, 2)
    assert supervisor.health().trouble == "the worker ended while idle: killed by SIGKILL"


def test_it_is_relieved_after_so_many_files_once_no_others_wait(supervise, tmp_path, go_on):
    supervisor = supervise(recycle_files=2)
    first = supervisor.ask(saved(tmp_path, "1.dm3"), go_on).fingerprint
    busy = [supervisor.ask(saved(tmp_path, f"{n}.dm3"), go_on, give_way=always) for n in (2, 3)]
    assert supervisor.health().starts == 1

    busy.append(supervisor.ask(saved(tmp_path, "4.dm3"), go_on))

    assert {finding.fingerprint for finding in busy} == {first}
    until(lambda: supervisor.tend(go_on) or supervisor.health().recycled == 1)
    assert supervisor.ask(saved(tmp_path, "5.dm3"), go_on).fingerprint != first
    health = supervisor.health()
    assert (health.starts, health.deaths, health.recycled, health.files) == (2, 0, 1, 1)
    assert children() == [health.pid]


def test_it_is_relieved_at_twice_that_number_even_when_others_wait(supervise, tmp_path, go_on):
    supervisor = supervise(recycle_files=2)
    for number in range(4):
        supervisor.ask(saved(tmp_path, f"{number}.dm3"), go_on, give_way=always)

    until(lambda: supervisor.tend(go_on) or supervisor.health().recycled == 1)

    assert children() == [supervisor.health().pid]


def test_the_last_good_model_goes_on_when_the_next_worker_is_refused(supervise, tmp_path, go_on, caplog):
    model = tmp_path / "model"
    model.write_text("fake")
    supervisor = supervise(model, recycle_files=1)
    supervisor.start(go_on)
    model.write_text("refused")
    first = supervisor.ask(saved(tmp_path, "1.dm3"), go_on)
    until(lambda: supervisor.tend(go_on) or supervisor.health().trouble is not None)

    goes_on = supervisor.ask(saved(tmp_path, "2.dm3"), go_on)

    expected = (
        "the worker is due for relief, but goes on, because the next one fails: /models/x: SHA-256 differs"
    )
    assert supervisor.health().trouble == expected
    assert expected in caplog.text
    assert goes_on.fingerprint == first.fingerprint
    assert (supervisor.health().model.name, supervisor.health().pid) == ("fake", int(first.fingerprint))


def test_a_refused_model_says_why(supervise, go_on):
    with pytest.raises(ModelRefused, match=r"^/models/x: SHA-256 differs$"):
        supervise("refused").start(go_on)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(
            "broken",
            r"the worker did not start: the worker ended: exit code 1 \(cannot load libonnxruntime\)",
            id="ends",
        ),
        pytest.param("babbles", "the worker did not start: JSONDecodeError: Expecting value", id="babbles"),
        pytest.param(
            "never ready", "the worker did not start: it took longer than 2 s and was ended", id="never ready"
        ),
    ],
)
def test_a_worker_that_does_not_start_says_how_it_ended(supervise, go_on, model, reason):
    with pytest.raises(WorkerFailed, match=reason):
        supervise(model, start_limit_seconds=2.0).start(go_on)


def test_a_worker_that_the_system_cannot_start_is_said(supervise, go_on, tmp_path):
    supervisor = supervise(command=(str(tmp_path / "no python"),))

    with pytest.raises(WorkerFailed, match=r"the worker did not start: .*No such file"):
        supervisor.start(go_on)

    assert supervisor.health().deaths == 1


def test_files_wait_for_as_long_as_no_worker_can_be_started(supervise, tmp_path, caplog):
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    supervisor = supervise("broken")

    with caplog.at_level(logging.WARNING), pytest.raises(Stopped):
        supervisor.ask(saved(tmp_path, "a.dm3"), stop)

    timer.join()
    assert "no worker at the moment, files wait: the worker did not start" in caplog.text
    assert "cannot load libonnxruntime" in supervisor.health().trouble


def test_stopping_does_not_wait_for_a_file_that_hangs(supervise, tmp_path):
    stop = threading.Event()
    supervisor = supervise()
    supervisor.start(stop)
    timer = threading.Timer(0.3, stop.set)
    timer.start()

    with pytest.raises(Stopped):
        supervisor.ask(saved(tmp_path, "hang.dm3"), stop)
    pid = supervisor.health().pid
    supervisor.close()

    timer.join()
    assert not psutil.pid_exists(pid)
    assert supervisor.health().pid is None
    supervisor.close()


def test_a_worker_that_was_ended_with_us_is_no_fault_of_the_file(supervise, tmp_path):
    """A service manager, or the end of a session, may end the worker a moment before its supervisor."""
    stop = threading.Event()
    supervisor = supervise()
    supervisor.start(stop)
    supervisor._worker.say = lambda line: (os.kill(supervisor.health().pid, signal.SIGKILL), stop.set())

    with pytest.raises(Stopped):
        supervisor.ask(saved(tmp_path, "a.dm3"), stop)


def test_a_stubborn_worker_is_killed(supervise, go_on, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_GRACE_SECONDS", 0.2)
    supervisor = supervise("stubborn")
    supervisor.start(go_on)

    supervisor.close()

    until(lambda: children() == [])


def test_a_worker_that_cannot_be_killed_yet_is_left_behind_and_reaped_later(
    supervise, tmp_path, go_on, monkeypatch
):
    """What hangs in the kernel on a dead share dies when the share answers; a stand-in ignores the kill."""
    monkeypatch.setattr(worker_process, "_REAP_SECONDS", 0.1)
    supervisor = supervise(wall_limit_seconds=0.2)
    supervisor.start(go_on)
    hung = supervisor._worker
    monkeypatch.setattr(hung, "_kill", lambda: None)

    assert supervisor.ask(saved(tmp_path, "hang.dm3"), go_on).outcome == "crashed"
    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert supervisor._unburied == [hung]
    monkeypatch.undo()
    hung.end(0.0)
    supervisor.ask(saved(tmp_path, "die.dm3"), go_on)

    assert supervisor._unburied == []


class FakeJob:
    """A job object of Windows, as far as a supervisor asks it."""

    def __init__(self):
        self.taken, self.closed = [], False

    def take(self, pid):
        self.taken.append(pid)

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("model", "own"),
    [pytest.param("fake", [], id="as it is"), pytest.param("in a launcher", [4711], id="in a launcher")],
)
def test_on_windows_every_worker_is_put_into_the_job_object(supervise, go_on, monkeypatch, model, own):
    jobs, limits = [], []

    def make(given):
        limits.append(given)
        jobs.append(FakeJob())
        return jobs[-1]

    monkeypatch.setattr(supervisor_module, "worker_job", make)
    supervisor = supervise(model)
    supervisor._settings = replace(supervisor._settings, memory_limit_mib=700, low_priority=True)
    supervisor.start(go_on)

    assert limits == [JobLimits(700, low_priority=True)]
    assert jobs[0].taken == [children()[0], *own]
    assert supervisor.health().pid == jobs[0].taken[-1]
    supervisor.close()
    assert jobs[0].closed


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_ctrl_c_in_the_terminal_does_not_reach_the_worker(supervise, go_on):
    supervisor = supervise()
    supervisor.start(go_on)

    assert os.getpgid(supervisor.health().pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="context switches as Linux counts them")
def test_an_idle_supervisor_sleeps(supervise, tmp_path, go_on):
    supervisor = supervise()
    supervisor.ask(saved(tmp_path, "a.dm3"), go_on)
    # Threads of the pipes; the test's own thread does not count.
    mine = {thread.native_id for thread in threading.enumerate() if thread.name.startswith("worker-")}
    before = switches(mine)
    time.sleep(1.0)

    assert len(mine) == 3
    # The last of them may only just have gone to sleep; one that polls would wake four times and more.
    assert switches(mine) - before <= 3


def switches(thread_ids: set[int]) -> int:
    texts = [Path(f"/proc/self/task/{number}/status").read_text() for number in thread_ids]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("voluntary_ctxt")]
    return sum(int(line.split()[1]) for line in lines)


def test_it_says_for_how_long_no_worker_could_be_started(supervise, tmp_path, go_on):
    model = tmp_path / "model"
    model.write_text("fake")
    supervisor = supervise(model)
    supervisor.start(go_on)
    assert supervisor.health().away_seconds is None
    model.write_text("broken")
    supervisor.ask(saved(tmp_path, "die.dm3"), go_on)

    def is_away():
        supervisor.tend(go_on)
        return supervisor.health().away_seconds is not None

    until(is_away)
    first = supervisor.health().away_seconds
    until(lambda: supervisor.health().away_seconds > first)
    model.write_text("fake")

    def is_back():
        supervisor.tend(go_on)
        return supervisor.health().away_seconds is None

    until(is_back)


def test_a_model_is_proved_at_the_first_start_and_not_by_those_that_relieve_it(supervise, tmp_path, go_on):
    supervisor = supervise("tells whether it proves", recycle_files=1)
    supervisor._settings = replace(supervisor._settings, prove=True)

    first = supervisor.start(go_on)
    supervisor.ask(saved(tmp_path, "a.dm3"), go_on)
    until(lambda: supervisor.tend(go_on) or supervisor.health().recycled == 1)

    assert (first.version, supervisor.health().model.version) == ("proved", "not proved")


def test_a_model_that_was_not_proved_is_proved_at_the_next_start(supervise, tmp_path, go_on):
    (model := tmp_path / "model").write_text("refused")
    supervisor = supervise(model)
    supervisor._settings = replace(supervisor._settings, prove=True)
    with pytest.raises(ModelRefused):
        supervisor.start(go_on)
    model.write_text("tells whether it proves")

    assert supervisor.start(go_on).version == "proved"


@pytest.mark.parametrize("another", [True, False], ids=["another can answer", "none can"])
def test_a_model_that_is_refused_while_files_wait_ends_the_asking_where_another_can_answer(
    supervise, tmp_path, go_on, monkeypatch, another
):
    monkeypatch.setattr(supervisor_module, "_RESTART_PAUSES_SECONDS", (0.0,))
    (model := tmp_path / "model").write_text("fake")
    supervisor = supervise(model, another_model_answers=another)
    supervisor.start(go_on)
    supervisor.ask(saved(tmp_path, "first.dm3"), go_on)
    model.write_text("refused")
    os.kill(supervisor.health().pid, signal.SIGKILL)
    until(lambda: children() == [])

    if another:
        with pytest.raises(ModelRefused, match="SHA-256 differs"):
            supervisor.ask(saved(tmp_path, "a.dm3"), go_on)
        assert supervisor.health().starts == 1 + supervisor_module._REFUSALS_BELIEVED
        return
    threading.Timer(1.0, model.write_text, ("fake",)).start()
    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert supervisor.health().starts > 1 + supervisor_module._REFUSALS_BELIEVED
