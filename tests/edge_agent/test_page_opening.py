"""The page in a browser: only where there are windows, with the key in no command line, and nobody waits."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from edge_agent.page import opening
from edge_agent.page.opening import LEAD_NAME, address_with_key, is_up, open_page, plain_address
from edge_agent.page.page_key import key_in

WORD = "http://127.0.0.1:8747/"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="how windows are found on Linux")


@pytest.fixture
def started(monkeypatch):
    """What would be started, on a PC with xdg-open and no browser from a snap."""
    commands = []

    class Started:
        def __init__(self, command, **options):
            commands.append((command, options))

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(
        opening.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "xdg-open" else None
    )
    monkeypatch.setattr(opening, "_IN_A_SNAP", ())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return commands


@LINUX
@pytest.mark.parametrize("variable", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_where_there_are_windows_the_browser_is_led_to_the_page(started, monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, ":0")

    assert open_page(WORD, tmp_path)

    ((command, options),) = started
    lead = tmp_path / LEAD_NAME
    key = key_in(tmp_path).text
    assert command == ["xdg-open", lead.as_uri()]
    assert key not in " ".join(command)
    assert options == {
        "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
        "start_new_session": True,
    }  # fmt: skip
    assert f'content="0; url={WORD}#token={key}"' in lead.read_text()
    assert stat.S_IMODE(lead.stat().st_mode) == 0o600


@LINUX
@pytest.mark.parametrize(
    ("display", "launchers", "snaps", "user"),
    [
        pytest.param("", ("xdg-open",), (), 1000, id="no windows: a text browser would be found"),
        pytest.param(":0", (), (), 1000, id="nothing to open it with"),
        pytest.param(
            ":0", ("xdg-open",), (sys.executable,), 1000, id="a browser from a snap cannot read the file"
        ),
    ],
)
def test_where_nobody_would_see_it_nothing_is_started(
    started, monkeypatch, tmp_path, display, launchers, snaps, user
):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(opening.shutil, "which", lambda name: name if name in launchers else None)
    monkeypatch.setattr(opening, "_IN_A_SNAP", snaps)

    assert not open_page(WORD, tmp_path)
    assert started == []
    assert not (tmp_path / LEAD_NAME).exists()


@LINUX
def test_a_real_launcher_is_waited_for_by_nobody_and_leaves_no_process(monkeypatch, tmp_path):
    launcher = tmp_path / "bin" / "xdg-open"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexec sleep 0.2\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launcher.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(opening, "_IN_A_SNAP", ())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = opening.threading.active_count()

    assert open_page(WORD, tmp_path)

    for _ in range(200):
        if (tmp_path / "asked").exists() and opening.threading.active_count() == before:
            break
        opening.threading.Event().wait(0.05)
    assert (tmp_path / "asked").read_text().strip() == (tmp_path / LEAD_NAME).as_uri()


@pytest.mark.parametrize(
    ("word", "address"),
    [
        pytest.param("http://127.0.0.1:8747/", "http://127.0.0.1:8747/", id="this PC only"),
        pytest.param(
            "http://127.0.0.1:8747/, for other PCs https://scope-pc:8747/",
            "http://127.0.0.1:8747/",
            id="others, too",
        ),
        pytest.param("none: port 8747 of 127.0.0.1 is taken", None, id="no page"),
        pytest.param(None, None, id="switched off"),
    ],
)
def test_the_address_in_what_the_status_says(word, address, tmp_path):
    assert is_up(word) is (address is not None)
    if word is not None and address is not None:
        assert plain_address(word) == address
        assert address_with_key(word, tmp_path) == f"{address}#token={key_in(tmp_path).text}"
