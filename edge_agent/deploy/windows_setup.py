r"""The service on a Windows PC, step by step: what is checked, created, started and told, in that order.

With an administrator it is a service (LocalService unless an account is named), without one a task at log-on.
Each step yields the line that the person at the terminal reads. Not verified on Windows: `windows_system` is all
that touches Windows, and tests pass their own.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Final

from edge_agent.config import (
    ConfigRefused,
    configure,
    system_config_file,
    system_state_folder,
    user_config_file,
)
from edge_agent.config_file import state_named
from edge_agent.deploy.first_config import first_config
from edge_agent.deploy.leftovers import purge
from edge_agent.deploy.logon_task import task_xml, windowless
from edge_agent.deploy.mapped_drives import is_unc, refuse_mapped
from edge_agent.deploy.service_plan import (
    Account,
    ServiceFailed,
    ServiceRefused,
    ServiceReport,
    paths_written,
    plan_service,
)
from edge_agent.deploy.windows_control import LOCAL_SERVICE, SERVICE_SID, ServiceEntry
from edge_agent.deploy.windows_rights import changeable_by, closing_commands, code_folders, owned_by_others
from edge_agent.deploy.windows_system import RealSystem
from edge_agent.status import running_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.deploy.service_plan import InstallRequest, ServicePlan
    from edge_agent.deploy.windows_system import WindowsSystem

NOT_VERIFIED: Final = "not verified on Windows: please report what happens on this PC"
START_SECONDS: Final = 330.0
STOP_SECONDS: Final = 15.0
_SERVICE_PROGRAM: Final = ("edge_agent", "deploy", "windows_service.py")


def install(request: InstallRequest, system: WindowsSystem | None = None) -> Iterator[str]:
    """Install or upgrade the service or the task, and start it. Raises ServiceRefused, ServiceFailed."""
    system = system or RealSystem()
    yield f"note           {NOT_VERIFIED}"
    if not request.own and not system.is_administrator():
        raise ServiceRefused(
            "a service is installed from a prompt that was started as administrator; without one: "
            "edge-agent service install --user"
        )
    file = request.config_file or (user_config_file() if request.own else system_config_file())
    written = first_config(file.absolute(), request.folders, None if request.own else system_state_folder())
    config = written.config
    plan = plan_service(written.file, config, _account(request, system), own=request.own)
    _refuse_what_cannot_work(plan, system)
    if not written.exists:
        written.write(for_all=False)
    yield f"configuration  {written.file}{'' if written.exists else ' (new)'}"
    yield f"account        {plan.account.name}: {plan.account.why}"
    yield from _put_task(plan, system) if plan.own else _put_service(plan, system)
    for folder in config.folders:
        yield f"watches        {folder}{'' if folder.is_dir() else '  (not there yet)'}"
    yield f"results        {config.output or 'beside the micrographs'}"
    yield f"state and log  {config.state}"
    if request.start:
        yield from start(own=request.own, system=system)
    else:
        yield "not started    `edge-agent service start` starts it"


def preview(request: InstallRequest, system: WindowsSystem | None = None) -> Iterator[str]:
    """Yield the service's command line, or the task as XML. Changes nothing. Raises ServiceRefused."""
    system = system or RealSystem()
    file = request.config_file or (user_config_file() if request.own else system_config_file())
    written = first_config(file.absolute(), request.folders, None if request.own else system_state_folder())
    plan = plan_service(written.file, written.config, _account(request, system), own=request.own)
    yield f"note           {NOT_VERIFIED}"
    if plan.own:
        task = task_xml(str(plan.account.name), (windowless(plan.python), *plan.command[1:]))
        yield from task.decode("utf-16").splitlines()
        return
    yield f"account        {plan.account.name}"
    yield f"command        {service_command(plan, system.base_python())}"


def uninstall(*, own: bool | None, everything: bool, system: WindowsSystem | None = None) -> Iterator[str]:
    """Stop the service or the task and take it away; with `everything`, its state and configuration too."""
    system = system or RealSystem()
    is_own = _is_own(own, system)
    file = user_config_file() if is_own else _config_of(system.manager().command_line())
    yield from stop(own=is_own, system=system)
    if is_own:
        system.task().delete()
    else:
        system.manager().delete()
    yield f"removed        the {'task' if is_own else 'service'}"
    if file is None or not file.exists():
        yield "kept           no configuration was found, so nothing else was looked for"
        return
    state = _state_of(file, own=is_own)
    if not everything:
        yield f"kept           {file}, {state}; `--purge` removes them"
        return
    try:
        config = configure(file)
    except ConfigRefused as error:
        raise ServiceFailed(
            f"{file}: cannot be read any more, so it cannot be told which results to keep ({error}); "
            f"remove {state} and {file} by hand"
        ) from None
    yield from purge(state, file, (*config.folders, *([config.output] if config.output else [])))
    yield "kept           sidecars, heatmaps and labels"


def start(*, own: bool | None, system: WindowsSystem | None = None) -> Iterator[str]:
    """Start the service, or start it anew, and wait until it is ready; a task is only told to."""
    system = system or RealSystem()
    if _is_own(own, system):
        system.task().start()
        yield "started        the model is loaded and checked first; `edge-agent status` tells when it works"
        return
    manager = system.manager()
    manager.stop(STOP_SECONDS)  # Windows refuses to start what runs, with the program and settings of before
    yield "starting       the model is loaded and checked first"
    yield f"running        ready after {manager.start(START_SECONDS):.1f} s"


def stop(*, own: bool | None, system: WindowsSystem | None = None) -> Iterator[str]:
    """Stop the service and wait, or end the task."""
    system = system or RealSystem()
    if _is_own(own, system):
        system.task().stop()
        yield "stopped        files in hand are taken up again at the next start"
        return
    yield f"stopped        in {system.manager().stop(STOP_SECONDS):.1f} s; it starts again at the next boot"


def report(*, own: bool | None, system: WindowsSystem | None = None) -> ServiceReport:
    """Return what Windows and the agent say."""
    system = system or RealSystem()
    is_own = _is_own(own, system)
    if is_own:
        file, words, active = user_config_file(), "a task at log-on", True
    else:
        state = system.manager().state()
        file = _config_of(system.manager().command_line()) or system_config_file()
        active = state is not None and state.word == "running"
        words = "gone" if state is None else f"{state.word}, process {state.pid}, last code {state.exit_code}"
    lines, numbers = [f"service       {words}", f"config        {file}"], None
    try:
        numbers = running_status(_state_of(file, own=is_own))
    except (OSError, ValueError) as error:
        lines.append(f"agent         does not tell: {error}")
    return ServiceReport(tuple(lines), numbers, active and numbers is not None)


def service_command(plan: ServicePlan, python: Path) -> str:
    """Return the command line of the service: every word in quotes, for an unquoted path can be another program."""
    program = PureWindowsPath(plan.package).joinpath(*_SERVICE_PROGRAM)
    words = (str(python), "-I", str(program), str(plan.config_file))
    return " ".join(f'"{word}"' if word != "-I" else word for word in words)


def grant_command(folder: Path) -> str:
    """Return the command that lets the service read and write a folder, and nobody else more than before."""
    return f'icacls "{folder}" /grant "{SERVICE_SID}:(OI)(CI)M"'


def _account(request: InstallRequest, system: WindowsSystem) -> Account:
    if request.own:
        return Account(system.user(), "you, without an administrator")
    if request.account is not None:
        return Account(request.account, "as asked", asked=True)
    # An upgrade asks for nothing, and goes by what was asked before.
    before = system.manager().account()
    if before is not None and before.casefold() != LOCAL_SERVICE.casefold():
        return Account(before, "as before")
    return Account(LOCAL_SERVICE, "an account with hardly any rights; it gets those it needs below")


def _refuse_what_cannot_work(plan: ServicePlan, system: WindowsSystem) -> None:
    config = plan.config
    paths = (*config.folders, *([config.output] if config.output else []), plan.config_file)
    if plan.own:  # the task runs in the log-on that maps the drives
        if not Path(windowless(plan.python)).exists():
            raise ServiceRefused(f"{windowless(plan.python)}: is not there; a task without a window needs it")
        return
    refuse_mapped(paths, system)
    shares = [folder for folder in paths if is_unc(folder)]
    lines = []
    if shares and plan.account.name == LOCAL_SERVICE:
        lines.append(
            f"{shares[0]}: LocalService is nobody on a server; name an account of the domain with --account"
        )
    for code in code_folders(system.base_python(), plan.package):
        lines += [
            f"{found}, and with it what the service does; install below C:\\Program Files"
            for found in changeable_by(code, system.access_lists())
        ]
    if plan.config_file.exists():
        lines += [
            f"{found}, and with it what the service does; look through it, then save it anew as administrator"
            for found in changeable_by(PureWindowsPath(plan.config_file), system.access_lists())
        ]
    state = config.state
    for place in (state.parent, state) if state == system_state_folder() else ():
        if place.exists():
            lines += [
                f"{found}, who may have put a model or a journal there; move it away"
                for found in owned_by_others(PureWindowsPath(place), system.access_lists())
            ]
    if lines:
        raise ServiceRefused("\n".join(lines))


def _put_service(plan: ServicePlan, system: WindowsSystem) -> Iterator[str]:
    account, manager = str(plan.account.name), system.manager()
    command = service_command(plan, system.base_python())
    if account == LOCAL_SERVICE:
        entry = ServiceEntry(command)
    elif plan.account.asked:
        entry = ServiceEntry(command, account, system.ask_password(account))
        manager.allow_log_on(account)
    else:
        entry = ServiceEntry(command, None, None)
    is_new = manager.put(entry)
    yield f"service        {'created' if is_new else 'changed'}: delayed start, restarts after 5, 30 and 60 s"
    folders = list(dict.fromkeys((*paths_written(plan), *plan.config.folders)))
    if plan.config.state == system_state_folder():
        _close_own_folder(plan.config.state, system)
        yield f"rights         only administrators and the service can change {plan.config.state.parent}"
    else:
        folders.append(plan.config.state)
    yield "rights         the service needs to read and write; have an administrator run:"
    for folder in folders:
        yield f"                 {grant_command(folder)}"


def _close_own_folder(state: Path, system: WindowsSystem) -> None:
    state.mkdir(parents=True, exist_ok=True)
    for words in closing_commands(state.parent, state, SERVICE_SID):
        code, said = system.run(words)
        if code:
            raise ServiceFailed(f"{' '.join(words)}: ended with {code}: {said.strip()}; nothing was started")


def _put_task(plan: ServicePlan, system: WindowsSystem) -> Iterator[str]:
    command = (windowless(plan.python), *plan.command[1:])
    system.task().put(task_xml(str(plan.account.name), command), plan.config.state)
    yield "task           at your log-on, without a window, restarted when it fails"


def _is_own(own: bool | None, system: WindowsSystem) -> bool:
    """Return whether the task is meant, not the service: the service where there is one."""
    if own is not True and system.manager().state() is not None:
        return False
    if own is not False and system.task().exists():
        return True
    raise ServiceFailed("no service is installed; `edge-agent service install FOLDER` does it")


def _state_of(file: Path, *, own: bool) -> Path:
    """Where the service keeps its state by that file; also where the file cannot be used otherwise."""
    try:
        return first_config(file, (), None if own else system_state_folder()).config.state
    except ConfigRefused:
        return state_named(file)


def _config_of(command_line: str | None) -> Path | None:
    """The configuration is the last word of the command, in quotes."""
    words = (command_line or "").split('"')
    return Path(words[-2]) if len(words) >= 3 else None
