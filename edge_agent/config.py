"""The agent's configuration: one TOML file, checked whole before anything starts.

What the rest of the agent needs of it: the settings themselves, where they are looked for, and `configure`. Where
each value comes from is `config_file`'s business, what keys there are `configuring.tables`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.config_file import loaded
from edge_agent.configuring.complaints import ConfigRefused as ConfigRefused
from edge_agent.configuring.places import CONFIG_VARIABLE as CONFIG_VARIABLE
from edge_agent.configuring.places import STATE_VARIABLE as STATE_VARIABLE
from edge_agent.configuring.places import default_config_file as default_config_file
from edge_agent.configuring.places import state_folder as state_folder
from edge_agent.configuring.places import system_config_file as system_config_file
from edge_agent.configuring.places import system_state_folder as system_state_folder
from edge_agent.configuring.places import user_config_file as user_config_file
from edge_agent.configuring.tables import DEFAULT_INCLUDE as DEFAULT_INCLUDE
from edge_agent.configuring.tables import AgentConfig as AgentConfig  # noqa: TC001 - handed on
from edge_agent.configuring.tables import EventsConfig as EventsConfig
from edge_agent.configuring.tables import InstrumentConfig as InstrumentConfig
from edge_agent.configuring.tables import PageConfig as PageConfig
from edge_agent.configuring.tables import RetentionConfig as RetentionConfig

if TYPE_CHECKING:
    from pathlib import Path


def configure(file: Path | None = None, **overrides: object) -> AgentConfig:
    """Return the configuration of a TOML file (or the defaults) with those `overrides` that are not None.

    As `config_file.loaded`, for whoever does not ask where a value comes from. Raises ConfigRefused.
    """
    return loaded(file, overrides).config
