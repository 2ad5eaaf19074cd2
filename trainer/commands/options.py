"""Options that several commands have in common, and what they are turned into.

Only this module knows how TensorFlow is kept quiet.
"""

from __future__ import annotations

import enum
import importlib
import os
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
