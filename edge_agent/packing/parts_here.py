"""The parts of the installation that is running: packages that the locks name, models, Python."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import edge_agent
from edge_agent.packing.licences import (
    OWN,
    VENDORED,
    LicenceText,
    installed_parts,
    part_of_model,
    part_of_page,
    this_python,
)
from edge_agent.packing.lock_file import agent_lock
from edge_agent.packing.own_wheel import source_tree
from edge_agent.packing.target import PYTHONS, Target

if TYPE_CHECKING:
    from edge_agent.packing.licences import Part


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
    packages = [_as_it_runs(part) for part in installed_parts(file.name for file in agent_lock(target))]
    models = tuple(part_of_model(open_bundle(folder), str(folder)) for folder in shipped_models())
    return (*packages, part_of_page(str(VENDORED)), *models, this_python())


def _as_it_runs(part: Part) -> Part:
    """What pip noted of a clone is of the day when it was installed."""
    clone = source_tree()
    if part.name != OWN or clone is None:
        return part
    return replace(part, version=edge_agent.__version__, texts=(LicenceText(str(clone / "LICENSE"), b""),))
