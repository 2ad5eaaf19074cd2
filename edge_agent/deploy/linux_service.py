"""The service on a Linux PC, step by step: what is checked, written, started and told, in that order.

Each step yields the line that the person at the terminal reads. Only this module knows the order.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent import __version__
from edge_agent.config import configure, system_config_file, user_config_file
from edge_agent.deploy.first_config import first_config
from edge_agent.deploy.leftovers import purge
from edge_agent.deploy.service_account import account_for, objections
from edge_agent.deploy.service_plan import (
    Account,
    ServiceFailed,
    ServiceRefused,
    ServiceReport,
    plan_service,
)
from edge_agent.deploy.systemd_service import SystemdService, lingers
from edge_agent.deploy.systemd_unit import SYSTEM_STATE, quoted, unit_text, writable_roots
from edge_agent.status import is_running, running_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.deploy.first_config import FirstConfig
    from edge_agent.deploy.service_plan import InstallRequest, ServicePlan

_OLDEST_SYSTEMD: Final = 247
"""Of Debian 11; what later ones can do besides is left out of a preview where none runs."""


def install(request: InstallRequest) -> Iterator[str]:
    """Install or upgrade the service, and start it. Raises ServiceRefused, ServiceFailed, ConfigRefused."""
    service = SystemdService(own=request.own)
    version = service.require_manager()
    _require_rights(own=request.own)
    written, plan = _planned(request, service)
    account = plan.account
    in_the_way = list(objections(plan))
    if in_the_way:
        raise ServiceRefused("\n".join(in_the_way))
    unit = unit_text(plan, version)
    if not written.exists:
        written.write(for_all=not request.own)
        yield f"configuration  {written.file} (new)"
    else:
        yield f"configuration  {written.file}"
    yield f"account        {account.name or 'made up by systemd'}: {account.why}"
    before = service.note().get("version")
    service.write_unit(unit)
    upgraded = f", was {before}" if before not in (None, __version__) else ""
    yield f"unit           {service.unit_file} ({__version__}{upgraded})"
    service.enable()
    yield from _places(plan)
    if request.start:
        yield from _started(service)
    else:
        yield "not started    `edge-agent service start` starts it"
    if request.own:
        yield from _lingering(account)


def preview(request: InstallRequest) -> Iterator[str]:
    """Yield the unit file that `install` would write, and before it what would be refused. Changes nothing.

    Raises ServiceRefused, ConfigRefused.
    """
    service = SystemdService(own=request.own)
    try:
        version = service.require_manager()
    except ServiceRefused as error:
        version = _OLDEST_SYSTEMD
        yield f"# {error}"
    plan = _planned(request, service)[1]
    yield from (f"# would be refused: {line}" for line in objections(plan))
    yield from unit_text(plan, version).splitlines()


def _planned(request: InstallRequest, service: SystemdService) -> tuple[FirstConfig, ServicePlan]:
    file = request.config_file or (user_config_file() if request.own else system_config_file())
    written = first_config(file.absolute(), request.folders, None if request.own else SYSTEM_STATE)
    # An upgrade asks for nothing, and goes by what was asked before.
    asked = request.account or service.note().get("asked_account")
    account = _person() if request.own else account_for(written.config, asked)
    return written, plan_service(written.file, written.config, account, own=request.own)


def uninstall(*, own: bool | None, everything: bool) -> Iterator[str]:
    """Stop the service and take it away; with `everything`, its state and configuration too."""
    service = _installed(own)
    note = service.note()
    service.remove()
    yield f"removed        {service.unit_file}"
    if not (note.get("config") and note.get("state")):
        yield "kept           configuration and state: the unit did not say where they are"
        return
    config_file, state = Path(str(note["config"])), Path(str(note["state"]))
    if not everything:
        yield f"kept           {config_file}, {state}; `--purge` removes them"
        return
    try:
        config = configure(config_file)
        kept = (*config.folders, *([config.output] if config.output else []))
    except Exception as error:  # whatever is wrong with the file: it is to go
        raise ServiceFailed(
            f"{config_file}: cannot be read any more, so it cannot be told which results to keep ({error}); "
            f"remove {state} and {config_file} by hand"
        ) from None
    yield from purge(state, config_file, kept)
    if not service.own and state != SYSTEM_STATE:  # systemd makes it, whether it is used or not
        yield from purge(SYSTEM_STATE, config_file, kept)
    yield "kept           sidecars, heatmaps and labels"


def start(*, own: bool | None) -> Iterator[str]:
    """Start the service and wait until it is ready."""
    yield from _started(_installed(own))


def stop(*, own: bool | None) -> Iterator[str]:
    """Stop the service and wait."""
    seconds = _installed(own).stop()
    yield f"stopped        in {seconds:.1f} s; it starts again at the next boot unless uninstalled"


def report(*, own: bool | None) -> ServiceReport:
    """Return what the manager and the agent say."""
    service = _installed(own)
    state, note = service.state(), service.note()
    lines = [f"service       {state.words}", f"unit          {service.unit_file}"]
    lines += [f"log           {service.log_command()}"]
    if note.get("config"):
        lines += [f"config        {note['config']}", *_outgrown(service, Path(str(note["config"])))]
    numbers = None
    if note.get("state"):
        try:
            numbers = running_status(Path(str(note["state"])))
        except (OSError, ValueError) as error:
            lines.append(f"agent         does not tell: {error}")
    return ServiceReport(tuple(lines), numbers, state.active)


def _started(service: SystemdService) -> Iterator[str]:
    yield "starting       the model is loaded and checked first"
    note = service.note()
    state = note.get("state")
    if state and not service.state().has_process and is_running(Path(state)):
        raise ServiceFailed(
            f"another agent holds the state folder {state}; stop it first (Ctrl-C where it runs)"
        )
    seconds = service.start()
    yield f"running        ready after {seconds:.1f} s; `edge-agent service status` tells more"


def _installed(own: bool | None) -> SystemdService:
    """Return the service that is meant: the system's where there is one, else one's own."""
    for choice in (False, True) if own is None else (own,):
        service = SystemdService(own=choice)
        if service.installed:
            return service
    raise ServiceFailed("no service is installed; `edge-agent service install FOLDER` does it")


def _require_rights(*, own: bool) -> None:
    if not own and os.geteuid() != 0:
        raise ServiceRefused(
            "a service of the system is installed by root (sudo); without an administrator: "
            "edge-agent service install --user"
        )


def _person() -> Account:
    return Account(pwd.getpwuid(os.getuid()).pw_name, "you, without an administrator")


def _places(plan: ServicePlan) -> Iterator[str]:
    for folder in plan.config.folders:
        yield f"watches        {folder}{'' if folder.is_dir() else '  (not there yet)'}"
    for_root = "  (only root may enter that folder)" if plan.account.name is None else ""
    yield f"results        {plan.config.output or 'beside the micrographs'}{for_root}"
    yield f"state and log  {plan.config.state}"


def _lingering(account: Account) -> Iterator[str]:
    if account.name is not None and lingers(account.name) is not True:
        yield (
            f"note           it runs while {account.name} is logged in; to have it run always, an administrator "
            f"says once: loginctl enable-linger {account.name}"
        )


def _outgrown(service: SystemdService, config_file: Path) -> list[str]:
    """Folders that the configuration got since: the unit does not let the agent write there."""
    try:
        config = configure(config_file)
        text = service.unit_file.read_text("utf-8")
    except Exception:  # the agent itself says what is wrong with its configuration
        return []
    return [
        f"NOT ALLOWED   {root}: the unit does not let the agent write there; `edge-agent service install` again"
        for root in writable_roots(config.folders if config.output is None else (config.output,))
        if "ReadWritePaths=" in text and quoted(f"-{root}") not in text
    ]
