"""Pictures on demand: which files are drawn, which are not and why, and what a file can do to the process."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from edge_agent.files import identify
from edge_agent.page import picture_process
from edge_agent.page.picture_process import PICTURE_COMMAND, NoPicture, PictureProcess
from edge_agent.picture_maker import pictures_of
from edge_agent.picture_orders import (
    MakerSettings,
    NotMade,
    Order,
    answer_line,
    order_line,
    read_answer,
    read_order,
    read_settings,
    settings_line,
)
from edge_agent.preview_files import Previews, read_preview
from edge_agent.protocol import NotUnderstood

linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux shows it")
HOSTILE_NAMES = [
    pytest.param("a\nb.dm3", id="newline"),
    pytest.param("<img src=x onerror=alert(1)>.dm3", id="markup"),
    pytest.param(os.fsdecode(b"\xff\xfe.dm3"), id="no UTF-8"),
    pytest.param('"; rm -rf .dm3', id="shell"),
    pytest.param("\u202egpj.dm3", id="right to left"),
    pytest.param("-" * 200 + ".dm3", id="long"),
]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture
def settings(root, cache) -> MakerSettings:
    return MakerSettings((root,), cache)


def saved(path: Path, data: bytes) -> Order:
    path.write_bytes(data)
    return Order(path, sha(data))


# --- which files are drawn


@pytest.mark.parametrize("name", [pytest.param("a.dm3", id="plain"), *HOSTILE_NAMES])
def test_it_draws_both_and_keeps_them_under_the_content(root, cache, settings, micrograph_bytes, name):
    order = saved(root / name, micrograph_bytes)

    drawn = pictures_of(read_order(order_line(order)), settings)

    assert isinstance(drawn, Previews)
    assert Image.open(io.BytesIO(drawn.picture)).size == (256, 256)
    assert read_preview(cache, order.content, "thumb") == drawn.thumb


def test_a_file_above_the_snapshot_limit_is_known_by_its_fingerprint(root, micrograph_bytes):
    path = root / "large.dm3"
    path.write_bytes(micrograph_bytes)
    order = Order(path, identify(path, 0).fingerprint)

    assert isinstance(pictures_of(order, MakerSettings((root,), None, snapshot_limit_mib=0)), Previews)


def test_without_a_cache_the_picture_is_shown_all_the_same(root, tmp_path, micrograph_bytes):
    order = saved(root / "a.dm3", micrograph_bytes)
    settings = [MakerSettings((root,), None), MakerSettings((root,), tmp_path / "no" / "folder")]

    assert all(isinstance(pictures_of(order, one), Previews) for one in settings)


def replaced(root, order, other):
    order.path.write_bytes(other)


def truncated(root, order, other):
    order.path.write_bytes(order.path.read_bytes()[:40_000])


def gone(root, order, other):
    order.path.unlink()


def led_out(root, order, other):
    outside = root.parent / "outside.dm3"
    order.path.rename(outside)
    order.path.symlink_to(outside)


def folder_led_out(root, order, other):
    outside = root.parent / "outside"
    outside.mkdir()
    order.path.rename(outside / order.path.name)
    root.rmdir()
    root.mkdir()
    (root / "sub").symlink_to(outside)


def circle(root, order, other):
    order.path.unlink()
    order.path.symlink_to(order.path)


def fifo(root, order, other):
    order.path.unlink()
    os.mkfifo(order.path)


def folder(root, order, other):
    order.path.unlink()
    order.path.mkdir()


def empty(root, order, other):
    order.path.write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "reason", "passing"),
    [
        pytest.param(replaced, "has changed since it was classified", True, id="replaced by another"),
        pytest.param(truncated, "cannot be drawn: ", True, id="cut short"),
        pytest.param(gone, "is not there any more", True, id="gone"),
        pytest.param(led_out, "a link leads out of it", False, id="a link out of the folder"),
        pytest.param(circle, "", True, id="a link to itself"),
        pytest.param(fifo, "is a FIFO, not a regular file", False, id="a FIFO"),
        pytest.param(folder, "is a folder, not a regular file", False, id="a folder"),
        pytest.param(empty, "is empty", True, id="empty"),
    ],
)
def test_what_is_not_drawn_is_said(
    root, cache, settings, micrograph_bytes, other_micrograph_bytes, harm, reason, passing
):
    order = saved(root / "a.dm3", micrograph_bytes)

    harm(root, order, other_micrograph_bytes)
    answer = pictures_of(order, settings)

    assert isinstance(answer, NotMade) and reason in answer.reason
    assert answer.passing == passing or harm is circle
    assert not cache.exists()


def test_a_folder_that_is_a_link_out_is_not_followed(root, settings, micrograph_bytes):
    order = saved(root / "a.dm3", micrograph_bytes)

    folder_led_out(root, order, b"")

    answer = pictures_of(Order(root / "sub" / "a.dm3", order.content), settings)
    assert answer == NotMade("the file does not lie in a watched folder: a link leads out of it")


def test_a_watched_folder_that_is_a_link_itself_is_no_way_out(root, tmp_path, cache, micrograph_bytes):
    order = saved(root / "a.dm3", micrograph_bytes)
    link = tmp_path / "link"
    link.symlink_to(root)

    drawn = pictures_of(Order(link / "a.dm3", order.content), MakerSettings((link,), cache))

    assert isinstance(drawn, Previews)


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../../etc/hostname", "watched/../../etc/passwd", "/dev/zero", "a\x00b", ""]
)
def test_no_path_outside_is_read(settings, path):
    answer = pictures_of(Order(Path(path), "00" * 32), settings)

    assert isinstance(answer, NotMade)


def test_a_spectrum_is_no_picture(root, settings, spectrum_bytes):
    answer = pictures_of(saved(root / "a.dm3", spectrum_bytes), settings)

    assert isinstance(answer, NotMade) and not answer.passing


@pytest.mark.parametrize(
    "line", ["", "1", "{}", "[]", '{"path": 1}', '{"reason": "x"}', '{"picture": "?"}', "[" * 5000]
)
def test_what_is_no_message_is_said_to_be_none(line):
    for read in (read_settings, read_order, read_answer):
        with pytest.raises(NotUnderstood):
            read(line)


def test_messages_arrive_as_they_were_sent(root):
    settings = MakerSettings((root, Path(os.fsdecode(b"/\xff"))), None, 1, 2, 3, 4)
    answers = [Previews(b"\x00\xff", b""), NotMade("why", passing=True)]

    assert read_settings(settings_line(settings)) == settings
    assert [read_answer(answer_line(answer)) for answer in answers] == answers


# --- the process


@pytest.fixture
def start(settings, monkeypatch):
    made = []

    def begin(prologue: str = "", **given) -> PictureProcess:
        *command, program = PICTURE_COMMAND
        program = program.replace("; main()", f"; {prologue}\nmain()") if prologue else program
        process = PictureProcess(given.pop("settings", settings), command=(*command, program), **given)
        made.append(process)
        return process

    yield begin
    for process in made:
        process.close()
    wait_until(lambda: children() == [])


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if is_picture_maker(child)]


def is_picture_maker(child: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):  # a zombie has no command line
        return "edge_agent.picture_maker" in " ".join(child.cmdline())
    return False


def wait_until(holds, seconds=20.0):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


# What a file's name makes a picture maker do that is as bad as a parser can be.
POISON = """
import os, time
from edge_agent import picture_maker
sound = picture_maker.pictures_of
def poisoned(order, settings):
    if "kill" in order.path.name: os.kill(os.getpid(), 9)
    if "segfault" in order.path.name: os.kill(os.getpid(), 11)
    if "hang" in order.path.name: time.sleep(60)
    if "memory" in order.path.name: bytearray(2**34)
    if "bug" in order.path.name: 1 / 0
    if "babble" in order.path.name: print("this is no answer"); os.write(1, b"x"); return 5
    return sound(order, settings)
picture_maker.pictures_of = poisoned
"""


def test_one_process_draws_one_file_after_the_other(root, start, micrograph_bytes, other_micrograph_bytes):
    process = start()
    orders = [
        saved(root / f"{n}.dm3", data) for n, data in enumerate((micrograph_bytes, other_micrograph_bytes))
    ]

    drawn = [process.ask(order).result(20) for order in orders]

    assert all(one.picture.startswith(b"\xff\xd8") for one in drawn) and drawn[0] != drawn[1]
    assert len(children()) == 1
    assert children()[0].nice() >= 10 or sys.platform == "win32"


@pytest.mark.parametrize("kind", ["kill", "segfault", "hang", "memory", "bug", "babble"])
def test_a_poisonous_file_costs_only_itself_and_is_not_tried_again(
    root, start, micrograph_bytes, other_micrograph_bytes, kind
):
    process = start(POISON, wall_seconds=3.0 if kind == "hang" else 20.0)
    poison = saved(root / f"{kind}.dm3", micrograph_bytes)
    sound = saved(root / "sound.dm3", other_micrograph_bytes)
    process.ask(sound).result(20)

    with pytest.raises(NoPicture) as told:
        process.ask(poison).result(20)
    assert not told.value.later
    assert process.ask(Order(sound.path, sound.content)).result(20).thumb
    pids = {child.pid for child in children()}
    with pytest.raises(NoPicture):
        process.ask(poison).result(0)
    assert {child.pid for child in children()} == pids


def test_what_was_remembered_is_forgotten_after_a_while(root, start, micrograph_bytes):
    now = [0.0]
    process = start(clock=lambda: now[0])
    order = Order(root / "a.dm3", sha(micrograph_bytes))
    with pytest.raises(NoPicture, match="not there any more"):
        process.ask(order).result(20)
    saved(order.path, micrograph_bytes)

    with pytest.raises(NoPicture, match="not there any more"):
        process.ask(order).result(0)
    now[0] = picture_process.PASSING_SECONDS + 1
    assert process.ask(order).result(20).picture


def test_it_ends_when_nobody_asks(root, start, micrograph_bytes):
    process = start(idle_seconds=0.2)
    order = saved(root / "a.dm3", micrograph_bytes)
    assert process.ask(order).result(20)

    wait_until(lambda: children() == [])
    assert process.ask(order).result(20), "it comes back"


def test_the_same_order_twice_is_one_and_the_newest_comes_first(root, start, micrograph_bytes):
    process = start(POISON.replace("time.sleep(60)", "time.sleep(0.5)"))
    first = process.ask(saved(root / "hang.dm3", micrograph_bytes))
    wait_until(lambda: process._in_hand is not None)
    done: list[str] = []
    orders = [saved(root / f"{n}.dm3", micrograph_bytes) for n in range(3)]
    for order in orders:
        process.ask(order).add_done_callback(lambda _, name=order.path.name: done.append(name))

    assert process.ask(Order(root / "hang.dm3", orders[0].content)) is first
    assert process.ask(orders[1]) is process.ask(orders[1])
    assert process.ask(orders[0]).result(20)
    wait_until(lambda: len(done) == 3)
    assert done == ["0.dm3", "1.dm3", "2.dm3"]


def test_of_too_many_the_oldest_are_given_up(root, start, micrograph_bytes):
    process = start(POISON.replace("time.sleep(60)", "time.sleep(1)"))
    process.ask(saved(root / "hang.dm3", micrograph_bytes))
    wait_until(lambda: process._in_hand is not None)
    futures = [
        process.ask(Order(root / f"{n}.dm3", "0" * 64)) for n in range(picture_process.MOST_WAITING + 1)
    ]

    with pytest.raises(NoPicture, match="too many") as told:
        futures[0].result(0)
    assert told.value.later and not futures[1].done()


def test_a_program_that_does_not_start_is_not_started_for_each_of_a_hundred(root, settings):
    count = root.parent / "starts"
    program = f"open({str(count)!r}, 'a').write('x'); raise SystemExit(3)"
    process = PictureProcess(settings, command=(sys.executable, "-c", program))

    for n in range(5):
        with pytest.raises(NoPicture, match="does not start") as told:
            process.ask(Order(root / f"{n}.dm3", "0" * 64)).result(20)
        assert told.value.later
    process.close()
    assert count.read_text() == "x"


def test_a_fault_of_ours_keeps_nobody_waiting_and_ends_nothing(root, start, micrograph_bytes, monkeypatch):
    process = start()
    order = saved(root / "a.dm3", micrograph_bytes)
    with monkeypatch.context() as broken:
        broken.setattr(picture_process, "worker_job", lambda limits: 1 / 0)
        with pytest.raises(NoPicture, match="failed") as told:
            process.ask(order).result(20)
    assert told.value.later

    assert process.ask(order).result(20).picture


def test_a_program_that_is_not_there_is_said(root, settings):
    process = PictureProcess(settings, command=("/nowhere/python",))

    with pytest.raises(NoPicture, match="does not start"):
        process.ask(Order(root / "a.dm3", "0" * 64)).result(20)
    process.close()


def test_closing_waits_for_nobody(root, start, micrograph_bytes):
    process = start(POISON)
    hangs = process.ask(saved(root / "hang.dm3", micrograph_bytes))
    wait_until(lambda: process._in_hand is not None)
    waits = process.ask(saved(root / "a.dm3", micrograph_bytes))

    process.close()

    for future in (waits, hangs, process.ask(Order(root / "b.dm3", "0" * 64))):
        with pytest.raises(NoPicture, match="ending"):
            future.result(5)


@linux
def test_it_dies_with_the_agent(root, cache, tmp_path, micrograph_bytes):
    order = saved(root / "hang.dm3", micrograph_bytes)
    script = f"""
from pathlib import Path
from edge_agent.page.picture_process import PICTURE_COMMAND, PictureProcess
from edge_agent.picture_orders import MakerSettings, Order
program = PICTURE_COMMAND[-1].replace("; main()", "; " + {POISON!r} + "\\nmain()")
process = PictureProcess(MakerSettings((Path({str(root)!r}),), None), command=(*PICTURE_COMMAND[:-1], program))
future = process.ask(Order(Path({str(order.path)!r}), {order.content!r}))
import psutil, time
while not psutil.Process().children(): time.sleep(0.02)
time.sleep(1)
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(60)
"""
    agent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(agent.stdout.readline())
        assert psutil.pid_exists(pid)
    finally:
        agent.kill()
        agent.wait()
        agent.stdout.close()

    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_asking_from_many_threads_at_once(root, start, micrograph_bytes, other_micrograph_bytes):
    process = start()
    orders = [saved(root / f"{n}.dm3", (micrograph_bytes, other_micrograph_bytes)[n % 2]) for n in range(8)]
    drawn: list[Previews] = []
    threads = [
        threading.Thread(target=lambda order=order: drawn.append(process.ask(order).result(20)))
        for order in orders * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(drawn) == 24 and len(children()) == 1
