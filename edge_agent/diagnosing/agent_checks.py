"""What doctor asks about the agent: its configuration, whether one runs, its page's port, model and service.

Most is asked in processes apart, because the packages that answer may be what is broken. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.diagnosing.apart import Ended, run_program, run_python
from edge_agent.diagnosing.diagnosis import Line, fail, from_json, ok, skip, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STATE_VARIABLE: Final = "SCOPEWATCH_STATE"
_CONFIG_VARIABLE: Final = "SCOPEWATCH_CONFIG"
_CONFIG_NAME: Final = "agent.toml"
_CONFIG_SECONDS: Final = 60.0
_MODEL_SECONDS: Final = 180.0
_STATE_SECONDS: Final = 15.0
_SYSTEMCTL_SECONDS: Final = 15.0
SERVICE: Final = "scopewatch"
_ASK_CONFIG: Final = """
import json, sys
from pathlib import Path
from edge_agent import config
asked = json.loads(sys.argv[1])
file = Path(asked["config"]) if asked["config"] else getattr(config, "default_config_file", lambda: None)()
refused = None
try:
    found = config.configure(file, folders=tuple(map(Path, asked["folders"])))
except config.ConfigRefused as error:
    refused, found = str(error), config.AgentConfig()
told = json.loads(found.model_dump_json()) | {"file": file and str(file), "refused": refused}
print(json.dumps(told))
"""
_ASK_STATUS: Final = """
import json, sys
from pathlib import Path
from edge_agent.status import is_running, running_status
state = Path(sys.argv[1])
if not is_running(state):
    print(json.dumps({"running": False}))
else:
    try:
        numbers = running_status(state)
        told = {} if numbers is None else {"pid": numbers.pid, "version": numbers.version, "page": numbers.page}
    except ValueError as error:
        told = {"unreadable": str(error)}
    print(json.dumps({"running": True} | told))
"""
_ASK_PORT: Final = """
import sys, psutil
for item in psutil.net_connections("tcp"):
    if item.status == psutil.CONN_LISTEN and item.laddr.port == int(sys.argv[1]) and item.pid:
        print(f"{psutil.Process(item.pid).name()} (process {item.pid})")
        break
"""
_ASK_STATE: Final = """
import json, sys
from pathlib import Path
from edge_agent.diagnosing.agent_checks import state_line_here
from edge_agent.diagnosing.diagnosis import as_json
print(json.dumps(as_json(state_line_here(Path(sys.argv[1])))))
"""
_CHECK: Final = """
import os, sys
os.environ["SCOPEWATCH_CONFIG"] = ""
sys.argv = ["edge-agent", "check", *sys.argv[1:]]
from edge_agent.cli import main
main()
"""
"""No configuration but the one that is named: another one's faults are not the model's."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What doctor needs of the configuration; defaults where it could not be had. `file` is None without one."""

    file: Path | None = None
    folders: tuple[Path, ...] = ()
    output: Path | None = None
    state: Path = Path()
    model: str | None = None
    include: tuple[str, ...] = ("*.dm3", "*.dm4")
    quiet_seconds: float = 1.0
    share_quiet_seconds: float = 3.0
    memory_limit_mib: int = 4096
    free_space_floor_mib: int = 1024
    page_enabled: bool = True
    page_port: int = 8747


@dataclass(frozen=True, slots=True)
class Running:
    """What the lock and the numbers of a running agent say; None for what is not known."""

    running: bool | None = None
    pid: int | None = None
    version: str | None = None
    unreadable: str | None = None
    why_unknown: str | None = None


def settings_of(
    config: Path | None, folders: Sequence[Path], ask: Callable[[str, Sequence[str]], Ended] | None = None
) -> tuple[Settings, Line]:
    """Return the settings that are in force, and the line about the configuration.

    A configuration that is refused, or cannot be checked at all, is read as far as it can be.
    """
    asked = json.dumps(
        {
            "config": None if config is None else str(config),
            "folders": [str(path.absolute()) for path in folders],
        }
    )
    end = (ask or _ask_config)(_ASK_CONFIG, [asked])
    told = _object_in(end.output)
    if not end.well or told is None:
        settings = _guessed(config or usual_config(), folders)
        line = skip("configuration", f"cannot be checked, because the agent's own code cannot run: {end.why}")
        return settings, line
    settings = _settled(told)
    if told["refused"] is None:
        seen = f"{settings.file}: valid" if settings.file else "no file, so the defaults"
        return settings, ok("configuration", seen)
    seen = "; ".join(str(told["refused"]).splitlines())
    line = fail("configuration", seen, "correct what is named; a running agent keeps the one it has")
    return _patched(settings, config or settings.file, folders), line


def _ask_config(code: str, arguments: Sequence[str]) -> Ended:
    return run_python(code, arguments, seconds=_CONFIG_SECONDS)


def _object_in(output: str) -> dict[str, Any] | None:
    """Return the JSON object on the last line: a library may have said something before it."""
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _settled(told: dict[str, Any]) -> Settings:
    return Settings(
        file=Path(told["file"]) if told["file"] else None,
        folders=tuple(map(Path, told["folders"])),
        output=Path(told["output"]) if told["output"] else None,
        state=Path(told["state"]),
        model=told["model"],
        include=tuple(told["include"]),
        quiet_seconds=told["quiet_seconds"],
        share_quiet_seconds=told["share_quiet_seconds"],
        memory_limit_mib=told["memory_limit_mib"],
        free_space_floor_mib=told["free_space_floor_mib"],
        page_enabled=told["page"]["enabled"],
        page_port=told["page"]["port"],
    )


def _guessed(config: Path | None, folders: Sequence[Path]) -> Settings:
    return _patched(Settings(file=config, state=usual_state()), config, folders)


def _patched(settings: Settings, config: Path | None, folders: Sequence[Path]) -> Settings:
    """Return the settings with those paths of a faulty file that can be made out, and the folders asked for."""
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = tomllib.loads(config.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            values = {}
    base = config.absolute().parent if config is not None else Path.cwd()
    listed = values.get("folders")
    named = tuple(folders) or tuple(
        Path(item) for item in (listed if isinstance(listed, list) else ()) if isinstance(item, str)
    )
    output, state = (
        values.get(key) if isinstance(values.get(key), str) else None for key in ("output", "state")
    )
    return replace(
        settings,
        file=config,
        folders=tuple(base / path.expanduser() for path in named)
        if not folders
        else tuple(map(Path.absolute, named)),
        output=base / output if output else settings.output,
        state=base / state if state else settings.state,
    )


def usual_state(environment: dict[str, str] | None = None, platform_name: str = sys.platform) -> Path:
    """Return where the agent keeps its state when no configuration says so, as platformdirs would."""
    environment = dict(os.environ) if environment is None else environment
    named = environment.get(_STATE_VARIABLE)
    if named:
        return Path(named).absolute()
    if platform_name == "win32":
        return Path(environment.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / SERVICE
    if platform_name == "darwin":
        return Path.home() / "Library" / "Application Support" / SERVICE
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / SERVICE


def usual_config(environment: dict[str, str] | None = None, platform_name: str = sys.platform) -> Path | None:
    """Return the configuration that holds when none is named, as `configuring.places` finds it."""
    environment = dict(os.environ) if environment is None else environment
    named = environment.get(_CONFIG_VARIABLE)
    if named is not None:
        return Path(named).absolute() if named else None
    if platform_name == "win32":
        places = (environment.get("LOCALAPPDATA", ""), environment.get("PROGRAMDATA", ""))
        candidates = [Path(place) / SERVICE / _CONFIG_NAME for place in places if place]
    else:
        home = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        candidates = [home / SERVICE / _CONFIG_NAME, Path("/etc") / SERVICE / _CONFIG_NAME]
    return next((file for file in candidates if os.access(file, os.R_OK)), None)


def running_agent(state: Path, ask: Callable[[str, Sequence[str]], Ended] | None = None) -> Running:
    """Return whether an agent holds the state folder, and what it says of itself."""
    end = (ask or _ask_config)(_ASK_STATUS, [str(state)])
    told = _object_in(end.output)
    if not end.well or told is None:
        return Running(why_unknown=end.why)
    return Running(bool(told["running"]), told.get("pid"), told.get("version"), told.get("unreadable"))


def running_line(running: Running, state: Path, version: str = __version__) -> Line:
    """Say whether an agent runs, and whether it is of this version."""
    check = "running agent"
    if running.running is None:
        return skip(check, f"cannot be asked: {running.why_unknown}")
    if not running.running:
        return ok(check, f"none holds the state folder {state}")
    if running.unreadable is not None:
        return warn(
            check, running.unreadable, "wait a few seconds; if this stays, stop the agent and start it again"
        )
    if running.version != version:
        return warn(
            check,
            f"process {running.pid} runs version {running.version}, installed is {version}",
            "restart the agent: the version it was started with stays until then",
        )
    return ok(check, f"process {running.pid}, version {running.version}, on the state folder {state}")


def state_line(state: Path, *, seconds: float = _STATE_SECONDS) -> Line:
    """Say whether the state folder can be written; asked apart, because it may lie on a dead share."""
    end = run_python(_ASK_STATE, [str(state)], seconds=seconds)
    told = _object_in(end.output)
    if end.well and told is not None:
        return from_json(told)
    return fail("state folder", f"{state}: {end.why}", "give the agent a `state` folder on a disk of this PC")


def state_line_here(state: Path) -> Line:
    """Judge the state folder. Only a file of ours is made in it, and removed."""
    existing = next((place for place in (state, *state.parents) if place.exists()), state)
    probe = existing / f".scopewatch-doctor-{os.getpid()}.tmp"
    try:
        if existing == state:
            probe.write_bytes(b"doctor")
            probe.unlink()
        elif not os.access(existing, os.W_OK):
            raise PermissionError(13, "may not be written")
    except OSError as error:
        return fail(
            "state folder",
            f"{state}: {existing}: {error.strerror or error}",
            "make it writable for the account the agent runs as, or set `state`: journal, log and lock lie there",
        )
    return ok(
        "state folder",
        f"{state} {'can be written' if existing == state else 'is not there yet and can be made'}",
    )


def port_line(
    enabled: bool,
    port: int,
    running: Running,
    free: Callable[[int], bool] | None = None,
    holder: Callable[[int], str] | None = None,
) -> Line:
    """Say whether the page's port can be had, or who holds it."""
    check = "port of the page"
    if not enabled:
        return skip(check, "the page is switched off")
    if port == 0:
        return ok(check, "any free one; `edge-agent status` names it")
    if (free or port_is_free)(port):
        return ok(check, f"{port} on this PC is free")
    if running.running:
        return ok(check, f"{port} is held, as it should be while the agent runs")
    who = (holder or _port_holder)(port) or "another program"
    return warn(
        check, f"{port} is held by {who}", "set page.port to another number; the agent works without a page"
    )


def port_is_free(port: int) -> bool:
    """Whether this PC's port can be listened on; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _port_holder(port: int) -> str:
    end = run_python(_ASK_PORT, [str(port)], seconds=_SYSTEMCTL_SECONDS)
    return end.output.strip() if end.well else ""


def model_line(
    model: str | None,
    check: Callable[[Sequence[str]], Ended] | None = None,
    *,
    config: Path | None = None,
) -> Line:
    """Verify the model's files and replay its golden cases, as `edge-agent check` does.

    `config` is a configuration that can be used: it says where the model store is, and whom to trust.
    """
    options = [] if model is None else ["--model", model]
    options += [] if config is None else ["--config", str(config)]
    end = (check or _check_model)(options)
    lines = [line for line in (end.output + "\n" + end.errors).splitlines() if line.strip()]
    seen = "; ".join(line.removeprefix("edge-agent: ").strip() for line in lines)
    if end.well:
        return ok("model", seen)
    dead = end.code is None or end.code < 0 or not lines or "Traceback" in end.errors
    return fail(
        "model",
        end.why if dead else seen,
        "install the model anew, or choose another (`edge-agent models list`); trust no answer of this PC before",
    )


def _check_model(options: Sequence[str]) -> Ended:
    return run_python(_CHECK, options, seconds=_MODEL_SECONDS)


def service_line(
    platform_name: str = sys.platform, run: Callable[[Sequence[str]], Ended] | None = None
) -> tuple[Line, bool]:
    """Say whether a service is installed, and whether a system service is."""
    run = run or (lambda command: run_program(command, seconds=_SYSTEMCTL_SECONDS))
    if platform_name == "win32":
        return _windows_service(run(("sc.exe", "query", SERVICE)))
    return _systemd_service(run)


def _windows_service(end: Ended) -> tuple[Line, bool]:
    """`sc query` ends with 1060 where there is no such service; states are words in no language. Not verified."""
    if end.well:
        runs = "RUNNING" in end.output
        return ok("service", f"installed as {SERVICE}, {'running' if runs else 'not running'}"), True
    if end.code in (1060, 36):
        return skip("service", "none is installed; `edge-agent service install` does it"), False
    return skip("service", f"the service manager does not answer: {end.why}"), False


def _systemd_service(run: Callable[[Sequence[str]], Ended]) -> tuple[Line, bool]:
    told, is_system = [], False
    for kind, options in (("system", ()), ("user", ("--user",))):
        end = run(("systemctl", *options, "show", f"{SERVICE}.service", "--property=LoadState,ActiveState"))
        values = dict(line.partition("=")[::2] for line in end.output.splitlines())
        if end.well and values.get("LoadState") not in (None, "", "not-found"):
            told.append(f"{kind} service {values['LoadState']}, {values.get('ActiveState', 'unknown')}")
            is_system = is_system or kind == "system"
    if not told:
        return skip("service", "none is installed; `edge-agent service install` does it"), False
    failed = any("failed" in text or "bad-setting" in text for text in told)
    if failed:
        return fail(
            "service", "; ".join(told), f"see `journalctl -u {SERVICE}`, then `edge-agent service start`"
        ), is_system
    return ok("service", "; ".join(told)), is_system
