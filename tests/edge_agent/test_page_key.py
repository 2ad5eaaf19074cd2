"""The key's file: for one account, kept over restarts, and never half a key."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from edge_agent.archive import Archive
from edge_agent.journal import Journal
from edge_agent.live_page.pulse import MonitorState
from edge_agent.output_places import OutputPlan
from edge_agent.page import access as access_module
from edge_agent.page.access import Access
from edge_agent.page.home import PageHome
from edge_agent.page.page_key import KEY_NAME, is_still, key_in, new_key

WAIT_SECONDS = 20
POSIX = pytest.mark.skipif(os.name == "nt", reason="modes and owners of POSIX")


def test_it_is_256_bits_and_stays(tmp_path):
    key = key_in(tmp_path)

    assert re.fullmatch(r"[0-9a-f]{64}", key.text)
    assert key_in(tmp_path) == key
    assert (tmp_path / KEY_NAME).read_text() == f"{key.text}\n"
    assert [path.name for path in tmp_path.iterdir()] == [KEY_NAME]


@POSIX
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
def test_only_its_account_may_read_it_whatever_the_mask(tmp_path, mask):
    before = os.umask(mask)
    try:
        key_in(tmp_path)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600


@POSIX
def test_it_is_never_readable_for_others_not_even_while_it_is_written(tmp_path, monkeypatch):
    seen = []
    real = os.fchmod

    def fchmod(descriptor, mode):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    before = os.umask(0)
    try:
        new_key(tmp_path)
    finally:
        os.umask(before)

    assert seen == [0o600]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"0" * 63, id="short"),
        pytest.param(b"0" * 65, id="long"),
        pytest.param(b"G" * 64, id="no digits"),
        pytest.param(b"\xff" * 64, id="no text"),
        pytest.param(b"0" * 64 + b"\n" * 2000, id="far too long"),
    ],
)
def test_what_is_no_key_is_replaced(tmp_path, content):
    (tmp_path / KEY_NAME).write_bytes(content)
    (tmp_path / KEY_NAME).chmod(0o600)

    assert key_in(tmp_path).text.encode() != content


@POSIX
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_one_that_others_could_read_is_replaced(tmp_path, caplog, mode):
    first = key_in(tmp_path)
    (tmp_path / KEY_NAME).chmod(mode)

    with caplog.at_level(logging.WARNING):
        second = key_in(tmp_path)

    assert second.text != first.text
    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600
    file = tmp_path / KEY_NAME
    assert caplog.messages == [
        f"{file}: others could read it, or it was no key of the page; a new one is made"
    ]


@POSIX
def test_a_link_is_not_followed(tmp_path):
    planted = tmp_path / "planted"
    planted.write_text("0" * 64)
    planted.chmod(0o600)
    (tmp_path / KEY_NAME).symlink_to(planted)

    key = key_in(tmp_path)

    assert key.text != "0" * 64
    assert planted.read_text() == "0" * 64
    assert not (tmp_path / KEY_NAME).is_symlink()


def test_a_new_one_takes_the_place_of_the_old_and_access_notices(tmp_path):
    access, told = Access(), []
    access.on_new_key = lambda: told.append(1)
    access.meet(tmp_path)
    first, cookie, word = key_in(tmp_path), access.cookie, access.change_word
    access.look()
    assert told == []

    second = new_key(tmp_path)
    assert not is_still(first, tmp_path)
    assert is_still(second, tmp_path)
    access.look()

    assert told == [1]
    assert access.is_key(second.text)
    assert not access.is_key(first.text)
    assert {access.cookie, access.change_word}.isdisjoint({cookie, word})


@POSIX
def test_a_disk_that_knows_no_modes_is_asked_once_a_minute_and_said_once(tmp_path, monkeypatch, caplog):
    real = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: real(descriptor, 0o644))
    access, tries = Access(), []
    monkeypatch.setattr(access_module, "key_in", lambda state: tries.append(1) or key_in(state))
    with caplog.at_level(logging.WARNING):
        access.meet(tmp_path)
        for _ in range(10):
            access.look()
        assert len(tries) == 1
        access._look_due = 0.0
        access.look()

    assert len(tries) == 2
    (said,) = caplog.messages
    assert said.endswith(
        "page.token cannot be kept to this account on this disk; put the state folder elsewhere"
    )
    assert access.why_none.startswith("the page has no key: ")


def test_one_that_is_deleted_is_made_anew(tmp_path):
    access = Access()
    access.meet(tmp_path)
    first = key_in(tmp_path)
    (tmp_path / KEY_NAME).unlink()
    access.look()

    assert access.is_key(key_in(tmp_path).text)
    assert not access.is_key(first.text)


def test_those_who_make_one_at_the_same_moment_agree_in_the_end(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(key_in(tmp_path).text)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert key_in(tmp_path).text in found
    assert [path.name for path in tmp_path.iterdir()] == [KEY_NAME]


@POSIX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to be somebody else")
def test_another_user_of_this_pc_cannot_read_it(tmp_path):
    key_in(tmp_path)
    tmp_path.chmod(0o755)
    # The folders above are closed to others, too: it looks from inside.
    code = (
        f"import os; inside = os.open({str(tmp_path)!r}, os.O_RDONLY); os.setgroups([]); os.setgid(65534); "
        f"os.setuid(65534); print(os.listdir(inside)); os.open({KEY_NAME!r}, os.O_RDONLY, dir_fd=inside)"
    )

    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)

    assert done.stdout == f"[{KEY_NAME!r}]\n"
    assert "PermissionError" in done.stderr


@POSIX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to be somebody else")
def test_one_that_root_makes_belongs_to_the_account_of_the_state_folder(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12345)

    key_in(state)

    assert (state / KEY_NAME).stat().st_uid == 12345


@pytest.mark.parametrize("begun", [True, False], ids=["while it is made", "before it is begun"])
def test_once_the_service_closes_nothing_is_written_into_its_state_folder(tmp_path, monkeypatch, begun):
    making, go_on = threading.Event(), threading.Event()

    def slow(state):
        making.set()
        go_on.wait(WAIT_SECONDS)
        return key_in(state)

    monkeypatch.setattr(access_module, "key_in", slow)
    home, state = PageHome(MonitorState()), tmp_path / "state"
    with Journal(state) as journal, closing(home):
        blocked = [] if begun else [home._changing.submit(lambda: go_on.wait(WAIT_SECONDS)) for _ in range(2)]
        home.meet(Archive(journal, OutputPlan(), (tmp_path,), state, "test"))
        if begun:
            assert making.wait(WAIT_SECONDS)
            threading.Timer(0.2, go_on.set).start()
        home.meet(None)
        after = (state / KEY_NAME).exists()
        (state / KEY_NAME).unlink(missing_ok=True)
        go_on.set()
        for future in blocked:
            future.result(WAIT_SECONDS)
        home.access.look()
        home._changing.submit(lambda: None).result(WAIT_SECONDS)

        assert after is begun
        assert not (state / KEY_NAME).exists()
