"""The picture of augmentation: the very windows of training, and each setting shown alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from trainer.fitting.augmentation import Augmentation, Augmenter
from trainer.fitting.features import shown
from trainer.preparing.split import PrepareError
from trainer.showing import preview as module
from trainer.showing.micrograph_panels import legible
from trainer.showing.preview import preview, settings_text

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet

RULE = Augmentation(window_px=40)
OFF = Augmentation(
    window_px=40, rotation_degrees=0, flips=False, zoom=(1, 1), shift=0, brightness=0, contrast=0, gamma=0,
    noise=0, polarity=0,
)  # fmt: skip


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray | None]:
    """What the picture was drawn of: panels by the words above them (of the crop drawn last)."""
    found: dict[str, np.ndarray | None] = {}
    draw = module._draw_window

    def noted(page: Any, at_mm: Any, name: str, window: np.ndarray | None) -> Any:
        found[name] = window
        return draw(page, at_mm, name, window)

    monkeypatch.setattr(module, "_draw_window", noted)
    return found


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All words on the picture."""
    words: list[str] = []
    write = module.write

    def noted(page: Any, at_mm: Any, text: str, **style: Any) -> None:
        words.append(text)
        write(page, at_mm, text, **style)

    monkeypatch.setattr(module, "write", noted)
    monkeypatch.setattr("trainer.showing.micrograph_panels.write", noted)
    return words


def test_the_windows_are_those_of_training(
    dataset: DataSet, tmp_path: Path, panels: dict[str, np.ndarray | None]
) -> None:
    crop = dataset.train[0]
    path = preview(dataset, RULE, tmp_path / "p.png", crops=[crop.crop_id], views=3, seed=5)

    training = Augmenter(RULE, seed=module.crop_seed(5, crop))
    grey = shown(dataset, crop)
    for number in (1, 2, 3):
        seen = panels[f"drawn {number}"]
        assert seen is not None
        assert np.array_equal(seen, training.window(grey))
        assert 0 <= seen.min() <= seen.max() <= 1
    with Image.open(path) as picture:
        assert picture.width > 1500
        assert picture.info["Title"] == f"Augmentation of {dataset.root.name}"


def test_one_crop_of_each_class_by_default(dataset: DataSet, tmp_path: Path, written: list[str]) -> None:
    calls: list[tuple[str, int, int]] = []
    preview(dataset, OFF, tmp_path / "deep" / "p.png", views=1, progress=lambda *call: calls.append(call))
    assert [label for label in written if label in dataset.labels] == list(dataset.labels)
    assert calls == [("crops drawn", 1, 2), ("crops drawn", 2, 2)]
    assert settings_text(OFF).splitlines()[0] in written


@pytest.mark.parametrize(
    ("setting", "panel"),
    [
        pytest.param({"rotation_degrees": 90.0}, "rotation up to 90°", id="rotation"),
        pytest.param({"flips": True}, "mirrored", id="flips"),
        pytest.param({"shift": 1.0}, "shift 100%", id="shift"),
        pytest.param({"zoom": (0.8, 1.0)}, "zoom 0.8", id="zoom out"),
        pytest.param({"zoom": (1.0, 1.5)}, "zoom 1.5", id="zoom in"),
        pytest.param({"gamma": 0.5}, "gamma 0.61 to 1.65", id="gamma"),
        pytest.param({"contrast": 0.5}, "contrast ±50%", id="contrast"),
        pytest.param({"brightness": 0.2}, "brightness ±20%", id="brightness"),
        pytest.param({"noise": 0.1}, "noise up to 10%", id="noise"),
        pytest.param({"polarity": 0.01}, "inverted", id="polarity, though seldom"),
    ],
)
def test_a_setting_alone_changes_its_own_panel(setting: dict[str, Any], panel: str, dataset: DataSet) -> None:
    grey = shown(dataset, dataset.train[0])
    effects = dict(module._effects(grey, OFF.model_copy(update=setting), seed=0))
    assert [name for name, window in effects.items() if window is not None] == [panel]


def test_halves_show_both_ends(dataset: DataSet) -> None:
    grey = shown(dataset, dataset.train[0])
    plain = module._plain(OFF, grey)
    effects = dict(module._effects(grey, OFF.model_copy(update={"brightness": 0.2}), seed=0))
    change = effects["brightness ±20%"] - plain
    assert change[:, :19].mean() < -0.05 < 0.05 < change[:, 21:].mean()


def test_polarity_alone_is_the_negative(dataset: DataSet) -> None:
    grey = shown(dataset, dataset.train[0])
    effects = dict(module._effects(grey, OFF.model_copy(update={"polarity": 0.5}), seed=0))
    assert np.allclose(effects["inverted"], 1 - module._plain(OFF, grey), atol=1e-6)


@pytest.mark.parametrize(
    ("pixel_size_nm", "bar"),
    [
        pytest.param(None, [], id="not calibrated"),
        pytest.param((0.5, 0.5), ["10 nm"], id="calibrated"),
        pytest.param((100.0, 100.0), ["2 µm"], id="in micrometres"),
    ],
)
def test_a_scale_bar_where_the_pixel_size_is_known(
    pixel_size_nm: tuple[float, float] | None,
    bar: list[str],
    dataset: DataSet,
    tmp_path: Path,
    written: list[str],
) -> None:
    crop = replace(dataset.train[0], pixel_size_nm=pixel_size_nm)
    preview(replace(dataset, crops=(crop,)), OFF, tmp_path / "p.png", crops=[crop.source], views=1)
    assert [words for words in written if words.endswith((" nm", " µm"))] == bar


def test_any_name_can_be_written(dataset: DataSet, tmp_path: Path) -> None:
    """Every warning is an error here: neither a formula nor a missing letter may raise one."""
    crop = replace(dataset.train[0], source="$\\frac{1$/微粒\n\x00 ü.dm3", label="$\\alpha_$")
    preview(replace(dataset, crops=(crop,)), OFF, tmp_path / "p.png", crops=[crop.crop_id], views=1)
    assert legible(crop.source) == "$\\frac{1$/?? ? ü.dm3"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        pytest.param({"crops": ["a/gone.tif"]}, "has no kept crop a/gone.tif; name files as", id="unknown"),
        pytest.param({"views": 0}, "0 views were asked for", id="no view"),
        pytest.param({"views": 41}, "41 views were asked for", id="too many"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    asked: dict[str, Any], told: str, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(PrepareError, match=told):
        preview(dataset, RULE, tmp_path / "p.png", **asked)
    assert not (tmp_path / "p.png").exists()
