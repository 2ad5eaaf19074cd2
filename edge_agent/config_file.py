"""One configuration from three sources: a TOML file, the environment, the command line.

The file counts more than the defaults, `SCOPEWATCH_MODEL` more than the file, the command line more than all.
Only this module knows that order; it says of each key where its value comes from, and of each fault the line.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from edge_agent.configuring.allowed_paths import is_path_of_windows, unc_host
from edge_agent.configuring.complaints import (
    ConfigRefused,
    Schema,
    known_keys,
    reason_of,
    toml_complaint,
)
from edge_agent.configuring.key_lines import KeyPath, key_lines, key_text, line_of
from edge_agent.configuring.places import (
    MODEL_VARIABLE,
    STATE_VARIABLE,
    system_config_file,
    system_state_folder,
)
from edge_agent.configuring.tables import AgentConfig
from edge_agent.watching.volumes import volume_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT: Final = "default"
COMMAND_LINE: Final = "command line"
FILE_LIMIT_BYTES: Final = 2**20
"""No configuration is as long."""
_PATH_KEYS: Final = ("output", "state")
_PATH_KEYS_OF_PAGE: Final = ("certificate", "private_key")
_STATE_LINE: Final = re.compile(r"^[ \t]*state[ \t]*=.*$|^[ \t]*\[", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, its file, and for each dotted key where its value comes from.

    An origin is `default`, `FILE:LINE`, `environment SCOPEWATCH_...` or `command line`.
    """

    config: AgentConfig
    origins: Mapping[str, str]
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """A file as it was read; `lines` are those of its keys."""

    file: Path | None
    values: dict[str, Any]
    lines: Mapping[KeyPath, int]


def loaded(file: Path | None, overrides: Mapping[str, object] = MappingProxyType({})) -> Loaded:
    """Return the configuration of a TOML file (or the defaults) with those `overrides` that are not None.

    Relative paths count from the file's folder, those of overrides from the current one. Raises ConfigRefused
    with one line for each fault.
    """
    source = _read_toml(file) if file is not None else _Source(None, {}, {})
    beside = _beside_the_file(source, overrides)
    values = source.values | {key: value for key, (value, _) in beside.items()}
    above = {key: origin for key, (_, origin) in beside.items()}
    schema = config_schema()
    try:
        config = AgentConfig.model_validate(values)
    except ValidationError as error:
        faults = (reason_of(item, schema) for item in error.errors())
        raise ConfigRefused(
            "\n".join(f"{_place(source, above, path)}: {key_text(path)}: {reason}" for path, reason in faults)
        ) from None
    _require_local_state(config, source, above)
    return Loaded(config, MappingProxyType(_origins(source, above, schema)), file)


@cache
def config_schema() -> Schema:
    """Return the configuration's JSON Schema (draft 2020-12); not to be changed."""
    schema = AgentConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def state_named(file: Path | None) -> Path:
    """Return the state folder that a configuration names, even when it cannot be used otherwise.

    A running agent stays with the last good one, and whoever asks for its numbers must find them. Raises
    ConfigRefused where there is no such file.
    """
    try:
        return loaded(file).config.state
    except ConfigRefused:
        if file is None or not file.exists():
            raise
        salvaged = _Source(file, _salvaged_state(file), {})
        beside = _beside_the_file(salvaged, {})
        values = salvaged.values | {key: value for key, (value, _) in beside.items() if key == "state"}
        with contextlib.suppress(ValidationError):
            return AgentConfig.model_validate(values).state
        return AgentConfig().state


def _salvaged_state(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    with contextlib.suppress(OSError, ValueError):
        found = _STATE_LINE.search(file.read_text("utf-8-sig", errors="replace")[:FILE_LIMIT_BYTES])
        if found is not None and "=" in found[0]:
            values = {"state": tomllib.loads(found[0])["state"]}
            return _with_absolute_paths(values, file.absolute().parent)
    return {}


def _read_toml(file: Path) -> _Source:
    try:
        with file.open("rb") as handle:
            data = handle.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigRefused(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError:  # a NUL in the name
        raise ConfigRefused(f"{str(file)!r}: cannot be read: no file has such a name") from None
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigRefused(
            f"{file}: is longer than {FILE_LIMIT_BYTES // 2**20} MiB, and no configuration is"
        )
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigRefused(f"{file}:{line}: is not UTF-8 text; save it as UTF-8") from None
    try:
        values = tomllib.loads(text)
    except ValueError as error:
        at, reason = toml_complaint(error, text)
        raise ConfigRefused(f"{_file_line(file, at)}: {reason}") from None
    except RecursionError:
        raise ConfigRefused(f"{file}: is not valid TOML: brackets in brackets without end") from None
    return _Source(file, _with_absolute_paths(values, file.absolute().parent), key_lines(text))


def _beside_the_file(source: _Source, overrides: Mapping[str, object]) -> dict[str, tuple[Any, str]]:
    """Return the values that do not come from the file, each with its origin."""
    given = {key: value for key, value in overrides.items() if value is not None and value != ()}
    beside = {key: (value, COMMAND_LINE) for key, value in _with_absolute_paths(given, Path.cwd()).items()}
    named = os.environ.get(MODEL_VARIABLE)
    if named and given.get("model", named) == named:  # the command's option reads the variable as well
        model = _with_absolute_paths({"model": named}, Path.cwd())["model"]
        beside["model"] = (model, f"environment {MODEL_VARIABLE}")
    if "state" not in source.values and "state" not in beside:
        if os.environ.get(STATE_VARIABLE):
            state = Path(os.environ[STATE_VARIABLE]).absolute()
            beside["state"] = (state, f"environment {STATE_VARIABLE}")
        elif source.file is not None and source.file.absolute() == system_config_file():
            beside["state"] = (system_state_folder(), DEFAULT)
    return beside


def _require_local_state(config: AgentConfig, source: _Source, above: Mapping[str, str]) -> None:
    """Refuse a state folder on a share that somebody chose; a home folder on a server is nobody's choice."""
    chosen = "state" in source.values or above.get("state") == COMMAND_LINE
    if chosen and volume_of(config.state).is_share:
        raise ConfigRefused(
            f"{_place(source, above, ('state',))}: state: {config.state} lies on a network share; the journal and "
            "its locks need a local disk"
        )


def _origins(source: _Source, above: Mapping[str, str], schema: Schema) -> dict[str, str]:
    return {key_text(path): _origin(source, above, path) for path in known_keys(schema)}


def _origin(source: _Source, above: Mapping[str, str], path: KeyPath) -> str:
    if path[0] in above:
        return above[str(path[0])]
    inner: Any = source.values
    for part in path:
        if not isinstance(inner, dict) or part not in inner:
            return DEFAULT
        inner = inner[part]
    return _file_line(source.file, line_of(source.lines, path))


def _place(source: _Source, above: Mapping[str, str], path: KeyPath) -> str:
    """Return where a person has to look for what is said of a key."""
    if path and path[0] in above:
        return above[str(path[0])]
    return _file_line(source.file, line_of(source.lines, path))


def _file_line(file: Path | None, line: int | None) -> str:
    return str(file or COMMAND_LINE) if line is None else f"{file}:{line}"


def _with_absolute_paths(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Only strings and paths are touched: what has the wrong type is left for the validation to name."""
    settled = dict(values)
    for key in _PATH_KEYS:
        if isinstance(settled.get(key), str | Path):
            settled[key] = _absolute(base, settled[key])
    if isinstance(settled.get("page"), dict):
        files = {key: settled["page"].get(key) for key in _PATH_KEYS_OF_PAGE}
        found = {key: _absolute(base, file) for key, file in files.items() if isinstance(file, str | Path)}
        settled["page"] = settled["page"] | found
    if isinstance(settled.get("folders"), list | tuple):
        settled["folders"] = [
            _absolute(base, item) if isinstance(item, str | Path) else item for item in settled["folders"]
        ]
    model = settled.get("model")
    # Not asked about on a server: the question alone would log this account on there.
    if isinstance(model, str) and unc_host(model) is None and not is_path_of_windows(model):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            if (base / model).exists():
                settled["model"] = str(_absolute(base, model))
    return settled


def _absolute(base: Path, path: str | Path) -> Path:
    # normpath, not resolve: a link that the user named stays the name under which things are reported.
    if os.name != "nt" and is_path_of_windows(str(path)):  # left as it is for the validation to name
        return Path(path)
    try:
        return Path(os.path.normpath(base / Path(path).expanduser()))
    except RuntimeError:  # the home folder of nobody: left for the validation to name
        return Path(path)
