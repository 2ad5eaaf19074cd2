"""The web server of the page: its sockets, its thread, its end.

It listens on the loopback addresses of this PC and nowhere else. Nothing that happens to it reaches the
watching: a port that is taken is tried again, a server that breaks is started again, and `close` waits for
nobody. uvicorn touches no signals here (it is not in the main thread) and writes nothing to the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.live_page.gate import Site

RETRY_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 1.0
_DOORSTEP: Final = 128
"""Connections that the system keeps for us until we take them."""
_TAKEN_AT_ONCE: Final = 16
"""Each costs a descriptor before it can be turned away."""
_TURNS_TO_ACCEPT: Final = 5
_log = logging.getLogger(__name__)


class PageServer:
    """Serve `make_site()` on `port` of this PC, from `start` to `close`; 0 is any free port.

    `make_site` is called in the server's thread: what it imports keeps nobody waiting.
    """

    def __init__(
        self, port: int, make_site: Callable[[], Site], *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._port = port
        self._make_site = make_site
        self._retry_seconds = retry_seconds
        self._stop = threading.Event()
        self._running: _Running | None = None
        self._thread: threading.Thread | None = None
        self.word = "not started"
        """The address, or why there is none."""

    def start(self) -> None:
        """Listen from now on, or say in `word` why not; never raises."""
        sockets = self._listening()
        self._thread = threading.Thread(target=self._run, args=(sockets,), name="page", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ask it to stop; returns at once."""
        self._stop.set()
        running = self._running
        if running is not None:
            running.end()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop, whoever is connected; after so long at the latest."""
        self.end()
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))
        self.word = "closed"

    def _run(self, sockets: list[socket.socket]) -> None:
        while not self._stop.is_set():
            if sockets:
                self._serve(sockets)
            if not self._stop.wait(self._retry_seconds):
                sockets = self._listening()
        for one in sockets:
            one.close()

    def _listening(self) -> list[socket.socket]:
        try:
            sockets = loopback_sockets(self._port)
        except OSError as error:
            self._say(f"none: {_refused(self._port, error)}; tried again every {self._retry_seconds:.0f} s")
            return []
        self._say(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/")
        return sockets

    def _say(self, word: str) -> None:
        if word != self.word:
            self.word = word
            _log.info("page: %s", word)

    def _serve(self, sockets: list[socket.socket]) -> None:
        try:
            port = sockets[0].getsockname()[1]
            self._running = _Running(self._make_site(), port)
            if self._stop.is_set():
                return
            self._running.run(sockets)
            why = "it ended"
        except (Exception, SystemExit) as error:
            _log.debug("the page broke", exc_info=True)
            why = f"{type(error).__name__}: {error}"
        finally:
            for one in sockets:
                one.close()
        if not self._stop.is_set():
            self._say(f"none: {why}; started again after {self._retry_seconds:.0f} s")


class _Running:
    """One run of uvicorn, without its ticks: it waits for `end` and nothing else."""

    def __init__(self, site: Site, port: int) -> None:
        import uvicorn

        from edge_agent.live_page.connections import MOST_HEADER_BYTES, BoundedProtocol
        from edge_agent.live_page.gate import Gate, door_of

        running = self

        class Server(uvicorn.Server):
            async def main_loop(self) -> None:
                await running.until_end()

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                self.force_exit = True
                await _accept_no_more(sockets or [])
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
                await super().shutdown(sockets)

        _keep_quiet("uvicorn")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: list[socket.socket] = []
        self._ended = asyncio.Event()
        self._server = Server(
            uvicorn.Config(
                Gate(site, door_of(port)),
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=_TAKEN_AT_ONCE,
                h11_max_incomplete_event_size=MOST_HEADER_BYTES,
                timeout_graceful_shutdown=1,
            )
        )

    def run(self, sockets: list[socket.socket]) -> None:
        """Serve until `end`."""
        self._sockets = sockets
        asyncio.run(self._server.serve(sockets))

    def end(self) -> None:
        """End it; may be called from any thread, and before `run`."""
        self._server.should_exit = True
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(self._ended.set)

    async def until_end(self) -> None:
        """Wait for `end`."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_note)
        for one in self._sockets:
            # asyncio knows one number for what it takes at once and for what may wait.
            one.listen(_DOORSTEP)
        if not self._server.should_exit:
            await self._ended.wait()


def loopback_sockets(port: int) -> list[socket.socket]:
    """Return sockets that listen on 127.0.0.1 and, where this PC has it, ::1. Raises OSError."""
    first = _listen(socket.AF_INET, ("127.0.0.1", port))
    sockets = [first]
    if socket.has_ipv6:
        with contextlib.suppress(OSError):  # no IPv6 here, or somebody else's port there
            sockets.append(_listen(socket.AF_INET6, ("::1", first.getsockname()[1])))
    return sockets


def _listen(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # Windows lets a second program take over a port that a first one listens on (not verified there).
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Without it a restart would find the connections of the last run in the way for a minute.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_DOORSTEP)
    except BaseException:
        listening.close()
        raise
    return listening


def _refused(port: int, error: OSError) -> str:
    if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)):
        return f"port {port} of 127.0.0.1 is taken by another program (page.port)"
    return f"port {port} of 127.0.0.1 cannot be used: {error.strerror or error} (page.port)"


async def _accept_no_more(sockets: list[socket.socket]) -> None:
    """Let those in who are on the doorstep: what asyncio accepts while it closes, it leaves open for ever.

    That is CPython's issue 109564, mended in 3.13.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows' own loop accepts in another way
        for one in sockets:
            loop.remove_reader(one)
    for _ in range(_TURNS_TO_ACCEPT):
        await asyncio.sleep(0)


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Take what asyncio would write to the terminal: a client that went away, no descriptor for another one."""
    _log.debug("page: %s: %s", context.get("message"), context.get("exception"))


def _keep_quiet(name: str) -> None:
    logger = logging.getLogger(name)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
