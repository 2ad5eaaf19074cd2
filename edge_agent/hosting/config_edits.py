"""The configuration that the running agent holds to, and the edits of its file: judged, refused, or handed on.

A bad edit is told with file, line, key and reason, and changes nothing. Only this module knows which edits
cannot be taken up by an agent that runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge_agent.config import ConfigRefused
from edge_agent.config_file import COMMAND_LINE, DEFAULT, loaded
from edge_agent.hosting.config_watch import ConfigWatch
from edge_agent.output_places import readable_path
from edge_agent.processes.storage_probe import in_time
from edge_agent.status import ConfigStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from edge_agent.config import AgentConfig

_log = logging.getLogger(__name__)


class ConfigEdits:
    """One file (or none) with `overrides` laid over it. Raises ConfigRefused when that cannot be used at all."""

    def __init__(self, file: Path | None, overrides: Mapping[str, object]) -> None:
        self.file = file
        self.refused: str | None = None
        """Why the file's last edit is not in force; None where it is."""
        self._overrides = dict(overrides)
        self._origins: Mapping[str, str] = {}
        # Before the first reading: an edit between the two is one more edit, and not lost.
        self._watch = None if file is None else ConfigWatch(file)
        self.first = self._read()

    def edit(self, running: AgentConfig) -> AgentConfig | None:
        """Return a good edit that changes something of `running`; to be called twice a second or so."""
        news = None if self._watch is None else self._watch.look()
        if news == "gone":
            self.refuse(f"{self.file}: is gone, or cannot be read; what it said stays in force")
        if news != "edited":
            return None
        try:
            config = self._read()
            self._require_same_state(config, running)
        except ConfigRefused as error:
            self.refuse(str(error))
            return None
        if config != running:
            return config
        if self.refused is not None:
            _log.info(
                "%s says what is in force", self.file, extra={"event": "config", "config": str(self.file)}
            )
        self.refused = None
        return None

    def look_now(self) -> None:
        """Judge the file soon, whether it looks edited or not."""
        if self._watch is not None:
            self._watch.look_now()

    def cannot_start(self, key: str | None, error: Exception) -> None:
        """Note that the last edit, good in itself, came to nothing, if possible for the sake of one key."""
        place = f"{self.file}: " if key is None else self._place(key)
        self.refuse(f"{place}{error}")

    def refuse(self, reason: str) -> None:
        """Note why the file's content is not in force."""
        self.refused = reason
        _log.warning(
            f"the configuration stays as it was: {reason}",  # each reason is another warning
            extra={"event": "config refused", "config": str(self.file), "reason": reason},
        )

    def status(self, since: datetime) -> ConfigStatus:
        """Return what the agent says of it."""
        # Whoever asks for the numbers is in another folder.
        file = None if self.file is None else readable_path(self.file.absolute())
        return ConfigStatus(file=file, since=since, refused=self.refused)

    def _read(self) -> AgentConfig:
        found = loaded(self.file, self._overrides)
        config, self._origins = found.config, found.origins
        place = self._place("folders")
        if not config.folders:
            raise ConfigRefused(f"{place}no folder to watch: name one, or set `folders` in the configuration")
        for folder in config.folders:
            if in_time(folder.is_file, otherwise=False):
                raise ConfigRefused(f"{place}{folder}: is a file, not a folder; `classify` takes files")
        if config.output is not None and in_time(config.output.is_file, otherwise=False):
            raise ConfigRefused(f"{self._place('output')}{config.output}: is a file, not a folder")
        return config

    def _place(self, key: str) -> str:
        """Where a key stands, as the beginning of a complaint; nothing where the command line gave it."""
        origin = self._origins.get(key, DEFAULT)
        if self.file is None or origin == COMMAND_LINE:
            return ""
        return f"{self.file if origin == DEFAULT else origin}: {key}: "

    def _require_same_state(self, config: AgentConfig, running: AgentConfig) -> None:
        if config.state != running.state:
            raise ConfigRefused(
                f"{self._place('state')}is {running.state} for as long as the agent runs; "
                "restart the agent to change it"
            )
