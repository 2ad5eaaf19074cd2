"""The worker as a program: it speaks on its pipes only, survives everything, ends with its supervisor."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edge_agent import worker
from edge_agent.protocol import Job, Ready, Refused, WorkerSettings, job_line, read_greeting, settings_line
from edge_agent.sidecar import Finding, OutputPlan
from edge_agent.supervisor import ONE_THREAD

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = "import edge_agent.worker as worker; "


@pytest.fixture
def start(tiny):
    """Start the real program, or one with a prologue that changes it; give it its settings."""
    made = []

    def begin(prologue=None, model=None):
        command = (
            ["-m", "edge_agent.worker"] if prologue is None else ["-c", PLAIN + prologue + "; worker.main()"]
        )
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": str(REPOSITORY)},
        )
        made.append(process)
        tell(process, settings_line(WorkerSettings(str(model or tiny), OutputPlan())))
        return process

    yield begin
    for process in made:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def tell(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def ask(process, path):
    tell(process, job_line(Job(path)))
    return Finding.from_json(process.stdout.readline())


def test_it_greets_examines_and_ends_when_its_stdin_does(start, tmp_path, micrograph_bytes, spectrum_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    (tmp_path / "s.dm3").write_bytes(spectrum_bytes)
    process = start()
    greeting = read_greeting(process.stdout.readline())

    findings = [
        ask(process, tmp_path / "a.dm3"),
        ask(process, tmp_path / "s.dm3"),
        ask(process, tmp_path / "x.dm3"),
    ]
    process.stdin.close()

    assert isinstance(greeting, Ready)
    assert greeting.name == "tiny"
    assert [finding.outcome for finding in findings] == ["classified", "not_an_image", "vanished"]
    assert findings[0].model_sha256 == greeting.sha256
    assert (tmp_path / "a.dm3.json").is_file()
    assert process.wait(20) == 0


def test_a_model_that_cannot_be_used_is_refused_with_the_reason(start, tmp_path):
    process = start(model=tmp_path / "nowhere")

    greeting = read_greeting(process.stdout.readline())

    assert isinstance(greeting, Refused)
    assert str(tmp_path / "nowhere") in greeting.reason
    assert process.wait(20) == 0


def test_what_libraries_print_or_read_never_reaches_the_pipes(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    noisy = (
        "import os, sys; real = worker.examine; "
        "say = lambda: (print('hello'), os.write(1, b'from C\\n'), sys.stdin.read()); "
        "worker.examine = lambda *a: (say(), real(*a))[1]"
    )
    process = start(noisy)
    read_greeting(process.stdout.readline())

    finding = ask(process, tmp_path / "a.dm3")
    output, errors = process.communicate(timeout=20)

    assert finding.outcome == "classified"
    assert output == ""
    assert "hello" in errors
    assert "from C" in errors


def test_an_unforeseen_fault_is_an_answer_and_the_next_file_goes_on(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    faulty = (
        "real = worker.examine; "
        "worker.examine = lambda path, *a: 1 / 0 if 'bad' in path.name else real(path, *a)"
    )
    process = start(faulty)
    read_greeting(process.stdout.readline())

    bad, good = ask(process, tmp_path / "bad.dm3"), ask(process, tmp_path / "a.dm3")
    _, errors = process.communicate(timeout=20)

    assert (bad.outcome, bad.reason) == ("failed", "unforeseen ZeroDivisionError: division by zero")
    assert bad.sidecar is None
    assert good.outcome == "classified"
    assert "Traceback" in errors


def test_a_job_that_hangs_does_not_outlive_the_supervisor_for_long(start, tmp_path):
    hanging = "import time; worker._ORPHAN_SECONDS = 0.2; worker.examine = lambda *a: time.sleep(60)"
    process = start(hanging)
    read_greeting(process.stdout.readline())
    tell(process, job_line(Job(tmp_path / "a.dm3")))

    process.stdin.close()

    assert process.wait(20) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_is_left_to_the_supervisor(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    read_greeting(process.stdout.readline())

    process.send_signal(signal.SIGINT)

    assert ask(process, tmp_path / "a.dm3").outcome == "classified"


def test_a_supervisor_that_is_gone_at_once_is_no_error(tiny):
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.worker"],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_computes_in_one_thread(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    read_greeting(process.stdout.readline())
    ask(process, tmp_path / "a.dm3")

    # The main one, the reader of stdin, and one that ONNX Runtime starts when it is imported and that idles.
    assert psutil.Process(process.pid).num_threads() <= 3


def test_a_broken_pipe_while_answering_is_a_quiet_end(tiny, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    settings = settings_line(WorkerSettings(str(tiny), OutputPlan()))
    monkeypatch.setattr(worker, "_take_over_pipes", lambda: (io.StringIO(settings + "\n"), Broken()))
    monkeypatch.setattr(worker, "_ignore_interrupts", lambda: None)
    monkeypatch.setattr(worker, "_lines_until_orphaned", iter)

    assert worker.main() is None
