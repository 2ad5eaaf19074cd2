"""Who may use the page: whoever shows its key once gets a cookie, and scripts send the key itself.

The cookie is made from the key, so it outlives a restart and ends with the key. What changes something must also
carry a word that only a page of ours can read (`CHANGE_HEADER`). Only this module knows how these are made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse

from edge_agent.page.page_key import KeyFile, is_still, key_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

CHANGE_HEADER: Final = "X-Scopewatch-Token"
COOKIE_SECONDS: Final = 400 * 86400
"""The longest that browsers keep one."""
SIGN_IN: Final = "/api/session"
_GUARDED: Final = "/api"
_FREE: Final = frozenset({"/", "/favicon.ico", SIGN_IN})
"""What holds nothing, and is needed to sign in; so is everything below /static/."""
_WRONG_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 3.0
_COMPLAINT_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 60.0
PARTING_SECONDS: Final = 1.0
"""How long a disk is waited for that just then takes a key."""
_log = logging.getLogger(__name__)


class Access:
    """The key as it is now. `meet` and `look` touch the disk; all else may be called from any thread."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._state: Path | None = None
        self._key: KeyFile | None = None
        self._why_not = "the agent is starting"
        self._look_due = float("-inf")
        self._wrong_due = self._complaint_due = 0.0
        self.on_new_key: Callable[[], None] = lambda: None
        """Called when another key holds: what was opened with the one before is to be ended."""

    def meet(self, state: Path) -> None:
        """Use the key of this state folder. Never raises: without one, nobody is let in."""
        self._state = state
        self.look()

    def part(self) -> None:
        """Let the state folder be, which may be removed from now on; the key holds. Waits a moment for the disk."""
        self._state = None
        if self._looking.acquire(timeout=PARTING_SECONDS):
            self._looking.release()

    def look(self) -> None:
        """Read the key again where its file is another; never raises."""
        with self._looking:
            self._look()

    @property
    def why_none(self) -> str | None:
        """Why there is no key, None where there is one."""
        return None if self._key is not None else self._why_not

    def _look(self) -> None:
        state, before, now = self._state, self._key, time.monotonic()
        if state is None or now < self._look_due or (before is not None and is_still(before, state)):
            return
        try:
            self._key = key_in(state)
        except OSError as error:
            # A disk that cannot keep it will not learn to in two seconds; each try is a durable write.
            self._look_due = now + _RETRY_SECONDS
            why_not = f"the page has no key: {error.strerror or error}"
            if why_not != self._why_not:
                _log.warning("the page has no key, nobody can sign in: %s", error)
            self._why_not = why_not
            return
        if before is not None and before.text != self._key.text:
            self.on_new_key()

    def is_key(self, given: str) -> bool:
        """Whether this is the key."""
        key = self._key
        return key is not None and _equal(given, key.text)

    @property
    def cookie(self) -> str:
        """What the cookie holds. Raises LookupError where there is no key."""
        return self._derived("cookie")

    @property
    def change_word(self) -> str:
        """What a change must carry in its header. Raises LookupError where there is no key."""
        return self._derived("change")

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason why this request needs something that it does not carry, or None."""
        if is_free(scope["path"], scope["scheme"]):
            return None
        return self._refused(scope)

    def knows(self, scope: Scope) -> bool:
        """Whether a request that is free to all carries the key or its cookie nevertheless."""
        return self._refused(scope) is None

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        if self._key is None:
            return 503, self._why_not  # not 401: whoever is signed in stays so while the agent starts
        given = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        bearer = [value[7:] for name, value in given if name == b"authorization" and value[:7] == "Bearer "]
        if bearer:
            return None if all(map(self.is_key, bearer)) else (401, "this is not the key of the page")
        cookies = [value for name, value in given if name == b"cookie"]
        if not any(_equal(value, self.cookie) for value in _values_of(cookies, cookie_name(scope))):
            return 401, "sign in first: `edge-agent page` opens the page with its key"
        if scope["method"] == "POST":
            words = [value for name, value in given if name == CHANGE_HEADER.lower().encode()]
            if len(words) != 1 or not _equal(words[0], self.change_word):
                return 403, f"a change needs the page's own word in {CHANGE_HEADER} (see /api/state)"
        return None

    async def wait_after_wrong_key(self) -> None:
        """Slow those down who try keys, all together; whoever has the right one never comes here."""
        now = time.monotonic()
        if now >= self._complaint_due:
            self._complaint_due = now + _COMPLAINT_SECONDS
            _log.warning("somebody tried a wrong key of the page")
        self._wrong_due = max(now, self._wrong_due) + _WRONG_PAUSE_SECONDS
        self._wrong_due = min(self._wrong_due, now + _LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(self._wrong_due - now)

    def _derived(self, what: str) -> str:
        key = self._key
        if key is None:
            raise LookupError(self._why_not)
        return hmac.digest(key.text.encode(), f"scopewatch {what}".encode(), hashlib.sha256).hex()


class KeyCheck:
    """Let requests that carry what they need through to `app`."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        refused = self._access.refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
            return
        status, text = refused
        await JSONResponse({"error": text}, status_code=status)(scope, receive, send)


def is_free(path: str, scheme: str) -> bool:
    """Whether a path is answered to everybody: over TLS, from another PC, next to nothing is."""
    if path in _FREE or path.startswith("/static/"):
        return True
    return scheme == "http" and not path.startswith(_GUARDED)


def cookie_name(scope: Scope) -> str:
    """Return the cookie's name: browsers do not tell ports apart, and a PC may have several agents."""
    return f"scopewatch_{scope['server'][1]}"


def _values_of(cookies: list[str], name: str) -> list[str]:
    """Return all values of one name: another program of this PC may have set one of the same name."""
    pairs = [pair.partition("=") for text in cookies for pair in text.split(";")]
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "backslashreplace"), right.encode())
