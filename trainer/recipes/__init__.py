"""Ready recipes, found by name: `edge-trainer train --recipe eight-materials`.

Each is a JSON file beside this module with fields of `fitting.run_folder.Recipe`; the rest keeps its default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trainer.fitting.run_folder import RunError

_FOLDER: Final = Path(__file__).parent


def ready_recipes() -> tuple[str, ...]:
    """Return the names of the ready recipes, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def find_recipe(name_or_path: str | Path) -> Path:
    """Return the file of a recipe: an existing file of that path, or else the ready one of that name.

    Raises:
        RunError: neither is there.

    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if str(name_or_path) in ready_recipes():
        return _FOLDER / f"{name_or_path}.json"
    known = ", ".join(ready_recipes())
    raise RunError(f"{name_or_path}: No such file; give a JSON file, or the name of a ready recipe ({known})")
