"""Change events of the system arrive for what a writer does, and never for our own reading."""

from __future__ import annotations

import queue
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from edge_agent.watching import change_events
from edge_agent.watching.change_events import NativeHints, Starting, WindowsSource, telling_emitter

QUEUE_LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")


@pytest.fixture
def heard():
    return queue.SimpleQueue()


@pytest.fixture
def hints(tmp_path, heard):
    source = NativeHints()
    source.start(tmp_path, heard.put, lambda: None)
    yield source
    source.stop()


def paths_until(heard: queue.SimpleQueue, last: str) -> list[str]:
    paths = []
    while not paths or not paths[-1].endswith(last):
        paths.append(heard.get(timeout=10))
    return paths


def test_a_new_file_is_heard_of_below_the_folder_too(tmp_path, hints, heard):
    (tmp_path / "a.dm3").write_bytes(b"1")
    assert paths_until(heard, "a.dm3")[-1] == str(tmp_path / "a.dm3")

    (tmp_path / "sub").mkdir()
    assert paths_until(heard, "sub")


def test_of_a_rename_the_new_name_is_told(tmp_path, hints, heard):
    (tmp_path / "a.tmp").write_bytes(b"1")
    (tmp_path / "a.tmp").rename(tmp_path / "b.dm3")

    assert paths_until(heard, "b.dm3")[-1] == str(tmp_path / "b.dm3")


def test_reading_makes_no_event(tmp_path, hints, heard):
    file = tmp_path / "a.dm3"
    file.write_bytes(b"1")
    paths_until(heard, "a.dm3")
    (tmp_path / "mark-1").touch()
    paths_until(heard, "mark-1")

    file.read_bytes()
    (tmp_path / "mark-2").touch()

    assert set(paths_until(heard, "mark-2")) <= {str(tmp_path / "mark-1"), str(tmp_path / "mark-2")}


def test_a_name_that_is_no_utf8_arrives(tmp_path, hints, heard):
    (tmp_path / "caf\udce9.dm3").write_bytes(b"1")

    assert paths_until(heard, "\udce9.dm3")[-1] == str(tmp_path / "caf\udce9.dm3")


def test_it_is_alive_between_start_and_stop(tmp_path):
    source = NativeHints()
    assert not source.alive()
    source.start(tmp_path, lambda path: None, lambda: None)
    assert source.alive()
    source.stop()
    assert not source.alive()
    source.stop()


def test_a_missing_folder_cannot_be_started(tmp_path):
    source = NativeHints()

    with pytest.raises(OSError, match="No such file or directory"):
        source.start(tmp_path / "none", lambda path: None, lambda: None)
    source.stop()


def test_a_folder_behind_a_link_is_told_by_the_name_it_was_given(tmp_path, heard):
    (tmp_path / "real" / "sub").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real", target_is_directory=True)
    source = NativeHints()
    source.start(link, heard.put, lambda: None)
    (tmp_path / "real" / "a.dm3").write_bytes(b"1")
    first = paths_until(heard, "a.dm3")[-1]
    (link / "sub" / "b.dm3").write_bytes(b"1")
    second = paths_until(heard, "b.dm3")[-1]
    source.stop()

    assert (first, second) == (str(link / "a.dm3"), str(link / "sub" / "b.dm3"))


@pytest.fixture
def tiny_queue():
    """A short queue of events for the watches made in the test."""
    before = QUEUE_LIMIT.read_text() if QUEUE_LIMIT.exists() else ""
    try:
        QUEUE_LIMIT.write_text("4")
    except OSError:
        pytest.skip(f"{QUEUE_LIMIT} cannot be written here (needs root)")
    yield lambda: QUEUE_LIMIT.write_text(before)
    QUEUE_LIMIT.write_text(before)


@linux_only
def test_an_overflow_is_told_and_watches_are_made_anew_when_the_storm_is_over(
    tmp_path, heard, tiny_queue, monkeypatch, caplog
):
    monkeypatch.setattr(change_events, "RENEW_SECONDS", 0.2)
    overflowed = threading.Event()
    source = NativeHints()
    source.start(tmp_path, heard.put, overflowed.set)
    tiny_queue()
    for number in range(100_000):
        (tmp_path / f"{number % 50}.dm3").touch()
        if overflowed.is_set():
            break
    assert overflowed.wait(10)

    deadline = time.monotonic() + 20
    while source.alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    source.stop()
    assert "reconciling" not in caplog.text


NAMESPACE = ["unshare", "--user", "--map-root-user", "sh", "-c"]
SCRIPT = """
    import sys, threading
    from pathlib import Path
    from edge_agent.watching.change_events import NativeHints
    for attempt in range(3):
        source = NativeHints()
        try:
            source.start(Path(sys.argv[1]), lambda path: None, lambda: None)
            print("started", source.alive())
        except OSError as error:
            print(error.strerror, source.alive())
        source.stop()
    print(threading.active_count(), "thread")
"""


@linux_only
@pytest.mark.parametrize(
    ("limit", "folders", "told"),
    [
        ("max_inotify_watches 3", 2, "started True"),
        ("max_inotify_watches 3", 5, "inotify watch limit reached False"),
        ("max_inotify_watches 0", 0, "inotify watch limit reached False"),
        ("max_inotify_instances 0", 0, "inotify instance limit reached False"),
    ],
)
def test_limits_of_the_system_are_told_and_nothing_is_held(tmp_path, limit, folders, told):
    for number in range(folders):
        (tmp_path / str(number)).mkdir()
    name, value = limit.split()
    command = f'echo {value} > /proc/sys/user/{name} && exec {sys.executable} -c "$0" {tmp_path}'
    try:
        done = subprocess.run(
            [*NAMESPACE, command, textwrap.dedent(SCRIPT)], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode != 0 and "unshare" in done.stderr + done.stdout:
        pytest.skip(f"user namespaces are not allowed here: {done.stderr.strip()}")

    assert done.stdout.splitlines() == [told] * 3 + ["1 thread"], done.stderr


@linux_only
def test_the_end_of_the_reading_thread_is_noticed(tmp_path):
    source = NativeHints()
    source.start(tmp_path, lambda path: None, lambda: None)
    source._source._reader.stop()
    source._source._reader.join(10)

    assert not source.alive()
    source.stop()


class Reader:
    """The part of watchdog's reader that is used; `thread` stands for the reading one."""

    def __init__(self):
        self._buf_queue = queue.Queue()
        self._reader_thread = threading.Thread(target=self._buf_queue.join, daemon=True)


class Emitter:
    """watchdog's emitter of Windows, as far as it is there."""

    def __init__(self):
        self._reader = None

    def on_thread_start(self):
        self._reader = Reader()
        self._reader._buf_queue.put((b"", True))
        self._reader._buf_queue.get()

    def is_alive(self):
        return True


class Observer:
    def __init__(self, emitter):
        self.emitters = {emitter}

    def is_alive(self):
        return True


def test_windows_says_an_overflow_by_an_empty_read():
    overflows = []
    emitter = telling_emitter(Emitter, lambda: overflows.append(1))()
    emitter.on_thread_start()
    assert overflows == []
    read = emitter._reader._buf_queue.put
    read((b"some records", True))
    assert overflows == []
    read((b"", True))

    assert overflows == [1]
    assert [emitter._reader._buf_queue.get() for _ in range(2)] == [(b"some records", True), (b"", True)]


def test_windows_may_end_the_reading_without_a_word():
    emitter = telling_emitter(Emitter, lambda: None)()
    source = WindowsSource(Observer(emitter))
    assert not source.hears()
    emitter.on_thread_start()
    assert not source.hears()
    reader = emitter._reader
    reader._buf_queue.put((b"1", True))
    reader._reader_thread.start()
    assert source.hears()
    reader._buf_queue.task_done()
    reader._buf_queue.task_done()
    reader._reader_thread.join(10)

    assert not source.hears()


class Source:
    """A source whose start takes as long as the test wants, and may fail."""

    def __init__(self, error=None):
        self.error = error
        self.may_start, self.stopped = threading.Event(), threading.Event()

    def start(self, folder, on_change, on_overflow):
        self.may_start.wait(10)
        if self.error is not None:
            raise self.error

    def alive(self):
        return True

    def stop(self):
        self.stopped.set()


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (None, None),
        (OSError(28, "inotify watch limit reached"), "inotify watch limit reached"),
        (RuntimeError("watchdog has a fault"), "watchdog has a fault"),
    ],
)
def test_a_start_beside_tells_how_it_went(tmp_path, error, trouble):
    source = Source(error)
    starting = Starting(source, tmp_path, lambda path: None, lambda: None)
    assert not starting.finished()
    source.may_start.set()

    assert starting.finished(10)
    assert starting.trouble == trouble
    assert source.stopped.is_set() == (error is not None)


@pytest.mark.parametrize("abandon_first", [True, False])
def test_a_start_that_is_not_wanted_any_more_is_stopped(tmp_path, abandon_first):
    source = Source()
    starting = Starting(source, tmp_path, lambda path: None, lambda: None)
    if abandon_first:
        starting.abandon()
    source.may_start.set()
    assert starting.finished(10)
    if not abandon_first:
        assert not source.stopped.is_set()
        starting.abandon()

    assert source.stopped.is_set()
