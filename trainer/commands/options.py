"""Options that several commands have in common, and what they are turned into.

Only this module knows how TensorFlow is kept quiet.
"""

from __future__ import annotations

import enum
import importlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trainer.fitting.run_folder import Recipe

DataSetFolder = Annotated[Path, typer.Argument(help="Folder made by edge-trainer prepare.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn by chance.")]
RecipeName = Annotated[
    str | None,
    typer.Option(help="JSON file with fields of the recipe, or a ready one: eight-materials, origin."),
]


class PartName(enum.StrEnum):
    """Parts of a data set, as an option's choices."""

    test = "test"
    validation = "validation"
    train = "train"


class MapMethod(enum.StrEnum):
    """How a map of where the network looked is computed, as an option's choices."""

    auto = "auto"
    cam = "cam"
    gradcam = "gradcam"
    hirescam = "hirescam"
    occlusion = "occlusion"


def range_option(text: str) -> tuple[float, float]:
    """Take `LO..HI` apart."""
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        raise typer.BadParameter(f"--value-range {text}: LO..HI is wanted, such as 0..1") from None
    if not low < high:
        raise typer.BadParameter(f"--value-range {text}: black must be below white")
    return low, high


def numbers_option(name: str, text: str | None) -> tuple[float, ...]:
    """Take comma-separated numbers apart; none where the option was not given."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(f"{name} {text}: numbers with commas between them are wanted") from None


def bundle_name(folder: Path, version: str) -> str:
    """A model's name from the folder that its bundle goes to: lower case, without the version at its end."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")
    return plain.removesuffix(f"-{version}") or "model"


def listed_option(text: str | None) -> tuple[str, ...] | None:
    """Take a comma-separated option apart; None where it was not given."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def chosen_recipe(name: str | None, changes: dict[str, Any]) -> Recipe:
    """The recipe of a file or a ready one, or the default, with what the options change."""
    from trainer.fitting.run_folder import Recipe
    from trainer.recipes import find_recipe

    base = Recipe.model_validate_json(find_recipe(name).read_bytes()) if name else Recipe()
    given = {name: value for name, value in changes.items() if value is not None}
    return Recipe.model_validate({**base.model_dump(), **given})


def import_tensorflow() -> None:
    """Import TensorFlow with its start-up chatter kept off the terminal; no setting of its own does that."""
    with tempfile.TemporaryFile() as chatter:
        terminal = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module("tensorflow").config.list_logical_devices()
        except BaseException:
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
