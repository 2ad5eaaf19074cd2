"""The parts of the installation that is running: packages that the locks name, models, Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edge_agent.deploy.licences import installed_parts, part_of_model, this_python
from edge_agent.deploy.lock_file import agent_lock
from edge_agent.deploy.target import PYTHONS, Target

if TYPE_CHECKING:
    from edge_agent.deploy.licences import Part


def parts_here() -> tuple[Part, ...]:
    """Every part that scopewatch is or needs, scopewatch first; whatever else lies in this Python is left out.

    Raises PackageFailed, BundleRefused.
    """
    from edge_agent.model_bundle import open_bundle, shipped_models

    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    target = Target(
        "win_amd64" if sys.platform == "win32" else "linux_x86_64",
        python if python in PYTHONS else PYTHONS[0],
    )
    packages = installed_parts(file.name for file in agent_lock(target))
    models = tuple(part_of_model(open_bundle(folder), str(folder)) for folder in shipped_models())
    return (*packages, *models, this_python())
