"""The configuration file of a new service: taken as it is where there is one, written where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.config import AgentConfig, ConfigRefused, configure
from edge_agent.deploy.service_plan import ServiceRefused
from edge_agent.files import FileLayer, write_durably

import platformdirs
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FirstConfig:
    """A configuration and its file, which may still have to be written."""

    file: Path
    config: AgentConfig
    exists: bool

    def write(self) -> None:
        """Write the file, with its folder. Raises ServiceRefused."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.file, _text(self.config).encode(), FileLayer("config"))
        except OSError as error:
            raise ServiceRefused(f"{self.file}: cannot be written: {error.strerror}") from None


def first_config(file: Path, folders: tuple[Path, ...]) -> FirstConfig:
    """Return the configuration in `file`, or the one to be written there. Raises ServiceRefused, ConfigRefused."""
    if file.exists():
        config = configure(file)
        asked = configure(None, folders=folders).folders if folders else config.folders
        if set(asked) != set(config.folders):
            raise ServiceRefused(
                f"{file}: is there already and watches {_listed(config.folders)}; set `folders` there, or leave "
                "the folders out here"
            )
        return FirstConfig(file, config, exists=True)
    if not folders:
        raise ConfigRefused(f"{file}: is not there; name the folders to watch, and it will be written")
    return FirstConfig(file, configure(None, folders=folders), exists=False)


def _text(config: AgentConfig) -> str:
    import json

    names = ", ".join(json.dumps(str(folder), ensure_ascii=False) for folder in config.folders)
    return f"folders = [{names}]\n"


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(map(str, folders)) or "nothing"


def user_config_file() -> Path:
    return Path(platformdirs.user_config_dir("scopewatch", appauthor=False, roaming=False)) / "agent.toml"


def system_config_file() -> Path:
    return Path("/etc/scopewatch/agent.toml")
