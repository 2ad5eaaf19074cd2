"""What the worker asks of the system holds, and a refusal never keeps it from working."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edge_agent.processes import process_limits
from edge_agent.processes.process_limits import SupervisorGone, die_with, lower_priority

REPOSITORY = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux shows it")
posix = pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")


def run(program: str) -> str:
    """Run a program of its own, because limits of this process could not be taken back."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from edge_agent.processes.process_limits import *\nimport os, psutil, signal\n{program}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_it_takes_processor_and_disk_last():
    shown = run(
        "lower_priority(); me = psutil.Process(); print(me.nice(), me.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE)"
    )

    assert shown == "10 True"


@linux
def test_its_threads_do_so_too():
    shown = run(
        "import threading\nlower_priority()\n"
        "show = lambda: print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))\n"
        "thread = threading.Thread(target=show); thread.start(); thread.join()"
    )

    assert shown == "10"


@linux
def test_what_is_lower_already_is_not_raised():
    assert (
        run("psutil.Process().nice(15); lower_priority(); lower_priority(); print(psutil.Process().nice())")
        == "15"
    )


class Refusing:
    def nice(self, value=None):
        raise psutil.AccessDenied(1)

    def ionice(self, value=None):
        raise OSError("no such class")


def test_a_priority_that_the_system_refuses_is_left_as_it_is(monkeypatch, caplog):
    monkeypatch.setattr(psutil, "Process", Refusing)

    with caplog.at_level(logging.DEBUG, "edge_agent.processes.process_limits"):
        lower_priority()

    assert [record.levelname for record in caplog.records] == ["DEBUG"] * (
        2 if sys.platform == "linux" else 1
    )


class OfWindows:
    """A process as psutil shows it on Windows."""

    def __init__(self, priority: int, disk: int):
        self.priority, self.disk = priority, disk

    def nice(self, value=None):
        self.priority = self.priority if value is None else value
        return self.priority

    def ionice(self, value=None):
        self.disk = self.disk if value is None else value
        return self.disk


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((0x20, 2), (0x4000, 0), id="normal"),
        pytest.param((0x80, 3), (0x4000, 0), id="high"),
        pytest.param((0x4000, 1), (0x4000, 0), id="below normal"),
        pytest.param((0x40, 0), (0x40, 0), id="idle"),
    ],
)
def test_on_windows_it_is_below_normal_with_the_lowest_disk_priority(monkeypatch, before, after):
    constants = {"IDLE_PRIORITY_CLASS": 0x40, "BELOW_NORMAL_PRIORITY_CLASS": 0x4000, "IOPRIO_VERYLOW": 0}
    for name, value in constants.items():
        monkeypatch.setattr(psutil, name, value, raising=False)
    process = OfWindows(*before)
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(process_limits.sys, "platform", "win32")

    lower_priority()

    assert (process.priority, process.disk) == after


@linux
def test_beyond_the_limit_memory_is_refused_and_below_it_is_not():
    shown = run(
        "limit_memory(400)\n"
        "enough = bytearray(100 << 20)\n"
        "try:\n    bytearray(400 << 20)\nexcept MemoryError:\n    print('refused')"
    )

    assert shown == "refused"


@linux
def test_a_lower_limit_that_is_there_already_stays():
    shown = run(
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))\n"
        "limit_memory(400); print(resource.getrlimit(resource.RLIMIT_AS)[0] >> 20)"
    )

    assert shown == "300"


@posix
def test_a_limit_that_the_system_refuses_is_said(monkeypatch, caplog):
    import resource

    def refuse(kind, limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)

    process_limits.limit_memory(400)
    process_limits.crash_quietly()

    assert caplog.messages == ["memory is not limited to 400 MiB: not allowed to raise maximum limit"]


@posix
def test_a_crash_leaves_no_core_file():
    assert (
        run("import resource; crash_quietly(); print(resource.getrlimit(resource.RLIMIT_CORE))") == "(0, 0)"
    )


@linux
def test_when_memory_runs_out_it_goes_before_the_acquisition_software():
    assert int(run("be_first_to_go(); print(open('/proc/self/oom_score_adj').read())")) >= 800


TIED = """
import subprocess, sys, time, os
child = subprocess.Popen([sys.executable, "-c",
    "import sys, time; from edge_agent.processes.process_limits import die_with; "
    "die_with(int(sys.argv[1])); print('tied', flush=True); time.sleep(60)", str(os.getpid())],
    stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@linux
def test_it_dies_within_a_second_of_its_parent_even_by_kill_9():
    parent = subprocess.Popen(
        [sys.executable, "-c", TIED], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    child = psutil.Process(int(parent.stdout.readline()))
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
def test_a_supervisor_that_was_gone_before_is_noticed():
    with pytest.raises(SupervisorGone, match=r"the supervisor \(process 2\) is gone"):
        die_with(2)


@linux
def test_a_program_in_between_is_no_reason_to_end():
    """As when the worker runs below strace or a debugger."""
    limits = "edge_agent.processes.process_limits"
    program = f"from {limits} import *; import sys; die_with(int(sys.argv[1])); print('lives')"
    command = ["sh", "-c", '"$0" -c "$1" "$2" && true', sys.executable, program, str(os.getpid())]

    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )

    assert (done.stdout, done.stderr) == ("lives\n", "")


@linux
def test_without_prctl_the_pipe_has_to_do(monkeypatch, caplog):
    class NoPrctl:
        def prctl(self, *arguments):
            return -1

    monkeypatch.setattr(process_limits.ctypes, "CDLL", lambda *a, **k: NoPrctl())

    die_with(os.getppid())

    assert caplog.messages[0].startswith("this process ends with its supervisor's pipe only: ")


def test_elsewhere_nothing_is_tied(monkeypatch):
    monkeypatch.setattr(process_limits.sys, "platform", "darwin")

    assert die_with(2) is None
