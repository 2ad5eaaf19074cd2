"""The simulated laboratory: readable by the agent, the same for the same seed, with bad pictures that are known."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edge_agent.micrograph import NotAnImage, read_micrograph
from trainer.materials import simulated_materials
from trainer.materials.material_shapes import MATERIALS, Cloud, Spindle, draw_batch
from trainer.materials.simulated_materials import (
    FLAWS,
    TABLE,
    DrawnFile,
    MaterialsError,
    draw_materials,
    read_drawn,
)

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["Al2O3", "CeO2", "MgO", "nanoparticles", "POF", "SiO2 nano-balls", "amorphous SiO2", "TiO2"]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[DrawnFile, ...]]:
    folder = tmp_path_factory.mktemp("materials") / "laboratory"
    return folder, draw_materials(folder, files_per_class=6, samples_per_class=2, size_px=128)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_class_folders_of_sample_folders_and_a_table_of_all(
    laboratory: tuple[Path, tuple[DrawnFile, ...]],
) -> None:
    folder, drawn = laboratory
    assert [path.name for path in sorted(folder.iterdir()) if path.is_dir()] == sorted(NAMES)
    assert {file.file for file in drawn} == contents(folder).keys() - {TABLE}
    assert read_drawn(folder) == drawn
    assert Counter(file.material for file in drawn) == dict.fromkeys(NAMES, 6)
    assert all(file.file.startswith(f"{file.material}/{file.sample}/") for file in drawn)
    assert len({file.sample for file in drawn}) == 16
    assert len({file.microscope for file in drawn}) == 6
    assert {file.flaw for file in drawn} == {"", *FLAWS}


def test_the_agent_reads_every_good_picture_with_its_microscope_and_time(
    laboratory: tuple[Path, tuple[DrawnFile, ...]],
) -> None:
    folder, drawn = laboratory
    for file in (file for file in drawn if not file.flaw):
        seen = read_micrograph(folder / file.file)
        assert seen.pixels.shape == (128, 128)
        assert seen.pixels.std() > 0
        assert seen.pixel_size_nm is not None
        assert seen.instrument.device == file.microscope
        assert seen.acquired is not None
        assert f"{seen.acquired:%Y-%m-%d}" == file.session


@pytest.mark.parametrize("flaw", ["spectrum", "diffraction"])
def test_what_is_no_image_is_none(laboratory: tuple[Path, tuple[DrawnFile, ...]], flaw: str) -> None:
    folder, drawn = laboratory
    file = next(file for file in drawn if file.flaw == flaw)
    with pytest.raises(NotAnImage, match=flaw):
        read_micrograph(folder / file.file)


@pytest.mark.parametrize("flaw", ["re-saved", "tilted"])
def test_a_repeated_picture_looks_like_the_one_it_repeats(
    laboratory: tuple[Path, tuple[DrawnFile, ...]], flaw: str
) -> None:
    folder, drawn = laboratory
    file = next(file for file in drawn if file.flaw == flaw)
    small = []
    for name in (file.file, file.base):
        pixels = np.asarray(read_micrograph(folder / name).pixels, np.float32)
        pixels = np.clip(pixels, *np.percentile(pixels, (1, 99)))  # X-ray hits outshine everything
        small.append(
            np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX), np.float32).ravel()
        )
    assert np.corrcoef(small)[0, 1] > 0.6
    assert (folder / file.file).read_bytes() != (folder / file.base).read_bytes()


def test_an_interrupted_drawing_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    numbers = {"files_per_class": 2, "samples_per_class": 1, "size_px": 128, "seed": 5}

    def stop(_: str, done: int, __: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_materials(tmp_path / "a", **numbers, progress=stop)  # type: ignore[arg-type]
    assert len(contents(tmp_path / "a")) == 6
    seen: list[tuple[str, int, int]] = []
    draw_materials(tmp_path / "a", **numbers, progress=lambda *step: seen.append(step))  # type: ignore[arg-type]
    assert seen[-1] == ("files drawn", 16, 16)
    draw_materials(tmp_path / "b", **numbers)  # type: ignore[arg-type]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("numbers", "there", "message"),
    [
        pytest.param(
            {"files_per_class": 1, "samples_per_class": 2}, "", "at least a file a sample", id="samples"
        ),
        pytest.param({"size_px": 64}, "", "at least 128 px", id="too small"),
        pytest.param({"samples_per_class": 0}, "", "at least a file a sample", id="none"),
        pytest.param({}, "thesis.tex", "is not empty; give a new folder", id="a folder of others"),
        pytest.param({"seed": 1}, TABLE, "holds other simulated materials", id="other materials"),
    ],
)
def test_what_cannot_be_drawn(tmp_path: Path, numbers: dict[str, int], there: str, message: str) -> None:
    folder = tmp_path / "laboratory"
    if there:
        folder.mkdir()
        (folder / there).write_text("mine")
    with pytest.raises(MaterialsError, match=message):
        draw_materials(folder, **{"files_per_class": 2, "samples_per_class": 1, "size_px": 128, **numbers})
    assert not list(folder.rglob("*.dm3"))


@pytest.mark.parametrize("material", MATERIALS, ids=lambda material: material.name)
@pytest.mark.parametrize("seed", range(3))
def test_particles_lie_on_the_field_at_sizes_that_can_be_seen(material: object, seed: int) -> None:
    assert isinstance(material, simulated_materials.Material)
    rng = np.random.default_rng(seed)
    batch = draw_batch(rng)
    laid = material.lay(rng, batch, 60.0, 512)
    inside = [
        p for p in laid if -p.reach_px < p.x_px < 512 + p.reach_px and -p.reach_px < p.y_px < 512 + p.reach_px
    ]
    assert len(inside) >= 3
    assert all(p.reach_px > 2 and p.opacity > 0 for p in laid)


def test_a_spindle_narrows_to_both_tips_and_a_cloud_ends_where_its_map_does() -> None:
    x = np.linspace(-4, 4, 9, dtype=np.float32)[None, :]
    row = Spindle(4.0, 2.0).thickness(x, np.zeros((1, 1), np.float32), 0.01)[0]
    assert row[4] == pytest.approx(2.0)
    assert row[0] == row[8] == 0
    assert np.all(np.diff(row[:5]) > 0)
    map_ = np.full((8, 8), -1, np.float32)
    map_[3:5, 3:5] = 4
    thick = Cloud(map_, softness=0.0).thickness(*np.meshgrid(x[0] / 4, x[0] / 4), 0.1)
    assert thick.max() == pytest.approx(2.0, abs=0.5)
    assert thick[0].max() == thick[:, 0].max() == thick[-1].max() == 0
