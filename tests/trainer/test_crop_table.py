"""The data set folder: what was saved is what is loaded, and whatever was touched is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.preprocessing import Preprocessing
from trainer.preparing.crop_table import (
    Crop,
    DataSet,
    fingerprint_of,
    load_dataset,
    load_pixels,
    save,
    summary,
)
from trainer.preparing.quality import Measures
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import PrepareError, SplitRule

if TYPE_CHECKING:
    from pathlib import Path


def crop(at: int, label: str, part: str, **changes) -> Crop:
    made = Crop(
        crop_id=f"{at:016x}",
        source=f"{label}/{at}.dm3",
        sha256=f"{at:064x}",
        label=label,
        group=f"session {at // 2}",
        box_px=(0, 0, 64, 48),
        shape_px=(48, 64),
        pixel_size_nm=(0.1 + at, 1 / 3),
        part=part,
        kept=True,
        reason="",
        cached=f"cache/pixels/{at}.npy",
    )
    return replace(made, **changes)


DROPPED = {"kept": False, "cached": "", "pixel_size_nm": None}
CROPS = (
    crop(0, "rod", "train"),
    crop(1, "rod", "train"),
    crop(2, "rod", "test", pixel_size_nm=None, sha256=None),
    crop(3, "rod", "", reason="unreadable: ends too early", shape_px=(0, 0), box_px=(0, 0, 0, 0), **DROPPED),
    crop(4, "round", "train"),
    crop(6, "round", "validation"),
    crop(7, "round", "", reason="blank field", **DROPPED),
)


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    rule = Preprocessing()
    made = DataSet(
        root=tmp_path / "out",
        labels=("rod", "round"),
        crops=CROPS,
        preprocessing=rule,
        raw=tmp_path / "raw",
        seed=3,
        fingerprint=fingerprint_of(("rod", "round"), CROPS, rule, 448),
        split=SplitRule(by="folder"),
        cache_px=448,
        notes=("one thing to know",),
    )
    save(made)
    return made


def test_what_was_saved_is_loaded(dataset):
    assert load_dataset(dataset.root) == dataset


MEASURED = Measures(0.0123456, 40.5, 12, 0.3, 1e-06, 0.0, 0.08, 0.0)


def test_what_screening_found_is_loaded(dataset):
    told = replace(
        CROPS[0], acquired="2024-03-01T12:30:00+00:00", microscope="Titan, \"2\"\nnew", measures=MEASURED,
        near="rod/1.dm3", note="info bar: burnt in, 8% of the height",
    )  # fmt: skip
    asked = replace(dataset, crops=(told, *CROPS[1:]), screening=ScreeningRule(least_sharpness=0.1))
    save(asked)
    assert load_dataset(dataset.root) == asked


def test_screening_does_not_change_the_fingerprint(dataset):
    told = replace(CROPS[0], acquired="2024", microscope="Titan", measures=MEASURED, near="x", note="y")
    again = fingerprint_of(dataset.labels, (told, *CROPS[1:]), dataset.preprocessing, dataset.cache_px)
    assert again == dataset.fingerprint


def test_the_fingerprint_is_that_of_earlier_versions(dataset):
    assert dataset.fingerprint == "9766c57e98b56de20dcb7f370ad2f4b7491a115b7a8848ab8cc3973b9b9bb3be"


def test_a_data_set_of_an_earlier_version_is_loaded(dataset):
    """Their table ends with the column `cached`, and they know no screening."""
    table, rest = dataset.root / "dataset.csv", dataset.root / "dataset.json"
    rows = list(csv.reader(table.read_text(encoding="utf-8-sig").splitlines()))
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(row[: rows[0].index("cached") + 1] for row in rows)
    values = json.loads(rest.read_text(encoding="utf-8"))
    del values["screening"]
    rest.write_text(json.dumps(values), encoding="utf-8")
    assert load_dataset(dataset.root) == dataset


def test_a_data_set_can_be_moved(dataset, tmp_path):
    moved = shutil.copytree(dataset.root, tmp_path / "elsewhere")
    assert load_dataset(moved) == replace(dataset, root=moved)


def test_parts_hold_kept_crops_only(dataset):
    assert dataset.kept == (*CROPS[:3], *CROPS[4:6])
    assert dataset.train == (CROPS[0], CROPS[1], CROPS[4])
    assert (dataset.validation, dataset.test) == ((CROPS[5],), (CROPS[2],))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"reason": "blurred", "kept": False}, False, id="a crop less"),
        pytest.param({"part": "test"}, False, id="part"),
        pytest.param({"label": "round"}, False, id="label"),
        pytest.param({"group": "other"}, False, id="group"),
        pytest.param({"cached": "cache/pixels/x.npy"}, False, id="pixels"),
        pytest.param({"box_px": (0, 0, 32, 48)}, False, id="box"),
        pytest.param({}, True, id="nothing"),
    ],
)
def test_the_fingerprint_is_of_what_is_learnt(dataset, change, same):
    crops = (replace(CROPS[0], **change), *CROPS[1:])
    again = fingerprint_of(dataset.labels, crops, dataset.preprocessing, dataset.cache_px)
    assert (again == dataset.fingerprint) is same


def test_the_fingerprint_does_not_depend_on_dropped_files_or_places(dataset):
    kept = [one for one in CROPS if one.kept]
    assert fingerprint_of(dataset.labels, kept, dataset.preprocessing, 448) == dataset.fingerprint
    assert fingerprint_of(dataset.labels, kept, Preprocessing(input_px=224), 448) != dataset.fingerprint


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        pytest.param(
            "dataset.json", None, "has no dataset.json, so it is no finished data set; run `edge-trainer",
            id="no json",
        ),
        pytest.param(
            "dataset.csv", None, "has no dataset.csv, so it is no finished data set; run `edge-trainer",
            id="no csv",
        ),
        pytest.param("dataset.json", ("{", "["), "is no data set (", id="no json inside"),
        pytest.param("dataset.json", ("dataset/1", "dataset/2"), "is no data set (", id="another version"),
        pytest.param("dataset.csv", ("crop_id", "id"), "is no data set (", id="a column is gone"),
        pytest.param("dataset.csv", ("validation", "spare"), "is no data set (", id="a part that is none"),
        pytest.param("dataset.csv", ("48,64,0.1", "x,64,0.1"), "is no data set (", id="no number"),
        pytest.param(
            "dataset.csv", ("validation", "train"),
            "does not match dataset.json: it was edited, or `edge-trainer prepare` was interrupted "
            "while it wrote; run that again",
            id="edited",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_was_touched_is_refused(dataset, file, damage, message):
    path = dataset.root / file
    if damage is None:
        path.unlink()
    else:
        text = path.read_text(encoding="utf-8")
        assert damage[0] in text
        path.write_text(text.replace(*damage, 1), encoding="utf-8")
    with pytest.raises(PrepareError) as refused:
        load_dataset(dataset.root)
    assert str(refused.value).startswith(str(dataset.root))
    assert message in str(refused.value)


def test_pixels_are_read_only(dataset):
    (dataset.root / "cache" / "pixels").mkdir(parents=True)
    np.save(dataset.root / "cache" / "pixels" / "0.npy", np.full((3, 4), 7, np.uint8))
    pixels = load_pixels(dataset, CROPS[0])
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((3, 4), np.uint8, False)


@pytest.mark.parametrize(
    ("index", "content", "message"),
    [
        pytest.param(0, None, "No such file or directory", id="gone"),
        pytest.param(0, b"", "No data left in file", id="empty"),
        pytest.param(0, np.zeros((2, 2), np.float32), "holds float32 (2, 2)", id="another type"),
        pytest.param(0, np.array([{}], dtype=object), "allow_pickle=False", id="a pickle"),
        pytest.param(6, None, "round/7.dm3 was dropped (blank field)", id="a dropped crop"),
    ],
)
def test_pixels_that_are_gone_are_one_clear_message(dataset, index, content, message):
    path = dataset.root / CROPS[0].cached
    path.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(PrepareError) as refused:
        load_pixels(dataset, CROPS[index])
    assert message in str(refused.value)
    assert str(refused.value).endswith("run `edge-trainer prepare` again")


def test_a_folder_that_cannot_be_written_is_one_clear_message(dataset, tmp_path):
    (tmp_path / "file").write_text("-", encoding="utf-8")
    with pytest.raises(PrepareError) as refused:
        save(replace(dataset, root=tmp_path / "file"))
    assert str(refused.value) == (
        f"{tmp_path / 'file'}: cannot be written (File exists); make room there or choose another folder, "
        "then run the command again"
    )


def test_a_leak_is_shouted(dataset):
    torn = replace(dataset, crops=(*CROPS[:1], replace(CROPS[1], part="test"), *CROPS[2:]))
    assert "LEAK: 1 of " in summary(torn)
    assert "a micrograph of the same group in train" in summary(torn)
    assert "no micrograph, content, near-duplicate or group stands in two parts" not in summary(torn)
    assert "no micrograph, content, near-duplicate or group stands in two parts" in summary(dataset)


def test_notes_and_neighbours_are_counted_once_a_file(dataset):
    told = {"note": "info bar: burnt in, 8% of the height; kept by override", "near": "rod/0.dm3"}
    crops = (replace(CROPS[0], **told), replace(CROPS[0], **told), replace(CROPS[1], **told), *CROPS[2:])
    text = summary(replace(dataset, crops=crops))
    assert "kept, with a note:\n       2  info bar\n       2  kept by override\n" in text
    assert "2 micrographs show about the same area as another (1 areas)" in text
    assert "note:" not in summary(replace(dataset, notes=()))
