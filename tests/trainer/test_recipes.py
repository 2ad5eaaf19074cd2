"""Ready recipes: found by name or path, whole, and in the wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainer.fitting.backbones import architectures
from trainer.fitting.run_folder import Recipe, RunError
from trainer.recipes import find_recipe, ready_recipes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "backbone", "window_px"),
    [
        pytest.param("eight-materials", "efficientnet-lite0", 320, id="the eight materials"),
        pytest.param("origin", "inceptionv3-mixed7", 150, id="as near to the origin as this trainer allows"),
    ],
)
def test_a_ready_recipe_is_found_by_name_and_holds_what_train_reads(
    name: str, backbone: str, window_px: int
) -> None:
    assert name in ready_recipes()
    recipe = Recipe.model_validate_json(find_recipe(name).read_bytes())
    assert (recipe.backbone, recipe.augmentation.window_px) == (backbone, window_px)
    assert recipe.backbone in architectures()


def test_a_file_wins_over_a_ready_recipe_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("origin").name == "origin.json"
    (tmp_path / "origin").write_text("{}")
    assert find_recipe("origin").read_text() == "{}"
    assert find_recipe(tmp_path / "origin") == tmp_path / "origin"


@pytest.mark.parametrize("name", ["lost.json", "Origin", "../recipes/origin", ""])
def test_what_is_not_there_names_what_is(name: str) -> None:
    with pytest.raises(RunError, match=r"No such file; give a JSON file, .* \(eight-materials, origin\)"):
        find_recipe(name)
