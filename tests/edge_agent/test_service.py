"""The live agent as a whole, with a fake worker where the worker has to misbehave and the real one elsewhere."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
from labelled import event, given

from edge_agent import desk as desk_module
from edge_agent import retries as retries_module
from edge_agent import room as room_module
from edge_agent import service as service_module
from edge_agent.config import AgentConfig, InstrumentConfig, RetentionConfig
from edge_agent.files import stamp_of
from edge_agent.journal import Journal
from edge_agent.labelling.label_log import add_events, read_events
from edge_agent.service import Service
from edge_agent.sidecar import read_record, sidecar_json
from edge_agent.status import AgentStatus, AlreadyRunning, running_status
from edge_agent.supervisor import WORKER_COMMAND, ModelRefused, WorkerFailed

WAIT_SECONDS = 30


class Agent:
    """A service in a thread of its own, and what it finds."""

    def __init__(self, config: AgentConfig, command):
        self.findings = queue.SimpleQueue()
        self.ready = threading.Event()
        self.error = None
        self.config = config
        self.service = Service(
            config,
            on_finding=self.findings.put,
            on_ready=lambda model: self.ready.set(),
            worker_command=command,
        )
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.service.run()
        except Exception as error:
            self.error = error

    def next(self):
        return self.findings.get(timeout=WAIT_SECONDS)

    def until(self, condition):
        """Wait until the published numbers fulfil a condition; return them."""
        for _ in range(WAIT_SECONDS * 10):
            status = self.status()
            if status is not None and condition(status):
                return status
            threading.Event().wait(0.1)
        raise AssertionError(f"never came: {self.status()}")

    def status(self) -> AgentStatus | None:
        try:
            return running_status(self.config.state)
        except ValueError:
            return None


@contextmanager
def running(config, command=WORKER_COMMAND):
    if command is not WORKER_COMMAND and config.output is None:
        # The fake worker writes no sidecars, and those missing beside their files would be made again.
        config = config.model_copy(update={"output": config.state.parent / "answers"})
    agent = Agent(config, command)
    agent.thread.start()
    try:
        yield agent
    finally:
        agent.service.stop()
        agent.thread.join(WAIT_SECONDS)
    if agent.error is not None:
        raise agent.error


@pytest.fixture
def scope(tmp_path):
    folder = tmp_path / "scope"
    folder.mkdir()
    return folder


@pytest.fixture
def config(tmp_path, scope, tiny):
    return AgentConfig(
        folders=(scope,),
        state=tmp_path / "state",
        model=str(tiny),
        quiet_seconds=0.1,
        scan_seconds=0.5,
        free_space_floor_mib=0,
        low_priority=False,
    )


@pytest.fixture
def impatient(monkeypatch):
    """Try again after a tenth of a second, not after a minute."""
    monkeypatch.setattr(retries_module, "_RETRY_PAUSES_SECONDS", (0.1,))
    monkeypatch.setattr(retries_module, "_FAILED_PAUSES_SECONDS", (0.1,))


@pytest.fixture
def publishing_often(monkeypatch):
    monkeypatch.setattr(service_module, "_PUBLISH_SECONDS", 0.05)


def test_what_is_saved_before_and_after_the_start_is_classified(
    config, scope, micrograph_bytes, spectrum_bytes
):
    (scope / "before.dm3").write_bytes(micrograph_bytes)
    with running(config) as agent:
        first = agent.next()
        (scope / "sub").mkdir()
        (scope / "sub" / "AFTER.DM3").write_bytes(spectrum_bytes)
        second = agent.next()

    assert (first.path, first.outcome) == (scope / "before.dm3", "classified")
    assert (second.path, second.outcome) == (scope / "sub" / "AFTER.DM3", "not_an_image")
    record = read_record(scope / "before.dm3.json")
    assert record.agent.settled is not None
    with Journal(config.state) as journal:
        assert journal.counts() == {"classified": 1, "not_an_image": 1}
        assert journal.finding(first.path) == first


def test_a_restart_examines_only_what_is_new(config, scope, micrograph_bytes, publishing_often):
    (scope / "a.dm3").write_bytes(micrograph_bytes)
    with running(config) as agent:
        agent.next()
    (scope / "b.dm3").write_bytes(micrograph_bytes)

    with running(config) as agent:
        finding = agent.next()
        assert finding.path == scope / "b.dm3"
        status = agent.until(lambda status: status.done == {"classified": 2})
        assert agent.findings.empty()

    assert status.since_start == {"classified": 1}
    assert status.decided == {finding.decision: 1}


def test_without_its_journal_it_takes_over_every_sidecar(config, scope, micrograph_bytes, publishing_often):
    for name in ("a.dm3", "b.dm3"):
        (scope / name).write_bytes(micrograph_bytes)
    with running(config) as agent:
        agent.next(), agent.next()
    written = {path: path.stat().st_mtime_ns for path in scope.glob("*.json")}
    for path in config.state.glob("journal.sqlite*"):
        path.unlink()

    with running(config) as agent:
        status = agent.until(lambda status: status.done == {"classified": 2})

    assert status.since_start == {"taken_over": 2}
    assert {path: path.stat().st_mtime_ns for path in scope.glob("*.json")} == written
    with Journal(config.state) as journal:
        assert journal.counts() == {"classified": 2}


def test_without_its_journal_it_knows_again_what_people_said(
    config, scope, micrograph_bytes, publishing_often
):
    saved = scope / "a.dm3"
    saved.write_bytes(micrograph_bytes)
    with running(config) as agent:
        finding = agent.next()
    labels = saved.with_name("a.dm3.label.json")
    add_events(labels, [event(source_sha256=finding.sha256)])
    for file in config.state.glob("journal.sqlite*"):
        file.unlink()

    with running(config) as agent:
        agent.until(lambda status: status.since_start.get("taken_over"))

    with Journal(config.state) as journal:
        assert given(journal) == {1: ("correct", "rod", "ann")}
    assert read_events(labels) == (event(source_sha256=finding.sha256),)


def test_the_instruments_profile_reaches_the_sidecar(config, scope, micrograph_bytes):
    instrument = InstrumentConfig(name="Titan, room 12", pixel_size_nm={"200000": 0.21})
    (scope / "a.dm3").write_bytes(micrograph_bytes)
    with running(config.model_copy(update={"instrument": instrument})) as agent:
        finding = agent.next()

    record = read_record(finding.sidecar)
    assert finding.pixel_size_nm == 0.21
    assert record.micrograph.pixel_size_replaced.magnification == 200_000.0
    assert record.agent.instrument.name == "Titan, room 12"


def make_older(sidecar, days):
    """Let a sidecar say that its file was finished so long ago, and its heatmap be as old."""
    record = read_record(sidecar)
    finished = record.agent.finished - timedelta(days=days)
    agent = record.agent.model_copy(update={"finished": finished})
    sidecar.write_text(sidecar_json(record.model_copy(update={"agent": agent})), encoding="utf-8")
    heatmap = sidecar.with_name(record.cam.heatmap)
    os.utime(heatmap, (finished.timestamp(), finished.timestamp()))
    return heatmap


def test_old_heatmaps_go_and_their_files_are_not_examined_again(
    config, scope, micrograph_bytes, publishing_often
):
    for name in ("old.dm3", "young.dm3"):
        (scope / name).write_bytes(micrograph_bytes)
    with running(config) as agent:
        agent.next(), agent.next()
    heatmap = make_older(scope / "old.dm3.json", 30)
    kept = RetentionConfig(heatmap_days=7)

    with running(config.model_copy(update={"retention": kept})) as agent:
        agent.until(lambda status: not heatmap.exists())
    for path in config.state.glob("journal.sqlite*"):
        path.unlink()
    with running(config.model_copy(update={"retention": kept})) as agent:
        status = agent.until(lambda status: status.done == {"classified": 2})

    assert status.since_start == {"taken_over": 2}
    assert sorted(path.name for path in scope.iterdir()) == [
        "old.dm3", "old.dm3.json", "young.dm3", "young.dm3.heatmap.png", "young.dm3.json",
    ]  # fmt: skip


def test_a_file_completed_later_gets_one_sidecar(
    config, scope, micrograph_bytes, impatient, publishing_often
):
    path = scope / "a.dm3"
    path.write_bytes(micrograph_bytes[:70_000])
    with running(config) as agent:
        assert agent.next().outcome == "incomplete"
        status = agent.until(lambda status: status.incomplete == 1)
        assert not path.with_name("a.dm3.json").exists()
        with path.open("ab") as file:
            file.write(micrograph_bytes[70_000:])
        while (finding := agent.next()).outcome == "incomplete":
            pass
        agent.until(lambda status: status.incomplete == 0)

    assert status.troubles[0].path == str(path)
    assert finding.outcome == "classified"
    assert [path.name for path in scope.glob("*.json")] == ["a.dm3.json"]


def test_a_file_that_stays_incomplete_gets_a_sidecar_that_says_so_and_a_better_one_later(
    config, scope, micrograph_bytes, impatient
):
    path = scope / "a.dm3"
    path.write_bytes(micrograph_bytes[:70_000])
    with running(config.model_copy(update={"stalled_seconds": 0.3})) as agent:
        while (finding := agent.next()).outcome == "incomplete":
            pass
        assert finding.outcome == "unreadable"
        assert finding.reason.startswith("incomplete: ")
        path.write_bytes(micrograph_bytes)
        assert agent.next().outcome == "classified"

    assert read_record(path.with_name("a.dm3.json")).outcome == "classified"


def test_an_overwritten_file_is_a_new_generation(config, scope, micrograph_bytes, other_micrograph_bytes):
    path = scope / "a.dm3"
    path.write_bytes(micrograph_bytes)
    with running(config) as agent:
        first = agent.next()
        path.write_bytes(other_micrograph_bytes)
        second = agent.next()

    assert first.sha256 != second.sha256
    assert read_record(path.with_name("a.dm3.json")).source.sha256 == second.sha256


def test_a_deadly_file_is_tried_three_times_then_quarantined_and_the_others_go_on(
    config, scope, fake_worker, impatient, publishing_often
):
    (scope / "die.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        deaths = [agent.next() for _ in range(3)]
        (scope / "healthy.dm3").write_bytes(b"1")
        after = agent.next()
        status = agent.until(lambda status: status.done == {"quarantined": 1, "classified": 1})
        (scope / "die.dm3").write_bytes(b"changed")
        again = agent.next()

    assert [finding.outcome for finding in deaths] == ["crashed", "crashed", "quarantined"]
    assert deaths[0].reason == "the worker ended: killed by SIGSEGV (Segmentation fault in parser)"
    assert deaths[2].reason.startswith(
        "the worker ended 3 times while it examined the file, at last: the worker"
    )
    assert (after.path.name, after.outcome) == ("healthy.dm3", "classified")
    assert (status.worker.deaths, status.failing) == (3, 0)
    assert again.outcome == "crashed"


def test_quarantine_survives_a_restart_and_the_counted_deaths_do_too(
    config, scope, fake_worker, impatient, publishing_often
):
    (scope / "die.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        assert agent.next().outcome == "crashed"
    with running(config, fake_worker) as agent:
        assert [agent.next().outcome for _ in range(2)] == ["crashed", "quarantined"]
    with running(config, fake_worker) as agent:
        agent.until(lambda status: status.done == {"quarantined": 1} and status.waiting == 0 and status.scans)
        assert agent.findings.empty()


def test_a_file_in_hand_when_the_agent_was_killed_comes_last_and_is_no_culprit(
    config, scope, fake_worker, publishing_often
):
    for number in range(5):
        (scope / f"{number}.dm3").write_bytes(b"1")
    with Journal(config.state) as journal:
        for _ in range(10):
            journal.open_attempt(scope / "0.dm3", stamp_of(scope / "0.dm3"))

    with running(config, fake_worker) as agent:
        found = [agent.next() for _ in range(5)]

    assert found[-1].path.name == "0.dm3"
    assert {finding.outcome for finding in found} == {"classified"}


def test_what_a_kill_in_the_middle_of_a_write_left_is_removed_at_the_next_start(
    config, scope, fake_worker, publishing_often
):
    mirror = scope.parent / "out"
    mirror.mkdir()
    config = config.model_copy(update={"output": mirror})
    (scope / "a.dm3").write_bytes(b"1")
    half = mirror / f".scopewatch-{service_module.owner_of(config.state)}-0123456789abcdef.tmp"
    half.write_bytes(b"half")
    with Journal(config.state) as journal:
        journal.open_attempt(scope / "a.dm3", stamp_of(scope / "a.dm3"))

    with running(config, fake_worker) as agent:
        agent.next()

    assert not half.exists()


def test_a_renamed_file_keeps_its_answer_and_its_old_sidecar_is_an_orphan(
    config, scope, micrograph_bytes, publishing_often
):
    (scope / "a.dm3").write_bytes(micrograph_bytes)
    with running(config) as agent:
        first = agent.next()
        (scope / "a.dm3").rename(scope / "b.dm3")
        second = agent.next()
        agent.until(lambda status: status.orphaned == 1)

    before, after = read_record(scope / "a.dm3.json"), read_record(scope / "b.dm3.json")
    assert (second.label, second.probability) == (first.label, first.probability)
    assert after.prediction == before.prediction
    assert after.agent.milliseconds.infer is None
    assert after.source.path == str(scope / "b.dm3")


def test_a_sidecar_deleted_by_hand_is_made_again(config, scope, micrograph_bytes):
    (scope / "a.dm3").write_bytes(micrograph_bytes)
    with running(config) as agent:
        agent.next()
        (scope / "a.dm3.json").unlink()
        assert agent.next().outcome == "classified"

    assert read_record(scope / "a.dm3.json").outcome == "classified"


def test_nothing_is_written_to_a_disk_without_room(config, scope, fake_worker, publishing_often, monkeypatch):
    monkeypatch.setattr(desk_module, "_SHORT_DISK_SECONDS", 0.1)
    monkeypatch.setattr(room_module, "_FRESH_SECONDS", 0.0)
    free = {"mib": 100}
    answers = scope.parent / "answers"
    answers.mkdir()

    def usage(place):
        return SimpleNamespace(free=free["mib"] * 2**20 if place == answers else 2**40)

    monkeypatch.setattr(room_module.shutil, "disk_usage", usage)
    config = config.model_copy(update={"free_space_floor_mib": 200, "output": answers})
    (scope / "a.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        status = agent.until(lambda status: status.failing == 1)
        assert agent.findings.empty()
        free["mib"] = 300
        assert agent.next().outcome == "classified"

    assert status.troubles[0].reason.startswith(
        f"the disk of {answers} has 100 MiB free, less than the 200 MiB"
    )


def test_outputs_that_cannot_be_written_are_tried_again(
    config, scope, fake_worker, impatient, publishing_often
):
    (scope / "locked.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        outcomes = [agent.next().outcome for _ in range(5)]
        agent.until(lambda status: status.failing == 1)
        (scope / "locked.dm3").unlink()
        while agent.next().outcome != "vanished":
            pass
        status = agent.until(lambda status: status.failing == 0 and status.waiting == 0)

    assert outcomes == ["failed"] * 5
    assert status.done == {}


def test_the_numbers_say_what_is_going_on(config, scope, fake_worker, publishing_often):
    missing = scope.parent / "later"
    config = config.model_copy(update={"folders": (scope, missing), "output": scope.parent / "out"})
    (scope / "a.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        agent.next()
        status = agent.until(lambda status: status.last is not None and status.waiting == 0)

    assert [(folder.path, folder.present) for folder in status.folders] == [
        (str(scope), True),
        (str(missing), False),
    ]
    assert (status.seen, status.waiting, status.done) == (1, 0, {"classified": 1})
    assert (status.model.name, status.last.path, status.last.label) == (
        config.model,
        str(scope / "a.dm3"),
        "rod",
    )
    assert status.worker.pid is not None
    assert status.output == str(scope.parent / "out")
    assert status.scans >= 1
    assert not missing.exists()


def drift_of(status):
    return [(seen.quantity, seen.files, seen.below, seen.usual, seen.left) for seen in status.drift]


def test_a_day_of_unsure_answers_is_warned_of_once_also_after_a_restart(
    config, scope, fake_worker, publishing_often, caplog
):
    config = config.model_copy(update={"model": "with usual ranges"})
    for number in range(25):
        (scope / f"unsure {number:02}.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        first = agent.until(lambda status: status.done == {"classified": 25} and status.waiting == 0)
    (scope / "unsure 25.dm3").write_bytes(b"1")
    with running(config, fake_worker) as agent:
        agent.next()
        second = agent.until(lambda status: status.done == {"classified": 26})

    assert [text[:42] for text in caplog.messages if "usual range" in text] == [
        "confidence has left the usual range: 20 of"
    ]
    assert drift_of(first) == [("confidence", 25, 25, (0.5, 1.0), True)]
    assert drift_of(second) == [("confidence", 26, 26, (0.5, 1.0), True)]


def test_answers_taken_over_count_for_no_day_and_renamed_files_only_once(
    config, scope, micrograph_bytes, publishing_often
):
    (scope / "a.dm3").write_bytes(micrograph_bytes)
    with running(config) as agent:
        agent.next()
        (scope / "a.dm3").rename(scope / "b.dm3")
        agent.next()
        once = agent.until(lambda status: status.drift)
    for path in (*config.state.glob("journal.sqlite*"), config.state / "drift.json"):
        path.unlink()

    with running(config) as agent:
        after = agent.until(lambda status: status.done == {"classified": 1})

    assert {seen.quantity: seen.files for seen in once.drift} == {
        "confidence": 1,
        "contrast": 1,
        "pixel_size_nm": 1,
    }
    assert after.drift == ()


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        pytest.param("refused", ModelRefused, "^/models/x: SHA-256 differs$", id="model refused"),
        pytest.param(
            "broken", WorkerFailed, "exit code 1 .cannot load libonnxruntime", id="worker does not start"
        ),
    ],
)
def test_an_agent_that_cannot_start_says_why(config, fake_worker, model, error, message):
    config = config.model_copy(update={"model": model})
    with pytest.raises(error, match=message), running(config, fake_worker) as agent:
        agent.thread.join(WAIT_SECONDS)


@pytest.mark.parametrize("shared", ["state", "folders"])
def test_a_second_agent_is_refused(config, fake_worker, tmp_path, shared):
    other = {"state": {"folders": (tmp_path,)}, "folders": {"state": tmp_path / "other"}}[shared]
    with running(config, fake_worker) as agent:
        agent.ready.wait(WAIT_SECONDS)
        with pytest.raises(AlreadyRunning, match="another agent already holds the "):
            Service(config.model_copy(update=other), worker_command=fake_worker).run()


def test_stopping_abandons_a_file_that_hangs_and_the_next_start_takes_it_up(config, scope, fake_worker):
    (scope / "hang.dm3").write_bytes(b"1")
    agent = Agent(config, fake_worker)
    agent.thread.start()
    agent.until(lambda status: status.waiting == 1 and status.worker.pid is not None)

    agent.service.stop()
    agent.thread.join(3)

    assert not agent.thread.is_alive()
    assert agent.error is None
    with Journal(config.state) as journal:
        assert journal.of(scope / "hang.dm3") is None


def test_finishing_waits_for_the_file_in_hand(config, scope, fake_worker):
    (scope / "slow.dm3").write_bytes(b"1")
    agent = Agent(config.model_copy(update={"output": scope.parent / "answers"}), fake_worker)
    agent.thread.start()
    agent.until(lambda status: status.waiting == 1 and status.worker.pid is not None)

    agent.service.finish()
    agent.thread.join(WAIT_SECONDS)

    assert not agent.thread.is_alive()
    assert agent.next().path == scope / "slow.dm3"
    assert agent.service.numbers.since_start == {"classified": 1}
    assert not agent.service.desk_lives()


def test_a_thread_that_breaks_ends_the_agent_loudly(config, scope, fake_worker, monkeypatch):
    (scope / "a.dm3").write_bytes(b"1")
    monkeypatch.setattr(service_module, "finding_on_record", lambda *a: 1 / 0)

    with pytest.raises(ZeroDivisionError), running(config, fake_worker) as agent:
        agent.thread.join(WAIT_SECONDS)


def test_a_storm_of_files_is_worked_off_without_loss(config, scope, fake_worker):
    names = [f"{number:03}.dm3" for number in range(300)]
    with running(config, fake_worker) as agent:
        for name in names:
            (scope / name).write_bytes(b"1")
        found = [agent.next().path.name for _ in names]

    assert sorted(found) == names
    assert agent.findings.empty()


def test_a_full_disk_under_the_numbers_stops_nothing(
    config, scope, fake_worker, monkeypatch, publishing_often
):
    def full(state, status):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(service_module, "publish", full)
    (scope / "a.dm3").write_bytes(b"1")

    with running(config, fake_worker) as agent:
        assert agent.next().outcome == "classified"
