"""One worker at a time; whatever it does, the supervisor answers and goes on. The worker is a fake."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from edge_agent.protocol import Job, Ready, WorkerSettings
from edge_agent.sidecar import Finding, OutputPlan
from edge_agent.supervisor import ATTEMPTS, ModelRefused, RetryRule, Stopped, Supervisor, WorkerFailed


@pytest.fixture
def supervise(fake_worker):
    made = []

    def make(model="fake", **options):
        supervisor = Supervisor(WorkerSettings(model, OutputPlan()), command=fake_worker, **options)
        made.append(supervisor)
        return supervisor

    yield make
    for supervisor in made:
        supervisor.close()
    assert psutil.Process().children() == []


@pytest.fixture
def go_on():
    return threading.Event()


def saved(tmp_path: Path, name: str) -> Job:
    path = tmp_path / name
    path.write_bytes(b"1")
    return Job(path)


def test_it_starts_the_worker_and_passes_on_what_it_finds(supervise, tmp_path, go_on):
    supervisor = supervise()
    assert supervisor.health().pid is None

    assert supervisor.start(go_on) == Ready("fake", "1", "ab" * 32)
    finding = supervisor.ask(saved(tmp_path, "a.dm3"), go_on)

    assert (finding.path, finding.outcome, finding.label) == (tmp_path / "a.dm3", "classified", "rod")
    health = supervisor.health()
    assert finding.fingerprint == str(health.pid)
    assert (health.model, health.starts, health.deaths, health.trouble) == (
        Ready("fake", "1", "ab" * 32),
        1,
        0,
        None,
    )


def test_the_worker_stays_the_same_from_file_to_file(supervise, tmp_path, go_on):
    supervisor = supervise()

    pids = {supervisor.ask(saved(tmp_path, f"{number}.dm3"), go_on).fingerprint for number in range(5)}

    assert len(pids) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(
            "die.dm3", "the worker ended: killed by SIGSEGV (Segmentation fault in parser)", id="dies"
        ),
        pytest.param("hang.dm3", "the worker took longer than 0.5 s and was ended", id="hangs"),
        pytest.param("babble.dm3", "the worker's answer makes no sense (", id="babbles"),
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
    assert (health.starts, health.deaths, health.trouble) == (2, 1, None)


def test_never_two_workers_at_once(supervise, tmp_path, go_on):
    supervisor = supervise(wall_limit_seconds=0.3)
    supervisor.start(go_on)
    first = supervisor.health().pid

    supervisor.ask(saved(tmp_path, "hang.dm3"), go_on)
    assert not psutil.pid_exists(first)
    supervisor.ask(saved(tmp_path, "a.dm3"), go_on)

    assert [child.pid for child in psutil.Process().children()] == [supervisor.health().pid]


def test_a_worker_that_dies_while_idle_condemns_no_file(supervise, tmp_path, go_on):
    supervisor = supervise()
    supervisor.ask(saved(tmp_path, "last.dm3"), go_on)
    for child in psutil.Process().children():
        child.wait(10)

    assert supervisor.health().pid is None
    assert supervisor.ask(saved(tmp_path, "a.dm3"), go_on).outcome == "classified"
    assert supervisor.health().deaths == 1


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
        pytest.param("babbles", "the worker did not start: Expecting value", id="babbles"),
    ],
)
def test_a_worker_that_does_not_start_says_how_it_ended(supervise, go_on, model, reason):
    with pytest.raises(WorkerFailed, match=reason):
        supervise(model).start(go_on)


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


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_ctrl_c_in_the_terminal_does_not_reach_the_worker(supervise, go_on):
    supervisor = supervise()
    supervisor.start(go_on)

    assert os.getpgid(supervisor.health().pid) != os.getpgid(0)


def test_the_worker_ends_with_its_supervisor(tmp_path, fake_worker):
    script = (
        "import threading, os, signal\n"
        "from edge_agent.supervisor import Supervisor\n"
        "from edge_agent.protocol import WorkerSettings\n"
        "from edge_agent.sidecar import OutputPlan\n"
        f"supervisor = Supervisor(WorkerSettings('fake', OutputPlan()), command={fake_worker!r})\n"
        "supervisor.start(threading.Event())\n"
        "print(supervisor.health().pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = psutil.Popen(
        [sys.executable, "-c", script], stdout=-1, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    output, _ = process.communicate(timeout=30)

    assert process.returncode == -signal.SIGKILL
    try:
        psutil.Process(int(output)).wait(10)
    except psutil.NoSuchProcess:
        pass
    assert not psutil.pid_exists(int(output))


PATH = Path("/d/a.dm3")


def finding(outcome: str) -> Finding:
    return Finding(PATH, outcome)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcomes", "pauses"),
    [
        pytest.param(["incomplete"] * 8, [1, 2, 4, 8, 15, 30, 60, 60], id="incomplete: for ever"),
        pytest.param(["failed"] * 8, [1, 2, 4, 8, 15, 30, 60, 60], id="failed: for ever"),
        pytest.param(["crashed"] * ATTEMPTS, [1, 2, None], id="crashed: so many times"),
        pytest.param(["crashed", "failed", "crashed", "crashed"], [1, 2, 4, None], id="deaths add up"),
    ],
)
def test_what_is_tried_again_and_when(outcomes, pauses):
    rule = RetryRule()

    assert [rule.pause_after(finding(outcome), 0.0) for outcome in outcomes] == pauses


def test_a_file_given_up_or_done_starts_afresh():
    rule = RetryRule()
    given_up = [rule.pause_after(finding("crashed"), 0.0) for _ in range(ATTEMPTS)]
    again = rule.pause_after(finding("crashed"), 0.0)
    rule.forget(PATH)

    assert (given_up[-1], again, rule.pause_after(finding("failed"), 0.0)) == (None, 1.0, 1.0)


def test_it_knows_for_how_long_a_file_has_been_incomplete():
    rule = RetryRule()
    assert rule.incomplete_seconds(PATH, 5.0) == 0.0
    rule.pause_after(finding("incomplete"), 10.0)
    rule.pause_after(finding("incomplete"), 20.0)
    assert rule.incomplete_seconds(PATH, 611.0) == 601.0
    rule.forget(PATH)

    assert rule.incomplete_seconds(PATH, 700.0) == 0.0
