"""The web server of the page at one place: its thread, its end.

Nothing that happens to it reaches the watching: a port that is taken is tried again, a server that breaks is
started again, and `close` waits for nobody. uvicorn touches no signals here (it is not in the main thread) and
writes nothing to the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from edge_agent.live_page.doorway import DOORSTEP, Unusable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from edge_agent.live_page.connections import BoundedProtocol
    from edge_agent.live_page.doorway import Doorway
    from edge_agent.live_page.gate import Site

RETRY_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 1.0
_HANDSHAKE_SECONDS: Final = 5.0
_TAKEN_AT_ONCE: Final = 16
"""Each costs a descriptor before it can be turned away."""
_TURNS_TO_ACCEPT: Final = 5
_log = logging.getLogger(__name__)


class PageServer:
    """Serve `make_site()` at `doorway`, from `start` to `close`.

    `make_site` is called in the server's thread: what it imports keeps nobody waiting.
    """

    def __init__(
        self, doorway: Doorway, make_site: Callable[[], Site], *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._doorway = doorway
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
            sockets = self._doorway.sockets()
        except Unusable as error:
            self._say(f"none: {error}; tried again every {self._retry_seconds:.0f} s")
            return []
        self._say(self._doorway.address(sockets[0].getsockname()[1]))
        return sockets

    def _say(self, word: str) -> None:
        if word != self.word:
            self.word = word
            _log.info("page: %s", word)

    def _serve(self, sockets: list[socket.socket]) -> None:
        try:
            port = sockets[0].getsockname()[1]
            self._running = _Running(self._make_site(), self._doorway, port)
            if self._stop.is_set():
                return
            self._running.run(sockets)
            why = "it ended"
        except Unusable as error:
            why = str(error)
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

    def __init__(self, site: Site, doorway: Doorway, port: int) -> None:
        import uvicorn

        from edge_agent.live_page.connections import MOST_HEADER_BYTES, BoundedProtocol
        from edge_agent.live_page.gate import Gate

        running = self
        tls = doorway.tls()

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                if tls is not None:
                    self.config.ssl = tls
                    _hurry_handshakes(asyncio.get_running_loop())
                await super().startup(sockets)

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
                Gate(site, doorway.door(port)),
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
            one.listen(DOORSTEP)
        if not self._server.should_exit:
            await self._ended.wait()


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


def _hurry_handshakes(loop: asyncio.AbstractEventLoop) -> None:
    """Give a client seconds, not a minute, until it speaks TLS, and only so many at a time.

    Until then it is no connection that `connections` could see, and asyncio has no limit to how many there are.
    """
    from edge_agent.live_page.connections import MOST_CONNECTIONS

    create_server, shaking = loop.create_server, WeakSet["BoundedProtocol"]()

    async def create_hurried(make: Callable[[], BoundedProtocol], **options: object) -> asyncio.Server:
        def make_one() -> BoundedProtocol:
            if sum(not one.is_made for one in shaking) >= MOST_CONNECTIONS:
                raise ConnectionRefusedError("too many clients that do not speak yet")
            made = make()
            shaking.add(made)
            return made

        hurried: Any = create_server
        server: asyncio.Server = await hurried(make_one, ssl_handshake_timeout=_HANDSHAKE_SECONDS, **options)
        return server

    loop.create_server = create_hurried  # type: ignore[method-assign,assignment]


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Take what asyncio would write to the terminal: a client that went away, no descriptor for another one."""
    _log.debug("page: %s: %s", context.get("message"), context.get("exception"))


def _keep_quiet(name: str) -> None:
    logger = logging.getLogger(name)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
