"""The host with the real service and a fake worker: edits, models that fail, counts, signs of life, the end."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random

import pytest

from edge_agent import desk as desk_module
from edge_agent import service as service_module
from edge_agent import watcher as watcher_module
from edge_agent.config import ConfigRefused
from edge_agent.hosting import config_watch, succession
from edge_agent.hosting.config_edits import ConfigEdits
from edge_agent.hosting.host import Host
from edge_agent.hosting.notify import Notifier
from edge_agent.hosting.onlooker import Nobody
from edge_agent.hosting.succession import Parts
from edge_agent.hosting.vital_signs import HEARTBEAT_NAME
from edge_agent.service import Service
from edge_agent.status import AgentStatus, AlreadyRunning, running_status, sole_agent
from edge_agent.supervisor import ModelRefused, WorkerFailed

WAIT_SECONDS = 30
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look, settle and publish in tenths of a second."""
    monkeypatch.setattr(service_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(service_module, "_PUBLISH_SECONDS", 0.05)
    monkeypatch.setattr(service_module, "_PUBLISH_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(desk_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(watcher_module, "_LONGEST_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(config_watch, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(config_watch, "_SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(succession, "_REST_SECONDS", 0.1)
    monkeypatch.setattr(succession, "lower_priority", lambda: None)


class Place:
    """A folder with a configuration file, and what a host in it finds and says."""

    def __init__(self, folder: Path, worker):
        self.folder, self.worker = folder, worker
        self.file = folder / "agent.toml"
        self.values = {
            "folders": ["scope"],
            "output": "answers",
            "state": "state",
            "model": "fake",
            "quiet_seconds": 0.1,
            "scan_seconds": 0.5,
            "free_space_floor_mib": 0,
        }
        self.page = {"enabled": False}
        self.overrides: dict[str, object] = {}
        self.parts: dict[str, object] = {}
        self.findings: queue.SimpleQueue = queue.SimpleQueue()
        self.said: list[str] = []
        self.states: list[str] = []
        self.starts = 0
        self.error: Exception | None = None
        for name in ("scope", "other"):
            (folder / name).mkdir()
        self.write()

    def text(self, **values) -> str:
        lines = [f"{key} = {json.dumps(value)}" for key, value in (self.values | values).items()]
        page = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.page.items())
        return "\n".join([*lines, f"page = {{ {page} }}", ""])

    def write(self, **values):
        self.file.write_text(self.text(**values))

    def save(self, name: str, folder: str = "scope") -> Path:
        path = self.folder / folder / name
        path.write_bytes(b"1")
        return path

    def next(self):
        return self.findings.get(timeout=WAIT_SECONDS)

    def status(self) -> AgentStatus | None:
        try:
            return running_status(self.folder / "state")
        except ValueError:
            return None

    def until(self, condition):
        for _ in range(WAIT_SECONDS * 50):
            if self.error is not None:
                raise self.error
            status = self.status()
            if status is not None and condition(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"never came: {self.status()} {self.said}")

    def ready(self, starts=1):
        return self.until(lambda status: self.starts >= starts and status.worker.pid and name_of(status))

    def refused(self):
        return self.until(lambda status: status.config.refused is not None).config.refused

    def host(self) -> Host:
        return Host(
            self.file,
            self.overrides,
            on_finding=self.findings.put,
            on_ready=self._count,
            say=self.said.append,
            on_state=self.states.append,
            parts=Parts(service=partial(Service, worker_command=self.worker), **self.parts),
        )

    def _count(self, model):
        self.starts += 1

    @contextmanager
    def running(self):
        host = self.host()

        def run():
            try:
                host.run()
            except Exception as error:
                self.error = error

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield self
        finally:
            host.stop()
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def place(tmp_path, fake_worker):
    return Place(tmp_path, fake_worker)


def name_of(status):
    return status.model and status.model.name


# --- edits


def test_a_good_edit_is_taken_up_without_another_process_and_the_counts_go_on(place):
    place.save("a.dm3")
    with place.running():
        assert place.next().path.name == "a.dm3"
        before = place.until(lambda status: status.since_start == {"classified": 1})
        place.write(folders=["scope", "other"])
        place.save("b.dm3", "other")
        assert place.next().path.name == "b.dm3"
        after = place.until(lambda status: status.since_start == {"classified": 2})
        assert place.findings.empty()

    assert (after.pid, after.started) == (before.pid, before.started)
    assert after.decided == {"ungated": 2}
    assert (before.worker.starts, after.worker.starts) == (1, 2)
    assert after.scans > before.scans
    assert after.config.since > before.config.since
    assert (after.config.file, after.config.refused) == (str(place.file), None)
    assert place.said == [
        f"model fake 1 watches {place.folder}/scope",
        f"taking up the configuration of {place.file}",
        f"model fake 1 watches {place.folder}/scope, {place.folder}/other",
        f"the configuration of {place.file} is taken up",
    ]


def test_edits_in_a_stream_of_files_lose_and_repeat_none(place):
    names = [f"{number:03} slow.dm3" if number % 20 == 0 else f"{number:03}.dm3" for number in range(60)]
    found = []
    with place.running():
        place.ready()
        for number, name in enumerate(names):
            place.save(name)
            time.sleep(0.01)
            if number % 20 == 10:
                place.write(stalled_seconds=100 + number)
        found = [place.next().path.name for _ in names]
        status = place.until(lambda status: status.done == {"classified": len(names)})
        place.until(lambda status: status.config.refused is None and place.starts >= 2)
        assert place.findings.empty()

    assert sorted(found) == names
    assert status.since_start == {"classified": len(names)}


BAD_EDITS = [
    pytest.param(
        lambda text: text.replace('["scope"]', '["agent.toml"]'),
        "{file}:1: folders: {folder}/agent.toml: is a file, not a folder",
        id="a file for a folder",
    ),
    pytest.param(lambda text: text + "quiet = 1\n", "{file}:9: quiet", id="a key that is none"),
    pytest.param(
        lambda text: text.replace('"answers"', '"agent.toml"'),
        "{file}:2: output: {file}: is a file, not a folder",
        id="a file for outputs",
    ),
    pytest.param(lambda text: text.replace("]", ""), "{file}:2: is not valid TOML", id="no TOML"),
    pytest.param(
        lambda text: text.replace('["scope"]', "[]"), "{file}:1: folders: no folder to watch", id="no folder"
    ),
    pytest.param(
        lambda text: text.replace('"state"', '"elsewhere"'),
        "{file}:3: state: is {folder}/state for as long as the agent runs; restart",
        id="another state folder",
    ),
    pytest.param(lambda text: "\udcff", "{file}:1: is not UTF-8", id="no text"),
]


@pytest.mark.parametrize(("edit", "reason"), BAD_EDITS)
def test_a_bad_edit_is_refused_and_nothing_stops(place, edit, reason):
    with place.running():
        worker = place.ready().worker.pid
        good = place.text()
        place.file.write_bytes(edit(good).encode("utf-8", "surrogateescape"))
        refused = place.refused()
        place.save("a.dm3")
        place.next()
        status = place.until(lambda status: status.since_start)
        place.file.write_text(good)
        place.until(lambda status: status.config.refused is None)

    assert reason.format(file=place.file, folder=place.folder) in refused
    assert (status.worker.pid, status.worker.starts, place.starts) == (worker, 1, 1)


def test_a_bad_edit_is_logged_with_its_reason(place, caplog):
    with place.running():
        place.ready()
        place.write(quiet=1)
        refused = place.refused()

    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "config refused"]
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"the configuration stays as it was: {refused}"


def half_then_whole(place):
    text = place.text(folders=["other"])
    for end in range(1, len(text), 40):
        place.file.write_text(text[:end])
        time.sleep(0.03)
    place.file.write_text(text)


def replaced(place):
    new = place.file.with_suffix(".new")
    new.write_text(place.text(folders=["other"]))
    new.replace(place.file)


def away_and_back(place):
    place.file.unlink()
    place.until(lambda status: "is gone" in (status.config.refused or ""))
    place.write(folders=["other"])


@pytest.mark.parametrize("edit", [half_then_whole, replaced, away_and_back])
def test_however_an_editor_saves_the_edit_is_taken_up_once(place, edit):
    with place.running():
        place.ready()
        edit(place)
        status = place.until(lambda status: [Path(f.path).name for f in status.folders] == ["other"])
        place.save("a.dm3", "other")
        place.next()

    assert status.config.refused is None
    assert place.starts == 2


def test_an_edit_that_changes_nothing_starts_nothing(place):
    with place.running():
        place.ready()
        place.file.write_text("# for the night shift\n" + place.text(scan_seconds=0.50))
        place.write(quiet=1)  # so that there is something to see
        place.refused()
        place.file.write_text("# again\n" + place.text())
        status = place.until(lambda status: status.config.refused is None)

    assert (status.worker.starts, place.starts) == (1, 1)


def test_the_command_line_stays_laid_over_every_edit(place):
    place.overrides = {"folders": (place.folder / "other",), "model": None, "output": None}
    with place.running():
        place.ready()
        place.write(folders=["scope"], stalled_seconds=77)
        status = place.ready(starts=2)

    assert [folder.path for folder in status.folders] == [str(place.folder / "other")]


def test_a_configuration_that_cannot_be_used_at_the_start_ends_it(place):
    place.write(quiet=1)
    with pytest.raises(ConfigRefused, match=r"agent\.toml:8: quiet"), place.running():
        while place.error is None:
            time.sleep(0.02)


def test_without_a_file_there_is_nothing_to_edit(place):
    place.file = None
    place.overrides = {
        "folders": (place.folder / "scope",),
        "model": "fake",
        "state": place.folder / "state",
        "page": {"enabled": False},
    }
    with place.running():
        status = place.ready()

    assert (status.config.file, status.config.refused) == (None, None)


def test_the_file_is_told_with_its_place_however_it_was_named(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    edits = ConfigEdits(Path("agent.toml"), {})
    assert edits.status(datetime.now(UTC)).file == str(place.file)


# --- what cannot start


def test_an_edit_that_cannot_start_gives_way_to_what_was_there_before(place, tmp_path):
    with sole_agent(tmp_path / "another state", [place.folder / "other"]), place.running():
        place.ready()
        place.write(folders=["scope", "other"])
        refused = place.refused()
        place.ready(starts=2)
        place.save("a.dm3")
        place.next()
        status = place.status()

    assert refused == (
        f"{place.file}:1: folders: another agent already holds the folder {place.folder}/other; "
        "stop it, or watch another folder"
    )
    assert [Path(folder.path).name for folder in status.folders] == ["scope"]


def test_once_the_obstacle_is_gone_saving_again_takes_the_edit_up(place, tmp_path):
    with place.running():
        place.ready()
        with sole_agent(tmp_path / "another state", [place.folder / "other"]):
            place.write(folders=["other"])
            place.refused()
            place.ready(starts=2)
        place.write(folders=["other"])
        place.until(lambda status: status.config.refused is None)
        status = place.until(lambda status: [Path(f.path).name for f in status.folders] == ["other"])

    assert status.folders[0].present


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param("refused", "{file}:4: model: /models/x: SHA-256 differs", id="refused"),
        pytest.param("broken", "cannot load libonnxruntime", id="does not start"),
        pytest.param("short of memory", "needed more memory", id="too large for this PC"),
    ],
)
def test_a_model_that_an_edit_names_and_that_fails_leaves_the_one_before(place, model, reason):
    store = Store("fake", marks={})
    place.parts = {"models": lambda state: store}
    with place.running():
        place.ready()
        place.write(model=model)
        refused = place.refused()
        status = place.ready(starts=2)

    assert reason.format(file=place.file) in refused
    assert status.model.name == "fake"
    assert store.marks == {}


def test_two_bad_edits_in_a_row_leave_what_last_worked(place):
    place.parts = {"models": lambda state: Store("fake", marks={})}
    with place.running():
        place.ready()
        place.write(model="never ready")
        place.until(lambda status: place.states[-1] == "reloading" and status.worker.starts == 2)
        place.write(model="broken")
        refused = place.refused()
        status = place.ready(starts=2)

    assert "cannot load libonnxruntime" in refused
    assert status.model.name == "fake"


@pytest.mark.parametrize(
    ("model", "error"),
    [
        pytest.param("refused", ModelRefused, id="refused"),
        pytest.param("broken", WorkerFailed, id="broken"),
        pytest.param("short of memory", WorkerFailed, id="no memory, three times"),
    ],
)
def test_a_first_start_that_fails_ends_it_with_the_reason(place, model, error):
    place.write(model=model)
    with pytest.raises(error), place.running():
        while place.error is None:
            time.sleep(0.02)

    assert not (place.folder / "state" / "agent.lock").exists() or place.status() is None


def test_where_another_agent_holds_the_state_it_ends(place):
    with sole_agent(place.folder / "state", []), pytest.raises(AlreadyRunning), place.running():
        while place.error is None:
            time.sleep(0.02)


# --- models


@dataclass(frozen=True)
class Model:
    model: str | None
    manifest_sha256: str | None = None
    in_store: bool = True
    note: str | None = None

    @property
    def title(self):
        return f"the model {self.model}"


class Store:
    """A model store in memory: what is asked for, else the last of `names` that is not marked."""

    def __init__(self, *names, marks=None):
        self.names, self.marks, self.good = list(names), {} if marks is None else marks, []
        self.changes = 0

    def chosen(self, asked):
        return Model(asked if asked not in (None, "the store's") else self._best())

    def revision(self):
        return self.changes

    def worked(self, chosen):
        self.good.append(chosen.model)

    def failed(self, chosen, reason):
        self.marks[chosen.model] = reason
        self.changes += 1
        best = self._best()
        return None if best is None else Model(best)

    def use(self, name):
        self.names.append(name)
        self.changes += 1

    def _best(self):
        return next((name for name in reversed(self.names) if name not in self.marks), None)


@pytest.fixture
def store(place):
    store = Store("good")
    place.values["model"] = "the store's"
    place.write()
    place.parts = {"models": lambda state: store}
    return store


def test_another_choice_of_model_is_taken_up(place, store):
    with place.running():
        place.ready()
        store.use("better")
        status = place.until(lambda status: name_of(status) == "better")

    assert (store.good, store.marks, status.model_note) == (["good", "better"], {}, None)


@pytest.mark.parametrize("fault", ["refused", "crashes"])
def test_a_model_that_fails_gives_way_to_the_last_good_one(place, store, fault):
    with place.running():
        place.ready()
        store.use(fault)
        status = place.until(lambda status: status.model_note is not None and place.starts == 2)
        place.save("a.dm3")
        place.next()

    assert status.model_note.startswith(f"the model good answers instead of the model {fault}: ")
    assert list(store.marks) == [fault]
    assert place.starts == 2


def test_at_the_first_start_as_well(place, store):
    store.use("refused")
    with place.running():
        status = place.ready()
    assert (status.model.name, list(store.marks)) == ("good", ["refused"])


def test_where_no_model_is_left_it_ends(place, store):
    store.names[:] = ["broken", "refused"]
    with pytest.raises(WorkerFailed, match="libonnxruntime"), place.running():
        while place.error is None:
            time.sleep(0.02)
    assert set(store.marks) == {"refused", "broken"}


def test_a_shortage_of_memory_marks_no_model_and_the_one_before_answers(place, store):
    with place.running():
        place.ready()
        store.use("short of memory")
        status = place.until(lambda status: place.starts == 2 and name_of(status) == "good")

    assert store.marks == {}
    assert "needed more memory" in status.model_note


def test_a_model_that_goes_bad_while_the_agent_runs_gives_way_after_a_while(place, store, monkeypatch):
    monkeypatch.setattr(succession, "AWAY_SECONDS", 0.3)
    model = place.folder / "model"
    model.write_text("fake")
    store.use(str(model))
    with place.running():
        place.ready()
        model.write_text("refused")
        place.save("die.dm3")
        status = place.until(lambda status: place.starts == 2 and name_of(status) == "good")

    assert store.marks == {str(model): "/models/x: SHA-256 differs"}
    assert status.worker.deaths >= 2


def test_a_model_alone_that_goes_bad_is_marked_once_and_files_wait(place, store, monkeypatch):
    monkeypatch.setattr(succession, "AWAY_SECONDS", 0.1)
    model = place.folder / "model"
    model.write_text("fake")
    store.names[:] = [str(model)]
    with place.running():
        place.ready()
        model.write_text("refused")
        place.save("die.dm3")
        place.until(lambda status: store.marks)
        model.write_text("fake")
        place.save("a.dm3")
        while place.next().path.name != "a.dm3":
            pass

    assert store.changes == 1


# --- who looks on


class Onlooker(Nobody):
    def __init__(self, page, log):
        self.word, self.log = f"http://127.0.0.1:{page.port}/", log

    def start(self):
        self.log.append(("start", self.word))

    def note_finding(self, finding):
        self.log.append(("finding", finding.path.name))

    def move(self, page):
        self.word = f"http://127.0.0.1:{page.port}/"
        self.log.append(("move", self.word))

    def close(self):
        self.log.append(("close", self.word))


def test_another_port_leaves_events_that_wait_to_be_sent(place):
    log = []
    place.parts = {"onlooker": lambda page, events: Onlooker(page, log)}
    place.overrides = {"events": {"webhook_url": "http://127.0.0.1:9/"}}
    with place.running():
        place.ready()
        place.page["port"] = 8888
        place.write()
        place.until(lambda status: status.page == "http://127.0.0.1:8888/")

    first, second = "http://127.0.0.1:8747/", "http://127.0.0.1:8888/"
    assert log == [("start", first), ("move", second), ("close", second)]


def test_another_port_of_the_page_moves_the_page_and_leaves_the_worker(place):
    log = []
    place.parts = {"onlooker": lambda page, events: Onlooker(page, log)}
    with place.running():
        place.ready()
        place.page["port"] = 8888
        place.write()
        place.until(lambda status: status.page == "http://127.0.0.1:8888/")
        place.save("a.dm3")
        place.next()
        place.write(stalled_seconds=77)
        place.ready(starts=2)
        place.save("b.dm3")
        place.next()
        place.until(lambda status: len(log) == 5)

    first, second = "http://127.0.0.1:8747/", "http://127.0.0.1:8888/"
    assert log == [
        ("start", first),
        ("close", first),
        ("start", second),
        ("finding", "a.dm3"),
        ("finding", "b.dm3"),
        ("close", second),
    ]


def test_another_room_for_pictures_takes_another_service(place):
    """The worker keeps them, and was told so when it started."""
    with place.running():
        place.ready()
        place.page["pictures_mib"] = 100
        place.write()
        place.ready(starts=2)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets as systemd has them")
def test_systemd_hears_ready_after_the_worker_and_again_after_each_change(place, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        environment = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "300000"}
        place.parts = {"notifier": Notifier(environment)}
        heard: list[str] = []

        def hear(wanted):
            for _ in range(WAIT_SECONDS * 50):
                try:
                    heard.append(ear.recv(4096).decode())
                except BlockingIOError:
                    time.sleep(0.02)
                if any(line.startswith(wanted) for line in heard):
                    return
            raise AssertionError(heard)

        with place.running():
            hear("READY=1")
            assert place.starts == 1
            hear("WATCHDOG=1")
            place.write(stalled_seconds=77)
            hear("RELOADING=1")
            place.ready(starts=2)
            heard.clear()
            hear("READY=1")
        hear("STOPPING=1")


def test_the_state_word_and_the_heartbeat_follow_what_happens(place):
    with place.running():
        place.ready()
        place.until(lambda status: "idle" in place.states)
        place.save("a.dm3")
        place.next()
        place.write(stalled_seconds=77)
        place.ready(starts=2)
        place.until(lambda status: place.states[-1] == "idle" and "reloading" in place.states)
        beat = json.loads((place.folder / "state" / HEARTBEAT_NAME).read_bytes())
    last = json.loads((place.folder / "state" / HEARTBEAT_NAME).read_bytes())

    assert place.states[0] == "starting"
    assert place.states[-1] == "stopping"
    assert (beat["pid"], beat["last_file"]) == (os.getpid(), str(place.folder / "scope" / "a.dm3"))
    assert last["state"] == "stopping"


# --- the end


def test_stopping_in_the_middle_of_a_model_load_waits_for_nothing(place):
    place.write(model="never ready")
    with place.running():
        place.until(lambda status: status.worker.pid is not None)
    assert place.starts == 0


def test_stopping_in_the_middle_of_a_change_waits_for_nothing(place):
    with place.running():
        place.ready()
        place.write(model="never ready")
        place.until(lambda status: place.states[-1] == "reloading" and status.worker.starts == 2)
    assert place.starts == 1


def test_an_edit_corrects_a_model_that_never_loads(place):
    place.write(model="never ready")
    with place.running():
        place.until(lambda status: status.worker.pid is not None)
        place.write()
        assert place.ready().model.name == "fake"


RUN = """
import sys
from functools import partial
from pathlib import Path
from edge_agent.hosting.host import Host
from edge_agent.hosting.succession import Parts
from edge_agent.service import Service
tell = lambda text: print(text, flush=True)
service = partial(Service, worker_command=tuple(sys.argv[2:]))
Host(Path(sys.argv[1]), {}, say=tell, on_state=tell, parts=Parts(service=service)).run()
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals of POSIX")
@pytest.mark.parametrize("seed", range(20 if "SCOPEWATCH_LONG" in os.environ else 2))
def test_a_signal_at_any_moment_ends_it_cleanly(place, seed):
    """Also between two services, while a model loads, and with a page that is open."""
    random = Random(seed)
    place.page = {"port": 0}
    place.write()
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(place.file), *place.worker],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as process:
        try:
            assert process.stdout.readline() == "starting\n"
            time.sleep(random.random() * 1.5)
            place.write(model=random.choice(["fake", "never ready", "refused"]), stalled_seconds=70 + seed)
            time.sleep(random.random() * 4.5)
            process.send_signal(random.choice([signal.SIGTERM, signal.SIGINT]))
            code = process.wait(10)
            said = process.stdout.read().splitlines()
        finally:
            process.kill()

    assert code == 0, said
    assert said[-1] == "stopping"
