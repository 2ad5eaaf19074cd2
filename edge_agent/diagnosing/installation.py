"""Which versions this installation consists of, from folders' names and package records. Standard library only."""

from __future__ import annotations

import platform
import re
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Final

from edge_agent import __version__
from edge_agent.model_names import shipped_models

DEPENDENCIES: Final[dict[str, str]] = {
    "cryptography": "cryptography.hazmat.primitives.asymmetric.ed25519",
    "filelock": "filelock",
    "ncempy": "edge_agent.dm_tags",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "pillow": "PIL.Image",
    "platformdirs": "platformdirs",
    "prometheus-client": "prometheus_client",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "rich": "rich",
    "starlette": "starlette.applications",
    "typer": "typer",
    "uvicorn": "uvicorn",
    "watchdog": "watchdog.observers",
}
"""Distributions the agent needs, and what of each is imported (of ncempy one module, and never the package)."""
WINDOWS_DEPENDENCIES: Final = {"pywin32": "win32service"}
PACKAGE: Final = Path(__file__).resolve().parents[1]


def version_of(distribution: str) -> str | None:
    """Return the installed version of a package without importing it, None when it is not installed."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return None


def all_packages() -> list[tuple[str, str]]:
    """Return name and version of every installed package, by name."""
    found = {}
    for item in metadata.distributions():
        name = item.metadata["Name"]
        if name:
            found[str(name)] = item.version or "unknown"
    return sorted(found.items(), key=lambda pair: pair[0].casefold())


def needed_glibc(distributions: tuple[str, ...] = tuple(DEPENDENCIES)) -> tuple[int, int] | None:
    """Return the glibc that the installed wheels were built for (the lowest each claims), None when none says."""
    needs = []
    for name in distributions:
        try:
            wheel = metadata.distribution(name).read_text("WHEEL") or ""
        except (metadata.PackageNotFoundError, OSError, ValueError):
            continue
        found = [(int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", wheel)]
        needs += [min(found)] if found else []
    return max(needs, default=None)


def broken_text(error: BaseException) -> str:
    """Return the one line about a module that cannot be imported on this PC."""
    module = getattr(error, "name", None) or _importing(error)
    return (
        f"this installation is broken: {module}: {str(error) or type(error).__name__}; "
        "`edge-agent doctor` says what is wrong and what to do"
    )


def _importing(error: BaseException) -> str:
    """Return the name of the innermost module that was being imported."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in reversed(names) if not name.startswith("importlib")), "unknown")


def version_lines() -> list[str]:
    """Return what `edge-agent --version` prints."""
    shipped = shipped_models()
    bits = 64 if sys.maxsize > 2**32 else 32
    return [
        f"scopewatch    {__version__}",
        f"Python        {platform.python_version()}, {bits} bit, {platform.machine() or 'unknown processor'}",
        f"onnxruntime   {version_of('onnxruntime') or 'NOT INSTALLED'}",
        f"default model {shipped[-1].name if shipped else 'NONE SHIPPED'}",
    ]
