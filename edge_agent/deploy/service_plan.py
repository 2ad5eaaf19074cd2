"""What a service on this PC consists of, whatever system runs it: the command, the configuration, the account.

Only this module knows the service's name and which paths it needs; how they are granted is the system's matter.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_agent.config import AgentConfig
    from edge_agent.status import AgentStatus

SERVICE_NAME: Final = "scopewatch"
DISPLAY_NAME: Final = "scopewatch edge agent"
DESCRIPTION: Final = "Classifies every new micrograph and keeps a heatmap beside it."


class ServiceRefused(Exception):
    """The service cannot be set up as asked; each line of the text says what is in the way and what to do."""


class ServiceFailed(Exception):
    """The system did not do what it was asked for: the service did not start, stop, or go."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who the service runs as. `name` is None for an account that the system makes up for each run."""

    name: str | None
    why: str
    """Where it comes from, as a reader is told."""
    asked: bool = False
    """Whether somebody named it; then it stays when the service is installed again."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One installation of the service: `own` runs as the person who installs it, without an administrator."""

    config_file: Path
    config: AgentConfig
    account: Account
    own: bool
    python: Path
    package: Path
    """The folder that holds the package `edge_agent`."""

    @property
    def command(self) -> tuple[str, ...]:
        """The command that the service runs; absolute, and independent of the current folder."""
        # -P: the current folder, perhaps one full of acquisitions, is not in front of the import path.
        run = (str(self.python), "-P", "-m", "edge_agent")
        return (*run, "watch", "--config", str(self.config_file))


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """What was asked for on the command line."""

    folders: tuple[Path, ...] = ()
    config_file: Path | None = None
    own: bool = False
    account: str | None = None
    start: bool = True


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """What `service status` tells: the manager's view, and the agent's own numbers where it answers."""

    lines: tuple[str, ...]
    numbers: AgentStatus | None
    active: bool


def plan_service(config_file: Path, config: AgentConfig, account: Account, *, own: bool) -> ServicePlan:
    """Return the plan for the installation that runs this very code. Raises ServiceRefused."""
    if not config.folders:
        raise ServiceRefused(f"{config_file}: no folder to watch; set `folders` there")
    # The link that a virtual environment makes stays a link: behind it is another installation.
    python = Path(os.path.abspath(sys.executable))  # noqa: PTH100 - resolve() would follow that link
    package = Path(__file__).resolve().parents[2]
    return ServicePlan(config_file.absolute(), config, account, own, python, package)


def paths_read(plan: ServicePlan) -> tuple[Path, ...]:
    """Return what the service has to be able to read: code, configuration, model, the page's certificate."""
    model = (Path(plan.config.model),) if plan.config.model and Path(plan.config.model).is_absolute() else ()
    page = tuple(
        file for file in (plan.config.page.certificate, plan.config.page.private_key) if file is not None
    )
    return (plan.python, plan.package / "edge_agent", plan.config_file, *model, *page)


def paths_written(plan: ServicePlan) -> tuple[Path, ...]:
    """Return the folders in which the service creates files, besides its state."""
    return plan.config.folders if plan.config.output is None else (plan.config.output,)


def is_below(path: Path, folders: Iterable[str]) -> bool:
    """Whether a path lies in one of these folders."""
    return any(path.is_relative_to(folder) for folder in folders)
