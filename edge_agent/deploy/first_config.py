"""The configuration file of a new service: taken as it is where there is one, written where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.config import ConfigRefused
from edge_agent.config_file import loaded
from edge_agent.configuring.draft import write_draft
from edge_agent.deploy.service_plan import ServiceRefused

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.config import AgentConfig


@dataclass(frozen=True, slots=True)
class FirstConfig:
    """A configuration and its file, which may still have to be written."""

    file: Path
    config: AgentConfig
    exists: bool

    def write(self, *, for_all: bool) -> None:
        """Write the file, commented, with its folder and its schema; `for_all` to read. Raises ServiceRefused."""
        try:
            schema = write_draft(self.file, self.config.folders)
            if for_all:  # whatever root's umask: the service's account and those who ask for `status` read it
                self.file.parent.chmod(0o755)
                self.file.chmod(0o644)
                schema.chmod(0o644)
        except OSError as error:
            raise ServiceRefused(f"{self.file}: cannot be written: {error.strerror}") from None


def first_config(file: Path, folders: tuple[Path, ...], service_state: Path | None) -> FirstConfig:
    """Return the configuration in `file`, or the one to be written there.

    `service_state` is where a service of the system keeps its state unless the file says otherwise: the state
    folder of whoever installs it is no place for that. Raises ServiceRefused, ConfigRefused.
    """
    if not file.exists():
        if not folders:
            raise ConfigRefused(f"{file}: is not there; name the folders to watch, and it will be written")
        config = loaded(None, {"folders": folders, "state": service_state}).config
        return FirstConfig(file, config, exists=False)
    found = loaded(file)
    is_named = found.origins["state"].startswith(f"{file}:")
    config = found.config
    if service_state is not None and not is_named:
        config = config.model_copy(update={"state": service_state})
    asked = loaded(None, {"folders": folders}).config.folders if folders else config.folders
    if set(asked) != set(config.folders):
        raise ServiceRefused(
            f"{file}: is there already and watches {_listed(config.folders)}; set `folders` there, or leave "
            "the folders out here"
        )
    return FirstConfig(file, config, exists=True)


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(map(str, folders)) or "nothing"
