"""The unit file: what systemd is told about the agent, and nothing that would keep it from working.

Hardening is scored by `systemd-analyze security --offline=true`. Where a directive is weaker than it could be,
a comment in the file says why. Only this module knows the syntax of unit files; see systemd.exec(5),
systemd.service(5) and systemd.syntax(7).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.deploy.service_plan import (
    DESCRIPTION,
    SERVICE_NAME,
    ServiceRefused,
    is_below,
    paths_read,
    paths_written,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edge_agent.deploy.service_plan import ServicePlan

UNIT_NAME: Final = f"{SERVICE_NAME}.service"
SYSTEM_STATE: Final = Path("/var/lib") / SERVICE_NAME
"""What `StateDirectory=scopewatch` makes; see systemd.exec(5)."""
WATCHDOG_SECONDS: Final = 60
START_SECONDS: Final = 300
"""A slow PC verifies the model and replays its golden cases before it says that it is ready."""
STOP_SECONDS: Final = 15
"""The agent ends within 3 s; the rest is for a disk that does not answer."""
_AGENT_MIB: Final = 1024
"""What the agent may use besides its worker."""
_STEPS_SINCE: Final = 254
"""The version of systemd that knows RestartSteps."""
_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - names of the places that PrivateTmp replaces
_SYSTEM_TOPS: Final = (
    "/",
    "/boot",
    "/dev",
    "/efi",
    "/etc",
    "/opt",
    "/proc",
    "/run",
    "/sys",
    "/usr",
    "/var",
    *_HOMES,
)
_NOTE: Final = "[X-Scopewatch]"
_NOTE_KEY: Final = "Installed="

# What the agent never does, in any of the two units. None of it needs rights to be given up.
_ALWAYS: Final = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
    "KeyringMode=private",
)
# What only the system's manager can give up for the agent.
_SYSTEM_ONLY: Final = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "PrivateDevices=yes",
    "PrivateMounts=yes",
    "PrivateUsers=yes",
    "DevicePolicy=closed",
    "RemoveIPC=yes",
)


def unit_text(plan: ServicePlan, systemd_version: int) -> str:
    """Return the unit file. Raises ServiceRefused when a path cannot stand in one."""
    sections = {
        "[Unit]": _unit_section(plan),
        "[Service]": _service_section(plan, systemd_version),
        "[Install]": [f"WantedBy={'default' if plan.own else 'multi-user'}.target"],
        _NOTE: [_NOTE_KEY + json.dumps(_note(plan))],
    }
    head = f"# Written by `edge-agent service install` ({__version__}), which writes it again.\n"
    return head + "\n\n".join("\n".join((title, *lines)) for title, lines in sections.items()) + "\n"


def installed_note(text: str) -> dict[str, Any]:
    """Return what `service install` noted in a unit file: configuration, state, account, version."""
    for line in text.splitlines():
        if line.startswith(_NOTE_KEY):
            note = json.loads(line.removeprefix(_NOTE_KEY))
            return dict(note) if isinstance(note, dict) else {}
    return {}


def writable_roots(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return the folders that are opened for writing so that `folders` stay writable when they are made anew.

    A folder that is opened itself is pinned: removed and made again by the acquisition software, the new one
    would be read-only until the service restarts. So its parent is opened, unless that belongs to the system.
    """
    roots: dict[Path, None] = {}
    for folder in folders:
        parent = folder.parent
        while not parent.exists() and str(parent) not in _SYSTEM_TOPS:
            parent = parent.parent
        # A whole home is not opened either: it holds more than micrographs.
        is_system = str(parent) in _SYSTEM_TOPS or str(parent.parent) in _HOMES
        roots[folder if is_system else parent] = None
    return tuple(roots)


def quoted(text: str) -> str:
    r"""Return a word as it stands in a unit file: in quotes, with \ " and % doubled or escaped.

    Raises ServiceRefused for what no unit file can hold.
    """
    if not text.isprintable():
        raise ServiceRefused(
            f"{text!r} holds a character that no unit file can (a line break, a control character, a name that "
            "is not UTF-8); rename the folder"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _unit_section(plan: ServicePlan) -> list[str]:
    lines = [f"Description={DESCRIPTION}", "Documentation=man:systemd.exec(5)"]
    # Never gives up: a folder, a share or a good configuration may come back after days.
    lines.append("StartLimitIntervalSec=0")
    if not plan.own:
        lines.append("After=local-fs.target remote-fs.target")
    return lines


def _service_section(plan: ServicePlan, systemd_version: int) -> list[str]:
    config = plan.config
    return [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_command_line(plan.command)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        'Environment="OPENBLAS_NUM_THREADS=1" "PYTHONDONTWRITEBYTECODE=1" "PYTHONUNBUFFERED=1"',
        *_account_lines(plan),
        "",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        f"TimeoutStartSec={START_SECONDS}",
        f"TimeoutStopSec={STOP_SECONDS}",
        "KillMode=mixed",
        *_restart_lines(systemd_version),
        "# A worker that outgrows its memory is replaced by the agent; that is no reason to end both.",
        "OOMPolicy=continue",
        "",
        "# The PC belongs to the instrument.",
        f"MemoryMax={config.memory_limit_mib + _AGENT_MIB}M",
        "TasksMax=128",
        "LimitNOFILE=8192",
        "LimitCORE=0",
        *(["Nice=10", "IOSchedulingClass=idle", "CPUWeight=20"] if config.low_priority else []),
        "OOMScoreAdjust=500",
        "",
        *_ALWAYS,
        *([] if plan.own else [*_SYSTEM_ONLY, *_network_lines(plan), *_place_lines(plan)]),
    ]


def _restart_lines(systemd_version: int) -> list[str]:
    if systemd_version < _STEPS_SINCE:
        return ["Restart=on-failure", "RestartSec=15"]
    return ["Restart=on-failure", "RestartSec=5", "RestartSteps=6", "RestartMaxDelaySec=300"]


def _account_lines(plan: ServicePlan) -> list[str]:
    if plan.own:
        return []
    who = "DynamicUser=yes" if plan.account.name is None else f"User={plan.account.name.replace('%', '%%')}"
    state = plan.config.state
    return [
        who,
        f"StateDirectory={SERVICE_NAME}",
        "StateDirectoryMode=0755",
        f"ConfigurationDirectory={SERVICE_NAME}",
        f"Environment={quoted(f'SCOPEWATCH_STATE={state}')}",
        f"WorkingDirectory={SYSTEM_STATE}",
        "# Sidecars are for everybody who may read the micrographs.",
        "UMask=0022",
    ]


def _network_lines(plan: ServicePlan) -> list[str]:
    events = plan.config.events
    if events.webhook_url or events.mqtt_url:
        return ["# No IPAddressDeny: [events] sends findings to another machine."]
    if plan.config.page.listen is not None:
        return ["# No IPAddressDeny: [page] is reached from other machines."]
    return ["IPAddressDeny=any", "IPAddressAllow=localhost"]


def _place_lines(plan: ServicePlan) -> list[str]:
    lines = []
    written = writable_roots(paths_written(plan))
    if not plan.config.state.is_relative_to(SYSTEM_STATE):
        written = (*written, plan.config.state)
    needed = (*paths_read(plan), *plan.config.folders, *written)
    homes = [path for path in needed if is_below(path, _HOMES)]
    temporary = [path for path in needed if is_below(path, _TEMPORARY)]
    if homes:
        lines += [f"# Not hidden: {_shown(homes[0])} is needed.", "ProtectHome=read-only"]
    else:
        lines.append("ProtectHome=yes")
    if temporary:
        lines += [f"# Not private: {_shown(temporary[0])} is needed.", "PrivateTmp=no"]
    else:
        lines.append("PrivateTmp=yes")
    # "-": a folder that is not there yet is no reason not to start.
    lines += [f"ReadWritePaths={quoted(f'-{root}')}" for root in written]
    return lines


def _command_line(words: Sequence[str]) -> str:
    """Variables are looked for in arguments, where `$$` is a `$`, and not in the program's name."""
    program, *arguments = map(quoted, words)
    return " ".join((program, *(word.replace("$", "$$") for word in arguments)))


def _shown(path: Path) -> str:
    return quoted(str(path))[1:-1]


def _note(plan: ServicePlan) -> dict[str, str | None]:
    return {
        "version": __version__,
        "config": str(plan.config_file),
        "state": str(plan.config.state),
        "account": plan.account.name,
        "asked_account": plan.account.name if plan.account.asked else None,
    }
