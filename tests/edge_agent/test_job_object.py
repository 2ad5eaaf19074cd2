"""The job object of Windows, against a fake kernel: which calls are made, with which values, in which order."""

from __future__ import annotations

import ctypes

import pytest

from edge_agent.processes import job_object
from edge_agent.processes.job_object import (
    ExtendedLimits,
    JobLimits,
    Kernel32Jobs,
    WorkerJob,
    extended_limits,
    worker_job,
)

JOB, PROCESS = 7, 9


class FakeJobs:
    """Windows, as far as `WorkerJob` asks it; `refuses` names a call that fails."""

    def __init__(self, refuses: str = ""):
        self.calls: list[tuple] = []
        self.refuses = refuses

    def _call(self, *call):
        self.calls.append(call)
        if call[0] == self.refuses:
            raise OSError(5, "Access is denied")

    def create_job(self):
        self._call("create_job")
        return JOB

    def limit(self, job, limits):
        self._call("limit", job, limits)

    def open_process(self, pid):
        self._call("open_process", pid)
        return PROCESS

    def assign(self, job, process):
        self._call("assign", job, process)

    def close(self, handle):
        self._call("close", handle)


def test_a_worker_is_put_into_a_limited_job_that_ends_with_its_last_handle():
    system, limits = FakeJobs(), JobLimits(4096, low_priority=True)

    job = WorkerJob(limits, system)
    taken = job.take(4711)
    job.close()
    job.close()

    assert taken
    assert system.calls == [
        ("create_job",), ("limit", JOB, limits),
        ("open_process", 4711), ("assign", JOB, PROCESS), ("close", PROCESS),
        ("close", JOB),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("refused", "said", "closed"),
    [
        pytest.param("create_job", "the worker's memory is not limited: Windows refuses", [], id="job"),
        pytest.param("limit", "the worker's memory is not limited: Windows refuses", [JOB], id="limits"),
        pytest.param("open_process", "process 4711 is not in the worker's job object", [], id="process"),
        pytest.param("assign", "process 4711 is not in the worker's job object", [PROCESS], id="assignment"),
    ],
)
def test_what_windows_refuses_is_said_and_leaks_no_handle(caplog, refused, said, closed):
    system = FakeJobs(refused)

    assert WorkerJob(JobLimits(), system).take(4711) is False

    assert said in caplog.text
    assert [call[1] for call in system.calls if call[0] == "close"] == closed


def test_there_is_no_such_thing_elsewhere(monkeypatch):
    monkeypatch.setattr(job_object.sys, "platform", "linux")

    assert worker_job(JobLimits(512)) is None
    with pytest.raises(OSError, match="job objects exist on Windows only"):
        Kernel32Jobs()


@pytest.mark.parametrize(
    ("limits", "flags", "memory", "priority"),
    [
        pytest.param(JobLimits(), 0x2400, 0, 0, id="only the end"),
        pytest.param(JobLimits(512), 0x2500, 512 << 20, 0, id="memory"),
        pytest.param(JobLimits(low_priority=True), 0x2420, 0, 0x4000, id="priority"),
        pytest.param(JobLimits(4096, low_priority=True), 0x2520, 4096 << 20, 0x4000, id="both"),
    ],
)
def test_the_limits_in_the_form_of_windows(limits, flags, memory, priority):
    values = extended_limits(limits)

    assert values.BasicLimitInformation.LimitFlags == flags
    assert values.ProcessMemoryLimit == memory
    assert values.BasicLimitInformation.PriorityClass == priority


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="sizes of 64 bits")
def test_the_structure_has_the_size_and_places_of_winnt_h():
    assert ctypes.sizeof(ExtendedLimits) == 144
    assert ExtendedLimits.IoInfo.offset == 64
    assert ExtendedLimits.ProcessMemoryLimit.offset == 112


class Function:
    """One function of a fake kernel32."""

    def __init__(self, library, name):
        self.library, self.name = library, name

    def __call__(self, *arguments):
        self.library.calls.append((self.name, *arguments))
        return self.library.answers[self.name]


class FakeKernel32:
    def __init__(self, **answers):
        self.calls: list[tuple] = []
        self.answers = {
            "CreateJobObjectW": JOB, "OpenProcess": PROCESS, "SetInformationJobObject": 1,
            "AssignProcessToJobObject": 1, "CloseHandle": 1,
        } | answers  # fmt: skip
        for name in self.answers:
            setattr(self, name, Function(self, name))


def test_the_calls_of_kernel32():
    library = FakeKernel32()
    system = Kernel32Jobs(library, lambda: 0)

    job = system.create_job()
    system.limit(job, JobLimits(512))
    process = system.open_process(4711)
    system.assign(job, process)
    system.close(process)

    names = [call[0] for call in library.calls]
    assert names == [
        "CreateJobObjectW", "SetInformationJobObject", "OpenProcess", "AssignProcessToJobObject", "CloseHandle",
    ]  # fmt: skip
    assert library.calls[0][1:] == (None, None)
    assert (library.calls[1][1], library.calls[1][2], library.calls[1][4]) == (JOB, 9, 144)
    assert library.calls[2][1:] == (0x0101, 0, 4711)
    assert library.calls[3][1:] == (JOB, PROCESS)


@pytest.mark.parametrize(
    ("call", "ask"),
    [
        ("CreateJobObjectW", lambda system: system.create_job()),
        ("SetInformationJobObject", lambda system: system.limit(JOB, JobLimits())),
        ("OpenProcess", lambda system: system.open_process(4711)),
        ("AssignProcessToJobObject", lambda system: system.assign(JOB, PROCESS)),
    ],
)
def test_a_failing_call_raises_what_windows_says(call, ask):
    system = Kernel32Jobs(FakeKernel32(**{call: 0}), lambda: 5)

    with pytest.raises(OSError, match="WinError 5") as raised:
        ask(system)

    assert (raised.value.winerror, raised.value.filename) == (5, call)
