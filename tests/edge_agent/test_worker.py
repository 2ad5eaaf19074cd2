"""The worker as a program: it speaks on its pipes only, survives everything, dies with its supervisor."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from edge_agent import worker
from edge_agent.output_places import OutputPlan
from edge_agent.processes.worker_process import QUIET_LIBRARIES
from edge_agent.protocol import (
    GOODBYE,
    Job,
    Ready,
    Refused,
    UsualRanges,
    WorkerSettings,
    job_line,
    read_greeting,
    settings_line,
)
from edge_agent.sidecar import Finding, Twin, read_record
from edge_agent.supervisor import Supervisor

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = "import edge_agent.worker as worker; "
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux shows it")


@pytest.fixture
def start(tiny):
    """Start the real program, or one with a prologue that changes it; give it its settings."""
    made = []

    def begin(prologue=None, model=None, settings=None, **given):
        command = (
            ["-m", "edge_agent.worker"] if prologue is None else ["-c", PLAIN + prologue + "; worker.main()"]
        )
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | QUIET_LIBRARIES | {"PYTHONPATH": str(REPOSITORY)},
        )
        made.append(process)
        tell(process, settings or settings_line(WorkerSettings(str(model or tiny), OutputPlan(), **given)))
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


def ask(process, path, **given):
    tell(process, job_line(Job(path, **given)))
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
    assert (greeting.name, greeting.pid, greeting.usual) == ("tiny", process.pid, UsualRanges())
    assert [finding.outcome for finding in findings] == ["classified", "not_an_image", "vanished"]
    assert findings[0].model_sha256 == greeting.sha256
    assert (tmp_path / "a.dm3.json").is_file()
    assert process.wait(20) == 0


def test_it_works_off_what_it_was_given_when_it_has_no_supervisor(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    tell(process, job_line(Job(tmp_path / "a.dm3")))

    output, _ = process.communicate(timeout=20)

    assert Finding.from_json(output.splitlines()[1]).outcome == "classified"


def test_it_tells_the_usual_ranges_that_its_model_knows(start, tmp_path, tiny):
    bundle = shutil.copytree(tiny, tmp_path / "tiny-1")
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    usual = {"confidence": [0.5, 1.0], "novelty": None, "contrast": [0.1, 0.3]}
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"usual": usual}))

    greeting = read_greeting(start(model=bundle).stdout.readline())

    assert greeting.usual == UsualRanges(confidence=(0.5, 1.0), contrast=(0.1, 0.3))


def test_a_model_that_cannot_be_used_is_refused_with_the_reason(start, tmp_path):
    process = start(model=tmp_path / "nowhere")

    greeting = read_greeting(process.stdout.readline())

    assert isinstance(greeting, Refused)
    assert str(tmp_path / "nowhere") in greeting.reason
    assert process.wait(20) == 0


def test_settings_that_make_no_sense_end_it_with_the_reason(start):
    process = start(settings="Welcome!")

    _, errors = process.communicate(timeout=20)

    assert process.returncode == 1
    assert errors.startswith("the settings make no sense: JSONDecodeError")


GARBAGE = ["Welcome!", "{}", "[[[[", '{"path": "/x"}', "\x00\x01", "Å 粒子", "x" * 200_000]


def test_garbage_on_its_stdin_is_survived(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    read_greeting(process.stdout.readline())
    for line in GARBAGE:
        tell(process, line)
    process.stdin.buffer.write(b"\xff\xfe{}\r\n")

    finding = ask(process, tmp_path / "a.dm3")
    output, errors = process.communicate(timeout=20)

    assert (finding.outcome, output) == ("classified", "")
    assert errors.count("this is no job: ") == len(GARBAGE) + 1


def test_a_quarantined_file_is_recorded_without_being_parsed(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    read_greeting(process.stdout.readline())

    finding = ask(process, tmp_path / "a.dm3", quarantine="it cost three workers")

    assert (finding.outcome, finding.reason) == ("quarantined", "it cost three workers")
    record = read_record(tmp_path / "a.dm3.json")
    assert (record.outcome, record.prediction, record.source.sha256) == ("quarantined", None, finding.sha256)


ONLY_ONCE = (
    "real = worker.Classifier.classify; "
    "worker.Classifier.classify = "
    "lambda self, seen: 1 / 0 if 'b.dm3' in str(seen.source.path) else real(self, seen)"
)


def test_a_renamed_file_keeps_its_answer(start, tmp_path, micrograph_bytes):
    before, after = tmp_path / "a.dm3", tmp_path / "b.dm3"
    before.write_bytes(micrograph_bytes)
    process = start(ONLY_ONCE)
    read_greeting(process.stdout.readline())
    first = ask(process, before)
    before.rename(after)

    second = ask(process, after, twins=(Twin(before, first.sha256),))

    assert (second.outcome, second.label, second.sha256) == ("classified", first.label, first.sha256)
    assert read_record(tmp_path / "b.dm3.json").source.path == str(after)


def test_its_temporary_files_bear_the_owners_name(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    no_replace = (
        "from edge_agent.files import FileLayer; import os; FileLayer.replace = lambda *_: os._exit(9)"
    )
    process = start(no_replace, owner="0a1b2c3d")
    read_greeting(process.stdout.readline())

    tell(process, job_line(Job(tmp_path / "a.dm3")))

    assert process.wait(20) == 9
    assert [path.name[:21] for path in tmp_path.glob(".scope*")] == [".scopewatch-0a1b2c3d-"]


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


EXAMINES_FOR_EVER = "import time; worker.examine = lambda *a: time.sleep(60)"


def test_a_supervisor_that_is_gone_ends_it_in_the_middle_of_a_file(start, tmp_path):
    process = start(EXAMINES_FOR_EVER, supervisor_pid=os.getpid())
    read_greeting(process.stdout.readline())
    tell(process, job_line(Job(tmp_path / "a.dm3")))
    started = time.monotonic()

    process.stdin.close()

    assert process.wait(20) == 1
    assert time.monotonic() - started < 1.0


def test_told_goodbye_it_finishes_the_file_in_hand(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    slowly = "import time; real = worker.examine; worker.examine = lambda *a: (time.sleep(0.5), real(*a))[1]"
    process = start(slowly, supervisor_pid=os.getpid())
    read_greeting(process.stdout.readline())
    tell(process, job_line(Job(tmp_path / "a.dm3")))
    tell(process, GOODBYE)
    process.stdin.close()

    assert Finding.from_json(process.stdout.readline()).outcome == "classified"
    assert process.wait(20) == 0


@linux
def test_a_supervisor_that_was_gone_before_the_start_is_noticed(start):
    process = start(supervisor_pid=2)

    # Its stdin is still open, as that of a worker whose supervisor was killed at that moment may be.
    assert process.wait(20) == 0
    assert process.stdout.read() == ""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_is_left_to_the_supervisor(start, tmp_path, micrograph_bytes, number):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    read_greeting(process.stdout.readline())

    process.send_signal(number)

    assert ask(process, tmp_path / "a.dm3").outcome == "classified"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_stop_in_the_middle_of_a_file_is_survived(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    process = start()
    read_greeting(process.stdout.readline())
    tell(process, job_line(Job(tmp_path / "a.dm3")))
    process.send_signal(signal.SIGSTOP)
    timer = threading.Timer(0.5, process.send_signal, (signal.SIGCONT,))
    timer.start()

    assert Finding.from_json(process.stdout.readline()).outcome == "classified"
    timer.join()


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


@linux
def test_it_holds_itself_to_its_limits(start):
    import resource

    process = start(memory_limit_mib=700, low_priority=True, supervisor_pid=os.getpid())
    read_greeting(process.stdout.readline())
    seen = psutil.Process(process.pid)

    assert seen.rlimit(resource.RLIMIT_AS) == (700 << 20, 700 << 20)
    assert seen.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert seen.nice() == 10
    assert seen.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE


@linux
def test_without_low_priority_it_runs_as_it_was_started(start):
    process = start()
    read_greeting(process.stdout.readline())

    assert psutil.Process(process.pid).nice() == psutil.Process().nice()


BOMB = (
    "real = worker.examine; "
    "worker.examine = lambda path, *a: bytearray(1 << 32) if 'bomb' in path.name else real(path, *a)"
)


@linux
def test_a_lack_of_memory_is_said_and_ends_it(start, tmp_path):
    process = start(BOMB, memory_limit_mib=700)
    read_greeting(process.stdout.readline())

    finding = ask(process, tmp_path / "bomb.dm3")

    assert finding.outcome == "crashed"
    assert finding.reason == "the worker needed more memory than its limit of 700 MiB (memory_limit_mib)"
    assert process.wait(20) == 0


@linux
def test_a_lack_of_memory_in_onnx_runtime_is_told_from_a_fault_of_ours(start, tmp_path, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    # The input is there before memory gets short; the map that the network makes of it does not fit.
    greedy = (
        "import numpy as np, psutil, resource as r; inputs = np.ones((1, 1, 9600, 9600), np.float32); "
        "left = lambda: psutil.Process().memory_info().vms + (5 << 20); "
        "worker.Classifier.classify = "
        "lambda self, seen: (r.setrlimit(r.RLIMIT_AS, (left(), 2000 << 20)), self.infer(inputs))"
    )
    process = start(greedy, memory_limit_mib=2000)
    read_greeting(process.stdout.readline())

    finding = ask(process, tmp_path / "a.dm3")
    _, errors = process.communicate(timeout=20)

    assert finding.outcome == "crashed"
    assert finding.reason == "the worker needed more memory than its limit of 2000 MiB (memory_limit_mib)"
    assert "ONNXRuntimeError" in errors


@linux
def test_a_limit_too_low_for_the_model_is_said(start):
    large = "import numpy as np; worker.open_bundle = lambda *a, **k: np.ones(1 << 30)"
    process = start(large, memory_limit_mib=512)

    output, errors = process.communicate(timeout=20)

    assert (process.returncode, output) == (1, "")
    assert errors == (
        "the model cannot be loaded: "
        "the worker needed more memory than its limit of 512 MiB (memory_limit_mib)\n"
    )


def test_a_broken_pipe_while_answering_is_a_quiet_end(tiny, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    settings = settings_line(WorkerSettings(str(tiny), OutputPlan()))
    monkeypatch.setattr(
        worker.child_pipes, "take_over_pipes", lambda: (io.StringIO(settings + "\n"), Broken())
    )
    monkeypatch.setattr(worker.child_pipes, "leave_signals_to_supervisor", lambda: None)
    monkeypatch.setattr(worker.process_limits, "crash_quietly", lambda: None)
    monkeypatch.setattr(worker.process_limits, "be_first_to_go", lambda: None)

    assert worker.main() is None


SUPERVISOR = """
import sys, threading
from pathlib import Path
from edge_agent.output_places import OutputPlan
from edge_agent.protocol import Job, WorkerSettings
from edge_agent.supervisor import Supervisor
supervisor = Supervisor(WorkerSettings(sys.argv[1], OutputPlan()), command=sys.argv[3:])
supervisor.start(threading.Event())
print(supervisor.health().pid, flush=True)
supervisor.ask(Job(Path(sys.argv[2])), threading.Event())
"""


@pytest.mark.parametrize(
    ("tied", "hanging"),
    [
        pytest.param(True, "while True: pass", id="computing, by the system"),
        pytest.param(False, "time.sleep(60)", id="sleeping, by the end of the pipe"),
    ],
)
@linux
def test_kill_9_of_the_supervisor_ends_the_worker_within_a_second(tmp_path, tiny, tied, hanging):
    untie = "" if tied else "worker.process_limits.die_with = lambda pid: None\n"
    program = (
        f"import time\nimport edge_agent.worker as worker\n{untie}"
        f"def examine(*a):\n    {hanging}\nworker.examine = examine\nworker.main()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tiny), str(tmp_path / "a.dm3"), sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.2)
    started = time.monotonic()

    parent.kill()
    parent.wait()
    parent.stdout.close()

    while is_alive(child):
        time.sleep(0.01)
    assert time.monotonic() - started < 1.0


def is_alive(process: psutil.Process) -> bool:
    """Whoever inherits an orphan may take its time to reap it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@linux
def test_a_bomb_costs_the_worker_and_not_the_supervisor(tmp_path, tiny, micrograph_bytes):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    program = f"import edge_agent.worker as worker; {BOMB}; worker.main()"
    settings = WorkerSettings(str(tiny), OutputPlan(), memory_limit_mib=700)
    supervisor, go_on = Supervisor(settings, command=(sys.executable, "-c", program)), threading.Event()
    try:
        supervisor.start(go_on)
        before = psutil.Process().memory_info().rss
        bomb = supervisor.ask(Job(tmp_path / "bomb.dm3"), go_on)
        after = supervisor.ask(Job(tmp_path / "a.dm3"), go_on)
    finally:
        supervisor.close()

    assert (bomb.outcome, after.outcome) == ("crashed", "classified")
    assert "its limit of 700 MiB" in bomb.reason
    assert psutil.Process().memory_info().rss - before < 20 << 20


@linux
def test_a_sparse_file_of_several_gigabytes_costs_the_supervisor_nothing(tmp_path, tiny, micrograph_bytes):
    path = tmp_path / "sparse.dm3"
    path.write_bytes(micrograph_bytes)
    os.truncate(path, 4 << 30)
    supervisor, go_on = Supervisor(WorkerSettings(str(tiny), OutputPlan())), threading.Event()
    try:
        supervisor.start(go_on)
        before = psutil.Process().memory_info().rss
        finding = supervisor.ask(Job(path), go_on)
        worker_peak = psutil.Process(supervisor.health().pid).memory_info().rss
    finally:
        supervisor.close()

    assert finding.outcome in ("classified", "unreadable", "incomplete")
    assert psutil.Process().memory_info().rss - before < 20 << 20
    assert worker_peak < 600 << 20
