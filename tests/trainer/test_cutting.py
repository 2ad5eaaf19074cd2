"""One file to its cached crops: their shape, and what happens when the disk or a process fails."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_agent.preprocessing import Preprocessing
from edge_agent.simulation import dm3_bytes, draw_field
from trainer.preparing import cutting
from trainer.preparing.cutting import CutFile, CutPlan, agent_modules, cached_shape, cut_files
from trainer.preparing.split import PrepareError


def plan(raw: Path, out: Path, cache_px: int = 32, **rule) -> CutPlan:
    return CutPlan(raw, out, Preprocessing(**rule), cache_px)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four pictures with structure."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for at in range(4):
        pixels = np.add.outer(np.arange(40), np.arange(40)).astype(np.uint8) * (at + 1)
        Image.fromarray(pixels).save(folder / f"{at}.png")
    return folder


@pytest.mark.parametrize(
    ("box_px", "pixel_size_nm", "expected"),
    [
        pytest.param((0, 0, 400, 400), None, (64, 64), id="square"),
        pytest.param((0, 0, 400, 100), None, (32, 128), id="wide"),
        pytest.param((100, 0, 200, 400), None, (128, 32), id="a high box beside the edge"),
        pytest.param((0, 0, 40, 20), None, (20, 40), id="smaller than the cache: not enlarged"),
        pytest.param((0, 0, 400, 400), (2.0, 0.5), (128, 32), id="oblong pixels: the specimen's proportions"),
        pytest.param((0, 0, 40, 40), (2.0, 0.5), (80, 20), id="oblong pixels, not enlarged in area"),
        pytest.param((0, 0, 20000, 2), None, (1, 2048), id="a strip ends at the longest side"),
    ],
)
def test_cached_shape(tmp_path, box_px, pixel_size_nm, expected):
    assert cached_shape(box_px, pixel_size_nm, plan(tmp_path, tmp_path, cache_px=64)) == expected


def test_the_agents_modules_that_decide_the_pixels_are_found():
    modules = agent_modules()
    assert {"micrograph", "dm_file", "picture_file", "preprocessing", "files"} <= set(modules)
    assert not {"classifier", "watcher", "cli"} & set(modules)


def test_answers_come_in_the_order_of_the_question(raw, tmp_path):
    sources = ["3.png", "0.png", "2.png", "1.png"]
    assert [cut.source for cut in cut_files(sources, plan(raw, tmp_path / "out"), workers=2)] == sources


def test_nothing_to_cut_is_no_error(raw, tmp_path):
    seen: list[tuple[int, int]] = []
    assert cut_files([], plan(raw, tmp_path / "out"), lambda *counts: seen.append(counts)) == ()
    assert seen == [(0, 0)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_nothing_is_one_clear_message(raw, tmp_path, workers):
    out = tmp_path / "out"
    out.mkdir()
    (out / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(PrepareError) as refused:
        cut_files(["0.png", "1.png"], plan(raw, out), workers=workers)
    assert str(refused.value).startswith(f"{out / 'cache'}")
    assert "cannot be written (" in str(refused.value)
    assert str(refused.value).endswith(
        "make room there or choose another folder, then run the command again: it goes on where it stopped"
    )


def test_no_half_written_file_is_left(raw, tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as handle:
            handle.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PrepareError, match=r"cannot be written \(No space left on device\)"):
        cut_files(["0.png"], plan(raw, tmp_path / "out"), workers=1)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"source": "1.png"}'], ids=["empty", "torn", "about another file"]
)
def test_a_damaged_memory_is_made_again(raw, tmp_path, text):
    done = plan(raw, tmp_path / "out")
    first = cut_files(["0.png"], done)
    records = list((tmp_path / "out" / "cache" / "found").rglob("*.json"))
    assert len(records) == 1
    records[0].write_bytes(text)
    assert cut_files(["0.png"], done) == first
    assert records[0].read_bytes() != text


def test_a_missing_file_is_an_answer(raw, tmp_path):
    (cut,) = cut_files(["gone.png"], plan(raw, tmp_path / "out"))
    assert (cut.reason, cut.crops) == ("unreadable: No such file or directory", ())


class Deadly(type(Path())):
    """A folder name that ends every process to which it is handed, as a crashing decoder does."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_dies_names_the_files_it_had(raw, tmp_path):
    with pytest.raises(PrepareError) as refused:
        cut_files(["0.png", "1.png"], plan(Deadly(raw), tmp_path / "out"), workers=2)
    assert str(refused.value) == (
        f"{raw}: a process died while it examined one of: 0.png, 1.png. Either memory ran out (use fewer "
        "workers) or a file kills its decoder (move it away); run the command again, it goes on"
    )


@pytest.fixture
def barred(tmp_path: Path) -> Path:
    """A picture of 200 x 160 px with a black info bar of its lower 16 rows."""
    folder = tmp_path / "barred"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(90, 120, (200, 160)).astype(np.uint8)
    pixels[60:110, 40:120] = 250
    pixels[-16:] = 0
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def test_what_was_measured_is_kept_with_the_cut(barred, tmp_path):
    (cut,) = cut_files(["a.png"], plan(barred, tmp_path / "out"))
    assert cut.measures.info_bar_fraction == 0.08
    assert (cut.acquired, cut.microscope, cut.near, cut.note) == ("", "", "", "")
    assert CutFile.model_validate_json(cut.model_dump_json()) == cut


def test_time_and_microscope_come_from_the_file(tmp_path):
    (tmp_path / "raw").mkdir()
    field = draw_field("round", np.random.default_rng(0), 128)
    when = datetime(2024, 3, 1, 12, 30, tzinfo=UTC)
    (tmp_path / "raw" / "a.dm3").write_bytes(dm3_bytes(field, acquired=when))
    (cut,) = cut_files(["a.dm3"], plan(tmp_path / "raw", tmp_path / "out"))
    assert (cut.acquired, cut.microscope) == ("2024-03-01T12:30:00+00:00", "Simulated camera")


@pytest.mark.parametrize(
    ("info_bars", "box_px", "shape"),
    [
        pytest.param("keep", (0, 0, 160, 200), (36, 29), id="kept"),
        pytest.param("crop", (0, 0, 160, 184), (34, 30), id="cropped away"),
    ],
)
def test_an_info_bar_can_be_cropped_away(barred, tmp_path, info_bars, box_px, shape):
    asked = replace(plan(barred, tmp_path / "out"), info_bars=info_bars)
    (cut,) = cut_files(["a.png"], asked)
    assert cut.shape_px == (200, 160)
    assert cut.crops[0].box_px == box_px
    pixels = np.load(tmp_path / "out" / cut.crops[0].cached)
    assert pixels.shape == shape
    assert (pixels[-2:].max() == 0) == (info_bars == "keep")


def test_kept_and_cropped_info_bars_do_not_share_a_memory(barred, tmp_path):
    kept = plan(barred, tmp_path / "out")
    first = cut_files(["a.png"], kept)
    assert cut_files(["a.png"], replace(kept, info_bars="crop")) != first
    assert cut_files(["a.png"], kept) == first


def test_the_overview_shows_the_field_without_its_info_bar(barred, tmp_path):
    (cut,) = cut_files(["a.png"], plan(barred, tmp_path / "out"))
    overview = np.load(tmp_path / "out" / cut.overview.cached)
    assert overview.shape == (172, 149)
    assert cut.overview.box_px == (0, 0, 160, 184)
    assert overview[-1].mean() > 10


def test_a_lost_overview_is_made_again(barred, tmp_path):
    asked = plan(barred, tmp_path / "out")
    (cut,) = cut_files(["a.png"], asked)
    (tmp_path / "out" / cut.overview.cached).unlink()
    assert cut_files(["a.png"], asked) == (cut,)
    assert (tmp_path / "out" / cut.overview.cached).stat().st_size == cut.overview.cached_bytes


def test_a_blank_field_has_neither_measures_nor_overview(tmp_path):
    (tmp_path / "raw").mkdir()
    Image.fromarray(np.full((120, 120), 7, np.uint8)).save(tmp_path / "raw" / "a.png")
    (cut,) = cut_files(["a.png"], plan(tmp_path / "raw", tmp_path / "out"))
    assert (cut.reason, cut.measures, cut.overview) == ("blank field", None, None)


def test_other_code_remembers_nothing(barred, tmp_path, monkeypatch):
    asked = plan(barred, tmp_path / "out")
    cut_files(["a.png"], asked)
    monkeypatch.setattr("trainer.preparing.cutting._OWN_CODE", ("cutting", "quality"))
    cutting._code.cache_clear()
    try:
        cut_files(["a.png"], asked)
    finally:
        cutting._code.cache_clear()
    assert len(list((tmp_path / "out" / "cache" / "found").rglob("*.json"))) == 2
