"""The operator's page in Firefox: signing in, live files, labels by key, session, learning, tabs, the agent gone.

`python tests/long/firefox_page.py [--firefox PROGRAM] [--pictures DIR]`

All else about the page is tested in Chromium; this is the visit of one person in the other engine. It speaks
WebDriver BiDi (https://www.w3.org/TR/webdriver-bidi/) with Firefox itself, and needs nothing but Firefox and
`pip install websockets`. Ends with 1 and says what is wrong: what is not there in time, and whatever Firefox
complains of.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))

from page_rig import WAIT_SECONDS, LivePage, free_port, until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

WITHOUT_SIGN_SECONDS = 12.0
FILES = 12
KEYS = {
    "Enter": "\ue007", "ArrowDown": "\ue015", "Home": "\ue011", "Escape": "\ue00c", "Control": "\ue009",
}  # fmt: skip
MARKED = "document.querySelector('#history [aria-posinset=\"{place}\"] .given').textContent"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--firefox", default=shutil.which("firefox") or shutil.which("firefox-esr"))
    parser.add_argument("--pictures", type=Path, help="where screenshots are put")
    given = parser.parse_args()
    if given.firefox is None:
        parser.error("there is no Firefox (apt-get install firefox-esr), or name it by --firefox")
    with (
        tempfile.TemporaryDirectory() as place,
        LivePage(Path(place) / "pc", page={"port": free_port()}) as page,
        firefox(given.firefox, Path(place)) as fox,
    ):
        visit(page, fox, given.pictures)
        wrong = fox.complaints
    for line in wrong:
        print(f"WRONG: {line}")
    print("all as it should be" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(1 if wrong else 0)


def visit(page: LivePage, fox: Firefox, pictures: Path | None) -> None:
    """What one person does; raises where anything does not come."""

    def look(name: str, condition: str) -> None:
        fox.until(condition, name)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            (pictures / f"{name}.png").write_bytes(fox.picture())
        print(f"seen: {name}")

    page.save(FILES)
    fox.open(f"{page.address}#token={page.token}")
    look("signed in", f"document.querySelectorAll('#history [role=option]').length === {FILES}")
    page.save(1, seed=1)
    look("a file came", f"document.querySelector('#history-total').textContent.startsWith('{FILES + 1} ')")
    look("its picture", "!document.querySelector('#latest canvas').hidden && !location.hash")

    fox.run("document.querySelector('#history [role=listbox]').focus()")
    fox.press("Home", "ArrowDown", "2")
    look("a label", f"{MARKED.format(place=2)}.includes('rod')")
    fox.press("Control+z")
    look("taken back", f"!{MARKED.format(place=2)}")
    fox.press("Home", "3")
    look("another", f"{MARKED.format(place=1)}.includes('round')")
    until(lambda: list(page.folder.glob("*.label.json")), "a label file is written")

    fox.run("document.querySelector('#tab-session').click()")
    look("session", "document.querySelector('#session canvas') !== null")
    fox.run("document.querySelector('#tab-learning').click()")
    look("learning", "document.querySelector('#learning').textContent.includes('retraining')")

    first = fox.tab
    fox.new_tab(page.address)
    look("second tab", f"document.querySelectorAll('#history [role=option]').length === {FILES + 1}")
    page.save(1, seed=2)
    look(
        "told by the first",
        f"document.querySelector('#history-total').textContent.startsWith('{FILES + 2} ')",
    )
    fox.close_tab(first)
    page.save(1, seed=3)
    look(
        "led by the second",
        f"document.querySelector('#history-total').textContent.startsWith('{FILES + 3} ')",
    )

    fox.expected = ["/api/", "Firefox can", "connection", "NetworkError"]
    page.agent.kill()
    fox.wait_seconds = WAIT_SECONDS + WITHOUT_SIGN_SECONDS
    look("no contact", "document.querySelector('#state-bar').textContent.includes('NO CONTACT')")
    page.start()
    look("back again", "!document.querySelector('#state-bar').textContent.includes('NO CONTACT')")


class Firefox:
    """A running Firefox, one tab of it in hand."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.expected: list[str] = []
        self.wait_seconds = WAIT_SECONDS
        found = self._do("session.new", capabilities={"alwaysMatch": {}})["capabilities"]
        print(f"{found['browserName']} {found['browserVersion']}")
        self._do(
            "session.subscribe", events=["log.entryAdded", "network.fetchError", "network.responseCompleted"]
        )
        self.tab = self._do("browsingContext.getTree")["contexts"][0]["context"]
        self._do("browsingContext.setViewport", context=self.tab, viewport={"width": 1280, "height": 900})

    def open(self, address: str) -> None:
        self._do("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def new_tab(self, address: str) -> None:
        self.tab = self._do("browsingContext.create", type="tab")["context"]
        self.open(address)

    def close_tab(self, tab: str) -> None:
        self._do("browsingContext.close", context=tab)

    def run(self, expression: str) -> Any:
        """What an expression of JavaScript comes to; None while it fails."""
        answer = self._do(
            "script.evaluate", expression=expression, target={"context": self.tab}, awaitPromise=True
        )
        return answer["result"].get("value") if answer["type"] == "success" else None

    def until(self, condition: str, what: str) -> None:
        deadline = time.monotonic() + self.wait_seconds
        while self.run(condition) is not True:
            if time.monotonic() > deadline:
                raise SystemExit(f"WRONG: not within {self.wait_seconds:g} s: {what}; {self.complaints[:3]}")
            time.sleep(0.05)

    def press(self, *names: str) -> None:
        """Press keys one after the other, as "Home" or "Control+z"."""
        actions = []
        for name in names:
            values = [KEYS.get(part, part) for part in name.split("+")]
            actions += [{"type": "keyDown", "value": value} for value in values]
            actions += [{"type": "keyUp", "value": value} for value in reversed(values)]
            actions.append({"type": "pause", "duration": 300})
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self._do("input.performActions", context=self.tab, actions=[keyboard])

    def picture(self) -> bytes:
        return base64.b64decode(self._do("browsingContext.captureScreenshot", context=self.tab)["data"])

    def _do(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                break
            self._hear(message.get("method"), message.get("params", {}))
        if message["type"] == "error":
            raise SystemExit(f"WRONG: {method}: {message['error']}: {message['message']}")
        return message["result"]

    def _hear(self, method: str | None, params: dict[str, Any]) -> None:
        address = params.get("request", {}).get("url", "")
        if method == "log.entryAdded" and params["level"] in ("error", "warn"):
            complaint = f"{params['level']}: {params['text']}"
        elif method == "network.fetchError":
            complaint = f"{params['errorText']}: {address}"
        elif method == "network.responseCompleted" and params["response"]["status"] >= 400:
            complaint = f"{params['response']['status']}: {address}"
        else:
            return
        if not any(part in complaint for part in self.expected):
            self.complaints.append(complaint)


@contextmanager
def firefox(program: str, place: Path) -> Iterator[Firefox]:
    """A headless Firefox with a profile of its own."""
    from websockets.sync.client import connect

    profile = place / "profile"
    profile.mkdir()
    with subprocess.Popen(
        [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(place)},
    ) as process:  # fmt: skip
        try:
            for line in process.stderr or ():
                if found := re.search(r"BiDi listening on (ws://\S+)", line):
                    break
            else:
                raise SystemExit(f"WRONG: {program} ended without listening")
            with connect(f"{found[1]}/session", max_size=None) as socket:
                yield Firefox(socket)
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
