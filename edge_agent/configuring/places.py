"""Where the configuration is looked for, and where the agent keeps its own state.

Only this module knows these places, and the environment variables that name others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import platformdirs

CONFIG_VARIABLE: Final = "SCOPEWATCH_CONFIG"
STATE_VARIABLE: Final = "SCOPEWATCH_STATE"
MODEL_VARIABLE: Final = "SCOPEWATCH_MODEL"
CONFIG_NAME: Final = "agent.toml"


def default_config_file() -> Path | None:
    """Return the configuration that holds when none is named.

    That of `SCOPEWATCH_CONFIG` (set but empty: none), else the user's, else the system's, where there is one.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named is not None:
        return Path(named).absolute() if named else None
    return next((file for file in (user_config_file(), system_config_file()) if _is_there(file)), None)


def user_config_file() -> Path:
    """Return where the user's configuration belongs, whether it is there or not."""
    return Path(platformdirs.user_config_dir("scopewatch", appauthor=False, roaming=False)) / CONFIG_NAME


def system_config_file(platform: str = sys.platform) -> Path:
    """Return where the configuration of a service for the whole PC belongs, whether it is there or not."""
    return (_program_data() if platform == "win32" else Path("/etc/scopewatch")) / CONFIG_NAME


def state_folder() -> Path:
    """Return where the agent keeps its own state: `SCOPEWATCH_STATE`, or the user's state folder."""
    named = os.environ.get(STATE_VARIABLE)
    return (
        Path(named).absolute() if named else Path(platformdirs.user_state_dir("scopewatch", appauthor=False))
    )


def system_state_folder(platform: str = sys.platform) -> Path:
    """Return where a service for the whole PC keeps its state."""
    return _program_data() / "state" if platform == "win32" else Path("/var/lib/scopewatch")


def _program_data() -> Path:
    return Path(os.environ.get("PROGRAMDATA") or r"C:\ProgramData") / "scopewatch"


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a folder that this user may not enter
        return False
