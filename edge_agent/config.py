"""The agent's configuration: one TOML file, checked whole before anything starts.

Only this module knows the names, defaults and limits of the keys, and where the agent keeps its own state.
What a command line says is laid over the file with `configure`.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from pathlib import Path
from typing import Any, Final

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

STATE_VARIABLE: Final = "SCOPEWATCH_STATE"
DEFAULT_INCLUDE: Final = ("*.dm3", "*.dm4")
_PATH_KEYS: Final = ("output", "state")


class ConfigRefused(Exception):
    """The configuration cannot be used; the text names the file, the key and the reason, a line each."""


def state_folder() -> Path:
    """Return where the agent keeps its own state: `SCOPEWATCH_STATE`, or the user's state folder."""
    named = os.environ.get(STATE_VARIABLE)
    return (
        Path(named).absolute() if named else Path(platformdirs.user_state_dir("scopewatch", appauthor=False))
    )


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PageConfig(_Table):
    """The page, health and metrics of the running agent, on this PC only (127.0.0.1)."""

    enabled: bool = True
    """Whether to listen at all."""
    port: int = Field(default=8747, ge=0, le=65535)
    """The port; 0 is any free one, which `status` then names. When it is taken the agent works without."""


class EventsConfig(_Table):
    """What is sent elsewhere when a file is finished; nothing is, unless an address is given here."""

    webhook_url: str | None = None
    """Each finding is sent as JSON by HTTP POST to this http(s) address."""
    mqtt_url: str | None = None
    """Each finding is published as JSON under this address, `mqtt://host:1883/topic` (needs `scopewatch[mqtt]`)."""


class InstrumentConfig(_Table):
    """What the files of this microscope do not say, or say wrongly; noted in every sidecar."""

    name: str | None = None
    """How the laboratory calls the instrument."""
    microscope: str | None = None
    """Maker and type."""
    camera: str | None = None
    """The camera or detector."""
    pixel_size_nm: dict[str, float] = Field(default_factory=dict)
    """Pixel size in nm by indicated magnification ("40000" = 0.25); it replaces what such a file says."""


class RetentionConfig(_Table):
    """What is kept for how long; micrographs and sidecars are never removed."""

    heatmap_days: int | None = Field(default=None, ge=1)
    """Heatmaps older than this are removed, their sidecars stay; None keeps them."""
    log_files: int = Field(default=5, ge=1, le=100)
    """Rotated log files that are kept beside the current one."""
    log_mib: int = Field(default=10, ge=1, le=1024)
    """Size at which a log file is rotated."""


class AgentConfig(BaseModel):
    """Everything the live agent can be told. Paths are absolute once loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: tuple[Path, ...] = ()
    """Watched with everything below them. They need not exist yet, and are never created."""
    output: Path | None = None
    """Mirror sidecars and heatmaps below this folder instead of beside the micrographs."""
    model: str | None = None
    """Name of a shipped bundle, or the path of one; None is the shipped default."""
    include: tuple[str, ...] = DEFAULT_INCLUDE
    """Patterns of file names that are micrographs; upper and lower case are the same."""
    exclude: tuple[str, ...] = ()
    """Patterns of file names, or of the names of folders, that are left alone whatever `include` says."""
    quiet_seconds: float = Field(default=1.0, ge=0.05, le=600)
    """A file is read once its size and time have not changed for so long; longer where writers pause."""
    share_quiet_seconds: float = Field(default=3.0, ge=0.05, le=600)
    """The same for folders on a network share, where sizes and times arrive late."""
    gap_seconds: float = Field(default=10.0, ge=0, le=600)
    """A file with a sector of zeros must rest so long before it is believed: its writer may have reserved the
    whole length first. Pictures with black areas wait for it, too."""
    scan_seconds: float = Field(default=10.0, ge=0.1, le=3600)
    """How often the folders are looked over; between scans the system's change events are the hints."""
    cold_scan_seconds: float = Field(default=600.0, ge=0.1, le=86400)
    """How often each file is looked at in a folder where nothing was saved or changed for a while."""
    newest_first: bool = False
    """While a backlog is worked off, take the newest file first instead of the oldest."""
    wall_limit_seconds: float = Field(default=30.0, ge=1, le=3600)
    """A file that takes the worker longer than this (and longer than its size explains) is given up for the
    moment, and the worker replaced."""
    memory_limit_mib: int = Field(default=4096, ge=512)
    """The worker may not ask for more memory than this."""
    recycle_files: int = Field(default=1000, ge=1)
    """The worker is replaced by a fresh one after so many files."""
    low_priority: bool = True
    """Run below normal priority, with disk access only when nobody else wants it."""
    yield_above_cpu_percent: float | None = Field(default=None, ge=1, le=100)
    """Pause while other programs use more than this share of all processors; None is never."""
    free_space_floor_mib: int = Field(default=1024, ge=0)
    """Nothing is written to a disk with less free space than this: the room belongs to the instrument."""
    stalled_seconds: float = Field(default=600.0, ge=1)
    """A file that stays incomplete for so long gets a sidecar that says so, until it changes."""
    snapshot_limit_mib: int = Field(default=512, ge=1)
    """Larger files are read frame by frame from the shared handle instead of whole into memory."""
    heatmap: bool = True
    """Whether to draw heatmaps."""
    trusted_keys: tuple[str, ...] = ()
    """Public keys ("ed25519:...") of those who may sign models; once one is listed, no unsigned model is used
    but those that came with the installation."""
    page: PageConfig = PageConfig()
    events: EventsConfig = EventsConfig()
    instrument: InstrumentConfig = InstrumentConfig()
    retention: RetentionConfig = RetentionConfig()
    state: Path = Field(default_factory=state_folder)
    """Where the journal, the status and the lock are kept: a local disk, never the share that is watched."""

    @field_validator("include", "exclude")
    @classmethod
    def _patterns_name_files(cls, patterns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not patterns and info.field_name == "include":
            raise ValueError('must name at least one pattern, for example "*.dm3"')
        for pattern in patterns:
            if not pattern or "/" in pattern or "\\" in pattern:
                raise ValueError(f"{pattern!r} is no pattern of file names (give no folder in it)")
        return patterns

    @field_validator("folders", "output", "state")
    @classmethod
    def _paths_can_be(cls, value: tuple[Path, ...] | Path | None) -> tuple[Path, ...] | Path | None:
        for path in value if isinstance(value, tuple) else (value,):
            if "\0" in str(path):
                raise ValueError(f"{str(path)!r} holds a NUL, which no path can")
            if str(path).startswith("~"):
                raise ValueError(f"{str(path)!r}: there is no home folder of that name")
        return value

    @field_validator("folders")
    @classmethod
    def _folders_once(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        once = tuple(dict.fromkeys(folders))
        for inner in once:
            for outer in once:
                if inner != outer and inner.is_relative_to(outer):
                    raise ValueError(f"{inner} lies in {outer}, which is watched with everything below it")
        return once


def configure(file: Path | None = None, **overrides: object) -> AgentConfig:
    """Return the configuration of a TOML file (or the defaults) with those `overrides` that are not None.

    Relative paths count from the file's folder, those of overrides from the current one.
    Raises ConfigRefused with one line for each wrong key.
    """
    values = _read_toml(file) if file is not None else {}
    given = {key: value for key, value in overrides.items() if value is not None and value != ()}
    values |= _with_absolute_paths(given, Path.cwd())
    try:
        return AgentConfig.model_validate(values)
    except ValidationError as error:
        place = str(file) if file is not None else "command line"
        raise ConfigRefused("\n".join(_complaints(place, error))) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigRefused(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigRefused(f"{file}: is not UTF-8 text; save it as UTF-8") from None
    except ValueError as error:  # also a number of thousands of digits
        raise ConfigRefused(f"{file}: is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigRefused(f"{file}: is not valid TOML: brackets in brackets without end") from None
    return _with_absolute_paths(values, file.absolute().parent)


def _with_absolute_paths(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Only strings and paths are touched: what has the wrong type is left for the validation to name."""
    settled = dict(values)
    for key in _PATH_KEYS:
        if isinstance(settled.get(key), str | Path):
            settled[key] = _absolute(base, settled[key])
    if isinstance(settled.get("folders"), list | tuple):
        settled["folders"] = [
            _absolute(base, item) if isinstance(item, str | Path) else item for item in settled["folders"]
        ]
    model = settled.get("model")
    with contextlib.suppress(OSError):  # a name that no file can have
        if isinstance(model, str) and (base / model).exists():
            settled["model"] = str(_absolute(base, model))
    return settled


def _absolute(base: Path, path: str | Path) -> Path:
    # normpath, not resolve: a link that the user named stays the name under which things are reported.
    try:
        return Path(os.path.normpath(base / Path(path).expanduser()))
    except RuntimeError:  # the home folder of nobody: left for the validation to name
        return Path(path)


def _complaints(place: str, error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        reason = (
            "there is no such key"
            if item["type"] == "extra_forbidden"
            else item["msg"].removeprefix("Value error, ")
        )
        lines.append(f"{place}: {key}: {reason}")
    return lines
