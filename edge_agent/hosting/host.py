"""The host of the live agent: one process, and in it one `Service` after another.

The state folder is held, and signals are heard, from the first service to the last. What is asked for with
`stop` or a signal happens within three seconds, whatever hangs. Which service comes next is `succession`'s.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from edge_agent.hosting.config_edits import ConfigEdits
from edge_agent.hosting.succession import Ears, Parts, Succession
from edge_agent.signals import Signals
from edge_agent.status import hold_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.protocol import Ready
    from edge_agent.sidecar import Finding

END_SECONDS: Final = 2.8
"""So long after a signal the process is gone, whatever hangs: it can be killed at any moment without a loss."""


class Host:
    """The agent of one PC. `overrides` (command line) stay laid over `config_file`, however that is edited.

    `on_finding`, `on_ready` and, once, `on_page` (the page's word and the state folder) are called in the desk's
    thread, and should be quick. `say` gets a line for a
    person, from any thread; `on_state` a word (see `vital_signs`), about every second while the agent is not
    ready.
    """

    def __init__(
        self,
        config_file: Path | None,
        overrides: Mapping[str, object],
        *,
        on_finding: Callable[[Finding], None] = lambda finding: None,
        on_ready: Callable[[Ready], None] = lambda model: None,
        say: Callable[[str], None] = lambda text: None,
        on_state: Callable[[str], None] = lambda state: None,
        on_page: Callable[[str, Path], None] = lambda word, state: None,
        parts: Parts | None = None,
    ) -> None:
        self._config_file = config_file
        self._overrides = overrides
        self._ears = Ears(on_finding, on_ready, say, on_state, on_page)
        self._parts = parts or Parts()
        self._stop = threading.Event()
        self._succession: Succession | None = None

    def stop(self) -> None:
        """Ask the agent to end; may be called from any thread, and before `run`."""
        self._stop.set()
        if self._succession is not None:
            self._succession.stop()

    def run(self) -> None:
        """Run until `stop` or a signal.

        Raises ConfigRefused; AlreadyRunning, ModelRefused, WorkerFailed and OSError where the first start fails,
        of these the two of the model also when none is left; and whatever ended a thread of the agent.
        """
        hang_up = self._look_now if self._parts.notifier.listens else None
        with Signals(self.stop, on_hang_up=hang_up, limit_seconds=END_SECONDS):
            edits = ConfigEdits(self._config_file, self._overrides)
            with hold_state(edits.first.state):
                self._succession = Succession(edits, self._ears, self._parts)
                if not self._stop.is_set():
                    self._succession.run()

    def _look_now(self) -> None:
        """Take up an edit at once, as `systemctl reload` asks for."""
        if self._succession is not None:
            self._succession.look_now()
