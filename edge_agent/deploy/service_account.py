"""Who the service runs as on Linux, and what would keep that account from working.

Sidecars lie beside the micrographs, so whoever saves the micrographs is the first choice. Only this module asks
the system what an account may do: as that account, not by reading modes.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from edge_agent.deploy.service_plan import Account, ServiceRefused, paths_read, paths_written
from edge_agent.deploy.systemd_unit import SYSTEM_STATE, writable_roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from edge_agent.deploy.service_plan import ServicePlan

if sys.platform != "win32":
    import pwd

_TEST: Final = "/usr/bin/test"
_ANSWER_SECONDS: Final = 20
"""A share that does not answer so long is not asked for longer."""


def account_for(config: AgentConfig, asked: str | None) -> Account:
    """Return who the service runs as: who was asked for, else the owner of the first watched folder.

    Raises ServiceRefused.
    """
    if asked is not None:
        return Account(_known(asked), "as asked", asked=True)
    if config.output is not None and config.output.is_relative_to(SYSTEM_STATE):
        return Account(None, f"an account of its own: all outputs go to {config.output}")
    first = config.folders[0]
    try:
        owner = first.stat().st_uid
    except OSError as error:
        raise ServiceRefused(
            f"{first}: {error.strerror}, so its owner cannot be told; make it, or name the account that saves "
            "micrographs with --account NAME"
        ) from None
    if owner == 0:
        raise ServiceRefused(
            f"{first} belongs to root, and the service does not run as root; name the account that saves "
            "micrographs with --account NAME"
        )
    try:
        return Account(pwd.getpwuid(owner).pw_name, f"it owns {first}")
    except KeyError:
        raise ServiceRefused(
            f"{first} belongs to user number {owner}, whom this PC does not know; name an account with --account"
        ) from None


def objections(plan: ServicePlan, may: Callable[[str, Path], bool] | None = None) -> Iterator[str]:
    """Yield, in a line each, what cannot work; `may(flag, path)` is `test -r`, `-w` or `-x` as the account."""
    may = may or _asked_as(plan.account.name, own=plan.own)
    yield from _code_objections(plan, may)
    for folder in plan.config.folders:
        if folder.is_dir() and not (may("-r", folder) and may("-x", folder)):
            yield f"{folder}: {_who(plan)} may not read it; grant that, or name another account with --account"
    for folder in paths_written(plan):
        yield from _writing_objections(plan, folder, may)
    yield from _state_objections(plan, may)


def _code_objections(plan: ServicePlan, may: Callable[[str, Path], bool]) -> Iterator[str]:
    for path in paths_read(plan):
        if path.exists() and not may("-x" if path == plan.python else "-r", path):
            cure = (
                f"chmod a+r {path}"
                if path == plan.config_file
                else "install where everybody may, for example in /opt/scopewatch"
            )
            yield f"{path}: {_who(plan)} may not read it; {cure}"
    if not plan.own:
        trusted = {0} if plan.account.name is None else {0, pwd.getpwnam(plan.account.name).pw_uid}
        for path in (plan.python, plan.package / "edge_agent"):
            yield from _changeable(path, trusted, "runs; install it as root, for example in /opt")
        cure = f"goes by; look through {plan.config_file}, then keep it as root, as in /etc/scopewatch"
        yield from _changeable(plan.config_file, trusted, cure)


def _changeable(path: Path, trusted: set[int], what: str) -> Iterator[str]:
    """Who can change the code that a service runs, or what it goes by, can do all that its account can."""
    for step in dict.fromkeys((path, *path.parents, *path.resolve().parents)):
        try:
            found = step.stat()
        except OSError:
            continue
        is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if is_open or found.st_uid not in trusted:
            who = "everybody" if is_open else f"user {_name_of(found.st_uid)}"
            yield f"{step}: {who} can change what the service {what}"
            return


def _writing_objections(plan: ServicePlan, folder: Path, may: Callable[[str, Path], bool]) -> Iterator[str]:
    if folder.is_dir():
        if not may("-w", folder):
            yield (
                f"{folder}: {_who(plan)} may not write there, and results lie beside the micrographs; name the "
                "account that saves them with --account, or set `output` in the configuration"
            )
    elif not plan.own and folder in writable_roots([folder]) and not _is_in_state(plan, folder):
        yield f"{folder}: is not there; make it first: the service may write only to what is there when it starts"


def _state_objections(plan: ServicePlan, may: Callable[[str, Path], bool]) -> Iterator[str]:
    """The usual folder is made by systemd and given to the account; another one has to be there."""
    state = plan.config.state
    if not plan.own and not state.is_relative_to(SYSTEM_STATE) and not (state.is_dir() and may("-w", state)):
        yield (
            f"{state}: {_who(plan)} cannot keep the agent's state there; make that folder and give it to the "
            f"account, or leave `state` out of the configuration: it is {SYSTEM_STATE} then"
        )


def _is_in_state(plan: ServicePlan, folder: Path) -> bool:
    return folder.is_relative_to(SYSTEM_STATE) or folder.is_relative_to(plan.config.state)


def _who(plan: ServicePlan) -> str:
    return plan.account.name or "an account of its own"


def _known(name: str) -> str:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ServiceRefused(f"--account {name}: this PC knows no such account") from None
    if found.pw_uid == 0:
        raise ServiceRefused(f"--account {name}: that is root; name an account without its rights")
    return found.pw_name


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _asked_as(account: str | None, *, own: bool) -> Callable[[str, Path], bool]:
    """Return a function that asks the system as the account; nobody stands for the one that systemd makes up."""
    who: dict[str, Any] = {}
    if not own and os.getuid() == 0:
        person = pwd.getpwnam(account or "nobody")
        groups = os.getgrouplist(person.pw_name, person.pw_gid)
        who = {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": groups}

    def may(flag: str, path: Path) -> bool:
        try:
            done = subprocess.run(
                [_TEST, flag, str(path)], cwd="/", timeout=_ANSWER_SECONDS, check=False, **who
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0

    return may
