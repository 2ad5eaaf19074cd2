"""Who holds a folder is told by a lock that no crash leaves behind; the numbers are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pytest

from edge_agent import status
from edge_agent.processes.storage_probe import in_time
from edge_agent.status import (
    AgentStatus,
    AlreadyRunning,
    DriftStatus,
    FolderStatus,
    LastFile,
    WorkerStatus,
    carried_on,
    is_running,
    publish,
    running_status,
    sole_agent,
)

NUMBERS = AgentStatus(
    version="0.1.0",
    pid=1,
    started=datetime(2026, 5, 4, tzinfo=UTC),
    updated=datetime(2026, 5, 4, 1, tzinfo=UTC),
    state="/state",
    folders=(),
    output=None,
    disks=(),
    paused=None,
    model=None,
    worker=WorkerStatus(pid=None, starts=0, deaths=0, recycled=0, interrupted=0, trouble=None),
    seen=3,
    waiting=1,
    oldest_waiting_seconds=2.0,
    done={"classified": 2},
    since_start={},
    decided={},
    incomplete=0,
    stalled=0,
    failing=0,
    orphaned=0,
    scans=1,
    last_scan_seconds=0.1,
    journal="kept",
    last=None,
    troubles=(),
    drift=(
        DriftStatus(
            quantity="contrast",
            day=date(2026, 5, 4),
            files=1,
            mean=0.2,
            standard_deviation=None,
            below=0,
            above=0,
            usual=(0.1, 0.3),
            left=None,
        ),
    ),
)


def test_numbers_are_read_only_while_an_agent_runs(tmp_path):
    state = tmp_path / "state"
    assert running_status(state) is None
    assert not state.exists()

    with sole_agent(state, []):
        publish(state, NUMBERS)
        assert is_running(state)
        assert running_status(state) == NUMBERS

    assert not is_running(state)
    assert running_status(state) is None


def test_asking_does_not_disturb_the_agent(tmp_path):
    with sole_agent(tmp_path, []):
        assert [is_running(tmp_path) for _ in range(3)] == [True] * 3
    assert not is_running(tmp_path)
    with sole_agent(tmp_path, []):
        assert is_running(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b'{"pid": 1}'], ids=["missing", "empty", "another form"])
def test_numbers_that_cannot_be_read_are_told_apart_from_no_agent(tmp_path, content):
    if content is not None:
        (tmp_path / "status.json").write_bytes(content)
    with (
        sole_agent(tmp_path, []),
        pytest.raises(ValueError, match="an agent is running, but its numbers cannot be read"),
    ):
        running_status(tmp_path)


def test_numbers_are_json_with_a_version(tmp_path):
    publish(tmp_path, NUMBERS)

    assert json.loads((tmp_path / "status.json").read_text())["schema_name"] == "scopewatch.status/4"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_halves_that_a_killed_agent_left_in_its_state_folder_are_removed(tmp_path):
    half = tmp_path / ".scopewatch-status-0123456789abcdef.tmp"
    half.write_bytes(b"{")
    other = tmp_path / ".scopewatch-0123abcd-0123456789abcdef.tmp"
    other.write_bytes(b"{")

    with sole_agent(tmp_path, []):
        assert not half.exists()
    assert other.exists()


def counted(**values):
    worker = {"starts": 1, "deaths": 2, "recycled": 3, "interrupted": 4, "trouble": None, "pid": 7}
    return NUMBERS.model_copy(update={"worker": WorkerStatus(**worker)} | values)


LAST = LastFile(
    path="/a.dm3",
    outcome="classified",
    label="rod",
    probability=0.9,
    decision="accept",
    finished=NUMBERS.updated,
)


def test_counts_go_on_from_one_service_to_the_next():
    earlier = counted(since_start={"classified": 2, "failed": 1}, decided={"accept": 2}, last=LAST)
    later = counted(
        started=datetime(2026, 5, 5, tzinfo=UTC),
        since_start={"classified": 3},
        decided={"abstain": 1},
        done={},
    )

    both = carried_on(later, earlier)

    assert both.since_start == {"classified": 5, "failed": 1}
    assert both.decided == {"accept": 2, "abstain": 1}
    assert (both.started, both.scans, both.last) == (NUMBERS.started, 2, LAST)
    assert both.worker == WorkerStatus(pid=7, starts=2, deaths=4, recycled=6, interrupted=8, trouble=None)
    assert both.done == {}  # of the journal, which has them all


HOLD = (
    "import sys, time; from pathlib import Path; from edge_agent.status import sole_agent\n"
    "with sole_agent(Path(sys.argv[1]), [Path(sys.argv[2])]):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a state folder and a watched folder."""
    (tmp_path / "scope").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "state"), str(tmp_path / "scope")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def refused(state: Path, *folders: Path) -> str:
    with pytest.raises(AlreadyRunning) as error, sole_agent(state, folders):
        pass
    return str(error.value)


def test_a_second_agent_is_refused_on_the_same_state(tmp_path, holder):
    state = tmp_path / "state"

    assert refused(state) == (
        f"another agent already holds the state folder {state}; stop it, or give this one another `state`"
    )


@pytest.mark.parametrize("spelled", ["scope", "scope/../scope", "link"])
def test_a_second_agent_is_refused_on_the_same_folder_however_it_is_spelled(tmp_path, holder, spelled):
    (tmp_path / "link").symlink_to(tmp_path / "scope")
    folder = tmp_path / spelled

    message = refused(tmp_path / "other-state", tmp_path / "free", folder)

    assert message == f"another agent already holds the folder {folder}; stop it, or watch another folder"
    assert list((tmp_path / "scope").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_agent_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    with sole_agent(tmp_path / "state", [tmp_path / "scope"]):
        assert is_running(tmp_path / "state")


@pytest.fixture
def ordinary_user():
    """The process takes the rights of nobody, and gives them back; root only."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else for a moment")
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_another_user_may_ask_though_he_may_not_write(tmp_path, request):
    state = tmp_path / "state"
    with sole_agent(state, []):
        publish(state, NUMBERS)
        open_to_all(tmp_path)
        request.getfixturevalue("ordinary_user")
        with pytest.raises(PermissionError):
            (state / "agent.lock").open("r+b")
        assert is_running(state)
        assert running_status(state) == NUMBERS
        os.seteuid(0)


def test_another_user_is_told_of_a_folder_that_he_may_not_read(tmp_path, request):
    with sole_agent(tmp_path / "state", []):
        open_to_all(tmp_path)
        (tmp_path / "state").chmod(0o700)
        request.getfixturevalue("ordinary_user")
        with pytest.raises(PermissionError):
            is_running(tmp_path / "state")
        os.seteuid(0)


def test_a_start_does_not_hang_with_a_dead_share(tmp_path, monkeypatch):
    answered, real = threading.Event(), os.path.realpath
    monkeypatch.setattr(status, "in_time", partial(in_time, limit_seconds=0.05))
    monkeypatch.setattr(status, "system_state_folder", lambda: tmp_path / "service")
    watched = FolderStatus(path=str(tmp_path / "share"), present=True, events="on", share=True)
    with sole_agent(tmp_path / "service", []):
        publish(tmp_path / "service", NUMBERS.model_copy(update={"folders": (watched,)}))
        monkeypatch.setattr(os.path, "realpath", lambda path: answered.wait(30) and real(path))
        with pytest.raises(AlreadyRunning), sole_agent(tmp_path / "ours", [tmp_path / "share"]):
            pass
    answered.set()
    for thread in threading.enumerate():
        if thread.name == "storage-probe":
            thread.join(10)


def test_a_folder_that_the_service_watches_is_refused_whoever_asks(tmp_path, monkeypatch):
    """The service has a /tmp of its own, so its locks on folders are not seen; its numbers are."""
    monkeypatch.setattr(status, "system_state_folder", lambda: tmp_path / "service")
    scope = FolderStatus(path=str(tmp_path / "scope"), present=True, events="on", share=False)
    with sole_agent(tmp_path / "service", []):
        publish(tmp_path / "service", NUMBERS.model_copy(update={"folders": (scope,)}))
        assert refused(tmp_path / "mine", tmp_path / "scope") == (
            f"the service of this PC already watches the folder {scope.path}; stop it first"
        )
        with sole_agent(tmp_path / "mine", [tmp_path / "other"]):
            pass
        publish(tmp_path / "service", NUMBERS.model_copy(update={"folders": (scope,), "pid": os.getpid()}))
        with sole_agent(tmp_path / "mine", [tmp_path / "scope"]):  # it is the service itself
            pass


def open_to_all(folder: Path) -> None:
    for step in (folder, *folder.parents):
        if step.name.startswith(("test_", "pytest-", "popen-")):  # the last of pytest-xdist
            step.chmod(0o755)
