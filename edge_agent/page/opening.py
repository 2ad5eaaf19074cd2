"""Opening the page in a browser, already signed in; nobody waits for it.

The key stands in the address behind the #, which browsers send to no server. On a command line every user of the
PC could read it, so the browser is given a file that only this account can read and that leads on. Only this
module knows how a browser is started. What it does on Windows and macOS is not verified there.
"""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, TypeGuard

from edge_agent.page.page_key import key_in, write_private

LEAD_NAME: Final = "page-open.html"
_LAUNCHERS: Final = (("xdg-open",), ("gio", "open"), ("x-www-browser",), ("firefox",), ("chromium",))
_IN_A_SNAP: Final = ("/snap/bin/firefox", "/snap/bin/chromium")
_LEAD: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>scopewatch</title><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}"><p><a href="{address}">scopewatch</a></p></html>
"""


def address_with_key(word: str, state: Path) -> str:
    """Return the page's address with its key. `word` is what the status says of the page. Raises OSError."""
    return f"{plain_address(word)}#token={key_in(state).text}"


def plain_address(word: str) -> str:
    """Return the address on this PC in what the status says of the page."""
    return word.partition(",")[0]


def is_up(word: str | None) -> TypeGuard[str]:
    """Whether there is a page on this PC at this moment."""
    return word is not None and word.startswith("http")


def open_page(word: str, state: Path) -> bool:
    """Open the page in a browser; False where nobody would see it. Returns at once. Raises OSError."""
    launcher = _launcher()
    if launcher is None:
        return False
    lead = state / LEAD_NAME
    address = html.escape(address_with_key(word, state))
    write_private(lead, _LEAD.format(address=address).encode())
    if sys.platform == "win32":
        os.startfile(lead)  # noqa: S606 - our own file
        return True
    process = subprocess.Popen(
        [*launcher, lead.as_uri()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    threading.Thread(target=process.wait, name="browser", daemon=True).start()
    return True


def _launcher() -> tuple[str, ...] | None:
    """Return what opens a page in a window here; a browser of the terminal is none."""
    if sys.platform == "win32":
        return ()
    if sys.platform == "darwin":
        return ("open",)
    if os.geteuid() == 0:
        return None  # behind sudo, for the key of a service: no browser runs with such rights
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    if any(Path(browser).exists() for browser in _IN_A_SNAP):
        return None  # it may read no hidden folder, and no temporary one
    return next((launcher for launcher in _LAUNCHERS if shutil.which(launcher[0])), None)
